"""Runs of scripts and modules in processes of their own that share one start.

A server imports PyTorch, transformers and, for training runs, TRL once, then forks a process for every run: nothing has
been computed in it, and no run pays the seconds of imports.
"""

import gc
import json
import os
import runpy
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]


def fork_run(argv: list[str], begin=lambda: None) -> int:
    """Run a script in a forked process, as `python SCRIPT ARGUMENTS` would, and return the process id.

    A script of `-m` is a module, whose name comes first among the arguments. The process calls `begin` first.
    """
    gc.freeze()  # so that collecting garbage in the new process does not copy the pages of imported modules
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        begin()
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = argv
            runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_training() -> None:
    """Import what a training run imports, so that forked processes have it."""
    sys.path.insert(0, str(PROJECT))
    import cell2text.training.sft  # noqa: F401


def import_runs() -> None:
    """Import what training and describing import, and index the names that are read from generated texts."""
    import_training()
    import cell2text.describe.run  # noqa: F401
    from cell2text.ontology.mentions import find_mentions

    for field in ("cell_type", "tissue", "disease"):
        find_mentions(field, "")


class ForkedRuns:
    """The server, seen from a test; it starts with the first run.

    It first executes `imports`, in `environment` or else in that of the tests.
    """

    def __init__(self, imports: str = "import_runs()", environment: dict[str, str] | None = None):
        self._imports, self._environment = imports, environment or dict(os.environ)
        self._server = None

    def start(self, script: Path | str, *arguments: object, folder: Path, log: Path, **environment: str) -> int:
        """Start a run in `folder`, with its output in `log` and further variables, and return its process id."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, self._imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**self._environment, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        argv = [str(script), *map(str, arguments)]
        return self._answer({"argv": argv, "folder": str(folder), "log": str(log), "environment": environment})

    def poll(self, process: int) -> int | None:
        """Return the exit code of a run, negative if a signal ended it, or None while it goes on."""
        return self._answer({"process": process, "flags": os.WNOHANG})

    def wait(self, process: int) -> int:
        """Wait for the end of a run, and return its exit code."""
        return self._answer({"process": process, "flags": 0})

    def _answer(self, request: dict) -> int | None:
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        if self._server is not None:
            self._server.stdin.close()
            self._server.stdout.close()
            self._server.wait()


GUARD = f"""
import sys
sys.path[:] = [p for p in sys.path if p and p != {str(PROJECT)!r}]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "") + repr(f)]
import importlib.util
assert importlib.util.find_spec("modeling_cell2text") is None, "the package is still there"
assert importlib.util.find_spec("cell2text") is None, "the package is still there"
"""


class RunsWithoutPackage:
    """Runs of code in processes of their own from which no module of the project can be imported."""

    def __init__(self, folder: Path):
        self._folder = folder
        environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules")}
        environment.pop("PYTHONPATH", None)
        imports = "import anndata, torch, transformers.pipelines, transformers.modeling_utils"
        self._runs = ForkedRuns(GUARD + imports, environment)

    def __call__(self, code: str, folder: Path, *arguments: str) -> str:
        """Run code in a folder, and return its output."""
        script, log = self._folder / "script.py", self._folder / "log.txt"
        script.write_text(GUARD + textwrap.dedent(code))
        process = self._runs.start(script, *arguments, folder=folder, log=log)
        assert self._runs.wait(process) == 0, log.read_text()[-3000:]
        return log.read_text()

    def close(self) -> None:
        self._runs.close()


def start_run(request: dict) -> int:
    """Fork the process of a run, and return its id."""

    def begin() -> None:
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    return fork_run(request["argv"], begin)


def serve() -> None:
    """Answer every line of standard input: with the process id of a new run, or with the exit code of one."""
    answers = os.fdopen(os.dup(1), "w")
    sys.path.pop(0)  # the folder of tests
    exec(sys.argv[1], globals())
    codes: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "argv" in request:
            answer: int | None = start_run(request)
        else:
            process = request["process"]
            if process not in codes:
                ended, status = os.waitpid(process, request["flags"])
                codes.update({process: os.waitstatus_to_exitcode(status)} if ended else {})
            answer = codes.get(process)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
