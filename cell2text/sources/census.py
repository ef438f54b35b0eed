"""Read the CELLxGENE Census: metadata first, then the counts of the selected cells only.

Reads any SOMA experiment with the layout of the Census. Depends on tiledbsoma and cellxgene-census (extra `census`),
which are imported when a Census is opened.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.errors import UserError
from cell2text.sources.checks import BadFileError
from cell2text.sources.discovery import SourceLocation
from errors_cell2text import first_line


ORGANISM = "homo_sapiens"
GENE_COLUMNS = ("feature_id", "feature_name")
PUBLIC_BUCKET = "s3://cellxgene"
PUBLIC_BUCKET_OPTIONS: dict[str, str | float] = {"vfs.s3.no_sign_request": "true", "vfs.s3.region": "us-west-2"}


def find_census(version: str, uri: str | None) -> SourceLocation:
    """Locate a release of the Census.

    Parameters
    ----------
    version
        Name of a release, such as `"stable"`. Ignored if `uri` is given.
    uri
        Address of a SOMA with the layout of the Census. Defaults to the address of the release.

    Raises
    ------
    UserError
        If the release is unknown, or cellxgene-census is not installed.
    """
    if uri is None:
        try:
            import cellxgene_census
        except ImportError as error:
            raise UserError('The Census needs cellxgene-census: pip install "cell2text[census]".') from error
        try:
            uri = cellxgene_census.get_census_version_description(version)["soma"]["uri"]
        except Exception as error:  # network, unknown release
            raise UserError(f"Census release {version!r} cannot be found ({first_line(error)}).") from error
    return SourceLocation("census", uri, "soma")


@lru_cache(maxsize=1)
def open_census(source: SourceLocation, value_filter: str | None) -> "CensusReader":
    """Open a Census; one reader serves all jobs of a process."""
    return CensusReader(source, value_filter)


class CensusReader:
    """Metadata and counts of a SOMA experiment, a container of `CellSource`.

    A cell's row is its `soma_joinid`.

    Parameters
    ----------
    source
        Location from `find_census`.
    value_filter
        Cells to read, in SOMA's filter language, such as `"tissue == 'lung'"`. Defaults to all cells.

    Raises
    ------
    UserError
        If tiledbsoma is not installed.
    BadFileError
        If the address holds no Census.
    """

    kind, note = "Census", ""
    trusted = True  # the Census holds raw counts, and only those of chosen cells are fetched
    by_column = False

    def __init__(self, source: SourceLocation, value_filter: str | None):
        try:
            import tiledbsoma
        except ImportError as error:
            raise UserError('The Census needs tiledbsoma: pip install "cell2text[census]".') from error
        self.location, self.value_filter = source, value_filter
        context = None
        if source.url.startswith(PUBLIC_BUCKET):
            context = tiledbsoma.SOMATileDBContext(tiledb_config=PUBLIC_BUCKET_OPTIONS)
        try:
            # Closed by the garbage collector. Its type differs between releases of tiledbsoma.
            self._census = cast(Any, tiledbsoma.open(source.url, context=context))
            self._experiment = self._census["census_data"][ORGANISM]
            self._measurement = self._experiment.ms["RNA"]
            self._n_genes = self._measurement.var.count
        except (tiledbsoma.SOMAError, tiledbsoma.DoesNotExistError, KeyError, RuntimeError) as error:
            raise BadFileError(source.name, f"{source.url} is not a Census ({first_line(error)}).") from error

    def error(self, message: str, *, missing: bool = False) -> Exception:
        """Return the exception for a fault of this Census."""
        return BadFileError(self.location.name, message)

    def matrices(self) -> list[str]:
        """Return the one matrix of a Census."""
        return ["X['raw']"]

    def open_matrix(self, name: str) -> "CensusReader":
        """Return the reader of the rows of the matrix."""
        return self

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Number of cells that pass the filter, and of genes."""
        return self.n_cells, int(self._n_genes)

    def read_var(self, name: str = "") -> pd.DataFrame:
        """Read the Ensembl ids (index) and symbols (`feature_name`), one row per gene."""
        table = self._measurement.var.read(column_names=["soma_joinid", *GENE_COLUMNS]).concat().to_pandas()
        return table.sort_values("soma_joinid").set_index("feature_id")[["feature_name"]]

    @cached_property
    def n_cells(self) -> int:
        """Number of cells that pass the filter."""
        return len(self._read_obs_table(["soma_joinid"]))

    def obs_columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        return [name for name in list(self._experiment.obs.keys()) if name != "soma_joinid"]

    def read_obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of the cells that pass the filter as categories of text, indexed by `soma_joinid`."""
        table = self._read_obs_table(["soma_joinid", *columns])
        present = table.notna()
        return pd.DataFrame(
            {name: table[name].astype(str).where(present[name]).astype("category") for name in columns},
            index=table.index,
        )

    def _read_obs_table(self, columns: list[str]) -> pd.DataFrame:
        parts = self._experiment.obs.read(column_names=columns, value_filter=self.value_filter)
        return parts.concat().to_pandas().set_index("soma_joinid").sort_index()

    def read_cell_names(self, rows: np.ndarray) -> np.ndarray:
        """Return the `soma_joinid` of each cell as text."""
        return np.array([str(row) for row in rows], dtype=object)

    def read_rows(self, rows: np.ndarray) -> sp.csr_matrix:
        """Read the counts of the cells with these `soma_joinid`, ascending, shape (len(rows), n_genes)."""
        table = self._measurement.X["raw"].read((np.asarray(rows, dtype=np.int64), slice(None))).tables().concat()
        row = np.searchsorted(rows, table["soma_dim_0"].to_numpy())
        data = table["soma_data"].to_numpy().astype(np.float32)
        shape = (len(rows), self._n_genes)
        return sp.csr_matrix((data, (row, table["soma_dim_1"].to_numpy())), shape=shape)

    def close(self) -> None:
        """Do nothing: `open_census` shares one reader between the jobs of a process."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
