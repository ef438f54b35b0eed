"""Interpret the `var` of a file: find the rows that are genes, the column that names them, and their species.

Depends on NumPy alone; `var` is a pandas DataFrame. Mouse orthologs come from the package `cell2text`, if it is there.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np


try:
    from .errors_cell2text import UserError, UserKeyError
except ImportError:
    from errors_cell2text import UserError, UserKeyError


ROUTES = ("ensembl_id", "symbol", "retired_id", "alias", "ortholog", "other_species", "unmapped")
SPECIES = ("human", "mouse")  # that can be mapped to the vocabulary
_UNKNOWN, _HUMAN, _MOUSE, _OTHER = range(4)
_MIN_MAPPED_FRACTION = 0.01  # human files map far more genes; another species' symbols match by accident
_MIN_MOUSE_SYMBOLS = 0.2  # share of symbols such as "Actb" in a file of mouse genes

_FEATURE_COLUMNS = ("feature_types", "feature_type", "modality", "feature_biotype")
_GENOME_COLUMNS = ("genome", "organism", "species", "feature_reference")
_GENES = re.compile(r"gene expression|genes?|rna|gex", re.IGNORECASE)
_NOT_GENES = re.compile(
    r"(?:antibody|antigen|protein|prot|adt|hto|crispr|guide|hashtag|multiplexing|peaks?|atac|chromatin|custom|vdj.*"
    r"|spike.?in|negative control|genomic control|unassigned|blank|deprecated)(?: .*)?",
    re.IGNORECASE,
)
_FEATURES_BY_NAME = (
    ("Spike-in", re.compile(r"ERCC[-.]\d{5}")),
    ("Antibody Capture", re.compile(r"(?:adt|ADT|hto|HTO)[_-].+|.+[_-]TotalSeq[ABCD]?")),
    ("Control probe", re.compile(r"(?:neg(?:ative)?[_ -]?(?:control|prb|probe)|blank|unassigned)[_ -]?.*\d", re.I)),
    ("Peaks", re.compile(r"chr[\dXYMT]+[:_-]\d+[_-]\d+")),
)
_HUMAN_ID = re.compile(r"(?<![A-Za-z])ENSGR?\d{10,11}")
_OTHER_ID = re.compile(r"(?<![A-Za-z])ENS([A-Z]{3,4})G\d{11}")
GENOME_PREFIX = re.compile(
    r"(?:(GRCh3[78]|hg19|hg38|human|homo_sapiens)|(GRCm3[89]|mm9|mm10|mm39|mouse|mus_musculus))(?:[.-]p\d+)?[_:|.-]+",
    re.IGNORECASE,
)
_GENOME = re.compile(
    r"(?:(GRCh3\d|hg\d\d|human|homo[_ ]sapiens|NCBITaxon:9606)|(GRCm3\d|mm\d\d?|mouse|mus[_ ]musculus|NCBITaxon:10090))"
    r"(?![a-z0-9]).*",
    re.IGNORECASE,
)
_SHOWS_SPECIES = re.compile(rf"ENS|^{GENOME_PREFIX.pattern}", re.IGNORECASE | re.MULTILINE)
_MOUSE_SYMBOL = re.compile(r"[A-Z][a-z][A-Za-z0-9.-]*|mt-[A-Z][a-z0-9]+|[A-Z]?\d+[A-Z]\d+Rik")
_BARCODE = re.compile(r"(?:.*[_:#-])?[ACGT]{8,}(?:[-_.].*)?")
_ORF = re.compile(r"C[\dXY]+orf\d+")
_MAY_VARY = re.compile(
    r"[\s\"'._|:;]|-\d{1,2}$|ENSG|^X\d|^(?:GRCh|hg|human|homo)|orf", re.IGNORECASE
)  # has `name_variants`
_UNIQUE_SUFFIX = re.compile(r"(.+)[.-]\d{1,2}")


def gene_rows(var) -> tuple[np.ndarray, dict[str, int]]:
    """Find the rows of `var` that are genes: not antibodies, guides, peaks or spike-ins.

    Args:
        var (`pandas.DataFrame`): Names of the features, and 10x's `feature_types` or CELLxGENE's `feature_biotype`.

    Returns:
        A mask of shape `(n_features,)`, and the number of the other rows by their type.
    """
    kinds = np.full(len(var), "", dtype=object)
    names = list(map(str, var.index))
    text = "\n".join(names)
    for kind, pattern in _FEATURES_BY_NAME:
        if re.search(
            f"^(?:{pattern.pattern})$", text, pattern.flags | re.MULTILINE
        ):  # rare, and much faster than names
            kinds[np.array([pattern.fullmatch(name) is not None for name in names], dtype=bool)] = kind
    for column in _FEATURE_COLUMNS:
        if column in var.columns:
            values = var[column].astype(object).where(var[column].notna(), "").astype(str).to_numpy()
            present = np.unique(values)
            says_genes = any(map(_GENES.fullmatch, present))  # then every other type is something else
            others = [value for value in present if _NOT_GENES.fullmatch(value) or (says_genes and value)]
            chosen = np.isin(values, [value for value in others if not _GENES.fullmatch(value)])
            kinds[chosen] = values[chosen]
    return kinds == "", dict(sorted(Counter(kinds[kinds != ""].tolist()).items()))


def text_columns(var) -> list[str]:
    """Return the columns of `var` that may hold gene names: the index, then the columns of text."""
    kinds = {name: str(var[name].dtype) for name in var.columns}
    texts = [name for name, kind in kinds.items() if kind in ("object", "category", "string", "str")]
    return ["index", *texts]


def names_in(var, column: str) -> list[str]:
    """Return the values of a column of `var`, or of its index, as text."""
    return [str(value) for value in (var.index if column == "index" else var[column])]


def name_variants(name: str) -> Iterator[str]:
    """Yield the names that a gene may have in a vocabulary, if the file's own name is not in it.

    Covers versions of Ensembl ids, prefixes of a genome, an id joined with a symbol, and the names that R makes.

    Args:
        name (`str`): Name in the file.

    Examples:

    ```python
    >>> list(name_variants("GRCh38_ENSG00000141510.18"))
    ['ENSG00000141510.18', 'ENSG00000141510']
    >>> list(name_variants("HLA.DRA"))
    ['HLA-DRA']

    ```
    """
    bare = name.strip().strip("\"'")
    prefix = GENOME_PREFIX.match(bare)
    if prefix:
        if prefix[2]:  # a gene of the mouse
            return
        bare = bare[prefix.end() :]
    if bare != name:
        yield bare
    found = _HUMAN_ID.search(bare)
    if found:
        yield found[0]
        yield from _symbols_beside(bare, found)
    elif _OTHER_ID.search(bare):
        return
    elif _ORF.fullmatch(bare):
        # Alias tables are in capitals. Among human symbols, only those like "C1orf112" have small letters.
        # Capitalising every name would silently map mouse genes to human ones.
        yield bare.upper()
    elif "." in bare:
        yield bare.replace(".", "-", 1)
        if bare.count(".") > 1:
            yield bare.replace(".", "-")
    if bare[:1] == "X" and bare[1:2].isdigit():
        yield bare[1:]


def _symbols_beside(name: str, found: re.Match) -> Iterator[str]:
    """Yield the symbol of a name such as `ENSG00000141510_TP53` or `TP53|ENSG00000141510`."""
    before = name[: found.start()].rstrip("_|:;-. ")
    after = re.sub(r"^\.\d+", "", name[found.end() :]).lstrip("_|:;-. ")
    yield from (part for part in (after, before) if part)


def map_names(names, lookup: Callable[[str], tuple[int, int] | None]) -> tuple[np.ndarray, np.ndarray]:
    """Look up gene names and, for those that are not found, their variants.

    Args:
        names (iterable of `str`): Names in the file.
        lookup: Returns the token id and the route of a name, None if it is unknown.

    Returns:
        Token ids of shape `(n_names,)`, -1 if unmapped, and indices into `ROUTES` of the same shape.
    """
    names = list(map(str, names))
    found = {name: lookup(name) for name in names}
    for name in [name for name, result in found.items() if result is None and _MAY_VARY.search(name)]:
        result = next(filter(None, map(lookup, name_variants(name))), None)
        if result is None and (unique := _UNIQUE_SUFFIX.fullmatch(name)) and unique[1] in found:
            result = lookup(unique[1])  # "TBCE-1" beside "TBCE": made unique
        found[name] = result
    unmapped = (-1, ROUTES.index("unmapped"))
    token_ids, routes = zip(*(found[name] or unmapped for name in names)) if names else ((), ())
    return np.array(token_ids, dtype=np.int64), np.array(routes, dtype=np.int8)


def row_species(var, columns: list[str]) -> np.ndarray:
    """Return the species of each row of `var`: unknown, human, mouse or another one, int8, shape `(n_genes,)`.

    Ensembl ids, names of a genome and taxon ids in any of the columns decide; symbols in the style of the mouse decide
    for rows that have none of them. A row with both human and other ids is human.
    """
    species = np.zeros(len(var), dtype=np.int8)
    for column in columns:
        names = names_in(var, column)
        of_genome = column in _GENOME_COLUMNS
        if not of_genome and not _SHOWS_SPECIES.search("\n".join(names)):
            continue
        read = _species_of_genome if of_genome else _species_of_name
        codes: dict[str, int] = {name: read(name) for name in set(names)}
        found = np.array([codes[name] for name in names], dtype=np.int8)
        species = np.where(found == _HUMAN, found, np.where(species == _UNKNOWN, found, species))
    unknown = np.flatnonzero(species == _UNKNOWN)
    if len(unknown) and "index" in columns:
        symbols = np.array([_MOUSE_SYMBOL.fullmatch(str(var.index[i])) is not None for i in unknown], dtype=bool)
        if symbols.mean() >= _MIN_MOUSE_SYMBOLS:
            species[unknown[symbols]] = _MOUSE
    if (species == _MOUSE).sum() > len(species) / 2:
        species[species == _UNKNOWN] = _MOUSE
    return species


def _species_of_genome(name: str) -> int:
    genome = _GENOME.fullmatch(name)
    return _UNKNOWN if genome is None else _HUMAN if genome[1] else _MOUSE


def _species_of_name(name: str) -> int:
    if name.startswith("ENSG0"):  # most names
        return _HUMAN
    prefix = None if " " in name else GENOME_PREFIX.match(name)
    if prefix:
        return _HUMAN if prefix[1] else _MOUSE
    if "ENS" not in name:
        return _UNKNOWN
    if _HUMAN_ID.search(name):
        return _HUMAN
    other = _OTHER_ID.search(name)
    return _UNKNOWN if other is None else _MOUSE if other[1] == "MUS" else _OTHER


def choose_gene_column(
    var, vocabulary, gene_key: str | None = None, species: str = "human"
) -> tuple[np.ndarray, np.ndarray, str]:
    """Choose the column of `var` with the most genes in the vocabulary.

    Args:
        var (`pandas.DataFrame`): Names of the genes, in the index and in columns of text.
        vocabulary: Genes of the model, with the method `map_genes` of [`GeneVocabulary`].
        gene_key (`str`, *optional*): The only column to consider, or `"index"`.
        species (`str`, defaults to `"human"`):
            `"mouse"` maps mouse genes to human genes by one-to-one orthologs.

    Returns:
        Token ids and routes of the genes, as [`GeneVocabulary.map_genes`] returns them, and the column's name.

    Raises:
        ValueError: If fewer than 1 % of the genes are in the vocabulary, or the species is not supported.
        KeyError: If the column does not exist.
    """
    map_column = gene_mapper(vocabulary, species)
    if gene_key is not None and gene_key != "index" and gene_key not in var.columns:
        raise UserKeyError(
            f"gene_key={gene_key!r}: adata.var has no such column; it has {list(map(str, var.columns))}."
        )
    columns = text_columns(var) if gene_key is None else [gene_key]
    of_rows = row_species(var, columns)
    foreign = np.zeros(len(var), dtype=bool) if species == "mouse" else of_rows >= _MOUSE
    candidates = []
    for name in columns:
        token_ids, routes = map_column(names_in(var, name))
        candidates.append((np.where(foreign, -1, token_ids), np.where(foreign, ROUTES.index("other_species"), routes)))
    mapped = [int((token_ids >= 0).sum()) for token_ids, _ in candidates]
    best = int(np.argmax(mapped))
    if mapped[best] < max(1, _MIN_MAPPED_FRACTION * len(var)):
        raise UserError(
            _unknown_genes_message(names_in(var, columns[best]), mapped[best], columns[best], gene_key, of_rows)
        )
    token_ids, routes = candidates[best]
    return *_without_shadowed_aliases(token_ids, routes), columns[best]


def _without_shadowed_aliases(token_ids: np.ndarray, routes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unmap aliases of genes that the file also names by id or symbol: there, the alias is another gene."""
    alias = routes == ROUTES.index("alias")
    shadowed = alias & np.isin(token_ids, token_ids[~alias & (token_ids >= 0)])
    return np.where(shadowed, -1, token_ids), np.where(shadowed, ROUTES.index("unmapped"), routes)


