"""Commands that README and guides show are valid: their options exist, and the files they name are in the project."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from cell2text.cli import app


PROJECT = Path(__file__).resolve().parents[1]
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    PROJECT / "docs" / "index.md",
    *sorted((PROJECT / "docs" / "guides").glob("*.md")),
]


def commands(path: Path) -> list[str]:
    """Commands of a page's bash blocks, with continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]


SHOWN = [
    pytest.param(command, id=f"{path.stem}: {command[:60]}")
    for path in PAGES
    for command in dict.fromkeys(commands(path))
]


def check_cell2text(words: list[str]) -> None:
    if words[0].startswith("--"):
        words = words[1:]
    subcommands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if words:
        subcommands[words[0]].make_context(words[0], words[1:], resilient_parsing=False)


def check_training_script(name: str, words: list[str], monkeypatch, tmp_path) -> None:
    """Parse the arguments as the script does, on CPU; a shell variable is a number, and your own configuration is empty."""
    import train_encoder
    import train_grpo
    import train_sft

    monkeypatch.chdir(PROJECT)
    own = tmp_path / "my_run.yaml"
    own.write_text("seed: 0\n")
    words = ["1e-4" if word.startswith("$") else str(own) if word == own.name else word for word in words]
    words = [word.replace("$rate", "1e-4") for word in words]
    scripts = {"train_sft.py": train_sft, "train_grpo.py": train_grpo, "train_encoder.py": train_encoder}
    parser = scripts[name].parse_arguments
    parser([*words, "--use_cpu", "true"] if words else words)


@pytest.mark.parametrize("command", SHOWN)
def test_command_is_valid(command, monkeypatch, tmp_path):
    words = [word for word in shlex.split(command, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if not words or words[0] in ("pip", "cd", "for", "do", "done", "bash", "pre-commit", "printf"):
        return
    if words[0] in ("accelerate", "torchrun"):
        scripts = [index for index, word in enumerate(words) if re.fullmatch(r"train_(sft|grpo|encoder)\.py", word)]
        if scripts:
            check_training_script(words[scripts[0]], words[scripts[0] + 1 :], monkeypatch, tmp_path)
            return
        assert "cell2text.describe" in words, command
        words = ["cell2text", "describe", *words[words.index("-m") + 2 :]]
    if words[0] == "python":
        if words[1] == "-m":
            assert words[2] in ("pytest", "sphinx", "cell2text"), command
        elif words[1].endswith((".py", ".md")):
            assert (PROJECT / words[1]).exists(), command
        return
    assert words[0] == "cell2text", command
    check_cell2text(words[1:])
