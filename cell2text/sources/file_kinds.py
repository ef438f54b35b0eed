"""Recognise files by suffix and content, and explain how to convert the ones that are not read.

Nothing here reads counts: suffixes, the first bytes and the keys of an HDF5 file decide. Depends on the standard
library only.
"""

import re
import zlib
from collections.abc import Collection


HEAD_BYTES = 4096
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
GZIP_SIGNATURE = b"\x1f\x8b"
HDF5_SUFFIXES = (".h5", ".hdf5")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
FORMATS = {
    ".h5ad": "h5ad",
    ".h5ad.gz": "h5ad",
    ".zarr": "zarr",
    ".mtx": "10x_mtx",
    ".mtx.gz": "10x_mtx",
    ".loom": "loom",
    ".h5mu": "h5mu",
    **dict.fromkeys(TEXT_SUFFIXES, "text"),
}
ACCEPTED = (
    "accepted are .h5ad, .zarr, 10x .h5, folders with matrix.mtx, .loom, .h5mu, and matrices as .csv, .tsv or .txt"
)

_IN_R = 'Convert it in R: anndataR::write_h5ad(readRDS("x.rds"), "x.h5ad").'
_TABLE = "Load it with pandas, build an anndata.AnnData and save it with write_h5ad."
_EXTRACT = "Extract it first and pass the extracted file or folder."
# What a foreign file is, and what to do about it.
_KINDS = {
    "r": f"is an R object, which Python cannot read. {_IN_R}",
    "h5seurat": 'is an h5Seurat file. Convert it in R: SeuratDisk::Convert("x.h5seurat", dest = "h5ad").',
    "pickle": "is a Python pickle, which can run code when it is opened and is never read. Save the AnnData with "
    "write_h5ad.",
    "parquet": f"is a Parquet table. {_TABLE}",
    "feather": f"is a Feather table. {_TABLE}",
    "numpy": f"is a NumPy array without gene names. {_TABLE}",
    "excel": "is an Excel workbook. Excel changes gene names to dates; use the original table, as .csv or .tsv.",
    "archive": f"is an archive. {_EXTRACT}",
    "compressed": "is compressed with another program than gzip. Decompress it first.",
    "html": "is a web page: the download did not return the file. Download it again.",
    "lfs": "is a Git LFS pointer instead of the file. Run `git lfs pull`.",
    "reads": "holds sequencing reads. Quantify them first, for example with Cell Ranger or STARsolo.",
    "cloupe": "is a file of the Loupe browser. Pass filtered_feature_bc_matrix.h5 of the same run.",
    "empty": "is empty.",
}
_FOREIGN_SUFFIXES = {
    "r": (".rds", ".rdata", ".rda", ".robj", ".qs", ".qs2"),
    "h5seurat": (".h5seurat",),
    "pickle": (".pkl", ".pickle", ".joblib", ".pt"),
    "parquet": (".parquet",),
    "feather": (".feather", ".arrow"),
    "numpy": (".npz", ".npy"),
    "excel": (".xlsx", ".xls", ".xlsm"),
    "archive": (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"),
    "compressed": (".bz2", ".xz", ".zst"),
    "reads": (".fastq", ".fastq.gz", ".fq", ".fq.gz", ".bam", ".sam", ".cram"),
    "cloupe": (".cloupe",),
}
_FOREIGN_HEADS = {
    "r": (b"RDX2\n", b"RDX3\n", b"RDA2\n", b"RDA3\n", b"X\n\x00\x00", b"A\n2\n", b"A\n3\n"),
    "pickle": (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    "parquet": (b"PAR1",),
    "feather": (b"ARROW1", b"FEA1"),
    "numpy": (b"\x93NUMPY",),
    "excel": (b"\xd0\xcf\x11\xe0",),
    "archive": (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf", b"Rar!"),
    "compressed": (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"),
    "lfs": (b"version https://git-lfs",),
    "reads": (b"BAM\x01", b"CRAM"),
}
_GENOME_KEYS = {"barcodes", "data", "indices", "indptr", "genes", "shape"}
_FEATURES = r"(features|genes|var|rows)(\.(tsv|txt|csv))?(\.gz)?"
_BARCODES = r"(barcodes|cells|cols)(\.(tsv|txt|csv))?(\.gz)?"


def suffix_of(name: str) -> str:
    """Return the suffix that decides how a file is read, in lower case and with `.gz`; empty if it is not known.

    Examples
    --------
    >>> suffix_of("A.H5AD"), suffix_of("s1_matrix.mtx.gz"), suffix_of("notes.md")
    ('.h5ad', '.mtx.gz', '')
    """
    lower = name.lower()
    return max((suffix for suffix in (*FORMATS, *HDF5_SUFFIXES) if lower.endswith(suffix)), key=len, default="")


def explain_suffix(name: str) -> str | None:
    """Return what a file with a foreign suffix is and what to do, to follow the file's name; None for other files.

    Examples
    --------
    >>> explain_suffix("atlas.xlsx").split(".")[0]
    'is an Excel workbook'
    """
    lower = name.lower()
    return next((_KINDS[kind] for kind, suffixes in _FOREIGN_SUFFIXES.items() if lower.endswith(suffixes)), None)


def explain_content(head: bytes) -> str | None:
    """Return what a file that cannot hold counts is and what to do, to follow the file's name; None for other files.

    Parameters
    ----------
    head
        The first `HEAD_BYTES` of the file. The content of a gzip file is looked at, too.

    Examples
    --------
    >>> explain_content(b"<!DOCTYPE html><html>").split(":")[0]
    'is a web page'
    >>> explain_content(HDF5_SIGNATURE) is None
    True
    """
    if not head:
        return _KINDS["empty"]
    if head.startswith(GZIP_SIGNATURE):
        inside = _inflate(head)
        return None if inside is None else explain_content(inside)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return _KINDS["html"]
    if head.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in head:
        return _KINDS["excel"]
    if head[257:262] == b"ustar":
        return _KINDS["archive"]
    return next((_KINDS[kind] for kind, heads in _FOREIGN_HEADS.items() if head.startswith(heads)), None)


def _inflate(head: bytes) -> bytes | None:
    """Return the beginning of what a gzip file contains, None if too little of it can be decompressed to tell."""
    decompressor = zlib.decompressobj(31)
    try:
        content = decompressor.decompress(head, HEAD_BYTES)
    except zlib.error:
        return None
    return content if content or decompressor.eof else None


def hdf5_format(root) -> str | None:
    """Return the format of an open HDF5 file by its keys; None if the layout is unknown.

    Parameters
    ----------
    root
        The open `h5py.File`.
    """
    keys = set(root)
    if "mod" in keys:
        return "h5mu"
    if {"matrix", "row_attrs", "col_attrs"} <= keys:
        return "loom"
    if {"obs", "var"} <= keys:
        return "h5ad"
    groups = [root.get(key) for key in sorted(keys)]
    if any(is_10x_group(group) for group in groups):
        return "10x_h5"
    return None


def is_10x_group(group) -> bool:
    """Return whether a group of an HDF5 file is a matrix of Cell Ranger: `/matrix`, or a genome's of version 2."""
    keys = set(group) if hasattr(group, "keys") else set()
    return keys >= _GENOME_KEYS or keys >= (_GENOME_KEYS - {"genes"} | {"features"})


def explain_hdf5(root) -> str:
    """Return what an HDF5 file without cells in a known layout is, to follow its name.

    Parameters
    ----------
    root
        The open `h5py.File`.
    """
    keys = sorted(root)
    if {"assays", "cell.names"} <= set(keys):
        return _KINDS["h5seurat"]
    if "barcode_idx" in keys:
        return (
            "is Cell Ranger's table of molecules, not a matrix. Pass filtered_feature_bc_matrix.h5 of the same folder."
        )
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    return f"is an HDF5 file with {shown or 'no content'}: it is not a 10x matrix, AnnData, MuData or loom file."


def matrix_prefix(name: str) -> str | None:
    """Return what precedes `matrix.mtx[.gz]` in the name of a file, None if it is not named so.

    Examples
    --------
    >>> matrix_prefix("s1_matrix.mtx.gz"), matrix_prefix("matrix.mtx"), matrix_prefix("ambient.mtx")
    ('s1_', '', None)
    """
    match = re.fullmatch(r"(|.*[._-])matrix\.mtx(\.gz)?", name, re.IGNORECASE)
    return match[1] if match else None


def mtx_companions(names: Collection[str], matrix: str) -> tuple[str | None, str | None]:
    """Return the files that name the genes and the cells of a `.mtx` file.

    Parameters
    ----------
    names
        Names of the files in the folder.
    matrix
        Name of the `.mtx` file. Its companions share its prefix, such as `s1_` or `cells_x_genes.`, or have none.

    Returns
    -------
    File of genes (`features.tsv`, `genes.tsv`) and file of cells (`barcodes.tsv`); None for a missing one.

    Examples
    --------
    >>> mtx_companions(["s1_matrix.mtx.gz", "s1_genes.tsv.gz", "s1_barcodes.tsv.gz"], "s1_matrix.mtx.gz")
    ('s1_genes.tsv.gz', 's1_barcodes.tsv.gz')
    """
    stem = re.sub(r"\.mtx(\.gz)?$", "", matrix, flags=re.IGNORECASE)
    ends = [len(stem), *(match.end() for match in reversed(list(re.finditer(r"[._-]", stem)))), 0]
    prefixes = [re.escape(stem[:end]) + ("[._-]" if end == len(stem) else "") for end in ends]
    found = []
    for pattern in (_FEATURES, _BARCODES):
        matches = (
            sorted(name for name in names if re.fullmatch(prefix + pattern, name, re.IGNORECASE)) for prefix in prefixes
        )
        found.append(next((match[0] for match in matches if match), None))
    return found[0], found[1]
