"""State what of a condition the generator never saw, so that generated cells are not taken for more than they are."""

from collections.abc import Iterator

import pandas as pd

from cell2text.generate.conditions import HEALTHY, Condition, rows_of_tissue, terms_above
from cell2text.generate.generator import CellGenerator
from cell2text.generate.prompt import Prompt
from cell2text.ontology.terms import label_of


def unseen_notes(generator: CellGenerator, prompt: Prompt, condition: Condition, table: pd.DataFrame) -> list[str]:
    """Return one sentence per attribute or combination that no training cell or profile has.

    Parameters
    ----------
    generator
        The generator.
    prompt, condition
        The prompt, and its terms.
    table
        Plan of the cells; see :class:`cell2text.generate.generator.CellPlan`.
    """
    types = set(table["cell_type"].unique())
    notes = [*_unseen_terms(generator, condition), *_unseen_combinations(generator.seen, condition, types)]
    if prompt.life_stage and not condition.stage:
        notes.append(
            f"The life stage ({prompt.life_stage.label}) has no effect: the generator only distinguishes fetal "
            "from other cells."
        )
    if table["borrowed"].any():
        assays = sorted({generator.config["styles"][name]["assay"] for name in table["style"]})
        notes.append(
            "No training cell has this type and origin, only mean profiles or related cells; depth and assay are "
            f"borrowed ({', '.join(assays)})."
        )
    return notes


def _unseen_terms(generator: CellGenerator, condition: Condition) -> Iterator[str]:
    nodes = set(generator.config["nodes"])
    for field, ontology, term in (("tissue", "UBERON", condition.tissue), ("disease", "MONDO", condition.disease)):
        if term and term != HEALTHY and term not in set(generator.seen[field]):
            lent = next((above for above in terms_above(ontology, term) if above in nodes), None)
            used = f"; it is generated as {label_of(lent)}" if lent else " and ignores it"
            yield f"The generator never saw the {field} {label_of(term)}{used}."


def _unseen_combinations(seen: pd.DataFrame, condition: Condition, types: set[str]) -> Iterator[str]:
    of_type, of_tissue = seen["cell_type"].isin(types), rows_of_tissue(seen, condition.tissue)
    if condition.tissue and of_tissue.any() and not (of_type & of_tissue).any():
        yield f"This type was never seen in the {label_of(condition.tissue)}; the effects of both are added up."
    ill = seen["disease"] == condition.disease
    if condition.disease not in ("", HEALTHY) and ill.any() and not (of_type & of_tissue & ill).any():
        place = " and tissue" if condition.tissue else ""
        yield f"This type{place} was never seen in {label_of(condition.disease)}; the effects are added up."
