"""`cell2text.tl` follows scverse conventions: signature, fields written, copies, and equality with the command."""

import inspect

import anndata as ad
import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor

import cell2text
from cell2text import tl
from cell2text.describe import DescribeOptions, describe_file

from .describing import FAST, experiment, model, texts_of  # noqa: F401


@pytest.mark.parametrize("function", [tl.describe, tl.embed])
def test_functions_take_adata_first_and_few_positional_parameters(function):
    parameters = inspect.signature(function).parameters
    positional = [name for name, each in parameters.items() if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional[0] == "adata" and len(positional) <= 3
    assert parameters["copy"].kind is inspect.Parameter.KEYWORD_ONLY and parameters["copy"].default is False
    for name in parameters:
        assert f"\n    {name}\n" in function.__doc__, name


def test_the_docstring_lists_every_field_that_describe_writes(model, experiment):
    adata = ad.read_h5ad(experiment)
    before = set(adata.obs), set(adata.obsm), set(adata.uns)
    tl.describe(adata, str(model), max_new_tokens=2, groupby="mine", key_added="key")
    returns = tl.describe.__doc__.partition("Returns\n")[2].partition("Raises\n")[0]
    for column in set(adata.obs) - before[0] - {"key"}:
        ending = column.removeprefix("key").replace("_ontology_term_id", "")
        assert f'"{ending}' in returns, column
    assert set(adata.obsm) - before[1] == {"X_key"} and '.obsm["X_" + key_added]' in returns
    assert set(adata.uns) - before[2] == {"key"}
    assert set(adata.uns["key"]) == {"params", "groups", "reading"}
    assert all(f'.uns[key_added]["{name}"]' in returns for name in adata.uns["key"])


def test_copy_leaves_the_input_unchanged_and_a_loaded_model_is_accepted(model, experiment):
    adata = ad.read_h5ad(experiment)
    pair = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    copy = tl.describe(adata, pair, key_added="mine_too", max_new_tokens=3, copy=True)
    assert "mine_too" in copy.obs and "X_mine_too" in copy.obsm
    assert not [column for column in adata.obs if column.startswith("mine_too")]
    assert cell2text.tl is tl and tl.embed(adata, pair) is None
    np.testing.assert_allclose(adata.obsm["X_cell2text"], copy.obsm["X_mine_too"], atol=1e-5)
    assert (adata.obsm["X_cell2text"][5] == 0).all() and adata.obsm["X_cell2text"].dtype == np.float32


def test_comparisons_are_those_of_the_command(model, experiment, tmp_path):
    options = DescribeOptions(compare_to="cell3", max_new_tokens=8)
    out = describe_file(experiment, tmp_path / "c.jsonl", model=str(model), options=options, progress=False)
    adata = ad.read_h5ad(experiment)
    tl.describe(adata, str(model), compare_to="cell3", max_new_tokens=8)
    plain = describe_file(experiment, tmp_path / "p.jsonl", model=str(model), options=FAST, progress=False)
    assert texts_of(out) == adata.obs["cell2text"].tolist() != texts_of(plain)


def test_backed_data_that_cannot_be_written_raise(model, experiment):
    backed = ad.read_h5ad(experiment, backed="r")
    for adata, copy in ((backed, True), (backed[:3], False)):
        with pytest.raises(ValueError, match=r"Pass adata\.to_memory\(\)"):
            tl.describe(adata, str(model), copy=copy)
