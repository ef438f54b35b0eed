"""`import cell2text`: no library is loaded, and transformers knows the model whatever the order of imports."""

import json
import subprocess
import sys
import textwrap

import pytest

import cell2text

from .forked_runs import PROJECT, ForkedRuns


REPORT = """
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
config = CONFIG_MAPPING["cell2text"]
model = AutoModelForCausalLM._model_mapping[config].__name__
print(json.dumps([model, "cell-to-text" in PIPELINE_REGISTRY.get_supported_tasks()]))
assert not any(type(finder).__module__ == "cell2text.registration" for finder in sys.meta_path)
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_import_loads_no_library():
    loaded = json.loads(python("import cell2text, json, sys; print(json.dumps(list(sys.modules)))"))
    assert not {"anndata", "huggingface_hub", "numpy", "torch", "transformers", "typer"} & set(loaded)


@pytest.fixture(scope="module")
def loaded_heavy(tmp_path_factory):
    """Which of torch and transformers a process has loaded after each of three steps without a model."""
    folder = tmp_path_factory.mktemp("prepared")
    code = f"""
    import json, sys
    def note(step):
        loaded[step] = sorted({{"torch", "transformers"}} & set(sys.modules))
    loaded = {{}}
    import cell2text.publish
    note("publish")
    from cell2text.preparation.run import prepare
    note("prepare")
    from cell2text.example import example_cells
    example_cells()[:40].copy().write_h5ad({str(folder / "cells.h5ad")!r})
    prepare([{str(folder / "cells.h5ad")!r}], {str(folder / "out")!r}, progress=False)
    note("a whole preparation")
    print(json.dumps(loaded))
    """
    return json.loads(python(textwrap.dedent(code)).splitlines()[-1])


@pytest.mark.parametrize("step", ["publish", "prepare", "a whole preparation"])
def test_commands_without_a_model_load_neither_torch_nor_transformers(step, loaded_heavy):
    assert loaded_heavy[step] == []


@pytest.fixture(scope="module")
def before_transformers():
    """Processes that have imported libraries of transformers, but neither transformers nor the package."""
    imports = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import huggingface_hub, numpy, tokenizers, torch, torch._dynamo, torch.distributed.tensor
assert "transformers" not in sys.modules and "cell2text" not in sys.modules
"""
    runs = ForkedRuns(imports)
    yield runs
    runs.close()


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import cell2text", id="before_transformers"),
        pytest.param("import cell2text, projectors_cell2text", id="before_a_hub_file"),
    ],
)
def test_transformers_knows_the_model(imports, before_transformers, tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log.txt"
    script.write_text(imports + REPORT)
    code = before_transformers.wait(before_transformers.start(script, folder=tmp_path, log=log))
    assert code == 0, log.read_text()
    assert json.loads(log.read_text().splitlines()[-1]) == ["Cell2TextForConditionalGeneration", True]


def test_public_names_are_listed_and_resolve():
    assert set(cell2text.__all__) <= set(dir(cell2text))
    assert all(getattr(cell2text, name) is not None for name in cell2text.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cell2text.nothing  # noqa: B018
