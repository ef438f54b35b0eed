"""Fixtures shared by tests of description: a tiny model on disk, an experiment, and the command in a subprocess."""

import json
import os
import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2text.describe import DescribeOptions
from generation_cell2text import CellTextGenerator, encode_cells

from .conftest import make_adata, make_model, make_processor


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
    ids = generator._decode(encode_cells(model, processor, [[cell] for cell in cells]))[0]
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


def command(*arguments, wait=True, **environment):
    process = subprocess.Popen(
        [sys.executable, "-m", "cell2text.describe", *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip
    return (*process.communicate()[:1], process.returncode) if wait else process
