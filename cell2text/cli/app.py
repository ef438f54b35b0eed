"""The typer application, and what its commands share: options from dataclasses, verbosity, errors and exit codes.

Exit codes: 0 done; 2 wrong usage, input or path; 1 a run that memory, disk or network stopped, or a fault of the
package. Depends on typer only: a command imports its libraries after it has checked paths and options.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cell2text.errors import UserError, exit_on_sigterm, flags_of, guard
from cell2text.logs import show_messages
from cell2text.options import flag_parameters, flags_of_options, from_flags
from cell2text.paths import check_arguments


PROGRAM = "cell2text"
OWN_NAMES = ("options", "more", "quiet")  # parameters of a command's function that are no flags of their own

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Files of counts, folders, globs or fsspec addresses: h5ad, zarr, 10x, mtx, loom, h5mu, csv."),
]
Workers = Annotated[int, typer.Option(help="Number of processes on this machine. It does not change the output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only: no progress bar and no warnings.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print details, and the traceback of an error.")]


def _print_version(value: bool) -> None:
    if value:
        from cell2text import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Describe single-cell RNA-seq profiles as text that a biologist can check."""
    context.obj = {"quiet": quiet, "verbose": verbose}


def command(
    options: type | None = None, only: tuple[str, ...] = (), *, more: type | None = None
) -> Callable[[Callable], Callable]:
    """Register a function as a command.

    The command gets `--quiet` and `--verbose`. A parameter `quiet` of the function receives the former.

    Parameters
    ----------
    options
        An `Options` dataclass. Its fields become flags, and the function receives those that the user set as the
        dictionary `options`.
    only
        Names of the fields to use; all that have a flag if empty.
    more
        A second `Options` dataclass, without fields of the same name. The function receives them as `more`.
    """

    def register(function: Callable) -> Callable:
        own = [one for one in inspect.signature(function).parameters.values() if one.name not in OWN_NAMES]
        shared = [
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
            inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose),
        ]
        declared = {"options": flag_parameters(options, only) if options else []}
        declared["more"] = flag_parameters(more) if more else []
        every = [*declared["options"], *declared["more"]]
        takes_quiet = "quiet" in inspect.signature(function).parameters
        flags = flags_of(one.name for one in own) | {
            name: flag for one in (options, more) if one for name, flag in flags_of_options(one).items()
        }

        @functools.wraps(function)
        def run_command(**values: Any) -> None:
            before = values["context"].obj  # `cell2text --quiet COMMAND` is the same as `cell2text COMMAND --quiet`
            quiet, verbose = values["quiet"] or before["quiet"], values["verbose"] or before["verbose"]

            def action() -> None:
                if quiet and verbose:
                    raise UserError("quiet=True and verbose=True exclude each other.")
                show_messages("quiet" if quiet else "verbose" if verbose else "normal")
                check_arguments(values.values())
                arguments = {one.name: values[one.name] for one in own}
                for name, cls in (("options", options), ("more", more)):
                    if cls:
                        arguments[name] = from_flags(cls, {one.name: values[one.name] for one in declared[name]})
                if takes_quiet:
                    arguments["quiet"] = quiet
                function(**arguments)

            code = guard(PROGRAM, action, flags=flags | flags_of(["quiet", "verbose"]), verbose=verbose)
            if code:
                raise typer.Exit(code)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        run_command.__signature__ = inspect.Signature([*parameters, *every, *shared])  # type: ignore[attr-defined]
        run_command.__annotations__ = {one.name: one.annotation for one in [*parameters, *every, *shared]}
        return app.command()(run_command)

    return register


def run() -> None:
    """Run the command line: the entry point `cell2text`."""
    exit_on_sigterm()
    app()
