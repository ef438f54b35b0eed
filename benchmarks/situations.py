"""State the outcome of thirty situations of users' files in `describe`, `prepare` and `tl.describe`.

    python benchmarks/situations.py [--model FOLDER]

Each face runs as users run it: the command, the function `prepare`, and `tl.describe` on what the reader of the format
in anndata, scanpy or mudata returns. An outcome is what was read, or the first sentence of the message that refuses the
file. Writes `benchmarks/results/situations.json`.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "benchmarks" / "results" / "situations.json"
sys.path.insert(0, str(PROJECT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import cell2text  # noqa: E402
from cell2text import cli  # noqa: E402
from cell2text.errors import UserError  # noqa: E402
from cell2text.models import MINI  # noqa: E402
from tests.situations import SITUATIONS, make, read_in_memory  # noqa: E402


FACES = ("describe", "prepare", "tl.describe")
# Options that a message of the situation's first outcome names, and that a user then passes.
FOLLOW_UPS = {"two layers of different counts": {"layer": "counts"}, "mouse genes": {"species": "mouse"}}
READ = re.compile(r"counts from (?P<counts>.+?), genes from (?P<column>.+?): (?P<found>[\d,]+) of the model's")


def describe(path: Path, folder: Path, model: str, **options) -> str:
    """Run the command, and return its outcome."""
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    arguments = ["describe", path, "--model", model, "--out", folder / "out.jsonl", "--fields", "--max-new-tokens", 1]
    code, stdout, stderr = run_command(*arguments, *flags)
    if code:
        return refused(stderr, code)
    found = READ.search(stdout)
    return read(found["counts"], found["found"])


def prepare(path: Path, folder: Path, model: str, **options) -> str:
    try:
        report = cell2text.prepare([path], folder / "prepared", gene_vocab=model, progress=False, **options)
    except UserError as error:
        return refused(str(error))
    (file,) = report["files"].values()
    return read(file["counts"], f"{file['genes_found']:,}")


def tl_describe(path: Path, folder: Path, model: str, **options) -> str:
    try:
        adata = read_in_memory(path)
    except Exception as error:  # of anndata, before Cell2Text sees anything
        return f"not read by anndata: {type(error).__name__}"
    try:
        cell2text.tl.describe(adata, model, max_new_tokens=1, **options)
    except UserError as error:
        return refused(str(error))
    reading = json.loads(adata.uns["cell2text"]["reading"])
    return read(reading["counts"], f"{reading['genes_found']:,}")


def run_command(*arguments) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code and what it prints."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["cell2text", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.run()
    except SystemExit as stopped:
        return int(stopped.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue(), err.getvalue()


def read(counts: str, genes: str) -> str:
    return f"read: counts from {counts}, {genes} genes"


def refused(message: str, code: int = 2) -> str:
    """Return the message of a refusal. A traceback, several lines or another exit code are faults of Cell2Text."""
    lines = message.strip().splitlines()
    if code != 2 or len(lines) != 1:
        return f"FAULT: exit code {code}, {len(lines)} lines, the last: {lines[-1] if lines else ''}"
    return (
        f"refused: {re.sub('^(cell2text[^:]*: )?((cells|counts|CELLS|filtered_feature_bc_matrix): )?', '', lines[0])}"
    )


def outcomes(name: str, model: str) -> dict[str, str]:
    """Return the outcome of a situation by face, and of the second try if the message names an option."""
    found = {}
    for face, run in zip(FACES, (describe, prepare, tl_describe)):
        for suffix, options in (("", {}), *[(f" with {k}={v}", {k: v}) for k, v in FOLLOW_UPS.get(name, {}).items()]):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path = make(name, Path(folder))
                found[face + suffix] = run(path, Path(folder), model, **options)
    return found


def table(results: dict) -> str:
    """Return the table of the guide: what each face read, and the message of the first face that refuses."""
    lines = [f"| Situation | {' | '.join(f'`{face}`' for face in FACES)} | Message |", "|---|---|---|---|---|"]
    for name, found in results.items():
        cells = [shown(found[face]) for face in FACES]
        message = next((text.removeprefix("refused: ") for text in found.values() if text.startswith("refused")), "")
        lines.append(f"| {name} | {' | '.join(cells)} | {message} |")
    return "\n".join(lines)


def shown(outcome: str) -> str:
    """Return an outcome as a cell of the table, without the message of a refusal."""
    kind, _, text = outcome.partition(": ")
    return re.sub(r"counts from (\S+),", r"`\1`,", text) if kind == "read" else kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MINI), help="folder of the model; the packaged one if omitted")
    parser.add_argument("--only", nargs="*", help="names of situations")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    results = {}
    for name in arguments.only or SITUATIONS:
        results[name] = outcomes(name, arguments.model)
        print(name, *(f"    {face}: {text}" for face, text in results[name].items()), sep="\n", flush=True)
    if not arguments.only:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(table(results))


if __name__ == "__main__":
    main()
