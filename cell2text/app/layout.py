"""Keep the computed map of a described file beside it, so that the next start does not compute it again.

Depends on `describe.described_file`, which computes the map. A kept map is used only for the same embeddings and seed.
"""

import hashlib
import io
import logging
import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cell2text.describe.described_file import MAPS, Described, embedding_layout
from cell2text.files import atomic_path


logger = logging.getLogger(__name__)

KEPT = "UMAP of the embeddings"  # other maps are in the file, or take no time


def layout_path(described: Path) -> Path:
    """Return the path of the kept map.

    Examples
    --------
    >>> layout_path(Path("cells.described.h5ad")).name
    'cells.described.map.npz'
    """
    return described.with_name(f"{described.stem}.map.npz")


def kept_layout(described: Described, rows: np.ndarray, key: str, seed: int) -> tuple[np.ndarray, str]:
    """Return the map of :func:`~cell2text.describe.described_file.embedding_layout`, computed at the first call only.

    Parameters
    ----------
    described, rows, key, seed
        As for `embedding_layout`.
    """
    if any(name in described.maps for name in MAPS):
        return embedding_layout(described, rows, key, seed)
    path, fingerprint = layout_path(described.path), _fingerprint(described.maps[f"X_{key}"][rows], rows, seed)
    kept = _read(path, fingerprint, len(rows))
    if kept is not None:
        return kept, KEPT
    positions, name = embedding_layout(described, rows, key, seed)
    if name == KEPT:
        content = io.BytesIO()
        np.savez_compressed(content, positions=np.asarray(positions, dtype=np.float32), fingerprint=fingerprint)
        try:
            with atomic_path(path) as partial:
                partial.write_bytes(content.getvalue())
        except OSError as error:
            logger.warning(f"The map is not kept beside the file ({error.strerror}), and will be computed again.")
    return positions, name


def _fingerprint(embeddings: np.ndarray, rows: np.ndarray, seed: int) -> str:
    """Return a text that changes with the embeddings of the cells on the map, and with the seed."""
    digest = hashlib.sha256(np.ascontiguousarray(embeddings).tobytes())
    digest.update(rows.astype(np.int64).tobytes())
    return f"{digest.hexdigest()}-{seed}"


def _read(path: Path, fingerprint: str, n: int) -> np.ndarray | None:
    """Return the kept positions, None if there are none for this fingerprint."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            positions, found = file["positions"], str(file["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error, RuntimeError):  # none, or damaged
        return None
    valid = found == fingerprint and positions.shape == (n, 2) and bool(np.isfinite(positions).all())
    return positions if valid else None
