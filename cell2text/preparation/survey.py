"""Read the metadata of every source before any job starts: resolve labels, match genes, check the first counts.

Metadata are stored as categories. Memory peaks at about 300 bytes per cell, while duplicates are removed. Depends on
`sources` for reading and on `ontology` for terms.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cell2text.errors import UserError
from cell2text.ontology.common_names import resolve_label
from cell2text.ontology.life_stages import life_stage
from cell2text.ontology.terms import FIELD_ONTOLOGIES, clean_label
from cell2text.preparation.columns import ChosenColumns, choose_columns
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.medians import HUMAN_GENES
from cell2text.preparation.names import PROFILES
from cell2text.preparation.own_columns import read_own_columns
from cell2text.preparation.simulation_provenance import read_simulation
from cell2text.signatures.aucell import MIN_GENES
from cell2text.signatures.gene_sets import GeneSets, match_columns
from cell2text.sources.census import find_census
from cell2text.sources.checks import BadFileError
from cell2text.sources.containers import fingerprint, open_source
from cell2text.sources.discovery import SourceLocation, find_sources
from ranking_cell2text import MappedGenes
from source_cell2text import CellSource
from vocabulary_cell2text import GeneVocabulary


COLUMNS_WITHOUT_ONTOLOGY = ("assay", "donor_id", "dataset_id", "profile", "second_cell_type")
# Columns that the option `omit` leaves without values, by field.
OMITTED_COLUMNS = {
    "tissue": ("tissue", "tissue_ontology_term_id"),
    "disease": ("disease", "disease_ontology_term_id"),
    "sex": ("sex",),
    "life_stage": ("life_stage", "development_stage", "development_stage_ontology_term_id"),
}
MOST_UNRESOLVED = 50  # unresolved labels that the report lists per field


@dataclass
class Survey:
    """Metadata of one source.

    Parameters
    ----------
    source
        Location of the source.
    fingerprint
        SHA-256 of its contents.
    cells
        One row per cell: `row`, `key` (hash of data set, donor and name), `primary` and the metadata columns.
    report
        Entry of the source in `report.json`.
    """

    source: SourceLocation
    fingerprint: str
    cells: pd.DataFrame
    report: dict


def survey_sources(
    config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None, *, skipped: dict[str, str]
) -> list[Survey]:
    """Read and check the metadata of every source.

    Parameters
    ----------
    config
        Options of the run.
    vocabulary
        Gene vocabulary; None if it will be fitted, which requires Ensembl ids.
    gene_sets
        Gene sets to score; None for no pathways.
    skipped
        Names of sources to skip, and why. With `skip_bad_files=True`, sources that cannot be used are added.

    Raises
    ------
    BadFileError
        At the first source that cannot be used, unless `skip_bad_files=True`.
    UserError
        If no source can be used, or two have the same contents.
    """
    surveys = []
    for source in _find_locations(config):
        if source.name in skipped:
            continue
        try:
            surveys.append(_survey_source(source, config, vocabulary, gene_sets))
        except BadFileError as error:
            if not config.skip_bad_files:
                advice = "To continue without this file, remove it from the inputs, or pass skip_bad_files=True."
                raise BadFileError(source.name, f"{error.message} {advice}") from error
            skipped[source.name] = error.message
    if not surveys:
        reasons = " ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(f"No file can be used. {reasons}")
    names: dict[str, str] = {}
    for survey in surveys:
        name = survey.source.name
        if names.setdefault(survey.fingerprint, name) != name:
            raise UserError(f"{name} has the same contents as {names[survey.fingerprint]}. Pass only one of them.")
    return surveys


def _find_locations(config: PrepareConfig) -> list[SourceLocation]:
    if config.source == "census":
        return [find_census(config.census_version, config.census_uri)]
    return find_sources(config.inputs)


def _survey_source(
    source: SourceLocation, config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None
) -> Survey:
    with open_planned(source, config) as reader:
        if not reader.n_cells:
            raise BadFileError(source.name, "contains no cells.")
        genes = _survey_genes(reader, config, vocabulary, gene_sets)
        cells, resolution, chosen = survey_metadata(reader, config)
        own, left_out = read_own_columns(reader, config.questions())
        cells = cells.assign(**own)
        report = {"cells": len(cells), **genes, "labels": resolution, "columns": chosen.recognised}
        if config.own_tasks:
            report["own_tasks_left_out"] = left_out
        report["notes"] = [*genes["notes"], *chosen.notes]
        if simulation := read_simulation(reader.container):
            report["simulation"] = simulation
        return Survey(source, fingerprint(source), cells, report)


def open_planned(source: SourceLocation, config: PrepareConfig) -> CellSource:
    """Open a source with the options of a run."""
    return open_source(
        source, layer=config.layer, allow_fractional=config.allow_fractional, value_filter=config.value_filter
    )


def _survey_genes(reader, config: PrepareConfig, vocabulary: GeneVocabulary | None, gene_sets: GeneSets | None) -> dict:
    """Count the genes that are mapped, by route; raise for files of another species."""
    var = reader.read_var()
    if not len(var):
        raise reader.container.error("contains no genes.")
    mapped = MappedGenes.of_source(reader, vocabulary or HUMAN_GENES, gene_key=config.gene_key, species=config.species)
    report = {
        **{name: value for name, value in mapped.reading(reader).items() if vocabulary or "model" not in name},
        "genes": len(var),
        "genes_by_route": mapped.genes_by_route(),
        "merged_genes": mapped.merged_genes,
    }
    if gene_sets and vocabulary:
        if len(var) < MIN_GENES:
            raise reader.container.error(f"has {len(var)} genes. Scoring gene sets needs at least {MIN_GENES}.")
        columns = match_columns(gene_sets, var, mapped)
        report["gene_set_coverage"] = [
            round(len(matched) / len(genes), 4) for matched, genes in zip(columns, gene_sets.genes)
        ]
    return report


def survey_metadata(reader, config: PrepareConfig) -> tuple[pd.DataFrame, dict, ChosenColumns]:
    """Read the metadata under the names of the CELLxGENE schema and resolve labels to ontology terms.

    Parameters
    ----------
    reader
        Open source.
    config
        Options of the run; `columns` maps names of the schema to columns of the file.

    Returns
    -------
    One row per cell (see `Survey`), for each field how many cells were resolved by which route, and the columns.

    Raises
    ------
    BadFileError
        If a mapped column is missing, or the file has no cell type, tissue or disease.
    """
    chosen = choose_columns(reader, config.columns, labelled=config.labelled)
    columns = chosen.columns
    obs = reader.read_obs(list(dict.fromkeys(columns.values())))
    cells = pd.DataFrame({"row": obs.index.to_numpy(dtype=np.int64)})
    resolution = {}
    for field in FIELD_ONTOLOGIES:
        label, term = (obs.get(columns.get(name)) for name in (field, f"{field}_ontology_term_id"))
        cells[field], cells[f"{field}_ontology_term_id"], resolution[field] = _resolve_labels(
            field, label, term, len(obs)
        )
    stages = cells["development_stage_ontology_term_id"]
    cells["life_stage"] = _rename_categories(stages, {term: life_stage(term) for term in stages.cat.categories})
    for name in COLUMNS_WITHOUT_ONTOLOGY:
        values = obs.get(columns.get(name))
        cells[name] = (
            _missing_column(len(obs))
            if values is None
            else _rename_categories(values, {value: clean_label(value) for value in values.cat.categories})
        )
    kinds = {value: value if value in PROFILES else None for value in cells["profile"].cat.categories}
    cells["profile"] = _rename_categories(cells["profile"], kinds)
    cells["dataset_id"] = pd.Series(
        _as_categorical(cells["dataset_id"].astype(object).fillna(reader.container.location.name))
    )
    primary = obs.get(columns.get("is_primary_data"))
    cells["primary"] = True if primary is None else (primary.astype(object) == "True").to_numpy()
    cells["key"] = _hash_identities(reader, cells)
    for name in config.omit:
        for column in OMITTED_COLUMNS[name]:
            cells[column] = _missing_column(len(cells))
    return cells, resolution, chosen


def _resolve_labels(field: str, label, term, n_cells: int) -> tuple[pd.Series, pd.Series, dict]:
    """Return the labels and term ids of a field, and how many cells each route resolved; list the others."""
    label, term = (
        _missing_column(n_cells) if column is None else column.reset_index(drop=True) for column in (label, term)
    )
    n_terms = len(term.cat.categories) + 1
    pairs, codes = np.unique(
        (label.cat.codes.to_numpy(dtype=np.int64) + 1) * n_terms + term.cat.codes.to_numpy() + 1, return_inverse=True
    )
    sizes = np.bincount(codes)
    labels_of, terms_of = ([None, *column.cat.categories] for column in (label, term))
    given = [(labels_of[pair // n_terms], terms_of[pair % n_terms]) for pair in pairs.tolist()]
    resolved = [resolve_label(field, *pair) for pair in given]
    routes: Counter = Counter()
    unresolved: Counter = Counter()
    for result, size in zip(resolved, sizes.tolist()):
        routes[result.route] += size
        if result.route == "unresolved":
            unresolved[str(result.label)] += size
    labels, ids = (_as_categorical([getattr(result, name) for result in resolved]) for name in ("label", "term_id"))
    report = {
        "routes": dict(sorted(routes.items())),
        "common_names": {pair[0]: term.label for pair, term in zip(given, resolved) if term.route == "common_name"},
        "unresolved": dict(unresolved.most_common(MOST_UNRESOLVED)),
    }
    return (
        pd.Series(pd.Categorical.from_codes(labels.codes[codes], labels.categories)),
        pd.Series(pd.Categorical.from_codes(ids.codes[codes], ids.categories)),
        report,
    )


def _rename_categories(column: pd.Series, new_names: dict) -> pd.Series:
    """Rename the categories of a column; several may get the same name, or None for missing."""
    names = _as_categorical([new_names[name] for name in column.cat.categories])
    new_codes = np.append(names.codes, -1)  # missing values have code -1, which selects the last entry
    return pd.Series(pd.Categorical.from_codes(new_codes[column.cat.codes.to_numpy()], names.categories))


def _as_categorical(values) -> pd.Categorical:
    """Return values as sorted categories of dtype object, so that columns of all sources can be joined."""
    return pd.Categorical(values, categories=pd.Index(sorted({v for v in values if v is not None}), dtype=object))


def _missing_column(n_cells: int) -> pd.Series:
    return pd.Series(_as_categorical([None] * n_cells))


def _hash_identities(reader, cells: pd.DataFrame) -> np.ndarray:
    """Hash each cell's data set, donor and name, which identify its duplicates in other files."""
    names = pd.Series(reader.read_cell_names(cells["row"].to_numpy()))
    dataset, donor = (cells[column].astype(object).fillna("") for column in ("dataset_id", "donor_id"))
    bare = [text.removeprefix(f"{prefix}:") for text, prefix in zip(names, dataset)]
    return pd.util.hash_pandas_object(pd.DataFrame({"d": dataset, "o": donor, "n": bare}), index=False).to_numpy()
