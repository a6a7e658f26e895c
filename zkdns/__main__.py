"""Entry point of the command `zkdns` and of `python -m zkdns`."""

from __future__ import annotations

import sys

_FAILED = 5  # `ExitStatus.FAILED`, which cannot be imported if click is missing


def main() -> None:
    """Run the command. If a package is missing, name the extra that installs it and exit."""
    try:
        from zkdns.cli import main as run  # noqa: PLC0415 - it imports packages that may be missing

        run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "zkdns", *sys.stdlib_module_names}:
            raise
        sys.stderr.write(
            f"zkdns: the command zkdns needs the Python package {package}, which is not installed: "
            "pip install 'zkdns[server]'\n"
        )
        sys.exit(_FAILED)


if __name__ == "__main__":
    main()
