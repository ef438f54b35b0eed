"""The app without a browser: opening files, details of cells, comparisons, corrections, exports and handlers."""

import hashlib
import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

import cell2text
from cell2text.app.comparison import compare_groups
from cell2text.app.corrections import Corrections, look_up, suggest
from cell2text.app.desk import Desk, journal_path, safe_name
from cell2text.app.details import cell_details
from cell2text.app.experiment import read_experiment
from cell2text.app.export import export
from cell2text.app.handlers import Handlers
from cell2text.app.layout import KEPT, _read, layout_path
from cell2text.app.opening import check_openable, open_experiment
from cell2text.app.options import AppOptions
from cell2text.app.questions import Exchange, answer
from cell2text.app.server import UPLOADS, serve
from cell2text.app.session import Session
from cell2text.app.tools import tools
from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError

from .app_files import HOSTILE, N_CELLS, SCRIPT, TEMPLATE, described_cells
from .conftest import run_cli


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("app") / "cells.described.h5ad"
    described_cells().write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def experiment(path):
    return read_experiment(path)


@pytest.fixture
def desk(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    desk = Desk(copy, AppOptions())
    yield desk
    desk.close()


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(experiment, dataset: str) -> np.ndarray:
    return np.flatnonzero(experiment.described.column("dataset_id") == dataset)


def test_an_undescribed_file_is_described_beside_it_with_progress_and_then_reused(tmp_path):
    source = tmp_path / "cells.h5ad"
    adata = cell2text.example_cells(unseen=True)[:6].copy()
    adata.write_h5ad(source)
    before, stages = digest(source), []
    opened = open_experiment(source, on_progress=lambda *stage: stages.append(stage))
    assert opened.path == tmp_path / "cells.described.h5ad" and str(opened.path) in opened.notes[0]
    assert [stage for stage in stages if stage[0] == "Describing cells"] == [
        ("Describing cells", 0, 6), ("Describing cells", 6, 6),
    ]  # fmt: skip
    opened.close()
    written = digest(opened.path)
    again = open_experiment(source)
    assert "described before" in again.notes[0] and digest(opened.path) == written and digest(source) == before
    again.close()
    adata[:3].copy().write_h5ad(source)
    with pytest.raises(UserError, match="describes other cells"):
        open_experiment(source)


def test_a_file_that_cannot_be_opened_is_refused_at_once(tmp_path, path, capsys):
    logs = ad.AnnData(np.log1p(np.arange(12.0).reshape(3, 4)))
    logs.write_h5ad(tmp_path / "logs.h5ad")
    for options in (("--port", "0"), ("--host", "http://x"), ("--max-cells", "0")):
        assert run_cli("app", path, *options) == 2
        assert options[0] in capsys.readouterr().err
    assert run_cli("app", tmp_path / "gone.h5ad") == 2
    with pytest.raises(ValueError, match="logs"):
        check_openable(tmp_path / "logs.h5ad", options=DescribeOptions())
    with pytest.raises(UserError, match="under key='other'"):
        check_openable(path, key="other", options=DescribeOptions())


def test_the_map_can_be_coloured_by_predictions_and_by_every_column(experiment):
    assert {"described:cell_type", "described:type_probability", "obs:label", "obs:score"} <= set(experiment.colourings)
    labels = experiment.colours("obs:label")
    assert labels["kind"] == "labels" and sorted(labels["names"]) == sorted([HOSTILE, "kidney"])
    assert sum(labels["counts"]) == N_CELLS and len(labels["codes"]) == N_CELLS
    numbers = experiment.colours("obs:score")
    assert numbers["kind"] == "numbers" and (numbers["low"], numbers["high"]) == (0.0, N_CELLS - 1.0)
    assert numbers["codes"] == sorted(numbers["codes"]) and numbers["codes"][-1] == 255
    with pytest.raises(KeyError, match="expected one of"):
        experiment.colours("obs:nothing")


def test_points_of_a_sampled_map_lead_to_the_rows_of_the_file(path):
    sampled = read_experiment(path, max_cells=10, seed=3)
    assert "random sample of 10 of 60 cells" in sampled.notes[0] and len(sampled.places()["names"]) == 10
    rows = sampled.rows_of_points([4, 2, 2])
    assert rows.tolist() == sampled.rows[[2, 4]].tolist() and sampled.points_of_rows(rows) == [2, 4]
    missing = np.setdiff1d(np.arange(N_CELLS), sampled.rows)
    assert sampled.points_of_rows(missing) == []
    for wrong in ([10], [-1], ["1"], [True], None, [1.5], {"0": 1}):
        with pytest.raises(UserError, match="integers from 0 to 9"):
            sampled.rows_of_points(wrong)


def test_a_computed_map_is_kept_and_only_used_for_the_same_cells(path, tmp_path, monkeypatch):
    adata = ad.read_h5ad(path)
    del adata.obsm["X_umap"]
    source = tmp_path / "cells.h5ad"
    adata.write_h5ad(source)
    calls = []

    def computed(described, rows, key, seed):
        calls.append(seed)
        return np.full((len(rows), 2), float(seed)) + np.arange(len(rows))[:, None], KEPT

    monkeypatch.setattr("cell2text.app.layout.embedding_layout", computed)
    first, second = read_experiment(source), read_experiment(source)
    assert calls == [0] and np.allclose(first.positions, second.positions) and second.map_name == KEPT
    read_experiment(source, seed=1)
    read_experiment(source, max_cells=20)
    assert calls == [0, 1, 0]
    layout_path(source).write_bytes(b"damaged")
    read_experiment(source)
    assert len(calls) == 4


def test_a_kept_map_with_any_damaged_byte_is_ignored(tmp_path):
    path, positions = tmp_path / "cells.map.npz", np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    np.savez_compressed(path, positions=positions, fingerprint="cells-0")
    content = path.read_bytes()
    assert np.array_equal(_read(path, "cells-0", 50), positions)
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        found = _read(path, "cells-0", 50)
        assert found is None or np.array_equal(found, positions), place


def test_a_page_that_waits_for_the_file_shows_how_far_it_is(desk, monkeypatch):
    opened, seen = desk._open, []

    def slowly(source, folder, on_progress):
        on_progress("Describing cells", 5, 60)
        time.sleep(1.0)
        return opened(source, folder, on_progress)

    monkeypatch.setattr(desk, "_open", slowly)
    desk.open_ahead()
    time.sleep(0.1)
    session = desk.start(lambda *stage: seen.append(stage))
    assert session is not None and ("Describing cells", 5, 60) in seen


def test_closing_the_app_ends_the_opening_of_its_file(desk, monkeypatch):
    stopped = threading.Event()

    def describe_for_long(source, folder, on_progress):
        try:
            while True:
                on_progress("Describing cells", 5, 60)
                time.sleep(0.01)
        finally:
            stopped.set()

    monkeypatch.setattr(desk, "_open", describe_for_long)
    desk.open_ahead()
    # A daemon thread can be frozen at exit while it holds the lock of HDF5.
    (opening,) = (thread for thread in threading.enumerate() if "_open_ahead" in thread.name)
    assert not opening.daemon
    desk.close()
    assert stopped.wait(10)


def test_a_cell_shows_its_text_probabilities_genes_and_pathways(experiment):
    row = int(np.flatnonzero(experiment.cells["type_probability"].notna())[0])
    stored = experiment.cells.iloc[row]
    found = cell_details(experiment, row)
    assert found.text == stored["text"] and found.name == experiment.names[row]
    (named,) = [bar for bar in found.types if bar.role == "named"]
    assert named.name == stored["cell_type"]
    assert named.probability == pytest.approx(stored["type_probability"], abs=2e-4)
    broader = [bar for bar in found.types if bar.role == "broader"]
    assert broader and all(bar.probability >= named.probability - 1e-6 for bar in broader)
    scores = [one.score for one in found.pathways]
    assert len(found.genes) == 15 and scores == sorted(scores, reverse=True)
    assert {one.name for one in found.pathways if one.stated} <= set(stored["pathways"].split("; "))
    assert any(one.stated for one in found.pathways)
    of_type = found.evidence[0]
    assert of_type.statement.value == named.name and len(of_type.genes) == 5
    assert {gene.gene for gene in of_type.genes if gene.is_marker} <= {
        *of_type.present_markers,
        *(gene.gene for gene in of_type.genes),
    }
    assert not set(of_type.present_markers) & set(of_type.absent_markers)


@pytest.fixture(scope="module")
def with_own_candidates(path):
    """An experiment whose stored candidates each test replaces."""
    experiment = read_experiment(path)
    cells = experiment.described.cells
    cells["cell_type_candidates"] = cells["cell_type_candidates"].astype(object)
    yield experiment
    experiment.close()


@pytest.mark.parametrize("text", ["", "; ", "T cell", "T cell (likely)", "T cell (nan)", "T cell (7)", " (0.5)"])
def test_candidates_that_cannot_be_read_are_left_out(with_own_candidates, text):
    experiment = with_own_candidates
    row = int(np.flatnonzero(experiment.cells["type_probability"].notna())[0])
    cells = experiment.described.cells
    column = cells.columns.get_loc("cell_type_candidates")
    cells.iloc[row, column] = f"{text}; B cell (0.25)"
    found = cell_details(experiment, row)
    assert [bar.name for bar in found.types if bar.role == "candidate"] == ["B cell"]
    cells.iloc[row, column] = text
    assert not [bar for bar in cell_details(experiment, row).types if bar.role == "candidate"]


def test_a_file_without_counts_shows_what_is_stored_and_says_why(path, tmp_path):
    adata = ad.read_h5ad(path)
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(tmp_path / "logs.h5ad")
    experiment = read_experiment(tmp_path / "logs.h5ad")
    row = int(np.flatnonzero(experiment.cells["type_probability"].notna())[0])
    found = cell_details(experiment, row)
    assert found.text and found.types[0].role == "named" and not found.genes
    assert "need the counts of the file" in found.notes[0]
    compared = compare_groups(experiment, np.arange(5), np.arange(10, 15))
    assert compared.composition and not compared.probabilities and "need the counts" in compared.notes[-1]


def test_groups_differ_in_composition_probabilities_and_markers(experiment):
    kidney, pancreas = rows_of(experiment, "kidney_immune"), rows_of(experiment, "baron_pancreas")
    found = compare_groups(experiment, kidney, pancreas)
    assert found.sizes == (len(kidney), len(pancreas))
    assert sum(one for _, one, _ in found.composition) == pytest.approx(1.0)
    means = {name: values for name, *values in found.probabilities}
    assert means["leukocyte"][0] > 0.9 > 0.5 > means["leukocyte"][1]
    assert found.markers[0] and all(one.log2_fold_change > 0 for one in found.markers[0])
    assert {one.gene for one in found.markers[0]}.isdisjoint(one.gene for one in found.markers[1])
    with pytest.raises(UserError, match="Group B is empty"):
        compare_groups(experiment, kidney, np.zeros(0, dtype=int))
    with pytest.raises(UserError, match="same cells"):
        compare_groups(experiment, kidney, kidney)


def test_a_question_is_answered_for_one_cell_and_counted_over_several(experiment):
    row = int(np.flatnonzero(experiment.cells["type_probability"].notna())[0])
    *_, one = answer(experiment, np.array([row]), "  What cell type\nis this? ")
    assert (
        one.done
        and one.question == "What cell type is this?"
        and experiment.cells["cell_type"].iloc[row] in one.answer[0]
    )
    *_, several = answer(experiment, np.arange(5), "Which cell types are these?")
    assert several.done and several.about == "5 cells" and several.answer
    *_, compared = answer(experiment, np.arange(5), "How do they differ?", second=np.arange(50, 55))
    assert compared.about == "5 cells and 5 cells" and compared.answer
    *_, outside = answer(experiment, np.array([row]), "Who won the world cup?")
    assert outside.done and len(outside.answer) > 3  # the questions that are answered
    for wrong, message in (("", "is empty"), ("x" * 501, "501 characters")):
        with pytest.raises(UserError, match=message):
            list(answer(experiment, np.array([0]), wrong))


def test_labels_resolve_to_ontology_terms_and_similar_ones_are_offered():
    assert look_up("NK cell").term_id == "CL:0000623" and look_up(" cl:0000236 ").label == "B cell"
    assert look_up("my own type").term_id is None
    assert ("regulatory T cell", "CL:0000815") in suggest("regulatory T")
    for wrong, message in (
        ("CL:9999999", "no such term"),
        ("", "is empty"),
        ("unknown", "is unknown"),
        ("x" * 201, "201"),
    ):
        with pytest.raises(UserError, match=message):
            look_up(wrong)


def test_corrections_are_kept_in_a_journal_with_who_and_when(tmp_path):
    journal = tmp_path / "cells.corrections.jsonl"
    corrections = Corrections(journal)
    corrections.add(["a", "b"], ["T cell", None], "B lymphocyte", by=" Ada\nL. ")
    corrections.add(["a"], ["T cell"], "my own type", by="Bo")
    read = Corrections(journal)
    assert read.current == corrections.current and len(read.journal) == 3
    assert (read.current["a"].label, read.current["a"].term_id, read.current["a"].by) == ("my own type", None, "Bo")
    assert read.current["b"].by == "Ada L." and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\+00:00", read.current["b"].at)
    assert read.withdraw(["a", "c"], by="Bo") == 1 and set(Corrections(journal).current) == {"b"}
    for cells, label, by, message in (
        ([], "B cell", "Ada", "No cell is selected"), (["a"], "B cell", " ", "Your name is empty"),
        (["a"], "", "Ada", "label is empty"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            corrections.add(cells, [None] * len(cells), label, by=by)
    journal.write_text('{"cell_id": "a"}\n')
    with pytest.raises(UserError, match="is not a journal"):
        Corrections(journal)


def test_apps_that_correct_the_same_file_keep_the_corrections_of_each_other(tmp_path):
    journal = tmp_path / "cells.corrections.jsonl"
    apps = [Corrections(journal) for _ in range(4)]
    with ThreadPoolExecutor(len(apps)) as pool:
        for i in range(len(apps)):
            for j in range(5):
                pool.submit(apps[i].add, [f"cell{i}-{j}"], [None], "B cell", by=f"user {i}")
    assert len(Corrections(journal).current) == 20
    apps[0].add(["last"], [None], "T cell", by="Ada")
    assert len(apps[0].journal) == 21
    assert apps[1].withdraw(["last"], by="Bo") == 1 and "last" not in Corrections(journal).current


def test_corrections_that_cannot_be_saved_change_nothing(tmp_path, monkeypatch):
    journal = tmp_path / "cells.corrections.jsonl"
    corrections = Corrections(journal)
    corrections.add(["a"], [None], "B cell", by="Ada")
    before, written = corrections.journal, journal.read_text()

    def full_disk(path, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("cell2text.app.corrections.write_atomically", full_disk)
        for change in (
            lambda: corrections.add(["b"], [None], "T cell", by="Ada"), lambda: corrections.withdraw(["a"], by="Ada")
        ):  # fmt: skip
            with pytest.raises(UserError, match="cannot be saved.*No space left on device"):
                change()
    assert corrections.journal == before and journal.read_text() == written
    monkeypatch.setattr("cell2text.app.corrections.LOCK_SECONDS", 0.1)
    with FileLock(journal.with_name(f".{journal.name}.lock")), pytest.raises(UserError, match="cannot be saved"):
        Corrections(journal).add(["b"], [None], "T cell", by="Bo")


def test_cells_of_the_same_name_cannot_be_corrected(path, tmp_path):
    adata = ad.read_h5ad(path)
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]
    adata.write_h5ad(tmp_path / "twins.h5ad")
    session = Session(read_experiment(tmp_path / "twins.h5ad"))
    session.choose_cell(0)
    panels = Handlers(Desk(None, AppOptions())).correct(session, "B cell", "Ada", "cell")
    assert "not unique (1 repeated, such as &#39;twin&#39;)" in panels["message"]
    assert "obs_names_make_unique" in panels["message"] and not session.corrections.journal


def test_exports_hold_the_corrections_and_leave_the_input_alone(path, experiment, tmp_path):
    before, corrections = digest(path), Corrections()
    predicted = experiment.cells["cell_type"].iloc[5]
    corrections.add(["cell5"], [predicted], "NK cell", by="=cmd()")
    obs = ad.read_h5ad(export(experiment, corrections, tmp_path / "out.h5ad")).obs
    assert obs.loc["cell5", "cell2text_curated_cell_type"] == "natural killer cell"
    assert obs.loc["cell5", "cell2text_curated_cell_type_ontology_term_id"] == "CL:0000623"
    assert obs.loc["cell5", "cell2text_corrected_from"] == predicted and obs["cell2text_corrected_by"].count() == 1
    others = obs.index != "cell5"
    assert (obs["cell2text_curated_cell_type"].astype(object)[others].dropna()
            == obs["cell2text_cell_type"].astype(object)[others].dropna()).all()  # fmt: skip
    journal = ad.read_h5ad(tmp_path / "out.h5ad").uns["cell2text_corrections"]
    assert json.loads(journal)["by"] == "=cmd()"
    table = pd.read_csv(export(experiment, corrections, tmp_path / "out.csv"), index_col=0)
    assert table.loc["cell5", "cell2text_corrected_by"] == "'=cmd()" and len(table) == N_CELLS
    cas = json.loads(export(experiment, corrections, tmp_path / "out.json").read_text())
    cells = {one["cell_label"]: one["cell_ids"] for one in cas["annotations"]}
    assert "cell5" in cells["natural killer cell"] and "cell5" not in cells.get(predicted, [])
    assert cas["description"].endswith("Labels of 1 cells were corrected by hand by =cmd().")
    assert digest(path) == before
    read_experiment(tmp_path / "out.h5ad").close()  # an export can be opened again
    for out, message in (
        (path, "never changed"),
        (tmp_path / "x.pdf", "suffixes"),
        (tmp_path / "no" / "x.csv", "exist"),
    ):
        with pytest.raises(UserError, match=message):
            export(experiment, corrections, out)


def test_handlers_change_the_session_and_return_escaped_panels(desk):
    handlers = Handlers(desk)
    panels = handlers.start()
    session = panels["session"]
    assert isinstance(session, Session) and len(panels["map"]["places"]["names"]) == N_CELLS
    assert "No cell is chosen" in handlers.ask(session, "Why?", "cell").__next__()["message"]
    for row, name in ((1, HOSTILE), (2, TEMPLATE), (3, SCRIPT)):
        shown = handlers.pick(session, row)["cell"]
        assert session.cell == row and not re.search(r"<(img|script)|[{}$`\\]", shown), name
    assert (
        "no cell" in str(handlers.pick(session, "1")).lower()
        or "expected a list" in handlers.pick(session, "1")["message"]
    )
    session.coloured_by = "obs:label"
    chosen = handlers.choose_label(session, HOSTILE)
    assert "&lt;img" in chosen["message"] and chosen["map"]["n_selected"] == len(session.selection)
    handlers.set_group(session, "A")
    handlers.choose(session, list(range(N_CELLS - 8, N_CELLS)))
    assert "Group A" in handlers.set_group(session, "B")["comparison"]
    assert "Composition" in handlers.compare(session)["comparison"]
    *_, last = handlers.ask(session, "<b>What</b> cell type is this?", "selection")
    assert "&lt;b&gt;What" in last["conversation"] and "<b>What" not in last["conversation"]
    handlers.find(session, "cell7")
    assert handlers.correct(session, "NK cell", "<i>Ada</i>", "cell")["corrections"].count("&lt;i&gt;Ada") == 1
    assert "Corrected to natural killer cell" in handlers.pick(session, 7)["cell"]
    out = handlers.export(session, ".csv")["download"]
    assert str(desk.folder) in out and "natural killer cell" in Path(out).read_text()
    assert "1 corrections withdrawn" in handlers.withdraw(session, "Ada", "cell")["message"]
    again = desk.start()  # another page of the same user keeps the journal
    assert again.corrections is session.corrections and journal_path(desk._shared.path).exists()


def test_a_question_that_fails_is_finished_with_the_reason(desk, monkeypatch):
    def fails(experiment, rows, question, **_):
        yield Exchange(question, "1 cell")
        raise UserError("The counts are not raw.")

    monkeypatch.setattr("cell2text.app.handlers.answer", fails)
    handlers, session = Handlers(desk), desk.start()
    session.choose_cell(0)
    first, last = handlers.ask(session, "Why?", "cell")
    assert "Answering" in first["conversation"] and "Answering" not in last["conversation"]
    assert "The counts are not raw." in last["conversation"] and "The counts are not raw." in last["message"]
    closed = handlers.ask(session, "And why?", "cell")
    next(closed)
    closed.close()  # as when the page is left
    assert session.conversation[-1].done and "interrupted" in session.conversation[-1].notes[0]


def test_questions_asked_at_the_same_time_keep_their_own_answers(desk):
    handlers, session = Handlers(desk), desk.start()
    session.choose_cell(0)
    questions = ("What cell type is this?", "Is this a T cell?")
    one, two = (handlers.ask(session, question, "cell") for question in questions)
    for running in (one, two):
        next(running)
    *_, last = one
    *_, last = two
    assert [exchange.question for exchange in session.conversation] == list(questions)
    assert all(exchange.done and exchange.answer for exchange in session.conversation)
    assert "Answering" not in last["conversation"]


def test_an_app_that_cannot_start_leaves_no_folder_and_no_setting(tmp_path, monkeypatch):
    monkeypatch.setattr("cell2text.app.server.find_spec", lambda name: name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gradio", None)  # its import fails
    monkeypatch.setenv(UPLOADS, "before")
    with pytest.raises(ImportError):
        serve(None, AppOptions())
    assert os.environ[UPLOADS] == "before" and not list(tmp_path.glob("cell2text-app-*"))


def test_a_closed_app_restores_the_folder_of_uploads(monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.delenv(UPLOADS, raising=False)
    with serve(None, AppOptions()) as running:
        assert os.environ[UPLOADS] == str(running.desk.folder / "uploads")
    assert UPLOADS not in os.environ and not running.desk.folder.exists()


def test_uploads_are_checked_and_never_leave_their_folder(desk, path, tmp_path):
    assert safe_name("../../etc/my cells.h5ad") == "my_cells.h5ad" and safe_name("..\\..\\x.csv") == "x.csv"
    handlers = Handlers(desk)
    session = handlers.start()["session"]
    for name, content, message in (
        ("evil.py", b"import os", "expected a file that ends in"),
        ("bad.h5ad", b"not HDF5", "damaged, truncated or not h5ad"),
        ("model.pkl", b"\x80\x04.", "expected a file that ends in"),
    ):
        (tmp_path / name).write_bytes(content)
        panels = handlers.open_upload(session, tmp_path / name)
        assert message in panels["message"] and "session" not in panels
    hostile = tmp_path / "<b>x<b>.h5ad"
    hostile.write_bytes(path.read_bytes())
    panels = handlers.open_upload(session, hostile)
    opened = panels["session"]
    assert desk.folder in opened.experiment.path.parents and "<b>x" not in panels["head"]
    assert opened.corrections.path is None and opened.corrections is not session.corrections
    desk.close_session(opened)
    assert not opened.experiment.path.exists() and session.experiment.path.exists()
    small = Desk(None, AppOptions(max_upload=1))
    large = tmp_path / "large.h5ad"
    large.write_bytes(b"0" * 1_000_001)
    with pytest.raises(UserError, match="expected at most 1 MB"):
        small.open_upload(large)
    folder = small.folder
    small.close()
    assert not folder.exists()


def test_tools_find_describe_and_ask_about_cells(desk):
    find_cells, describe_cell, ask_about_cells = tools(desk)
    experiment = desk.start().experiment
    named = str(experiment.cells["cell_type"].dropna().iloc[0])
    found = find_cells(named, 2)
    assert 1 <= len(found) <= 2 and experiment.cells.loc[found, "cell_type"].eq(named).all()
    described = json.loads(json.dumps(describe_cell(found[0])))  # ready for JSON
    assert described["name"] == found[0] and described["evidence"][0]["statement"]["value"] == named
    assert ask_about_cells(f"Is this a {named}?", found[:1]).startswith("Yes")
    with pytest.raises(UserError, match="have 'nothing' in their name"):
        describe_cell("nothing")
    with pytest.raises(UserError, match="without a file"):
        tools(Desk(None, AppOptions()))[0]("")


def test_users_of_a_shared_app_do_not_see_the_corrections_of_others(path):
    desk = Desk(path, AppOptions(shared=True))
    one, two = desk.start(), desk.start()
    one.corrections.add(["cell4"], [None], "B cell", by="Ada")
    assert one.experiment is two.experiment and not two.corrections.current and not journal_path(path).exists()
    desk.close()
