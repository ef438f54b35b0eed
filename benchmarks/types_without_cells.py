"""Name cell types that have a definition or markers, but no training cells.

    PYTHONPATH=. python benchmarks/types_without_cells.py DATA ATLAS WORK   # results/types_without_cells.json

DATA, ATLAS and WORK are the folders of `recipes/mini/build.py`, whose rows are used. A fifth of the types that have
cells, a definition and markers of their own is left out with all their cells and doublets. Encoder and concepts are
trained with the packaged recipe on the other types. The cells of the types left out are then named among these types:

definitions: a network maps the cell's embedding to the sentence embedding of its type's definition; it is trained
    contrastively on the other types (each cell against the definitions of all of them)
names: the same with the names of the types instead of the definitions
markers: share of the first markers of a type among the cell's genes, weighted by rank, less its mean over these cells
ontology: similarity in the Cell Ontology to the types that the trained model finds probable

The options of the network are chosen on a tenth of the other types, which are left out of its training in turn.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from torch import nn

from cell2text.files import write_atomically
from cell2text.ontology.definitions import term_definition
from cell2text.ontology.graph import load_graph
from cell2text.ontology.markers import marker_genes
from cell2text.ontology.terms import label_of, resolve
from cell2text.training.row_columns import column_values


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "types_without_cells.json"
LEFT_OUT, VALIDATION = 0.2, 0.1  # shares of types
LEAST_CELLS, CELLS_PER_TYPE = 10, 60
N_MARKERS = 20
TEMPERATURES, EPOCHS = (0.05, 0.1), (10, 40)
BATCH_SIZE, SEED = 256, 0


def choose_types(terms: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Return the types to leave out."""
    found, counts = np.unique(terms[terms != ""], return_counts=True)
    usable = [
        str(term)
        for term, n in zip(found, counts)
        if n >= LEAST_CELLS and term_definition(term) and (known := marker_genes(term)) and known.term_id == term
    ]
    return sorted(rng.choice(usable, int(LEFT_OUT * len(usable)), replace=False).tolist())


def sample(terms: np.ndarray, wanted: set[str], rng: np.random.Generator) -> np.ndarray:
    """Return the rows of at most `CELLS_PER_TYPE` cells of each wanted type."""
    rows = [rng.permutation(np.flatnonzero(terms == term))[:CELLS_PER_TYPE] for term in sorted(wanted)]
    return np.sort(np.concatenate(rows))


@torch.inference_mode()
def encode(model, processor, cells: list) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings, shape (n_cells, cell_hidden), and probabilities of the types, shape (n_cells, n_types)."""
    embeddings, types = [], []
    for start in range(0, len(cells), BATCH_SIZE):
        batch = processor.pad_cells([[cell] for cell in cells[start : start + BATCH_SIZE]], return_tensors="pt")
        summary = model.summarise_cells(**batch)
        embeddings.append(summary.means[:, 0].float().numpy())
        types.append(model.config.concepts.split(summary.concepts[:, 0])["cell_type"].float().numpy())
    return np.concatenate(embeddings), np.concatenate(types)


def align(features: np.ndarray, targets: np.ndarray, texts: np.ndarray, temperature: float, epochs: int) -> nn.Module:
    """Train a network from embeddings of cells to those of texts, each cell against all texts."""
    torch.manual_seed(SEED)
    network = nn.Sequential(
        nn.LayerNorm(features.shape[1]), nn.Linear(features.shape[1], 512), nn.GELU(), nn.Dropout(0.2),
        nn.Linear(512, texts.shape[1]),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    values, labels, anchors = torch.tensor(features), torch.tensor(targets), torch.tensor(texts)
    for _ in range(epochs):
        for rows in torch.randperm(len(values)).split(BATCH_SIZE):
            cells = nn.functional.normalize(network(values[rows]), dim=-1)
            loss = nn.functional.cross_entropy(cells @ anchors.T / temperature, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def cosine(network: nn.Module, features: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the similarity of each cell to each text, shape (n_cells, n_texts)."""
    return nn.functional.normalize(network(torch.tensor(features)), dim=-1).numpy() @ texts.T


def score_texts(seen: dict, unseen: dict, texts: dict[str, np.ndarray]) -> tuple[np.ndarray, dict]:
    """Choose the options on some of the seen types, train on all of them, and score the unseen types."""
    rng, names = np.random.default_rng(SEED), sorted(set(seen["terms"]))
    held_out = set(rng.choice(names, int(VALIDATION * len(names)), replace=False).tolist())
    kept = [name for name in names if name not in held_out]
    validation = np.isin(seen["terms"], list(held_out))

    def train(rows: np.ndarray, types: list[str], temperature: float, epochs: int) -> nn.Module:
        places = {name: place for place, name in enumerate(types)}
        targets = np.array([places[term] for term in seen["terms"][rows]])
        return align(seen["features"][rows], targets, np.stack([texts[name] for name in types]), temperature, epochs)

    tried = {}
    for temperature in TEMPERATURES:
        for epochs in EPOCHS:
            network = train(np.flatnonzero(~validation), kept, temperature, epochs)
            columns = sorted(held_out)
            scores = cosine(network, seen["features"][validation], np.stack([texts[name] for name in columns]))
            tried[temperature, epochs] = accuracy(scores, seen["terms"][validation], columns)
    temperature, epochs = max(tried, key=lambda options: tried[options])
    network = train(np.arange(len(seen["terms"])), names, temperature, epochs)
    scores = cosine(network, unseen["features"], np.stack([texts[name] for name in unseen["types"]]))
    return scores, {"temperature": temperature, "epochs": epochs, "validation": round(tried[temperature, epochs], 4)}