def gene_mapper(vocabulary, species: str) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
    """Return a function that maps names of a species' genes, as [`GeneVocabulary.map_genes`] does for human genes.

    Raises:
        UserError: If the species is not supported, or the package with the table of orthologs is missing.
    """
    if species not in SPECIES:
        raise UserError(f"species={species!r}: expected one of {list(SPECIES)}.")
    return _ortholog_mapper(vocabulary) if species == "mouse" else vocabulary.map_genes


def names_advice(names: list[str]) -> str:
    """Say what names that are mostly not in the vocabulary look like, and what to do."""
    mouse = [_species_of_name(name) == _MOUSE or _MOUSE_SYMBOL.fullmatch(name) is not None for name in names]
    if np.mean(mouse) > 0.5:
        return (
            'These are mouse genes, and the model was trained on human cells. Pass species="mouse" to map them to '
            "their human orthologs."
        )
    if np.mean([name.replace(".", "", 1).isdecimal() for name in names]) > 0.5:
        return "These are numbers. Convert Entrez ids to Ensembl ids or symbols; pass counts as an AnnData."
    if np.mean([_species_of_name(name) == _OTHER for name in names]) > 0.5:
        return "These are Ensembl ids of another species. The vocabulary is human."
    return "Expected human gene symbols or Ensembl ids, one per entry."


