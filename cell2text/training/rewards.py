"""Rewards of a text about a cell that the cell's label and its own counts verify.

Pure functions from a text to a number, and their form for TRL's `GRPOTrainer`. Depends on the parser of texts and on
the Cell Ontology, not on a model.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cell2text.language.parsing import read_fields
from cell2text.ontology.graph import OntologyGraph, load_graph
from cell2text.signatures.pathways import N_NAMED


UNREADABLE_TYPE_REWARD, UNREADABLE_CALIBRATION_REWARD = 0.0, -1.0  # of a text without a readable cell type
# Columns of the rows that the rewards read.
LABEL_COLUMN, PATHWAYS_COLUMN = "label_term", "pathways_active"


@dataclass(frozen=True)
class TypeStatement:
    """The cell types that a text states, as terms of the Cell Ontology.

    Parameters
    ----------
    named
        Term of the named type, which a text states without a probability.
    subtype
        Term of the likely subtype, below the named type; None if the text states none.
    probability
        Stated probability of the likely subtype; 0 without one.
    """

    named: str
    subtype: str | None = None
    probability: float = 0.0


def read_type_statement(text: str, graph: OntologyGraph | None = None) -> TypeStatement | None:
    """Read the cell types that a text states.

    Parameters
    ----------
    graph
        Ontology of the terms. Defaults to the Cell Ontology.

    Returns
    -------
    The statement; None if the text names no type, a type that is not a single term of the ontology, or types that
    cannot both be true. A likely subtype that is not below the named type is one of these contradictions, unless it is
    the named type or above it: then it adds nothing, and only the named type counts.

    Examples
    --------
    >>> read_type_statement("This cell is a lymphocyte. It is most likely a T cell (0.62).")
    TypeStatement(named='CL:0000542', subtype='CL:0000084', probability=0.62)
    """
    graph = graph or load_graph("CL")
    fields = read_fields(text)
    named = fields.cell_type.term_id if fields.cell_type else None
    if named not in graph or "cell_type" in fields.contradictions:
        return None
    subtype = fields.likely_subtype.term_id if fields.likely_subtype else None
    if subtype not in graph or fields.likely_subtype_probability is None:
        return TypeStatement(str(named))
    if subtype in graph.ancestors(str(named)):
        return TypeStatement(str(named))
    if named not in graph.ancestors(str(subtype)):
        return None
    return TypeStatement(str(named), subtype, fields.likely_subtype_probability)


def type_reward(text: str, label: str | None, *, graph: OntologyGraph | None = None) -> float | None:
    """Return the PageRank similarity of the named cell type and the label, from 0 to 1.

    Parameters
    ----------
    label
        Cell Ontology term of the cell's label.
    graph
        Ontology of the terms. Defaults to the Cell Ontology.

    Returns
    -------
    1 for the label itself; `UNREADABLE_TYPE_REWARD` for a text without a readable type, see
    :func:`read_type_statement`; None for a cell without a label.

    Examples
    --------
    >>> type_reward("This cell is a T cell.", "CL:0000084"), type_reward("No idea.", "CL:0000084")
    (1.0, 0.0)
    """
    graph = graph or load_graph("CL")
    if label not in graph:
        return None
    statement = read_type_statement(text, graph)
    return UNREADABLE_TYPE_REWARD if statement is None else graph.pagerank_similarity(statement.named, label)


def calibration_reward(text: str, label: str | None, *, graph: OntologyGraph | None = None) -> float | None:
    r"""Score the probabilities of the stated cell types by the Brier score that they save, from -1 to 1.

    A type with the stated probability :math:`p` earns :math:`o^2 - (p - o)^2 = 2po - p^2`, where :math:`o` is 1 if the
    type is true of the cell and 0 otherwise. This is the improvement of its Brier score over :math:`p = 0`, which
    states nothing. The named type is stated without a probability, which counts as 1. The weight of the named type is
    its information content, and that of the likely subtype is the additional information content. Weights do not
    depend on the label, so that the expected reward is highest if the stated probability is the true one.

    Parameters
    ----------
    label
        Cell Ontology term of the cell's label. A stated type is true if it is the label or above it. A type below the
        label counts as the label, since nothing verifies the rest.
    graph
        Ontology of the terms. Defaults to the Cell Ontology.

    Returns
    -------
    The reward; `UNREADABLE_CALIBRATION_REWARD` for a text without a readable type, see :func:`read_type_statement`;
    None for a cell without a label.

    References
    ----------
    Brier 1950, Monthly Weather Review 78:1. Information content: Seco et al. 2004, ECAI:1089.

    Examples
    --------
    >>> text = "This cell is a lymphocyte. It is most likely a T cell ({})."
    >>> sure, unsure = (calibration_reward(text.format(p), "CL:0000084") for p in ("0.90", "0.50"))
    >>> sure > unsure > calibration_reward("This cell is a lymphocyte.", "CL:0000084")
    True
    """
    graph = graph or load_graph("CL")
    if label not in graph:
        return None
    statement = read_type_statement(text, graph)
    if statement is None:
        return UNREADABLE_CALIBRATION_REWARD
    named, content = _verifiable(graph, statement.named, str(label)), graph.information_content
    reward = content[named] * _brier_saved(1.0, graph, named, str(label))
    if statement.subtype is not None:
        subtype = _verifiable(graph, statement.subtype, str(label))
        added = content[subtype] - content[named]
        reward += added * _brier_saved(statement.probability, graph, subtype, str(label))
    return reward


def _verifiable(graph: OntologyGraph, term: str, label: str) -> str:
    """Return the label for a term below it, and any other term unchanged."""
    return label if label in graph.ancestors(term) else term


def _brier_saved(probability: float, graph: OntologyGraph, term: str, label: str) -> float:
    true = float(term in graph.ancestors(label))
    return 2 * probability * true - probability**2


def pathway_reward(text: str, active: Collection[str] | None, names: Sequence[str]) -> float | None:
    """Score the stated pathways by those that are active in the cell, from -1 to 1.

    Parameters
    ----------
    active
        Gene sets that are active in the cell by AUCell: the column `pathways_active` of a prepared data set. Empty or
        None for a cell without scores.
    names
        Names of all gene sets that a text may state.

    Returns
    -------
    The number of stated pathways that are active minus the number of those that are not, divided by the number of
    stated pathways or by 2 if fewer are stated. 0 for a text without pathways; None for a cell without scores.

    Examples
    --------
    >>> names = ["HALLMARK_HYPOXIA", "HALLMARK_APOPTOSIS"]
    >>> pathway_reward("Its most active pathway is hypoxia.", ["HALLMARK_HYPOXIA"], names)
    0.5
    """
    if not active:
        return None
    stated = read_fields(text, tuple(names)).pathways
    true = sum(name in active for name in stated)
    return (2 * true - len(stated)) / max(N_NAMED, len(stated))


class TextReward:
    """A reward in the form that TRL's `GRPOTrainer` calls.

    Parameters
    ----------
    name
        Name under which the trainer logs the reward.
    score
        Function from a text and the value of `column` to the reward, None if the row cannot verify it.
    column
        Column of the rows.

    Examples
    --------
    >>> reward = TextReward("type", type_reward, LABEL_COLUMN)
    >>> reward(completions=[[{"role": "assistant", "content": "This cell is a T cell."}]], label_term=["CL:0000084"])
    [1.0]
    """

    def __init__(self, name: str, score: Callable[..., float | None], column: str):
        self.__name__, self.score, self.column = name, score, column

    def __call__(self, *, completions: Sequence[str | list[dict]], **columns) -> list[float | None]:
        texts = [item if isinstance(item, str) else str(item[-1]["content"]) for item in completions]
        return [self.score(text.strip(), label) for text, label in zip(texts, columns[self.column])]


def text_rewards(pathway_names: Sequence[str]) -> dict[str, TextReward]:
    """Return the rewards by name: `type`, `calibration` and `pathways`.

    Parameters
    ----------
    pathway_names
        Names of all gene sets that a text may state.

    Examples
    --------
    >>> [reward.column for reward in text_rewards([]).values()]
    ['label_term', 'label_term', 'pathways_active']
    """
    names = tuple(pathway_names)
    return {
        "type": TextReward("type", type_reward, LABEL_COLUMN),
        "calibration": TextReward("calibration", calibration_reward, LABEL_COLUMN),
        "pathways": TextReward("pathways", lambda text, active: pathway_reward(text, active, names), PATHWAYS_COLUMN),
    }
