"""Read yaml files of options whose aliases may repeat each other without end. Depends on yaml, where it is used."""

import os
from pathlib import Path
from typing import Any

from cell2text.errors import UserError
from cell2text.paths import check_readable
from errors_cell2text import excess


MAX_BYTES = 1_000_000
MAX_VALUES = 1_000_000  # with every alias replaced by what it names
MAX_WORDS = 300  # characters of a library's message that are shown


def read_yaml(path: str | os.PathLike) -> Any:
    """Read a yaml file of plain values.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    UserError
        If it cannot be read, or is larger than the ceilings `YAML_BYTES` and `YAML_VALUES`.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "options.yaml")
    >>> _ = file.write_text("split: donor")
    >>> read_yaml(file)
    {'split': 'donor'}
    """
    import yaml

    check_readable(path)
    try:
        if reason := excess("YAML_BYTES", os.path.getsize(path), MAX_BYTES):
            raise UserError(f"{path} has {os.path.getsize(path):,} bytes, {reason}.")
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        values = 0 if node is None else _count_values(node, {})
        if reason := excess("YAML_VALUES", values, MAX_VALUES):
            raise UserError(f"{path} repeats its aliases to {values:,} values, {reason}.")
        return None if node is None else loader.construct_document(node)
    except UserError:
        raise
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"Cannot read the configuration {path}: {' '.join(str(error).split())[:MAX_WORDS]}") from error


def _count_values(node, known: dict[int, int]) -> int:
    """Return the number of values of a node of yaml, with its aliases replaced by what they name.

    Raises
    ------
    ValueError
        If the node holds itself.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("a value holds itself")
        return known[id(node)]
    known[id(node)] = 0
    children = node.value if isinstance(node.value, list) else []
    parts = (part for child in children for part in (child if isinstance(child, tuple) else (child,)))
    known[id(node)] = 1 + sum(_count_values(part, known) for part in parts)
    return known[id(node)]
