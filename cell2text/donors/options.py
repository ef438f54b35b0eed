"""Options of `cell2text donors` and `cell2text.tl.donors`. Depends on light modules only."""

from dataclasses import dataclass

from cell2text.options import Options, document_options, option


@document_options
@dataclass(frozen=True)
class DonorOptions(Options):
    """What is predicted for which samples, and how it is cross-validated.

    Raises
    ------
    UserError
        If an option has the wrong type or is out of range.

    Examples
    --------
    >>> DonorOptions(target="treatment", sample="treatment").donor
    'donor_id'
    """

    donor: str = option("donor_id", help="Column of `obs` with the donor of each cell.")
    target: str = option("disease", help="Column of `obs` with the property to predict, one value per sample.")
    sample: str | None = option(
        None, help="Column of `obs` that divides the cells of a donor into samples, such as treatment or visit. One "
        "sample per donor if omitted.",
    )  # fmt: skip
    positive: str | None = option(
        None, help="Value of the target whose probability is predicted, against all other values. If omitted, the "
        "target must have two values; it is the one that does not mean healthy or untreated, or else the second in "
        "alphabetical order.",
    )  # fmt: skip
    folds: int | None = option(
        None, minimum=2,
        help="Number of cross-validation folds; all samples of a donor are in one fold. If omitted, each donor is left "
        "out in turn; more than 20 donors, with 10 or more of each class, form 10 folds.",
    )  # fmt: skip
    attention: bool = option(
        True, flag="--attention/--mean",
        help="Weight the cells of a sample by attention; otherwise all cells count equally.",
    )  # fmt: skip
    cells_per_sample: int | None = option(
        None, minimum=1, help="Maximum number of cells per sample, sampled at random; all cells if omitted."
    )
    seed: int = option(
        0, minimum=0, maximum=2**32 - 1, help="Random seed for sampling cells, for the folds and for the fit."
    )  # fmt: skip
