"""Similarity of ontology terms: hand-computed on small graphs, compared with networkx on the Cell Ontology."""

import networkx as nx
import numpy as np
import pytest

from cell2text.ontology.graph import ONTOLOGIES, OntologyGraph, load_graph
from cell2text.ontology.terms import ontology_versions


#        root
#       /    \
#   animal   plant          alone: has no edges
#   /    \
# cat    dog
FEW = {"root": [], "animal": ["root"], "plant": ["root"], "cat": ["animal"], "dog": ["animal"], "alone": []}


def test_pagerank_of_two_nodes_by_hand():
    graph = OntologyGraph({"a": [], "b": ["a"]})
    # x_a = 0.1 + 0.9 x_b and x_b = 0.9 x_a, so x_a = 0.1 / (1 - 0.81)
    own, other = 0.1 / 0.19, 0.09 / 0.19
    assert np.allclose(graph.pagerank(np.array([0, 1])), [[own, other], [other, own]])
    low, high = np.log1p(other / 1e-4), np.log1p(own / 1e-4)
    assert np.allclose(graph.log_range, (low, high))
    assert np.array_equal(graph.similarity_matrix(), np.eye(2))  # the farthest pair is 0, the diagonal 1


def test_pagerank_of_a_star_by_hand():
    graph = OntologyGraph({"hub": [], "one": ["hub"], "two": ["hub"]})
    # from one: hub = 0.9 (one + two), two = 0.45 hub, one = 0.1 + 0.45 hub
    hub = 0.09 / 0.19
    expected = {"hub": hub, "one": 0.1 + 0.45 * hub, "two": 0.45 * hub}
    found = dict(zip(graph.terms, graph.pagerank(np.array([graph.index["one"]]))[0]))
    assert found == pytest.approx(expected)
    matrix = graph.similarity_matrix()
    logs = {name: np.log1p(value / 1e-4) for name, value in expected.items()}
    low, high = graph.log_range
    for name in ("hub", "two"):
        assert matrix[graph.index["one"], graph.index[name]] == pytest.approx((logs[name] - low) / (high - low))
        assert graph.pagerank_similarity("one", name) == pytest.approx(matrix[graph.index["one"], graph.index[name]])
    assert graph.pagerank_similarity("one", "hub") != pytest.approx(graph.pagerank_similarity("hub", "one"))


def test_lin_ancestors_and_distances_by_hand():
    graph = OntologyGraph(FEW)
    assert graph.terms == ["animal", "cat", "dog", "plant", "root"]  # terms without edges are not part of the graph
    # of 5 terms animal stands above 3 (itself, cat, dog), the root above all
    animal = 1 - np.log(3) / np.log(5)
    assert graph.information_content == pytest.approx({"animal": animal, "cat": 1, "dog": 1, "plant": 1, "root": 0})
    assert graph.lin_similarity("cat", "dog") == pytest.approx(animal)
    assert graph.lin_similarity("cat", "animal") == pytest.approx(2 * animal / (1 + animal))
    assert graph.lin_similarity("cat", "plant") == 0.0 and graph.lin_similarity("cat", "cat") == 1.0
    assert graph.common_ancestor_distance("cat", "dog") == 2 and graph.common_ancestor_distance("cat", "plant") == 3
    assert graph.common_ancestor_distance("cat", "root") == 2 and graph.common_ancestor_distance("cat", "cat") == 0
    assert graph.related("cat", "animal") and graph.related("root", "dog") and not graph.related("cat", "dog")


@pytest.mark.parametrize("pair", [("cat", None), (None, "cat"), ("cat", "alone"), ("unicorn", "cat"), (None, None)])
def test_terms_outside_the_graph_have_similarity_zero(pair):
    graph = OntologyGraph(FEW)
    assert graph.pagerank_similarity(*pair) == graph.lin_similarity(*pair) == 0.0
    assert graph.common_ancestor_distance(*pair) is None and not graph.related(*pair)


def test_distances_take_the_shortest_path_through_several_parents():
    graph = OntologyGraph({"r": [], "a": ["r"], "b": ["a"], "c": ["b", "r"], "d": ["r"]})
    assert graph.ancestors("c") == {"c": 0, "b": 1, "r": 1, "a": 2}
    assert graph.common_ancestor_distance("c", "d") == 2


def test_the_cell_ontology_agrees_with_networkx():
    graph = load_graph("CL")
    other = nx.Graph((term, parent) for term, parents in graph.parents.items() for parent in parents)
    sources = np.arange(0, len(graph.terms), len(graph.terms) // 12)
    for source, found in zip(sources, graph.pagerank(sources)):
        start = {graph.terms[source]: 1.0}
        expected = nx.pagerank(other, alpha=0.9, personalization=start, tol=1e-15, max_iter=1000)
        assert np.abs(found - [expected[term] for term in graph.terms]).max() < 1e-8


def test_similarities_of_the_cell_ontology_lie_between_0_and_1_and_near_the_published_ones():
    matrix = load_graph("CL").similarity_matrix()
    assert np.array_equal(np.diagonal(matrix), np.ones(len(matrix))) and matrix.min() >= 0 and matrix.max() == 1
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    # Published for another release (2025-09-10): mean 0.0489, median 0.0158, largest off the diagonal 0.98721.
    assert abs(off.max() - 0.98721) < 0.002 and 0.03 < matrix.mean() < 0.07 and 0.005 < np.median(matrix) < 0.03


def test_the_packaged_ranges_match_the_installed_ontologies():
    fresh = OntologyGraph(load_graph("CL").parents)
    assert np.allclose(load_graph("CL").log_range, fresh.log_range, rtol=1e-9)
    for name in ONTOLOGIES:
        assert load_graph(name)._given_range is not None, (
            f"{name} {ontology_versions()[name]}: run python -m cell2text.ontology.graph"
        )


def test_related_terms_are_more_similar_than_unrelated_ones():
    graph = load_graph("CL")
    b, plasma, neuron = "CL:0000236", "CL:0000786", "CL:0000540"
    for measure in (graph.pagerank_similarity, graph.lin_similarity):
        assert measure(b, b) == 1 > measure(b, plasma) > measure(b, neuron)
