"""Describing an experiment: the same text whatever the batch or the process, outputs, kills, and bad input."""

import json
import shutil
import time
import warnings
from pathlib import Path

import anndata as ad
import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoProcessor

import cell2text
from cell2text import tl
from cell2text.describe import DescribeOptions, describe_file, engine
from cell2text.describe.engine import Describer, RankedCells
from cell2text.describe.inputs import ranked_anndata
from cell2text.describe.options import conversation
from cell2text.describe.run import shard_path
from cell2text.evaluation.calibration import probability_of_types
from cell2text.inference.batch_size import MOST_GENES, MOST_ROWS, genes_that_fit, rows_that_fit
from cell2text.language.fields import Claim
from generation_cell2text import CellTextGenerator
from processing_cell2text import EMPTY_CELL_TEXT

from .conftest import make_adata, make_model, make_processor, run_cli
from .describing import FAST, N_CELLS, command, experiment, model, texts_of, write_zarr  # noqa: F401


ADDED = [
    "_cell_type",
    "_cell_type_ontology_term_id",
    "_tissue",
    "_disease",
    "_pathways",
    "_confidence",
    "_type_probability",
    "_n_genes",
    "_mapped_fraction",
]


def test_answers_are_those_of_generate_and_rows_that_ended_cost_nothing(model):
    loaded, processor = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    cells = processor.rank_encode(make_adata(N_CELLS))
    answer = CellTextGenerator(loaded, processor, max_new_tokens=12)
    answers = answer([[cell] for cell in cells])
    inputs = processor.apply_chat_template(
        [processor.conversation()] * len(cells), tokenize=True, return_dict=True, return_tensors="pt",
        add_generation_prompt=True, processor_kwargs={"cells": [[cell] for cell in cells]},
    )  # fmt: skip
    ids = loaded.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    expected = [processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in ids]
    lengths = {len(text) for text in answers.texts}
    assert answers.texts == expected and len(lengths) > 3
    static = len(cells) * (ids.shape[1])
    assert answers.useful <= answers.steps < static  # a batch that runs to its longest row takes `static`
    assert ((answers.confidence > 0) & (answers.confidence <= 1)).all()


def test_confidence_is_the_probability_of_the_text(model):
    loaded, processor = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    cell = processor.rank_encode(make_adata(1))[0]
    answer = CellTextGenerator(loaded, processor, max_new_tokens=6)
    inputs = processor.apply_chat_template(
        [processor.conversation()], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        processor_kwargs={"cells": [[cell]]},
    )  # fmt: skip
    out = loaded.generate(**inputs, max_new_tokens=6, do_sample=False, output_scores=True, return_dict_in_generate=True)
    said = out.sequences[0, inputs["input_ids"].shape[1] :]
    chances = [score[0].log_softmax(-1)[token].item() for score, token in zip(out.scores, said)]
    assert answer([[cell]]).confidence[0] == pytest.approx(np.exp(np.sum(chances)), rel=1e-4)


def test_a_model_of_concepts_tells_how_probable_the_type_is_that_its_text_names():
    processor = make_processor()
    model = make_model("concepts", processor=processor)
    cells = processor.rank_encode(make_adata(5))
    answer = CellTextGenerator(model, processor, genes_at_once=len(cells[0]), max_new_tokens=2)
    told = answer([[cells[0]], [cells[1][:0]], [cells[2]]]).concepts
    batch = processor.pad_cells([[cells[0]], [cells[2]]], return_tensors="pt")
    for group, expected in model.get_cell_concepts(**batch).items():
        np.testing.assert_allclose(told[group][[0, 2]], expected[:, 0].detach(), rtol=1e-4)
        assert np.isnan(told[group][1]).all()
    nothing = answer([[cells[1][:0]]]).concepts  # no cell of the batch has counts
    assert nothing.keys() == told.keys() and all(np.isnan(found).all() for found in nothing.values())
    assert all(nothing[group].shape == (1, told[group].shape[1]) for group in told)
    claims = [Claim("t cells", "CL:0000084"), Claim("T cell"), Claim("neuron", "CL:0000540"), None]
    found = probability_of_types(claims, ["B cell", "T cell"], np.array([[0.1, 0.9], [0.7, 0.3], [1, 0], [0, 1]]))
    np.testing.assert_allclose(found, [0.9, 0.3, np.nan, np.nan], rtol=1e-6)
    described = Describer(model, processor, FAST)(RankedCells(list("abcde"), cells, np.ones(5), np.ones(5)))
    assert described["type_probability"].null_count == 5  # these texts are no words, and name no type


