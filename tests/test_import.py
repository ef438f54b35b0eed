"""`import cell2text`: no library is loaded, and transformers knows the model whatever the order of imports."""

import json
import subprocess
import sys
import textwrap

import pytest

import cell2text


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


@pytest.mark.parametrize("module", ["cell2text.preparation.run", "cell2text.publish"])
def test_commands_without_a_model_load_neither_torch_nor_transformers(module):
    loaded = json.loads(python(f"import {module}, json, sys; print(json.dumps(list(sys.modules)))"))
    assert not {"torch", "transformers"} & set(loaded)


def test_a_whole_preparation_loads_neither_torch_nor_transformers(tmp_path):
    code = f"""
    import json, sys
    from cell2text.example import example_cells
    from cell2text.preparation.run import prepare
    example_cells()[:40].copy().write_h5ad({str(tmp_path / "cells.h5ad")!r})
    prepare([{str(tmp_path / "cells.h5ad")!r}], {str(tmp_path / "out")!r}, progress=False)
    print(json.dumps(list(sys.modules)))
    """
    loaded = json.loads(python(textwrap.dedent(code)).splitlines()[-1])
    assert not {"torch", "transformers"} & set(loaded)


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import cell2text", id="before_transformers"),
        pytest.param("import cell2text, projectors_cell2text", id="before_a_hub_file"),
    ],
)
def test_transformers_knows_the_model(imports):
    assert json.loads(python(imports + REPORT)) == ["Cell2TextForConditionalGeneration", True]


def test_public_names_are_listed_and_resolve():
    assert set(cell2text.__all__) <= set(dir(cell2text))
    assert all(getattr(cell2text, name) is not None for name in cell2text.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        cell2text.nothing  # noqa: B018
