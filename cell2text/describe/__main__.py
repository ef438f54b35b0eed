"""Run `cell2text describe` on many processes: `accelerate launch -m cell2text.describe INPUT --out FILE`."""

import runpy
import sys


if __name__ == "__main__":
    sys.argv[1:1] = ["describe"]
    runpy.run_module("cell2text", run_name="__main__")
