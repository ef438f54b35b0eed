"""Find cells that several files contain: same data set, donor and name, and the same counts.

Names alone are not enough: plates repeat the names of their wells. So the counts of cells with equal names are read and
compared, and only theirs. Genes are compared by identity, so files may order them differently or lack some. Depends on
`sources` for reading and on `survey` for the names.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from cell2text.preparation.config import PrepareConfig
from cell2text.preparation.medians import HUMAN_GENES
from cell2text.preparation.survey import Survey, open_planned
from ranking_cell2text import MappedGenes
from vocabulary_cell2text import GeneVocabulary


logger = logging.getLogger(__name__)

BLOCK_CELLS = 1024  # cells whose counts are in memory at a time
STEPS_PER_COUNT = 16  # non-integer counts are compared in steps of 1/16, which absorbs the error of float32
N_GROUPS = 32  # groups of genes whose counts are compared, for files with different genes
MIN_EQUAL = 0.5  # part of the groups with counts that must be equal; files map some genes differently
MAX_ROUNDS = 1024  # comparisons of a name that more cells of several files have
WARN_ABOVE = 0.5  # part of a file's cells that are copies


@dataclass(frozen=True)
class Copies:
    """Cells that are in more than one file.

    Parameters
    ----------
    dropped
        Whether a cell is a copy of one in another file, shape (n_cells,). The file with the most cells of the data set
        keeps the cell.
    same_name
        Number of cells per source that have data set, donor and name of a cell in another file, but other counts. They
        are different cells, and kept.
    """

    dropped: np.ndarray
    same_name: dict[str, int]


def find_copies(
    cells: pd.DataFrame, surveys: list[Survey], config: PrepareConfig, vocabulary: GeneVocabulary | None
) -> Copies:
    """Find the cells that another file contains as well.

    Two cells of different files are copies if data set, donor and name agree, and so do the counts. If the files have
    the same genes, all counts must be equal. Otherwise the genes that all files with such names share are divided into
    32 groups, and the counts must be equal in half of the groups that have any: releases of an annotation map single
    genes differently, while different cells differ in nearly all groups. If neither cell has counts on shared genes,
    data set, donor and name decide. A warning is logged for each file in which most cells are copies.

    Parameters
    ----------
    cells
        Cells of all sources, with `source`, `row`, `dataset_id` and `key`, the hash of data set, donor and name.
    surveys
        Surveys of the sources, in the order of the categories of `source`.
    config
        Options of the run.
    vocabulary
        Gene vocabulary that identifies genes; None to identify them by HGNC and Ensembl.

    Raises
    ------
    BadFileError
        If the counts of a cell cannot be read.
    """
    sizes = cells.groupby(["source", "dataset_id"], observed=True)["row"].transform("size").to_numpy()
    order = np.argsort(-sizes, kind="stable")  # the file with the most cells of a data set comes first
    frame = pd.DataFrame(
        {"key": cells["key"].to_numpy()[order], "source": cells["source"].cat.codes.to_numpy()[order]}, index=order
    )
    frame = _repeated_names(frame)
    frame = frame.assign(row=cells["row"].to_numpy()[frame.index])
    dropped = np.zeros(len(cells), dtype=bool)
    if len(frame):
        hashes = _hash_cells(frame, surveys, config, vocabulary)
        dropped[_compare_cells(frame, hashes)] = True
    frame = _repeated_names(frame[~dropped[frame.index]])
    other = frame["source"] != frame.groupby("key", sort=False)["source"].transform("first")
    names = [survey.source.name for survey in surveys]
    same_name = {name: int((frame["source"][other] == code).sum()) for code, name in enumerate(names)}
    _warn(cells["source"].cat.codes.to_numpy(), dropped, names)
    return Copies(dropped, same_name)


def _repeated_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the cells whose key occurs in several sources."""
    return frame[frame.groupby("key", sort=False)["source"].transform("nunique") > 1]


