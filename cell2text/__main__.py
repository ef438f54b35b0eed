"""Run the command line with `python -m cell2text`, the same as the command `cell2text`."""

from cell2text.cli import run


if __name__ == "__main__":
    run()
