"""A described experiment read back without its counts: what was said of its cells and groups, and where cells lie."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from cell2text.describe.engine import TEXT, row_schema
from cell2text.errors import UserError, UserKeyError
from cell2text.language.fields import FIELDS
from cell2text.sources.files import first_line, index_name, read_column


MAPS = ("X_umap", "X_draw_graph_fa", "X_tsne")  # maps that others may have drawn, best first
NEEDED = (*FIELDS, "pathways", "n_genes", "mapped_fraction")
FEW = 12  # cells of which no map by neighbours can be drawn
NEIGHBOURS = 15


@dataclass
class Described:
    """What a described experiment says.

    Parameters
    ----------
    cells
        One row a cell, named by it: `text` and the fields as :func:`cell2text.describe.engine.row_schema` names them.
    others
        Names of the other columns of `obs`.
    groups
        The table of groups, None where none were described.
    params
        What the texts depend on.
    maps
        Maps that the file has, and the embedding, by their names in `obsm`.
    """

    path: Path
    cells: pd.DataFrame
    others: list[str]
    groups: pd.DataFrame | None
    params: dict[str, str]
    maps: dict[str, np.ndarray] = field(repr=False)

    @property
    def groups_column(self) -> str:
        """The column by which groups were described."""
        return str(json.loads(self.params.get("groups", "{}")).get("column", "group"))

    def column(self, name: str) -> pd.Series:
        """Another column of `obs`.

        Raises
        ------
        KeyError
            If there is none of that name.
        """
        with open_group(self.path) as root:
            if name not in root["obs"] or name == index_name(root["obs"]):
                raise UserKeyError(f"groupby={name!r}: obs has no such column, it has {sorted(self.others)}.")
            return pd.Series(np.asarray(read_column(root["obs"], name), dtype=object))


def read_described(path: str | os.PathLike, key: str = "cell2text") -> Described:
    """Read what `cell2text describe` or `tl.describe` added.

    Raises
    ------
    ValueError
        If it is no h5ad file or zarr store, or nothing was described in it under `key`.
    """
    path = Path(path)
    with open_group(path) as root:
        if "obs" not in root or "_index" not in root["obs"].attrs:
            raise UserError(f"{path} is no AnnData: it lacks obs (it has {sorted(root)}).")
        names = [name for name in root["obs"] if name not in (index_name(root["obs"]), "__categories")]
        ours = {name: key if name == TEXT else f"{key}_{name}" for name in row_schema(1, fields_only=False).names}
        ours = {name: column for name, column in ours.items() if column in names}
        if "confidence" not in ours or f"X_{key}" not in root.get("obsm", {}):
            raise UserError(f"{path} holds no described cells under {key!r}: run `cell2text describe {path}` first.")
        missing = [f"{key}_{name}" for name in NEEDED if name not in ours]
        if missing:
            raise UserError(f"{path} lacks the columns {missing} of its description: describe it anew.")
        cells = {name: read_column(root["obs"], column) for name, column in ours.items()}
        index = np.asarray(ad.io.read_elem(root["obs"][index_name(root["obs"])])).astype(object)
        kept = ad.io.read_elem(root["uns"][key]) if "uns" in root and key in root["uns"] else {}
        maps = {name: as_floats(root["obsm"][name]) for name in (*MAPS, f"X_{key}") if name in root["obsm"]}
    others = [name for name in names if name not in ours.values()]
    kept = kept if isinstance(kept, dict) else {}
    params, groups = kept.get("params"), kept.get("groups")
    return Described(
        path,
        pd.DataFrame(cells, index=index),
        others,
        groups if isinstance(groups, pd.DataFrame) and {"group", "n_cells", "cell_type"} <= set(groups) else None,
        {name: str(value) for name, value in params.items()} if isinstance(params, dict) else {},
        maps,
    )


def as_floats(element) -> np.ndarray:
    values = ad.io.read_elem(element)
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)


@contextmanager
def open_group(path: Path) -> Iterator[Any]:
    """An h5ad file or zarr store, open for reading."""
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if path.suffix not in (".h5ad", ".zarr"):
        raise UserError(f"{path}: expected an .h5ad file or a .zarr store that `cell2text describe` wrote.")
    try:
        if path.suffix == ".zarr":
            import zarr

            root = zarr.open_group(str(path), mode="r")
        else:
            root = h5py.File(path, "r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be opened: damaged, or no AnnData ({first_line(error)}).") from error
    try:
        yield root
    finally:
        if isinstance(root, h5py.File):
            root.close()


def embedding_layout(described: Described, rows: np.ndarray, key: str, seed: int) -> tuple[np.ndarray, str]:
    """Where cells lie on the map, shape (len(rows), 2), and what map it is.

    The file's own map, or UMAP of the cells' embeddings; their first two principal components where there are too few.
    """
    for name in MAPS:
        if name in described.maps and is_map(described.maps[name][rows]):
            return described.maps[name][rows, :2], f"the file's own {name.removeprefix('X_')}"
    embeddings = described.maps[f"X_{key}"][rows]
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise UserError(f"{described.path}: obsm['X_{key}'] holds NaN or has not two dimensions: describe it anew.")
    if len(rows) < FEW or embeddings.shape[1] < 2:
        centred = embeddings - embeddings.mean(axis=0)
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        places = np.zeros((len(rows), 2), dtype=np.float32)
        places[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
        return places, "first two principal components of the embeddings"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one thread, which a seed asks for, and of what umap could import besides
        from umap import UMAP

        reducer = UMAP(n_neighbors=min(NEIGHBOURS, len(rows) - 1), random_state=seed, init="pca")
        return reducer.fit_transform(embeddings), "UMAP of the embeddings"


def is_map(places: np.ndarray) -> bool:
    return places.ndim == 2 and places.shape[1] >= 2 and bool(np.isfinite(places[:, :2]).all())


def parameters(params: dict[str, str]) -> dict[str, str]:
    """Parameters as a page shows them: what is JSON in one line each."""
    shown: dict[str, str] = {}
    for name, value in params.items():
        try:
            parts = json.loads(value)
        except ValueError:
            parts = None
        if isinstance(parts, dict):
            shown |= {f"{name}: {part}": str(said) for part, said in parts.items() if said not in (None, "", False)}
        elif value:
            shown[name] = value
    return shown
