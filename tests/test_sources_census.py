"""Reading the Census, from a small SOMA store with its layout that holds real cells."""

import anndata as ad
import numpy as np
import pyarrow as pa
import pytest
from datasets import load_dataset

from cell2text.preparation.run import prepare
from cell2text.sources.census import CensusReader, find_census
from cell2text.sources.checks import BadFileError

from .conftest import shared_path


tiledbsoma = pytest.importorskip("tiledbsoma", reason="the extra `census` is not installed")

OBS = (
    "cell_type", "cell_type_ontology_term_id", "tissue", "tissue_ontology_term_id", "disease", "disease_ontology_term_id",
    "sex", "development_stage", "development_stage_ontology_term_id", "assay", "donor_id", "dataset_id",
)  # fmt: skip


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    """`census_data/homo_sapiens` with 400 cells of two files, as their union of genes."""
    parts = [ad.read_h5ad(shared_path(f"data/{name}.h5ad"))[:200] for name in ("baron_pancreas", "zilionis_nsclc")]
    adata = ad.concat(parts, join="outer", fill_value=0)
    names = {gene: name for part in parts for gene, name in part.var["feature_name"].astype(str).items()}
    uri = str(tmp_path_factory.mktemp("census") / "soma")
    obs = adata.obs[list(OBS)].astype(str).reset_index(drop=True)
    obs["is_primary_data"] = True
    obs.insert(0, "soma_joinid", np.arange(len(obs), dtype=np.int64))
    var = {
        "soma_joinid": np.arange(adata.n_vars),
        "feature_id": list(adata.var_names),
        "feature_name": [names[g] for g in adata.var_names],
    }
    with tiledbsoma.Collection.create(uri) as root:
        data = root.add_new_collection("census_data")
        human = data.add_new_collection("homo_sapiens", tiledbsoma.Experiment)
        write_frame(human, "obs", pa.Table.from_pandas(obs, preserve_index=False))
        rna = human.add_new_collection("ms", tiledbsoma.Collection).add_new_collection("RNA", tiledbsoma.Measurement)
        write_frame(rna, "var", pa.table(var))
        layers = rna.add_new_collection("X", tiledbsoma.Collection)
        matrix = layers.add_new_sparse_ndarray("raw", type=pa.float32(), shape=adata.shape)
        counts = adata.X.tocoo()
        columns = {
            "soma_dim_0": counts.row.astype(np.int64),
            "soma_dim_1": counts.col.astype(np.int64),
            "soma_data": counts.data,
        }
        matrix.write(pa.table(columns))
    return uri, adata, [names[gene] for gene in adata.var_names]


def write_frame(parent, name, table):
    domain = [(0, max(table.num_rows - 1, 1))]
    frame = parent.add_new_dataframe(name, schema=table.schema, index_column_names=["soma_joinid"], domain=domain)
    frame.write(table)


def test_rows_equal_those_of_the_same_cells_in_a_file(census, tmp_path):
    uri, adata, names = census
    options = {
        "gene_vocab": str(shared_path("geneformer")), "gene_sets": str(shared_path("genesets/h.all.v7.0.symbols.gmt")),
        "split": "random", "progress": False, "cells_per_shard": 64, "max_genes": 512,
    }  # fmt: skip
    report = prepare([], tmp_path / "census", source="census", census_uri=uri, **options)
    assert report["rows"] == 400 and uri not in (tmp_path / "census" / "README.md").read_text()
    adata.obs_names = [str(i) for i in range(adata.n_obs)]
    adata.var["feature_name"] = names
    adata.write_h5ad(tmp_path / "census.h5ad")
    prepare([tmp_path / "census.h5ad"], tmp_path / "file", **options)
    found, expected = (
        load_dataset(str(tmp_path / name), cache_dir=str(tmp_path / "cache")) for name in ("census", "file")
    )
    for split in expected:
        assert found[split].to_dict() == expected[split].to_dict()


def test_counts_of_sampled_cells_only_are_read(census, tmp_path, monkeypatch):
    uri, *_ = census
    read = []
    read_rows = CensusReader.read_rows
    monkeypatch.setattr(CensusReader, "read_rows", lambda self, rows: read.append(rows) or read_rows(self, rows))
    report = prepare(
        [], tmp_path / "out", source="census", census_uri=uri, value_filter="tissue == 'lung'", sampling="random", n_cells=30,
        split="random", gene_vocab=str(shared_path("geneformer")), progress=False, cells_per_shard=8,
    )  # fmt: skip
    data = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert report["rows"] == 30 and {cell for split in data.values() for cell in split["tissue"]} == {"lung"}
    chosen = sorted(row for split in data.values() for row in split["source_row"])
    assert sorted(np.concatenate(read).tolist()) == chosen and min(chosen) >= 200


def test_workers_give_the_same_rows(census, tmp_path):
    uri, *_ = census
    options = {"source": "census", "census_uri": uri, "split": "random", "progress": False, "cells_per_shard": 100}
    reports = [
        prepare([], tmp_path / str(workers), workers=workers, gene_vocab=str(shared_path("geneformer")), **options)
        for workers in (1, 2)
    ]
    assert reports[0] == reports[1]
    for path in (tmp_path / "1" / "data").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / "data" / path.name).read_bytes()


def test_an_address_without_a_census_is_refused(tmp_path):
    with pytest.raises(BadFileError, match="is not a Census"):
        CensusReader(find_census("stable", str(tmp_path / "nothing")), None)
    with pytest.raises(ValueError, match="census"):
        find_census("2001-01-01", None)
