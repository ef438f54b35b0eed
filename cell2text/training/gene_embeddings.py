"""Initialise the gene embeddings of a new encoder from co-expression, or from given vectors.

An embedding table of thousands of genes that starts from random values memorises a small set of cells, above all its
rare genes. The right singular vectors of the cells' rank weights place co-expressed genes side by side without any
label; they then stay fixed. Further dimensions can mark the gene sets that a gene belongs to: the mean over a cell's
genes is then a score of every set.
"""

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.decomposition import TruncatedSVD

from cell2text.errors import UserError
from cell2text.signatures.gene_sets import GeneSets
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor
from projectors_cell2text import rank_weights


MIN_CELLS = 3  # a gene found in fewer cells says nothing about its neighbours
EMBEDDING_SCALE = 0.1  # standard deviation of a frequent gene's embedding, large beside what positions learn
MEMBERSHIP = 0.2  # value of a gene's membership in a set; 1 drowned co-expression

logger = logging.getLogger(__name__)


def initialise_gene_embeddings(
    model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, cells: list, *, seed: int,
    gene_sets: GeneSets | None = None,
) -> None:  # fmt: skip
    """Set the encoder's gene embeddings, in place.

    Parameters
    ----------
    cells
        Ranked training cells, one sequence of token ids per cell.
    seed
        Random seed of the singular value decomposition.
    gene_sets
        Gene sets to mark; each takes one dimension from co-expression. None marks none.

    Raises
    ------
    UserError
        If the encoder has no BERT-like embedding tables, has no more dimensions than there are gene sets, or its
        vocabulary has none of their genes.
    """
    tables = _embedding_tables(model)
    matrix = _rank_weighted_matrix(cells, processor)
    table = tables.word_embeddings.weight
    members = None if gene_sets is None else _set_members(gene_sets, processor)
    n_sets = 0 if members is None else members.shape[1]
    if n_sets >= table.shape[1]:
        raise UserError(
            f"{n_sets} gene sets fill the {table.shape[1]} dimensions of the encoder: raise encoder_hidden_size."
        )
    n_components = min(table.shape[1] - n_sets, min(matrix.shape) - 1)
    directions = TruncatedSVD(n_components, random_state=seed).fit(matrix).components_.T
    spread = directions.std(axis=1)
    directions *= EMBEDDING_SCALE / np.quantile(spread[spread > 0], 0.9)
    with torch.no_grad():
        for offset in (tables.position_embeddings, tables.token_type_embeddings):
            offset.weight.zero_()  # LayerNorm scales every gene to one length: an offset would drown rare genes
        table.zero_()
        table[:, :n_components] = torch.from_numpy(directions).to(table)
        if members is not None:
            table[:, -n_sets:] = torch.from_numpy(MEMBERSHIP * members).to(table)


def start_from_gene_vectors(
    model: Cell2TextForConditionalGeneration, processor: Cell2TextProcessor, path: str | Path, *, seed: int
) -> None:
    """Set the encoder's gene embeddings to given vectors, in place; training changes them further.

    Vectors with more dimensions than the embeddings are reduced by a singular value decomposition. Genes without a
    vector, and dimensions beyond those of the vectors, keep their random values.

    Parameters
    ----------
    path
        Npz file with `genes`, Ensembl ids or gene symbols, and `vectors`, finite, shape (n_genes, n_dimensions).
    seed
        Random seed of the singular value decomposition.

    Raises
    ------
    UserError
        If the file cannot be read, has other arrays, or names no gene of the vocabulary, or the encoder has no
        BERT-like embedding tables.
    """
    tables = _embedding_tables(model)
    genes, vectors = _read_gene_vectors(Path(path))
    tokens, _ = processor.gene_vocabulary.map_genes(genes)
    known = np.flatnonzero(tokens >= 0)
    if not len(known):
        raise UserError(f"gene_vectors={str(path)!r} names none of the vocabulary's genes: expected human genes.")
    logger.info(f"{len(known):,} of the {len(genes):,} genes of {path} are in the vocabulary.")
    table = tables.word_embeddings.weight
    vectors = vectors[known] - vectors[known].mean(axis=0)
    if vectors.shape[1] > table.shape[1]:
        vectors = TruncatedSVD(table.shape[1], random_state=seed).fit_transform(vectors)
    vectors *= EMBEDDING_SCALE / max(float(vectors.std()), 1e-12)
    with torch.no_grad():
        table[torch.from_numpy(tokens[known]), : vectors.shape[1]] = torch.from_numpy(vectors).to(table)


