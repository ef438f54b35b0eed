"""Sample training rows of rare cell types more often."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler


def row_weights(rows: Dataset, balance: float) -> np.ndarray:
    """Return a sampling weight per row, shape (n_rows,).

    Parameters
    ----------
    balance
        The n rows of one data set and cell type are sampled in proportion to n ** (1 - balance).
    """
    kinds = list(zip(rows["dataset_id"], rows["cell_type"]))
    sizes = Counter(kinds)
    return np.array([sizes[kind] ** -balance for kind in kinds])


class BalancedSampler(Sampler):
    """Sample rows by weight with replacement, as many as there are. A sample depends on seed and epoch alone.

    Parameters
    ----------
    weights
        Non-negative weight per row; they need not sum to 1.
    """

    def __init__(self, weights: np.ndarray, seed: int):
        self.probabilities, self.seed, self.epoch = weights / weights.sum(), seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.probabilities)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        return iter(generator.choice(len(self), len(self), p=self.probabilities).tolist())


class BalancedRows:
    """Mixin for a Trainer: sample rows by `weights`; None shuffles as the Trainer does."""

    weights: np.ndarray | None = None

    def _get_train_sampler(self, *args, **kwargs):
        if self.weights is None:
            return super()._get_train_sampler(*args, **kwargs)
        return BalancedSampler(self.weights, self.args.seed if self.args.data_seed is None else self.args.data_seed)
