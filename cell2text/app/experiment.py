"""A described experiment in memory: its cells, their places on the map, and the colours of the map.

Depends on `describe.described_file`, which reads the file, and on `counts` for what is computed per cell.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cell2text.app.counts import CellCounts
from cell2text.app.layout import kept_layout
from cell2text.describe.colours import MISSING_COLOUR, coloured_labels, number_palette, scaled_numbers
from cell2text.describe.described_file import Described, read_described
from cell2text.errors import UserError, UserKeyError
from cell2text.language.fields import FIELDS


MAX_POINTS = 20_000  # cells on the map
MAX_LABELS = 500  # of a column that colours the map
PLACES = 65_535  # positions on the map are integers from 0 to this
NUMBERS = {
    "type_probability": "type probability",
    "n_genes": "genes in the vocabulary",
    "counts_used": "fraction of counts used",
}


@dataclass
class Experiment:
    """A described experiment.

    Parameters
    ----------
    described
        Descriptions of all cells.
    key
        Name under which the cells were described.
    rows
        Rows of the cells on the map, ascending.
    positions
        Their positions, shape (len(rows), 2).
    map_name
        What the map is.
    counts
        Counts of the file.
    notes
        What a user should know about the file, such as where the description was written.
    """

    described: Described
    key: str
    rows: np.ndarray
    positions: np.ndarray
    map_name: str
    counts: CellCounts
    notes: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The described file."""
        return self.described.path

    @property
    def cells(self) -> pd.DataFrame:
        """Descriptions, one row per cell."""
        return self.described.cells

    @cached_property
    def names(self) -> np.ndarray:
        """Name of each cell."""
        return self.cells.index.to_numpy(dtype=object)

    @cached_property
    def rows_by_type(self) -> dict[str, np.ndarray]:
        """Rows of the cells of each predicted type, ascending."""
        return self.cells.groupby("cell_type", observed=True).indices

    @cached_property
    def colourings(self) -> dict[str, str]:
        """Title of everything that can colour the map, by its key: `described:NAME` or `obs:NAME`."""
        titles = {f"described:{name}": name.replace("_", " ") for name in FIELDS if self._has_values(name)}
        titles |= {f"described:{name}": title for name, title in NUMBERS.items() if self._has_values(name)}
        return titles | {f"obs:{name}": name for name in self.described.other_columns}

    def values(self, coloured_by: str) -> pd.Series:
        """Return what colours the map, one value per cell.

        Raises
        ------
        UserError
            If nothing of this name colours the map.
        """
        kind, _, name = coloured_by.partition(":")
        if coloured_by not in self.colourings:
            raise UserKeyError(f"colour={coloured_by!r}: expected one of {', '.join(self.colourings)}.")
        column = self.cells[name].reset_index(drop=True) if kind == "described" else self.described.column(name)
        return column.astype(object)

    def colours(self, coloured_by: str) -> dict:
        """Return the colours of the cells on the map, ready for JSON.

        Returns
        -------
        `title`, `missing` (the colour of cells without a value), `colours` (a palette) and `codes` (an index into the
        palette per cell, -1 for none). For labels also `names` and `counts` of each colour; for numbers `low` and
        `high`.

        Raises
        ------
        UserError
            If a column has more than `MAX_LABELS` labels.
        """
        values, title = self.values(coloured_by).iloc[self.rows], self.colourings[coloured_by]
        shared = {"title": title, "missing": MISSING_COLOUR}
        numbers = _as_numbers(values)
        if numbers is not None:
            return {"kind": "numbers", "colours": number_palette(), **shared, **scaled_numbers(numbers)}
        if (n := values.nunique()) > MAX_LABELS:
            raise UserError(
                f"The column {title!r} has {n:,} different labels: expected at most {MAX_LABELS} to colour the map."
            )
        return {"kind": "labels", **shared, **coloured_labels(values)}

    def places(self) -> dict:
        """Return the cells on the map, ready for JSON: names, and integer positions from 0 to `PLACES`.

        Both axes have the same scale; y grows upwards.
        """
        low = self.positions.min(axis=0)
        span = float((self.positions.max(axis=0) - low).max()) or 1.0
        scaled = np.round((self.positions - low) / span * PLACES).astype(int)
        return {"x": scaled[:, 0].tolist(), "y": scaled[:, 1].tolist(), "names": self.names[self.rows].tolist()}

    def rows_of_points(self, points) -> np.ndarray:
        """Return the rows of points of the map, ascending and without duplicates.

        Parameters
        ----------
        points
            Indices of points, as a browser sends them.

        Raises
        ------
        UserError
            If they are not indices of points.
        """
        if not isinstance(points, list) or not all(type(one) is int and 0 <= one < len(self.rows) for one in points):
            raise UserError(f"points: expected a list of integers from 0 to {len(self.rows) - 1:,}.")
        return self.rows[np.unique(np.array(points, dtype=np.int64))]

    def points_of_rows(self, rows: np.ndarray) -> list[int]:
        """Return the points of some cells; cells that are not on the map are left out."""
        places = np.searchsorted(self.rows, rows)
        places = np.minimum(places, len(self.rows) - 1)
        return places[self.rows[places] == rows].tolist()

    def find(self, name: str) -> int:
        """Return the row of a cell, by its name, or by a part of it that no other name has.

        Raises
        ------
        UserError
            If no cell or several have the name.
        """
        text = name.strip()
        if not text:
            raise UserError("The name is empty: type the name of a cell, or a part of it.")
        found = self._rows_of(text)
        if not len(found):
            found = np.flatnonzero([text.casefold() in str(one).casefold() for one in self.names])
        if len(found) != 1:
            raise UserError(f"{len(found):,} of {len(self.names):,} cells have {text!r} in their name: expected one.")
        return int(found[0])

    def row_of(self, name: str) -> int:
        """Return the row of a cell by its exact name, in a time that does not depend on the number of cells.

        Raises
        ------
        UserError
            If no cell or several have the name.
        """
        found = self._rows_of(name)
        if len(found) != 1:
            raise UserError(f"{len(found):,} of {len(self.names):,} cells have the name {name!r}: expected one.")
        return int(found[0])

    def close(self) -> None:
        """Close the file."""
        self.counts.close()

    def _rows_of(self, name: str) -> np.ndarray:
        """Return the rows of the cells with a name, by the hash table of the index."""
        try:
            found = self.cells.index.get_loc(name)
        except KeyError:
            return np.zeros(0, dtype=np.int64)
        return np.array([found]) if isinstance(found, int) else np.arange(len(self.cells))[found]

    def _has_values(self, name: str) -> bool:
        return name in self.cells and bool(self.cells[name].notna().any())