def score_markers(cells: list, types: list[str], tokens: list[str]) -> np.ndarray:
    """Return the mean weight of the markers of each type, 1 for the first gene of a cell, 0 for its last and others."""
    places = {token: place for place, token in enumerate(tokens)}
    markers = [
        np.array([places[gene] for gene in marker_genes(term).genes if gene in places][:N_MARKERS]) for term in types
    ]
    if not all(map(len, markers)):
        raise SystemExit("A type has no marker in the vocabulary.")
    scores = np.zeros((len(cells), len(types)))
    for row, cell in enumerate(cells):
        weights = np.zeros(len(tokens))
        weights[np.asarray(cell)] = np.linspace(1, 0, len(cell), endpoint=False)
        scores[row] = [weights[found].mean() for found in markers]
    return scores - scores.mean(axis=0)  # some markers are expressed in most cells


def score_ontology(probabilities: np.ndarray, names: list[str], types: list[str]) -> np.ndarray:
    """Return the similarity of each type to those that are probable, weighted by the probability of no subtype."""
    graph = load_graph("CL")
    terms = [resolve("cell_type", name).term_id for name in names]
    similar = np.array([[graph.lin_similarity(term, other) or 0.0 for other in types] for term in terms])
    depth = np.array([graph.depth(term) if term in graph else 0 for term in terms], dtype=float)
    weights = probabilities * depth
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)) @ similar


def accuracy(scores: np.ndarray, truth: np.ndarray, types: list[str]) -> float:
    """Return the accuracy over types: the mean of the shares of each type's cells that are named right."""
    right = np.array(types)[scores.argmax(axis=1)] == truth
    return float(np.mean([right[truth == term].mean() for term in sorted(set(truth))]))


def measure(args: argparse.Namespace) -> dict:
    sys.path.insert(0, str(PROJECT / "recipes" / "mini"))
    import data
    import folds
    import gene_vectors
    import yaml

    sources = yaml.safe_load((PROJECT / "recipes" / "mini" / "sources.yaml").read_text())
    folder, rng = data.prepare_rows(args, sources), np.random.default_rng(SEED)
    rows = load_dataset(str(folder), split="train")
    terms = np.array([term or "" for term in column_values(rows, "cell_type_ontology_term_id")])
    types = choose_types(terms, rng)
    second = np.array([resolve("cell_type", name).term_id for name in column_values(rows, "second_cell_type")])
    learned = rows.select(np.flatnonzero(~np.isin(terms, types) & ~np.isin(second, types)))
    model, processor = folds.train_types(folder, learned, args.work / "types_without_cells", {})
    seen_types = {str(term) for term in set(terms) if term and term_definition(term)} - set(types)
    parts = {}
    for name, wanted in (("seen", seen_types), ("unseen", set(types))):
        chosen = sample(terms, wanted, rng)
        cells = [cells[0] for cells in column_values(rows.select(chosen), "cells")]
        features, probabilities = encode(model, processor, cells)
        parts[name] = {"features": features, "probabilities": probabilities, "terms": terms[chosen], "cells": cells}
    seen, unseen = parts["seen"], parts["unseen"] | {"types": types}
    both = sorted(seen_types | set(types))
    found = {}
    for name, texts in (
        ("definitions", [f"{label_of(term)}: {term_definition(term)}" for term in both]),
        ("names", [label_of(term) for term in both]),
    ):
        vectors = dict(zip(both, gene_vectors.embed_sentences(texts, "cpu")))
        scores, options = score_texts(seen, unseen, vectors)
        found[name] = {"accuracy": round(accuracy(scores, unseen["terms"], types), 4), **options}
    markers = score_markers(unseen["cells"], types, processor.gene_vocabulary.tokens)
    found["markers"] = {"accuracy": round(accuracy(markers, unseen["terms"], types), 4)}
    names = model.config.concept_groups["cell_type"]
    ontology = score_ontology(unseen["probabilities"], names, types)
    found["ontology"] = {"accuracy": round(accuracy(ontology, unseen["terms"], types), 4)}
    return {
        "types_left_out": len(types), "types_seen": len(seen_types), "cells": len(unseen["cells"]),
        "chance": round(1 / len(types), 4), "systems": found, "types": [label_of(term) for term in types],
    }  # fmt: skip


def parse_folders(description: str | None) -> argparse.Namespace:
    """Parse the folders of `recipes/mini/build.py` from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference h5ad files")
    parser.add_argument("atlas", type=Path, help="folder with mean profiles and further cells")
    parser.add_argument("work", type=Path, help="work folder of recipes/mini/build.py")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    results = measure(parse_folders(__doc__))
    print(json.dumps(results, indent=1))
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
