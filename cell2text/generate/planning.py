"""Decide what each generated cell is sampled from: the type, the study that lends style and depth, and the donor.

A text may ask for a broad type, an unseen one, or a combination that no training cell has. Every such step is noted.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cell2text.generate.conditions import FETAL, terms_above
from cell2text.generate.generator import CellGenerator, CellPlan
from cell2text.generate.prompt import Prompt, healthy
from cell2text.ontology.terms import label_of


PROFILE_CELLS = 30  # weight of a profile among cells, to choose between types below a broad one
BORROWED_RELATION = 0.5  # least share of common ancestors of types that lend their style
FETAL_STAGE = "the fetal stage of prenatal development"
COLUMNS = ["cell_type", "tissue", "disease", "sex", "stage", "style", "donor", "borrowed"]


@dataclass(frozen=True)
class Condition:
    """A prompt as the generator's terms; empty strings for what the prompt does not state."""

    cell_type: str
    tissue: str
    disease: str
    sex: str
    stage: str


def condition_of(prompt: Prompt) -> Condition:
    """Return a prompt as the generator's terms; the disease of healthy donors is empty."""
    term = {
        name: claim.term_id or "" for name in ("cell_type", "tissue", "disease") if (claim := getattr(prompt, name))
    }
    return Condition(
        term["cell_type"],
        term.get("tissue", ""),
        "" if healthy(prompt.disease) else term.get("disease", ""),
        prompt.sex.label if prompt.sex else "",
        FETAL if prompt.life_stage and prompt.life_stage.label == FETAL_STAGE else "",
    )


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
    return CellPlan(table[COLUMNS]), [*notes, *_notes(generator, prompt, condition, table)]


def _choose_types(seen: pd.DataFrame, condition: Condition) -> tuple[dict[str, float], list[str]]:
    """Return the types to generate with their weights: the type itself if it was seen, else seen types below it."""
    asked = condition.cell_type
    below = seen["cell_type"].map(lambda term: asked in terms_above("CL", term))
    place = _in_tissue(seen, condition.tissue)
    for rows in (place & (seen["cell_type"] == asked), place & below, seen["cell_type"] == asked, below):
        if rows.any():
            weights = seen["cells"].where(seen["cells"] > 0, PROFILE_CELLS)[rows].groupby(seen["cell_type"][rows]).sum()
            notes = []
            if asked not in weights:
                names = ", ".join(map(label_of, weights.sort_values(ascending=False).index[:5]))
                notes = [
                    f"Cells labelled {label_of(asked)} were not seen; {len(weights)} types below it are used: {names}."
                ]
            return weights.to_dict(), notes
    nearest = next((term for term in terms_above("CL", asked)[1:] if term in _all_above(seen)), None)
    lent = f"; it is generated as {label_of(nearest)}" if nearest else ""
    return {asked: 1.0}, [f"The generator never saw {label_of(asked)} or a type below it{lent}."]


def _all_above(seen: pd.DataFrame) -> set[str]:
    return {above for term in seen["cell_type"].unique() for above in terms_above("CL", term)}


def _in_tissue(seen: pd.DataFrame, tissue: str) -> pd.Series:
    """Return the rows whose tissue is a tissue or part of it; all rows if no tissue is stated."""
    if not tissue:
        return pd.Series(True, index=seen.index)
    known = {term: tissue in terms_above("UBERON", term) for term in seen["tissue"].unique()}
    return seen["tissue"].map(known)


def _with_styles(
    generator: CellGenerator, condition: Condition, cell_type: str, rows: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Return the plan of the cells of one type, with the row numbers as index."""
    cells = generator.seen[generator.seen["cells"] > 0].reset_index(drop=True)
    if condition.sex:
        cells = cells[cells["sex"].isin([condition.sex, ""])]
    own = cells[(cells["cell_type"] == cell_type) & _in_tissue(cells, condition.tissue)]
    if condition.disease:
        own = own[own["disease"] == condition.disease]
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


def _notes(generator: CellGenerator, prompt: Prompt, condition: Condition, table: pd.DataFrame) -> list[str]:
    """Describe what of a condition the generator never saw."""
    seen, notes = generator.seen, []
    nodes = set(generator.config["nodes"])
    for field, ontology, term in (("tissue", "UBERON", condition.tissue), ("disease", "MONDO", condition.disease)):
        if term and term not in set(seen[field]):
            lent = [above for above in terms_above(ontology, term) if above in nodes][:1]
            used = f"; what it shares with other kinds of {label_of(lent[0])} is used" if lent else " and ignores it"
            notes.append(f"The generator never saw the {field} {label_of(term)}{used}.")
    if condition.tissue in set(seen["tissue"]) and condition.tissue:
        pairs = set(zip(seen["cell_type"], seen["tissue"]))
        if (
            not any((name, condition.tissue) in pairs for name in table["cell_type"].unique())
            and table["borrowed"].all()
        ):
            notes.append(
                f"This type was never seen in the {label_of(condition.tissue)}; the effects of both are added up."
            )
    if condition.disease in set(seen["disease"]) and condition.disease:
        of_disease = seen[seen["disease"] == condition.disease]
        met = of_disease["cell_type"].isin(table["cell_type"].unique()) & _in_tissue(of_disease, condition.tissue)
        if not met.any():
            notes.append(
                f"This type and tissue were never seen in {label_of(condition.disease)}; the effects are added up."
            )
    if prompt.life_stage and not condition.stage:
        notes.append(f"The life stage ({prompt.life_stage.label}) has no effect: the generator knows fetal cells only.")
    if table["borrowed"].any():
        styles = ", ".join(sorted({generator.config["styles"][name]["assay"] for name in table["style"]}))
        notes.append(
            f"No training cell has this type and origin, only mean profiles or related cells; depth and assay are borrowed ({styles})."
        )
    return notes
