"""Uploads with the real Hub client to a stand-in for the Hub, and loading from it in a fresh process."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from transformers import AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_relative_imports

from cell2text.app.space import space_files
from cell2text.errors import UserError
from cell2text.preparation.dataset_card import push_to_hub
from cell2text.publish import RELATIVE_IMPORT, files_to_push

from .app_files import N_CELLS, described_cells
from .conftest import run_cli
from .hub import stand_in
from .preparation_runs import make_file
from .tiny import make_adata, make_model, make_processor
from .training_runs import PROJECT, run


RESULTS = "- dataset: {id: lab/cells, task_id: cell_type}\n  value: 0.9\n"
OPENED_SPACE = """
import json, cell2text
from cell2text.app.desk import Desk
cells = Desk("cells.h5ad", AppOptions(shared=True)).start().experiment.names
print(json.dumps({"package": cell2text.__file__, "cells": len(cells)}))
"""
CARD = "---\nlicense: apache-2.0\n---\n\n# A model\n"


@pytest.fixture
def saved(tmp_path):
    """A run's folder: a small model, and what a run leaves beside it."""
    folder = tmp_path / "run"
    processor = make_processor()
    make_model(processor=processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    for name in (
        "checkpoint-5/optimizer.pt",
        "data/report.json",
        "runs/events.out",
        "training_args.bin",
        ".cache/x.json",
        "predictions.jsonl",
        "concept_pretraining.json",
        "base/config.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text("{}")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "cell2text.yaml").write_text(RESULTS)
    (folder / ".eval_results" / ".cache").write_text("")
    return folder


def command(*arguments, hub, code=0):
    """Run the command line in this process, whose client takes the stand-in for the Hub."""
    out, err = io.StringIO(), io.StringIO()
    with hub.in_this_process(), redirect_stdout(out), redirect_stderr(err):
        assert run_cli(*arguments) == code, err.getvalue()[-3000:]
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


LOAD = """
import json, sys
import numpy as np, torch
from transformers import AutoModel, AutoProcessor
from transformers.dynamic_module_utils import get_relative_imports
repository, revision = sys.argv[1:3]
assert "cell2text" not in sys.modules
model = AutoModel.from_pretrained(repository, revision=revision, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(repository, revision=revision, trust_remote_code=True)
cells = [[np.array(cell)] for cell in json.loads(sys.argv[3])]
chats = [processor.conversation()] * len(cells)
inputs = processor.apply_chat_template(chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, processor_kwargs={"cells": cells})
ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
print(json.dumps(processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1]:])))
"""


def texts_from_folder(folder, cells) -> list[str]:
    """Generate texts with the classes of the installed package."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        [processor.conversation()] * len(cells), tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True, processor_kwargs={"cells": [[cell] for cell in cells]},
    )  # fmt: skip
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :])


def test_a_published_model_generates_the_same_texts_in_a_fresh_process(saved, without_package, tmp_path):
    cells = make_processor().rank_encode(make_adata(3))
    with stand_in() as hub:
        hub.drop_uploads = 1
        done = command("push", saved, "lab/model", "--tag", "v1", "--private", hub=hub)
        assert "/lab/model/commit/" in done.stdout and "model.safetensors" in done.stdout and hub.drop_uploads == 0
        sent = hub.files("lab/model")
        assert sent == {upload.name: upload.path.read_bytes() for upload in files_to_push(saved)}
        assert hub.created[0]["visibility"] == "private" and hub.tags["lab/model"] == {
            "v1": hub.commits["lab/model"][-1][0]
        }
        assert not any(
            name.startswith(("checkpoint", "data", "runs", "base", ".cache")) or name.endswith((".bin", ".pt"))
            for name in sent
        )

        (saved / "README.md").write_text(CARD + "\nChanged.\n")
        command("push", saved, "lab/model", hub=hub)  # main goes on, the tag stays
        assert hub.tags["lab/model"]["v1"] != hub.commits["lab/model"][-1][0]
        refused = command("push", saved, "lab/model", "--tag", "v1", hub=hub, code=2)
        assert "--tag v1: lab/model already has this tag" in refused.stderr

        hub.drop_downloads = 1
        code = hub.preamble(tmp_path / "reader") + LOAD
        read = without_package(code, tmp_path, "lab/model", "v1", json.dumps([cell.tolist() for cell in cells]))
        assert hub.drop_downloads == 0
    texts = json.loads(read.splitlines()[-1])
    assert texts == texts_from_folder(saved, cells) and len(set(texts)) > 1


def test_a_failed_upload_leaves_the_repository_unchanged_and_can_be_repeated(saved):
    with stand_in() as hub:
        hub.full = True
        failed = command("push", saved, "lab/model", hub=hub, code=1)
        assert "was not published. The Hub answered" in failed.stderr and "Traceback" not in failed.stderr
        assert len(hub.commits["lab/model"]) == 1 and hub.files("lab/model") == {}
        hub.full = False
        command("push", saved, "lab/model", hub=hub)
        assert "model.safetensors" in hub.files("lab/model")


def test_a_dry_run_lists_the_files_and_uploads_nothing(saved):
    with stand_in() as hub:
        done = command("push", saved, "lab/model", "--dry-run", hub=hub)
        assert not hub.created and not hub.commits
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith("Not uploaded: ")]
    listed = {name: int(size.replace(",", "")) for size, name in lines}
    assert listed == {upload.name: upload.size for upload in files_to_push(saved)}
    assert {
        "config.json",
        "modeling_cell2text.py",
        "gene_vocabulary.tsv",
        "README.md",
        "evaluation/metrics.json",
        ".eval_results/cell2text.yaml",
    } <= set(listed)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("README.md", r"lacks README.md \(a model card\)"),
        ("processor_config.json", r"lacks processor_config.json \(a processor\)"),
        ("model.safetensors", r"lacks model.safetensors \(weights\)"),
        ("projectors_cell2text.py", r"lacks projectors_cell2text.py \(code that loads it\)"),
        ("modeling_cell2text.py", r"lacks modeling_cell2text.py \(code that loads it\)"),
    ],
)
def test_an_incomplete_folder_raises(saved, missing, message):
    (saved / missing).unlink()
    with pytest.raises(ValueError, match=message):
        files_to_push(saved)
    with pytest.raises(ValueError, match="The run trained no adapter"):
        files_to_push(saved, adapter=True)


def test_imports_of_code_files_are_those_that_transformers_follows():
    files = sorted(PROJECT.glob("*_cell2text.py"))
    assert files and all(set(RELATIVE_IMPORT.findall(p.read_text())) == set(get_relative_imports(p)) for p in files)


def test_an_adapter_is_uploaded_with_the_card_and_results_of_its_run(saved):
    adapter = saved / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "README.md", "training_args.bin"):
        (adapter / name).write_text("of the adapter")
    (adapter / "adapter_model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    assert not any(upload.name.startswith("adapter") for upload in files_to_push(saved))
    found = {upload.name: upload.path for upload in files_to_push(saved, adapter=True)}
    assert set(found) == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", ".eval_results/cell2text.yaml"
    }  # fmt: skip
    assert found["README.md"].read_text() == CARD
    with stand_in() as hub:
        command("push", saved, "lab/adapter", "--adapter", hub=hub)
        assert hub.files("lab/adapter") == {name: path.read_bytes() for name, path in found.items()}


def test_exactly_the_files_of_the_data_set_are_uploaded(tmp_path):
    make_file(tmp_path / "a.h5ad")
    out = tmp_path / "out"
    with stand_in() as hub:
        arguments = ["prepare", tmp_path / "a.h5ad", "--out", out, "--quiet", "--split", "random"]
        done = command(*arguments, "--push-to-hub", "lab/cells", hub=hub)
        assert "/lab/cells" in done.stdout
        expected = {str(path.relative_to(out)): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}
        assert hub.files("lab/cells") == expected and "data/train-00000.parquet" in expected and "README.md" in expected
    assert hub.created[0]["type"] == "dataset" and hub.created[0]["name"] == "cells"


def test_an_unfinished_data_set_is_not_uploaded(tmp_path):
    with pytest.raises(ValueError, match="is not a finished data set: it has no report.json"):
        push_to_hub(tmp_path, "lab/cells")


def test_a_run_uploads_its_finished_model_in_one_commit(small_h5ad, tmp_path):
    with stand_in() as hub:
        with hub.in_this_process():
            done = run(
                tmp_path / "run", dataset=[str(small_h5ad)], push_to_hub=True, hub_model_id="lab/run",
                hub_private_repo=True, save_strategy="epoch",
            )  # fmt: skip
        out = tmp_path / "run" / "out"
        assert "/lab/run/commit/" in done.stdout and len(hub.commits["lab/run"]) == 2  # the empty one, and all at once
        assert hub.files("lab/run") == {upload.name: upload.path.read_bytes() for upload in files_to_push(out)}
        assert "evaluation/metrics.json" in hub.files("lab/run") and hub.created[0]["visibility"] == "private"


def test_the_app_is_published_as_a_space_that_serves_described_cells(without_package, tmp_path, capsys):
    pytest.importorskip("gradio")
    described = tmp_path / "my cells: test.h5ad"
    described_cells().write_h5ad(described)
    with stand_in() as hub:
        assert run_cli("push", described, "lab/app", "--space", "--dry-run") == 0
        assert "app.py" in capsys.readouterr().out and not hub.commits
        command("push", described, "lab/app", "--space", "--private", hub=hub)
        files = hub.files("lab/app")
        (created,) = hub.created
    assert created["type"] == "space" and created["sdk"] == "gradio" and created["visibility"] == "private"
    assert files["cells.h5ad"] == described.read_bytes() and "cell2text/app/static/map.js" in files
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (front["sdk"], front["app_file"], front["sdk_version"]) == ("gradio", "app.py", version("gradio"))
    pinned = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert {"torch", "transformers", "gradio", "umap-learn", "anndata"} <= set(pinned) and "trl" not in pinned
    folder = tmp_path / "space"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    serving = (folder / "app.py").read_text().replace('host="0.0.0.0", port=7860, ', "").replace(").wait()", ")")
    read = without_package(f"sys.path.insert(0, {str(folder)!r})\n{serving}\n{OPENED_SPACE}", folder)
    (opened,) = (json.loads(line) for line in read.splitlines() if line.startswith('{"package"'))
    assert opened == {"package": str(folder / "cell2text" / "__init__.py"), "cells": N_CELLS}


def test_a_space_of_a_model_describes_uploads_and_other_content_is_refused(saved, tmp_path):
    pytest.importorskip("gradio")
    files = {file.name: file for file in space_files(saved, 'My "app": x')}
    assert "model/model.safetensors" in files and "cells.h5ad" not in files
    assert "model='model'" in files["app.py"].text and "serve(None" in files["app.py"].text
    assert yaml.safe_load(files["README.md"].text.split("---")[1])["title"] == "My app x"
    (tmp_path / "plain.csv").write_text("a,b\n1,2\n")
    for content in (tmp_path / "plain.csv", tmp_path):
        with pytest.raises(UserError, match="expected|Expected"):
            space_files(content, "x")
    assert run_cli("push", saved, "lab/x", "--space", "--tag", "v1") == 2


STRAY = (
    "credentials.json", "token.txt", "keys/id_rsa.txt", "wandb/run.json", "tensorboard/events.json", "patients.tsv",
    "evil.py", "old/model.safetensors", "old/config.json", "notes.md", "sub/modeling_cell2text.py",
)  # fmt: skip


def test_only_files_of_the_model_are_uploaded(saved, capsys):
    before = [upload.name for upload in files_to_push(saved)]
    for name in STRAY:
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text("x")
    assert [upload.name for upload in files_to_push(saved)] == before
    assert run_cli("push", saved, "lab/model", "--dry-run") == 0
    assert "Not uploaded: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "model.safetensors", "evaluation/metrics.json"])
def test_symbolic_links_are_not_followed(saved, tmp_path, name):
    target = tmp_path / "outside"
    (saved / name).replace(target)
    (saved / name).symlink_to(target)
    with pytest.raises(UserError, match="is a symbolic link, and what it leads to is not published"):
        files_to_push(saved)


def test_a_link_to_code_of_the_package_is_published_and_another_is_not(saved, tmp_path):
    path = saved / "modeling_cell2text.py"
    path.unlink()
    path.symlink_to(PROJECT / "modeling_cell2text.py")
    assert "modeling_cell2text.py" in [upload.name for upload in files_to_push(saved)]
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a symbolic link"):
        files_to_push(saved)


@pytest.mark.parametrize(
    "secret", ["hf_" + "a" * 34, "ghp_" + "b" * 36, "AKIA" + "C" * 16, "-----BEGIN RSA PRIVATE KEY-----"]
)
@pytest.mark.parametrize("name", ["README.md", "config.json", ".eval_results/cell2text.yaml"])
def test_a_secret_in_a_file_of_the_model_is_not_uploaded(saved, name, secret):
    path = saved / name
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"note": secret}))
    else:
        path.write_text(path.read_text() + f"# {secret}\n")
    with pytest.raises(UserError, match="looks like an access token or a private key") as caught:
        files_to_push(saved)
    assert secret not in str(caught.value)


def test_weights_that_cannot_be_read_are_not_uploaded(saved):
    path = saved / "model.safetensors"
    content = path.read_bytes()
    for damaged in (content[:1000], b"x" * 100, b"", content[:-4]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read as safetensors"):
            files_to_push(saved)


def test_a_folder_behind_a_link_is_not_published(saved, tmp_path):
    (saved / "evaluation").rename(tmp_path / "elsewhere")
    (saved / "evaluation").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        files_to_push(saved)


def test_words_with_dashes_are_no_secrets(saved):
    (saved / "README.md").write_text(
        CARD + "multi-task-learning-for-single-cell-rna-seq-data and ask-questions-of-cells-here\n"
    )
    assert "README.md" in [upload.name for upload in files_to_push(saved)]
