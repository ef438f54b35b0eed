"""Rows of profiles that are not those of one cell, and fields that rows leave out."""

import numpy as np
import pytest

from cell2text.errors import UserError
from cell2text.preparation.config import PrepareConfig

from .preparation_runs import load_rows, make_file, prepare_studies


@pytest.fixture(scope="module")
def with_profiles(studies, tmp_path_factory):
    """Return a prepared file of which every fourth cell is ambient RNA without a type, without tissue and disease."""
    folder = tmp_path_factory.mktemp("profiles")
    kinds = np.array(["one cell", "two cells", "ambient RNA", "something else"] * 15)
    adata = make_file(folder / "mixed.h5ad", 60)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    ambient = kinds == "ambient RNA"
    changes = {
        "profile": kinds, "second_cell_type": np.where(kinds == "two cells", "monocyte", ""),
        "cell_type": np.where(ambient, "unknown", types), "cell_type_ontology_term_id": "",
    }  # fmt: skip
    make_file(folder / "mixed.h5ad", 60, **changes)
    omit = ["tissue", "disease", "life_stage"]
    prepare_studies(studies, folder / "out", [folder / "mixed.h5ad"], omit=omit, tasks={"describe": 1.0})
    return folder / "out"


def test_profiles_are_carried_and_need_no_label(with_profiles, tmp_path):
    splits = load_rows(with_profiles, tmp_path)
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 60
    kinds = [row["profile"] for row in rows]
    assert [kinds.count(kind) for kind in ("one cell", "two cells", "ambient RNA", None)] == [15] * 4
    for row in rows:
        text = row["completion"][0]["content"][0]["text"]
        assert (row["cell_type"] is None) == (row["profile"] == "ambient RNA") == (" is a" not in text), text
        assert row["second_cell_type"] == ("monocyte" if row["profile"] == "two cells" else None)


def test_omitted_fields_are_neither_in_the_columns_nor_in_the_texts(with_profiles, tmp_path):
    for row in load_rows(with_profiles, tmp_path)["train"]:
        assert row["tissue"] is row["disease"] is row["life_stage"] is row["development_stage"] is None
        text = row["completion"][0]["content"][0]["text"]
        assert row["sex"] == "female" and "female donor" in text and "blood" not in text and "adult" not in text


def test_a_share_of_the_texts_states_no_pathways(studies, tmp_path):
    """Training texts alone, and their column `pathways` with them."""
    found = {}
    for share in (1.0, 0.5):
        prepare_studies(studies, tmp_path / str(share), pathway_share=share, tasks={"describe": 1.0})
        found[share] = load_rows(tmp_path / str(share), tmp_path)
    for split, rows in found[0.5].items():
        for row in rows:
            assert bool(row["pathways"]) == ("pathway" in row["completion"][0]["content"][0]["text"])
        stated, all_stated = ([bool(names) for names in found[share][split]["pathways"]] for share in (0.5, 1.0))
        assert (0.3 < sum(stated) / sum(all_stated) < 0.7) if split == "train" else stated == all_stated


def test_fields_that_cannot_be_omitted_are_refused():
    with pytest.raises(UserError, match=r"omit=\['cell_type'\]: expected some of tissue, disease, sex, life_stage"):
        PrepareConfig(inputs=["a.h5ad"], omit=["cell_type"])
