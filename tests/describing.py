"""Fixtures shared by tests of description: a tiny model on disk, an experiment, and described files."""

import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from cell2text.describe import DescribeOptions
from cell2text.describe.shards import ShardFolder
from cell2text.describe.table import table_schema
from cell2text.describe.writers import write_output
from cell2text.sources.discovery import find_sources
from declining_cell2text import too_few_genes_text
from generation_cell2text import CellTextGenerator, encode_cells

from .tiny import make_adata, make_model, make_processor


N_CELLS = 30
FAST = DescribeOptions(max_new_tokens=10, batch_size=8)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a tiny model whose texts end at different lengths."""
    folder = tmp_path_factory.mktemp("model")
    processor = make_processor()
    model = make_model(processor=processor)
    generator = CellTextGenerator(model, processor, max_new_tokens=10)
    cells = processor.rank_encode(make_adata(N_CELLS))
    encoded = encode_cells(model, processor, [[cell] for cell in cells])
    ids = generator.decoder(encoded.features, encoded.mask).tokens
    common = max({token for row in ids for token in row[1:]}, key=lambda token: sum(token in row[1:] for row in ids))
    model.generation_config.eos_token_id = [3, common]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    """An h5ad file of thirty cells with further annotations; the cell of row 5 has no counts."""
    adata = make_adata(N_CELLS)
    counts = adata.X.toarray()
    counts[5] = 0
    adata.X = sp.csr_matrix(counts)
    adata.obs["mine"] = pd.Categorical(["a", "b"] * (N_CELLS // 2))
    adata.obsm["X_pca"] = np.ones((N_CELLS, 2))
    adata.uns["kept"] = {"colours": np.array(["red", "blue"])}
    path = tmp_path_factory.mktemp("experiment") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def write_zarr(experiment, path, version=3):
    with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ad.read_h5ad(experiment).write_zarr(path)


def texts_of(path):
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


TYPES = {
    "B": ("B cell", "CL:0000236"),
    "T": ("T cell", "CL:0000084"),
    "CD4": ("CD4-positive, alpha-beta T cell", "CL:0000624"),
    "NK": ("natural killer cell", "CL:0000623"),
}
PREDICTED = ("B", "B", "T", "CD4", "NK", "NK", "T", None, "", "B")  # None: too few counts; "": not described
OWN_LABELS = pd.DataFrame(
    {
        "mine": ["B lymphocytes", "B_mem", "T cells", "T cells", "NK cells", "CD8-positive, alpha-beta T cell", "unknown",
                 "B cell", "B cell", None],
        "term": ["CL:0000236", "CL:0000236", "CL:0000084", "CL_0000084", "CL:0000623", "CL:0000625", "CL:0000084",
                 "CL:0000236", "CL:0000236", "unknown"],
        "organ": ["blood"] * 5 + ["spleen"] * 5,
        "stage": ["adult stage"] * 5 + ["HsapDv:0000037"] * 5,
        "leiden": list("0011223344"),
        "sample": list("aaaaabbbbb"),
        "meaningless": ["foo"] * 10,
        "nothing": ["unknown"] * 10,
    },
    index=[f"AAACCTG-{i}" for i in range(10)],
)  # fmt: skip


@pytest.fixture(scope="session")
def described_files(tmp_path_factory):
    """Ten described cells with labels of their owner as h5ad and zarr, and as jsonl, parquet and csv without labels."""
    folder = tmp_path_factory.mktemp("described_files")
    path = folder / "cells.h5ad"
    ad.AnnData(sp.csr_matrix((10, 3), dtype=np.float32), obs=OWN_LABELS).write_h5ad(path)
    schema = table_schema(2, fields_only=False)
    names, ids = zip(*(TYPES.get(key, (None, None)) for key in PREDICTED))
    values = {
        "cell_id": OWN_LABELS.index,
        "text": [name and f"This cell is a {name} from the blood." for name in names[:7]]
        + [too_few_genes_text(3, 20), "", "Cell."],
        "cell_type": names,
        "cell_type_ontology_term_id": ids,
        "tissue": [name and "blood" for name in names],
        "tissue_ontology_term_id": [name and "UBERON:0000178" for name in names],
        "life_stage": [name and "adulthood" for name in names],
        "type_probability": [0.9 if name else None for name in names],
        "embedding": np.random.default_rng(0).normal(size=(10, 2)).tolist(),
    }
    columns = [pa.array(values.get(one.name, [None] * 10), one.type, from_pandas=True) for one in schema]
    shard = folder / "described.parquet"
    pq.write_table(pa.table(columns, schema=schema), shard)
    for suffix in ("h5ad", "zarr", "jsonl", "csv"):
        out = ShardFolder(folder / f"described.{suffix}")
        out.path.mkdir()
        write_output(find_sources([str(path)])[0], out, [shard], {"model": "mini"})
    return folder
