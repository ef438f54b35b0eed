"""`cell2text prepare` end to end: what comes out, that nothing changes it, and every wrong input."""

import errno
import hashlib
import html
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from datasets import load_dataset

import cell2text.preparation.jobs as jobs_module
from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.output_folder import BusyFolderError, lock_output_folder
from cell2text.preparation.run import fit_vocabulary_from_files, prepare
from cell2text.sources.checks import BadFileError
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_sources
from ranking_cell2text import rank_anndata
from vocabulary_cell2text import GeneVocabulary

from .conftest import SHARED, make_adata, make_vocabulary, run_cli, shared_path


TYPES = [("B cell", "CL:0000236"), ("T cell", "CL:0000084"), ("monocyte", "CL:0000576")]
MIX = {"describe": 2.0, "annotate": 1.0, "ask": 1.0, "pathways": 1.0, "compare": 1.0}


def make_file(path, n_cells=60, seed=0, donors=5, prefix="d", **changes):
    """Counts with CELLxGENE columns; `prefix` keeps donors of different files apart."""
    adata = make_adata(n_cells, seed=seed)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(TYPES), size=n_cells)
    adata.obs["cell_type"] = [TYPES[i][0] for i in chosen]
    adata.obs["cell_type_ontology_term_id"] = [TYPES[i][1] for i in chosen]
    adata.obs["tissue"], adata.obs["disease"], adata.obs["sex"] = "blood", "normal", "female"
    adata.obs["development_stage_ontology_term_id"] = "HsapDv:0000119"
    adata.obs["donor_id"] = [f"{prefix}{i}" for i in rng.integers(donors, size=n_cells)]
    adata.obs["dataset_id"] = Path(path).stem
    for name, value in changes.items():
        adata.obs[name] = value
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path, compression="gzip")
    return adata


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three files, a vocabulary and gene sets."""
    folder = tmp_path_factory.mktemp("world")
    for i, name in enumerate(("one", "two", "three")):
        make_file(folder / "cells" / f"{name}.h5ad", 60 + 10 * i, seed=i, prefix=name)
    make_vocabulary().save_pretrained(folder / "vocabulary")
    sets = [f"SET_{i}\tx\t" + "\t".join(f"GENE{j}" for j in range(5 * i, 5 * i + 8)) for i in range(8)]
    (folder / "sets.gmt").write_text("\n".join(sets) + "\n")
    return folder


def run(world, out, inputs=None, **options):
    given = {
        "gene_vocab": str(world / "vocabulary"), "gene_sets": str(world / "sets.gmt"), "tasks": MIX, "progress": False,
        "cells_per_shard": 25, "split": "donor", **options,
    }  # fmt: skip
    return prepare(inputs or [world / "cells"], out, **{k: v for k, v in given.items() if v is not None})


def digest(folder) -> str:
    """Names and contents of all files of an output folder."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def prepared(world):
    run(world, world / "prepared")
    return world / "prepared"


# What comes out


def test_rows_load_with_their_types_and_every_cell_once(world, prepared, tmp_path):
    data = load(prepared, tmp_path)
    assert set(data) == {"train", "validation", "test"} and sum(map(len, data.values())) == 210
    assert data["train"].features["cells"].feature.feature.dtype == "uint16"
    ids = [cell for split in data.values() for cell in split["cell_id"]]
    assert len(set(ids)) == 210 and "one:cell0" in ids and "two:cell0" in ids
    row = data["test"][0]
    assert (
        row["task"] == "describe"
        and row["life_stage"] == "adulthood"
        and row["development_stage"] == "25-year-old stage"
    )
    assert row["prompt"][-1]["content"][0] == {"type": "cell", "text": None}
    text = row["completion"][0]["content"][0]["text"]
    assert text.startswith(f"This cell is a {row['cell_type']}: ") and "of a healthy female donor in adulthood." in text
    assert 1 <= len(row["pathways"]) <= 2 and set(row["pathways"]) <= set(row["pathways_active"])
    assert len(row["pathway_scores"]) == 8
    assert set(data["train"]["task"]) == set(MIX)


def test_folders_of_one_name_are_not_taken_for_each_other(world, tmp_path):
    found = []
    for seed in (0, 1):  # `datasets` keeps what it loaded by the folder's name
        run(world, tmp_path / str(seed) / "data", seed=seed)
        found.append(load(tmp_path / str(seed) / "data", tmp_path)["test"]["cell_id"][:])
    assert found[0] != found[1]


