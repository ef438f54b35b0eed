"""The code of docs/guides/trl.md, run where only the libraries that it names are installed."""

import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from .hub import stand_in
from .tiny import make_adata, make_model, make_processor


PROJECT = Path(__file__).resolve().parents[1]
GUIDE = (PROJECT / "docs" / "guides" / "trl.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
# Neither an installed cell2text nor its modules may be imported: the code must come with the model.
WITHOUT_PACKAGE = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cell2text" or "." not in name and name.endswith("_cell2text"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
for name in ("cell2text", "processing_cell2text"):
    try:
        importlib.import_module(name)
        raise SystemExit(f"{name} can be imported")
    except ModuleNotFoundError:
        pass
"""
RESULTS = """
import json
from transformers import pipeline
describe = pipeline("cell-to-text", model="lab/cell2text-tuned", trust_remote_code=True)
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(json.dumps({"texts": texts, "losses": losses, "described": len(describe(adata[:2], max_new_tokens=3))}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment with the libraries of this one, but not its editable packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    places = [place for place in sys.path if place.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(places) + "\n")  # .pth files in those places are not read
    return folder / "bin" / "python"


def test_the_code_of_the_guide_runs_without_the_package(python, tmp_path):
    processor = make_processor()
    make_model(processor=processor).save_pretrained(tmp_path / "lab" / "cell2text")
    processor.save_pretrained(tmp_path / "lab" / "cell2text")
    adata = make_adata(12)
    adata.obs["cell_type"] = ["B cell", "T cell"] * 6
    adata.write_h5ad(tmp_path / "cells.h5ad")
    code = "\n".join(BLOCKS)
    code = re.sub(r'(SFTConfig|TrainingArguments)\("(\w+)"', r'\1("\2", use_cpu=True, logging_steps=1', code)
    assert code.count("use_cpu=True") == 2
    with stand_in() as hub:
        environment = {**hub.environment(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        script = WITHOUT_PACKAGE + code + RESULTS
        done = subprocess.run([python, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        pushed = hub.files("lab/cell2text-tuned")
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results["texts"]) == results["described"] == 2
    assert results["losses"][-1] < results["losses"][0]
    code_files = {path.name for path in (tmp_path / "lab" / "cell2text").glob("*.py")}
    assert {*code_files, "model.safetensors", "gene_vocabulary.tsv", "tokenizer.json"} <= set(pushed)
    assert "collation_cell2text.py" in code_files


def test_fine_tuning_takes_ten_lines():
    (script,) = (block for block in BLOCKS if "trainer = SFTTrainer(" in block and "load_from_disk" in block)
    assert len([line for line in script.splitlines() if line]) <= 10


def test_the_install_command_names_versions_that_the_project_needs():
    (command,) = re.findall(r"^pip install (.+)$", GUIDE, re.MULTILINE)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    for requirement in command.replace('"', "").split():
        assert any(entry == requirement or entry.startswith(f"{requirement}>") for entry in declared), requirement
