"""Declare the options of a command once: a dataclass that the command line, yaml files and Python share.

    @document_options
    @dataclass
    class SampleOptions(Options):
        n_cells: int | None = option(None, help="Number of cells to sample; all by default.", minimum=1)

A field's metadata holds its help text, range and choices. `Options` checks types and ranges on construction and reads
yaml; `flag_parameters` turns the fields into parameters of a typer command. Depends on typer, where it is used.
"""

import inspect
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from cell2text.errors import UserError
from cell2text.paths import check_arguments
from cell2text.yaml_files import read_yaml


@dataclass(frozen=True)
class _Declaration:
    """What is known about an option beside its name, type and default."""

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None
    on_command_line: bool = True


def option(
    default: Any = MISSING, *, help: str, factory: Any = MISSING, minimum: float | None = None,
    maximum: float | None = None, choices: Iterable[str] = (), flag: str | None = None, on_command_line: bool = True,
) -> Any:  # fmt: skip
    """Declare a field of an `Options` dataclass.

    Parameters
    ----------
    default, factory
        Default value, or a function that returns it.
    help
        Description, for the command's help and the class's docstring.
    minimum, maximum
        Smallest and largest value of a number, both included; unbounded if omitted.
    choices
        The only values of a text; any text if omitted.
    flag
        Flag on the command line; the name with dashes if omitted.
    on_command_line
        Whether the command has a flag for it. Otherwise it can be set in yaml and Python only.
    """
    declared = _Declaration(help, minimum, maximum, tuple(choices), flag, on_command_line)
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"option": declared})
    return field(default=default, metadata={"option": declared})


