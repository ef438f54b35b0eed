"""Concepts that a cell's own counts show: pathways by AUCell and sex by XIST and Y genes, given to the model."""

import logging

import anndata as ad
import numpy as np
import pytest

import cell2text
from cell2text.describe import DescribeOptions
from cell2text.describe.inputs import CellReader
from cell2text.describe.own_concepts import OwnConcepts, can_override_pathways, can_override_sex, group_columns
from cell2text.inference.generation import BatchedTextGenerator
from cell2text.signatures.aucell import aucell
from cell2text.signatures.gene_sets import hallmark_gene_sets, match_columns
from cell2text.signatures.pathways import top_pathways
from concepts_cell2text import ConceptNames
from ranking_cell2text import CellRanker
from source_cell2text import AnnDataContainer, CellSource


HALLMARK = hallmark_gene_sets().names
SEXES = ["female", "male", "unknown"]
NAMES = ConceptNames({"cell_type": ["B cell", "T cell"], "sex": SEXES}, {"pathways": sorted(HALLMARK)})
PATHWAYS, SEX = slice(2, 52), slice(52, 55)


@pytest.fixture(scope="module")
def processor():
    return cell2text.load()[1]


@pytest.fixture(scope="module")
def cells() -> ad.AnnData:
    return cell2text.example_cells(unseen=True)[:30].copy()


def reader_of(adata, processor, names=NAMES, **options) -> CellReader:
    return CellReader(CellSource(AnnDataContainer(adata)), processor, DescribeOptions(**options), names)


def two_highest(adata, processor) -> list[tuple[str, ...]]:
    """The two highest sets of each cell by the definition of `prepare`."""
    ranker = CellRanker(adata.var, processor.gene_vocabulary, max_genes=512)
    columns = match_columns(hallmark_gene_sets(), adata.var, ranker)
    found = np.array([len(own) / len(genes) for own, genes in zip(columns, hallmark_gene_sets().genes)])
    return top_pathways(aucell(ranker.collapse(adata.X), columns).astype(np.float32), HALLMARK, found >= 0.8)[0]


def test_overrides_hold_the_two_highest_sets_of_each_cell_and_keep_other_predictions(cells, processor):
    read = reader_of(cells, processor).read(0, 30)
    values = read.concept_overrides
    assert values.shape == (30, 55) and values.dtype == np.float32 and np.isnan(values[:, :2]).all()
    for row, pathways in zip(values[:, PATHWAYS], two_highest(cells, processor)):
        assert [sorted(HALLMARK)[i] for i in np.argsort(-row)[:2]] == list(pathways)
        assert sorted(row)[-3:] == [0, 0.5, 1]
    np.testing.assert_array_equal(read[5:9].concept_overrides, values[5:9])


def test_overrides_do_not_depend_on_which_cells_are_read_together(cells, processor):
    reader = reader_of(cells, processor)
    together = reader.read(0, 30).concept_overrides
    np.testing.assert_array_equal(together[[3]], reader.read(3, 4).concept_overrides)


def test_groups_are_scored_by_their_summed_counts(cells, processor):
    cells.obs["half"] = ["a", "b"] * 15
    reader = reader_of(cells, processor, groupby="half")
    values = reader.pseudobulk(reader.groups).concept_overrides
    summed = ad.AnnData(np.stack([cells.X[::2].toarray().sum(0), cells.X[1::2].toarray().sum(0)]), var=cells.var)
    np.testing.assert_array_equal(values, reader_of(summed, processor).read(0, 2).concept_overrides)


def test_a_pathway_that_the_model_cannot_name_takes_the_lower_one_with_it(cells, processor):
    first, second = two_highest(cells, processor)[0]
    without_first = ConceptNames({}, {"pathways": [name for name in HALLMARK if name != first]})
    assert not reader_of(cells, processor, without_first).read(0, 1).concept_overrides.any()
    without_second = ConceptNames({}, {"pathways": [first, *set(HALLMARK) - {first, second}]})
    row = reader_of(cells, processor, without_second).read(0, 1).concept_overrides[0]
    assert row[0] == 1 and not row[1:].any()


