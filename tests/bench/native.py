"""The C programs of the benchmarks, compiled when they are needed."""

import subprocess
from pathlib import Path

from tests.bench.processes import find_program

_HERE = Path(__file__).parent


def compile_program(name: str, directory: Path) -> str:
    """The path of `echo`, `load` or `forge`, compiled into that directory.

    Raises:
        RuntimeError: with what the compiler says.
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
