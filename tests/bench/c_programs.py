"""Compiles the C programs of the benchmarks when they are needed."""

import subprocess
from pathlib import Path

from tests.bench.processes import find_program

_HERE = Path(__file__).parent


def compile_program(name: str, directory: Path) -> str:
    """Compile `echo`, `load` or `forge` into a directory and return the path of the program.

    Raises:
        RuntimeError: there is no compiler, or it failed.
    """
    compiler = find_program("cc") or find_program("gcc")
    made = directory / name
    if compiler is None:
        raise RuntimeError(
            "there is no C compiler: install it (Debian and Ubuntu: apt install gcc libc6-dev)"
        )
    command = [compiler, "-O2", "-o", str(made), str(_HERE / f"{name}.c")]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode != 0:
        raise RuntimeError(f"{name}.c cannot be compiled: {ran.stdout.strip()}")
    return str(made)
