"""Evidence: the genes that a statement rests on, known markers, and what a user sees of both."""

import json
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cell2text
from cell2text.describe.evidence import EVIDENCE
from cell2text.describe.faithfulness import evidence_metrics
from cell2text.describe.gene_lists import GeneListReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.run import describe_file
from cell2text.errors import UserError
from cell2text.evidence.attribution import ConceptScore, GeneAttribution, TextScore
from cell2text.evidence.explainer import Explainer
from cell2text.evidence.faithfulness import similar_ranks
from cell2text.evidence.statements import (
    LOG_ODDS,
    LOG_PROBABILITY,
    GeneEvidence,
    Statement,
    StatementEvidence,
    evidence_sentences,
    format_evidence,
    read_evidence,
    statements_of,
)
from cell2text.language.parsing import read_fields
from cell2text.ontology.markers import marker_genes
from cell2text.signatures.aucell import aucell, gene_gains

from .conftest import run_cli


TEXT = "This cell is a T cell. It is most likely a CD8-positive, alpha-beta T cell (0.62). It comes from a male donor."


@pytest.fixture(scope="module")
def packaged():
    return cell2text.load()


@pytest.fixture(scope="module")
def cells(packaged):
    adata = cell2text.example_cells(unseen=True)[::25].copy()
    return adata, packaged[1].rank_encode(adata, allow_fractional=True)


def probabilities(packaged, cells, name):
    model, processor = packaged
    batch = processor.pad_cells([[cell] for cell in cells], return_tensors="pt")
    values = model.get_cell_concepts(**batch)["cell_type"][:, 0]
    return values[:, model.config.concept_groups["cell_type"].index(name)].detach().numpy()


def test_contributions_are_the_loss_of_log_odds_without_the_gene(packaged, cells):
    model, processor = packaged
    cell = cells[1][0]
    contributions = GeneAttribution(model, processor).of_concepts(
        [cell], [ConceptScore("cell_type", "pancreatic A cell")]
    )[0]
    genes = np.r_[np.argsort(-contributions)[:10], np.argsort(contributions)[:5]]
    batch = processor.pad_cells([[np.delete(cell, gene)] for gene in genes] + [[cell]], return_tensors="pt")
    states, gene_mask, _ = model.model.encode_cells(**batch)
    import torch

    column = torch.full((len(genes) + 1,), model.config.concept_groups["cell_type"].index("pancreatic A cell"))
    found = model.model.projector.concept_log_odds(states[:, 0], gene_mask[:, 0], "cell_type", column).detach().numpy()
    assert np.allclose(found[-1] - found[:-1], contributions[genes], atol=0.12)
    assert np.corrcoef(found[-1] - found[:-1], contributions[genes])[0, 1] > 0.98


def test_deleting_the_evidence_lowers_the_probability_and_deleting_other_genes_does_not(packaged, cells):
    cell = cells[1][0]
    contributions = GeneAttribution(*packaged).of_concepts([cell], [ConceptScore("cell_type", "pancreatic A cell")])[0]
    order = np.argsort(-contributions)
    without_evidence, without_others = np.delete(cell, order[:10]), np.delete(cell, order[500:510])
    before, after, other = probabilities(packaged, [cell, without_evidence, without_others], "pancreatic A cell")
    assert before - after > 5 * abs(before - other)


def test_contributions_do_not_depend_on_the_other_cells_of_a_batch(packaged, cells):
    attribution, score = GeneAttribution(*packaged), ConceptScore("cell_type", "lymphocyte")
    together = attribution.of_concepts(cells[1], [score] * len(cells[1]))
    for cell, values in zip(cells[1], together):
        assert np.allclose(attribution.of_concepts([cell], [score])[0], values, atol=1e-5)


def test_special_tokens_have_no_contribution(packaged, cells):
    cell = cells[1][0]
    values = GeneAttribution(*packaged).of_concepts([cell], [ConceptScore("cell_type", "lymphocyte")])[0]
    special = np.isin(cell, packaged[1].gene_vocabulary.frame_token_ids)
    assert special.any() and not values[special].any() and len(values) == len(cell)


