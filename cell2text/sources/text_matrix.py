"""Read matrices of counts from delimited text: csv, tsv and txt, in either orientation.

`numpy.loadtxt` converts blocks of lines to numbers, and each block becomes sparse before the next one is read.
"""

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain, islice

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.sources.ceilings import check_names
from cell2text.sources.checks import BadFileError
from cell2text.sources.discovery import SourceLocation
from cell2text.sources.gene_names import share_of_genes
from cell2text.sources.lines import bounded_lines
from cell2text.sources.market_matrix import open_text, smallest_exact


BLOCK_VALUES = 4_000_000
MIN_SHARE_OF_GENES = 0.1
_SEPARATORS = ("\t", ",", ";", " ")
_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"')
_NOT_A_NUMBER = re.compile(r"could not convert string '(.*)' to float64 at row (\d+), column (\d+)", re.DOTALL)
_RAGGED = re.compile(r"columns changed from (\d+) to (\d+) at row (\d+)")
# Columns of metadata whose values are numbers.
_ANNOTATIONS = re.compile(
    r"n_?(counts?|genes?|umis?|features?)(_by_counts|_rna)?|total_(counts|umis?)|(percent|pct)[._](counts_)?(mt|mito\w*)|"
    r"(seurat_)?clusters?|leiden|louvain|batch|sample|donor|size_?factors?|(umap|tsne|pc)_?[12]|length|start|end",
    re.IGNORECASE,
)


def read_text_matrix(location: SourceLocation) -> tuple[ad.AnnData, str]:
    """Read a matrix with names in its first row and first column.

    The axis whose names are genes decides the orientation. Tab, comma, semicolon or space separate the values; the
    first cell of the header may be missing, as in files of R's `write.table`.

    Parameters
    ----------
    location
        Address of the text, compressed with gzip or not.

    Returns
    -------
    Cells x genes, CSR, and the orientation as a sentence.

    Raises
    ------
    BadFileError
        If a value is not a number, a column holds metadata, or the names of neither axis are genes.
    """
    with open_text(location.url, location.name) as raw:
        lines = _lines(location, raw)
        header, first = next(lines, ""), next(lines, "")
        separator = _find_separator(location, header, first)
        columns = _split(header, separator)
        corner = columns.pop(0) if len(columns) == len(_split(first, separator)) else ""
        _check_header(location, corner, columns)
        rows, counts = _read_blocks(location, chain([first], lines), separator, columns)
    _check_names(location, [*columns, *rows])
    return _orient(location, rows, columns, counts)


def _lines(location: SourceLocation, raw) -> Iterator[str]:
    """Yield the lines with content, without the line break."""
    start = raw.read(2)
    raw.seek(0)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise BadFileError(location.name, "is text in UTF-16. Save it as UTF-8.")
    text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace")
    for line in bounded_lines(text, location.name):
        if "\0" in line:
            raise BadFileError(location.name, "holds binary data instead of text.")
        if line.strip() and not line.startswith("# "):
            yield line.rstrip("\n")


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line.strip(" ")], delimiter=separator, skipinitialspace=True))


def _width(line: str, separator: str) -> int:
    try:
        return len(_split(line, separator))
    except csv.Error:  # a field of more than 131,072 characters: a long line, split by another separator
        return 1


def _find_separator(location: SourceLocation, header: str, line: str) -> str:
    """Return the separator that splits the header and the first line of values into most and fitting parts."""
    if not line:
        raise BadFileError(location.name, "has no lines of values: expected names in the first line and column.")
    check_names(max(text.count(one) for text in (header, line) for one in _SEPARATORS), f"{location.name}: a line")
    widths = {separator: (_width(header, separator), _width(line, separator)) for separator in _SEPARATORS}
    fitting = [separator for separator, (top, below) in widths.items() if below > 1 and below - top in (0, 1)]
    if not fitting:
        shown = ", ".join(f"{name!r}: {top:,} and {below:,}" for name, (top, below) in widths.items())
        raise BadFileError(
            location.name,
            f"is not a matrix: its first two lines have different numbers of fields (by separator {shown}).",
        )
    return max(fitting, key=lambda separator: widths[separator][1])


def _check_header(location: SourceLocation, corner: str, columns: list[str]) -> None:
    if share_of_genes([corner]) and all(re.fullmatch(r"-?[\d.]+", name) for name in columns):
        raise BadFileError(
            location.name, f"has no header: its first line starts with {corner!r} and numbers. Add names of the cells."
        )


