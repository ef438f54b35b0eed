"""Runs of scripts in processes of their own that share one start.

A server imports PyTorch, transformers and, for training runs, TRL once, then forks a process for every run: nothing has
been computed in it, and no run pays the seconds of imports.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path


PROJECT = Path(__file__).resolve().parents[1]


def fork_run(argv: list[str], begin=lambda: None) -> int:
    """Run a script in a forked process, as `python SCRIPT ARGUMENTS` would, and return the process id.

    The process calls `begin` first.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        begin()
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


class ForkedRuns:
    """The server, seen from a test; it starts with the first run.

    It first executes `imports`, in `environment` or else in that of the tests.
    """

    def __init__(self, imports: str = "import_training()", environment: dict[str, str] | None = None):
        self._imports, self._environment = imports, environment or dict(os.environ)
        self._server = None

    def start(self, script: Path, *arguments: object, folder: Path, log: Path) -> int:
        """Start a run in `folder`, with its output in `log`, and return its process id."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, self._imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**self._environment, "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip
        request = {"argv": [str(script), *map(str, arguments)], "folder": str(folder), "log": str(log)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """Return the exit code of the run, negative if a signal ended it."""
        return int(self._server.stdout.readline())

    def close(self) -> None:
        if self._server is not None:
            self._server.stdin.close()
            self._server.stdout.close()
            self._server.wait()


def serve() -> None:
    """Answer every request on standard input with the process id of its run and, later, the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    sys.path.pop(0)  # the folder of tests
    exec(sys.argv[1], globals())
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        process = fork_run(request["argv"])
        print(process, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    serve()
