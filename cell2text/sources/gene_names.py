"""Distinguish names of human and mouse genes from names of cells. Depends on `gene_tables` and `genes_cell2text`."""

import re
from collections.abc import Collection
from functools import cache

from cell2text.sources.gene_tables import approved_symbols, mouse_genes_without_one_ortholog, mouse_to_human
from genes_cell2text import GENOME_PREFIX


MAX_NAMES = 5000
_ENSEMBL_ID = re.compile(r"(.*[_|:;.-])?ENS[A-Z]*GR?\d{10,11}([._|:;-].*)?", re.IGNORECASE)


def share_of_genes(names: Collection[str]) -> float:
    """Return the fraction of names that are Ensembl ids of genes or symbols of human or mouse genes.

    Parameters
    ----------
    names
        Names of features or cells. A version and the prefix of a genome (`GRCh38_`) do not matter. Of very many
        names, an even sample is looked up.

    Examples
    --------
    >>> share_of_genes(["TP53", "ENSMUSG00000026395.2", "GRCh38_CD3E", "AAACCTGAGAAACCAT-1"])
    0.75
    """
    names = list(names)
    sample = names[:: max(1, len(names) // MAX_NAMES)]
    return sum(map(_is_gene, sample)) / len(sample) if sample else 0.0


def _is_gene(name: str) -> bool:
    name = GENOME_PREFIX.sub("", str(name).strip(), count=1)
    return bool(_ENSEMBL_ID.fullmatch(name)) or bool({name, name.replace(".", "-")} & _symbols())


@cache
def _symbols() -> frozenset[str]:
    """Return the symbols of human genes that HGNC approves, and those of mouse genes with human orthologs."""
    mouse = {*mouse_to_human(), *mouse_genes_without_one_ortholog()}
    return frozenset({*approved_symbols().values(), *mouse} - {""})
