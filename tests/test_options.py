"""Options that are declared once: checks, yaml, docstrings and flags."""

from dataclasses import dataclass, fields

import pytest

from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.options import (
    Options,
    document_options,
    flag_parameters,
    flags_of_options,
    from_flags,
    option,
)
from cell2text.preparation.config import PrepareConfig


@document_options
@dataclass
class Sampling(Options):
    """Options of a test."""

    n_cells: int | None = option(None, minimum=1, help="Number of cells.")
    share: float = option(0.5, minimum=0, maximum=1, help="Share of the cells.")
    method: str = option("all", choices=("all", "random"), help="Method.")
    verified: bool = option(False, flag="--checked", help="Whether cells are verified.")
    names: dict[str, str] = option(factory=dict, help="Names.")
    weights: dict[str, float] = option(factory=dict, help="Weights.")
    groups: dict[str, list[str]] = option(factory=dict, help="Groups.", on_command_line=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_cells": 0}, "n_cells=0: expected an integer of at least 1"),
        ({"n_cells": True}, "n_cells=True: expected an integer"),
        ({"n_cells": 2.0}, "n_cells=2.0: expected an integer"),
        ({"share": 1.5}, "share=1.5: expected a number from 0 to 1"),
        ({"share": float("nan")}, "share=nan: expected a number"),
        ({"share": None}, "share=None: expected a number"),
        ({"method": "some"}, "method='some': expected one of all, random"),
        ({"verified": 1}, "verified=1: expected true or false"),
        ({"names": {"a": 1}}, "names={'a': 1}: expected a mapping of texts to texts"),
        ({"weights": {"a": "b"}}, "weights=.*: expected a mapping of texts to numbers"),
        ({"groups": {"a": "b"}}, "groups=.*: expected a mapping of texts to lists of texts"),
    ],
)
def test_wrong_types_and_ranges_raise(values, message):
    with pytest.raises(UserError, match=message):
        Sampling(**values)


def test_valid_values_are_kept():
    options = Sampling(n_cells=3, share=1, method="random", groups={"a": ["b"]})
    assert (options.n_cells, options.share, options.method, options.groups) == (3, 1, "random", {"a": ["b"]})


def test_yaml_and_changes(tmp_path):
    (tmp_path / "a.yaml").write_text("n_cells: 5\nweights: {a: 1}\n")
    options = Sampling.from_yaml(tmp_path / "a.yaml", n_cells=6)
    assert options.n_cells == 6 and options.weights == {"a": 1}
    (tmp_path / "b.yaml").write_text("cells: 5\n")
    with pytest.raises(UserError, match="options that do not exist: cells. Expected some of n_cells, share"):
        Sampling.from_yaml(tmp_path / "b.yaml")


def test_the_docstring_describes_every_option():
    for options in (Sampling, PrepareConfig, DescribeOptions):
        section = options.__doc__.split("Parameters\n----------\n")[1]
        assert all(f"{one.name}\n    {one.metadata['option'].help}" in section for one in fields(options))


def test_flags_follow_names_unless_declared():
    flags = flags_of_options(Sampling)
    assert flags["n_cells"] == "--n-cells" and flags["verified"] == "--checked" and "groups" not in flags
    assert [one.name for one in flag_parameters(Sampling, only=("share",))] == ["share"]


def test_only_flags_that_the_user_set_become_options():
    values = {"n_cells": None, "names": ["a=b", "c=d=e"], "weights": "x=1,y=0.5", "share": 0.25}
    assert from_flags(Sampling, values) == {
        "names": {"a": "b", "c": "d=e"}, "weights": {"x": 1.0, "y": 0.5}, "share": 0.25
    }  # fmt: skip
    with pytest.raises(UserError, match="weights='x': expected NAME=VALUE, a number"):
        from_flags(Sampling, {"weights": "x"})