def test_models_without_concepts_are_explained_by_the_words_of_the_text(tiny_model, tiny_processor, tiny_adata):
    cells = tiny_processor.rank_encode(tiny_adata)[:3]
    text = "This cell is a B cell."
    statements = statements_of(read_fields(text))
    found = Explainer(tiny_model, tiny_processor, n_genes=4)(cells, [text] * 3, [statements] * 3)
    assert [one.measure for of_cell in found for one in of_cell] == [LOG_PROBABILITY] * 3
    assert all(len(of_cell[0].genes) == 4 for of_cell in found)
    contributions = [gene.contribution for gene in found[0][0].genes]
    assert contributions == sorted(contributions, reverse=True) and any(contributions)


def test_words_of_a_text_have_contributions_that_predict_their_loss(tiny_model, tiny_processor, tiny_adata):
    cell, text = tiny_processor.rank_encode(tiny_adata)[0], "This cell is a B cell."
    attribution = GeneAttribution(tiny_model, tiny_processor)
    score = TextScore(text, text.index("B cell"), len(text) - 1)
    other = TextScore(text, 0, 4)
    values, of_other = attribution.of_texts([cell, cell], [score, other])
    assert np.isfinite(values).all() and not np.allclose(values, of_other)


def test_markers_of_a_type_are_those_of_the_nearest_broader_term():
    assert marker_genes("CL:0000084").genes[:3] == ("ENSG00000167286", "ENSG00000198851", "ENSG00000160654")
    assert marker_genes("CL:0000999").term_id != "CL:0000999"
    assert marker_genes("CL:0000000") is None and marker_genes("no term") is None


def test_gains_of_genes_add_up_to_the_score():
    rng = np.random.default_rng(0)
    counts, columns = rng.poisson(0.7, 400).astype(float), rng.permutation(400)[:30]
    assert gene_gains(counts, columns).sum() == pytest.approx(aucell(counts[None], [columns])[0, 0])


def test_evidence_survives_writing_and_reading():
    genes = (GeneEvidence("HLA-DRA", 0.0051, 3, True), GeneEvidence("AC012345.1", -2.0, 9))
    line = format_evidence([StatementEvidence(Statement("pathways", "MYC targets (set 1)"), LOG_ODDS, genes)] * 2)
    found = read_evidence(line)
    assert [value for value, _ in found] == ["MYC targets (set 1)"] * 2
    assert [(gene.gene, gene.contribution, gene.is_marker) for gene in found[0][1]] == [
        ("HLA-DRA", 0.0051, True), ("AC012345.1", -2.0, False),
    ]  # fmt: skip
    assert read_evidence("") == read_evidence("a: b | c (+x)") == []


@pytest.mark.parametrize("text", [TEXT, "This cell is a B cell.", "This cell's most active pathway is hypoxia.", ""])
def test_sentences_of_evidence_do_not_change_the_fields_of_a_text(text):
    genes = tuple(GeneEvidence(name, 1.0) for name in ("CAT", "AC01.1", "XIST"))
    evidence = [
        StatementEvidence(Statement(*pair), LOG_ODDS, genes) for pair in (("cell_type", "B cell"), ("sex", "female"))
    ]
    assert read_fields(f"{text} {evidence_sentences(evidence)}".strip()) == read_fields(text)


def test_genes_that_speak_against_a_statement_are_not_its_reason():
    genes = (GeneEvidence("CD3D", 0.4), GeneEvidence("GCG", -0.1))
    assert evidence_sentences([StatementEvidence(Statement("cell_type", "T cell"), LOG_ODDS, genes)]) == (
        "T cell is stated because of CD3D."
    )
    assert evidence_sentences([StatementEvidence(Statement("cell_type", "T cell"), LOG_ODDS, genes[1:])]) == ""


@pytest.fixture(scope="module")
def described(packaged, cells):
    adata = cells[0].copy()
    cell2text.tl.describe(adata, packaged, allow_fractional=True, evidence=3, evidence_in_text=True)
    return adata


