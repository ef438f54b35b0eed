"""The documentation: `sphinx-build -W -b html docs docs/_build`."""

import subprocess
import sys
from pathlib import Path


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

project = "Cell2Text"
author = "The Cell2Text authors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build", "execute.py"]
html_theme = "furo"
html_title = "Cell2Text"
nb_execution_mode = "off"  # the tutorial is executed by docs/execute.py and kept with its output
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give types and shapes
napoleon_custom_sections = ["Returns"]  # they are sentences
napoleon_use_rtype = False


def write_command_line(_app) -> None:
    """The page of the command line, from its own help."""
    command = [sys.executable, "-m", "typer", "cell2text.cli", "utils", "docs", "--name", "cell2text"]
    page = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent).stdout
    page = page.replace("# `cell2text`", "# Command line", 1)
    (HERE / "api" / "cli.md").write_text(page.replace("```console", "```text"), encoding="utf-8")


def remove_markdown_fences(_app, _what, _name, _object, _options, lines: list[str]) -> None:
    """The Hub files fence their examples as transformers does; Sphinx reads the lines that start with `>>>` itself."""
    lines[:] = [line for line in lines if not line.strip().startswith("```")]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", remove_markdown_fences, priority=100)  # before napoleon
    app.connect("builder-inited", write_command_line)
