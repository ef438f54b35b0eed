"""Options of `cell2text simulate`: one declaration for the command line and Python.

Depends on light modules only, so that options are checked before any library loads.
"""

from dataclasses import dataclass

from cell2text.errors import UserError
from cell2text.options import Options, document_options, option


@document_options
@dataclass
class SimulationConfig(Options):
    """Options of a simulation.

    Raises
    ------
    UserError
        If an option has the wrong type or is out of range, or if a study is both chosen and left out.

    Examples
    --------
    >>> SimulationConfig(outliers=0.2).cells_per_profile
    60
    """

    cells_per_profile: int = option(60, minimum=1, help="Number of simulated cells per profile, outliers not included.")
    outliers: float = option(
        0.15, minimum=0, maximum=0.9,
        help="Share of all simulated cells that are outliers: ambient droplets, doublets, shuffled and thinned cells.",
    )  # fmt: skip
    only_study: list[str] = option(
        factory=list, help="Study or data set whose profiles are simulated; all if omitted. Repeatable."
    )
    without_study: list[str] = option(
        factory=list, help="Study or data set whose profiles are left out, such as that of a test set. Repeatable."
    )
    ranked_profiles: bool = option(
        False,
        help="Use logarithmic single-cell profiles as well: their genes keep their order, and take the values that "
        "genes of the same rank have in the linear profiles.",
    )  # fmt: skip
    allow_fractional: bool = option(
        False, help="Accept non-integer counts in the real files, such as RSEM's expected counts."
    )
    seed: int = option(0, minimum=0, help="Random seed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        both = sorted({*self.only_study} & {*self.without_study})
        if both:
            raise UserError(f"only_study and without_study both name {both[0]!r}. Name it once.")
