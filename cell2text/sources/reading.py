"""Sources of either kind, and their counts a block at a time, checked."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp

from cell2text.preparation.config import PrepareConfig
from cell2text.sources.census import find_census, open_census
from cell2text.sources.files import BadFileError, Source, find_sources, open_source
from counts_cell2text import FLAWS, find_flaw, name_value


BLOCK = 256  # cells read at once


def find_inputs(config: PrepareConfig) -> list[Source]:
    if config.source == "census":
        return [find_census(config.census_version, config.census_uri)]
    return find_sources(config.inputs)


def open_reader(source: Source, config: PrepareConfig):
    """Open a source of either kind."""
    if source.format == "soma":
        return open_census(source, config.value_filter)
    return open_source(source, config.layer)


def checked_blocks(reader, rows: np.ndarray, allow_fractional: bool) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
    """Rows and their counts, a block at a time, the next one read while this one is worked on.

    Raises
    ------
    BadFileError
        If the values are no counts, naming cell and value.
    """
    parts = np.split(rows, range(BLOCK, len(rows), BLOCK))
    with ThreadPoolExecutor(max_workers=1) as ahead:
        pending = ahead.submit(reader.counts_of, parts[0])
        for i, part in enumerate(parts):
            block = pending.result()
            block.sort_indices()  # sums of scores round alike however a file orders its genes
            if i + 1 < len(parts):
                pending = ahead.submit(reader.counts_of, parts[i + 1])
            check_counts(reader, part, block, allow_fractional)
            yield part, block


def check_counts(reader, rows: np.ndarray, block: sp.csr_matrix, allow_fractional: bool) -> None:
    flaw = find_flaw(block, allow_fractional=allow_fractional)
    if flaw:
        kind, position = flaw
        where = name_value(block, position, lambda row: reader.cell_names(rows[row : row + 1])[0])
        raise BadFileError(
            reader.source.name, f"{reader.counts_name} holds {FLAWS[kind]} ({where}): raw counts are needed."
        )
