"""Run the tutorial from its first cell to its last.

python docs/execute.py                          # in the project's folder: docs/tutorial.ipynb with its output
python docs/execute.py --out done.ipynb         # or into another file
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient


TUTORIAL = Path(__file__).resolve().parent / "tutorial.ipynb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TUTORIAL)
    args = parser.parse_args()
    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": "."}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if "outputs" in cell:  # progress bars and the libraries' words about themselves are not the tutorial's
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
