"""Everything the app shows of one cell: text, types with probabilities, genes, pathways and evidence.

Depends on `experiment` and `counts`. What the counts do not allow is left out, with the reason as a note.
"""

from dataclasses import dataclass, field

import numpy as np

from cell2text.app.experiment import NUMBERS, Experiment
from cell2text.describe.ranked_cells import RankedCells
from cell2text.errors import UserError
from cell2text.evidence.statements import StatementEvidence
from cell2text.inference.cell_types import CellTypes
from cell2text.language.described import CANDIDATES, TEXT
from cell2text.language.fields import FIELDS, TERM_FIELDS, Claim
from cell2text.signatures.aucell import MIN_COVERAGE
from grammar_cell2text import pathway_words
from statements_cell2text import TYPES


N_GENES, N_PATHWAYS, N_BROADER = 15, 8, 4
ROLES = {
    "named": "named",
    "broader": "broader",
    "candidate": "candidate",
    "other": "other",
}


@dataclass(frozen=True)
class TypeBar:
    """The probability of one cell type.

    Parameters
    ----------
    name
        Cell type.
    probability
        Its probability, 0 to 1.
    role
        A key of `ROLES`.
    """

    name: str
    probability: float
    role: str


@dataclass(frozen=True)
class PathwayScore:
    """The AUCell score of a gene set in one cell.

    Parameters
    ----------
    name
        Gene set.
    score
        AUCell score, 0 to 1.
    stated
        Whether the text states it.
    """

    name: str
    score: float
    stated: bool