def _read_blocks(
    location: SourceLocation, lines: Iterator[str], separator: str, columns: list[str]
) -> tuple[list[str], sp.csr_matrix]:
    """Return the names of the rows and their values."""
    rows: list[str] = []
    blocks = []
    step = max(1, BLOCK_VALUES // len(columns))
    while block := list(islice(lines, step)):
        names, values = zip(*(_cut_name(line, separator) for line in block))
        try:
            dense = np.loadtxt(
                values, delimiter=None if separator == " " else separator, ndmin=2, comments=None, quotechar='"'
            )
        except ValueError as error:
            raise BadFileError(location.name, _explain_value(str(error), names, columns)) from error
        if dense.shape != (len(names), len(columns)):
            raise BadFileError(
                location.name,
                f"has {dense.shape[1]:,} values in row {names[0]!r}, but the header names {len(columns):,} columns.",
            )
        rows += names
        blocks.append(sp.csr_matrix(smallest_exact(dense)))
    return rows, sp.vstack(blocks, format="csr")


def _cut_name(line: str, separator: str) -> tuple[str, str]:
    """Return the first field of a line, and the rest of the line."""
    quoted = _QUOTED.match(line)
    if quoted:
        return quoted[1].replace('""', '"'), line[quoted.end() + 1 :] or separator
    name, _, rest = line.strip(" ").partition(separator)
    return name.strip(), rest or separator


def _explain_value(message: str, names: tuple[str, ...], columns: list[str]) -> str:
    """Say which value of a matrix is not a number, and what to do."""
    ragged = _RAGGED.search(message)
    if ragged:
        row = names[min(int(ragged[3]) - 1, len(names) - 1)]
        return f"has {ragged[2]} values in row {row!r} after {ragged[1]} in the rows before. Is the file complete?"
    match = _NOT_A_NUMBER.search(message)
    if not match:
        return f"cannot be read as a matrix of numbers ({message.splitlines()[0][:200]})."
    value, row, number = match[1], names[int(match[2])], int(match[3]) - 1
    column = columns[number] if number < len(columns) else ""
    where = f"{value!r} in column {column!r}, row {row!r}"
    if re.fullmatch(r"-?\d+,\d+", value):
        return f"has decimal commas ({where}). Save it with decimal points."
    if value.strip().lower() in ("", "na", "n/a", "null", "none"):
        return f"has missing values ({where}). Counts are numbers: write 0 if nothing was counted."
    return (
        f"holds text among the counts ({where}). Keep one column and one row of names, and remove metadata such as "
        "cell types or gene descriptions."
    )


def _check_names(location: SourceLocation, names: list[str]) -> None:
    annotations = [name for name in names if _ANNOTATIONS.fullmatch(name)]
    if annotations:
        shown = ", ".join(annotations[:5])
        raise BadFileError(
            location.name, f"has {shown} among the genes and cells: metadata. Remove it, so that only counts are left."
        )


def _orient(
    location: SourceLocation, rows: list[str], columns: list[str], counts: sp.csr_matrix
) -> tuple[ad.AnnData, str]:
    """Return cells x genes and a note; the axis with more names of genes holds the genes."""
    shares = share_of_genes(rows), share_of_genes(columns)
    if max(shares) < MIN_SHARE_OF_GENES:
        raise BadFileError(
            location.name,
            f"neither its rows ({_shown(rows)}) nor its columns ({_shown(columns)}) are named by human or mouse genes: "
            "symbols or Ensembl ids are needed.",
        )
    if min(shares) > 0.5 and abs(shares[0] - shares[1]) < 0.2:
        raise BadFileError(
            location.name,
            f"both its rows ({_shown(rows)}) and its columns ({_shown(columns)}) are named by genes: expected one axis "
            "of cells.",
        )
    genes_in_rows = shares[0] > shares[1]
    genes, cells = (rows, columns) if genes_in_rows else (columns, rows)
    adata = ad.AnnData(
        sp.csr_matrix(counts.T) if genes_in_rows else counts,
        obs=pd.DataFrame(index=pd.Index(cells, dtype=object)),
        var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
    )
    axes = ("rows are genes", "columns are cells") if genes_in_rows else ("rows are cells", "columns are genes")
    return adata, f"Read as a matrix whose {axes[0]} ({len(rows):,}) and whose {axes[1]} ({len(columns):,})."


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
