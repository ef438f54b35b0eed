"""docs/guides/trust.md: its Python runs, and the page states what it finds and what benchmarks measured."""

import json
import re
from pathlib import Path

import pytest

from cell2text.ontology.graph import load_graph


PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "guides" / "trust.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


@pytest.fixture(scope="module")
def scope():
    scope: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.M | re.S):
        exec(block, scope)
    return scope


def table_rows(scope, cell):
    found = scope["evidence"]
    found = found[(found["cell_id"] == cell) & (found["field"] == "cell_type") & (found["role"] == "evidence")]
    return [
        f"| {row.gene} | {row.contribution:.2f} | {row.rank} | {'yes' if row.is_marker else 'no'} |"
        for row in found.itertuples()
    ]


@pytest.mark.parametrize("name", ["right", "wrong"])
def test_genes_are_those_of_the_cell(scope, name):
    rows = table_rows(scope, scope[name])
    assert len(rows) == 5 and "\n".join(rows) in PAGE


def test_markers_are_those_of_the_cell(scope):
    markers = scope["evidence"].groupby(["cell_id", "role"])["gene"].agg(list)
    assert f"seven are expressed ({', '.join(markers[scope['right'], 'present marker'])})" in TEXT
    assert f"three are not ({', '.join(markers[scope['right'], 'absent marker'])})" in TEXT
    missing = markers[scope["wrong"], "absent marker"]
    assert f"{', '.join(missing[:-1])} and {missing[-1]}" in TEXT


def test_probabilities_and_candidates_are_those_of_the_cells(scope):
    obs = scope["cells"].obs
    assert f"with a probability of {obs.loc[scope['right'], 'cell2text_type_probability']:.2f}" in TEXT
    assert f"with a probability of {obs.loc[scope['wrong'], 'cell2text_type_probability']:.2f}" in TEXT
    for name in ("wrong", "declined"):
        for candidate in obs.loc[scope[name], "cell2text_cell_type_candidates"].split("; "):
            assert candidate in TEXT
    assert f"reads {obs.loc[scope['wrong'], 'cell2text_n_genes']} genes" in TEXT
    assert f"It has {obs.loc[scope['declined'], 'cell2text_n_genes']:,} genes" in TEXT
    assert obs.loc[scope["declined"], "cell2text"] in TEXT


def test_one_cell_is_right_one_is_wrong_and_one_is_declined(scope):
    obs, graph = scope["cells"].obs, load_graph("CL")
    named, labels = obs["cell2text_cell_type_ontology_term_id"], obs["cell_type_ontology_term_id"]
    assert graph.related(named[scope["right"]], labels[scope["right"]])
    assert not graph.related(named[scope["wrong"]], labels[scope["wrong"]])
    assert obs["cell2text_cell_type"].isna()[scope["declined"]] or not obs["cell2text_cell_type"][scope["declined"]]


def percent(value):
    return f"{100 * value:.1f}"


def test_faithfulness_quotes_the_committed_results():
    found = json.loads((PROJECT / "benchmarks" / "results" / "evidence.json").read_text())
    for name, study in found["studies"].items():
        (row,) = [line for line in PAGE.splitlines() if re.match(rf"\| {name}\b", line)]
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        intervals = study["intervals"]
        losses = [
            f"{percent(study[key])} ({percent(intervals[key][0])} to {percent(intervals[key][1])})"
            for key in ("loss_without_5", "random_loss_5", "loss_without_10", "random_loss_10")
        ]
        shares = [
            percent(study[key]) for key in ("marker_share", "marker_share_of_similar_rank", "marker_share_by_chance")
        ]
        assert cells == [str(study["n"]), *losses, *shares]
        assert intervals["lead_5"][0] > 0  # "In every study"
    unseen = found["mean"]["unseen"]
    assert round(unseen["marker_share"] / unseen["marker_share_of_similar_rank"]) == 5
    assert round(unseen["marker_share"] / unseen["marker_share_by_chance"]) == 11
