"""The scverse face: `cell2text.tl.describe(adata, model)` and `cell2text.tl.embed(adata, model)`."""

import numpy as np
import pyarrow as pa
import torch
from anndata import AnnData

from cell2text.describe.cells import RankedCells, ranked_anndata
from cell2text.describe.engine import EMBEDDING, ID, TEXT, Describer
from cell2text.describe.loading import load_model
from cell2text.describe.options import DescribeOptions, provenance
from cell2text.describe.run import SHARD, default_device
from cell2text.describe.writers import as_matrix, as_obs
from generation_cell2text import encode


def describe(
    adata: AnnData, model, *, layer: str | None = None, gene_key: str | None = None, prompt: str | None = None,
    compare_to: str | None = None, key_added: str = "cell2text", batch_size: int = 32, max_new_tokens: int = 160,
    allow_fractional: bool = False, seed: int = 0, copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Describe every cell.

    Parameters
    ----------
    adata
        Raw counts, cells by genes.
    model
        Folder or Hub id of a Cell2Text model; or a pair of a loaded model and its processor.
    layer, gene_key, prompt, compare_to, batch_size, max_new_tokens, allow_fractional, seed
        See :class:`DescribeOptions`.
    key_added
        Prefix of what is added.
    copy
        Return a copy instead of changing `adata`.

    Returns
    -------
    The copy, or None. Of each cell are added: `.obs[key_added]`, the text; `.obs` columns `{key_added}_cell_type`,
    `_tissue`, `_disease`, `_sex`, `_life_stage` and `_pathways`, read from it, with `_ontology_term_id` where there is
    one; `_confidence`, `_n_genes`, `_mapped_fraction`; `.obsm["X_" + key_added]`, float32, the mean over genes of the
    encoder's states; and `.uns[key_added]["params"]`, what it all depends on. `X` and `var` stay as they are.

    Raises
    ------
    ValueError
        If the values are no counts, the genes are not the vocabulary's, or the model cannot be loaded.
    KeyError
        If a layer or a column does not exist.
    """
    options = DescribeOptions(
        prompt=prompt, compare_to=compare_to, layer=layer, gene_key=gene_key, allow_fractional=allow_fractional,
        batch_size=batch_size, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    loaded, processor, name = loaded_model(model)
    cells = ranked_anndata(adata, processor, options)
    second = None
    if compare_to is not None:
        found = [i for i, cell in enumerate(cells.names) if cell == compare_to]
        if len(found) != 1:
            raise ValueError(f"compare_to={compare_to!r}: {len(found)} cells of {adata.n_obs:,} have this name.")
        second = cells.cells[found[0]]
    describer = Describer(loaded, processor, options, second)
    torch.manual_seed(seed)
    if not cells.cells:
        raise ValueError("The AnnData holds no cell.")
    parts = [describer(part_of(cells, start, start + SHARD)) for start in range(0, len(cells.cells), SHARD)]
    table = pa.concat_tables(parts)
    changed = adata.copy() if copy else adata
    for column in table.column_names:
        if column not in (ID, EMBEDDING):
            changed.obs[key_added if column == TEXT else f"{key_added}_{column}"] = as_obs(table[column], column)
    changed.obsm[f"X_{key_added}"] = as_matrix(table[EMBEDDING])
    changed.uns[key_added] = {"params": provenance(loaded, processor, describer.chat, options, name)}
    return changed if copy else None


def embed(
    adata: AnnData, model, *, layer: str | None = None, gene_key: str | None = None, key_added: str = "X_cell2text",
    batch_size: int = 32, allow_fractional: bool = False, copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Embed every cell: the mean over its genes of the encoder's states at the projected layer.

    Parameters
    ----------
    adata, model, layer, gene_key, batch_size, allow_fractional, copy
        See :func:`describe`.
    key_added
        Name in `.obsm`, where float32 values of shape (n_cells, cell_hidden) are written; zeros for a cell without
        counts on the vocabulary.
    """
    options = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, batch_size=batch_size)
    loaded, processor, _ = loaded_model(model)
    cells = ranked_anndata(adata, processor, options).cells
    found = np.zeros((len(cells), loaded.config.cell_config.hidden_size), dtype=np.float32)
    full = np.array([i for i, cell in enumerate(cells) if not processor.is_empty(cell)], dtype=np.int64)
    order = full[np.argsort([len(cells[i]) for i in full], kind="stable")]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        found[chosen] = encode(loaded, processor, [[cells[i]] for i in chosen]).embeddings
    changed = adata.copy() if copy else adata
    changed.obsm[key_added] = found
    return changed if copy else None


def loaded_model(model):
    """Model, processor and name, of a name or of a pair that is loaded already."""
    if isinstance(model, tuple):
        loaded, processor = model
        return loaded, processor, str(loaded.config._name_or_path)
    return (*load_model(str(model), default_device()), str(model))


def part_of(cells: RankedCells, start: int, stop: int) -> RankedCells:
    return RankedCells(
        cells.names[start:stop], cells.cells[start:stop], cells.n_genes[start:stop], cells.mapped_fraction[start:stop]
    )
