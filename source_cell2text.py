"""Read the cells of any container under one set of rules.

A *container* is what differs between files: an AnnData in memory ([`AnnDataContainer`]), or a file that the package
`cell2text` streams. [`CellSource`] chooses the matrix that holds counts, leaves out features that are not genes, and
checks and rounds every block, so that the same cells give the same counts from any container. Depends on
`counts_cell2text.py` and `genes_cell2text.py`.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp


try:
    from .counts_cell2text import FLAWS, Flaw, check_counts, holds_counts, name_value, row_reader
except ImportError:
    from counts_cell2text import FLAWS, Flaw, check_counts, holds_counts, name_value, row_reader

try:
    from .errors_cell2text import UserError, UserKeyError, UserTypeError, first_line
except ImportError:
    from errors_cell2text import UserError, UserKeyError, UserTypeError, first_line

try:
    from .genes_cell2text import gene_rows
except ImportError:
    from genes_cell2text import gene_rows


BLOCK_CELLS, MEMORY_BLOCK_CELLS = 256, 1024
SAMPLE_CELLS, _SAMPLE_RANGES = 256, 8  # cells that are examined before any is read, in evenly spaced ranges
_MAX_GAP_ROWS = 32  # shorter gaps between rows are read and dropped, which is faster than a second read
# Layers of RNA velocity: parts of the counts, never the counts of a gene.
_PARTS_OF_COUNTS = {"spliced", "unspliced", "ambiguous", "spanning", "mature", "nascent", "matrix"}


class AnnDataContainer:
    """An AnnData in memory, backed, lazy or in Dask.

    Args:
        adata (`AnnData`): Cells by genes.

    Raises:
        ValueError: If it is not an AnnData.
    """

    kind, note = "AnnData", ""

    def __init__(self, adata, name: str = ""):
        if not all(hasattr(adata, part) for part in ("X", "var", "obs", "layers")):
            raise UserTypeError(_not_an_anndata(adata))
        self.adata, self.name, self.n_cells = adata, name, int(adata.shape[0])
        if getattr(adata, "isbacked", False):
            self.kind = "backed AnnData"
        chunks = getattr(adata.X, "chunksize", None)  # of Dask: a block per chunk, so that each is computed once
        self.block_cells = max(BLOCK_CELLS, chunks[0]) if chunks else MEMORY_BLOCK_CELLS

    def error(self, message: str, *, missing: bool = False) -> Exception:
        """Return the exception for a fault of this container; `missing` for a name that does not exist."""
        if self.name:
            message = f"{self.name}: {message}"
        elif message.startswith(("X ", "layers[", "raw.X ")):
            message = f"adata.{message}"
        elif message.split(" ", 1)[0] in ("holds", "is", "contains"):
            message = f"The AnnData {message}"
        return (UserKeyError if missing else UserError)(message)

    def matrices(self) -> list[str]:
        """Return the matrices that may hold counts: `X`, `layers['counts']`, `raw.X`."""
        names = ["X"] if self.adata.X is not None else []
        names += [f"layers[{name!r}]" for name in self.adata.layers]
        return names + (["raw.X"] if getattr(self.adata, "raw", None) is not None else [])

    def open_matrix(self, name: str):
        """Return the row reader of a matrix."""
        if name == "X":
            return row_reader(self.adata.X)
        if name == "raw.X":
            return row_reader(self.adata.raw.X)
        return row_reader(next(self.adata.layers[key] for key in self.adata.layers if f"layers[{key!r}]" == name))

    def read_var(self, name: str):
        """Return the data frame that names the columns of a matrix."""
        var = self.adata.raw.var if name == "raw.X" else self.adata.var
        return var.to_memory() if hasattr(var, "to_memory") else var

    def obs_columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        return [str(name) for name in self.adata.obs.columns]

    def read_obs(self, columns: Sequence[str]):
        """Return columns of `obs` as categories of text, one row per cell; missing values stay missing."""
        obs = self.adata.obs
        obs = (obs.to_memory() if hasattr(obs, "to_memory") else obs)[list(columns)].reset_index(drop=True)
        for column in columns:
            obs[column] = obs[column].astype(object).where(obs[column].notna()).map(str, na_action="ignore")
        return obs.astype("category")

    def read_cell_names(self, rows: np.ndarray) -> np.ndarray:
        """Return the names of the cells `rows`."""
        return np.asarray(self.adata.obs_names[np.asarray(rows, dtype=np.int64)], dtype=object)

    def close(self) -> None:
        """Do nothing: the AnnData belongs to the caller."""


class CellSource:
    """Counts and metadata of the cells of one container.

    Args:
        container: [`AnnDataContainer`], or a file that the package opened.
        layer (`str`, *optional*):
            Layer with the raw counts, `"X"`, or `"raw"` for `.raw`. Defaults to the matrix that holds integers.
        allow_fractional (`bool`, defaults to `False`):
            Accept non-integer counts, such as expected counts of RSEM. Logarithms are refused nevertheless.

    Attributes:
        n_cells: Number of cells.
        counts_name: Matrix that holds the counts: `"X"`, `"layers['counts']"` or `"raw.X"`.
        left_out: Number of features that are not genes, by their type.
        notes: What a user should know about how the container was read.

    Raises:
        ValueError: If no matrix or several hold counts, or a sparse matrix is damaged.
        KeyError: If the layer does not exist.
    """

    def __init__(self, container: Any, *, layer: str | None = None, allow_fractional: bool = False):
        self.container, self.allow_fractional = container, allow_fractional
        self.n_cells = container.n_cells
        self.notes = [container.note] if container.note else []
        self._readers: dict[str, Any] = {}
        self._samples: dict[str, sp.csr_matrix] = {}
        self._sample_rows: dict[str, np.ndarray] = {}
        self._allow_estimated = False
        self.counts_name = ""
        self.counts_name = self._choose_matrix(layer)
        self._rows = self._reader(self.counts_name)
        self._readers = {self.counts_name: self._rows}  # another matrix may have been read whole
        self._note_estimated_cells()
        var = container.read_var(self.counts_name)
        if self._rows.shape != (self.n_cells, len(var)):
            raise container.error(
                f"{self.counts_name} has shape {self._rows.shape}, but obs names {self.n_cells:,} cells and var "
                f"{len(var):,} genes."
            )
        mask, self.left_out = gene_rows(var)
        if len(var) and not mask.any():
            raise container.error(f"{self.counts_name} holds no genes: its features are {_listed(self.left_out)}.")
        self._columns = None if mask.all() else np.flatnonzero(mask)
        self._var = var if self._columns is None else var.iloc[self._columns]
        if self.by_column:
            self.notes.append("Counts are stored by column (CSC), so the whole matrix is read into memory.")

    @property
    def by_column(self) -> bool:
        """Whether the counts are stored by column, so that all of them are held in memory."""
        return self._reader(self.counts_name).by_column

    def read_var(self):
        """Return the names of the genes, a data frame with one row per gene."""
        return self._var

    def obs_columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        return self.container.obs_columns()

    def read_obs(self, columns: Sequence[str]):
        """Return columns of `obs` as categories of text, one row per cell; missing values stay missing."""
        return self.container.read_obs(columns)

    def read_cell_names(self, rows: np.ndarray) -> np.ndarray:
        """Return the names of the cells `rows`, ascending."""
        return self.container.read_cell_names(rows)

    def read_counts(self, rows: np.ndarray) -> sp.csr_matrix:
        """Read, check and round the counts of the cells `rows`, ascending.

        Returns:
            Counts of shape `(len(rows), n_genes)`, with sorted indices and without duplicate entries.

        Raises:
            ValueError: If a value is not a count, or the container is damaged. The message names the cell.
        """
        return self._check(np.asarray(rows), self._read(self._rows, rows))

    def blocks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
        """Yield blocks of rows and their counts; the next block is read while the caller works on the current one.

        Args:
            rows (`np.ndarray`, *optional*): Rows of the cells to read, ascending. Defaults to all cells.
        """
        rows = np.arange(self.n_cells) if rows is None else np.asarray(rows)
        size = getattr(self.container, "block_cells", BLOCK_CELLS)
        parts = np.split(rows, range(size, len(rows), size))
        with ThreadPoolExecutor(max_workers=1) as ahead:
            pending = ahead.submit(self._read, self._rows, parts[0])
            for i, part in enumerate(parts):
                block = pending.result()
                if i + 1 < len(parts):
                    pending = ahead.submit(self._read, self._rows, parts[i + 1])
                yield part, self._check(part, block)

    def sample(self) -> sp.csr_matrix:
        """Return the counts of at most `SAMPLE_CELLS` cells from all over the container, genes only."""
        sample = self._row_sample(self.counts_name)
        return sample if self._columns is None else sample[:, self._columns]

    def close(self) -> None:
        """Close the container, so that its owner can write it."""
        self.container.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self, rows: np.ndarray, block: sp.csr_matrix) -> sp.csr_matrix:
        if self._columns is not None:
            block = block[:, self._columns]
        checked, flaw, _ = check_counts(
            block, allow_fractional=self.allow_fractional, allow_estimated=self._allow_estimated
        )
        if flaw is not None:
            if not block.has_canonical_format:  # the position is that in a copy without duplicates
                block = block.copy()
                block.sum_duplicates()
            raise self.container.error(f"{self.counts_name} {self._describe(flaw, block, rows)}. {self._advice(flaw)}")
        return checked

    def _read(self, reader, rows: np.ndarray) -> sp.csr_matrix:
        """Read the rows of a matrix in as few ranges as their gaps allow."""
        if not len(rows):
            return sp.csr_matrix((0, reader.shape[1]))
        if hasattr(reader, "read_rows"):
            return reader.read_rows(rows)
        blocks = []
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > _MAX_GAP_ROWS) + 1):
            start, stop = int(run[0]), int(run[-1]) + 1
            try:
                block = reader.read(start, stop)
            except Exception as error:  # each storage raises its own classes
                raise self.container.error(
                    f"is damaged: cells {start:,} to {stop:,} cannot be read ({first_line(error)})."
                ) from error
            blocks.append(block if block.shape[0] == len(run) else block[run - run[0]])
        return blocks[0] if len(blocks) == 1 else sp.csr_matrix(sp.vstack(blocks))

    def _choose_matrix(self, layer: str | None) -> str:
        """Return the name of the matrix that holds the counts; raise if there is none, or more than one."""
        names = self.container.matrices()
        if getattr(self.container, "trusted", False):
            return names[0]
        if layer is not None:
            chosen = _layer_name(layer, names)
            if chosen is None:
                raise self.container.error(
                    f"layer={layer!r}: there is no such matrix. There are {', '.join(names) or 'none'}.", missing=True
                )
            flaw, self._allow_estimated = holds_counts(self._sample(chosen))
            if flaw is not None and not self._accepts(flaw):
                raise self.container.error(self._refusal(chosen, flaw))
            return chosen
        if not names:
            raise self.container.error("holds no matrix: neither X nor a layer nor raw.")
        found: dict[str, Flaw | None] = {}
        for name in names:
            found[name], mostly = holds_counts(self._sample(name))
            self._allow_estimated |= found[name] is None and mostly
        with_counts = self._distinct([name for name in names if found[name] is None])
        if len(with_counts) == 1:
            if with_counts[0] != names[0]:
                first = found[names[0]]
                reason = "holds the same counts of fewer genes, or parts of them" if first is None else _kind(first)
                self.notes.append(f"Counts were found in {with_counts[0]}: {names[0]} {reason}.")
            return with_counts[0]
        if len(with_counts) > 1:
            options = ", ".join(f"layer={_layer_option(name)!r}" for name in with_counts)
            raise self.container.error(
                f"{with_counts[0]} is not the only matrix with counts: {_joined(with_counts)} hold different integers. "
                f"Choose one of {options}."
            )
        first = found[names[0]]
        if first is not None and self._accepts(first):
            return names[0]
        raise self.container.error(self._refusal(names[0], first, others=dict(list(found.items())[1:])))

    def _accepts(self, flaw: Flaw) -> bool:
        return self.allow_fractional and flaw.kind in ("fractional", "normalised")

    def _distinct(self, names: list[str]) -> list[str]:
        """Return the matrices with counts that remain after parts and copies of others are left out."""
        filled = [name for name in names if self._sample(name).nnz]
        names = filled or names[:1]
        whole = [name for name in names if name[8:-2] not in _PARTS_OF_COUNTS]
        names = whole or names[:1]
        counted = [name for name in names if self._sample(name).data.max(initial=0) > 1]
        names = counted or names[:1]
        kept = names[:1]
        for name in names[1:]:
            if name == "raw.X" and self._extends(kept[0]):
                kept[0] = name  # the counts before genes were selected
            elif not any(self._same(name, other) for other in kept):
                kept.append(name)
        return kept

    def _same(self, name: str, other: str) -> bool:
        one, two = self._row_sample(name), self._row_sample(other)
        return one.shape == two.shape and (one != two).nnz == 0

    def _extends(self, name: str) -> bool:
        """Return whether `raw.X` holds the counts of another matrix, and of further genes."""
        genes, of_raw = (_numbered(self.container.read_var(matrix).index) for matrix in (name, "raw.X"))
        if len(of_raw) <= len(genes):
            return False
        columns = of_raw.get_indexer(genes)
        return bool((columns >= 0).all()) and (self._row_sample("raw.X")[:, columns] != self._row_sample(name)).nnz == 0

    def _row_sample(self, name: str) -> sp.csr_matrix:
        """Return a sample of cells; a matrix stored by column is read whole."""
        reader = self._reader(name)
        return self._read(reader, self._rows_to_sample(reader)) if reader.by_column else self._sample(name)

    def _note_estimated_cells(self) -> None:
        if self._allow_estimated and not self.by_column and (n := self._estimated_in_sample()):
            self.notes.append(
                f"{n:,} of {self._sample(self.counts_name).shape[0]:,} sampled cells hold estimated counts, which are "
                "not integers. They are used as they are."
            )

    def _estimated_in_sample(self) -> int:
        return check_counts(self._sample(self.counts_name), allow_fractional=True)[2]

    def _rows_to_sample(self, reader) -> np.ndarray:
        """Return the rows of evenly spaced ranges of cells."""
        n, size = min(reader.shape[0], self.n_cells), SAMPLE_CELLS // _SAMPLE_RANGES
        starts = np.unique(np.linspace(0, max(0, n - size), _SAMPLE_RANGES).astype(int))
        return np.unique(np.concatenate([np.arange(start, min(start + size, n)) for start in starts]))

    def _reader(self, name: str):
        if name not in self._readers:
            try:
                self._readers[name] = self.container.open_matrix(name)
            except UserError:
                raise
            except Exception as error:  # each storage raises its own classes
                raise self.container.error(
                    f"{name} is damaged: {first_line(error)}. Create it again from the original data."
                ) from error
        return self._readers[name]

    def _sample(self, name: str) -> sp.csr_matrix:
        """Read cells from all over a matrix, without checks; of a matrix stored by column, some columns."""
        if name not in self._samples:
            reader = self._reader(name)
            if reader.by_column:
                sample = reader.sample(SAMPLE_CELLS)
            else:
                rows = self._rows_to_sample(reader)
                sample, self._sample_rows[name] = self._read(reader, rows), rows
            if not sample.has_canonical_format:
                sample = sample.copy()
                sample.sum_duplicates()
            self._samples[name] = sample
        return self._samples[name]

    def _refusal(self, name: str, flaw: Flaw, others: dict[str, Flaw | None] | None = None) -> str:
        sample, rows = self._sample(name), self._sample_rows.get(name)
        text = f"{name} {self._describe(flaw, sample, rows)}."
        for other, of_other in (others or {}).items():
            text += f" {other} {_kind(of_other)}."
        return f"{text} {self._advice(flaw, name)}"

    def _advice(self, flaw: Flaw, name: str | None = None) -> str:
        for other in self.container.matrices():
            is_other = other != (name or self.counts_name) and self._sample(other).nnz
            if is_other and holds_counts(self._sample(other))[0] is None:
                return f"Found integers in {other}: pass layer={_layer_option(other)!r}."
        if flaw.kind == "fractional" and not flaw.detail:
            return "If they are estimated counts, pass allow_fractional=True."
        if flaw.kind == "normalised":
            return "Pass a file with raw counts. allow_fractional=True accepts values that are only scaled per cell."
        return "Pass a file with the raw counts."

    def _describe(self, flaw: Flaw, block: sp.csr_matrix, rows: np.ndarray | None) -> str:
        """Say what a flawed matrix holds and where; cells are not named in a sample of columns."""
        where = f"{block.data[flaw.position]:.6g}"
        if rows is not None:
            where = name_value(block, flaw.position, lambda row: self.read_cell_names(rows[row : row + 1])[0])
        detail = f"; {flaw.detail}" if flaw.detail else ""
        return f"holds {FLAWS[flaw.kind]} ({where}{detail}), but raw counts are needed"


def _layer_name(layer: str, names: list[str]) -> str | None:
    """Return the matrix that `layer` names, None if there is none."""
    candidates = [f"layers[{layer!r}]", *(["raw.X"] if layer == "raw" else []), *(["X"] if layer == "X" else [])]
    return next((name for name in candidates if name in names), None)


def _layer_option(name: str) -> str:
    """Return the value of `layer` that chooses a matrix."""
    return name[8:-2] if name.startswith("layers[") else name.removesuffix(".X")


def _kind(flaw: Flaw | None) -> str:
    return "holds counts" if flaw is None else f"holds {FLAWS[flaw.kind]}"


def _numbered(names):
    """Return an index of names made unique: the second `CD4`, which may be an antibody, differs from the first."""
    names = names.astype(str)
    if names.is_unique:
        return names
    numbers = names.to_series().groupby(names.to_numpy()).cumcount().to_numpy()
    return names.where(numbers == 0, names + "\n" + numbers.astype(str))


def _joined(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _not_an_anndata(found) -> str:
    text = f"Expected an AnnData, found {type(found).__name__}"
    if isinstance(found, (str, os.PathLike)):
        return f"{text}: read the file with anndata.read_h5ad(PATH), or run cell2text describe PATH."
    if hasattr(found, "columns") and hasattr(found, "index"):
        return f"{text}: wrap it with anndata.AnnData(table), with cells in rows and genes in columns."
    if isinstance(found, (list, tuple, dict)):
        return f"{text}: pass ranked gene lists to cell2text.describe_gene_lists(LISTS)."
    return f"{text}: read a file with anndata.read_h5ad(PATH)."