def _ortholog_mapper(vocabulary) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
    """Return a function that maps mouse genes to tokens of their human orthologs."""
    try:
        from cell2text.sources.gene_tables import mouse_to_human
    except ImportError:
        raise UserError('species="mouse" needs the table of orthologs in the package: pip install cell2text.') from None
    orthologs = mouse_to_human()

    def human_gene(name: str) -> str:
        bare = GENOME_PREFIX.sub("", name.strip(), count=1)
        found = _OTHER_ID.search(bare)
        variants = [bare, found[0], *_symbols_beside(bare, found)] if found else [bare, bare.replace(".", "-", 1)]
        return next((orthologs[variant] for variant in variants if variant in orthologs), "")

    def map_column(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        token_ids, _ = vocabulary.map_genes(map(human_gene, names))
        return token_ids, np.where(token_ids >= 0, ROUTES.index("ortholog"), ROUTES.index("unmapped")).astype(np.int8)

    return map_column


def _unknown_genes_message(
    names: list[str], mapped: int, column: str, gene_key: str | None, species: np.ndarray
) -> str:
    """Say how many genes were found in the best column, what the names look like, and what to do."""
    example = f"first: {names[0]!r}" if names else "the file lists none"
    text = f"{mapped} of {len(names):,} genes are in the vocabulary ({example}, from {column}). "
    barcodes = sum(_BARCODE.fullmatch(name) is not None for name in names)
    if (species == _MOUSE).mean() > 0.5:
        return (
            text + 'These are mouse genes, and the model was trained on human cells. Pass species="mouse" to map them '
            "to their human orthologs."
        )
    if (species == _OTHER).mean() > 0.5:
        return text + "These are Ensembl ids of another species. The vocabulary is human."
    if barcodes > len(names) / 2:
        return text + "These look like cell barcodes: is the matrix transposed? Pass cells as rows (adata.T)."
    if names and all(name.isdecimal() for name in names):
        return (
            text
            + "These are numbers. Convert Entrez ids to Ensembl ids or symbols, or pass gene_key= for such a column."
        )
    if gene_key is None:
        return text + "Pass gene_key= for a column of human Ensembl ids or gene symbols."
    return (
        text
        + "Does this column hold human Ensembl ids or gene symbols? Omit gene_key to choose a column automatically."
    )
