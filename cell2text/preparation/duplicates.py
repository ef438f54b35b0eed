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
from cell2text.preparation.medians import gene_numbers
from cell2text.preparation.survey import Survey
from cell2text.sources.containers import open_source
from ranking_cell2text import CellRanker
from vocabulary_cell2text import GeneVocabulary


logger = logging.getLogger(__name__)

BLOCK_CELLS = 1024  # cells whose counts are in memory at a time
STEPS_PER_COUNT = 16  # non-integer counts are compared in steps of 1/16, which absorbs the error of float32
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

    Two cells of different files are copies if data set, donor and name agree, and so do the counts: of all genes if the
    files have the same genes, otherwise of the genes that all files with such cells share. If they share no gene, data
    set, donor and name decide. A file of which more than half are copies is logged as a warning.

    Parameters
    ----------
    cells
        Cells of all sources, with `source`, `row`, `dataset_id` and `key`, the hash of data set, donor and name.
    surveys
        Surveys of the sources, in the order of the categories of `source`.
    config
        Options of the run.
    vocabulary
        Gene vocabulary that identifies genes; None if genes are named by Ensembl ids.

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
    frame = frame[frame.groupby("key", sort=False)["source"].transform("nunique") > 1]
    frame["row"] = cells["row"].to_numpy()[frame.index]
    dropped = np.zeros(len(cells), dtype=bool)
    if len(frame):
        frame = _add_fingerprints(frame, surveys, config, vocabulary)
        first = frame.groupby(["key", "shared"], sort=False)["genes"].transform("first")
        copies = _follow_other_source(frame, ["key", "counts"])
        copies |= _follow_other_source(frame, ["key", "shared"]) & (frame["genes"] != first)
        dropped[frame.index[copies]] = True
        frame = frame[~copies]
    other = _follow_other_source(frame, ["key"])
    names = [survey.source.name for survey in surveys]
    same_name = {name: int((frame["source"][other] == code).sum()) for code, name in enumerate(names)}
    _warn(cells["source"].cat.codes.to_numpy(), dropped, names)
    return Copies(dropped, same_name)


def _follow_other_source(frame: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Mark cells whose first cell with the same values of `columns` is in another source."""
    return frame["source"] != frame.groupby(columns, sort=False)["source"].transform("first")


def _warn(sources: np.ndarray, dropped: np.ndarray, names: list[str]) -> None:
    for code, name in enumerate(names):
        part = dropped[sources == code]
        if part.mean() > WARN_ABOVE:
            number = "All" if part.all() else f"{part.sum():,} of"
            logger.warning(
                f"{name}: {number} {len(part):,} cells are copies of cells in other files, by data set, donor, name "
                "and counts, and are dropped."
            )


def _add_fingerprints(
    frame: pd.DataFrame, surveys: list[Survey], config: PrepareConfig, vocabulary: GeneVocabulary | None
) -> pd.DataFrame:
    """Add hashes of each cell's counts (`counts`), of those on shared genes (`shared`), and the source's gene set."""
    numbers = {code: _read_gene_numbers(surveys[code], config, vocabulary) for code in frame["source"].unique()}
    counts, shared = np.zeros(len(frame), dtype=np.uint64), np.zeros(len(frame), dtype=np.uint64)
    gene_sets: dict[int, bytes] = {}
    for members in _connect_sources(frame, len(surveys)):
        common = set.intersection(*(set(numbers[code]) for code in members)) - {-1}
        for code in members:
            gene_sets[code] = np.unique(numbers[code]).tobytes()
            weights = hash_genes(numbers[code])
            in_common = np.where(np.isin(numbers[code], list(common)), weights, np.uint64(0))
            positions = np.flatnonzero(frame["source"].to_numpy() == code)
            positions = positions[np.argsort(frame["row"].to_numpy()[positions], kind="stable")]
            with open_source(surveys[code].source, layer=config.layer, value_filter=config.value_filter) as reader:
                for part in np.split(positions, range(BLOCK_CELLS, len(positions), BLOCK_CELLS)):
                    block = reader.read_counts(frame["row"].to_numpy()[part])
                    counts[part], shared[part] = hash_counts(block, weights), hash_counts(block, in_common)
    identities = {content: number for number, content in enumerate(dict.fromkeys(gene_sets.values()))}
    genes = frame["source"].map({code: identities[content] for code, content in gene_sets.items()})
    return frame.assign(counts=counts, shared=shared, genes=genes)


def _connect_sources(frame: pd.DataFrame, n_sources: int) -> list[np.ndarray]:
    """Return the groups of sources that have cells of equal names, directly or through a third."""
    first = frame.groupby("key", sort=False)["source"].transform("first")
    pairs = pd.DataFrame({"first": first, "source": frame["source"]}).drop_duplicates()
    links = sp.coo_matrix((np.ones(len(pairs)), (pairs["first"], pairs["source"])), shape=(n_sources, n_sources))
    _, labels = connected_components(links, directed=False)
    present = np.unique(frame["source"])
    return [present[labels[present] == label] for label in np.unique(labels[present])]


def _read_gene_numbers(survey: Survey, config: PrepareConfig, vocabulary: GeneVocabulary | None) -> np.ndarray:
    """Return the number of each gene of a source, equal in every source; -1 for genes outside the vocabulary."""
    with open_source(survey.source, layer=config.layer, value_filter=config.value_filter) as reader:
        var = reader.read_var()
    if vocabulary is None:
        return gene_numbers(var.index)
    ranker = CellRanker(var, vocabulary, gene_key=config.gene_key, max_genes=vocabulary.max_genes)
    return ranker.token_ids.astype(np.int64)


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
    """Return a 64-bit hash of each cell's counts, whatever the order of the genes.

    Parameters
    ----------
    block
        Counts, CSR, shape (n_cells, n_genes).
    weights
        Weight of each gene from `hash_genes`; genes of weight 0 do not count. Shape (n_genes,).

    Returns
    -------
    Sums of weighted counts modulo 2**64, shape (n_cells,).
    """
    steps = np.rint(np.nan_to_num(block.data.astype(np.float64)) * STEPS_PER_COUNT).astype(np.int64).view(np.uint64)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(steps * weights[block.indices], dtype=np.uint64)])
    return sums[block.indptr[1:]] - sums[block.indptr[:-1]]
