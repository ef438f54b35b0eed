"""Sample training rows of rare cell types more often."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler


def row_weights(rows: Dataset, balance: float) -> np.ndarray:
    """How often each row is drawn, shape (n_rows,): n rows of a data set and type together by n ** (1 - balance)."""
    kinds = list(zip(rows["dataset_id"], rows["cell_type"]))
    sizes = Counter(kinds)
    return np.array([sizes[kind] ** -balance for kind in kinds])


class BalancedSampler(Sampler):
    """Rows drawn by weight, with replacement, as many as there are; an epoch's draw depends on seed and epoch alone."""

    def __init__(self, weights: np.ndarray, seed: int):
        self.chances, self.seed, self.epoch = weights / weights.sum(), seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.chances)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        return iter(generator.choice(len(self), len(self), p=self.chances).tolist())


class BalancedRows:
    """A Trainer that draws rare kinds of rows more often; `weights` is None for one that shuffles as usual."""

    weights: np.ndarray | None = None

    def _get_train_sampler(self, *args, **kwargs):
        if self.weights is None:
            return super()._get_train_sampler(*args, **kwargs)
        return BalancedSampler(self.weights, self.args.seed if self.args.data_seed is None else self.args.data_seed)
