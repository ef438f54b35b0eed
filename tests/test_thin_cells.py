"""Cells without a type: too few genes, and reasons that the summary counts."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from transformers import AutoProcessor

import cell2text
from cell2text.describe.engine import Describer
from cell2text.describe.options import DescribeOptions
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.summary import summarise, summary_for_uns, summary_line
from cell2text.describe.table import make_table
from cell2text.describe.thin_cells import coverage_warning, thin_cells_warning
from cell2text.example import example_cells
from cell2text.inference.cell_types import CellTypes
from cell2text.inference.embedding import embed_cells
from cell2text.inference.generation import BatchedTextGenerator, generate_with_sharded_model
from cell2text.language.fields import Fields
from cell2text.language.parsing import read_fields
from concepts_cell2text import ConceptNames
from configuration_cell2text import Cell2TextConfig
from declining_cell2text import (
    EMPTY_CELL_TEXT,
    FOREIGN_CELL_TEXT,
    declined_text,
    is_description,
    too_few_genes_text,
)
from errors_cell2text import UserError
from generation_cell2text import CellTextGenerator
from pipeline_cell2text import CellToTextPipeline

from .tiny import make_adata, make_model, make_processor


PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def strict():
    """A tiny model whose processor describes cells of five genes or more."""
    processor = make_processor()
    processor.min_genes = 5
    return make_model("concepts", processor=processor), processor


@pytest.fixture(scope="module")
def mini():
    return cell2text.load(device="cpu")


def cells_of(processor, sizes):
    """Ranked cells with some numbers of genes."""
    full = processor.rank_encode(make_adata(len(sizes)))
    frame = [token in processor.gene_vocabulary.frame_token_ids for token in (full[0][0], full[0][-1])]
    genes = [cell[frame[0] : len(cell) - frame[1]][:size] for cell, size in zip(full, sizes)]
    return [np.concatenate([cell[: frame[0]], part, cell[len(cell) - frame[1] :]]) for cell, part in zip(full, genes)]


def test_too_few_genes_get_a_reason_that_names_the_minimum(strict):
    _, processor = strict
    empty, one, thin, enough = cells_of(processor, [0, 1, 4, 5])
    assert [processor.count_genes(cell) for cell in (empty, one, thin, enough)] == [0, 1, 4, 5]
    assert processor.reason_not_described(empty) == EMPTY_CELL_TEXT
    assert processor.reason_not_described(one).startswith(
        "Too few counts to assign a cell type: 1 gene of the model is"
    )
    assert processor.reason_not_described(thin) == too_few_genes_text(4, 5)
    assert processor.reason_not_described(enough) is None
    processor.min_genes = 0
    assert processor.reason_not_described(one) is None and processor.reason_not_described(empty) == EMPTY_CELL_TEXT


def test_reasons_are_no_descriptions_and_state_no_fields():
    for text in (EMPTY_CELL_TEXT, too_few_genes_text(1, 60), too_few_genes_text(1234, 2000)):
        assert read_fields(text) == Fields() and not is_description(text)
    assert is_description("This cell is a B cell.") and not is_description(None)


def test_thin_cells_keep_their_embedding_and_have_no_scores(strict):
    model, processor = strict
    cells = cells_of(processor, [9, 4, 0, 5, 1])
    generated = BatchedTextGenerator(model, processor, batch_size=2, max_new_tokens=4)(cells)
    expected = [processor.reason_not_described(cell) for cell in cells]
    assert [text for text, reason in zip(generated.texts, expected) if reason] == [e for e in expected if e]
    described = np.array([reason is None for reason in expected])
    assert (np.isfinite(generated.confidence) == described).all()
    assert (np.isfinite(generated.concepts["cell_type"]).all(1) == described).all()
    np.testing.assert_allclose(generated.embeddings, embed_cells(model, processor, cells), atol=1e-5)
    assert ((generated.embeddings != 0).any(1) == [True, True, False, True, True]).all()


def test_other_cells_of_a_batch_keep_their_texts(strict):
    model, processor = strict
    cells = cells_of(processor, [9, 4, 8, 0, 7])
    together = CellTextGenerator(model, processor, max_new_tokens=6)([[cell] for cell in cells])
    for i in (0, 2, 4):
        alone = CellTextGenerator(model, processor, max_new_tokens=6)([[cells[i]]])
        assert together.texts[i] == alone.texts[0]
        np.testing.assert_allclose(together.concepts["cell_type"][i], alone.concepts["cell_type"][0], atol=1e-5)


def test_every_interface_gives_a_thin_cell_the_same_text(strict):
    model, processor = strict
    cells = cells_of(processor, [9, 4])
    expected = CellTextGenerator(model, processor, max_new_tokens=4)([[cell] for cell in cells]).texts
    assert expected[1] == too_few_genes_text(4, 5)
    pipeline = CellToTextPipeline(model=model, processor=processor)
    assert [one["generated_text"] for one in pipeline(cells, max_new_tokens=4)] == expected
    assert generate_with_sharded_model(model, processor, cells, batch_size=2, max_new_tokens=4)[1] == expected[1]
    ranked = RankedCells(["a", "b"], cells, np.array([9, 4]), np.ones(2), 1.0)
    assert Describer(model, processor, DescribeOptions(max_new_tokens=4))(ranked)["text"].to_pylist() == [
        text.replace("\0", "") for text in expected
    ]


def test_a_prompt_with_a_thin_cell_is_not_described(strict):
    model, processor = strict
    long, thin = cells_of(processor, [9, 4])
    generate = CellTextGenerator(model, processor, processor.conversation(2), max_new_tokens=4)
    generated = generate([[long, thin], [thin, long], [long, long]])
    assert generated.texts[:2] == [too_few_genes_text(4, 5)] * 2 and is_description(generated.texts[2])
    assert (generated.embeddings != 0).any(1).all()


def test_a_saved_processor_keeps_the_minimum_and_an_older_one_has_none(tmp_path):
    processor = make_processor()
    processor.min_genes = 7
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).min_genes == 7
    path = tmp_path / "processor_config.json"
    settings = json.loads(path.read_text())
    del settings["min_genes"]
    path.write_text(json.dumps(settings))
    assert AutoProcessor.from_pretrained(tmp_path).min_genes == 0


def test_a_minimum_above_the_longest_cell_is_refused(tiny_processor):
    with pytest.raises(UserError, match="min_genes=65: expected a number of genes from 0 to max_genes=64"):
        type(tiny_processor)(tiny_processor.tokenizer, max_genes=64, min_genes=65)


def test_a_config_with_the_curve_of_an_earlier_version_loads(tmp_path):
    Cell2TextConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"type_reliability": [[10, 0.5], [100, 1.0]]}))
    config = Cell2TextConfig.from_pretrained(tmp_path)
    assert not hasattr(config, "type_reliability") and "type_reliability" not in config.to_dict()


def test_droplets_of_three_counts_get_no_type(mini):
    genes = example_cells()
    profile = np.asarray(genes.X.sum(0)).ravel()
    counts = np.random.default_rng(0).multinomial(3, profile / profile.sum(), size=20).astype(np.float32)
    droplets = ad.AnnData(sp.csr_matrix(counts), var=genes.var)
    cell2text.tl.describe(droplets, mini)
    assert droplets.obs.cell2text_cell_type.isna().all() and droplets.obs.cell2text_type_probability.isna().all()
    assert not droplets.obs.cell2text.map(is_description).any()
    assert (droplets.obsm["X_cell2text"] != 0).any(1).tolist() == (droplets.obs.cell2text_n_genes > 0).tolist()


def test_thin_cells_are_less_certain_with_a_calibration():
    """The calibration reads the number of genes: the same cell with fewer of them has no higher probability."""
    types = {"cell": [], "B cell": ["cell"], "T cell": ["cell"]}
    processor = make_processor()
    model = make_model("concepts", processor=processor, cell_concepts={"hierarchical": {"cell_type": types}})
    [cell] = cells_of(processor, [20])
    inputs = processor.pad_cells([[cell]], return_tensors="pt")
    raw = model.get_cell_concepts(**inputs)["cell_type"]
    found = []
    for genes in (0.0, 0.5):
        model.model.projector.calibration = {"slope": 1.0, "intercept": 0.0, "genes": genes}
        found.append(model.get_cell_concepts(**inputs)["cell_type"])
    assert torch.allclose(found[0], raw.clamp(1e-4, 1 - 1e-4), atol=1e-5) and (found[1] < found[0]).all()


def test_the_packaged_minimum_is_the_one_that_was_chosen(mini):
    chosen = json.loads((PROJECT / "benchmarks" / "results" / "thin_cells.json").read_text())["chosen"]
    assert mini[1].min_genes == chosen["min_genes"] > 0


def test_a_warning_counts_the_thin_cells():
    text = thin_cells_warning(5000, 1200, min_genes=10)
    assert "1,200 of 5,000 cells express fewer than 10 genes of the model and have no description" in text
    assert thin_cells_warning(5000, 0, min_genes=10) is None


def test_the_summary_counts_declined_cells_by_reason():
    texts = [declined_text("ambient"), declined_text("two_profiles"), "This cell is a B cell.", too_few_genes_text(3, 5),
             FOREIGN_CELL_TEXT, declined_text("ambient"), None]  # fmt: skip
    n_genes = np.array([9, 9, 9, 3, 0, 9, 9])
    ranked = RankedCells([f"c{i}" for i in range(7)], [], n_genes, np.ones(7), 1.0)
    table = make_table(ranked, texts, np.zeros((7, 2), dtype=np.float32), fields_only=False)
    reading = {"container": "h5ad", "counts": "X", "gene_column": "index", "genes_found": 2, "genes_of_model": 4}
    summary = summarise(reading, [table], min_genes=5)
    assert summary["cells_declined"] == 3 and summary["reasons_for_declining"] == {"ambient": 2, "two_profiles": 1}
    assert summary_line(summary).endswith(
        "7 cells, 1 with too few counts, 1 of another species, 3 declined (2 ambient RNA, 1 two profiles), "
        "6 without a description."
    )
    assert json.loads(summary_for_uns(summary))["reasons_for_declining"] == {"ambient": 2, "two_profiles": 1}


def test_without_texts_candidates_show_the_declined_cells():
    types = CellTypes(ConceptNames({"cell_type": ["B cell", "T cell"]}))
    texts, concepts = [declined_text("ambient"), "This cell is a B cell."], np.full((2, 2), 0.5)
    ranked = RankedCells(["a", "b"], [], np.array([9, 9]), np.ones(2), 1.0)
    table = make_table(ranked, texts, np.zeros((2, 2), dtype=np.float32), types, concepts, fields_only=True)
    summary = summarise({}, [table])
    assert summary["cells_declined"] == 1 and summary["reasons_for_declining"] == {}


def test_a_panel_gets_a_warning_with_its_coverage():
    assert "1.2 % of the model's genes, and its cells express 15 of them" in coverage_warning(0.012, 15.2)
    assert coverage_warning(0.5, 15) is None
