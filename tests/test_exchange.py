"""Export of described files: Cell Annotation Schema JSON, and files for CELLxGENE."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2text.describe.described_file import Described, read_described
from cell2text.errors import UserError
from cell2text.exchange import cell_annotations, cellxgene_columns, export
from cell2text.exchange.cas import RESERVED, cell_labels
from cell2text.exchange.cellxgene import CELL_TYPE, SEX
from cell2text.exchange.matrix_genes import matrix_genes
from declining_cell2text import EMPTY_CELL_TEXT, declined_text, too_few_genes_text

from .conftest import run_cli
from .describing import described_files  # noqa: F401


HOSTILE = '=cmd|"; </script>\n\\'
T_CELL = "CL:0000084"


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """Six described cells in two groups, one of them with a hostile name; symbols in a column of var."""
    texts = [
        "This cell is a T cell.", "This cell is a T cell.", declined_text("two_profiles"), declined_text("ambient"),
        declined_text("unknown_type"), "",
    ]  # fmt: skip
    types = ["T cell", "T cell", None, None, None, None]
    obs = pd.DataFrame(
        {
            "leiden": ["0", "0", "0", HOSTILE, HOSTILE, None],
            "cell_type": list("abcdef"),
            "cell2text": texts,
            "cell2text_cell_type": pd.Categorical(types),
            "cell2text_cell_type_ontology_term_id": pd.Categorical([name and T_CELL for name in types]),
            "cell2text_type_probability": [0.9, 0.7, *[np.nan] * 4],
            "cell2text_sex": pd.Categorical(["female", *[None] * 5]),
            "cell2text_sex_ontology_term_id": pd.Categorical(["PATO:0000383", *[None] * 5]),
            "cell2text_evidence": ["T cell: IL32* (+1.2), ABSENT (+0.3), CD3D (-0.1)", *[None] * 5],
            "cell2text_n_genes": 100,
            "cell2text_counts_used": 1.0,
        },
        index=[*"ABCDE", HOSTILE],
    )
    for name in ("tissue", "disease", "life_stage", "pathways"):
        obs[f"cell2text_{name}"] = pd.Categorical([None] * 6, categories=["a"])
    groups = pd.DataFrame(
        {
            "group": pd.Categorical(["0", HOSTILE]),
            "n_cells": [3, 2],
            "cell_type": pd.Categorical(["T cell", None]),
            "cell_type_ontology_term_id": pd.Categorical([T_CELL, None]),
            "type_probability": [0.93, np.nan],
            "heterogeneous": [False, True],
            "heterogeneity": pd.Categorical([None, HOSTILE]),
            "marker_genes": pd.Categorical(["CD3D; IL32; ABSENT", None]),
            "summary": ["Group 0 is a T cell.", HOSTILE * 500],
        },
        index=["0", "1"],
    )
    adata = ad.AnnData(sp.csr_matrix((6, 2), dtype=np.float32), obs=obs)
    adata.var_names = ["ENSG00000167286", "ENSG00000008517"]
    adata.var["feature_name"] = ["CD3D", "IL32"]
    adata.obsm["X_cell2text"] = np.zeros((6, 2), dtype=np.float32)
    params = {"model": "mini", "libraries": '{"cell2text": "1.2.3"}', "groups": '{"column": "leiden"}'}
    adata.uns["cell2text"] = {"params": params, "groups": groups}
    path = tmp_path_factory.mktemp("exchange") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def cas(described, tmp_path_factory):
    out = tmp_path_factory.mktemp("cas") / "annotations.json"
    return json.loads(export(described, out, url="https://example.org/annotations").read_text(encoding="utf-8"))


def annotations(cas, labelset):
    return {one["cell_label"]: one for one in cas["annotations"] if one["labelset"] == labelset}


def test_every_cell_has_one_label_of_the_cells(cas):
    found = annotations(cas, "cell2text_cell_type")
    ids = {label: one["cell_ids"] for label, one in found.items()}
    assert ids == {"T cell": ["A", "B"], "doublets": ["C"], "junk": ["D"], "unknown": ["E"], "NA": [HOSTILE]}
    assert all(one["cell_fullname"] == label for label, one in found.items())


def test_a_cell_type_has_its_term_the_broader_term_and_its_confidence(cas):
    one = annotations(cas, "cell2text_cell_type")["T cell"]
    assert (one["cell_ontology_term_id"], one["cell_ontology_term"], one["cell_ontology_exists"]) == (
        T_CELL, "T cell", True,
    )  # fmt: skip
    assert one["category_cell_ontology_term"] == "lymphocyte"
    assert one["author_annotation_fields"] == {
        "cell2text_mean_type_probability": 0.8, "cell2text_min_type_probability": 0.7,
    }  # fmt: skip
    assert "mean probability of 0.80" in one["rationale"]
    assert one["marker_gene_evidence"] == ["ENSG00000008517"]  # of the evidence column; CD3D speaks against it


def test_groups_are_a_label_set_of_their_own_with_summary_and_marker_genes_of_the_matrix(cas):
    found = annotations(cas, "leiden")
    assert [one["name"] for one in cas["labelsets"]] == ["cell2text_cell_type", "leiden"]
    group = found["0"]
    assert (group["cell_fullname"], group["cell_ids"]) == ("T cell", ["A", "B", "C"])
    assert group["marker_gene_evidence"] == ["ENSG00000167286", "ENSG00000008517"]
    assert group["rationale"] == "Group 0 is a T cell."
    assert group["author_annotation_fields"]["cell2text_type_probability"] == 0.93


def test_hostile_text_stays_a_plain_string_within_the_limits_of_the_schema(cas):
    group = annotations(cas, "leiden")[HOSTILE]
    assert group["cell_fullname"] == "unknown" and "cell_ontology_term_id" not in group
    assert len(group["rationale"]) == 2000 and group["rationale"].startswith(HOSTILE)
    assert group["author_annotation_fields"] == {"cell2text_heterogeneity": HOSTILE}
    assert group["cell_ids"] == ["D", "E"]


def test_an_export_does_not_change_from_run_to_run(described, cas, tmp_path):
    again = export(described, tmp_path / "again.json", url="https://example.org/annotations")
    assert json.loads(again.read_text(encoding="utf-8")) == cas


@pytest.mark.parametrize("name", ["general", "CAP"])
def test_the_schema_accepts_the_export(name, cas):
    package = pytest.importorskip("cas_schema", reason="needs: pip install cell-annotation-schema")
    jsonschema = pytest.importorskip("jsonschema")
    path = Path(package.__file__).parent / "schemas" / f"{name}_schema.json"
    jsonschema.Draft202012Validator(json.loads(path.read_text())).validate(cas)


def test_fields_that_the_schema_requires_are_present(cas):
    assert {"author_name", "title", "labelsets", "annotations"} <= set(cas)
    for one in cas["labelsets"]:
        assert one["annotation_method"] == "algorithmic" and "automated_annotation" not in one
    for one in cas["annotations"]:
        assert isinstance(one["labelset"], str) and isinstance(one["cell_label"], str)
        assert len(one["rationale"]) <= 2000 and all(isinstance(name, str) for name in one["cell_ids"])
    everything = [name for one in annotations(cas, "cell2text_cell_type").values() for name in one["cell_ids"]]
    assert sorted(everything) == sorted([*"ABCDE", HOSTILE])


def test_an_address_of_the_algorithm_states_its_version(described):
    found = cell_annotations(read_described(described), algorithm_url="https://example.org/model")
    assert found["labelsets"][0]["automated_annotation"] == {
        "algorithm_name": "Cell2Text", "algorithm_version": "1.2.3", "algorithm_repo_url": "https://example.org/model",
    }  # fmt: skip


def test_evidence_genes_are_those_of_the_matrix(described):
    found = cell_annotations(read_described(described), evidence={"T cell": ["IL32", "ABSENT", "ENSG00000167286"]})
    one = next(one for one in found["annotations"] if one["cell_label"] == "T cell")
    assert one["marker_gene_evidence"] == ["ENSG00000008517", "ENSG00000167286"]
    assert matrix_genes(described)([]) == []


def test_reasons_become_reserved_labels():
    texts = [EMPTY_CELL_TEXT, too_few_genes_text(3, 20), declined_text("ambient"), None, "", "Text without a type."]
    found = cell_labels(pd.DataFrame({"cell_type": [None] * 6, "text": texts}))
    assert found.tolist() == ["junk", "junk", "junk", "unknown", "NA", "unknown"] and {*found} <= {*RESERVED}


def test_cell_names_that_are_not_unique_raise():
    cells = pd.DataFrame({"cell_type": ["T cell"] * 2}, index=["a", "a"])
    with pytest.raises(UserError, match="1 cell names are not unique, such as 'a'"):
        cell_annotations(Described(Path("x.h5ad"), cells, [], None, {}, {}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"title": "x" * 201}, "has 201 characters: expected 1 to 200"),
        ({"author": " "}, "author is empty"),
        ({"format": "csv"}, "format='csv': expected one of cas, cellxgene"),
        ({"format": "cellxgene"}, "expected a path that ends in .h5ad"),
    ],
)
def test_arguments_that_cannot_work_raise(options, message, described, tmp_path):
    with pytest.raises(UserError, match=message):
        export(described, tmp_path / "o.json", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_kept(described, tmp_path):
    out = tmp_path / "o.json"
    out.write_text("mine")
    with pytest.raises(UserError, match="Pass overwrite=True"):
        export(described, out)
    assert out.read_text() == "mine" and export(described, out, overwrite=True) == out


def test_columns_for_cellxgene_are_unknown_where_nothing_is_named(described):
    found = cellxgene_columns(read_described(described).cells)
    assert found[CELL_TYPE].tolist() == [T_CELL, T_CELL, *["unknown"] * 4]
    assert found[SEX].tolist() == ["PATO:0000383", *["unknown"] * 5]
    sure = cellxgene_columns(read_described(described).cells, min_probability=0.8)
    assert sure[CELL_TYPE].tolist() == [T_CELL, *["unknown"] * 5]
    with pytest.raises(UserError, match="min_probability=2: expected"):
        cellxgene_columns(read_described(described).cells, min_probability=2)


def test_a_file_for_cellxgene_has_the_columns_and_keeps_the_users_labels(described, tmp_path, caplog):
    before = ad.read_h5ad(described)
    after = ad.read_h5ad(export(described, tmp_path / "o.h5ad", format="cellxgene"))
    assert after.obs[CELL_TYPE].tolist() == [T_CELL, T_CELL, *["unknown"] * 4]
    assert "cell_type" not in after.obs and after.obs["author_cell_type"].tolist() == list("abcdef")
    assert after.obs["cell2text"].tolist() == before.obs["cell2text"].tolist() and after.obs_names.equals(
        before.obs_names
    )
    assert "renamed cell_type to author_cell_type" in caplog.text and "donor_id" in caplog.text
    assert ad.read_h5ad(described).obs.equals(before.obs)


def test_cell_types_of_the_user_are_replaced_on_request_only(described, tmp_path):
    adata = ad.read_h5ad(described)
    adata.obs[CELL_TYPE], adata.obs[SEX] = "CL:0000236", "PATO:0000384"
    adata.write_h5ad(tmp_path / "own.h5ad")
    with pytest.raises(UserError, match="of your own. Pass replace=True"):
        export(tmp_path / "own.h5ad", tmp_path / "o.h5ad", format="cellxgene")
    out = export(tmp_path / "own.h5ad", tmp_path / "o.h5ad", format="cellxgene", replace=True)
    assert ad.read_h5ad(out).obs[CELL_TYPE].tolist()[:3] == [T_CELL, T_CELL, "unknown"]
    assert list(ad.read_h5ad(out).obs).count(CELL_TYPE) == 1


def test_the_command_exports_h5ad_and_zarr(described_files, tmp_path, capsys):
    for suffix in ("h5ad", "zarr"):
        out = tmp_path / f"{suffix}.json"
        assert run_cli("export", described_files / f"described.{suffix}", "--out", out, "--title", "Mine") == 0
        found = json.loads(out.read_text())
        assert found["title"] == "Mine" and {one["labelset"] for one in found["annotations"]} == {"cell2text_cell_type"}
    assert run_cli("export", described_files / "described.csv", "--out", tmp_path / "o.json") == 2
    assert "expected an .h5ad file or a .zarr store" in capsys.readouterr().err
