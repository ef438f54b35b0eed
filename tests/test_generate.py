"""Generate cells from words: reading the text, choosing types and studies, sampling counts, and the outputs."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from cell2text import tl
from cell2text.errors import UserError
from cell2text.generate.conditions import condition_nodes, node_matrix
from cell2text.generate.generator import SEEN_COLUMNS, CellGenerator, sample_counts
from cell2text.generate.network import Decoder, Flow
from cell2text.generate.planning import plan_cells
from cell2text.generate.prompt import read_prompt
from cell2text.generate.run import KEY, generate_cells, load_generator
from cell2text.models import GENERATOR

from .conftest import run_cli


CD8, CD4, T_CELL, B_CELL, NK = "CL:0000625", "CL:0000624", "CL:0000084", "CL:0000236", "CL:0000623"
LUNG, BLOOD, KIDNEY, COVID, HEALTHY = (
    "UBERON:0002048", "UBERON:0000178", "UBERON:0002113", "MONDO:0100096", "PATO:0000461",
)  # fmt: skip


def make_generator(n_genes: int = 12) -> CellGenerator:
    """Return a generator of two studies: lymphocytes of the blood (no gene 0) and B cells of the kidney."""
    rows = [
        (CD8, BLOOD, HEALTHY, "male", "", "one", "one a", 30),
        (CD4, BLOOD, HEALTHY, "female", "", "one", "one b", 10),
        (B_CELL, KIDNEY, "", "", "", "two", "two a", 20),
        (CD8, LUNG, COVID, "", "", "atlas", "", 0),
    ]
    seen = pd.DataFrame(rows, columns=list(SEEN_COLUMNS))
    nodes = sorted({node for row in rows for node in condition_nodes(*row[:5])})
    torch.manual_seed(0)
    groups = [["one", CD8], ["one", CD4], ["two", B_CELL]]
    decoder, flow = Decoder(n_genes, len(nodes), 2, len(groups), 4, 3), Flow(len(nodes), 2, 4, 8)
    depth = {"mean": 6.0, "deviation": 0.5, "low": 4.0, "high": 8.0}
    styles = {
        "one": {"assay": "assay one", "lends": True, **depth},
        "two": {"assay": "assay two", "lends": False, **depth},
    }
    measured = np.ones((2, n_genes), dtype=bool)
    measured[0, 0] = False
    config = {"nodes": nodes, "groups": groups, "styles": styles}
    genes = np.array([f"ENSG{i:011d}" for i in range(n_genes)])
    return CellGenerator(decoder, flow, config, measured, np.full((2, n_genes), 0.5), genes, seen)


@pytest.fixture(scope="module")
def generator() -> CellGenerator:
    return make_generator()


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        (
            "CD8-positive T cell from the lung of a patient with COVID-19",
            "type: CD8-positive, alpha-beta T cell (CL:0000625); tissue: lung (UBERON:0002048); "
            "disease: COVID-19 (MONDO:0100096)",
        ),
        (
            "alpha cells from the pancreas of healthy women",
            "type: pancreatic A cell (CL:0000171); tissue: pancreas (UBERON:0001264); disease: normal (PATO:0000461); "
            "sex: female (PATO:0000383)",
        ),
        (
            "fibroblast from the sinoatrial node",
            "type: fibroblast (CL:0000057); tissue: sinoatrial node (UBERON:0002351)",
        ),
        ("fetal hepatocytes", "type: hepatocyte (CL:0000182); life stage: the fetal stage of prenatal development"),
        (
            "endothelial cell of lymphatic vessel from the skin",
            "type: endothelial cell of lymphatic vessel (CL:0002138); tissue: zone of skin (UBERON:0000014)",
        ),
        (
            "This cell is a B cell: A lymphocyte of B lineage that is capable of B cell mediated immunity. It comes "
            "from the blood of a healthy donor. Its most active pathway is hypoxia.",
            "type: B cell (CL:0000236); tissue: blood (UBERON:0000178); disease: normal (PATO:0000461)",
        ),
    ],
)
def test_texts_are_read_as_concepts(text, understood):
    prompt = read_prompt(text)
    assert prompt.understood() == understood and prompt.not_used == ()


def test_words_without_effect_are_kept():
    assert read_prompt("activated B cell from the spleen").not_used == ("activated",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a frobnicator from the lung", "names no cell type.*Understood: tissue: lung"),
        ("T cell from the moon", "'moon' is not part of a tissue.*Understood: type: T cell"),
        ("T cells and B cells", "names 2 cell types: T cell, B cell"),
        ("not a T cell", "negates something"),
        ("", "text is empty"),
    ],
)
def test_texts_that_cannot_be_generated_raise_and_state_what_was_understood(text, message):
    with pytest.raises(UserError, match=message):
        read_prompt(text)


def test_conditions_inherit_from_all_terms_above():
    nodes = condition_nodes(CD8, LUNG, COVID, "male", "fetal")
    assert {CD8, T_CELL, LUNG, COVID, "male", "fetal", f"{CD8}|{LUNG}"} <= set(nodes)
    assert HEALTHY not in condition_nodes(CD8, "", HEALTHY)
    assert node_matrix([nodes], [T_CELL, B_CELL]).tolist() == [[1.0, 0.0]]


def plan(generator, text, n=200):
    return plan_cells(generator, read_prompt(text), n, np.random.default_rng(0))


def test_a_seen_type_takes_study_and_donors_of_its_own_cells(generator):
    found, notes = plan(generator, "CD8 T cell from the blood")
    assert set(found.table["donor"]) == {"one a"} and not found.table["borrowed"].any() and notes == []


def test_healthy_donors_lend_to_healthy_cells_and_the_cells_say_so(generator):
    mixed = make_generator()
    mixed.seen = pd.concat([mixed.seen, mixed.seen.assign(disease=COVID, donor="ill")], ignore_index=True)
    found, notes = plan(mixed, "CD8 T cell from the blood of a healthy donor")
    assert set(found.table["disease"]) == {HEALTHY} and set(found.table["donor"]) == {"one a"}
    assert not any("never" in note for note in notes)


def test_a_broad_type_is_a_mixture_of_seen_types_below_it(generator):
    found, notes = plan(generator, "T cell from the blood")
    shares = found.table["cell_type"].value_counts(normalize=True)
    assert set(shares.index) == {CD4, CD8} and shares[CD8] == pytest.approx(0.75, abs=0.1)
    assert "it uses types below it (2)" in notes[0]


def test_types_without_cells_borrow_from_related_cells_and_say_so(generator):
    found, notes = plan(generator, "CD8 T cell from the lung of a patient with COVID-19")
    assert set(found.table["style"]) == {"one"} and found.table["borrowed"].all()
    assert any("assay are borrowed (assay one)" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("B cell from the lung", "never seen in the lung"),
        ("B cell with COVID-19", "never seen in COVID-19"),
        ("B cell from the breast", "never saw the tissue breast"),
        ("natural killer cell", "never saw natural killer cell or a type below it"),
        ("B cell of an adult", "life stage (adulthood) has no effect"),
    ],
)
def test_attributes_never_seen_are_stated(generator, text, note):
    assert any(note in found for found in plan(generator, text)[1])


def test_the_sex_chooses_the_donors(generator):
    assert set(plan(generator, "T cell of a woman")[0].table["donor"]) <= {"one b", "two a"}


def test_counts_have_the_mean_and_the_dispersion_asked_for():
    shares, n = np.array([0.2, 0.8]), 4000
    counts = sample_counts(
        np.tile(shares, (n, 1)), np.full(n, 100.0), np.tile([0.5, 0.0], (n, 1)), np.random.default_rng(0)
    ).toarray()
    assert counts.mean(axis=0) == pytest.approx([20, 80], rel=0.1)
    assert counts[:, 0].var() > 2 * counts[:, 0].mean()


def test_cells_without_counts_get_one():
    counts = sample_counts(np.array([[0.1, 0.9]]), np.array([1e-9]), np.zeros((1, 2)), np.random.default_rng(0))
    assert counts.toarray().tolist() == [[0, 1]]


def test_generated_cells_are_counts_of_the_genes_of_their_study(generator):
    cells = generate_cells("CD8 T cell from the blood", 20, generator=generator)
    counts = cells.X.toarray()
    assert counts.shape == (20, 12) and (counts == counts.round()).all() and (counts >= 0).all()
    assert counts[:, 0].sum() == 0 and (counts.sum(axis=1) > 0).all()
    assert cells.obs["generated"].all() and set(cells.obs["assay"]) == {"assay one"}


def test_the_seed_decides_the_cells(generator):
    one, same, other = (generate_cells("B cell", 5, seed=seed, generator=generator).X for seed in (1, 1, 2))
    assert (one != same).nnz == 0 and (one != other).nnz > 0


def test_what_was_understood_is_stored_and_survives_a_file(generator, tmp_path):
    cells = generate_cells("activated B cell from the lung", 3, generator=generator)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    record = ad.read_h5ad(tmp_path / "cells.h5ad").uns[KEY]
    assert record["understood"] == "type: B cell (CL:0000236); tissue: lung (UBERON:0002048)"
    assert json.loads(record["not_used"]) == ["activated"] and "never seen" in record["notes"]
    assert json.loads(record["concepts"])["cell_type"] == {"label": "B cell", "term_id": B_CELL}


@pytest.mark.parametrize(("n", "seed", "name"), [(0, 0, "n"), (2.5, 0, "n"), (True, 0, "n"), (1, -1, "seed")])
def test_numbers_are_checked(generator, n, seed, name):
    with pytest.raises(UserError, match=f"^{name}="):
        generate_cells("B cell", n, seed=seed, generator=generator)


def test_the_packaged_generator_is_small_and_loads():
    packaged = load_generator()
    assert len(packaged.genes) > 20_000 and packaged.seen["cells"].sum() > 5_000
    assert sum(path.stat().st_size for path in GENERATOR.iterdir()) < 12e6


def test_the_packaged_model_names_the_type_that_was_generated():
    cells = tl.generate("pancreatic A cell from the pancreas", n=8)
    tl.describe(cells, max_new_tokens=20)
    assert (cells.obs["cell2text_cell_type"] == "pancreatic A cell").sum() > 4


def test_the_command_writes_a_file_and_states_what_was_understood(tmp_path, capsys):
    out = tmp_path / "cells.h5ad"
    assert run_cli("generate", "B cell from the blood", "--n", 4, "--out", out) == 0
    assert "Understood type: B cell (CL:0000236); tissue: blood" in capsys.readouterr().out
    assert ad.read_h5ad(out).n_obs == 4
    assert run_cli("generate", "B cell", "--out", out) == 2
    assert "exists. Pass --overwrite" in capsys.readouterr().err
