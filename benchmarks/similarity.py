"""Measure PageRank similarity on the whole Cell Ontology: time, memory, and the difference from networkx.

    python benchmarks/similarity.py      # benchmarks/results/similarity.json; networkx takes a few minutes

Time and memory are measured on one thread in a fresh process that loads the ontology and computes the matrix. Memory is
the peak of the process, including libraries.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import numpy as np

from cell2text.ontology.graph import DAMPING, OntologyGraph, load_graph
from cell2text.ontology.terms import ontology_versions


RESULTS = Path(__file__).resolve().parent / "results" / "similarity.json"
BUILD = """
import json, time
import cell2text.ontology.graph as module
start = time.process_time()
graph = module.OntologyGraph(module.load_graph("CL").parents)
matrix = graph.similarity_matrix()
seconds = time.process_time() - start
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps({"terms": len(matrix), "seconds": round(seconds, 2), "MiB": round(peak)}))
"""


def measure_build() -> dict:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, env=settings, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def largest_difference(graph: OntologyGraph) -> float:
    """Return the largest absolute difference from the PageRank scores of networkx over all pairs of terms."""
    other = nx.Graph((term, parent) for term, parents in graph.parents.items() for parent in parents)
    worst = 0.0
    for i, term in enumerate(graph.terms):
        found = graph.pagerank(np.array([i]))[0]
        expected = nx.pagerank(other, alpha=DAMPING, personalization={term: 1.0}, tol=1e-14, max_iter=1000)
        worst = max(worst, float(np.abs(found - [expected[name] for name in graph.terms]).max()))
    return worst


def main() -> None:
    graph = load_graph("CL")
    matrix = graph.similarity_matrix()
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    start = time.perf_counter()
    result = {
        "ontology": f"CL {ontology_versions()['CL']}",
        **measure_build(),
        "largest_difference_from_networkx": largest_difference(graph),
        "mean": float(matrix.mean()),
        "median": float(np.median(matrix)),
        "standard_deviation": float(matrix.std()),
        "largest_off_diagonal": float(off.max()),
        "published_for_release_2025-09-10": {
            "terms": 3129, "mean": 0.048932, "median": 0.015773, "standard_deviation": 0.086674,
            "largest_off_diagonal": 0.987210,
        },
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(f"compared in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
