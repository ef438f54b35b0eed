"""Sample training rows of rare cell types more often."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler

from cell2text.errors import UserError
from cell2text.training.arguments import AugmentationArguments
from cell2text.training.row_columns import column_values


SIMULATED = "simulated"  # the value of `assay` of simulated cells


def row_weights(rows: Dataset, balance: float, simulated_share: float | None = None) -> np.ndarray:
    """Return a sampling weight per row, shape (n_rows,).

    Parameters
    ----------
    balance
        The n rows of one data set and cell type are sampled in proportion to n ** (1 - balance).
    simulated_share
        Share of the samples that are simulated cells. Defaults to what `balance` gives.

    Raises
    ------
    UserError
        If `simulated_share` is given and the rows have only simulated cells, or none.
    """
    kinds = list(zip(column_values(rows, "dataset_id"), column_values(rows, "cell_type")))
    sizes = Counter(kinds)
    weights = np.array([sizes[kind] ** -balance for kind in kinds])
    if simulated_share is None:
        return weights
    simulated = np.array([assay == SIMULATED for assay in column_values(rows, "assay")])
    if simulated.all() or not simulated.any():
        raise UserError(
            f"simulated_share={simulated_share}: {simulated.sum():,} of {len(simulated):,} training rows have the "
            f"assay {SIMULATED!r}, so there is no share to set. Omit it, or add the other kind of cells."
        )
    weights[simulated] *= simulated_share / weights[simulated].sum()
    weights[~simulated] *= (1 - simulated_share) / weights[~simulated].sum()
    return weights


def training_weights(args: AugmentationArguments, rows: Dataset) -> np.ndarray | None:
    """Return the sampling weights that the options describe, None if they describe none."""
    if not args.class_balance and args.simulated_share is None:
        return None
    return row_weights(rows, args.class_balance, args.simulated_share)


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
