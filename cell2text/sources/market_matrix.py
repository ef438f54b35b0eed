"""Read `matrix.mtx[.gz]` with the files that name its genes and cells: Cell Ranger, STARsolo, kallisto, GEO.

The header and the length of the file are checked before `scipy.io.mmread` allocates memory.
"""

import csv
import io
from pathlib import PurePosixPath

import anndata as ad
import fsspec
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from isal import igzip

from cell2text.paths import check_readable
from cell2text.sources.ceilings import MAX_NAMES, check_bytes, check_names
from cell2text.sources.checks import BadFileError
from cell2text.sources.discovery import SourceLocation
from cell2text.sources.file_kinds import GZIP_SIGNATURE, HEAD_BYTES, explain_content, mtx_companions
from errors_cell2text import ceiling, excess


BLOCK_BYTES = 1 << 20
BLANK_LINES = 1_000  # and headers that a table of names may have beside its names
SEPARATORS = (b"\n", b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x85", b"\t", b",")  # of lines and columns
MAX_COLUMNS = 32
MIN_ENTRY_BYTES = 6  # "1 1 1" and a line break
MAX_ENTRY_BYTES = 256  # comments and blank lines included
MAX_TABLE_BYTES = 1 << 30
BYTES_PER_ENTRY = 24  # of the matrix in memory: row, column and value


def read_10x_mtx(location: SourceLocation) -> tuple[ad.AnnData, str]:
    """Read a matrix and the names of its genes and cells.

    Parameters
    ----------
    location
        Address of the `.mtx` file. The files of genes and cells lie beside it.

    Returns
    -------
    Cells x features, and a note if the file is cells x genes instead of the usual genes x cells.

    Raises
    ------
    BadFileError
        If a file is missing or damaged, or if their sizes differ.
    """
    features, barcodes = companions(location)
    with open_text(location.url, location.name) as stream:
        sizes = _read_header(location, stream)
    most = min(max(sizes[:2]), ceiling("NAMES", MAX_NAMES))
    var, cells = _read_features(location, features, most), _read_barcodes(location, barcodes, most)
    transposed = sizes[:2] != (len(var), len(cells))
    if transposed and sizes[:2] != (len(cells), len(var)):
        raise BadFileError(
            location.name,
            f"the matrix is {sizes[0]:,} x {sizes[1]:,}, but {PurePosixPath(features).name} names {len(var):,} genes "
            f"and {PurePosixPath(barcodes).name} {len(cells):,} cells.",
        )
    check_names(max(sizes[:2]), f"{location.name}: the matrix")
    _check_length(location, sizes[2])
    check_bytes(BYTES_PER_ENTRY * sizes[2], f"{location.name}: the matrix")
    with open_text(location.url, location.name) as stream:
        counts = scipy.io.mmread(stream)
    counts = sp.csr_matrix(counts if transposed else counts.T)
    counts.data = smallest_exact(counts.data)
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    note = "The matrix is cells x genes, and is read so." if transposed else ""
    return ad.AnnData(counts, obs=obs, var=var), note


def open_text(url: str, name: str) -> io.BufferedIOBase:
    """Open a file for reading bytes, decompressed if its content is gzip whatever its name says.

    Raises
    ------
    BadFileError
        If the first bytes show that the file is something else: empty, a web page, an archive, an R object.
    """
    check_readable(url.removeprefix("file://"))
    file = fsspec.open(url, "rb").open()
    head = file.read(HEAD_BYTES)
    explanation = explain_content(head)
    if explanation:
        file.close()
        raise BadFileError(name, explanation)
    file.seek(0)
    return igzip.GzipFile(fileobj=file, mode="rb") if head.startswith(GZIP_SIGNATURE) else file


def smallest_exact(values: np.ndarray) -> np.ndarray:
    """Return values as float32 if that changes none of them, which halves the memory."""
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    return small if np.array_equal(small, values) else values


def companions(location: SourceLocation) -> tuple[str, str]:
    """Return the addresses of the tables of features and barcodes beside a `matrix.mtx`."""
    fs, path = fsspec.core.url_to_fs(location.url)
    paths = {PurePosixPath(name).name: name for name in fs.ls(fs._parent(path), detail=False)}
    features, barcodes = mtx_companions(paths, PurePosixPath(path).name)
    missing = [
        what for what, name in (("features.tsv or genes.tsv", features), ("barcodes.tsv", barcodes)) if name is None
    ]
    if features is None or barcodes is None:
        raise BadFileError(
            location.name,
            f"has no {' and no '.join(missing)} beside {PurePosixPath(path).name}: both are needed, with the same "
            "prefix, and may end in .gz.",
        )
    return fs.unstrip_protocol(paths[features]), fs.unstrip_protocol(paths[barcodes])


def _read_table(location: SourceLocation, url: str, most: int) -> list[list[str]]:
    """Return the lines of a table, split into columns; at most as many as the matrix has rows or columns."""
    name = PurePosixPath(url).name
    limit = ceiling("TABLE_BYTES", MAX_TABLE_BYTES)
    with open_text(url, f"{location.name}: {name}") as stream:
        content = stream.read(limit + 1)
    if reason := excess("TABLE_BYTES", len(content), MAX_TABLE_BYTES):
        raise BadFileError(location.name, f"{name} has more than {limit:,} bytes, {reason}.")
    parts = sum(map(content.count, SEPARATORS))
    if parts > MAX_COLUMNS * (most + BLANK_LINES):
        raise BadFileError(location.name, f"{name} has {parts:,} lines and columns, but the matrix names {most:,}.")
    lines = content.decode("utf-8-sig", "replace").splitlines()
    if ".csv" in name.lower():
        return [row for row in csv.reader(lines) if row]
    return [[part.strip('"') for part in line.split("\t")] for line in lines if line.strip()]


def _read_features(location: SourceLocation, url: str, most: int) -> pd.DataFrame:
    """Return `var`: symbols as index, and the columns `gene_ids` and `feature_types` if the file has them."""
    rows = _read_table(location, url, most)
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        raise BadFileError(location.name, f"{PurePosixPath(url).name} has lines of {sorted(widths)} columns.")
    columns = dict(zip(("id", "name", "feature_types", "chrom", "start", "end"), zip(*rows)))
    var = pd.DataFrame({"gene_ids": columns["id"]} | {key: columns[key] for key in list(columns)[2:]}, dtype=object)
    if len(columns) == 1:
        var = var.drop(columns="gene_ids")
    var.index = pd.Index(columns.get("name", columns["id"]), dtype=object)
    return var


def _read_barcodes(location: SourceLocation, url: str, most: int) -> list[str]:
    return [row[0] for row in _read_table(location, url, most)]


def _read_header(location: SourceLocation, stream) -> tuple[int, int, int]:
    """Return rows, columns and entries that a Matrix Market file declares."""
    first = stream.readline(HEAD_BYTES).decode("latin-1").lower().split()
    if first[:3] != ["%%matrixmarket", "matrix", "coordinate"] or first[3:4] not in (["integer"], ["real"]):
        shown = " ".join(first)[:60]
        raise BadFileError(
            location.name,
            f"starts with {shown!r}, but counts are stored as '%%MatrixMarket matrix coordinate integer general'.",
        )
    if first[4:] != ["general"]:
        raise BadFileError(location.name, f"is declared {' '.join(first[4:])!r}, but counts are 'general'.")
    line = stream.readline(HEAD_BYTES)
    while line.startswith(b"%") or (line and not line.strip()):
        line = stream.readline(HEAD_BYTES)
    sizes = line.decode("latin-1").split()
    if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
        raise BadFileError(location.name, f"declares the sizes {' '.join(sizes)!r}: expected three whole numbers.")
    rows, columns, entries = map(int, sizes)
    return rows, columns, entries


def _check_length(location: SourceLocation, entries: int) -> None:
    """Raise unless the file is long enough for its entries. A compressed file is read to its end, which checks it."""
    length, longest = 0, MAX_ENTRY_BYTES * entries + BLOCK_BYTES
    with open_text(location.url, location.name) as stream:
        if isinstance(stream, igzip.GzipFile):
            while length <= longest and (block := stream.read(BLOCK_BYTES)):
                length += len(block)
        else:
            length = stream.seek(0, io.SEEK_END)
    if entries * MIN_ENTRY_BYTES > length + 1:
        raise BadFileError(
            location.name,
            f"is truncated: it declares {entries:,} entries, but {length:,} bytes hold fewer. Copy or download it "
            "again.",
        )
    if length > longest:
        raise BadFileError(location.name, f"is damaged: {length:,} bytes and more hold {entries:,} entries.")