@pytest.mark.parametrize("text", ["llama", "gemma3", "qwen3"])
def test_the_shared_beginning_changes_nothing(text):
    processor = make_processor()
    model = make_model(processor=processor, text=text)
    cells = [[cell] for cell in processor.rank_encode(make_adata(4))]
    answer = CellTextGenerator(model, processor, max_new_tokens=8)
    assert answer.n_shared > 5
    whole = CellTextGenerator(model, processor, max_new_tokens=8)
    whole.n_shared = 0
    assert answer(cells).texts == whole(cells).texts == answer(cells).texts


def test_the_texts_do_not_depend_on_batch_shard_order_or_process(model, experiment, tmp_path):
    one = describe_file(experiment, tmp_path / "one.jsonl", model=str(model), options=FAST, progress=False)
    options = DescribeOptions(max_new_tokens=10, batch_size=3)
    other = describe_file(
        experiment, tmp_path / "b.jsonl", model=str(model), options=options, progress=False, shard_rows=7
    )
    assert texts_of(one) == texts_of(other) and len(set(texts_of(one))) > 5
    adata = ad.read_h5ad(experiment)[::-1].copy()
    tl.describe(adata, str(model), max_new_tokens=10, batch_size=5)
    assert adata.obs["cell2text"].tolist() == texts_of(one)[::-1]


@pytest.mark.parametrize("ending", ["h5ad", "zarr", "jsonl", "parquet", "csv"])
def test_every_format_holds_the_same(ending, model, experiment, tmp_path):
    out = describe_file(experiment, tmp_path / f"out.{ending}", model=str(model), options=FAST, progress=False)
    expected = ad.read_h5ad(experiment)
    tl.describe(expected, str(model), max_new_tokens=10, batch_size=8)
    said = expected.obs["cell2text"].tolist()
    assert said[5] == EMPTY_CELL_TEXT and pd.isna(expected.obs["cell2text_cell_type"].iloc[5])
    if ending in ("h5ad", "zarr"):
        found = ad.read_h5ad(out) if ending == "h5ad" else ad.read_zarr(out)
        assert found.obs_names.tolist() == expected.obs_names.tolist()
        assert set(found.obs) == {"mine", "cell2text", *(c for c in expected.obs if c.startswith("cell2text_"))}
        assert {f"cell2text{name}" for name in ADDED} <= set(found.obs)
        for name in found.obs:
            pd.testing.assert_series_equal(
                found.obs[name].astype(object), expected.obs[name].astype(object), check_dtype=False
            )
        np.testing.assert_allclose(found.obsm["X_cell2text"], expected.obsm["X_cell2text"], atol=1e-6)
        assert found.obsm["X_cell2text"].dtype == np.float32
        before = ad.read_h5ad(experiment)
        assert (found.X != before.X).nnz == 0 and found.var.equals(before.var) and (found.obsm["X_pca"] == 1).all()
        assert found.uns["kept"]["colours"].tolist() == ["red", "blue"]
        params = found.uns["cell2text"]["params"]
        assert json.loads(params["options"])["max_new_tokens"] == 10 and params["model"] == str(model)
        assert "Describe" in params["prompt"] and json.loads(params["libraries"])["cell2text"]
    else:
        read = {"jsonl": lambda p: pd.read_json(p, lines=True), "csv": pd.read_csv, "parquet": pd.read_parquet}[ending]
        table = read(out)
        assert table["cell_id"].astype(str).tolist() == expected.obs_names.tolist()
        assert table["text"].fillna("").tolist() == said
    assert not list(tmp_path.glob("*.describing")) and not list(tmp_path.glob(".*"))


def test_an_input_in_another_format_is_converted(model, experiment, tmp_path):
    write_zarr(experiment, tmp_path / "in.zarr")
    out = describe_file(tmp_path / "in.zarr", tmp_path / "out.h5ad", model=str(model), options=FAST, progress=False)
    same = describe_file(experiment, tmp_path / "same.h5ad", model=str(model), options=FAST, progress=False)
    assert ad.read_h5ad(out).obs["cell2text"].tolist() == ad.read_h5ad(same).obs["cell2text"].tolist()


