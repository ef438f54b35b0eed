"""Similarity of two ontology terms: personalised PageRank, Lin's measure, and steps to a common ancestor.

PageRank similarity follows Cell2Text (arXiv 2509.24840v2): a random walk starts at the predicted term, and the
logarithm of the probability to be at the target term is scaled to 0..1. The graph has the ontology's `is_a` edges (for
UBERON also `part_of`, which `cellxgene-ontology-guide` joins with them), undirected, without retired terms and terms
without edges.

    python -m cell2text.ontology.graph     # computes pagerank_ranges.json for the installed ontology releases
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
SCORE_UNIT = 1e-4  # a PageRank score of this size has the logarithm log(2)
RANGES_FILE = "pagerank_ranges.json"
ONTOLOGIES = ("CL", "UBERON", "MONDO")

_BLOCK_TERMS = 256  # terms solved for at once


class OntologyGraph:
    """Terms of one ontology and their direct parents.

    Parameters
    ----------
    parents
        Direct parents of each term; parents that are not themselves a key are ignored.
    log_range
        Lowest and highest logarithm over all pairs, which scale the PageRank similarity. Defaults to None: computed at
        the first use, which takes half a minute for a large ontology.

    Examples
    --------
    >>> graph = OntologyGraph({"animal": [], "cat": ["animal"], "dog": ["animal"]})
    >>> graph.common_ancestor_distance("cat", "dog")
    2
    """

    def __init__(self, parents: Mapping[str, Collection[str]], log_range: tuple[float, float] | None = None):
        direct = {
            term: {parent for parent in above if parent in parents and parent != term}
            for term, above in parents.items()
        }
        connected = {term for term, above in direct.items() if above}.union(*direct.values())
        self.terms = sorted(connected)
        self.index = {term: i for i, term in enumerate(self.terms)}
        self.parents = {term: sorted(direct[term]) for term in self.terms}
        self._given_range = log_range
        self._similarity_rows: dict[str, np.ndarray] = {}
        self._ancestors: dict[str, dict[str, int]] = {}
        self._depths: dict[str, int] = {}

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
        """Factorise I - damping * (random walk)."""
        degree = np.asarray(self.adjacency.sum(axis=1)).ravel()
        walk = self.adjacency @ sp.diags_array(1 / degree)
        system = sp.csc_matrix(sp.eye_array(len(self.terms)) - DAMPING * walk)
        return splu(system, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0)

    def pagerank(self, sources: np.ndarray) -> np.ndarray:
        """Compute personalised PageRank exactly from each source term.

        Parameters
        ----------
        sources
            Positions in `terms`, shape (n_sources,).

        Returns
        -------
        Probabilities, shape (n_sources, n_terms); each row sums to 1.
        """
        restart = np.zeros((len(self.terms), len(sources)))
        restart[sources, np.arange(len(sources))] = 1 - DAMPING
        return self._solver.solve(restart).T

    def _log_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self.terms), _BLOCK_TERMS):
            yield start, _log_scores(self.pagerank(np.arange(start, min(start + _BLOCK_TERMS, len(self.terms)))))

    @cached_property
    def log_range(self) -> tuple[float, float]:
        """Lowest and highest logarithm over all pairs of terms."""
        if self._given_range is not None:
            return self._given_range
        blocks = [(float(block.min()), float(block.max())) for _, block in self._log_blocks()]
        return min(low for low, _ in blocks), max(high for _, high in blocks)

    def _scaled(self, logarithms: np.ndarray) -> np.ndarray:
        lowest, highest = self.log_range
        return (logarithms - lowest) / ((highest - lowest) or 1.0)

    def similarity_matrix(self) -> np.ndarray:
        """Compute the PageRank similarity of all pairs.

        Returns
        -------
        Similarities from 0 to 1, float64, shape (n_terms, n_terms): rows are predictions, columns are targets.
        """
        matrix = np.empty((len(self.terms), len(self.terms)))
        for start, block in self._log_blocks():
            matrix[start : start + len(block)] = self._scaled(block)
        np.fill_diagonal(matrix, 1.0)
        return matrix

    def pagerank_similarity(self, predicted: str | None, target: str | None) -> float:
        """Return the PageRank similarity from 0 to 1: 1 for the same term, 0 if either is not in the graph."""
        if predicted not in self.index or target not in self.index:
            return 0.0
        if predicted == target:
            return 1.0
        if predicted not in self._similarity_rows:
            source = np.array([self.index[predicted]])
            self._similarity_rows[predicted] = self._scaled(_log_scores(self.pagerank(source)[0]))
        return float(self._similarity_rows[predicted][self.index[target]])

    def ancestors(self, term: str) -> dict[str, int]:
        """Return a term and every term above it, each with the smallest number of steps to it."""
        if term not in self._ancestors:
            steps, level = {term: 0}, [term]
            while level:
                level = [above for below in level for above in self.parents[below]]
                level = [above for above in dict.fromkeys(level) if above not in steps]
                steps |= dict.fromkeys(level, max(steps.values()) + 1)
            self._ancestors[term] = steps
        return self._ancestors[term]

    def depth(self, term: str) -> int:
        """Return the number of steps on the longest path from a root to a term.

        Examples
        --------
        >>> OntologyGraph({"animal": [], "pet": ["animal"], "cat": ["animal", "pet"]}).depth("cat")
        2
        """
        if term not in self._depths:
            self._depths[term] = 1 + max(map(self.depth, self.parents[term]), default=-1)
        return self._depths[term]

    @cached_property
    def information_content(self) -> dict[str, float]:
        """Information content from the graph alone (Seco et al. 2004): 1 for a leaf, 0 for a root of all terms."""
        descendants = dict.fromkeys(self.terms, 0)
        for term in self.terms:
            for above in self.ancestors(term):
                descendants[above] += 1  # the term itself included
        total = np.log(max(len(self.terms), 2))
        return {term: float(1 - np.log(count) / total) for term, count in descendants.items()}

    def lin_similarity(self, predicted: str | None, target: str | None) -> float:
        """Return Lin's similarity, twice the information content of the best common ancestor over the sum of both.

        It is 1 for the same term, and 0 without a common ancestor or if either term is not in the graph.
        """
        if predicted not in self.index or target not in self.index:
            return 0.0
        if predicted == target:
            return 1.0
        common = self.ancestors(str(predicted)).keys() & self.ancestors(str(target)).keys()
        content = self.information_content
        both = content[str(predicted)] + content[str(target)]
        return 2 * max((content[term] for term in common), default=0.0) / both if both else 0.0

    def common_ancestor_distance(self, predicted: str | None, target: str | None) -> int | None:
        """Return the number of steps up to the nearest common ancestor and down to the target; None without one."""
        if predicted not in self.index or target not in self.index:
            return None
        up, down = self.ancestors(str(predicted)), self.ancestors(str(target))
        return min((up[term] + down[term] for term in up.keys() & down.keys()), default=None)

    def related(self, predicted: str | None, target: str | None) -> bool:
        """Return whether both terms are the same or one is an ancestor of the other."""
        if predicted not in self.index or target not in self.index:
            return False
        return predicted in self.ancestors(str(target)) or target in self.ancestors(str(predicted))


def _log_scores(scores: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(scores, 0) / SCORE_UNIT + 1e-12)


@cache
def load_graph(ontology: str) -> OntologyGraph:
    """Load the graph of an ontology's current terms.

    Parameters
    ----------
    ontology
        `CL`, `UBERON`, `MONDO` or `HsapDv`.
    """
    entries = ontology_parser().cxg_schema.ontology(ontology)
    current = {term for term, entry in entries.items() if not entry.get("deprecated") and term.startswith(ontology)}
    parents = {
        term: [
            above for above, steps in (entries[term].get("ancestors") or {}).items() if steps == 1 and above in current
        ]
        for term in current
    }
    stored = json.loads(files("cell2text.ontology").joinpath(RANGES_FILE).read_text(encoding="utf-8"))
    log_range = stored.get(f"{ontology} {ontology_versions()[ontology]}")
    return OntologyGraph(parents, tuple(log_range) if log_range else None)


def main() -> None:
    """Write the PageRank ranges of the installed ontology releases."""
    ranges = {f"{name} {ontology_versions()[name]}": load_graph(name).log_range for name in ONTOLOGIES}
    write_atomically(Path(__file__).with_name(RANGES_FILE), json.dumps(ranges, indent=1) + "\n")


if __name__ == "__main__":
    main()
