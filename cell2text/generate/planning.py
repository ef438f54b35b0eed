"""Decide what each generated cell is sampled from: the type, the study that lends style and depth, and the donor.

A text may ask for a broad type, an unseen one, or a combination that no training cell has. Every such step is noted.
"""

import numpy as np
import pandas as pd

from cell2text.generate.conditions import HEALTHY, Condition, condition_of, rows_of_tissue, terms_above
from cell2text.generate.generator import CellGenerator, CellPlan
from cell2text.generate.notes import unseen_notes
from cell2text.generate.prompt import Prompt
from cell2text.ontology.terms import label_of


PROFILE_CELLS = 30  # weight of a profile among cells, to choose between types below a broad one
BORROWED_RELATION = 0.5  # least share of common ancestors of types that lend their style
COLUMNS = ["cell_type", "tissue", "disease", "sex", "stage", "style", "donor", "borrowed"]


def plan_cells(
    generator: CellGenerator, prompt: Prompt, n: int, rng: np.random.Generator
) -> tuple[CellPlan, list[str]]:
    """Plan `n` cells of a prompt.

    Returns
    -------
    The plan, and notes on what the generator never saw.
    """
    condition, seen = condition_of(prompt), generator.seen
    types, notes = _choose_types(seen, condition)
    chosen = rng.choice(list(types), size=n, p=np.array(list(types.values())) / sum(types.values()))
    parts = [
        _with_styles(generator, condition, str(name), np.flatnonzero(chosen == name), rng) for name in np.unique(chosen)
    ]
    table = pd.concat(parts).sort_index()
    return CellPlan(table[COLUMNS]), [*notes, *unseen_notes(generator, prompt, condition, table)]


def _choose_types(seen: pd.DataFrame, condition: Condition) -> tuple[dict[str, float], list[str]]:
    """Return the types to generate with their weights: the type itself if it was seen, else seen types below it."""
    asked = condition.cell_type
    below = seen["cell_type"].map(lambda term: asked in terms_above("CL", term))
    place = rows_of_tissue(seen, condition.tissue)
    for rows in (place & (seen["cell_type"] == asked), place & below, seen["cell_type"] == asked, below):
        if rows.any():
            weights = seen["cells"].where(seen["cells"] > 0, PROFILE_CELLS)[rows].groupby(seen["cell_type"][rows]).sum()
            notes = []
            if asked not in weights:
                names = ", ".join(map(label_of, weights.sort_values(ascending=False).index[:5]))
                notes = [
                    f"The generator saw no cells labelled {label_of(asked)}; it uses types below it "
                    f"({len(weights)}): {names}."
                ]
            return weights.to_dict(), notes
    nearest = next((term for term in terms_above("CL", asked)[1:] if term in _all_above(seen)), None)
    lent = f"; it is generated as {label_of(nearest)}" if nearest else ""
    return {asked: 1.0}, [f"The generator never saw {label_of(asked)} or a type below it{lent}."]


def _all_above(seen: pd.DataFrame) -> set[str]:
    return {above for term in seen["cell_type"].unique() for above in terms_above("CL", term)}


def _with_styles(
    generator: CellGenerator, condition: Condition, cell_type: str, rows: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the plan of the cells of one type, with the row numbers as index."""
    cells = generator.seen[generator.seen["cells"] > 0].reset_index(drop=True)
    if condition.sex:
        cells = cells[cells["sex"].isin([condition.sex, ""])]
    own = cells[(cells["cell_type"] == cell_type) & rows_of_tissue(cells, condition.tissue)]
    if condition.disease:
        own = own[own["disease"].isin({condition.disease, ""} if condition.disease == HEALTHY else {condition.disease})]
    lending = own if len(own) else _lending(cells, cell_type, generator)
    weights = lending["cells"].to_numpy() * lending.get("weight", pd.Series(1.0, index=lending.index)).to_numpy()
    drawn = lending.iloc[rng.choice(len(lending), size=len(rows), p=weights / weights.sum())]
    return pd.DataFrame(
        {
            "cell_type": cell_type,
            "tissue": condition.tissue or (drawn["tissue"].to_numpy() if len(own) else ""),
            "disease": condition.disease,
            "sex": condition.sex or drawn["sex"].to_numpy(),
            "stage": condition.stage,
            "style": drawn["style"].to_numpy(),
            "donor": drawn["donor"].to_numpy(),
            "borrowed": not len(own),
        },
        index=rows,
    )


def _lending(cells: pd.DataFrame, cell_type: str, generator: CellGenerator) -> pd.DataFrame:
    """Return the training cells whose study and donor a type without own cells borrows: those of the nearest types."""
    usable = cells[cells["style"].map(lambda name: generator.config["styles"][name]["lends"])]
    relation = usable["cell_type"].map({term: _related(cell_type, term) for term in usable["cell_type"].unique()})
    near = relation >= max(relation.max() - 0.1, BORROWED_RELATION)
    return usable[near] if near.any() else usable


def _related(one: str, other: str) -> float:
    """Return the share of ancestors that two types have in common."""
    above, beside = set(terms_above("CL", one)), set(terms_above("CL", other))
    return len(above & beside) / max(len(above | beside), 1)