def test_describing_again_replaces_what_was_said(model, experiment, tmp_path):
    first = describe_file(experiment, tmp_path / "a.h5ad", model=str(model), options=FAST, progress=False)
    short = DescribeOptions(max_new_tokens=2, fields_only=True)
    second = describe_file(first, tmp_path / "b.h5ad", model=str(model), options=short, progress=False)
    found = ad.read_h5ad(second)
    assert json.loads(found.uns["cell2text"]["params"]["options"])["max_new_tokens"] == 2
    with h5py.File(second) as file:
        order = list(file["obs"].attrs["column-order"])
    assert len(order) == len(set(order)) == found.obs.shape[1]


def test_tl_returns_a_copy_where_asked_and_takes_a_loaded_model(model, experiment):
    adata = ad.read_h5ad(experiment)
    pair = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    copy = tl.describe(adata, pair, key_added="said", max_new_tokens=3, copy=True)
    assert "said" in copy.obs and "X_said" in copy.obsm and not [c for c in adata.obs if c.startswith("said")]
    assert cell2text.tl is tl and tl.embed(adata, pair) is None
    np.testing.assert_allclose(adata.obsm["X_cell2text"], copy.obsm["X_said"], atol=1e-5)
    assert (adata.obsm["X_cell2text"][5] == 0).all() and adata.obsm["X_cell2text"].dtype == np.float32


