"""Measure generated cells against real cells of held-out donors, and describe them with the packaged model.

    python benchmarks/generation.py DATA ATLAS
    python benchmarks/generation.py DATA ATLAS --parts donors roundtrip
    python benchmarks/generation.py DATA ATLAS --parts combinations --combinations FOLDER

DATA and ATLAS are the folders of recipes/generator/build.py. FOLDER is a generator that was trained without the pairs
of type and tissue in options.yaml (`build.py DATA ATLAS --without-combinations --out FOLDER`).

Each type of a study with enough cells of test donors is generated from words ("macrophage from the kidney"), and its
cells are compared with those of the test donors. Two baselines are compared in the same way: training cells of the type
and tissue, and Poisson counts around their mean. Writes benchmarks/results/generation.json.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import yaml
from generation_metrics import Space, compare
from sklearn.linear_model import LogisticRegression


PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "recipes" / "generator"))

import training_cells  # noqa: E402

from cell2text.files import write_atomically  # noqa: E402
from cell2text.generate.generator import CellGenerator  # noqa: E402
from cell2text.generate.run import generate_cells  # noqa: E402
from cell2text.models import GENERATOR  # noqa: E402
from cell2text.ontology.graph import load_graph  # noqa: E402
from cell2text.ontology.terms import label_of  # noqa: E402


RESULTS = PROJECT / "benchmarks" / "results" / "generation.json"
MIN_CELLS, MAX_CELLS = 20, 200  # of a type, to compare it
SYSTEMS = ("generated", "resampled", "mean_profile")
PARTS = ("donors", "combinations", "roundtrip")
N_PROMPTS, N_TYPES, CELLS_PER_PROMPT = 100, 30, 20


@dataclass
class Study:
    """Training and held-out cells of a study on the genes of its file that the generator has."""

    name: str
    train: ad.AnnData
    test: ad.AnnData
    columns: np.ndarray  # of these genes among the generator's

    def tissue(self) -> str:
        return self.train.obs["tissue"].mode().iloc[0]


def read_study(path: Path, genes: np.ndarray, test_donors: list[str]) -> Study:
    """Read a study; `genes` are those of the generator."""
    adata = training_cells.read_cells(path)
    shared = np.flatnonzero(pd.Index(genes).isin(adata.var_names))
    counts = training_cells.counts_on(adata, genes[shared])
    cells = ad.AnnData(counts, obs=adata.obs)
    held_out = adata.obs["donor"].isin([f"{path.stem} {donor}" for donor in test_donors]).to_numpy()
    return Study(path.stem, cells[~held_out].copy(), cells[held_out].copy(), shared)


def prompt_of(term: str, tissue: str) -> str:
    """Return the words that ask for a type and tissue."""
    return f"{label_of(term)} from the {label_of(tissue)}"


def generated(generator: CellGenerator, study: Study, term: str, n: int, seed: int = 0) -> sp.csr_matrix:
    """Generate cells of a type in the tissue of a study, on the study's genes."""
    cells = generate_cells(prompt_of(term, study.tissue()), n, seed=seed, generator=generator)
    return sp.csr_matrix(cells.X[:, study.columns])


