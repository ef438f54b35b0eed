"""Read a described experiment without its counts: descriptions of cells and groups, maps and parameters.

Depends on `table` for column names and on `sources` for reading single columns of `obs`.
"""

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cell2text.describe.evidence import EVIDENCE_COLUMNS
from cell2text.describe.table import TEXT, table_schema
from cell2text.errors import UserError, UserKeyError
from cell2text.language.fields import FIELDS
from cell2text.sources.amounts import read_element
from cell2text.sources.anndata_files import open_anndata
from cell2text.sources.containers import index_name, read_column, read_texts
from cell2text.sources.stored_columns import column_names


MAPS = ("X_umap", "X_draw_graph_fa", "X_tsne")  # two-dimensional embeddings that other tools write, in this preference
REQUIRED = (*FIELDS, "pathways", "n_genes", "counts_used")
FORMER_NAMES = {"counts_used": "mapped_fraction"}  # of columns in files of earlier versions
MIN_UMAP_CELLS = 12
UMAP_NEIGHBORS = 15


@dataclass
class Described:
    """A described experiment.

    Parameters
    ----------
    path
        The h5ad file or zarr store.
    cells
        One row per cell, indexed by cell name, with the columns of :func:`cell2text.describe.table.table_schema`
        except for the embedding.
    other_columns
        Names of the other columns of `obs`.
    groups
        Table of groups, None if no groups were described.
    params
        Model, prompt, options and versions that produced the texts.
    maps
        Two-dimensional maps found in the file, and the embedding of the cells, by their names in `obsm`.
    """

    path: Path
    cells: pd.DataFrame
    other_columns: list[str]
    groups: pd.DataFrame | None
    params: dict[str, str]
    maps: dict[str, np.ndarray] = field(repr=False)

    @property
    def groups_column(self) -> str:
        """Name of the column by which groups were described."""
        return str(json.loads(self.params.get("groups", "{}")).get("column", "group"))

    def column(self, name: str) -> pd.Series:
        """Read another column of `obs`.

        Raises
        ------
        UserError
            If the column does not exist.
        """
        with open_anndata(self.path) as root:
            if name not in column_names(root["obs"]):
                raise UserKeyError(f"groupby={name!r}: obs has no such column, it has {sorted(self.other_columns)}.")
            return pd.Series(np.asarray(read_column(root["obs"], name), dtype=object))


def read_described(path: str | os.PathLike, key: str = "cell2text") -> Described:
    """Read what `cell2text describe` or `cell2text.tl.describe` added to an experiment.

    Parameters
    ----------
    path
        h5ad file or zarr store.
    key
        Name under which the cells were described.

    Raises
    ------
    UserError
        If the file is not an AnnData, or holds no descriptions under `key`.
    """
    path = Path(path)
    with open_anndata(path) as root:
        names = column_names(root["obs"])
        columns = {
            name: key if name == TEXT else f"{key}_{name}"
            for name in (*table_schema(1, fields_only=False).names, *EVIDENCE_COLUMNS)
        }
        former = {name: f"{key}_{before}" for name, before in FORMER_NAMES.items() if columns[name] not in names}
        columns = {name: column for name, column in {**columns, **former}.items() if column in names}
        if "cell_type" not in columns or f"X_{key}" not in root.get("obsm", {}):
            raise UserError(
                f"{path} holds no described cells under key={key!r}. Run `cell2text describe {path}` first."
            )
        missing = [f"{key}_{name}" for name in REQUIRED if name not in columns]
        if missing:
            raise UserError(f"{path} lacks the columns {missing} of its descriptions. Describe it again.")
        cells = {name: read_column(root["obs"], column) for name, column in columns.items()}
        index = read_texts(root["obs"][index_name(root["obs"])])
        uns = read_element(root["uns"][key]) if "uns" in root and key in root["uns"] else {}
        maps = {name: _read_matrix(root["obsm"][name]) for name in (*MAPS, f"X_{key}") if name in root["obsm"]}
    short = next((name for name, values in maps.items() if len(values) != len(index)), None)
    if short is not None:
        raise UserError(
            f"{path}: obsm[{short!r}] has {len(maps[short]):,} rows for {len(index):,} cells. The file is damaged."
        )
    uns = uns if isinstance(uns, dict) else {}
    params, groups = uns.get("params"), uns.get("groups")
    return Described(
        path,
        pd.DataFrame(cells, index=index),
        [name for name in names if name not in columns.values()],
        groups if isinstance(groups, pd.DataFrame) and {"group", "n_cells", "cell_type"} <= set(groups) else None,
        {name: str(value) for name, value in params.items()} if isinstance(params, dict) else {},
        maps,
    )


def own_map(described: Described, rows: np.ndarray) -> tuple[np.ndarray, str] | None:
    """Return the positions of some cells on the file's own map and its name, or None without a map that has them."""
    for name in MAPS:
        if name in described.maps and _is_map(described.maps[name][rows]):
            return described.maps[name][rows, :2], f"the file's own {name.removeprefix('X_')}"
    return None


def embedding_layout(described: Described, rows: np.ndarray, key: str, seed: int) -> tuple[np.ndarray, str]:
    """Return a two-dimensional position per cell, shape (len(rows), 2), and a description of the map.

    The file's own map is used if there is one, otherwise UMAP of the embeddings, or their first two principal
    components for fewer than `MIN_UMAP_CELLS` cells.

    Parameters
    ----------
    described
        The described experiment.
    rows
        Indices of the cells on the map.
    key
        Name under which the cells were described.
    seed
        Random seed for UMAP.
    """
    if (found := own_map(described, rows)) is not None:
        return found
    embeddings = described.maps[f"X_{key}"][rows]
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise UserError(
            f"{described.path}: obsm['X_{key}'] holds NaN or does not have two dimensions. Describe the file again."
        )
    if len(rows) < MIN_UMAP_CELLS or embeddings.shape[1] < 2:
        centred = embeddings - embeddings.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        positions = np.zeros((len(rows), 2), dtype=np.float32)
        positions[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
        return positions, "first two principal components of the embeddings"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed limits UMAP to one thread; umap also warns about optional imports
        from umap import UMAP

        reducer = UMAP(n_neighbors=min(UMAP_NEIGHBORS, len(rows) - 1), random_state=seed, init="pca")
        return reducer.fit_transform(embeddings), "UMAP of the embeddings"


def flat_parameters(params: dict[str, str]) -> dict[str, str]:
    """Return parameters with one entry per value: JSON objects are flattened, empty and false values left out.

    Examples
    --------
    >>> flat_parameters({"model": "runs/default", "options": '{"layer": "counts", "prompt": null}'})
    {'model': 'runs/default', 'options: layer': 'counts'}
    """
    flat: dict[str, str] = {}
    for name, text in params.items():
        try:
            parts = json.loads(text)
        except ValueError:
            parts = None
        if isinstance(parts, dict):
            flat |= {f"{name}: {part}": str(value) for part, value in parts.items() if value not in (None, "", False)}
        elif text:
            flat[name] = text
    return flat


def _read_matrix(element) -> np.ndarray:
    values = read_element(element)
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)


def _is_map(positions: np.ndarray) -> bool:
    return positions.ndim == 2 and positions.shape[1] >= 2 and bool(np.isfinite(positions[:, :2]).all())