def test_tokens_are_those_of_the_processor_and_scores_those_of_aucell(world, prepared, tmp_path):
    from cell2text.preparation.aucell import aucell
    from cell2text.preparation.gene_sets import match_columns, read_gmt
    from ranking_cell2text import CellRanker

    data, vocabulary = load(prepared, tmp_path), GeneVocabulary.from_pretrained(world / "vocabulary")
    for name in ("one", "three"):
        adata = ad.read_h5ad(world / "cells" / f"{name}.h5ad")
        expected, report = rank_anndata(adata, vocabulary, max_genes=vocabulary.max_genes)
        ranker = CellRanker(adata.var, vocabulary, max_genes=32)
        scores = aucell(adata.X, match_columns(read_gmt(world / "sets.gmt"), adata.var, ranker)).astype(np.float32)
        rows = [row for split in data.values() for row in split if row["source"] == name]
        assert len(rows) == adata.n_obs
        for row in rows:
            number = row["source_row"]
            assert row["cells"][0] == expected[number].tolist() and row["cell_id"] == f"{name}:cell{number}"
            assert row["n_genes"] == report.n_genes[number]
            assert np.allclose(row["pathway_scores"], scores[number])
            best = [f"SET_{i}" for i in np.argsort(-scores[number], kind="stable")[:2] if scores[number, i] > 0]
            assert row["pathways"] == best


def test_two_cells_stand_in_a_comparison(prepared, tmp_path):
    data = load(prepared, tmp_path)["train"]
    cells = dict(zip(data["cell_id"], (row[0] for row in data["cells"])))
    types = dict(zip(data["cell_id"], data["cell_type"]))
    compared = [row for row in data if row["task"] == "compare"]
    assert compared
    for row in compared:
        assert len(row["cells"]) == 2 and row["cells"][1] == cells[row["second_cell_id"]]
        assert [block["type"] for block in row["prompt"][-1]["content"]] == ["cell", "cell", "text"]
        text = row["completion"][0]["content"][0]["text"]
        assert row["cell_type"] in text and types[row["second_cell_id"]] in text
    assert all(len(row["cells"]) == 1 and row["second_cell_id"] is None for row in data if row["task"] != "compare")


def test_no_donor_stands_in_two_splits(prepared, tmp_path):
    donors = [set(split["donor_id"]) for split in load(prepared, tmp_path).values()]
    assert not donors[0] & donors[1] and not donors[0] & donors[2] and not donors[1] & donors[2]


def test_the_report_adds_up(prepared):
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


