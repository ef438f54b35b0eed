"""Load the rows that `cell2text prepare` wrote, from a folder or the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import DatasetDict


def load_splits(dataset: str, cache_dir: str | None = None) -> "DatasetDict":
    """Return the splits of a data set, without progress bars.

    Parameters
    ----------
    dataset
        Folder of `cell2text prepare` or of `DatasetDict.save_to_disk`, or Hub id.
    cache_dir
        Folder of the cache. That of `datasets` if omitted.
    """
    from datasets import load_dataset, load_from_disk
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if Path(dataset, "dataset_dict.json").exists():
        return load_from_disk(dataset)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return load_dataset(dataset, cache_dir=cache_dir)
    finally:
        if shown:
            enable_progress_bars()
