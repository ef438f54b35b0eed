"""How near two terms of an ontology are: personalised PageRank as published, Lin's measure, steps to a common ancestor.

Source of the first: Cell2Text, arXiv 2509.24840v2. The graph is the ontology's own is_a edges (in UBERON also part_of,
as `cellxgene-ontology-guide` joins them), undirected, without retired terms and terms that no edge reaches.

    python -m cell2text.ontology.graph     # writes pagerank_ranges.json for the ontologies' present versions
"""

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from cell2text.files import write_atomically
from cell2text.ontology.terms import ontology_parser, ontology_versions


DAMPING = 0.9
SCALE = 1e-4  # a score of this size counts as log 2 before it is scaled
SOLVED_AT_ONCE = 256
RANGES = "pagerank_ranges.json"
ONTOLOGIES = ("CL", "UBERON", "MONDO")


class OntologyGraph:
    """Terms of one ontology and what each is a kind of.

    Parameters
    ----------
    parents
        For every term its direct parents; parents that are no key are left out.
    logarithm_range
        Lowest and highest logarithm of all pairs, which scale the similarity; computed where this is None.
    """

    def __init__(self, parents: Mapping[str, Collection[str]], logarithm_range: tuple[float, float] | None = None):
        above = {
            term: {parent for parent in found if parent in parents and parent != term}
            for term, found in parents.items()
        }
        connected = {term for term, found in above.items() if found}.union(*above.values())
        self.terms = sorted(connected)
        self.index = {term: i for i, term in enumerate(self.terms)}
        self.parents = {term: sorted(above[term]) for term in self.terms}
        self._known_range = logarithm_range
        self._rows: dict[str, np.ndarray] = {}
        self._ancestors: dict[str, dict[str, int]] = {}

    def __contains__(self, term: str | None) -> bool:
        return term in self.index

    @cached_property
    def adjacency(self) -> sp.csr_matrix:
        """Undirected edges, 0 or 1, shape (n_terms, n_terms)."""
        edges = [(self.index[term], self.index[parent]) for term, above in self.parents.items() for parent in above]
        rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
        n = len(self.terms)
        directed = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
        return sp.csr_matrix(((directed + directed.T) > 0).astype(np.float64))

    @cached_property
    def _solver(self):
        """Factors of I - damping * (random walk)."""
        degree = np.asarray(self.adjacency.sum(axis=1)).ravel()
        walk = self.adjacency @ sp.diags_array(1 / degree)
        system = sp.csc_matrix(sp.eye_array(len(self.terms)) - DAMPING * walk)
        return splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0)

    def pagerank(self, sources: np.ndarray) -> np.ndarray:
        """Personalised PageRank from each source, exact, shape (n_sources, n_terms); a row adds up to 1."""
        restart = np.zeros((len(self.terms), len(sources)))
        restart[sources, np.arange(len(sources))] = 1 - DAMPING
        return self._solver.solve(restart).T

    def _logarithms(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self.terms), SOLVED_AT_ONCE):
            yield start, logarithm(self.pagerank(np.arange(start, min(start + SOLVED_AT_ONCE, len(self.terms)))))

    @cached_property
    def logarithm_range(self) -> tuple[float, float]:
        """Lowest and highest logarithm of all pairs; for a large ontology half a minute unless it is known."""
        if self._known_range is not None:
            return self._known_range
        blocks = [(float(block.min()), float(block.max())) for _, block in self._logarithms()]
        return min(low for low, _ in blocks), max(high for _, high in blocks)

    def _scaled(self, logarithms: np.ndarray) -> np.ndarray:
        lowest, highest = self.logarithm_range
        return (logarithms - lowest) / ((highest - lowest) or 1.0)

    def similarity_matrix(self) -> np.ndarray:
        """Similarity of every pair, rows predictions, columns targets, float64, shape (n_terms, n_terms)."""
        matrix = np.empty((len(self.terms), len(self.terms)))
        for start, block in self._logarithms():
            matrix[start : start + len(block)] = self._scaled(block)
        np.fill_diagonal(matrix, 1.0)
        return matrix

    def pagerank_similarity(self, predicted: str | None, target: str | None) -> float:
        """From 0 to 1; 1 for the same term, 0 where either is no term of the ontology."""
        if predicted not in self.index or target not in self.index:
            return 0.0
        if predicted == target:
            return 1.0
        if predicted not in self._rows:
            self._rows[predicted] = self._scaled(logarithm(self.pagerank(np.array([self.index[predicted]]))[0]))
        return float(self._rows[predicted][self.index[target]])

    def ancestors(self, term: str) -> dict[str, int]:
        """A term and all above it, with the fewest steps to each."""
        if term not in self._ancestors:
            steps, level = {term: 0}, [term]
            while level:
                level = [above for below in level for above in self.parents[below]]
                level = [above for above in dict.fromkeys(level) if above not in steps]
                steps |= dict.fromkeys(level, max(steps.values()) + 1)
            self._ancestors[term] = steps
        return self._ancestors[term]

    @cached_property
    def information(self) -> dict[str, float]:
        """Information content from the graph alone (Seco et al. 2004): 1 for a leaf, 0 for a root above everything."""
        below = dict.fromkeys(self.terms, 0)
        for term in self.terms:
            for above in self.ancestors(term):
                below[above] += 1  # itself included
        total = np.log(max(len(self.terms), 2))
        return {term: float(1 - np.log(count) / total) for term, count in below.items()}

    def lin_similarity(self, predicted: str | None, target: str | None) -> float:
        """Lin's measure: twice the information of the best common ancestor over that of both; 0 where there is none."""
        if predicted not in self.index or target not in self.index:
            return 0.0
        if predicted == target:
            return 1.0
        common = self.ancestors(str(predicted)).keys() & self.ancestors(str(target)).keys()
        both = self.information[str(predicted)] + self.information[str(target)]
        return 2 * max((self.information[term] for term in common), default=0.0) / both if both else 0.0

    def common_ancestor_distance(self, predicted: str | None, target: str | None) -> int | None:
        """Steps from one term up to the nearest common ancestor and down to the other; None where there is none."""
        if predicted not in self.index or target not in self.index:
            return None
        up, down = self.ancestors(str(predicted)), self.ancestors(str(target))
        return min((up[term] + down[term] for term in up.keys() & down.keys()), default=None)

    def related(self, predicted: str | None, target: str | None) -> bool:
        """Whether one term is the other, or stands above it."""
        if predicted not in self.index or target not in self.index:
            return False
        return predicted in self.ancestors(str(target)) or target in self.ancestors(str(predicted))


def logarithm(scores: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(scores, 0) / SCALE + 1e-12)


@cache
def load_graph(ontology: str) -> OntologyGraph:
    """The current terms of an ontology that `cellxgene-ontology-guide` carries: `CL`, `UBERON`, `MONDO`, `HsapDv`."""
    entries = ontology_parser().cxg_schema.ontology(ontology)
    current = {term for term, entry in entries.items() if not entry.get("deprecated") and term.startswith(ontology)}
    parents = {
        term: [
            above for above, steps in (entries[term].get("ancestors") or {}).items() if steps == 1 and above in current
        ]
        for term in current
    }
    kept = json.loads(files("cell2text.ontology").joinpath(RANGES).read_text(encoding="utf-8"))
    known = kept.get(f"{ontology} {ontology_versions()[ontology]}")
    return OntologyGraph(parents, tuple(known) if known else None)


def main() -> None:
    ranges = {f"{name} {ontology_versions()[name]}": load_graph(name).logarithm_range for name in ONTOLOGIES}
    write_atomically(Path(__file__).with_name(RANGES), json.dumps(ranges, indent=1) + "\n")


if __name__ == "__main__":
    main()
