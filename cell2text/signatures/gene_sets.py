"""Read gene sets from GMT files, or the Hallmark sets of this package, and match them to the genes of a file."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cell2text.errors import UserError
from cell2text.paths import check_readable
from ranking_cell2text import MappedGenes


HALLMARK = "hallmark"
HALLMARK_FILE = Path(__file__).with_name("hallmark.gmt")


@dataclass(frozen=True)
class GeneSets:
    """Gene sets in the order of their file.

    Parameters
    ----------
    names
        Name of each set.
    genes
        Genes of each set: symbols or Ensembl ids.
    """

    names: list[str]
    genes: list[list[str]]

    def __len__(self) -> int:
        return len(self.names)


def load_gene_sets(path: str | None) -> GeneSets | None:
    """Read a GMT file, or the packaged Hallmark sets of MSigDB 7.0 if the path is `"hallmark"`; return None for None.

    Examples
    --------
    >>> hallmark = load_gene_sets("hallmark")
    >>> len(hallmark), hallmark.names[0]
    (50, 'HALLMARK_TNFA_SIGNALING_VIA_NFKB')
    """
    if path is None:
        return None
    return hallmark_gene_sets() if path == HALLMARK else read_gmt(path)


@cache
def hallmark_gene_sets() -> GeneSets:
    """Return the 50 Hallmark gene sets of the package."""
    return read_gmt(HALLMARK_FILE)


def read_gmt(path: str | Path) -> GeneSets:
    """Read gene sets from a GMT file.

    GMT (Gene Matrix Transposed) is the format of MSigDB: each line holds a name, a description and genes, separated by
    tabs.

    Raises
    ------
    UserError
        If the file cannot be read, a line has no gene, or two sets have the same name.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "sets.gmt"
    >>> _ = path.write_text("T_CELL\\tmarkers\\tCD3D\\tCD3E\\n")
    >>> read_gmt(path)
    GeneSets(names=['T_CELL'], genes=[['CD3D', 'CD3E']])
    """
    check_readable(path)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read gene sets from {path}: {error}. Expected a GMT file (tab-separated).") from error
    names, genes = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        members = list(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
        if not members:
            raise UserError(
                f"{path}, line {number}: expected name, description and genes separated by tabs, found {line[:60]!r}."
            )
        names.append(name.strip())
        genes.append(members)
    if not names:
        raise UserError(f"{path} contains no gene set. Expected a GMT file (tab-separated).")
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        raise UserError(f"{path} contains several gene sets of the same name: {sorted(duplicates)[:3]}.")
    return GeneSets(names, genes)


def match_columns(gene_sets: GeneSets, var, mapped: MappedGenes) -> list[np.ndarray]:
    """Find the genes of each set in a file.

    The vocabulary is searched first, including aliases and retired ids, then the file's own gene names.

    Parameters
    ----------
    gene_sets
        Gene sets.
    var
        `var` of the file: its index and all columns are searched.
    mapped
        The file's genes, mapped to the vocabulary.

    Returns
    -------
    Columns of each set's genes in `mapped.collapse(counts)`, ascending; one integer array per set.
    """
    by_name: dict[str, int] = {}
    for name in ("index", *var.columns):
        values = var.index if name == "index" else var[name]
        for column, value in enumerate(values.astype(str)):
            by_name.setdefault(value.split(".")[0] if value.startswith("ENS") else value, int(mapped.columns[column]))
    by_token = dict(zip(mapped.token_ids.tolist(), mapped.columns.tolist()))
    names = list(dict.fromkeys(gene for genes in gene_sets.genes for gene in genes))
    tokens, _ = mapped.vocabulary.map_genes(names)
    column_of: dict[str, Any] = {
        name: by_token[token] if token in by_token and token >= 0 else by_name.get(name)
        for name, token in zip(names, tokens.tolist())
    }
    columns_of_sets = [{column_of[gene] for gene in genes} - {None} for genes in gene_sets.genes]
    return [np.array(sorted(columns), dtype=np.int64) for columns in columns_of_sets]