def test_described_cells_carry_evidence_for_each_statement(described):
    for _, row in described.obs.iterrows():
        values = [value for value, _ in read_evidence(row["cell2text_evidence"] or "")]
        pathways = str(row["cell2text_pathways"]).split("; ") if row["cell2text_pathways"] else []
        if pd.notna(row["cell2text_cell_type"]) and row["cell2text_cell_type"]:
            assert values[0] == row["cell2text_cell_type"] and set(pathways) <= set(values)
            assert " is stated because of " in row["cell2text"]
        else:
            assert values == []
    table = described.uns["cell2text"]["evidence"]
    assert (
        list(table) == ["statement", "gene", "n_cells", "mean_contribution", "is_marker"] and table["is_marker"].any()
    )


def test_evidence_leaves_texts_and_fields_unchanged(packaged, cells, described):
    adata = cells[0].copy()
    cell2text.tl.describe(adata, packaged, allow_fractional=True)
    assert "cell2text_evidence" not in adata.obs
    for column in adata.obs.columns.difference(["cell2text"]):
        pd.testing.assert_series_equal(adata.obs[column], described.obs[column])
    assert all(long.startswith(short) for long, short in zip(described.obs["cell2text"], adata.obs["cell2text"]))


def test_files_and_objects_have_the_same_evidence(packaged, cells, described, tmp_path):
    cells[0].write_h5ad(tmp_path / "cells.h5ad")
    options = DescribeOptions(allow_fractional=True, evidence=3, evidence_in_text=True)
    out = describe_file(tmp_path / "cells.h5ad", tmp_path / "out.h5ad", options=options, progress=False, shard_rows=3)
    written = ad.read_h5ad(out)
    assert (
        written.obs["cell2text_evidence"].astype(str).tolist()
        == described.obs["cell2text_evidence"].astype(str).tolist()
    )
    pd.testing.assert_frame_equal(
        written.uns["cell2text"]["evidence"].reset_index(drop=True),
        described.uns["cell2text"]["evidence"].reset_index(drop=True), check_dtype=False, check_categorical=False,
    )  # fmt: skip


def test_fields_alone_have_evidence_too(cells, tmp_path):
    cells[0].write_h5ad(tmp_path / "cells.h5ad")
    options = DescribeOptions(allow_fractional=True, evidence=2, fields_only=True)
    out = describe_file(tmp_path / "cells.h5ad", tmp_path / "out.csv", options=options, progress=False)
    table = pd.read_csv(out)
    assert "text" not in table and table["evidence"].notna().sum() == table["cell_type"].notna().sum()


def test_explain_returns_genes_markers_and_units(packaged, cells):
    adata = cells[0]
    table = cell2text.tl.explain(adata, cells=adata.obs_names[0], model=packaged, n_genes=4, allow_fractional=True)
    of_type = table[(table["field"] == "cell_type") & (table["role"] == "evidence")]
    assert len(of_type) == 4 and set(of_type["measure"]) == {"log-odds"} and of_type["rank"].ge(1).all()
    assert of_type["contribution"].is_monotonic_decreasing and "GCG" in set(of_type["gene"])
    tokens, _ = packaged[1].gene_vocabulary.map_genes(adata.var_names[adata[0].X.toarray().ravel() > 0])
    expressed = {packaged[1].gene_vocabulary.symbols[token] for token in tokens if token >= 0}
    present, absent = (set(table.loc[table["role"] == f"{role} marker", "gene"]) for role in ("present", "absent"))
    assert present <= expressed and not absent & expressed and present
    scores = table[table["field"] == "pathways"]
    assert set(scores["measure"]) == {"AUCell score"} and set(scores["gene"]) <= expressed


def test_explain_names_the_cells_that_do_not_exist(packaged, cells):
    with pytest.raises(UserError, match=r"1 of 2 names.*'cell 7'"):
        cell2text.tl.explain(cells[0], cells=[cells[0].obs_names[0], "cell 7"], model=packaged, allow_fractional=True)
    with pytest.raises(UserError, match="expected the name of a cell"):
        cell2text.tl.explain(cells[0], cells=[], model=packaged, allow_fractional=True)


def test_cells_without_a_description_have_no_evidence(packaged, cells):
    adata = cells[0].copy()
    adata.X[1] = 0
    table = cell2text.tl.explain(adata, model=packaged, allow_fractional=True)
    assert adata.obs_names[0] in set(table["cell_id"]) and adata.obs_names[1] not in set(table["cell_id"])


