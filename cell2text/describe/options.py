"""What is asked about the cells, and how: every choice of a run, as the command line and Python have them."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version

from cell2text.errors import UserError
from cell2text.ontology.terms import ontology_versions


LIBRARIES = ("cell2text", "transformers", "torch", "anndata", "cellxgene-ontology-guide")


@dataclass(frozen=True)
class DescribeOptions:
    """Choices of a run.

    Parameters
    ----------
    prompt
        A question in words; a task (`describe`, `annotate`, `pathways`, `compare`, or `ask:` and one of cell_type,
        tissue, disease, sex, life_stage); or the path of a JSON file with a chat. The processor's own if left out.
    compare_to
        Name of the cell that every cell is compared to, as the second of each question.
    layer, gene_key, allow_fractional
        Where counts and gene names are; see :meth:`Cell2TextProcessor.rank_encode`.
    batch_size
        Cells at a time; found by itself from the free memory if left out, and halved where a GPU's does not suffice.
        The texts do not depend on it.
    max_new_tokens
        Longest text, in tokens.
    fields_only
        Leave the texts out and keep what they say.
    groupby
        Column of `obs` whose groups are described as well, each as a whole; see :mod:`cell2text.describe.groups`.
    cells_per_group
        Cells of each group that get a text, drawn by `seed`; all if left out. Every cell gets an embedding.
    seed
        Of the cells that are drawn from a group. The texts themselves are decoded greedily.
    """

    prompt: str | None = None
    compare_to: str | None = None
    layer: str | None = None
    gene_key: str | None = None
    allow_fractional: bool = False
    batch_size: int | None = None
    max_new_tokens: int = 160
    fields_only: bool = False
    groupby: str | None = None
    cells_per_group: int | None = None
    seed: int = 0

    def __post_init__(self):
        for name in ("batch_size", "max_new_tokens", "cells_per_group"):
            value = getattr(self, name)
            if not isinstance(value, int | None):
                raise UserError(f"{name}={value!r}: expected a whole number.")
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: expected at least 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: expected one from 0 to {2**32 - 1}.")
        if self.cells_per_group is not None and self.groupby is None:
            raise UserError("cells_per_group needs the column of the groups: pass groupby (--groupby COLUMN).")


def provenance(
    model, processor, chat: list[dict], options: DescribeOptions, model_name: str, groups=None
) -> dict[str, str]:
    """What the texts depend on, as plain text: it is kept in `uns["cell2text"]["params"]`."""
    chosen = {name: value for name, value in asdict(options).items() if name != "batch_size"}  # of no effect
    return {
        "model": model_name,
        "revision": str(getattr(model.config, "_commit_hash", None) or ""),
        "prompt": json.dumps(chat, ensure_ascii=False),
        "generation": json.dumps(model.generation_config.to_diff_dict(), default=str, sort_keys=True),
        "options": json.dumps(chosen, sort_keys=True),
        "embedding": "mean over genes of the cell encoder's states at the projected layer",
        "gene_vocabulary": processor.gene_vocabulary.fingerprint,
        "ontologies": json.dumps(ontology_versions()),
        "libraries": json.dumps({name: version(name) for name in LIBRARIES}),
        **({} if groups is None else {"groups": json.dumps(groups.summary())}),
    }
