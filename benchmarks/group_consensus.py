"""Cell types of groups on unseen studies: consensus over probabilities, majority of texts, and the summed counts.

    python benchmarks/group_consensus.py DATA ATLAS        # benchmarks/results/group_consensus.json

DATA is the folder of the reference h5ad files, ATLAS the folder with further cells. The packaged model describes the
labelled cells of every unseen study once. Groups are labels, labels per donor, and Leiden clusters, whose true type is
the label of most of their cells. Settings were chosen by recipes/mini/group_calibration.py on other studies.
"""

import argparse
import json
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import yaml

import cell2text
from cell2text.describe.consensus import describe_groups
from cell2text.describe.engine import Describer
from cell2text.describe.group_types import GroupTypes
from cell2text.describe.groups import find_groups
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.evaluation.bootstrap import Resampler, interval, paired_difference
from cell2text.evaluation.named_types import named_type_replicates, named_type_values
from cell2text.files import write_atomically
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve
from source_cell2text import AnnDataContainer, CellSource


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "group_consensus.json"
GROUPINGS = ("label", "label per donor", "cluster")
# Ways to name a group, with their columns in the table of groups.
WAYS = {
    "consensus": ("cell_type", "type_probability"),
    "majority of texts": ("majority_cell_type", None),
    "summed counts": ("pseudobulk_cell_type", "pseudobulk_type_probability"),
}
MIN_CELLS = 3  # of a group that is scored
MAX_CLUSTER_GENES, N_COMPONENTS = 2000, 30


def clusters(adata: ad.AnnData) -> pd.Series:
    """Return the Leiden clusters of the cells' most variable genes, resolution 1."""
    cells = ad.AnnData(sp.csr_matrix(adata.X), obs=adata.obs[[]].copy(), var=adata.var[[]].copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=MAX_CLUSTER_GENES)
    sc.pp.pca(cells, n_comps=N_COMPONENTS, random_state=0)
    sc.pp.neighbors(cells, n_neighbors=10, random_state=0)
    sc.tl.leiden(cells, resolution=1.0, flavor="igraph", n_iterations=-1, random_state=0)
    return cells.obs["leiden"]


def columns_of_groups(adata: ad.AnnData, labels: list[str]) -> dict[str, pd.Series]:
    """Return the group of each cell, by grouping."""
    label = pd.Series(labels, index=adata.obs_names)
    return {
        "label": label,
        "label per donor": label + " of " + adata.obs["donor_id"].astype(str),
        "cluster": clusters(adata),
    }


def describe(adata: ad.AnnData, model: tuple) -> dict[str, pd.DataFrame]:
    """Describe the cells once, and return the table of groups with true terms for every grouping."""
    options = DescribeOptions(groupby="cell_type", allow_fractional=True)
    reader = CellReader(
        CellSource(AnnDataContainer(adata), allow_fractional=True), model[1], options, model[0].config.concepts
    )
    describer = Describer(*model, options)
    table = describer(reader.read(0, adata.n_obs))
    obs = adata.obs
    labels = [
        str(resolve("cell_type", *row).term_id) for row in zip(obs["cell_type"], obs["cell_type_ontology_term_id"])
    ]
    found = {}
    for grouping, column in columns_of_groups(adata, labels).items():
        groups = find_groups(column.reset_index(drop=True), grouping, None, 0)
        types = GroupTypes.of_model(model[0].config, len(groups.names))
        frame = describe_groups(
            groups, [table.drop_columns(["embedding"])], describer(reader.pseudobulk(groups)), types
        )
        of_group = [pd.Series(np.array(labels)[groups.codes == code]) for code in range(len(groups.names))]
        frame["true"] = [part.mode().iloc[0] for part in of_group]
        frame["purity"] = [float((part == true).mean()) for part, true in zip(of_group, frame["true"])]
        frame = frame[(frame["n_cells"] >= MIN_CELLS) & [term in load_graph("CL") for term in frame["true"]]]
        found[grouping] = frame.assign(grouping=grouping)
    return found


def replicates(frame: pd.DataFrame, way: str) -> dict[str, np.ndarray]:
    """Return the figures of one way to name groups, and their bootstrap replicates over groups."""
    name, probability = WAYS[way]
    terms = [
        None if not isinstance(value, str) else resolve("cell_type", value).term_id
        for value in frame[name].astype(object)
    ]
    stated = None if probability is None else frame[probability].to_numpy(dtype=float)
    resampler = Resampler([None] * len(frame))
    values = named_type_values(terms, frame["true"].tolist(), stated)
    figures = named_type_replicates(values, resampler)
    rows = np.arange(len(frame))
    right = np.nan_to_num(values["named_true"])
    exact = np.array([float(term == true) for term, true in zip(terms, frame["true"])])
    return figures | {"right": resampler.means(right, rows), "exact": resampler.means(exact, rows)}


def with_intervals(figures: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Return value, lower and upper bound of each figure."""
    return {name: [round(float(part), 4) for part in (of[0], *(interval(of) or ()))] for name, of in figures.items()}


def score(frame: pd.DataFrame) -> dict:
    """Return the figures of every way to name the groups, and the difference between the first two."""
    found = {way: replicates(frame, way) for way in WAYS}
    difference = {
        name: paired_difference(found["consensus"][name], found["majority of texts"][name])
        for name in ("right", "named_true", "named_depth", "exact")
    }
    right = {way: round(float(of["right"][0]) * len(frame)) for way, of in found.items()}
    scores = {way: with_intervals(of) | {"groups_right": right[way]} for way, of in found.items()}
    return {"groups": len(frame)} | scores | {"consensus minus majority": difference}


def flagged(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return how many clusters are flagged, among those with one label for most cells and the others."""
    large = frame[frame["n_cells"] >= 10]
    pure = large["purity"] >= 0.8
    return {
        kind: {"clusters": int(rows.sum()), "flagged": int(large.loc[rows, "heterogeneous"].sum())}
        for kind, rows in (("at least 80 % one label", pure), ("mixed", ~pure))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with further cells")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(PROJECT / "recipes" / "mini"))
    import data
    import scoring

    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    model, frames = cell2text.load(device="cpu"), []
    for name in (*sources["unseen"], *sources["validation"]):
        cells = scoring.test_cells(data.source_file(Namespace(**vars(args)), name), name, sources)
        frames += [frame.assign(study=name) for frame in describe(cells, model).values()]
        print(name, [len(frame) for frame in frames[-3:]], flush=True)
    every = pd.concat(frames, ignore_index=True)
    results = {
        "all": score(every),
        "groupings": {grouping: score(every[every["grouping"] == grouping]) for grouping in GROUPINGS},
        "studies": {name: score(part) for name, part in every.groupby("study", sort=False)},
        "flagged": flagged(every[every["grouping"] == "cluster"]),
    }
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    print(json.dumps({key: results["all"][key] for key in results["all"]}, indent=1))


if __name__ == "__main__":
    main()
