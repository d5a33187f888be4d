"""The command line, started: `splatgate` and `python -m app`."""

from app.commands.main import main

if __name__ == "__main__":
    main(prog_name="splatgate")
