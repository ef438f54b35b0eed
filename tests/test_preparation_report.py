"""Report and dataset card of a run."""

import hashlib
import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import yaml

from cell2text.preparation.run import prepare
from vocabulary_cell2text import GeneVocabulary

from .conftest import SHARED, shared_path
from .preparation_runs import make_file, prepare_studies


def test_numbers_of_the_report_add_up(prepared):
    report = json.loads((prepared / "report.json").read_text())
    assert report["rows"] == 210 == sum(split["rows"] for split in report["splits"].values())
    for name, entry in report["files"].items():
        assert entry["cells"] == entry["rows"] + sum(entry["dropped"].values()), name
        assert sum(entry["genes_by_route"].values()) == entry["genes"] == 60
        assert abs(sum(entry["counts_by_route"].values()) - 1) < 1e-4
    assert sum(report["splits"]["train"]["tasks"].values()) == report["splits"]["train"]["rows"]
    named = sum(entry["named"] for entry in report["pathways"].values()) * 210
    counted = sum(sum(split["labels"]["pathways"].values()) for split in report["splits"].values())
    assert 210 < counted <= 420 and abs(named - counted) < 0.01
    page = (prepared / "report.html").read_text()
    assert (
        page.count("<svg") == 5
        and "three" in page
        and "http"
        not in page.replace("http://www.w3.org", "")
        .replace("http://purl.org", "")
        .replace("http://creativecommons.org", "")
    )


def test_card_records_provenance_without_paths(studies, prepared):
    text = (prepared / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert [entry["split"] for entry in header["configs"][0]["data_files"]] == ["train", "validation", "test"]
    for name in ("one", "two", "three"):
        assert hashlib.sha256((studies / "cells" / f"{name}.h5ad").read_bytes()).hexdigest() in text
    vocabulary = GeneVocabulary.from_pretrained(prepared / "vocabulary")
    assert vocabulary.fingerprint in text and "CL v" in text and "numpy 2" in text
    assert str(studies) not in text and str(studies) not in (prepared / "report.json").read_text()


def test_sampled_and_excluded_cells_are_counted(studies, tmp_path):
    report = prepare_studies(
        studies, tmp_path / "out", sampling="balanced", n_cells=90, exclude_datasets=["two"], split="random"
    )
    assert report["rows"] == 90 and report["files"]["two"]["dropped"] == {"excluded data set": 70}
    taken = report["files"]["one"]["rows"] + report["files"]["three"]["rows"]
    assert taken == 90 and report["files"]["one"]["dropped"]["not sampled"] > 0
    assert (
        report["diversity"]["after"]["cell_type"]["shannon"]
        >= report["diversity"]["before"]["cell_type"]["shannon"] - 1e-6
    )


def test_cells_without_counts_or_labels_are_counted(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 60)
    adata.X[[3, 4]] = 0
    adata.X.eliminate_zeros()
    for column in ("cell_type", "cell_type_ontology_term_id", "tissue", "disease"):
        adata.obs[column] = adata.obs[column].astype(object)
        adata.obs.loc[adata.obs_names[10:15], column] = "unknown"
    adata.write_h5ad(tmp_path / "a.h5ad")
    report = prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
    assert (
        report["files"]["a"]["dropped"]
        == {"cell type, tissue and disease unknown": 5, "without counts on genes of the vocabulary": 2}
        and report["rows"] == 53
    )


def test_the_split_of_auto_is_explained_everywhere(studies, tmp_path):
    make_file(tmp_path / "a.h5ad", 60, donor_id="only")
    report = prepare_studies(
        studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="auto", gene_sets=None, tasks={"describe": 1.0}
    )
    split = report["split"]
    assert (split["requested"], split["method"]) == ("auto", "random")
    assert split["reason"] == "there is 1 donor, and holding out donors needs at least 5"
    text = f"Split: random (chosen by auto: {split['reason']}). Cells of the same donor are in training and test, so"
    assert text in (tmp_path / "out" / "README.md").read_text()
    assert text in (tmp_path / "out" / "report.html").read_text()
    assert all(report["splits"][name]["rows"] for name in ("train", "validation", "test"))


def test_labels_that_training_lacks_are_reported_with_a_warning(studies, tmp_path, caplog):
    adata = make_file(tmp_path / "a.h5ad", 60, donors=3)
    adata.obs["tissue"] = [{"d0": "blood", "d1": "lung", "d2": "liver"}[donor] for donor in adata.obs["donor_id"]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    report = prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], gene_sets=None, tasks=None)
    missing = report["not_covered_by_training"]["tissue"]
    assert sum(missing.values()) == report["splits"]["validation"]["rows"] + report["splits"]["test"]["rows"]
    assert "Training has no cell with these labels of validation or test cells: tissue: " in caplog.text
    assert "Training has no row with these labels" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.skipif(not SHARED.exists(), reason="shared/ is not there")
def test_report_of_the_reference_data_matches_their_readme(tmp_path):
    import re

    readme = shared_path("data/README.md").read_text()
    stated = dict(re.findall(r"### `(\w+)\.h5ad`  (\d+) cells", readme))
    genes = {name: int(n) for name, n in re.findall(r"### `(\w+)\.h5ad`[\s\S]*?(\d+) Ensembl out", readme)}
    report = prepare(
        [shared_path("data")], tmp_path / "out", gene_vocab=str(shared_path("geneformer")), allow_fractional=True,
        gene_sets=str(shared_path("genesets/h.all.v7.0.symbols.gmt")), progress=False, max_genes=256,
    )  # fmt: skip
    assert len(stated) == 9 and set(report["files"]) == {*stated, "example_cells"}
    for name, cells in stated.items():
        entry = report["files"][name]
        assert (entry["cells"], entry["rows"], entry["genes"], entry["dropped"]) == (
            int(cells),
            int(cells),
            genes[name],
            {},
        )
        adata = ad.read_h5ad(shared_path(f"data/{name}.h5ad"))
        token_ids, _ = GeneVocabulary.from_pretrained(shared_path("geneformer")).map_genes(adata.var_names)
        lost = adata.X[:, token_ids < 0].sum(dtype=np.float64) / adata.X.sum(dtype=np.float64)
        assert abs(entry["counts_by_route"]["unmapped"] - lost) < 1e-6
    # Every example cell is one of the other files' cells.
    assert report["files"]["example_cells"]["dropped"] == {"duplicate of a cell in another file": 1409}
    assert report["rows"] == 22885
    types: dict[str, int] = {}
    for split in report["splits"].values():
        for label, n in split["labels"].get("cell_type", {}).items():
            types[label] = types.get(label, 0) + n
    assert sum(types.values()) == 9892 and len(types) == 56
    assert report["files"]["kang_pbmc_sle"]["labels"]["cell_type"]["routes"]["unknown"] == 12993


def test_data_without_counts_are_refused(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 30)
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="No cell remains: none has counts"):
        prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