def read_experiment(
    path: str | os.PathLike, *, key: str = "cell2text", model: str | None = None, max_cells: int = MAX_POINTS,
    seed: int = 0, on_stage: Callable[[str], object] | None = None,
) -> Experiment:  # fmt: skip
    """Read a described experiment, and place its cells on a map.

    A map that is computed is kept beside the file as `NAME.map.npz`.

    Parameters
    ----------
    path
        h5ad file or zarr store that `cell2text describe` or `cell2text.tl.describe` wrote.
    key
        Name under which the cells were described.
    model
        Folder or Hub id of the model that answers questions. Defaults to the packaged model.
    max_cells
        Maximum number of cells on the map; larger experiments are sampled.
    seed
        Random seed for sampling the cells on the map, and for UMAP.
    on_stage
        Called with the name of each stage as it begins. None for no calls.

    Raises
    ------
    UserError
        If the file holds no descriptions, or no cells.

    Examples
    --------
    >>> import cell2text, tempfile
    >>> path = f"{tempfile.mkdtemp()}/cells.h5ad"
    >>> adata = cell2text.example_cells(unseen=True)[:4].copy()
    >>> cell2text.tl.describe(adata)
    >>> adata.write_h5ad(path)
    >>> experiment = read_experiment(path)
    >>> experiment.colours("described:cell_type")["kind"]
    'labels'
    """
    stage = on_stage or (lambda name: None)
    stage("Reading descriptions")
    described = read_described(path, key)
    n = len(described.cells)
    if not n:
        raise UserError(f"{path} holds no cells.")
    rows = np.arange(n)
    if n > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_cells, replace=False))
    stage("Computing the map")
    positions, map_name = kept_layout(described, rows, key, seed)
    notes = []
    if len(rows) < n:
        notes.append(f"The map shows a random sample of {len(rows):,} of {n:,} cells.")
    return Experiment(
        described, key, rows, np.asarray(positions, dtype=np.float64), map_name,
        CellCounts(described.path, described.params, model), notes,
    )  # fmt: skip


def _as_numbers(values: pd.Series) -> np.ndarray | None:
    """Return a column as numbers, NaN for missing values; None for labels and for truth values."""
    present = values[values.notna()]
    if not len(present) or not all(isinstance(one, (int, float, np.number)) for one in present):
        return None
    if all(isinstance(one, (bool, np.bool_)) for one in present):
        return None
    return pd.to_numeric(values).to_numpy(dtype=np.float64)
