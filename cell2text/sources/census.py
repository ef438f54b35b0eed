"""The CELLxGENE Census as a source: metadata first, then the counts of the chosen cells alone.

Reads any SOMA of the Census's layout, so that a release is one address among others. Needs the extra `census`.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2text.errors import UserError
from cell2text.sources.files import BadFileError, Source, first_line


ORGANISM = "homo_sapiens"
GENE_COLUMNS = ("feature_id", "feature_name")


def find_census(version: str, uri: str | None) -> Source:
    """The source of a release of the Census, or of a SOMA at an address.

    Raises
    ------
    ValueError
        If the release is unknown, or what reads it is not installed.
    """
    if uri is None:
        try:
            import cellxgene_census
        except ImportError as error:
            raise UserError('The Census needs its own reader: pip install "cell2text[census]".') from error
        try:
            uri = cellxgene_census.get_census_version_description(version)["soma"]["uri"]
        except Exception as error:  # network, unknown release
            raise UserError(f"Census release {version!r} cannot be found ({first_line(error)}).") from error
    return Source("census", uri, "soma")


@lru_cache(maxsize=1)
def open_census(source: Source, value_filter: str | None) -> "CensusReader":
    return CensusReader(source, value_filter)


class CensusReader:
    """Metadata and counts of a SOMA, read by `soma_joinid`, under the names of a `FileReader`."""

    counts_name = "X['raw']"
    note = ""

    def __init__(self, source: Source, value_filter: str | None):
        try:
            import tiledbsoma
        except ImportError as error:
            raise UserError('The Census needs tiledbsoma: pip install "cell2text[census]".') from error
        self.source, self.value_filter = source, value_filter
        context = None
        if source.url.startswith("s3://cellxgene"):  # the public bucket takes no signature
            context = tiledbsoma.SOMATileDBContext(
                tiledb_config={"vfs.s3.no_sign_request": "true", "vfs.s3.region": "us-west-2"}
            )
        try:
            # closed once nothing refers to it; its types differ by release
            self._census = cast(Any, tiledbsoma.open(source.url, context=context))
            self._experiment = self._census["census_data"][ORGANISM]
            self._measurement = self._experiment.ms["RNA"]
            self._n_genes = self._measurement.var.count
        except (tiledbsoma.SOMAError, tiledbsoma.DoesNotExistError, KeyError, RuntimeError) as error:
            raise BadFileError(source.name, f"no Census at {source.url} ({first_line(error)}).") from error

    def layers(self) -> list[str]:
        """The Census's raw counts stand in one place."""
        return []

    def var(self) -> pd.DataFrame:
        table = self._measurement.var.read(column_names=["soma_joinid", *GENE_COLUMNS]).concat().to_pandas()
        return table.sort_values("soma_joinid").set_index("feature_id")[["feature_name"]]

    @cached_property
    def n_cells(self) -> int:
        """Cells that the filter lets through."""
        return len(self._read(["soma_joinid"]))

    def obs_columns(self) -> list[str]:
        return [name for name in list(self._experiment.obs.keys()) if name != "soma_joinid"]

    def obs(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of all cells of the filter as categories of text, by `soma_joinid`."""
        table = self._read(["soma_joinid", *columns])
        present = table.notna()
        return pd.DataFrame(
            {name: table[name].astype(str).where(present[name]).astype("category") for name in columns},
            index=table.index,
        )

    def _read(self, columns: list[str]) -> pd.DataFrame:
        parts = self._experiment.obs.read(column_names=columns, value_filter=self.value_filter)
        return parts.concat().to_pandas().set_index("soma_joinid").sort_index()

    def cell_names(self, rows: np.ndarray) -> np.ndarray:
        return np.array([str(row) for row in rows], dtype=object)

    def counts_of(self, rows: np.ndarray) -> sp.csr_matrix:
        """Counts of the cells with these `soma_joinid`, ascending, shape (len(rows), n_genes)."""
        table = self._measurement.X["raw"].read((np.asarray(rows, dtype=np.int64), slice(None))).tables().concat()
        row = np.searchsorted(rows, table["soma_dim_0"].to_numpy())
        data = table["soma_data"].to_numpy().astype(np.float32)
        shape = (len(rows), self._n_genes)
        return sp.csr_matrix((data, (row, table["soma_dim_1"].to_numpy())), shape=shape)

    def fingerprint(self) -> str:
        """The address of a release, which never changes; a hash of the address of a SOMA on this machine."""
        url = self.source.url
        return url if url.startswith("s3://") else hashlib.sha256(url.encode()).hexdigest()

    def close(self) -> None:
        """Kept open: one reader serves all jobs of a process."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