def test_markers_of_gene_lists_are_never_called_absent(packaged, cells):
    model, processor = packaged
    symbols = [processor.gene_vocabulary.symbols[token] for token in cells[1][0][1:-1]]
    options = DescribeOptions(evidence=3)
    reader = GeneListReader(["a"], [[name for name in symbols if name]], processor, options, model.config.concepts)
    from cell2text.describe.engine import Describer

    table = Describer(model, processor, options)(reader.read(0, 1))
    assert table[EVIDENCE].to_pylist()[0] and table["absent_markers"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evidence": 0}, "evidence"),
        ({"evidence_in_text": True}, "evidence_in_text needs"),
        ({"evidence": 3, "compare_to": "cell"}, "one cell"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DescribeOptions(**options)


def test_an_expressed_marker_of_low_rank_is_not_called_absent(packaged, cells):
    adata, (model, processor) = cells[0], packaged
    row = int(np.argmax(np.diff(adata.X.indptr)))
    statement = [Statement("cell_type", "pancreatic A cell", "CL:0000171")]
    tokens, _ = processor.gene_vocabulary.map_genes(adata.var_names)
    expressed = tokens[adata.X[row].indices]
    short = cells[1][row][:30]  # as if the model read only the highest-ranked genes
    found = Explainer(model, processor)([short], [""], [statement], measured=tokens, expressed=[expressed])[0][0]
    only_ranked = Explainer(model, processor)([short], [""], [statement], measured=tokens)[0][0]
    assert len(found.absent_markers) < len(only_ranked.absent_markers)


def test_faithfulness_compares_evidence_with_random_genes_of_similar_rank(packaged):
    adata = cell2text.example_cells(unseen=True)
    options = DescribeOptions(allow_fractional=True)
    metrics = evidence_metrics(adata, packaged, n_cells=24, options=options)
    assert metrics["lead_5"] > 0 and metrics["lead_10"] > 0 and metrics["n"] <= 24 and metrics["resampled"] == "donor"
    assert metrics["marker_share"] > 2 * metrics["marker_share_by_chance"]
    assert metrics == evidence_metrics(adata, packaged, n_cells=24, options=options)
    low, high = metrics["intervals"]["loss_without_5"]
    assert low <= metrics["loss_without_5"] <= high


def test_evidence_of_cells_without_any_type_cannot_be_measured(packaged):
    adata = cell2text.example_cells(unseen=True)[:3].copy()
    adata.X[:] = 0
    with pytest.raises(UserError, match="None of 3 sampled cells"):
        evidence_metrics(adata, packaged, options=DescribeOptions(allow_fractional=True))


def test_random_genes_are_neither_evidence_nor_special():
    cell, rng = np.array([2, *range(10, 40), 3]), np.random.default_rng(0)
    genes = np.array([1, 5, 30])
    chosen = similar_ranks(cell, genes, (2, 3), rng)
    assert len(set(chosen.tolist())) == 3 and not set(chosen.tolist()) & {0, 31, *genes.tolist()}
    assert (np.abs(chosen - genes) <= 12).all()


def test_evaluate_reports_the_evidence(packaged, tmp_path, capsys):
    adata = cell2text.example_cells(unseen=True)[::10].copy()
    adata.X = adata.X.astype(int)
    cell2text.tl.describe(adata, packaged)
    adata.write_h5ad(tmp_path / "cells.described.h5ad")
    run_cli("evaluate", str(tmp_path / "cells.described.h5ad"), "--truth", "cell_type", "--evidence", "10",
            "--out", str(tmp_path / "evaluation"))  # fmt: skip
    assert "evidence: without 5 genes a type's probability falls by" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["evidence"]["loss_without_5"] > 0
    report = (tmp_path / "evaluation" / "report.md").read_text()
    assert "## Evidence for cell types" in report and "loss without 5 evidence genes" in report


def test_a_hostile_line_of_evidence_is_read_quickly():
    started = time.perf_counter()
    assert read_evidence("T cell: " + "A" * 200_000) == []
    assert read_evidence("T cell: A (+1.2.3)") == read_evidence("T cell: " + "A" * 200 + " (+1.0)") == []
    assert time.perf_counter() - started < 1
