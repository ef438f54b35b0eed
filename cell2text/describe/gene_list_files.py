"""Read files of ranked gene lists: one cell per line, as text, jsonl, a table with a column of genes, or GMT.

A file of text is one of gene lists if none of its first values is a number; a matrix of counts has numbers from its
second line on. Nothing here knows the model's genes.
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath

import fsspec

from cell2text.errors import UserError
from cell2text.sources.lines import bounded_lines


TEXT_SUFFIXES, LIST_SUFFIXES = (".txt", ".csv", ".tsv"), (".jsonl", ".gmt")
GENE_KEYS = ("genes", "cell_sentence")  # columns and keys of the genes
NAME_KEYS = ("cell_id", "name", "barcode")  # columns and keys of the cell's name
N_LINES = 5  # read to recognise a file
_SEPARATORS = re.compile(r"[\s,;]+")


def is_gene_list_file(path: str | os.PathLike) -> bool:
    """Return whether a path or address names a file of ranked gene lists; False for one that does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "lists.txt").write_text("CD3D CD3E TRAC\\n")
    >>> _ = (folder / "counts.csv").write_text(",CD3D,CD3E\\ncell1,0,3\\n")
    >>> is_gene_list_file(folder / "lists.txt"), is_gene_list_file(folder / "counts.csv")
    (True, False)
    """
    suffix = _suffix(path)
    if suffix not in (*TEXT_SUFFIXES, *LIST_SUFFIXES):
        return False
    fs, inner = fsspec.core.url_to_fs(os.fspath(path))
    if not fs.isfile(inner):
        return False
    if suffix in LIST_SUFFIXES:
        return True
    try:
        with _open_text(path) as lines:
            first = list(islice(filter(str.strip, bounded_lines(lines, str(path))), N_LINES))
    except (OSError, EOFError, UnicodeDecodeError):
        return False
    values = [value for line in (first[1:] or first) for value in _SEPARATORS.split(line.strip())[1:]]
    return bool(first) and not any(map(_is_number, values))


def read_gene_lists(path: str | os.PathLike) -> tuple[list[str], list[list[str]]]:
    """Read the names and the ranked genes of all cells of a file.

    Parameters
    ----------
    path
        Path or address, with `.gz` or without. `.txt`, `.csv`, `.tsv`: one cell per line, genes separated by blanks,
        tabs, commas or semicolons; a name may stand before a colon, or before a tab if blanks or commas separate the
        genes; or a table with a header that names a column `genes` or `cell_sentence`. `.jsonl`: one object per line
        with `genes` or `cell_sentence`, a list or a text. `.gmt`: name, description and genes, separated by tabs.

    Returns
    -------
    Names, `cell_1`, `cell_2`, ... by line where the file has none, and one list of gene names per cell.

    Raises
    ------
    UserError
        If the file cannot be read, holds no list, or a line is not of the expected form.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "lists.txt")
    >>> _ = path.write_text("T cell: CD3D CD3E\\nCD79A,MS4A1\\n")
    >>> read_gene_lists(path)
    (['T cell', 'cell_2'], [['CD3D', 'CD3E'], ['CD79A', 'MS4A1']])
    """
    parse = {".jsonl": _parse_json, ".gmt": _parse_gmt}.get(_suffix(path), _parse_text)
    try:
        with _open_text(path) as lines:
            cells = [
                (name or f"cell_{number}", genes)
                for number, name, genes in parse(bounded_lines(lines, str(path), kept=True))
            ]
    except _LineError as error:
        raise UserError(f"{path}, {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Cannot read gene lists from {path}: {error}.") from error
    if not cells:
        raise UserError(f"{path} holds no gene list. Expected one cell per line, highest gene first.")
    return [name for name, _ in cells], [genes for _, genes in cells]


class _LineError(ValueError):
    """A line is not of the expected form."""

    def __init__(self, number: int, line: str, expected: str):
        super().__init__(f"line {number}: expected {expected}, found {line.strip()[:60]!r}.")


def _parse_text(lines: Iterator[str]) -> Iterator[tuple[int, str, list[str]]]:
    header = next(lines, "")
    keys = [value.strip().lower() for value in re.split(r"[\t,]", header)]
    if len(keys) > 1 and set(keys) & set(GENE_KEYS):
        reader = csv.DictReader(lines, keys, delimiter="\t" if "\t" in header else ",")
        for number, row in enumerate(reader, start=2):
            yield number, _first(row, NAME_KEYS), _split(_first(row, GENE_KEYS))
        return
    for number, line in enumerate((header, *lines), start=1):
        if line.strip():
            yield number, *_named_line(line.strip())


def _named_line(line: str) -> tuple[str, list[str]]:
    """Return the name before a colon, or before a tab if other characters separate the genes, and the genes."""
    for separator in (":", "\t"):
        name, found, rest = line.partition(separator)
        if found and (separator == ":" or (_SEPARATORS.search(rest.strip()) and "\t" not in rest)):
            return name.strip().strip('"'), _split(rest)
    return "", _split(line)


def _parse_gmt(lines: Iterator[str]) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, *rest = line.strip().split("\t")
            if len(rest) < 2:
                raise _LineError(number, line, "name, description and genes separated by tabs")
            yield number, name, [gene.strip() for gene in rest[1:] if gene.strip()]


def _parse_json(lines: Iterator[str]) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        genes = _first(row, GENE_KEYS) if isinstance(row, dict) else row
        if not isinstance(genes, (str, list)) or not genes:
            raise _LineError(number, line, f"an object with the key {' or '.join(GENE_KEYS)}, or a list of genes")
        name = str(_first(row, NAME_KEYS)) if isinstance(row, dict) else ""
        yield number, name, _split(genes) if isinstance(genes, str) else genes


def _first(row: dict, keys: tuple[str, ...]):
    """Return the first value that is present, an empty text if there is none."""
    return next((row[key] for key in keys if row.get(key)), "")


def _split(text: str) -> list[str]:
    values = (value.strip("\"'[]()") for value in _SEPARATORS.split(text))
    return [value for value in values if value]


def _is_number(value: str) -> bool:
    try:
        float(value.strip('"'))
    except ValueError:
        return False
    return value.strip('"').lower() not in ("nan", "inf", "infinity")  # float() reads these words


def _suffix(path: str | os.PathLike) -> str:
    return PurePosixPath(os.fspath(path).lower().removesuffix(".gz")).suffix


def _open_text(path: str | os.PathLike) -> fsspec.core.OpenFile:
    return fsspec.open(os.fspath(path), "rt", compression="infer", encoding="utf-8-sig")
