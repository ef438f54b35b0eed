"""The scverse face: `cell2text.tl.describe(adata)` and `cell2text.tl.embed(adata)`."""

import pyarrow as pa
from anndata import AnnData

from cell2text.describe.engine import EMBEDDING, ID, TEXT, Describer, embed_cells
from cell2text.describe.groups import describe_groups
from cell2text.describe.inputs import check_second, groups_of, pseudobulk_of, ranked_anndata
from cell2text.describe.options import DescribeOptions
from cell2text.describe.provenance import provenance
from cell2text.describe.run import SHARD
from cell2text.describe.writers import as_frame, as_matrix, as_obs
from cell2text.errors import UserError
from cell2text.inference.batch_size import free_bytes, genes_that_fit
from cell2text.loading import default_device, load_model, model_name


def describe(
    adata: AnnData, model=None, *, layer: str | None = None, gene_key: str | None = None, prompt: str | None = None,
    compare_to: str | None = None, key_added: str = "cell2text", batch_size: int | None = None,
    max_new_tokens: int = 160, groupby: str | None = None, cells_per_group: int | None = None,
    allow_fractional: bool = False, seed: int = 0, copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Describe every cell.

    Parameters
    ----------
    adata
        Raw counts, cells by genes.
    model
        Folder or Hub id of a Cell2Text model; or a pair of a loaded model and its processor, as :func:`cell2text.load`
        gives them. The small model that ships with the package if left out.
    layer, gene_key, prompt, compare_to, batch_size, max_new_tokens, groupby, cells_per_group, allow_fractional
        See :class:`~cell2text.describe.options.DescribeOptions`.
    seed
        Of the cells that are drawn from a group.
    key_added
        Prefix of what is added.
    copy
        Return a copy instead of changing `adata`.

    Returns
    -------
    The copy, or None. Of each cell are added: `.obs[key_added]`, the text; `.obs` columns `{key_added}_cell_type`,
    `_tissue`, `_disease`, `_sex`, `_life_stage` and `_pathways`, read from it, with `_ontology_term_id` where there is
    one; `_confidence`, `_type_probability`, `_n_genes`, `_mapped_fraction`; `.obsm["X_" + key_added]`, float32, the
    mean over genes of the encoder's states; and `.uns[key_added]["params"]`, what it all depends on. With `groupby`, a
    table of the groups in `.uns[key_added]["groups"]`, see :func:`cell2text.describe.groups.describe_groups`. `X` and
    `var` stay as they are.

    Raises
    ------
    ValueError
        If the values are no counts, the genes are not the vocabulary's, or the model cannot be loaded.
    KeyError
        If a layer or a column does not exist.
    """
    options = DescribeOptions(
        prompt=prompt, compare_to=compare_to, layer=layer, gene_key=gene_key, allow_fractional=allow_fractional,
        batch_size=batch_size, max_new_tokens=max_new_tokens, groupby=groupby, cells_per_group=cells_per_group,
        seed=seed,
    )  # fmt: skip
    if not adata.n_obs:
        raise UserError("The AnnData holds no cell.")
    if adata.isbacked and (copy or adata.is_view):
        raise UserError("A backed AnnData cannot be copied, nor a part of it changed: pass adata.to_memory().")
    groups = None if groupby is None else groups_of(adata, options)
    loaded, processor, name = loaded_model(model)
    cells = ranked_anndata(adata, processor, options)
    second = None
    if compare_to is not None:
        found = [i for i, cell in enumerate(cells.names) if cell == compare_to]
        if len(found) != 1:
            raise UserError(f"compare_to={compare_to!r}: {len(found)} cells of {adata.n_obs:,} have this name.")
        second = cells.cells[found[0]]
        check_second(second, processor, options)
    describer = Describer(loaded, processor, options, second)
    cells.asked = None if groups is None else groups.drawn
    table = pa.concat_tables([describer(cells.part(i, i + SHARD)) for i in range(0, adata.n_obs, SHARD)])
    added = {"params": provenance(loaded, processor, describer.chat, options, name, groups)}
    if groups is not None:
        bulk = describer(pseudobulk_of(adata, groups, processor, options))
        added["groups"] = as_frame(describe_groups(groups, [table.drop_columns([EMBEDDING])], bulk))
    changed = adata.copy() if copy else adata
    for column in table.column_names:
        if column not in (ID, EMBEDDING):
            changed.obs[key_added if column == TEXT else f"{key_added}_{column}"] = as_obs(table[column], column)
    changed.obsm[f"X_{key_added}"] = as_matrix(table[EMBEDDING])
    changed.uns[key_added] = added
    return changed if copy else None


def embed(
    adata: AnnData, model=None, *, layer: str | None = None, gene_key: str | None = None,
    key_added: str = "X_cell2text", allow_fractional: bool = False, copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Embed every cell: the mean over its genes of the encoder's states at the projected layer.

    Parameters
    ----------
    adata, model, layer, gene_key, allow_fractional, copy
        See :func:`describe`.
    key_added
        Name in `.obsm`, where float32 values of shape (n_cells, cell_hidden) are written; zeros for a cell without
        counts on the vocabulary.
    """
    options = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional)
    loaded, processor, _ = loaded_model(model)
    cells = ranked_anndata(adata, processor, options).cells
    genes_at_once = genes_that_fit(loaded, processor.max_genes, free_bytes(loaded.device))
    changed = adata.copy() if copy else adata
    changed.obsm[key_added] = embed_cells(loaded, processor, cells, genes_at_once)
    return changed if copy else None


def loaded_model(model):
    """Model, processor and name, of a name or of a pair that is loaded already."""
    if isinstance(model, tuple):
        loaded, processor = model
        return loaded, processor, str(loaded.config._name_or_path)
    name = None if model is None else str(model)
    return (*load_model(name, default_device()), model_name(name))