@dataclass
class CellDetails:
    """What the app shows of one cell.

    Parameters
    ----------
    row, name, text
        Row in the file, name and description of the cell; an empty text if it has none.
    fields
        Title and value of everything that the text states, with ontology terms, and of the cell's numbers.
    types
        Probabilities of the named type, of broader types, of candidates, and of the most probable other types.
    genes
        The most expressed genes relative to their median, the highest first.
    pathways
        The highest AUCell scores.
    evidence
        The genes that each statement of the text rests on, with known markers that are present and absent.
    notes
        What could not be computed, and why.
    """

    row: int
    name: str
    text: str
    fields: list[tuple[str, str]]
    types: list[TypeBar] = field(default_factory=list)
    genes: list[str] = field(default_factory=list)
    pathways: list[PathwayScore] = field(default_factory=list)
    evidence: list[StatementEvidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cell_details(experiment: Experiment, row: int) -> CellDetails:
    """Return what the app shows of one cell.

    Parameters
    ----------
    experiment
        The experiment.
    row
        Row of the cell in the file.

    Examples
    --------
    >>> import cell2text, tempfile
    >>> from cell2text.app.experiment import read_experiment
    >>> path = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> adata = cell2text.example_cells(unseen=True)[:2].copy()
    >>> cell2text.tl.describe(adata)
    >>> adata.write_h5ad(path)
    >>> details = cell_details(read_experiment(path), 0)
    >>> details.types[0].role, len(details.genes)
    ('named', 15)
    """
    stored = experiment.cells.iloc[row]
    text = stored.get(TEXT)
    found = CellDetails(row, str(experiment.names[row]), text if isinstance(text, str) else "", _stored_fields(stored))
    try:
        cells = experiment.counts.rank(np.array([row]))
    except UserError as error:
        found.notes.append(f"Genes, pathways and all type probabilities need the counts of the file. {error}")
        found.types = _stored_types(stored)
        return found
    concepts = experiment.counts.concepts(cells)
    found.types = _types(experiment, stored, concepts) if TYPES in concepts else _stored_types(stored)
    found.genes = _top_genes(experiment, cells)
    found.pathways = _pathways(experiment, row, stored)
    found.evidence = experiment.counts.evidence(row, found.text)
    if not found.pathways:
        found.notes.append("The file has too few genes for pathway scores.")
    return found


def _stored_fields(stored) -> list[tuple[str, str]]:
    """Return titles and values of the fields and numbers of a cell, missing ones left out."""
    fields = []
    for name in FIELDS:
        value, term = stored.get(name), stored.get(f"{name}_ontology_term_id") if name in TERM_FIELDS else None
        if isinstance(value, str):
            fields.append((name.replace("_", " "), f"{value} ({term})" if isinstance(term, str) else value))
    for name, title in NUMBERS.items():
        value = stored.get(name)
        if value is not None and np.isfinite(value):
            fields.append((title, f"{value:,.0f}" if name == "n_genes" else f"{value:.2f}"))
    return fields


def _stored_types(stored) -> list[TypeBar]:
    """Return the named type and the candidates of a file, without computing anything."""
    bars, named, probability = [], stored.get("cell_type"), stored.get("type_probability")
    if isinstance(named, str) and probability is not None and np.isfinite(probability):
        bars.append(TypeBar(named, float(probability), "named"))
    candidates = stored.get(CANDIDATES)
    parts = candidates.split("; ") if isinstance(candidates, str) else ()
    return bars + [bar for bar in map(_candidate, parts) if bar is not None]


def _candidate(part: str) -> TypeBar | None:
    """Return a candidate from `NAME (PROBABILITY)`, None for any other text, which a file of others may hold."""
    name, _, value = part.rpartition(" (")
    try:
        probability = float(value.removesuffix(")"))
    except ValueError:
        return None
    return TypeBar(name, probability, "candidate") if name and 0 <= probability <= 1 else None


def _types(experiment: Experiment, stored, concepts: dict[str, np.ndarray]) -> list[TypeBar]:
    """Return the named type, broader types, candidates, and the most probable other types."""
    model, _ = experiment.counts.loaded
    names, values = model.config.concept_groups[TYPES], concepts[TYPES][0]
    probability = {name: float(value) for name, value in zip(names, values) if np.isfinite(value)}
    parents = model.config.concepts.hierarchical.get(TYPES, {})
    bars = [TypeBar(bar.name, probability.get(bar.name, bar.probability), bar.role) for bar in _stored_types(stored)]
    named = stored.get("cell_type")
    broader = _above(named, parents) if isinstance(named, str) else set()
    vague = set(model.config.uninformative_types or ())
    nearest = sorted(broader - vague, key=lambda name: (-len(_above(name, parents)), name))[:N_BROADER]
    bars[1:1] = [TypeBar(name, probability[name], "broader") for name in nearest if name in probability]
    types = CellTypes(model.config.concepts, model.config.uninformative_types)
    claim = Claim(named, stored.get("cell_type_ontology_term_id")) if isinstance(named, str) else None
    (others,) = types.alternatives([claim], values[None])
    return bars + [TypeBar(name, value, "other") for name, value in others]


def _above(name: str, parents: dict[str, list[str]]) -> set[str]:
    """Return all types above one."""
    found: set[str] = set()
    waiting = list(parents.get(name, ()))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += parents.get(one, ())
    return found


def _top_genes(experiment: Experiment, cells: RankedCells) -> list[str]:
    """Return the first genes of a ranked cell."""
    vocabulary = experiment.counts.loaded[1].gene_vocabulary
    genes = [token for token in cells.cells[0] if token not in vocabulary.frame_token_ids]
    return experiment.counts.gene_names(np.array(genes[:N_GENES], dtype=int))


def _pathways(experiment: Experiment, row: int, stored) -> list[PathwayScore]:
    """Return the highest scores of gene sets that the file covers; empty for files with few genes."""
    scores = experiment.counts.pathway_scores(np.array([row]))
    if scores is None:
        return []
    scorer, text = experiment.counts.scorer, stored.get("pathways")
    stated = set(text.split("; ")) if isinstance(text, str) else set()
    values = np.where(scorer.coverage >= MIN_COVERAGE, np.nan_to_num(scores[0]), -1.0)
    order = [i for i in np.argsort(-values, kind="stable")[:N_PATHWAYS] if values[i] > 0]
    words = [pathway_words(name) for name in scorer.gene_sets.names]
    return [PathwayScore(words[i], float(values[i]), words[i] in stated) for i in order]
