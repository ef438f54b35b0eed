"""What there is to tell of a run's cells, by name: types and the broader ones above them, pathways, and their origin.

The warm start learns these; the `concepts` projector passes nothing else on to the language model.
"""

from dataclasses import dataclass

import torch
from datasets import Dataset

from cell2text.data.ontology import ancestors, known, label_of
from cell2text.evaluation.classification import truth_claim
from cell2text.evaluation.fields import Claim


ORIGIN = ("tissue", "disease", "sex", "life_stage")
UNKNOWN = "unknown"  # a name like any other: texts leave out what is not known of cells like these


@dataclass
class CellConcepts:
    """Names that rows give cells.

    Parameters
    ----------
    types
        Of which a cell has one: the rows' names, and the terms they stand for.
    broader
        Terms of the Cell Ontology that some of the types fall under, and not all.
    falls_under
        Which types do: 1 or 0, NaN in the row of a type of which that is not known, shape (n_types, n_broader).
    pathways
        Gene sets, of which a cell's text names some.
    origin
        Names of each field of `ORIGIN` that the rows tell something of.
    """

    types: dict[str, Claim]
    broader: list[str]
    falls_under: torch.Tensor
    pathways: list[str]
    origin: dict[str, list[str]]

    def names(self) -> dict[str, dict[str, list[str]]]:
        """As a model's configuration has them."""
        several = {"broader_cell_type": [label_of(term) for term in self.broader], "pathways": self.pathways}
        return {
            "one_of": {"cell_type": list(self.types), **self.origin},
            "any_of": {group: names for group, names in several.items() if names},
        }

    def targets(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """What is true of the cells of rows whose type is known.

        Returns
        -------
        Of a group of which a cell has one the index of its name, shape (n_rows,); of any other 1 or 0 for each of its
        names, NaN where it is unknown, shape (n_rows, n_names).
        """
        numbers = {name: index for index, name in enumerate(self.types)}
        types = torch.tensor([numbers[row["cell_type"]] for row in rows])
        found = {"cell_type": types}
        for field, names in self.origin.items():
            found[field] = torch.tensor([names.index(known(row[field]) or UNKNOWN) for row in rows])
        if self.broader:
            found["broader_cell_type"] = self.falls_under[types]
        if self.pathways:
            found["pathways"] = torch.tensor([named_sets(row["pathways"], self.pathways) for row in rows])
        return found


def concepts_of(rows: Dataset) -> CellConcepts:
    """The concepts of rows with a `cell_type`, and of their `pathways` and origin where they have them."""
    labelled = rows.select([index for index, name in enumerate(rows["cell_type"]) if known(name)])
    claim_of = dict(zip(labelled["cell_type"], type_claims(labelled)))
    types = {name: claim_of[name] for name in sorted(claim_of)}
    broader, falls_under = broader_types(list(types.values()))
    scored = rows["pathways"] if "pathways" in rows.column_names else ()
    found = {
        field: sorted({known(value) or UNKNOWN for value in labelled[field]})
        for field in ORIGIN
        if field in rows.column_names
    }
    return CellConcepts(
        types=types,
        broader=broader,
        falls_under=falls_under,
        pathways=sorted({name for named in scored for name in named or ()}),
        origin={field: names for field, names in found.items() if names != [UNKNOWN]},
    )


def type_claims(rows: Dataset) -> list[Claim]:
    return [truth_claim("cell_type", *row) for row in zip(rows["cell_type"], rows["cell_type_ontology_term_id"])]


def broader_types(types: list[Claim]) -> tuple[list[str], torch.Tensor]:
    """Terms of the Cell Ontology above types, their own among them, and which types fall under which.

    Terms above all of the types tell nothing and are left out.
    """
    above = [ancestors(claim.term_id) if claim.term_id else frozenset() for claim in types]
    located = [terms for terms in above if terms]
    columns = sorted(frozenset().union(*located) - frozenset.intersection(*located)) if located else []
    rows = [[float(term in terms) if terms else float("nan") for term in columns] for terms in above]
    return columns, torch.tensor(rows).reshape(len(types), len(columns))


def named_sets(named: list[str] | None, sets: list[str]) -> list[float]:
    """Of each gene set whether a cell's text names it; NaN for a cell whose pathways are unknown."""
    return [float(name in named) for name in sets] if named else [float("nan")] * len(sets)
