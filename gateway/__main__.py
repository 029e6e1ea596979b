"""`python -m gateway …` and the `tollkeeper` command: hands the arguments to the command line."""

from __future__ import annotations

from gateway.cli import cli


def main() -> None:
    cli.main()


if __name__ == "__main__":
    main()
