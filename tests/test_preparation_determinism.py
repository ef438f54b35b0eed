"""The output of a run does not depend on workers, order, place or shard size."""

import pytest

from .preparation_runs import digest, load_rows, prepare_studies


@pytest.mark.parametrize("workers", [2, 3])
def test_output_does_not_depend_on_the_number_of_workers(workers, studies, prepared, tmp_path):
    prepare_studies(studies, tmp_path / "out", workers=workers)
    assert digest(tmp_path / "out") == digest(prepared)


def test_a_dask_cluster_gives_the_same_output(studies, prepared, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        prepare_studies(studies, tmp_path / "out", dask_scheduler=cluster.scheduler_address)
    assert digest(tmp_path / "out") == digest(prepared)


def test_output_does_not_depend_on_order_or_folder_of_the_inputs(studies, prepared, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    files = [moved / f"{name}.h5ad" for name in ("two", "three", "one")]
    for path in files:
        path.write_bytes((studies / "cells" / path.name).read_bytes())
    prepare_studies(studies, tmp_path / "out", inputs=files)
    assert digest(tmp_path / "out") == digest(prepared)


def test_another_seed_gives_another_split(studies, prepared, tmp_path):
    prepare_studies(studies, tmp_path / "out", seed=1)
    first, second = load_rows(prepared, tmp_path), load_rows(tmp_path / "out", tmp_path)
    assert set(first["test"]["donor_id"]) != set(second["test"]["donor_id"])


def test_rows_do_not_depend_on_the_size_of_shards(studies, prepared, tmp_path):
    prepare_studies(studies, tmp_path / "out", cells_per_shard=1000, tasks={"describe": 1.0})
    prepare_studies(studies, tmp_path / "small", cells_per_shard=7, tasks={"describe": 1.0})
    large, small = (load_rows(tmp_path / name, tmp_path)["train"] for name in ("out", "small"))
    columns = ["cell_id", "cells", "prompt", "completion", "pathway_scores"]
    assert large.select_columns(columns).to_dict() == small.select_columns(columns).to_dict()
