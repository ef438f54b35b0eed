"""How near two terms of an ontology are: personalised PageRank as published, Lin's measure, steps to a common ancestor.

Source of the first: Cell2Text, arXiv 2509.24840v2. The graph is the ontology's own is_a edges (in UBERON also part_of,
as `cellxgene-ontology-guide` joins them), undirected, without retired terms.
"""

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from cell2text.data.ontology import ontology_parser, ontology_versions
from vocabulary_cell2text import write_atomically


logger = logging.getLogger(__name__)

DAMPING = 0.9
SCALE = 1e-4  # a score of this size counts as log 2 before it is scaled
SOLVED_AT_ONCE = 256
CACHE_VARIABLE = "CELL2TEXT_CACHE"


class OntologyGraph:
    """Terms of one ontology and what each is a kind of.

    Parameters
    ----------
    parents
        For every term its direct parents; parents that are no key are left out.
    range_file
        Where the two numbers that scale the similarity are kept; they are computed where this is None.
    """

    def __init__(self, parents: Mapping[str, Collection[str]], range_file: Path | None = None):
        self.terms = sorted(parents)
        self.index = {term: i for i, term in enumerate(self.terms)}
        self.parents = {term: sorted(set(parents[term]) & self.index.keys() - {term}) for term in self.terms}
        self._range_file = range_file
        self._rows: dict[str, np.ndarray] = {}

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
        """Factors of I - damping * (random walk); a term without an edge walks to itself."""
        degree = np.asarray(self.adjacency.sum(axis=1)).ravel()
        walk = self.adjacency @ sp.diags_array(1 / np.maximum(degree, 1)) + sp.diags_array((degree == 0).astype(float))
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
    def _range(self) -> tuple[float, float]:
        """Lowest and highest logarithm of all pairs: once an ontology, since every pair has to be computed."""
        if self._range_file is not None and self._range_file.exists():
            try:
                kept = json.loads(self._range_file.read_text(encoding="utf-8"))
                return float(kept["lowest"]), float(kept["highest"])
            except (ValueError, KeyError, TypeError) as error:
                logger.warning(f"{self._range_file} is damaged ({error}): computed again.")
        lowest, highest = np.inf, -np.inf
        for _, block in self._logarithms():
            lowest, highest = min(lowest, float(block.min())), max(highest, float(block.max()))
        if self._range_file is not None:
            try:
                self._range_file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._range_file, json.dumps({"lowest": lowest, "highest": highest}) + "\n")
            except OSError as error:
                logger.warning(f"{self._range_file} cannot be written ({error}): it is computed again next time.")
        return lowest, highest

    def _scaled(self, logarithms: np.ndarray) -> np.ndarray:
        lowest, highest = self._range
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

    @cached_property
    def _ancestors(self) -> dict[str, dict[str, int]]:
        return {}

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
        term: [above for above, steps in (entries[term].get("ancestors") or {}).items() if steps == 1 and above in current]
        for term in current
    }
    return OntologyGraph(parents, cache_folder() / f"pagerank-{ontology}-{ontology_versions()[ontology]}.json")


def cache_folder() -> Path:
    """`$CELL2TEXT_CACHE`, else `cell2text` in the user's cache."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cell2text"
