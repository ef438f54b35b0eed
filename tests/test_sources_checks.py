"""Files that cannot be used, and the advice that errors give."""

import html

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from cell2text.sources.checks import BadFileError

from .preparation_runs import load_rows, make_file, prepare_studies


def bad_file(kind, folder):
    path = folder / "bad.h5ad"
    adata = make_file(path, 30, seed=9, prefix="bad")
    if kind == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "no_h5ad":
        path.write_text("cell,gene\n1,2\n")
    elif kind == "other_hdf5":
        import h5py

        with h5py.File(path, "w") as file:
            file["matrix"] = [1, 2, 3]
    elif kind == "missing_columns":
        adata.obs = adata.obs[["sex"]].rename(columns={"sex": "Sex"})
    elif kind == "mouse":
        adata.var_names = [f"ENSMUSG{i:011d}" for i in range(adata.n_vars)]
        adata.var["feature_name"] = [f"Actb{i}" for i in range(adata.n_vars)]
    elif kind == "log":
        totals = np.asarray(adata.X.sum(axis=1)).reshape(-1, 1)
        adata.X = sp.csr_matrix(np.log1p(adata.X.toarray() / totals * 1e4).astype(np.float32))
    elif kind == "nan":
        adata.X.data[5] = np.nan
    elif kind == "negative":
        adata.X.data[5] = -1
    elif kind == "empty":
        adata = adata[:0]
    elif kind == "no_genes":
        adata = adata[:, :0]
    elif kind == "few_genes":
        adata = adata[:, :40]
    if kind not in ("truncated", "no_h5ad", "other_hdf5"):
        adata.copy().write_h5ad(path)
    if kind == "wide":  # more columns in X than genes in var
        import h5py

        with h5py.File(path, "a") as file:
            file["X"].attrs["shape"] = (30, 70)
    return path


BAD_FILES = {
    "truncated": "bad: cannot be opened: it is damaged, truncated or not h5ad",
    "no_h5ad": "bad: cannot be opened: it is damaged, truncated or not h5ad",
    "other_hdf5": "bad: is not an AnnData: it lacks \\['obs', 'var'\\]",
    "missing_columns": "bad: has no column cell_type, tissue or disease in obs.*it has \\['Sex'\\].*columns=, such as cell_type=CellType",
    "mouse": "bad: 0 of 60 genes are in the vocabulary.*mouse",
    "log": "bad: X holds log-normalised values \\(cell 'cell0': .*raw counts are needed.*Pass a file with the raw counts",
    "nan": "bad: X holds NaN or infinite values \\(cell 'cell0'",
    "negative": "bad: X holds negative values",
    "empty": "bad: contains no cells",
    "no_genes": "bad: contains no genes",
    "few_genes": "bad: has 40 genes. Scoring gene sets needs at least 50",
    "wide": "bad: X has shape \\(30, 70\\), but obs names 30 cells and var 60 genes",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_and_can_be_skipped(kind, studies, prepared, tmp_path):
    import re

    bad = bad_file(kind, tmp_path)
    with pytest.raises(BadFileError, match=BAD_FILES[kind]) as raised:
        prepare_studies(studies, tmp_path / "out", inputs=[studies / "cells", bad])
    assert "skip_bad_files=True" in str(raised.value)
    report = prepare_studies(studies, tmp_path / "out", inputs=[studies / "cells", bad], skip_bad_files=True)
    assert re.search(BAD_FILES[kind].removeprefix("bad: ").split(".*")[0], report["skipped"]["bad"])
    expected, found = load_rows(prepared, tmp_path), load_rows(tmp_path / "out", tmp_path)
    assert all(found[split]["cell_id"] == expected[split]["cell_id"] for split in expected)
    assert report["skipped"]["bad"] in html.unescape((tmp_path / "out" / "report.html").read_text())


def test_a_bad_value_deep_in_a_file_is_found_and_can_be_skipped(studies, tmp_path):
    make_file(tmp_path / "long.h5ad", 400, seed=5, prefix="long")
    adata = ad.read_h5ad(tmp_path / "long.h5ad")
    adata.X.data[adata.X.indptr[380]] = 0.5
    adata.write_h5ad(tmp_path / "long.h5ad")
    inputs = [studies / "cells", tmp_path / "long.h5ad"]
    with pytest.raises(BadFileError, match="long: X holds fractional values \\(cell 'cell380': 0.5\\)"):
        prepare_studies(studies, tmp_path / "out", inputs=inputs)
    report = prepare_studies(studies, tmp_path / "other", inputs=inputs, skip_bad_files=True)
    assert set(report["files"]) == {"one", "two", "three"} and "cell380" in report["skipped"]["long"]


def test_a_damaged_chunk_is_found(studies, tmp_path):
    import h5py

    make_file(tmp_path / "hurt.h5ad", 300, seed=5)
    with h5py.File(tmp_path / "hurt.h5ad") as file:
        dataset = file["X"]["data"]
        place = dataset.id.get_chunk_info(dataset.id.get_num_chunks() - 1).byte_offset
    content = bytearray((tmp_path / "hurt.h5ad").read_bytes())
    content[place + 10 : place + 40] = b"\xff" * 30
    (tmp_path / "hurt.h5ad").write_bytes(content)
    with pytest.raises(BadFileError, match="hurt: is damaged: cells .* cannot be read|hurt: X holds"):
        prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "hurt.h5ad"])


def test_log_normalised_values_are_refused_even_with_allow_fractional(studies, tmp_path):
    with pytest.raises(BadFileError, match="bad: X holds log-normalised values"):
        prepare_studies(studies, tmp_path / "out", inputs=[bad_file("log", tmp_path)], allow_fractional=True)


def test_counts_in_a_layer_are_found_and_a_missing_layer_is_named(studies, tmp_path):
    adata = make_file(tmp_path / "a.h5ad")
    adata.layers["umi"], adata.X = adata.X.copy(), adata.X.log1p()
    adata.write_h5ad(tmp_path / "a.h5ad")
    report = prepare_studies(studies, tmp_path / "found", inputs=[tmp_path / "a.h5ad"], split="random")
    assert (
        report["files"]["a"]["counts"] == "layers['umi']"
        and "X holds log-normalised" in report["files"]["a"]["notes"][0]
    )
    with pytest.raises(BadFileError, match="Found integers in layers.'umi'.: pass layer='umi'"):
        prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], layer="X")
    with pytest.raises(BadFileError, match="layer='raws': there is no such matrix. There are X, layers.'umi'."):
        prepare_studies(studies, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], layer="raws")