def test_the_card_tells_where_the_data_come_from(world, prepared):
    text = (prepared / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert [entry["split"] for entry in header["configs"][0]["data_files"]] == ["train", "validation", "test"]
    for name in ("one", "two", "three"):
        assert hashlib.sha256((world / "cells" / f"{name}.h5ad").read_bytes()).hexdigest() in text
    vocabulary = GeneVocabulary.from_pretrained(prepared / "vocabulary")
    assert vocabulary.fingerprint in text and "CL v" in text and "numpy 2" in text
    assert str(world) not in text and str(world) not in (prepared / "report.json").read_text()


# Nothing changes it


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(workers, world, prepared, tmp_path):
    run(world, tmp_path / "out", workers=workers)
    assert digest(tmp_path / "out") == digest(prepared)


def test_a_dask_cluster_gives_the_same_files(world, prepared, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        run(world, tmp_path / "out", dask_scheduler=cluster.scheduler_address)
    assert digest(tmp_path / "out") == digest(prepared)


def test_the_order_of_files_and_where_they_lie_change_nothing(world, prepared, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    files = [moved / f"{name}.h5ad" for name in ("two", "three", "one")]
    for path in files:
        path.write_bytes((world / "cells" / path.name).read_bytes())
    run(world, tmp_path / "out", inputs=files)
    assert digest(tmp_path / "out") == digest(prepared)


def test_another_seed_gives_another_split_and_other_wordings(world, prepared, tmp_path):
    run(world, tmp_path / "out", seed=1)
    first, second = load(prepared, tmp_path), load(tmp_path / "out", tmp_path)
    assert set(first["test"]["donor_id"]) != set(second["test"]["donor_id"])


def test_shards_of_another_size_hold_the_same_cells(world, prepared, tmp_path):
    run(world, tmp_path / "out", cells_per_shard=1000, tasks={"describe": 1.0})
    run(world, tmp_path / "small", cells_per_shard=7, tasks={"describe": 1.0})
    large, small = (load(tmp_path / name, tmp_path)["train"] for name in ("out", "small"))
    columns = ["cell_id", "cells", "prompt", "completion", "pathway_scores"]
    assert large.select_columns(columns).to_dict() == small.select_columns(columns).to_dict()


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "csc", "dense", "raw", "layer", "float64", "memory"])
def test_every_way_counts_are_stored_gives_the_same_rows(kind, world, prepared, tmp_path):
    options, inputs = {}, []
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(world / "cells" / f"{name}.h5ad")
        path = tmp_path / f"{name}.{'zarr' if kind.startswith('zarr') else 'h5ad'}"
        if kind == "csc":
            adata.X = adata.X.tocsc()
        elif kind == "dense":
            adata.X = adata.X.toarray()
        elif kind == "float64":
            adata.X = adata.X.astype(np.float64)
        elif kind == "raw":
            adata.raw = adata
            adata.X = adata.X.log1p()
            options["layer"] = "raw"
        elif kind == "layer":
            adata.layers["counts"] = adata.X.copy()
            adata.X = adata.X.log1p()
            options["layer"] = "counts"
        if kind.startswith("zarr"):
            with ad.settings.override(zarr_write_format=int(kind[-1])), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                adata.write_zarr(path)
        else:
            adata.write_h5ad(path)
        inputs.append(path)
    if kind == "memory":  # through fsspec, from where no path leads
        import fsspec

        for path in inputs:
            with fsspec.open(f"memory://cells/{path.name}", "wb") as file:
                file.write(path.read_bytes())
        inputs = ["memory://cells/*.h5ad"]
    run(world, tmp_path / "out", inputs=inputs, **options)
    expected, found = load(prepared, tmp_path), load(tmp_path / "out", tmp_path)
    for split in expected:
        assert found[split].to_dict() == expected[split].to_dict()


def test_columns_of_another_name_are_mapped(world, tmp_path):
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(world / "cells" / f"{name}.h5ad")
        adata.obs = adata.obs.rename(columns={"cell_type": "CellType", "donor_id": "patient"})
        adata.obs["cell_type_ontology_term_id"] = "unknown"
        adata.obs["CellType"] = adata.obs["CellType"].replace({"B cell": "b-cell", "monocyte": "my monos"})
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    report = run(world, tmp_path / "out", inputs=[tmp_path], columns={"cell_type": "CellType", "donor_id": "patient"})
    rows = load(tmp_path / "out", tmp_path)["train"]
    assert set(zip(rows["cell_type"], rows["cell_type_ontology_term_id"])) == {
        ("B cell", "CL:0000236"), ("T cell", "CL:0000084"), ("my monos", None)
    }  # fmt: skip
    labels = report["files"]["one"]["labels"]["cell_type"]
    assert set(labels["routes"]) == {"label", "synonym", "unresolved"} and set(labels["unresolved"]) == {"my monos"}


def test_a_vocabulary_is_fitted_to_the_training_cells_alone(world, tmp_path):
    run(world, tmp_path / "out", gene_vocab=None)
    data = load(tmp_path / "out", tmp_path)
    found = GeneVocabulary.from_pretrained(tmp_path / "out" / "vocabulary")
    from cell2text.preparation.medians import fit_vocabulary

    training = []
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(world / "cells" / f"{name}.h5ad")
        numbers = [row for source, row in zip(data["train"]["source"], data["train"]["source_row"]) if source == name]
        training.append(adata[sorted(numbers)])
    expected = fit_vocabulary(training)
    assert found.tokens == expected.tokens and np.allclose(found.medians[4:], expected.medians[4:])
    assert found.symbols == expected.symbols


def test_vocab_fits_all_cells_whatever_the_number_of_workers(world, tmp_path):
    first = fit_vocabulary_from_files([world / "cells"], tmp_path / "a", progress=False)
    second = fit_vocabulary_from_files([world / "cells"], tmp_path / "b", progress=False, workers=2, cells_per_shard=20)
    assert first.fingerprint == second.fingerprint
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["gene_aliases.tsv", "gene_vocabulary.tsv"]
    from cell2text.preparation.medians import fit_vocabulary

    adatas = [ad.read_h5ad(path) for path in sorted((world / "cells").glob("*"))]
    assert fit_vocabulary(adatas).fingerprint == first.fingerprint


def test_cells_are_sampled_and_filtered_and_counted(world, tmp_path):
    report = run(world, tmp_path / "out", sampling="balanced", n_cells=90, exclude_datasets=["two"], split="random")
    assert report["rows"] == 90 and report["files"]["two"]["dropped"] == {"excluded data set": 70}
    taken = report["files"]["one"]["rows"] + report["files"]["three"]["rows"]
    assert taken == 90 and report["files"]["one"]["dropped"]["not sampled"] > 0
    assert (
        report["diversity"]["after"]["cell_type"]["shannon"]
        >= report["diversity"]["before"]["cell_type"]["shannon"] - 1e-6
    )


# A run that stops


def test_a_run_that_fails_goes_on_and_ends_with_the_same_files(world, prepared, tmp_path, monkeypatch):
    done = []

    def fail_at_the_fourth(table, path):
        done.append(path)
        if len(done) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(table, path)

    write = jobs_module.write_table
    monkeypatch.setattr(jobs_module, "write_table", fail_at_the_fourth)
    with pytest.raises(OSError, match="No space left on device"):
        run(world, tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
    first = done[0].stat().st_mtime_ns
    monkeypatch.setattr(jobs_module, "write_table", write)
    run(world, tmp_path / "out")
    assert done[0].stat().st_mtime_ns == first  # what was done is not done again
    assert digest(tmp_path / "out") == digest(prepared)


def test_a_full_disk_leaves_no_partial_file_and_says_how_to_go_on(world, tmp_path):
    command = (
        "import sys; from cell2text import cli; import cell2text.preparation.shards as shards;"
        "exec('def full(*args, **kwargs):\\n raise OSError(28, \"No space left on device\")');"
        "shards.pq.write_table = full;"
        f"sys.argv = ['cell2text', 'prepare', {str(world / 'cells')!r}, '--out', {str(tmp_path / 'out')!r}, '--quiet',"
        f" '--gene-vocab', {str(world / 'vocabulary')!r}]; cli.run()"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "cell2text: The disk is full" in done.stderr and "start again" in done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "out").rglob("*.partial"))


def command_line(world, out, *more):
    return [
        sys.executable, "-m", "cell2text", "prepare", str(world / "cells"), "--out", str(out), "--quiet", "--gene-vocab",
        str(world / "vocabulary"), "--gene-sets", str(world / "sets.gmt"), "--config", str(world / "mix.yaml"), *more,
    ]  # fmt: skip


def test_a_killed_run_of_four_workers_ends_with_the_same_files(world, prepared, tmp_path):
    """benchmarks/kill.py does this ten times; here once, when some jobs are done."""
    (world / "mix.yaml").write_text(yaml.safe_dump({"tasks": MIX, "cells_per_shard": 25}))
    out = tmp_path / "out"
    process = subprocess.Popen(command_line(world, out, "--workers", "4"), start_new_session=True)
    deadline = time.monotonic() + 120
    while (
        not list((out / ".prepare" / "jobs").glob("0*.json")) and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)  # the workers must notice by themselves
    assert process.wait() == -signal.SIGKILL
    left = len(list((out / ".prepare" / "jobs").glob("0*.json")))
    assert 0 < left < 10
    done = subprocess.run(command_line(world, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digest(out) == digest(prepared)


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(world, tmp_path):
    first = run(world, tmp_path / "out")
    before = digest(tmp_path / "out")
    assert run(world, tmp_path / "out") == first and digest(tmp_path / "out") == before
    with pytest.raises(ValueError, match="belongs to a run that differs in config: seed. Choose another folder"):
        run(world, tmp_path / "out", seed=7)
    with pytest.raises(ValueError, match="differs in files: three"):
        run(world, tmp_path / "out", inputs=[world / "cells" / "one.h5ad", world / "cells" / "two.h5ad"])


def test_two_runs_in_one_folder_are_refused(world, tmp_path):
    with lock_output_folder(tmp_path / "out"), pytest.raises(BusyFolderError, match="is in use by another run"):
        run(world, tmp_path / "out")


def test_a_folder_with_other_files_is_left_alone(world, tmp_path):
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="contains other files \\(thesis.tex\\)"):
        run(world, tmp_path)
    with pytest.raises(ValueError, match="is a file. Choose a folder"):
        run(world, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_only_looks_like_ours_is_left_alone(world, tmp_path):
    """`data` and README.md are names that anyone may use: without a plan or a report nothing there is ours to clear."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.parquet").write_text("months of work")
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(ValueError, match="contains other files \\(README.md, data\\)"):
        run(world, tmp_path)
    assert (tmp_path / "data" / "precious.parquet").read_text() == "months of work"


# Wrong input


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
    "missing_columns": "bad: has no column cell_type, tissue or disease in obs; it has \\['Sex'\\].*columns=, such as cell_type=CellType",
    "mouse": "bad: 0 of 60 genes are in the vocabulary.*mouse",
    "log": "bad: X holds fractional values \\(cell 'cell0': .*raw counts are needed.*allow_fractional=True",
    "nan": "bad: X holds NaN or infinite values \\(cell 'cell0'",
    "negative": "bad: X holds negative values",
    "empty": "bad: contains no cells",
    "no_genes": "bad: contains no genes",
    "few_genes": "bad: has 40 genes. Scoring gene sets needs at least 50",
    "wide": "bad: X has shape \\(30, 70\\), but obs names 30 cells and var 60 genes",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_among_good_ones_is_named_and_can_be_skipped(kind, world, prepared, tmp_path):
    import re

    bad = bad_file(kind, tmp_path)
    with pytest.raises(BadFileError, match=BAD_FILES[kind]) as raised:
        run(world, tmp_path / "out", inputs=[world / "cells", bad])
    assert "skip_bad_files=True" in str(raised.value)
    report = run(world, tmp_path / "out", inputs=[world / "cells", bad], skip_bad_files=True)
    assert re.search(BAD_FILES[kind].removeprefix("bad: ").split(".*")[0], report["skipped"]["bad"])
    expected, found = load(prepared, tmp_path), load(tmp_path / "out", tmp_path)
    assert all(found[split]["cell_id"] == expected[split]["cell_id"] for split in expected)
    assert report["skipped"]["bad"] in html.unescape((tmp_path / "out" / "report.html").read_text())


def test_a_fault_deep_in_a_file_is_found_and_can_be_skipped(world, tmp_path):
    make_file(tmp_path / "long.h5ad", 400, seed=5, prefix="long")
    adata = ad.read_h5ad(tmp_path / "long.h5ad")
    adata.X.data[adata.X.indptr[380]] = 0.5
    adata.write_h5ad(tmp_path / "long.h5ad")
    inputs = [world / "cells", tmp_path / "long.h5ad"]
    with pytest.raises(BadFileError, match="long: X holds fractional values \\(cell 'cell380': 0.5\\)"):
        run(world, tmp_path / "out", inputs=inputs)
    report = run(world, tmp_path / "other", inputs=inputs, skip_bad_files=True)
    assert set(report["files"]) == {"one", "two", "three"} and "cell380" in report["skipped"]["long"]


def test_a_chunk_that_is_damaged_is_found(world, tmp_path):
    import h5py

    make_file(tmp_path / "hurt.h5ad", 300, seed=5)
    with h5py.File(tmp_path / "hurt.h5ad") as file:
        dataset = file["X"]["data"]
        place = dataset.id.get_chunk_info(dataset.id.get_num_chunks() - 1).byte_offset
    content = bytearray((tmp_path / "hurt.h5ad").read_bytes())
    content[place + 10 : place + 40] = b"\xff" * 30
    (tmp_path / "hurt.h5ad").write_bytes(content)
    with pytest.raises(BadFileError, match="hurt: is damaged: cells .* cannot be read|hurt: X holds"):
        run(world, tmp_path / "out", inputs=[tmp_path / "hurt.h5ad"])


def test_logarithms_are_refused_even_where_fractions_are_allowed(world, tmp_path):
    with pytest.raises(BadFileError, match="bad: X holds log-normalised values"):
        run(world, tmp_path / "out", inputs=[bad_file("log", tmp_path)], allow_fractional=True)


def test_counts_in_a_layer_are_pointed_at(world, tmp_path):
    adata = make_file(tmp_path / "a.h5ad")
    adata.layers["umi"], adata.X = adata.X.copy(), adata.X.log1p()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(BadFileError, match="Found integers in 'umi': pass layer='umi'"):
        run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"])
    with pytest.raises(BadFileError, match="has no layer 'raws': it has layers \\['umi'\\] and no raw"):
        run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], layer="raws")


def test_files_with_different_gene_names_meet_in_the_vocabulary(world, prepared, tmp_path):
    for name in ("one", "two", "three"):
        adata = ad.read_h5ad(world / "cells" / f"{name}.h5ad")
        if name == "two":
            adata.var_names = adata.var["feature_name"].astype(str)
            adata.var = adata.var[[]]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    report = run(world, tmp_path / "out", inputs=[tmp_path])
    assert report["files"]["two"]["genes_by_route"]["symbol"] == 60
    assert report["files"]["one"]["genes_by_route"]["ensembl_id"] == 60
    expected, found = load(prepared, tmp_path), load(tmp_path / "out", tmp_path)
    assert found["train"]["cells"][:] == expected["train"]["cells"][:]
    with pytest.raises(BadFileError, match="two: 'GENE0' in adata.var_names is not a human Ensembl gene id"):
        run(world, tmp_path / "fitted", inputs=[tmp_path], gene_vocab=None)


def test_the_same_names_in_two_files_are_two_cells_unless_data_set_and_donor_agree(world, tmp_path):
    make_file(tmp_path / "a.h5ad", 40, seed=1, prefix="a")
    make_file(tmp_path / "b.h5ad", 40, seed=2, prefix="b")
    report = run(world, tmp_path / "apart", inputs=[tmp_path])
    assert report["rows"] == 80
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    adata[5:25, :50].copy().write_h5ad(tmp_path / "subset_of_a.h5ad")
    report = run(world, tmp_path / "copies", inputs=[tmp_path / f"{name}.h5ad" for name in ("subset_of_a", "a", "b")])
    assert report["rows"] == 80
    assert report["files"]["subset_of_a"]["dropped"] == {"duplicate of a cell in another file": 20}


def test_cells_without_counts_and_cells_of_which_nothing_is_known_are_counted(world, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 60)
    adata.X[[3, 4]] = 0
    adata.X.eliminate_zeros()
    for column in ("cell_type", "cell_type_ontology_term_id", "tissue", "disease"):
        adata.obs[column] = adata.obs[column].astype(object)
        adata.obs.loc[adata.obs_names[10:15], column] = "unknown"
    adata.write_h5ad(tmp_path / "a.h5ad")
    report = run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
    assert (
        report["files"]["a"]["dropped"] == {"cell type, tissue and disease unknown": 5, "without counts on genes of the vocabulary": 2} and report["rows"] == 53
    )


def test_the_name_unknown_never_becomes_a_label(world, tmp_path):
    make_file(
        tmp_path / "a.h5ad", 60, sex="unknown", disease="na", donor_id="unknown", tissue=["blood", "unknown"] * 30
    )
    run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
    data = load(tmp_path / "out", tmp_path)
    texts = [row["completion"][0]["content"][0]["text"] for split in data.values() for row in split]
    assert not any("unknown" in text or " na" in text.split() for text in texts)
    for column in ("sex", "disease", "donor_id"):
        assert set(data["train"][column]) == {None}
    assert set(data["train"]["tissue"]) == {"blood", None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "some"}, "sampling='some': expected one of all, random, balanced, published"),
        ({"split": "batch"}, "split='batch': expected one of donor, dataset"),
        ({"split": "named"}, "split='named' with 0 splits of named cells"),
        ({"named": {"test": ["a=b"]}}, "split='donor' with 1 splits of named cells"),
        ({"split": "named", "named": {"tset": ["a=b"]}}, "cells can be named for test and validation only"),
        ({"tasks": {"sing": 1.0}}, "tasks=sing: no task of this name. Expected describe"),
        ({"tasks": {"describe": 0.0}}, "expected none below 0 and one above 0"),
        ({"seed": "one"}, "seed='one': expected an integer"),
        ({"tasks": ["describe"]}, "tasks=\\['describe'\\]: expected a mapping of texts to numbers"),
        ({"cells_per_shard": 0}, "cells_per_shard=0: expected an integer from 1 to 65,536"),
        ({"ties": "random"}, "ties='random'"),
        ({"source": "census"}, "The Census takes no input files"),
        ({"workers": 0}, "workers=0: expected at least 1"),
        ({"gene_sets": "nothing.gmt"}, "Cannot read gene sets from nothing.gmt"),
        ({"gene_vocab": "nothing"}, "nothing"),
        ({"columns": {"assay": "nowhere"}}, "has no column 'nowhere' in obs, which columns= maps"),
        ({"gene_key": "nowhere"}, "gene_key='nowhere': adata.var has no such column"),
        ({"require": ["assay"]}, "No cell remains of 210: dropped"),
        ({"require": ["nope"]}, "require=nope: no metadata column of this name"),
        ({"columns": {"celltype": "x"}}, "columns=celltype: no metadata column of this name"),
        ({"max_genes": 0}, "max_genes=0: expected an integer of at least 8"),
        ({"n_cells": 2.5}, "n_cells=2.5: expected an integer"),
        ({"shares": {"train": 0.8, "test": float("nan")}}, "shares=.*: expected a mapping of texts to numbers"),
        ({"tasks": {"describe": "many"}}, "expected"),
        ({"ties": "seeded"}, "seeded ties need a seed"),
        ({"gene_sets": None, "tasks": {"pathways": 1.0}}, "The task pathways needs gene sets"),
        ({"gene_vocab": "./nothing"}, "gene_vocab='./nothing' does not exist"),
    ],
)
def test_wrong_options_are_refused(options, message, world, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        run(world, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "report.json").exists()


def test_sources_are_found_and_named(tmp_path):
    for name in ("a/cells.h5ad", "b/cells.h5ad", "b/deep/other.h5ad"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "store.zarr" / "inside.h5ad").mkdir(parents=True)
    (tmp_path / "b" / "notes.txt").write_text("")
    assert [source.name for source in find_sources([str(tmp_path)])] == ["a/cells", "b/cells", "other", "store"]
    assert [source.name for source in find_sources([f"{tmp_path}/*/cells.h5ad"])] == ["a/cells", "b/cells"]
    with pytest.raises(ValueError, match="does not exist"):
        find_sources([str(tmp_path / "c")])
    with pytest.raises(ValueError, match="is neither an .h5ad file nor a .zarr store"):
        find_sources([str(tmp_path / "b" / "notes.txt")])
    with pytest.raises(ValueError, match="contains no .h5ad file"):
        find_sources([str(tmp_path / "c*")])
    with pytest.raises(ValueError, match="more than once"):
        find_sources([str(tmp_path / "a"), str(tmp_path / "a" / "cells.h5ad")])


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_rows_are_read_as_anndata_reads_them(compression, tmp_path):
    adata = make_adata(300)
    adata.write_h5ad(tmp_path / "a.h5ad", compression=compression)
    (source,) = find_sources([str(tmp_path / "a.h5ad")])
    with open_source(source) as reader:
        for rows in (np.arange(300), np.array([0, 1, 5, 120, 121, 299]), np.array([17])):
            assert (reader.read_counts(rows) != adata.X[rows]).nnz == 0
            assert list(reader.read_cell_names(rows)) == list(adata.obs_names[rows])


def test_a_yaml_file_holds_any_option_and_the_command_line_wins(tmp_path):
    (tmp_path / "a.yaml").write_text("inputs: [x.h5ad]\nseed: 3\nsplit: random\n")
    config = PrepareConfig.from_yaml(tmp_path / "a.yaml", seed=4)
    assert (config.seed, config.split, config.inputs) == (4, "random", ["x.h5ad"])
    (tmp_path / "b.yaml").write_text("sed: 3\n")
    with pytest.raises(ValueError, match="options that do not exist: sed"):
        PrepareConfig.from_yaml(tmp_path / "b.yaml")
    with pytest.raises(ValueError, match="Cannot read the configuration"):
        PrepareConfig.from_yaml(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match="holds a list. Expected options"):
        PrepareConfig.from_yaml(tmp_path / "d.yaml")


def test_the_published_preset_filters_as_published():
    config = PrepareConfig(inputs=["x"], sampling="published")
    assert config.require == ["cell_type", "tissue", "disease"] and "Smart-seq" in config.exclude_assays


def test_the_command_line_reports_and_refuses(world, tmp_path, capsys):
    command = [
        sys.executable,
        "-m",
        "cell2text",
        "prepare",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
        "--split",
        "random",
    ]
    done = subprocess.run(
        [*command, str(world / "cells"), "--tasks", "describe=1,ask=2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "210 rows (train 168" in done.stdout and "one: 60 of 60 cells, 0.0% of the counts lost" in done.stdout
    assert run_cli(*command[3:], tmp_path / "none.h5ad") == 2
    assert capsys.readouterr().err == f"cell2text: {tmp_path / 'none.h5ad'} does not exist.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "cells", "--tasks", "describe"], "--tasks describe: expected NAME=VALUE"),
        (["prepare", "cells", "--shares", "train=most"], "--shares train=most: expected NAME=VALUE, a number."),
        (["prepare"], "No input. Name h5ad files, zarr stores or folders."),
        (["vocab"], "No input. Name h5ad files, zarr stores or folders."),
        (["prepare", "cells", "--config", "nowhere.yaml"], "Cannot read the configuration nowhere.yaml"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_cli(*arguments) == 2 and capsys.readouterr().err.startswith(f"cell2text: {message}")


# The reference data


@pytest.mark.skipif(not SHARED.exists(), reason="shared/ is not there")
def test_what_the_readme_of_the_reference_data_says_is_what_the_report_says(tmp_path):
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


def test_pandas_is_not_asked_for_more_than_categories(world):
    """Metadata of a file stay as categories: a few bytes a cell."""
    from cell2text.preparation.survey import survey_metadata

    (source,) = find_sources([str(world / "cells" / "one.h5ad")])
    with open_source(source) as reader:
        cells, _ = survey_metadata(reader, PrepareConfig(inputs=["x"]))
    objects = [
        name for name, dtype in cells.dtypes.items() if dtype.kind == "O" and not isinstance(dtype, pd.CategoricalDtype)
    ]
    assert not objects and isinstance(cells["cell_type"].dtype, pd.CategoricalDtype)


def test_a_run_killed_after_a_file_was_left_out_goes_on_without_that_file(world, tmp_path, monkeypatch):
    make_file(tmp_path / "long.h5ad", 400, seed=5, prefix="long")
    adata = ad.read_h5ad(tmp_path / "long.h5ad")
    adata.X.data[adata.X.indptr[380]] = 0.5
    adata.write_h5ad(tmp_path / "long.h5ad")
    inputs = [world / "cells", tmp_path / "long.h5ad"]
    run(world, tmp_path / "whole", inputs=inputs, skip_bad_files=True)
    planned = []

    def fail_in_the_second_round(table, path):
        rounds = len({os.stat(tmp_path / "out" / ".prepare" / "plan.json").st_mtime_ns, *planned})
        planned.append(os.stat(tmp_path / "out" / ".prepare" / "plan.json").st_mtime_ns)
        if rounds > 1:
            raise OSError(errno.EIO, "pulled the plug")
        write(table, path)

    write = jobs_module.write_table
    monkeypatch.setattr(jobs_module, "write_table", fail_in_the_second_round)
    with pytest.raises(OSError, match="pulled the plug"):
        run(world, tmp_path / "out", inputs=inputs, skip_bad_files=True)
    monkeypatch.setattr(jobs_module, "write_table", write)
    run(world, tmp_path / "out", inputs=inputs, skip_bad_files=True)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_what_a_run_killed_at_its_end_left_is_tidied_up(world, prepared, tmp_path):
    import shutil

    shutil.copytree(prepared, tmp_path / "out")
    (tmp_path / "out" / ".prepare" / "jobs").mkdir(parents=True)
    (tmp_path / "out" / ".prepare" / "plan.json").write_text("{}")
    run(world, tmp_path / "out")
    assert digest(tmp_path / "out") == digest(prepared)
    (tmp_path / "out" / "report.json").unlink()
    (tmp_path / "out" / ".prepare").mkdir()
    (tmp_path / "out" / ".report.html.77.partial").write_text("half of it")
    (tmp_path / "out" / "data" / "train-99999.parquet").write_bytes(b"a shard of an older plan")
    run(world, tmp_path / "out")
    assert digest(tmp_path / "out") == digest(prepared)


def test_the_yaml_file_of_all_options_holds_the_defaults():
    from dataclasses import asdict

    path = Path(__file__).resolve().parents[1] / "configs" / "prepare.yaml"
    written = yaml.safe_load(path.read_text())
    defaults = asdict(PrepareConfig(inputs=["x"]))
    assert {**defaults, **written, "primary_only": False} == defaults
    assert set(defaults) - set(written) == {"inputs", "census_version", "census_uri", "value_filter"}


@pytest.mark.parametrize("workers", [1, 2])
def test_no_job_of_an_older_plan_writes_into_the_new_one(workers, world, tmp_path):
    """A fault deep in one file, found while other jobs are under way: their cells stand in the output once."""
    make_file(tmp_path / "cells" / "a_bad.h5ad", 400, seed=5, prefix="bad")
    adata = ad.read_h5ad(tmp_path / "cells" / "a_bad.h5ad")
    adata.X.data[adata.X.indptr[300]] = 0.5
    adata.write_h5ad(tmp_path / "cells" / "a_bad.h5ad")
    make_file(tmp_path / "cells" / "good.h5ad", 3000, seed=6, prefix="good")
    run(world, tmp_path / "out", inputs=[tmp_path / "cells"], skip_bad_files=True, workers=workers, cells_per_shard=100)
    ids = [cell for split in load(tmp_path / "out", tmp_path).values() for cell in split["cell_id"]]
    assert len(ids) == len(set(ids)) == 3000


def test_files_of_anndata_0_7_keep_their_labels(world, prepared, tmp_path):
    import h5py

    for name in ("one", "two", "three"):
        path = tmp_path / f"{name}.h5ad"
        path.write_bytes((world / "cells" / path.name).read_bytes())
        with h5py.File(path, "a") as file:
            for column in list(file["obs"]):
                element = file["obs"][column]
                if isinstance(element, h5py.Group):
                    codes, categories = element["codes"][:], element["categories"][:]
                    del file["obs"][column]
                    file["obs"].require_group("__categories")[column] = categories
                    file["obs"][column] = codes
                    file["obs"][column].attrs["categories"] = file["obs"]["__categories"][column].ref
    run(world, tmp_path / "out", inputs=[tmp_path / f"{name}.h5ad" for name in ("one", "two", "three")])
    expected, found = load(prepared, tmp_path), load(tmp_path / "out", tmp_path)
    assert found["train"]["cell_type"] == expected["train"]["cell_type"]
    assert found["train"]["donor_id"] == expected["train"]["donor_id"]


def test_a_mapped_label_is_not_overruled_by_the_ids_of_the_usual_column(world, tmp_path):
    make_file(tmp_path / "a.h5ad", mine=["fibroblast"] * 60)
    run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], columns={"cell_type": "mine"}, split="random")
    assert set(load(tmp_path / "out", tmp_path)["train"]["cell_type"]) == {"fibroblast"}


def test_names_that_repeat_within_a_file_are_cells_of_their_own(world, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = [f"cell{i % 30}" for i in range(60)]
        adata.write_h5ad(tmp_path / "a.h5ad")
    assert run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")["rows"] == 60


def test_the_same_file_twice_is_refused(world, tmp_path):
    (tmp_path / "again.h5ad").write_bytes((world / "cells" / "one.h5ad").read_bytes())
    with pytest.raises(ValueError, match="one has the same contents as again"):
        run(world, tmp_path / "out", inputs=[world / "cells", tmp_path / "again.h5ad"])


def test_a_file_can_be_written_again_after_a_run(world, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 60)
    run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").n_obs == 60


def test_cells_without_any_counts_leave_nothing(world, tmp_path):
    adata = make_file(tmp_path / "a.h5ad", 30)
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="No cell remains: none has counts"):
        run(world, tmp_path / "out", inputs=[tmp_path / "a.h5ad"], split="random")


def test_vocab_never_uses_what_an_older_run_counted(world, tmp_path):
    (tmp_path / "out" / ".prepare" / "medians").mkdir(parents=True)
    np.savez(
        tmp_path / "out" / ".prepare" / "medians" / "00000.npz",
        keys=np.zeros(0, np.uint64),
        counts=np.zeros(0, np.int64),
    )
    found = fit_vocabulary_from_files([world / "cells"], tmp_path / "out", progress=False)
    assert len(found) == 64
