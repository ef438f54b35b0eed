"""Write the card of the generator from its training data and the results of benchmarks/generation.py."""

import json
from pathlib import Path

import pandas as pd
from training_cells import load_sources

from cell2text.files import write_atomically
from cell2text.generate.generator import CONFIG_FILE, SEEN_FILE, WEIGHTS_FILE


RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "generation.json"
CARD = """---
license: apache-2.0
tags:
- single-cell
- scRNA-seq
- cell2text
---

# Cell2Text generator

This model generates raw counts of human single cells from a cell type, a tissue, a disease, the sex of the donor and
fetal origin. It is part of the package `cell2text`:

```python
import cell2text

cells = cell2text.tl.generate("CD8-positive T cell from the lung of a patient with COVID-19", n=500)
```

Counts are negative binomial around a log-linear mean: a base, the style of a study, one vector per term and per term
above it in the ontologies, and a latent state of the cell, which a flow samples together with the depth. The weights
take {megabytes:.1f} MB (float16). The guide "Generate cells from words" describes the model and how close its cells are
to real ones.

## Results

{results}

## Limits

- Generated cells are not data. Do not use them to test a hypothesis about a tissue or a disease.
- A combination that was never seen is the sum of its effects. `.uns["cell2text_generate"]["notes"]` states it.
- Depth and assay come from {studies} studies. Types known from mean profiles alone borrow both.
- Human cells only. Not for clinical use.

## Training data

{cells:,} cells of {cell_types} types, and {profiles} mean profiles. Together they cover {types} types and {tissues}
tissues. Held-out donors: {held_out}.

| source | terms |
|---|---|
{sources}

Cell Ontology and UBERON: CC BY 4.0. MONDO: CC BY 4.0.

## Licence

Apache-2.0 for weights and code. The terms of the training data apply as well.
"""


def write_card(folder: Path) -> None:
    """Write README.md of a generator."""
    seen, sources = pd.read_csv(folder / SEEN_FILE, sep="\t", keep_default_na=False), load_sources()
    terms = {**sources["train"], "mean profiles": sources["profiles"]}
    text = CARD.format(
        megabytes=(folder / WEIGHTS_FILE).stat().st_size / 1e6,
        results=_results(),
        studies=seen.loc[seen["cells"] > 0, "style"].nunique(),
        cells=seen["cells"].sum(),
        cell_types=seen.loc[seen["cells"] > 0, "cell_type"].nunique(),
        profiles=json.loads((folder / CONFIG_FILE).read_text())["profiles"],
        types=seen["cell_type"].nunique(),
        tissues=seen.loc[seen["tissue"] != "", "tissue"].nunique(),
        held_out=", ".join(sources["test_donors"]),
        sources="\n".join(f"| {name} | {licence} |" for name, licence in terms.items()),
    )
    write_atomically(folder / "README.md", text)


def _results() -> str:
    found = json.loads(RESULTS.read_text())
    mean, trip = found["donors"]["mean"], found["roundtrip"]
    lines = ["Cells of test donors against as many other cells, mean over types (lower distances are better):", ""]
    lines += ["| | MMD | 1-Wasserstein | 2-Wasserstein | AUROC, real against other |", "|---|---|---|---|---|"]
    for name, label in (("generated", "generated"), ("resampled", "training cells"), ("mean_profile", "mean profile")):
        row = mean[name]
        figures = [f"{row[key]:.3f}" for key in ("mmd", "wasserstein_1", "wasserstein_2", "auroc")]
        lines.append(f"| {label} | {' | '.join(figures)} |")
    prompts = f"{100 * trip['share']:.0f} % of {trip['prompts']} prompts covering {trip['types']} cell types"
    described = f"For {prompts}, the packaged model gives"
    rest = "more than half of the generated cells the requested type, or a type above or below it in the Cell Ontology."
    return "\n".join([*lines, "", described, rest])
