"""The commands of docs/guides/publish.md run against a stand-in for the Hub, and its Python loads the result."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .hub import stand_in
from .tiny import make_model, make_processor


GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "guides" / "publish.md").read_text(encoding="utf-8")
CARD = "---\nlicense: apache-2.0\n---\n\n# A model\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, flags=re.M | re.S)


@pytest.fixture
def folder(tmp_path):
    """A folder with the two runs that the guide names."""
    run = tmp_path / "runs" / "default"
    processor = make_processor()
    make_model(processor=processor).save_pretrained(run)
    processor.save_pretrained(run)
    (run / "README.md").write_text(CARD)
    lora = shutil.copytree(run, tmp_path / "runs" / "lora")
    (lora / "adapter").mkdir()
    (lora / "adapter" / "adapter_config.json").write_text("{}")
    shutil.copyfile(run / "model.safetensors", lora / "adapter" / "adapter_model.safetensors")
    return tmp_path


def test_commands_upload_what_the_python_loads(folder, without_package):
    with stand_in() as hub:
        environment = hub.environment(folder / "home")
        commands = [shlex.split(command)[1:] for command in "".join(blocks("bash")).splitlines()]
        script = f"from cell2text.cli import app\nfor command in {commands!r}:\n    app(command, standalone_mode=False)"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert set(hub.commits) == {"OWNER/NAME", "OWNER/NAME-lora"} and list(hub.tags["OWNER/NAME"]) == ["v1"]
        assert "modeling_cell2text.py" in hub.files("OWNER/NAME")
        assert set(hub.files("OWNER/NAME-lora")) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        (python,) = blocks("python")
        check = "assert 'cell2text' not in sys.modules; print(type(model).__name__, type(processor).__name__)"
        read = without_package(hub.preamble(folder / "reader") + python + check, folder)
    assert read.splitlines()[-1].split() == ["Cell2TextForConditionalGeneration", "Cell2TextProcessor"]
