"""Generate an AnnData of counts from a text, the work of `tl.generate` and `cell2text generate`."""

import json
import logging
import os
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cell2text.errors import UserError
from cell2text.files import atomic_path
from cell2text.generate.generator import CellGenerator, CellPlan
from cell2text.generate.planning import plan_cells
from cell2text.generate.prompt import CONCEPTS, Prompt, read_prompt
from cell2text.models import GENERATOR
from cell2text.ontology.terms import label_of
from cell2text.provenance import library_versions
from cell2text.sources.gene_tables import approved_symbols


logger = logging.getLogger(__name__)

KEY = "cell2text_generate"
MAX_CELLS = 100_000
LIBRARIES = ("cell2text", "anndata", "numpy", "torch")


@cache
def load_generator() -> CellGenerator:
    """Load the generator of the package, once per process."""
    return CellGenerator.from_pretrained(GENERATOR)


def generate_cells(text: str, n: int = 500, *, seed: int = 0, generator: CellGenerator | None = None) -> AnnData:
    """Generate counts of cells that a text names; see :func:`cell2text.tl.generate`.

    Parameters
    ----------
    text, n, seed
        As for :func:`cell2text.tl.generate`.
    generator
        Generator to use instead of the packaged one.
    """
    check_numbers(n, seed)
    prompt = read_prompt(text)
    generator = generator or load_generator()
    rng = np.random.default_rng(seed)
    plan, notes = plan_cells(generator, prompt, n, rng)
    if prompt.not_used:
        notes.append(f"Words that no concept explains, and that have no effect: {', '.join(prompt.not_used)}.")
    logger.info(f"Understood {prompt.understood()}.")
    for note in notes:
        logger.warning(note)
    return AnnData(
        generator.sample(plan, rng).astype(np.float32),
        obs=_obs(plan, generator, seed),
        var=pd.DataFrame(
            {"feature_name": _symbols(generator.genes)}, index=pd.Index(generator.genes, name="ensembl_id")
        ),
        uns={KEY: _record(prompt, notes, plan, n, seed)},
    )


def check_numbers(n: int, seed: int) -> None:
    """Raise a `UserError` unless number of cells and seed are valid."""
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_CELLS:
        raise UserError(f"n={n!r}: expected a number of cells from 1 to {MAX_CELLS:,}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"seed={seed!r}: expected an integer of at least 0.")


def check_new_h5ad(out: str | os.PathLike, *, overwrite: bool) -> None:
    """Raise a `UserError` unless generated cells can be written to a path."""
    if Path(out).suffix != ".h5ad":
        raise UserError(f"out={str(out)!r}: expected a file with the suffix .h5ad.")
    if Path(out).exists() and not overwrite:
        raise UserError(f"out={str(out)!r} exists. Pass overwrite=True to replace it, or choose another path.")


def write_cells(cells: AnnData, out: str | os.PathLike) -> Path:
    """Write generated cells as h5ad, atomically; return the path."""
    path = Path(out)
    with atomic_path(path) as partial:
        cells.write_h5ad(partial, compression="gzip")
    return path


def _obs(plan: CellPlan, generator: CellGenerator, seed: int) -> pd.DataFrame:
    table = plan.table
    columns = {}
    for name in ("cell_type", "tissue", "disease"):
        columns[name] = [label_of(term) if term else "unknown" for term in table[name]]
        columns[f"{name}_ontology_term_id"] = [term or "unknown" for term in table[name]]
    columns["sex"] = [word or "unknown" for word in table["sex"]]
    columns["assay"] = [generator.config["styles"][name]["assay"] for name in table["style"]]
    index = [f"generated-{seed}-{i}" for i in range(len(table))]
    obs = pd.DataFrame(columns, index=index).astype("category")
    return obs.assign(generated=True)


def _symbols(genes: np.ndarray) -> list[str]:
    approved = approved_symbols()
    return [approved.get(gene, gene) for gene in genes]


def _record(prompt: Prompt, notes: list[str], plan: CellPlan, n: int, seed: int) -> dict[str, str]:
    """Return what was understood and used, as texts."""
    claims = {name: getattr(prompt, name) for name in CONCEPTS}
    concepts = {name: {"label": claim.name, "term_id": claim.term_id} for name, claim in claims.items() if claim}
    return {
        "text": prompt.text,
        "understood": prompt.understood(),
        "concepts": json.dumps(concepts, ensure_ascii=False),
        "notes": json.dumps(notes, ensure_ascii=False),
        "not_used": json.dumps(prompt.not_used, ensure_ascii=False),
        "styles": json.dumps({str(name): int(size) for name, size in plan.table["style"].value_counts().items()}),
        "n": str(n),
        "seed": str(seed),
        "libraries": json.dumps(library_versions(LIBRARIES)),
    }
