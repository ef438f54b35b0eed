"""Examples in docstrings run, and the functions of the reference have one."""

import doctest
import importlib
import re
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parents[1]
FILES = [*PROJECT.glob("*_cell2text.py"), *(PROJECT / "cell2text").rglob("*.py")]
MODULES = sorted(
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if not path.is_symlink() and ">>>" in path.read_text(encoding="utf-8")
)
DIRECTIVES = re.findall(
    r"^\.\. auto(?:function|method):: ([\w.]+)$",
    "\n".join(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "docs" / "api").glob("*.md"))),
    flags=re.M,
)
# Functions whose example needs a file, a trained model or the Hub: the guides show and run them.
SHOWN_IN_GUIDES = {
    "cell2text.describe.consensus.describe_groups",
    "cell2text.describe.consensus.GroupDescriptions.consensus",
    "cell2text.describe.report.write_report",
    "cell2text.evaluation.run.evaluate_file",
    "cell2text.evaluation.hub_results.write_eval_results",
    "cell2text.evaluation.baseline_data.load_baseline_data",
    "cell2text.evaluation.baseline_data.read_embeddings",
    "cell2text.publish.push",
}


class FencedExamples(doctest.DocTestParser):
    """Reads examples between Markdown fences, as the Hub files write them."""

    def parse(self, string, name="<string>"):
        return super().parse(re.sub(r"^\s*```(python)?$", "", string, flags=re.M), name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    for found in doctest.DocTestFinder(parser=FencedExamples()).find(module):
        runner.run(found)
    assert runner.tries and not runner.failures


@pytest.mark.parametrize("name", sorted({*DIRECTIVES} - SHOWN_IN_GUIDES))
def test_functions_of_the_reference_have_an_example(name):
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:  # a method
        module, _, owner = module.rpartition(".")
        found = getattr(getattr(importlib.import_module(module), owner), attribute)
    assert ">>>" in (found.__doc__ or "") or "```python" in (found.__doc__ or ""), name
