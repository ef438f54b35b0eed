"""Read columns of dataset rows at once: iterating over a column of selected rows reads one row at a time."""

from datasets import Dataset


def arrow_column(dataset: Dataset, name: str):
    """Return a column as Arrow data, without converting it to Python objects."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def column_values(dataset: Dataset, name: str) -> list:
    """Return the values of a column.

    Examples
    --------
    >>> column_values(Dataset.from_dict({"cell_type": ["B cell", None]}).select([1, 0]), "cell_type")
    [None, 'B cell']
    """
    return arrow_column(dataset, name).to_pylist()
