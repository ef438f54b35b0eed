"""The first look at every source: its metadata under our names, labels resolved, genes found, a few counts checked.

Metadata are held as categories: at the peak, while cells are told from their copies, about 300 bytes a cell.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.ontology.life_stages import life_stage
from cell2text.ontology.terms import FIELD_ONTOLOGIES, clean_label, resolve
from cell2text.preparation.aucell import MIN_GENES, GeneSets, match_columns
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.medians import gene_numbers
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.sources.files import BadFileError, Source
from cell2text.sources.reading import check_counts, find_inputs, open_reader
from counts_cell2text import find_flaw
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary


PLAIN_COLUMNS = ("assay", "donor_id", "dataset_id")
PROBE = 256  # cells of each source whose counts are checked before any job starts


@dataclass
class Survey:
    """A source after its metadata was read.

    Parameters
    ----------
    source
        The file.
    fingerprint
        SHA-256 of its contents.
    cells
        One row a cell: `row`, `key` (a hash of data set, donor and name), `primary`, the metadata columns.
    report
        What the report tells of it.
    """

    source: Source
    fingerprint: str
    cells: pd.DataFrame
    report: dict


def survey_sources(
    config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None, *, skipped: dict[str, str]
) -> list[Survey]:
    """Read and check the metadata of every source; `skipped` gains those that cannot be used, if they may be left out.

    Raises
    ------
    BadFileError
        At the first source that cannot be used, unless `skip_bad_files` is set.
    ValueError
        If no source is left.
    """
    surveys = []
    for source in find_inputs(config):
        if source.name in skipped:
            continue
        try:
            surveys.append(survey_source(source, config, vocabulary, gene_sets))
        except BadFileError as error:
            if not config.skip_bad_files:
                advice = "Mend it, leave it out, or pass --skip-bad-files to go on without such files."
                raise BadFileError(source.name, f"{error.message} {advice}") from error
            skipped[source.name] = error.message
    if not surveys:
        raise UserError(f"No file can be used: {skipped}.")
    seen: dict[str, str] = {}
    for survey in surveys:
        name = survey.source.name
        if seen.setdefault(survey.fingerprint, name) != name:
            raise UserError(f"{name} has the same contents as {seen[survey.fingerprint]}: name one of them.")
    return surveys


def survey_source(
    source: Source, config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None
) -> Survey:
    with open_reader(source, config) as reader:
        if not reader.n_cells:
            raise BadFileError(source.name, "holds no cell.")
        genes = survey_genes(reader, config, vocabulary, gene_sets)
        cells, resolution = survey_metadata(reader, config)
        if source.format != "soma":  # the Census holds raw counts, of which only the chosen cells' are fetched
            probe_counts(reader, cells["row"].to_numpy()[:PROBE], config)
        report = {"cells": len(cells), "counts": reader.counts_name, **genes, "labels": resolution}
        if reader.note:
            report["note"] = reader.note
        return Survey(source, reader.fingerprint(), cells, report)


def survey_genes(reader, config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None) -> dict:
    """How many genes are found, and by which way. A file of another species is refused here."""
    name, var = reader.source.name, reader.var()
    if not len(var):
        raise BadFileError(name, "lists no gene.")
    try:
        if vocabulary is None:
            gene_numbers(var.index)
            return {"genes": len(var), "gene_names": "index", "genes_by_route": {"ensembl_id": len(var)}}
        ranker = CellRanker(var, vocabulary, gene_key=config.gene_key, max_genes=vocabulary.max_genes)
    except (ValueError, KeyError) as error:
        raise BadFileError(name, str(error.args[0])) from error
    report = {
        "genes": len(var),
        "gene_names": ranker.gene_names,
        "genes_by_route": ranker.genes_by_route(),
        "merged_genes": ranker.merged_genes,
    }
    if gene_sets:
        if len(var) < MIN_GENES:
            raise BadFileError(name, f"has {len(var)} genes, too few to score gene sets: {MIN_GENES} at least.")
        columns = match_columns(gene_sets, var, ranker)
        report["gene_set_coverage"] = [
            round(len(found) / len(genes), 4) for found, genes in zip(columns, gene_sets.genes)
        ]
    return report


def probe_counts(reader, rows: np.ndarray, config: PrepareConfig) -> None:
    """Check the first cells' counts, and where they are none look whether a layer holds some."""
    block = reader.counts_of(rows)
    try:
        check_counts(reader, rows, block, config.allow_fractional)
    except BadFileError as error:
        kind, _ = find_flaw(block, allow_fractional=config.allow_fractional) or ("", 0)
        layer = next((layer for layer in reader.layers() if reader.holds_counts(layer, rows)), None)
        hint = f" Found integers in {layer!r}: pass --layer {layer}." if layer else ""
        if not layer and kind == "normalised":
            hint = " If they are expected counts, pass --allow-fractional."
        raise BadFileError(reader.source.name, error.message + hint) from error


