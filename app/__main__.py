"""The entry point of `splatgate` and `python -m app`."""

import sys


def main() -> None:
    try:
        from app.commands.main import main as run

        run(prog_name="splatgate")
    except KeyboardInterrupt:  # while the commands are imported
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