@dataclass(frozen=True)
class _CellHashes:
    """Hashes of the counts of cells, in the order of a frame.

    Parameters
    ----------
    all_genes
        Hash of all counts, shape (n_cells,).
    groups
        Hashes of the counts on each group of shared genes, 0 without counts; shape (n_cells, N_GROUPS).
    gene_set
        Number of the gene set of the cell's source, shape (n_cells,).
    """

    all_genes: np.ndarray
    groups: np.ndarray
    gene_set: np.ndarray

    def equal(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return for pairs of positions whether the counts agree, shape (n_pairs,)."""
        counted = (self.groups[left] != 0) | (self.groups[right] != 0)
        equal = (counted & (self.groups[left] == self.groups[right])).sum(axis=1)
        similar = equal >= MIN_EQUAL * counted.sum(axis=1)
        same_genes = self.gene_set[left] == self.gene_set[right]
        return np.where(same_genes, self.all_genes[left] == self.all_genes[right], similar)


def _compare_cells(frame: pd.DataFrame, hashes: _CellHashes) -> np.ndarray:
    """Return the index of the cells that are copies: each round compares with the first cell of every name."""
    copies = []
    rest = frame.assign(position=np.arange(len(frame)))
    for _ in range(MAX_ROUNDS):
        rest = _repeated_names(rest)
        if not len(rest):
            break
        first = rest.groupby("key", sort=False)[["position", "source"]].transform("first")
        position, leader = rest["position"].to_numpy(), first["position"].to_numpy()
        is_copy = (rest["source"] != first["source"]).to_numpy() & hashes.equal(position, leader)
        copies.append(rest.index[is_copy].to_numpy())
        rest = rest[~is_copy & (position != leader)]
    return np.concatenate(copies) if copies else np.zeros(0, dtype=np.int64)


def _warn(sources: np.ndarray, dropped: np.ndarray, names: list[str]) -> None:
    for code, name in enumerate(names):
        part = dropped[sources == code]
        if part.mean() > WARN_ABOVE:
            number = "All" if part.all() else f"{part.sum():,} of"
            logger.warning(
                f"{name}: {number} {len(part):,} cells are copies of cells in other files, by data set, donor, name "
                "and counts, and are dropped."
            )


def _hash_cells(
    frame: pd.DataFrame, surveys: list[Survey], config: PrepareConfig, vocabulary: GeneVocabulary | None
) -> _CellHashes:
    """Read the counts of the cells of a frame in blocks, and hash them."""
    sources, rows = frame["source"].to_numpy(), frame["row"].to_numpy()
    numbers = {code: _read_gene_numbers(surveys[code], config, vocabulary) for code in np.unique(sources)}
    all_genes, gene_set = np.zeros(len(frame), dtype=np.uint64), np.zeros(len(frame), dtype=np.int64)
    groups = np.zeros((len(frame), N_GROUPS), dtype=np.uint32)
    gene_sets: dict[bytes, int] = {}
    for members in _connect_sources(frame, len(surveys)):
        shared = np.array(sorted(set.intersection(*(set(numbers[code]) for code in members)) - {-1}), dtype=np.int64)
        for code in members:
            weights = hash_genes(numbers[code])
            of_shared = np.where(np.isin(numbers[code], shared), weights, np.uint64(0))
            positions = np.flatnonzero(sources == code)
            positions = positions[np.argsort(rows[positions], kind="stable")]
            gene_set[positions] = gene_sets.setdefault(np.unique(numbers[code]).tobytes(), len(gene_sets))
            with open_planned(surveys[code].source, config) as reader:
                for part in np.split(positions, range(BLOCK_CELLS, len(positions), BLOCK_CELLS)):
                    block = reader.read_counts(rows[part])
                    all_genes[part] = hash_counts(block, weights).sum(axis=1, dtype=np.uint64)
                    groups[part] = hash_counts(block, of_shared) >> np.uint64(32)
    return _CellHashes(all_genes, groups, gene_set)


def _connect_sources(frame: pd.DataFrame, n_sources: int) -> list[np.ndarray]:
    """Return the groups of sources that have cells of equal names, directly or through a third."""
    first = frame.groupby("key", sort=False)["source"].transform("first")
    pairs = pd.DataFrame({"first": first, "source": frame["source"]}).drop_duplicates()
    links = sp.coo_matrix((np.ones(len(pairs)), (pairs["first"], pairs["source"])), shape=(n_sources, n_sources))
    _, labels = connected_components(links, directed=False)
    present = np.unique(frame["source"])
    return [present[labels[present] == label] for label in np.unique(labels[present])]


def _read_gene_numbers(survey: Survey, config: PrepareConfig, vocabulary: GeneVocabulary | None) -> np.ndarray:
    """Return the number of each gene of a source, equal in every source; -1 for genes that are not identified."""
    genes = vocabulary or HUMAN_GENES
    with open_planned(survey.source, config) as reader:
        mapped = MappedGenes.of_source(reader, genes, gene_key=config.gene_key, species=config.species)
    return mapped.token_ids.astype(np.int64)


def hash_genes(numbers: np.ndarray) -> np.ndarray:
    """Return a random-looking 64-bit weight per gene number (SplitMix64), 0 for -1; shape (n_genes,).

    Examples
    --------
    >>> hash_genes(np.array([-1, 7])).tolist()
    [0, 14232521865600346940]
    """
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.where(numbers < 0, np.uint64(0), mixed ^ (mixed >> np.uint64(31)))


def hash_counts(block: sp.csr_matrix, weights: np.ndarray) -> np.ndarray:
    """Return 64-bit hashes of each cell's counts by group of genes, whatever the order of the genes.

    Parameters
    ----------
    block
        Counts, CSR, shape (n_cells, n_genes).
    weights
        Weight of each gene from `hash_genes`, which also determines its group; genes of weight 0 do not count. Shape
        (n_genes,).

    Returns
    -------
    Sums of weighted counts modulo 2**64, uint64, shape (n_cells, N_GROUPS).
    """
    steps = np.rint(np.nan_to_num(block.data.astype(np.float64)) * STEPS_PER_COUNT).astype(np.int64).view(np.uint64)
    hashes = np.zeros(block.shape[0] * N_GROUPS, dtype=np.uint64)
    cells = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    groups = (weights % np.uint64(N_GROUPS)).astype(np.int64)
    np.add.at(hashes, cells * N_GROUPS + groups[block.indices], steps * weights[block.indices])
    return hashes.reshape(block.shape[0], N_GROUPS)
