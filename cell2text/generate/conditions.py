"""Nodes of a condition: ontology terms with all terms above them, life stage, sex, and pairs of type and tissue.

The generator adds up one embedding per node, so a cell type without cells inherits from the types above it. Depends on
the ontologies and PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from cell2text.generate.prompt import Prompt
from cell2text.ontology.graph import load_graph


FETAL = "fetal"
FETAL_STAGE = "the fetal stage of prenatal development"
HEALTHY = "PATO:0000461"


@dataclass(frozen=True)
class Condition:
    """A prompt as the generator's terms; empty strings for what the prompt does not state."""

    cell_type: str
    tissue: str
    disease: str
    sex: str
    stage: str


def condition_of(prompt: Prompt) -> Condition:
    """Return a prompt as the generator's terms."""
    term = {
        name: claim.term_id or "" for name in ("cell_type", "tissue", "disease") if (claim := getattr(prompt, name))
    }
    return Condition(
        term["cell_type"],
        term.get("tissue", ""),
        term.get("disease", ""),
        prompt.sex.label if prompt.sex else "",
        FETAL if prompt.life_stage and prompt.life_stage.label == FETAL_STAGE else "",
    )


def condition_nodes(cell_type: str, tissue: str = "", disease: str = "", sex: str = "", stage: str = "") -> list[str]:
    """Return the names of a condition's nodes.

    Parameters
    ----------
    cell_type, tissue, disease
        Ontology terms; empty if unknown. `HEALTHY` has no node: diseases are effects relative to it.
    sex
        `"male"`, `"female"` or empty.
    stage
        `"fetal"` or empty.

    Examples
    --------
    >>> condition_nodes("CL:0000084", "UBERON:0002048", sex="male")[-2:]
    ['male', 'CL:0000084|UBERON:0002048']
    """
    terms = [("CL", cell_type), ("UBERON", tissue), ("MONDO", disease)]
    nodes = [above for ontology, term in terms for above in terms_above(ontology, term)]
    nodes += [word for word in (sex, stage) if word]
    return [*nodes, pair_node(cell_type, tissue)] if tissue else nodes


def terms_above(ontology: str, term: str) -> list[str]:
    """Return a term and the terms above it, nearest first; empty for a term outside the ontology."""
    graph = load_graph(ontology)
    return list(graph.ancestors(term)) if term in graph else []


def pair_node(cell_type: str, tissue: str) -> str:
    """Return the name of the node of a type in a tissue."""
    return f"{cell_type}|{tissue}"


def node_matrix(nodes: Sequence[Sequence[str]], names: Sequence[str]) -> torch.Tensor:
    """Mark the nodes of conditions, float32, shape (n_conditions, n_names); other nodes are left out."""
    place = {name: i for i, name in enumerate(names)}
    marked = torch.zeros(len(nodes), len(names))
    for row, of_row in enumerate(nodes):
        marked[row, [place[name] for name in of_row if name in place]] = 1.0
    return marked


def rows_of_tissue(seen: pd.DataFrame, tissue: str) -> pd.Series:
    """Return the rows whose tissue is a tissue or part of it, bool; all rows if no tissue is stated."""
    known = {term: not tissue or tissue in terms_above("UBERON", term) for term in seen["tissue"].unique()}
    return seen["tissue"].map(known).astype(bool)