class Options:
    """Base of dataclasses whose fields are declared with :func:`option`.

    Raises
    ------
    UserError
        If a value has another type than its field, is out of range, or is not one of the choices.
    """

    def __post_init__(self) -> None:
        for declared in fields(self):  # type: ignore[arg-type]
            _check(declared, getattr(self, declared.name))
        check_arguments(getattr(self, declared.name) for declared in fields(self))  # type: ignore[arg-type]

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> Self:
        """Read a yaml file of options; `changes` replace what it sets.

        Raises
        ------
        UserError
            If the file cannot be read, is not a mapping or names an option that does not exist.
        """
        content = read_yaml(path)
        if not isinstance(content, Mapping):
            raise UserError(f"{path} holds a {type(content).__name__}. Expected options, such as `split: donor`.")
        known = [declared.name for declared in fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(str(name) for name in content if name not in known)
        if unknown:
            raise UserError(
                f"{path} names options that do not exist: {', '.join(unknown)}. Expected some of {', '.join(known)}."
            )
        return cls(**{**content, **changes})


def _check(declared: Field, value: Any) -> None:
    about: _Declaration = declared.metadata["option"]
    valid = _matches(value, declared.type)
    if valid and value is not None:
        low, high = about.minimum, about.maximum
        valid = (low is None or value >= low) and (high is None or value <= high)
        valid = valid and (not about.choices or value in about.choices)
    if not valid:
        raise UserError(f"{declared.name}={_SHORT.repr(value)}: expected {_expected(declared)}.")


def _matches(value: Any, expected: Any) -> bool:
    """Return whether a value has the type of an annotation."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, UnionType):
        return any(_matches(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(_matches(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _matches(name, arguments[0]) and _matches(item, arguments[1]) for name, item in value.items()
        )
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
    return type(value) is expected if expected in (int, bool, NoneType) else isinstance(value, expected)


_SHORT = reprlib.Repr()  # a value of a file may be of any size
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 20, 20, 200, 200
_WORDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "text", list[str]: "a list of texts",
    dict[str, str]: "a mapping of texts to texts", dict[str, float]: "a mapping of texts to numbers",
    dict[str, list[str]]: "a mapping of texts to lists of texts",
}  # fmt: skip


def _expected(declared: Field) -> str:
    """Describe the valid values of an option."""
    about: _Declaration = declared.metadata["option"]
    if about.choices:
        return f"one of {', '.join(about.choices)}"
    kind = _without_none(declared.type)
    text = _WORDS.get(kind, str(kind))
    if about.minimum is not None and about.maximum is not None:
        return f"{text} from {about.minimum:,} to {about.maximum:,}"
    return text if about.minimum is None else f"{text} of at least {about.minimum:,}"


def _without_none(expected: Any) -> Any:
    """Return the type of an option that may be None."""
    if get_origin(expected) not in (Union, UnionType):
        return expected
    (kind,) = (argument for argument in get_args(expected) if argument is not NoneType)
    return kind


def _default(declared: Field) -> Any:
    return declared.default if declared.default_factory is MISSING else declared.default_factory()


def document_options(cls: type) -> type:
    """Add the section "Parameters" to the docstring of an `Options` dataclass."""
    lines = ["Parameters", "----------"]
    for declared in fields(cls):
        lines += [declared.name, f"    {declared.metadata['option'].help}"]
    cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n" + "\n".join(lines) + "\n"
    return cls


# The command line


def flags_of_options(cls: type) -> dict[str, str]:
    """Return the flag of each option that the command line has.

    Examples
    --------
    >>> @dataclass
    ... class Sampling(Options):
    ...     n_cells: int = option(3, help="Number of cells.")
    >>> flags_of_options(Sampling)
    {'n_cells': '--n-cells'}
    """
    declared = [(one.name, one.metadata["option"]) for one in fields(cls)]
    return {name: about.flag or "--" + name.replace("_", "-") for name, about in declared if about.on_command_line}


def flag_parameters(cls: type, only: Iterable[str] = ()) -> list[inspect.Parameter]:
    """Return the options as keyword parameters of a typer command, None where the user sets nothing.

    Parameters
    ----------
    cls
        An `Options` dataclass.
    only
        Names of the options to return; all that have a flag if empty.
    """
    import typer

    flags, chosen = flags_of_options(cls), set(only)
    parameters = []
    for declared in fields(cls):
        name = declared.name
        if name not in flags or (chosen and name not in chosen):
            continue
        text, default, kind = declared.metadata["option"].help, _default(declared), _without_none(declared.type)
        if isinstance(default, (str, int)) and not isinstance(default, bool):
            text += f" [default: {default}]"
        command_type = list[str] if kind == dict[str, str] else str if kind == dict[str, float] else kind
        spelled = [flags[name]] if declared.metadata["option"].flag else []
        annotation = Annotated[command_type | None, typer.Option(*spelled, help=text)]  # type: ignore[valid-type]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return parameters


def from_flags(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the user set on the command line, as Python values.

    Parameters
    ----------
    cls
        An `Options` dataclass.
    values
        Values of a command's parameters; None where the user set nothing. `NAME=VALUE` texts become mappings.

    Examples
    --------
    >>> @dataclass
    ... class Splitting(Options):
    ...     shares: dict[str, float] = option(factory=dict, help="Share of each split.")
    >>> from_flags(Splitting, {"shares": "train=0.9,test=0.1"})
    {'shares': {'train': 0.9, 'test': 0.1}}
    """
    found: dict[str, Any] = {}
    for declared in fields(cls):
        value, kind = values.get(declared.name), _without_none(declared.type)
        if value is None or value == []:
            continue
        if kind == dict[str, str]:
            value = _pairs(declared.name, value, str)
        elif kind == dict[str, float]:
            value = _pairs(declared.name, value.split(","), float)
        found[declared.name] = value
    return found


def _pairs(option_name: str, texts: Iterable[str], kind: type) -> dict:
    """Read `NAME=VALUE` texts as a mapping."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            found[name.strip()] = kind(value.strip())
        except ValueError:
            equals = ""
        if not (name.strip() and equals):
            raise UserError(f"{option_name}={text!r}: expected NAME=VALUE" + (", a number." if kind is float else "."))
    return found
