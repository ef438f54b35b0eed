"""`accelerate launch -m cell2text.describe INPUT --model M --out FILE`: the command on many processes."""

import sys

from cell2text.cli import run


if __name__ == "__main__":
    sys.argv[1:1] = ["describe"]
    run()