def _read_gene_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the genes and the vectors of an npz file, float32."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            genes, vectors = stored["genes"].astype(str).tolist(), stored["vectors"].astype(np.float32)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"gene_vectors={str(path)!r} cannot be read ({error}): expected an npz file with `genes` and `vectors`."
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(genes) or not np.isfinite(vectors).all():
        raise UserError(
            f"gene_vectors={str(path)!r} has {len(genes):,} genes and vectors of the shape {vectors.shape}: expected "
            "finite vectors, one row per gene."
        )
    return genes, vectors


def _embedding_tables(model: Cell2TextForConditionalGeneration) -> Any:
    """Return the embedding tables of a BERT-like encoder."""
    tables: Any = getattr(model.model.cell_encoder, "embeddings", None)
    if not all(hasattr(tables, f"{kind}_embeddings") for kind in ("word", "position", "token_type")):
        raise UserError(
            "gene_embeddings other than random need a BERT-like encoder, found "
            f"{type(model.model.cell_encoder).__name__}: pass gene_embeddings=random."
        )
    return tables


def _set_members(gene_sets: GeneSets, processor: Cell2TextProcessor) -> np.ndarray:
    """Return the membership of each gene token in each set, 0 or 1, shape (n_tokens, n_sets)."""
    members = np.zeros((len(processor.gene_vocabulary), len(gene_sets)))
    for column, genes in enumerate(gene_sets.genes):
        tokens, _ = processor.gene_vocabulary.map_genes(genes)
        members[tokens[tokens >= 0], column] = 1
    names = {gene for genes in gene_sets.genes for gene in genes}
    mapped = int(members.any(axis=1).sum())
    if not mapped:
        raise UserError(f"The vocabulary has none of the {len(names):,} genes of the sets: expected human symbols.")
    logger.info(f"{mapped:,} of the {len(names):,} genes of {len(gene_sets)} gene sets are in the vocabulary.")
    empty = [name for name, there in zip(gene_sets.names, members.max(axis=0)) if not there]
    if empty:
        logger.warning(f"{len(empty):,} of {len(gene_sets):,} gene sets have no gene in the vocabulary: {empty[:5]}.")
    return members


def freeze_gene_embeddings(model: Cell2TextForConditionalGeneration) -> None:
    """Freeze the encoder's gene embeddings."""
    model.model.cell_encoder.get_input_embeddings().requires_grad_(False)


def freeze_positions(model: Cell2TextForConditionalGeneration) -> None:
    """Set the position embeddings of an encoder without attention layers to zero, and freeze them.

    A learned one would encode little more than the length of a cell, which distinguishes studies. With attention, they
    are the only way to see a gene's rank, and stay as they are.
    """
    encoder = model.model.cell_encoder
    tables: Any = getattr(encoder, "embeddings", None)
    if getattr(encoder.config, "num_hidden_layers", None) != 0 or not hasattr(tables, "position_embeddings"):
        return
    for offset in (tables.position_embeddings, tables.token_type_embeddings):
        with torch.no_grad():
            offset.weight.zero_()
        offset.requires_grad_(False)


def _rank_weighted_matrix(cells: list, processor: Cell2TextProcessor) -> sp.csr_matrix:
    """Return rank weights of unit length per cell, shape (n_cells, n_tokens), without special tokens and rare genes."""
    vocabulary = processor.gene_vocabulary
    genes = [np.asarray(cell)[~np.isin(cell, vocabulary.frame_token_ids)] for cell in cells]
    weights = [rank_weights(torch.arange(len(cell)), processor.max_genes).numpy() for cell in genes]
    indptr = np.concatenate([[0], np.cumsum([len(cell) for cell in genes])])
    matrix = sp.csr_matrix(
        (np.concatenate(weights), np.concatenate(genes).astype(np.int64), indptr), shape=(len(cells), len(vocabulary))
    )
    common = np.asarray((matrix > 0).sum(axis=0)).ravel() >= min(MIN_CELLS, len(cells))
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scaled = sp.diags_array(1 / np.maximum(length, 1e-12)) @ matrix @ sp.diags_array(common.astype(float))
    return scaled.tocsr()