def survey_metadata(reader, config: PrepareConfig) -> tuple[pd.DataFrame, dict]:
    """The metadata columns under our names, labels resolved to terms, and how they were resolved."""
    name, present = reader.source.name, reader.obs_columns()
    ours_all = (*METADATA_COLUMNS, "sex_ontology_term_id", "is_primary_data")
    theirs = {ours: config.columns.get(ours, ours) for ours in ours_all}
    for ours, column in config.columns.items():
        if column not in present and ours not in present:
            raise BadFileError(name, f"has no column {column!r} in obs, which --columns names; it has {present}.")
        if column not in present:
            theirs[ours] = ours
        elif ours in FIELD_ONTOLOGIES and f"{ours}_ontology_term_id" not in config.columns:
            theirs[f"{ours}_ontology_term_id"] = ""  # the ids beside the usual column are not those of this one
    if not any(theirs[ours] in present for ours in ("cell_type", "tissue", "disease")):
        raise BadFileError(
            name,
            f"has no column cell_type, tissue or disease in obs; it has {present}. Name them with --columns, such as "
            "--columns cell_type=CellType.",
        )
    obs = reader.obs([column for column in theirs.values() if column in present])
    cells = pd.DataFrame({"row": obs.index.to_numpy(dtype=np.int64)})
    resolution = {}
    for field in FIELD_ONTOLOGIES:
        label, term = (obs.get(theirs[column]) for column in (field, f"{field}_ontology_term_id"))
        cells[field], cells[f"{field}_ontology_term_id"], resolution[field] = resolve_column(
            field, label, term, len(obs)
        )
    stages = cells["development_stage_ontology_term_id"]
    cells["life_stage"] = recoded(stages, {term: life_stage(term) for term in stages.cat.categories})
    for column in PLAIN_COLUMNS:
        values = obs.get(theirs[column])
        cells[column] = (
            empty(len(obs)) if values is None else recoded(values, {v: clean_label(v) for v in values.cat.categories})
        )
    cells["dataset_id"] = pd.Series(categorical(cells["dataset_id"].astype(object).fillna(name)))
    primary = obs.get(theirs["is_primary_data"])
    cells["primary"] = True if primary is None else (primary.astype(object) == "True").to_numpy()
    cells["key"] = identity_keys(reader, cells)
    return cells, resolution


def resolve_column(field: str, label, term, n_cells: int) -> tuple[pd.Series, pd.Series, dict]:
    """Labels and term ids of a field, and of the cells how each was found; unresolved labels are listed."""
    label, term = (empty(n_cells) if column is None else column.reset_index(drop=True) for column in (label, term))
    n_terms = len(term.cat.categories) + 1
    pairs, codes = np.unique(
        (label.cat.codes.to_numpy(dtype=np.int64) + 1) * n_terms + term.cat.codes.to_numpy() + 1, return_inverse=True
    )
    sizes = np.bincount(codes)
    labels_of, terms_of = ([None, *column.cat.categories] for column in (label, term))
    found = [resolve(field, labels_of[pair // n_terms], terms_of[pair % n_terms]) for pair in pairs.tolist()]
    routes: Counter = Counter()
    unresolved: Counter = Counter()
    for term_found, size in zip(found, sizes.tolist()):
        routes[term_found.route] += size
        if term_found.route == "unresolved":
            unresolved[str(term_found.label)] += size
    labels, ids = (categorical([getattr(term, name) for term in found]) for name in ("label", "term_id"))
    report = {"routes": dict(sorted(routes.items())), "unresolved": dict(unresolved.most_common(50))}
    return (
        pd.Series(pd.Categorical.from_codes(labels.codes[codes], labels.categories)),
        pd.Series(pd.Categorical.from_codes(ids.codes[codes], ids.categories)),
        report,
    )


def recoded(column: pd.Series, new_names: dict) -> pd.Series:
    """A categorical column with its categories renamed, some to the same name or to nothing."""
    names = categorical([new_names[name] for name in column.cat.categories])
    new_codes = np.append(names.codes, -1)  # an unknown value, code -1, takes the last
    return pd.Series(pd.Categorical.from_codes(new_codes[column.cat.codes.to_numpy()], names.categories))


def categorical(values) -> pd.Categorical:
    """Values as categories of one type, so that those of all sources can be joined."""
    return pd.Categorical(values, categories=pd.Index(sorted({v for v in values if v is not None}), dtype=object))


def empty(n_cells: int) -> pd.Series:
    return pd.Series(categorical([None] * n_cells))


def identity_keys(reader, cells: pd.DataFrame) -> np.ndarray:
    """A hash of every cell's data set, donor and name: what tells a cell from its copy in another file."""
    names = pd.Series(reader.cell_names(cells["row"].to_numpy()))
    dataset, donor = (cells[column].astype(object).fillna("") for column in ("dataset_id", "donor_id"))
    bare = [text.removeprefix(f"{prefix}:") for text, prefix in zip(names, dataset)]
    return pd.util.hash_pandas_object(pd.DataFrame({"d": dataset, "o": donor, "n": bare}), index=False).to_numpy()