def test_questions_tasks_chats_and_second_cells(model, experiment, tmp_path):
    processor = make_processor()

    def asked(**options):
        return conversation(DescribeOptions(**options), processor)[-1]["content"][-1]["text"]

    assert asked(prompt="Which tissue?") == "Which tissue?" and asked() == processor.instruction
    assert asked(prompt="annotate") == "Name the cell type of this cell. Answer with the name alone."
    assert asked(prompt="ask:tissue") == "Which tissue is this cell from?"
    assert asked(compare_to="cell3") == "Describe the differences and similarities of these two cells."
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": "Well?"}]}]))
    assert asked(prompt=str(chat)) == "Well?"
    options = DescribeOptions(compare_to="cell3", max_new_tokens=8)
    out = describe_file(experiment, tmp_path / "c.jsonl", model=str(model), options=options, progress=False)
    adata = ad.read_h5ad(experiment)
    tl.describe(adata, str(model), compare_to="cell3", max_new_tokens=8)
    plain = describe_file(experiment, tmp_path / "p.jsonl", model=str(model), options=FAST, progress=False)
    assert texts_of(out) == adata.obs["cell2text"].tolist() != texts_of(plain)
    for options, message in [
        ({"prompt": "compare"}, "needs a cell to compare to"),
        ({"prompt": "ask:age"}, "expected ask: and one of cell_type"),
        ({"prompt": " "}, "The prompt is empty"),
        ({"prompt": "nowhere.json"}, "does not exist"),
        ({"prompt": str(chat), "compare_to": "cell3"}, "holds 1 cell blocks: expected 2"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            conversation(DescribeOptions(**options), processor)


def test_a_killed_run_of_two_processes_ends_as_if_undisturbed(model, experiment, tmp_path):
    whole = describe_file(
        experiment, tmp_path / "whole.jsonl", model=str(model), options=FAST, progress=False, shard_rows=4
    )
    out, folder = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.describing"
    arguments = (experiment, "--model", model, "--out", out, "--max-new-tokens", 10, "--batch-size", 8, "--quiet",
                 "--shard-rows", 4)  # fmt: skip

    def start():
        shared = {"WORLD_SIZE": "2"}  # what a launcher tells its processes
        return [command(*arguments, wait=False, **shared, RANK=rank) for rank in ("0", "1")]

    processes = start()
    while not list(folder.glob("rows-*.parquet")) and processes[0].poll() is None:
        time.sleep(0.001)
    for process in processes:
        process.kill()
        process.wait()
    done = len(list(folder.glob("rows-*.parquet")))
    assert 1 <= done < 8 and not out.exists()
    for rank, process in enumerate(start()):
        said, _ = process.communicate()
        assert process.returncode == 0 and ("is written" in said) == (rank == 0), said
    assert out.read_bytes() == whole.read_bytes() and not folder.exists()


def test_a_run_that_goes_on_does_not_do_twice_what_is_done(model, experiment, tmp_path, monkeypatch):
    from cell2text.describe import run

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_output", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            describe_file(experiment, tmp_path / "o.csv", model=str(model), options=FAST, progress=False, shard_rows=10)
    folder = tmp_path / "o.csv.describing"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(before) == 3
    shard_path(folder, 10).unlink()
    with pytest.raises(ValueError, match="left by a run with another options: pass --overwrite"):
        describe_file(experiment, tmp_path / "o.csv", model=str(model), progress=False, shard_rows=10)
    seen = []
    monkeypatch.setattr(
        run, "write_shard", lambda table, path, real=run.write_shard: seen.append(path.name) or real(table, path)
    )
    describe_file(experiment, tmp_path / "o.csv", model=str(model), options=FAST, progress=False, shard_rows=10)
    assert seen == ["rows-0000000010.parquet"] and pd.read_csv(tmp_path / "o.csv").shape[0] == N_CELLS


def test_a_zarr_store_is_replaced(model, experiment, tmp_path):
    for limit in (3, 6):
        options = DescribeOptions(max_new_tokens=limit)
        out = describe_file(
            experiment, tmp_path / "o.zarr", model=str(model), options=options, progress=False, overwrite=True
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params = ad.read_zarr(out).uns["cell2text"]["params"]
    assert json.loads(params["options"])["max_new_tokens"] == 6 and [p.name for p in tmp_path.iterdir()] == ["o.zarr"]


def test_batches_follow_from_the_free_memory_and_the_texts_do_not(model, experiment, tmp_path, monkeypatch):
    loaded = make_model(processor=make_processor())
    rows = [rows_that_fit(loaded, 200, free) for free in (0, 2**22, 2**24, 2**40)]
    genes = [genes_that_fit(loaded, 64, free) for free in (0, 2**22, 2**40)]
    assert rows[0] == 1 < rows[1] < rows[2] <= rows[3] == MOST_ROWS["cpu"] and all(n & (n - 1) == 0 for n in rows)
    assert genes[0] == 1 < genes[1] < genes[2] == MOST_GENES["cpu"]
    assert rows_that_fit(loaded, 2_000, 2**24) < rows[2]  # longer texts need more
    texts, sizes = [], []
    for free in (2**40, 2**18):
        monkeypatch.setattr(engine, "free_bytes", lambda _, free=free: free)
        pair = AutoModel.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
        describer = engine.Describer(*pair, DescribeOptions(max_new_tokens=10))
        sizes.append(describer.batch_size)
        texts.append(
            describer(ranked_anndata(ad.read_h5ad(experiment), pair[1], DescribeOptions()))["text"].to_pylist()
        )
    assert sizes[0] > sizes[1] and texts[0] == texts[1]


def test_memory_that_ends_halves_the_batch(model, experiment, tmp_path, monkeypatch):
    real = CellTextGenerator.__call__

    def small(self, questions):
        if len(questions) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, questions)

    expected = describe_file(experiment, tmp_path / "a.jsonl", model=str(model), options=FAST, progress=False)
    monkeypatch.setattr(CellTextGenerator, "__call__", small)
    found = describe_file(experiment, tmp_path / "b.jsonl", model=str(model), options=FAST, progress=False)
    assert texts_of(found) == texts_of(expected)


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda a: a.X.__setattr__("data", np.log1p(a.X.data)), {}, "holds fractional values"),
        (lambda a: a.X.data.__setitem__(0, np.nan), {}, "holds NaN"),
        (lambda a: a.var.__setattr__("index", [f"Gene{i}" for i in range(60)]), {}, "genes are in the vocabulary"),
        (lambda a: None, {"layer": "counts"}, "no layer 'counts'|layer='counts'"),
        (lambda a: None, {"gene_key": "symbol"}, "symbol"),
        (lambda a: None, {"compare_to": "cell99"}, "0 of 30 cells have this name|0 cells of 30"),
    ],
)
def test_files_and_python_refuse_the_same_counts(spoil, options, message, model, experiment, tmp_path):
    adata = ad.read_h5ad(experiment)
    if "feature_name" in adata.var:
        del adata.var["feature_name"]
    spoil(adata)
    adata.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises((ValueError, KeyError), match=message):
        describe_file(
            tmp_path / "bad.h5ad",
            tmp_path / "o.csv",
            model=str(model),
            options=DescribeOptions(**options),
            progress=False,
        )
    with pytest.raises((ValueError, KeyError), match=message):
        tl.describe(adata, str(model), **options)
    assert not (tmp_path / "o.csv").exists() and "cell2text" not in adata.obs


