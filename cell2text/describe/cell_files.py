"""Open a file of cells to describe: raw counts, or ranked gene lists. Both give a reader with the same methods."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from cell2text.describe.gene_list_files import is_gene_list_file, read_gene_lists
from cell2text.describe.gene_lists import GeneListReader, check_options
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.writers import KEY, TABLES
from cell2text.errors import UserError
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import SourceLocation, find_source
from concepts_cell2text import ConceptNames
from processing_cell2text import Cell2TextProcessor
from source_cell2text import CellSource


GENE_LISTS = "gene_lists"  # format of a location


class CountsFile:
    """An open file of raw counts.

    Parameters
    ----------
    source
        The open source.
    name
        Name of the file in messages.
    """

    def __init__(self, source: CellSource, name: str):
        self.source, self.name, self.n_cells = source, name, source.n_cells

    def check_output(self, out: Path, *, overwrite: bool) -> None:
        """Raise a `UserError` if `obs` has columns that the description would replace in a copy of the file."""
        taken = [name for name in self.source.obs_columns() if name == KEY or name.startswith(f"{KEY}_")]
        if taken and out.suffix not in TABLES and not overwrite:
            raise UserError(
                f"{self.name} has the column {taken[0]!r} in obs, which the description would replace. Pass "
                "overwrite=True to replace it, or write a table: .csv, .jsonl or .parquet."
            )

    def reader(self, processor: Cell2TextProcessor, options: DescribeOptions, concepts: ConceptNames) -> CellReader:
        """Return a reader of the cells."""
        return CellReader(self.source, processor, options, concepts)


class GeneListFile:
    """Ranked gene lists of a file.

    Parameters
    ----------
    names, lists
        Name and genes of each cell.
    name
        Name of the file in messages.
    """

    def __init__(self, names: list[str], lists: list[list[str]], name: str):
        self.names, self.lists, self.name, self.n_cells = names, lists, name, len(lists)

    def check_output(self, out: Path, *, overwrite: bool) -> None:
        """Raise a `UserError` unless the output is a table: there are no counts to copy."""
        if out.suffix not in TABLES:
            raise UserError(
                f"out={str(out)!r}: {self.name} holds ranked gene lists without counts. Write a table: .csv, .jsonl or "
                ".parquet."
            )

    def reader(self, processor: Cell2TextProcessor, options: DescribeOptions, concepts: ConceptNames) -> GeneListReader:
        """Return a reader of the cells."""
        return GeneListReader(self.names, self.lists, processor, options, concepts)


def locate_cells(source: str | os.PathLike) -> SourceLocation:
    """Return the location of a file of counts or of gene lists.

    Raises
    ------
    UserError
        If the path holds no such file, or several.
    """
    if not is_gene_list_file(source):
        return find_source(str(source))
    fs, path = fsspec.core.url_to_fs(os.fspath(source))
    return SourceLocation(Path(path).name, fs.unstrip_protocol(path), GENE_LISTS)


def default_output(location: SourceLocation) -> Path:
    """Return the output in the current folder that is written if none is given.

    Examples
    --------
    >>> default_output(SourceLocation("lists", "file:///data/lists.jsonl.gz", GENE_LISTS)).name
    'lists.described.csv'
    """
    if location.format != GENE_LISTS:
        return Path(location.described_name)
    stem = re.sub(r"\.\w+(\.gz)?$", "", location.url.rpartition("/")[2], flags=re.IGNORECASE)
    return Path(f"{stem}.described.csv")


@contextmanager
def open_cells(location: SourceLocation, options: DescribeOptions) -> Iterator[CountsFile | GeneListFile]:
    """Open a file of counts or of gene lists.

    Raises
    ------
    UserError
        If the file cannot be read, or an option applies to counts and the file has none.
    """
    if location.format == GENE_LISTS:
        check_options(options)
        yield GeneListFile(*read_gene_lists(location.url), location.name)
        return
    with open_source(location, layer=options.layer, allow_fractional=options.allow_fractional) as opened:
        yield CountsFile(opened, location.name)