def resampled(pool: sp.csr_matrix, n: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Return training cells, without repetition if there are enough."""
    return pool[rng.choice(pool.shape[0], size=n, replace=pool.shape[0] < n)]


def mean_profile(pool: sp.csr_matrix, n: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Return Poisson counts around the mean of training cells, with the depths of training cells."""
    share = np.asarray(pool.sum(axis=0)).ravel() / pool.sum()
    depths = rng.choice(np.asarray(pool.sum(axis=1)).ravel(), size=n)
    return sp.csr_matrix(rng.poisson(depths[:, None] * share).astype(np.float32))


def compare_type(
    generator: CellGenerator, study: Study, space: Space, term: str, real: sp.csr_matrix, pool: sp.csr_matrix
) -> dict:  # fmt: skip
    """Compare one type: all systems against the real cells."""
    rng = np.random.default_rng(0)
    real = real[rng.permutation(real.shape[0])[:MAX_CELLS]]
    n = real.shape[0]
    others = {
        "generated": generated(generator, study, term, n),
        "resampled": resampled(pool, n, rng),
        "mean_profile": mean_profile(pool, n, rng),
    }
    expression = space.expression(real)
    found = {name: compare(expression, space.expression(counts), space) for name, counts in others.items()}
    return {"study": study.name, "type": label_of(term), "cells": n, "training_cells": pool.shape[0]} | found


def measure_donors(generator: CellGenerator, studies: list[Study]) -> dict:
    """Compare every type of the test donors that has enough cells, and train classifiers."""
    rows, classifiers = [], {}
    for study in studies:
        if study.test.n_obs < MIN_CELLS:
            continue
        space = Space.of(study.train.X)
        for term, n in study.test.obs["cell_type"].value_counts().items():
            pool = study.train.X[(study.train.obs["cell_type"] == term).to_numpy()]
            if n >= MIN_CELLS and pool.shape[0] >= MIN_CELLS:
                real = study.test.X[(study.test.obs["cell_type"] == term).to_numpy()]
                rows.append(compare_type(generator, study, space, term, real, pool))
                print(json.dumps(rows[-1]), flush=True)
        classifiers[study.name] = classify(generator, study, space)
        print(json.dumps(classifiers[study.name]), flush=True)
    return {"types": rows, "mean": mean_of(rows), "classifiers": classifiers}


def mean_of(rows: list[dict]) -> dict:
    """Average the figures of all types, by system."""
    return {
        system: {key: round(float(np.mean([row[system][key] for row in rows])), 4) for key in rows[0][system]}
        for system in SYSTEMS
    }


def classify(generator: CellGenerator, study: Study, space: Space) -> dict:
    """Train logistic regression on real, generated and baseline cells, and test it on the test donors."""
    sizes = study.train.obs["cell_type"].value_counts()
    tested = set(study.test.obs["cell_type"])
    terms = [term for term in sizes.index if term in tested and sizes[term] >= 5]
    if len(terms) < 2:
        return {}
    rng, sets = np.random.default_rng(0), {name: [] for name in ("real", *SYSTEMS)}
    for term in terms:
        pool = study.train.X[(study.train.obs["cell_type"] == term).to_numpy()]
        n = min(pool.shape[0], MAX_CELLS)
        sets["real"].append(pool[rng.permutation(pool.shape[0])[:n]])
        sets["generated"].append(generated(generator, study, term, n, seed=1))
        sets["resampled"].append(resampled(pool, n, rng))
        sets["mean_profile"].append(mean_profile(pool, n, rng))
    labels = np.repeat(terms, [counts.shape[0] for counts in sets["real"]])
    kept = study.test.obs["cell_type"].isin(terms).to_numpy()
    test, truth = space.expression(study.test.X[kept]), study.test.obs["cell_type"][kept].to_numpy()
    found = {"types": len(terms), "cells": int(kept.sum())}
    for name, parts in sets.items():
        model = LogisticRegression(C=0.1, max_iter=300).fit(space.expression(sp.csr_matrix(sp.vstack(parts))), labels)
        found[name] = round(float(model.score(test, truth)), 4)
    return found


def measure_combinations(generator: CellGenerator, studies: list[Study], pairs: list[list[str]]) -> dict:
    """Compare pairs of type and tissue that the generator never saw with all their real cells.

    Baselines are the type's training cells of other tissues.
    """
    rows, skipped, known = [], [], {study.name: study for study in studies}
    for name, term in pairs:
        study = known[name]
        others = [other for other in studies if other.tissue() != study.tissue()]
        pool = sp.csr_matrix(sp.vstack([_on(other, study, term) for other in others]))
        if not pool.shape[0]:
            skipped.append(f"{label_of(term)}, {name}: no cells of the type in other tissues")
            continue
        rest = study.train[study.train.obs["cell_type"] != term]
        real = study.train.X[(study.train.obs["cell_type"] == term).to_numpy()]
        rows.append(
            compare_type(generator, study, Space.of(sp.csr_matrix(sp.vstack([rest.X, real]))), term, real, pool)
        )
        print(json.dumps(rows[-1]), flush=True)
    return {"pairs": rows, "skipped": skipped, "mean": mean_of(rows)}


def _on(other: Study, study: Study, term: str) -> sp.csr_matrix:
    """Return the cells of a type, or of types below it, of another study on the genes of a study."""
    graph = load_graph("CL")
    rows = np.array([term in graph.ancestors(name) for name in other.train.obs["cell_type"]])
    here, there = np.intersect1d(other.columns, study.columns, return_indices=True)[1:]
    to_genes = sp.csr_matrix((np.ones(len(here)), (here, there)), shape=(len(other.columns), len(study.columns)))
    return sp.csr_matrix(other.train.X[rows] @ to_genes, dtype=np.float32)


def prompts_of(generator: CellGenerator) -> list[tuple[str, str]]:
    """Return prompts with the term that each asks for: types seen as cells first, in varied words and origins."""
    seen = generator.seen[generator.seen["cell_type"].map(_is_specific)]
    cells = seen.groupby("cell_type")["cells"].sum()
    order = [*cells[cells > 0].sort_values(ascending=False).index[:15], *cells[cells == 0].index]
    rng = np.random.default_rng(0)
    types = [*order[:15], *rng.permutation(order[15:])[: N_TYPES - 15]]
    found: list[tuple[str, str]] = []
    for i in range(N_PROMPTS):
        term = types[i % N_TYPES]
        origins = seen[seen["cell_type"] == term][["tissue", "disease", "stage"]].drop_duplicates()
        row = origins.iloc[(i // N_TYPES) % len(origins)]
        found.append((_words(term, row, i // N_TYPES), term))
    return found


def _is_specific(term: str) -> bool:
    return load_graph("CL").depth(term) >= 4 if term in load_graph("CL") else False


def _words(term: str, origin: pd.Series, variant: int) -> str:
    name = label_of(term)
    place = f" from the {label_of(origin['tissue'])}" if origin["tissue"] else ""
    ill = origin["disease"] and origin["disease"] != "PATO:0000461"
    donor = f" of a patient with {label_of(origin['disease'])}" if ill else ""
    fetal = "fetal " if origin["stage"] else ""
    sex = ("", " of a male donor", " of a female donor", "")[variant % 4] if not donor else ""
    return f"{fetal}{name}{place}{donor}{sex}"


def measure_roundtrip(generator: CellGenerator) -> dict:
    """Describe generated cells with the packaged model; return the share of prompts whose cells mostly get the type."""
    from cell2text import tl

    prompts = prompts_of(generator)
    cells = ad.concat(
        [generate_cells(text, CELLS_PER_PROMPT, seed=i, generator=generator) for i, (text, _) in enumerate(prompts)],
        index_unique="-", keys=[str(i) for i in range(len(prompts))],
    )  # fmt: skip
    tl.describe(cells, max_new_tokens=40)
    named = cells.obs["cell2text_cell_type_ontology_term_id"].astype(object).to_numpy().reshape(len(prompts), -1)
    graph, rows = load_graph("CL"), []
    for (text, term), of_prompt in zip(prompts, named):
        true = [isinstance(name, str) and graph.related(name, term) for name in of_prompt]
        rows.append({"text": text, "type": label_of(term), "true": float(np.mean(true))})
    share = float(np.mean([row["true"] > 0.5 for row in rows]))
    return {"prompts": len(rows), "types": len({row["type"] for row in rows}), "share": round(share, 4), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with mean profiles and further cells")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="defaults to all")
    parser.add_argument("--generator", type=Path, default=GENERATOR, help="folder; the packaged generator if omitted")
    parser.add_argument("--combinations", type=Path, help="generator that never saw the pairs of options.yaml")
    parser.add_argument("--test-donors", nargs="*", help="donors to test on; the test donors of the sources if omitted")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    generator, sources = CellGenerator.from_pretrained(args.generator), training_cells.load_sources()
    donors = args.test_donors or sources["test_donors"]
    results = {}
    if {"donors", "combinations"} & set(args.parts):
        paths = [training_cells.source_file(args.data, args.atlas, name) for name in sources["train"]]
        studies = [read_study(path, generator.genes, donors) for path in paths if path.parent == args.data]
    if "donors" in args.parts:
        results["donors"] = measure_donors(generator, studies)
    if "combinations" in args.parts and args.combinations:
        pairs = yaml.safe_load((PROJECT / "recipes" / "generator" / "options.yaml").read_text())["combinations"]
        results["combinations"] = measure_combinations(CellGenerator.from_pretrained(args.combinations), studies, pairs)
    if "roundtrip" in args.parts:
        results["roundtrip"] = measure_roundtrip(generator)
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    write_atomically(args.out, json.dumps(before | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
