"""Start a training script: print its help, parse its options, and report expected errors in one line.

PyTorch, transformers and TRL are imported only after the help has been printed.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from textwrap import wrap
from typing import Any, Literal, get_args, get_origin

from cell2text.errors import RunStoppedError, UserError, exit_on_sigterm, flags_of, guard
from cell2text.paths import check_arguments, check_folder, check_output
from cell2text.yaml_files import read_yaml


GLOO_SETTLING_SECONDS = 0.5
HELP_WIDTH, HELP_INDENT = 120, 38
LIBRARY_OPTIONS = (
    ("trl", "SFTConfig"), ("trl", "GRPOConfig"), ("trl", "ModelConfig"), ("transformers", "TrainingArguments"),
)  # fmt: skip
TRL_DOCUMENTATION = "https://huggingface.co/docs/trl"
TRANSFORMERS_DOCUMENTATION = "https://huggingface.co/docs/transformers/main_classes/trainer"


def run_script(
    script: str, description: str, main: Callable[..., None], parse: Callable[[list[str]], tuple], arguments: type
) -> int:
    """Run a training script on the command line and return its exit code.

    Parameters
    ----------
    script
        File name, which begins every message.
    description
        First lines of the help.
    main
        Function that runs with the parsed options.
    parse
        Function from the words of the command line to the positional arguments of `main`.
    arguments
        Dataclass of the package's own options, which the help lists.
    """
    exit_on_sigterm()
    argv = sys.argv[1:]
    if {"-h", "--help"} & set(argv):
        print(help_text(description, arguments))
        return 0
    return run(script, lambda: main(*parse(argv)), [arguments])


def run(script: str, main: Callable[[], None], options: Iterable[type] = ()) -> int:
    """Call `main` and return the exit code.

    An expected error becomes one message on standard error. Any other error is a fault of the package and is raised.

    Parameters
    ----------
    script
        Name in front of the message.
    main
        The script's work, without arguments.
    options
        Dataclasses of the script's own options, whose names become flags in messages.

    Returns
    -------
    0 if the run ended; 2 for invalid input; 1 if memory, disk or a diverging loss stopped the run.
    """
    flags: dict[str, str] = {}

    def action() -> None:
        from cell2text.training.memory import is_out_of_memory

        try:
            main()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunStoppedError(str(error)) from error
        finally:
            flags.update(flags_of(_option_names(options), dashes=False))

    with _log_to_stderr():
        return guard(script, action, flags=flags, debug=True)


def _option_names(options: Iterable[type]) -> set[str]:
    """Return the names of the script's own options and of those of TRL and transformers, if these are loaded."""
    known = list(options)
    for module, name in LIBRARY_OPTIONS:
        if module in sys.modules:
            known.append(getattr(sys.modules[module], name))
    return {option.name for kind in known for option in fields(kind)}


def parse(argv: list[str], classes: tuple[type, ...]) -> tuple:
    """Parse the command line and its `--config` file into dataclasses.

    Raises
    ------
    UserError
        If an option does not exist, a value is impossible, or the file of `--config` cannot be read.
    """
    import yaml
    from trl import TrlParser

    parser = TrlParser(
        classes,  # type: ignore[arg-type]
        usage="%(prog)s [--config FILE.yaml] [--option value ...]; --help lists the options",
    )
    if "--help_all" in argv:
        parser.print_help()
        raise SystemExit(0)
    if "--config" in argv[-1:]:
        raise UserError("--config names no file: pass --config FILE.yaml.")
    if "--config" in argv:
        read_yaml(argv[argv.index("--config") + 1])  # raises in one line, before TRL reads it
    check_arguments(argv)
    try:
        parsed = parser.parse_args_and_config(argv)
    except UserError:
        raise
    except (ValueError, OSError, yaml.YAMLError) as error:
        unknown = re.search(r"not used by the HfArgumentParser: (\[.*\])|from config file: (\[.*?\])", str(error))
        if unknown:
            raise UserError(f"Unknown options {unknown[1] or unknown[2]}: --help_all lists all options.") from error
        raise UserError(" ".join(str(error).split())) from error
    _check_paths(parsed)
    return parsed


def _check_paths(parsed: tuple) -> None:
    """Raise unless the paths among the options can be read, and the output folder can be written."""
    values = [value for options in parsed for value in vars(options).values()]
    check_arguments(values)
    for value in values:
        if isinstance(value, str) and value:
            check_folder(value, recursive=False)  # of a model, an encoder or a checkpoint
    for options in parsed:
        if out := getattr(options, "output_dir", None):
            check_output(out, folder=True, parents=True)


def help_text(description: str, arguments: type) -> str:
    """Return the help: the package's own options by group, and where the other libraries' are documented."""
    parts = [description.strip()]
    listed: set[str] = set()
    for group in reversed(arguments.__mro__):
        if not is_dataclass(group):
            continue
        own = [option for option in fields(group) if option.name not in listed]
        listed |= {option.name for option in own}
        if own:
            parts.append("\n".join([f"{group.title}:", *map(_help_line, own)]))  # type: ignore[attr-defined]
    parts.append(
        "Options of TRL and transformers, such as --output_dir, --learning_rate, --num_train_epochs, --max_steps,\n"
        "--per_device_train_batch_size, --save_strategy, --resume_from_checkpoint and --report_to, work as well:\n"
        f"  SFTConfig, ModelConfig (train_sft.py)    {TRL_DOCUMENTATION}\n"
        f"  GRPOConfig, ModelConfig (train_grpo.py)  {TRL_DOCUMENTATION}\n"
        f"  TrainingArguments (all scripts)          {TRANSFORMERS_DOCUMENTATION}\n"
        "--config FILE.yaml reads options from a file; the command line overrides it.\n"
        "--help_all lists every option of all libraries."
    )
    return "\n\n".join(parts)


def _help_line(option: Field) -> str:
    """Return name, values, description and default of an option, wrapped to the width of the help."""
    default = option.default if option.default_factory is MISSING else option.default_factory()
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
    text = str(option.metadata["help"])
    if default not in (None, False, "") and default != []:
        text += f" Default: {shown.lower() if default is True else shown}."
    name = f"  --{option.name} {_values(option.type)}"
    lines = wrap(text, HELP_WIDTH - HELP_INDENT)
    indent = " " * HELP_INDENT
    first = name.ljust(HELP_INDENT) if len(name) < HELP_INDENT else f"{name}\n{indent}"
    return first + f"\n{indent}".join(lines)


def _values(kind: Any) -> str:
    """Return the placeholder of an option's value: its choices, or the type's name."""
    alternatives = [part for part in get_args(kind) if part is not type(None)] or [kind]
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    first = alternatives[0]
    if get_origin(first) is Literal:
        return "{" + ",".join(get_args(first)) + "}"
    if get_origin(kind) is list:
        return "VALUE ..."
    return {bool: "BOOL", int: "INT", float: "FLOAT"}.get(first, "TEXT")


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show what the package reports while a script runs."""
    package, training = logging.getLogger("cell2text"), logging.getLogger("cell2text.training")
    handler, level = logging.StreamHandler(), training.level
    package.addHandler(handler)
    training.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        package.removeHandler(handler)
        training.setLevel(level)


def destroy_process_group(trainer) -> None:
    """Wait for all ranks, then leave the process group; the main rank alone does what follows.

    gloo's threads release the tensors of the last exchange under Python's lock. A rank that returned at once would hold
    that lock while it frees its model and wait for those threads forever, so they get a moment first.
    """
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.num_processes > 1:
        time.sleep(GLOO_SETTLING_SECONDS)
    trainer.end()
