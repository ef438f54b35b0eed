"""Names of human genes and one-to-one orthologs of mouse genes, from tables that ship with the package.

`tables/README.md` states the sources and their terms; `recipes/gene_tables/build.py` builds the tables. A table is
read when it is first used. Depends on the standard library only.
"""

import gzip
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path


TABLES = Path(__file__).parent / "tables"
HUMAN_COLUMNS = ("ensembl_id", "symbol", "previous_symbols", "alias_symbols")
MOUSE_COLUMNS = ("mouse_ensembl_id", "mouse_symbols", "human_ensembl_id", "human_symbol")
ROUTES = ("ensembl_id", "symbol", "previous_symbol", "alias", "unmapped")
_ENSEMBL_ID = re.compile(r"(ENSG\d{11}|ENSGR\d{10})(\.\d+)?")


def ensembl_ids(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Map names of human genes to Ensembl ids.

    Each name is looked up alone and exactly as it is written: as an Ensembl id, with or without a version; as a symbol
    that HGNC approves; as a previous symbol; as an alias. The first that fits decides. A previous symbol or an alias
    of several genes is not mapped, and neither is one that is spelt like a mouse gene.

    Parameters
    ----------
    names
        Names of genes. Every well-formed human Ensembl id is accepted, whether the table has it or not.

    Returns
    -------
    Ensembl ids without version, `""` if unmapped, and the `ROUTES` that they were found by, one of each per name.

    Examples
    --------
    >>> ensembl_ids(["ENSG00000141510.18", "TP53", "GNB2L1", "Trp53"])[0]
    ['ENSG00000141510', 'ENSG00000141510', 'ENSG00000204628', '']
    >>> ensembl_ids(["ENSG00000141510.18", "TP53", "GNB2L1", "Trp53"])[1]
    ['ensembl_id', 'symbol', 'previous_symbol', 'unmapped']
    """
    found = list(map(ensembl_id, map(str, names)))
    return [gene for gene, _ in found], [route for _, route in found]


def ensembl_id(name: str) -> tuple[str, str]:
    """Map one name of a human gene to its Ensembl id and the route, as :func:`ensembl_ids` does for several.

    Examples
    --------
    >>> ensembl_id("GNB2L1")
    ('ENSG00000204628', 'previous_symbol')
    """
    if name.startswith("ENSG") and (match := _ENSEMBL_ID.fullmatch(name)):
        return match[1], "ensembl_id"
    return _routes_by_name().get(name, ("", "unmapped"))


@cache
def approved_symbols() -> dict[str, str]:
    """Return the symbol that HGNC approves for each human Ensembl id.

    Examples
    --------
    >>> approved_symbols()["ENSG00000141510"]
    'TP53'
    """
    return {gene: symbol for symbol, gene in _human_names()["symbol"].items()}


def aliases_for(ensembl_ids: Iterable[str], symbols: Iterable[str]) -> dict[str, str]:
    """Return further names of the genes of a vocabulary, for `GeneVocabulary.aliases`.

    Further names are approved symbols that the vocabulary does not use, previous symbols and aliases. None of them is
    one of `symbols`, and none belongs to several genes.

    Parameters
    ----------
    ensembl_ids
        Ensembl ids of the vocabulary. Other tokens, such as `<pad>`, are ignored.
    symbols
        Symbols of the vocabulary, which it looks up before aliases.

    Returns
    -------
    Ensembl id of each further name.

    Examples
    --------
    >>> aliases = aliases_for(["ENSG00000204628"], ["RACK1"])
    >>> aliases["GNB2L1"], "RACK1" in aliases
    ('ENSG00000204628', False)
    """
    genes, known = set(ensembl_ids), set(symbols)
    found = {name: gene for names in _human_names().values() for name, gene in names.items() if gene in genes}
    return {name: gene for name, gene in found.items() if name not in known}


def mouse_to_human() -> dict[str, str]:
    """Return the human Ensembl id of each mouse gene that has exactly one human ortholog.

    Mouse genes are named by Ensembl id without version and by symbol, the current one and former ones.

    Examples
    --------
    >>> human = mouse_to_human()
    >>> human["Ptprc"] == human["ENSMUSG00000026395"] == ensembl_ids(["PTPRC"])[0][0]
    True
    """
    return _mouse_tables()[0]


def mouse_genes_without_one_ortholog() -> frozenset[str]:
    """Return names of the mouse genes that `mouse_to_human` leaves out because they have several human orthologs.

    Examples
    --------
    >>> "Ins2" in mouse_genes_without_one_ortholog(), "Ins2" in mouse_to_human()
    (True, False)
    """
    return _mouse_tables()[1]


@cache
def _human_names() -> dict[str, dict[str, str]]:
    """Return the Ensembl id of each name, by route. No name has two routes."""
    names: dict[str, dict[str, str]] = {"symbol": {}, "previous_symbol": {}, "alias": {}}
    for gene, symbol, previous, aliases in _read("human_genes.tsv.gz"):
        names["symbol"][symbol] = gene
        if previous:
            names["previous_symbol"].update(dict.fromkeys(previous.split("|"), gene))
        if aliases:
            names["alias"].update(dict.fromkeys(aliases.split("|"), gene))
    return names


@cache
def _routes_by_name() -> dict[str, tuple[str, str]]:
    """Return the Ensembl id and the route of each human name."""
    return {name: (gene, route) for route, names in _human_names().items() for name, gene in names.items()}


@cache
def _mouse_tables() -> tuple[dict[str, str], frozenset[str]]:
    """Return the human gene of each mouse name, and the mouse names without a single human gene."""
    mapped: dict[str, str] = {}
    several: set[str] = set()
    for gene, symbols, target, _ in _read("mouse_orthologs.tsv.gz"):
        names = (gene, *symbols.split("|")) if symbols else (gene,)
        if target:
            mapped.update(dict.fromkeys(names, target))
        else:
            several.update(names)
    return mapped, frozenset(several)


def _read(name: str) -> Iterator[list[str]]:
    text = gzip.decompress((TABLES / name).read_bytes()).decode()
    return (line.split("\t") for line in text.splitlines()[1:])