def test_files_with_few_genes_state_no_pathways_and_a_note_says_so(cells, processor):
    few = reader_of(cells[:, :45].copy(), processor)
    assert not few.read(0, 3).concept_overrides[:, PATHWAYS].any()
    assert "No pathways are stated: AUCell needs at least 50 genes, and the file has 45." in few.reading()["notes"]
    panel = reader_of(cells[:, ::50].copy(), processor)
    assert not panel.read(0, 3).concept_overrides[:, PATHWAYS].any()
    (note,) = panel.reading()["notes"]
    assert note == "No pathways are stated: none of the 50 gene sets has 80% of its genes in the file."


def test_a_cell_without_counts_has_no_pathways(cells, processor):
    empty = cells[:2].copy()
    empty.X = empty.X.multiply(np.array([[0], [1]])).tocsr()
    values = reader_of(empty, processor).read(0, 2).concept_overrides[:, PATHWAYS]
    assert values.sum(1).tolist() == [0, 1.5]


def test_sex_is_overridden_by_xist_and_y_genes(cells, processor):
    cells = cells.copy()
    y = cells.var_names.get_loc("ENSG00000129824")
    counts = cells.X.tolil()
    counts[:, [i for i, name in enumerate(cells.var_names) if name in {"ENSG00000067048", "ENSG00000198692"}]] = 0
    counts[0, y], counts[1, y] = 5, 0
    cells.X = counts.tocsr()
    values = reader_of(cells, processor).read(0, 2).concept_overrides[:, SEX]
    assert [SEXES[i] for i in values.argmax(1)] == ["male", "unknown"] and (values.sum(1) == 1).all()


def test_options_keep_predictions_and_reading_says_where_concepts_come_from(cells, processor):
    reader = reader_of(cells, processor, pathways="model")
    assert np.isnan(reader.read(0, 2).concept_overrides[:, PATHWAYS]).all()
    assert (reader.reading()["pathways"], reader.reading()["sex"]) == ("model", "cell")
    assert np.isnan(reader_of(cells, processor, sex="model").read(0, 2).concept_overrides[:, SEX]).all()
    reading = reader_of(cells, processor).reading()
    assert [reading[f"gene_sets{end}"] for end in ("", "_found", "_of_model")] == [50, 49, 50]
    with pytest.raises(ValueError, match="pathways='mine': expected one of cell, model"):
        DescribeOptions(pathways="mine")


def test_models_with_other_concepts_keep_their_predictions_and_an_explicit_option_is_noted(cells, processor):
    other = ConceptNames({"sex": ["male", "unknown"]}, {"pathways": ["REACTOME_TRANSLATION"]})
    assert not can_override_pathways(other) and not can_override_sex(other)
    reader = reader_of(cells, processor, other)
    assert np.isnan(reader.read(0, 2).concept_overrides).all() and reader.reading()["notes"] == []
    notes = reader_of(cells, processor, other, pathways="cell", sex="cell").reading()["notes"]
    assert [note.partition(":")[0] for note in notes] == ["pathways='cell'", "sex='cell'"]
    assert reader_of(cells, processor, None).read(0, 2).concept_overrides is None  # a model without concepts


def test_group_columns_are_those_of_concept_tensors():
    assert group_columns(NAMES) == {"cell_type": slice(0, 2), "pathways": PATHWAYS, "sex": SEX}


def test_describing_gives_the_overrides_to_the_generator_also_for_comparisons(cells, monkeypatch, caplog):
    seen = []

    def record(self, prompts, concept_overrides=None, real=BatchedTextGenerator.__call__):
        seen.append((concept_overrides, self.comparison_overrides))
        return real(self, prompts, concept_overrides)

    monkeypatch.setattr(BatchedTextGenerator, "__call__", record)
    model, processor = cell2text.load()
    names, adata = model.config.concepts, cells[:4].copy()
    expected = reader_of(adata, processor, names).read(0, 4).concept_overrides
    with caplog.at_level(logging.WARNING):
        cell2text.tl.describe(adata, (model, processor), max_new_tokens=2)
        cell2text.tl.describe(adata, (model, processor), max_new_tokens=2, compare_to=adata.obs_names[1])
    np.testing.assert_array_equal(seen[0][0], expected)
    assert seen[0][1] is None and not caplog.records
    np.testing.assert_array_equal(seen[1][1], expected[1])


def test_no_cells_give_no_overrides(cells, processor):
    own = OwnConcepts(
        NAMES, cells.var, CellRanker(cells.var, processor.gene_vocabulary, max_genes=9), DescribeOptions()
    )
    assert own.overrides(cells.X[:0]).shape == (0, 55)
