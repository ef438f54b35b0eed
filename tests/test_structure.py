"""The arrows between modules, and what must not stand in the project."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest


PROJECT = Path(__file__).resolve().parents[1]
HUB_FILES = {
    "errors_cell2text": set(),
    "concepts_cell2text": {"errors_cell2text"},
    "calibration_cell2text": {"errors_cell2text"},
    "grammar_cell2text": set(),
    "correction_cell2text": {"grammar_cell2text"},
    "statements_cell2text": {
        "calibration_cell2text",
        "concepts_cell2text",
        "correction_cell2text",
        "declining_cell2text",
    },
    "configuration_cell2text": {
        "calibration_cell2text",
        "concepts_cell2text",
        "declining_cell2text",
        "errors_cell2text",
    },
    "assembly_cell2text": {"configuration_cell2text", "errors_cell2text"},
    "encoding_cell2text": {"concepts_cell2text", "errors_cell2text"},
    "vocabulary_cell2text": {"errors_cell2text", "genes_cell2text"},
    "counts_cell2text": set(),
    "genes_cell2text": {"cell2text.sources.gene_tables", "errors_cell2text"},
    "gene_lists_cell2text": {"errors_cell2text", "genes_cell2text"},
    "source_cell2text": {"counts_cell2text", "errors_cell2text", "genes_cell2text"},
    "ranking_cell2text": {
        "counts_cell2text",
        "errors_cell2text",
        "genes_cell2text",
        "source_cell2text",
        "vocabulary_cell2text",
    },
    "collation_cell2text": {"errors_cell2text"},
    "declining_cell2text": {"errors_cell2text", "grammar_cell2text"},
    "prompts_cell2text": set(),
    "processing_cell2text": {
        "collation_cell2text",
        "declining_cell2text",
        "errors_cell2text",
        "gene_lists_cell2text",
        "prompts_cell2text",
        "ranking_cell2text",
        "vocabulary_cell2text",
    },
    "projectors_cell2text": {"errors_cell2text", "statements_cell2text"},
    "modeling_cell2text": {
        "assembly_cell2text",
        "configuration_cell2text",
        "encoding_cell2text",
        "errors_cell2text",
        "projectors_cell2text",
    },
    "decoding_cell2text": set(),
    "generation_cell2text": {
        "correction_cell2text",
        "decoding_cell2text",
        "errors_cell2text",
        "statements_cell2text",
    },
    "pipeline_cell2text": {"errors_cell2text", "generation_cell2text", "processing_cell2text"},
}
FLOOR = {"errors", "files", "paths"}
DATA = FLOOR | {
    "example", "language", "ontology", "options", "pages", "plots", "processes", "provenance", "signatures", "sources",
    "prepared_rows", "spreadsheets", "yaml_files",
}  # fmt: skip
LAYERS = {
    "errors": set(),
    "files": {"errors"},
    "paths": {"errors"},
    "yaml_files": {"errors", "paths"},
    "logs": set(),
    "prepared_rows": set(),
    "spreadsheets": set(),
    "options": FLOOR | {"yaml_files"},
    "processes": {"errors"},
    "registration": set(),
    "provenance": FLOOR,
    "plots": set(),
    "pages": FLOOR | {"plots"},
    "ontology": FLOOR,
    "language": FLOOR | {"ontology"},
    "sources": FLOOR,
    "signatures": FLOOR,
    "example": FLOOR,
    "preparation": DATA,
    "evaluation": DATA,
    "inference": DATA | {"loading", "models"},
    "training": DATA | {"evaluation", "inference", "loading", "models", "preparation", "publish"},
    "evidence": DATA | {"evaluation", "inference", "loading", "models"},
    "describe": DATA | {"evidence", "inference", "loading", "models"},
    "exchange": DATA | {"describe", "evidence"},
    "questions": DATA | {"describe", "evidence", "inference", "loading", "models"},
    "choices": DATA | {"describe", "evaluation", "inference", "loading", "models", "questions"},
    "app": DATA | {"describe", "evidence", "exchange", "inference", "loading", "models", "publish", "questions"},
    "generate": DATA | {"models", "questions"},
    "donors": DATA | {"describe", "inference", "questions"},
    "tl": DATA | {"describe", "donors", "evidence", "generate", "inference", "loading", "models", "questions"},
}
MODEL_FILES = {"configuration_cell2text", "modeling_cell2text", "pipeline_cell2text", "projectors_cell2text"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [PROJECT / name for name in done.stdout.split("\n") if name and (PROJECT / name).exists()]


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_files_import_their_siblings_alone(name):
    own = {
        module
        for module in imports(PROJECT / f"{name}.py")
        if module.endswith("_cell2text") or module.startswith("cell2text")
    }
    assert own == HUB_FILES[name]


@pytest.mark.parametrize("name", HUB_FILES)
def test_hub_files_need_no_more_than_the_core(name):
    from transformers.dynamic_module_utils import get_imports

    allowed = {"jinja2", "numpy", "scipy", "torch", "transformers"}  # torch requires jinja2
    standard = {
        "collections",
        "concurrent",
        "copy",
        "dataclasses",
        "functools",
        "hashlib",
        "inspect",
        "itertools",
        "os",
        "pathlib",
        "logging",
        "numbers",
        "pickle",
        "re",
        "shutil",
        "typing",
    }
    assert set(get_imports(PROJECT / f"{name}.py")) <= allowed | standard


@pytest.mark.parametrize("room", LAYERS)
def test_rooms_import_downwards(room):
    place = PROJECT / "cell2text" / room
    paths = (
        sorted(place.rglob("*.py"))
        if place.is_dir()
        else [path for path in [place.with_suffix(".py")] if path.exists()]
    )
    for path in paths:
        rooms = {module.split(".")[1] for module in imports(path) if module.startswith("cell2text.")}
        assert rooms <= LAYERS[room] | {room}, path


def test_evaluation_never_imports_the_model():
    for path in (PROJECT / "cell2text" / "evaluation").rglob("*.py"):
        assert not imports(path) & (MODEL_FILES | {"processing_cell2text", "torch", "transformers"}), path


def test_no_path_of_one_machine_and_no_pickle_is_committed():
    for path in tracked_files():
        assert path.suffix not in {".pkl", ".pickle", ".bin", ".pt", ".ckpt"}, path
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".cff", ".txt"}:
            assert not re.search(r"(?<![\w.])/(home|root|Users|mnt|work)/\w", path.read_text(encoding="utf-8")), path


def test_every_package_and_module_is_shipped():
    shipped = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(PROJECT) for path in (PROJECT / "cell2text").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(shipped["packages"]) == {name for name in packages if ".metrics" not in name}
    assert set(shipped["py-modules"]) == set(HUB_FILES)


def test_dependencies_are_declared():
    text = (PROJECT / "pyproject.toml").read_text()
    known = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "umap": "umap-learn",
        "yaml": "pyyaml",
    }
    scripts = [*PROJECT.glob("benchmarks/*.py"), *PROJECT.glob("recipes/*/*.py")]
    siblings = {path.stem for path in [*scripts, *PROJECT.glob("*.py")]}
    import sys

    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("cell2text/**/*.py"), *scripts]:
        for module in imports(path):
            top = (module or "").split(".")[0]
            if top in sys.stdlib_module_names or "cell2text" in top or top in siblings or not top:
                continue
            assert re.search(rf'"{known.get(top, top.replace("_", "-"))}[\[>="]', text), (
                f"{path.name} imports {top}, which pyproject.toml lacks"
            )


def test_every_citation_of_the_readme_exists():
    readme = (PROJECT / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", readme):
        assert (PROJECT / target).exists(), target


SCRIPTS = [path for folder in ("benchmarks", "recipes", "docs") for path in sorted((PROJECT / folder).rglob("*.py"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_what_scripts_import_from_the_project_exists(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level:
            continue
        module = str(node.module).replace(".", "/")
        folders = (PROJECT, script.parent, PROJECT / "recipes" / "mini")
        file = next((path for folder in folders if (path := folder / f"{module}.py").exists()), None)
        if file is None:
            continue
        missing = {alias.name for alias in node.names} - _defined_in(file)
        assert not missing, f"{file.relative_to(PROJECT)} does not define {sorted(missing)}"


def _defined_in(file: Path) -> set[str]:
    """Return what a module defines or imports outside of its functions and classes."""
    found: set[str] = set()
    waiting = list(ast.parse(file.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        else:
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, (ast.stmt, ast.excepthandler))
            ]
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "benchmarks" / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_results_are_json(path):
    json.loads(path.read_text(), parse_constant=_no_constant)