def test_an_experiment_without_cells_is_refused(model, experiment, tmp_path):
    adata = ad.read_h5ad(experiment)[:0].copy()
    adata.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(ValueError, match="none.h5ad holds no cell"):
        describe_file(tmp_path / "none.h5ad", tmp_path / "o.csv", model=str(model), progress=False)
    with pytest.raises(ValueError, match="holds no cell"):
        tl.describe(adata, str(model))


def test_wrong_places_and_models_end_in_one_line(model, experiment, tmp_path, capsys):
    zarr = tmp_path / "in.zarr"
    write_zarr(experiment, zarr)
    (tmp_path / "there.csv").write_text("precious")
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "processor_config.json").unlink()
    other = tmp_path / "other"
    shutil.copytree(model, other)
    rows = (other / "gene_vocabulary.tsv").read_text().splitlines()
    extra = "\t".join([str(int(rows[-1].split("\t")[0]) + 1), "ENSG00000999999", "1.0", "EXTRA"])
    (other / "gene_vocabulary.tsv").write_text("\n".join([*rows, extra]) + "\n")
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "config.json").write_text('{"model_type": "llama"}')
    cases = [
        (experiment, model, experiment, "is the input or lies inside it"),
        (zarr, model, zarr / "obs.csv", "is the input or lies inside it"),
        (experiment, model, tmp_path / "there.csv", "exists already: pass --overwrite"),
        (experiment, model, tmp_path / "no" / "o.csv", "does not exist"),
        (experiment, model, tmp_path / "o.txt", "expected an ending of h5ad"),
        (tmp_path / "nowhere.h5ad", model, tmp_path / "o.csv", "does not exist"),
        (experiment, bare, tmp_path / "o.csv", "has no processor"),
        (experiment, other, tmp_path / "o.csv", "do not belong together|belong together"),
        (experiment, llama, tmp_path / "o.csv", "is a llama model: expected one of Cell2Text"),
        (experiment, tmp_path / "gone", tmp_path / "o.csv", "gone does not exist"),
    ]
    for source, folder, out, message in cases:
        with pytest.raises(ValueError, match=message):
            describe_file(source, out, model=str(folder), options=FAST, progress=False)
    assert (tmp_path / "there.csv").read_text() == "precious" and not (tmp_path / "o.csv").exists()
    capsys.readouterr()
    assert run_cli("describe", experiment, "--model", model, "--out", tmp_path / "there.csv") == 2
    said = capsys.readouterr().err
    assert said.startswith("cell2text: --out") and "Traceback" not in said


def test_a_file_at_an_address_is_described_beside_where_one_stands(model, experiment, tmp_path, monkeypatch, capsys):
    with fsspec.open("memory://described/four.h5ad", "wb") as file:
        file.write(experiment.read_bytes())
    monkeypatch.chdir(tmp_path)
    out = describe_file("memory://described/four.h5ad", model=str(model), options=FAST)
    assert out == Path("four.described.h5ad") and [path.name for path in tmp_path.iterdir()] == [out.name]
    local = describe_file(experiment, tmp_path / "local.h5ad", model=str(model), options=FAST, progress=False)
    assert list(ad.read_h5ad(out).obs["cell2text"]) == list(ad.read_h5ad(local).obs["cell2text"])
    assert ad.read_h5ad(out).obs_names[0] in capsys.readouterr().out
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="is not writable"):
        describe_file(experiment, "other.h5ad", model=str(model), options=FAST)


def test_an_interrupted_write_leaves_the_output_that_was_there(model, experiment, tmp_path, monkeypatch):
    from cell2text.describe import writers

    out = describe_file(experiment, tmp_path / "o.h5ad", model=str(model), options=FAST, progress=False)
    before = out.read_bytes()

    def broken(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writers, "write_embedding", broken)
        with pytest.raises(OSError, match="No space"):
            describe_file(experiment, out, model=str(model), options=FAST, progress=False, overwrite=True)
    assert out.read_bytes() == before and [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    describe_file(experiment, out, model=str(model), options=FAST, progress=False, overwrite=True)
    assert ad.read_h5ad(out).obs["cell2text"].notna().all()
