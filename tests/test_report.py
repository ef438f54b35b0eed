"""The page of a described experiment, opened in a browser: it shows and filters cells and displays their texts."""

import json
import re
import warnings
from html import unescape

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cell2text.describe.consensus import describe_groups
from cell2text.describe.described_file import embedding_layout, read_described
from cell2text.describe.groups import find_groups
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.report import write_report
from cell2text.describe.table import make_table
from cell2text.describe.writers import groups_for_uns, obs_column
from cell2text.inference.cell_types import CellTypes
from concepts_cell2text import ConceptNames
from declining_cell2text import EMPTY_CELL_TEXT, declined_text

from .app_files import described_cells
from .browser import headless_browser, text_of, wait_until
from .conftest import run_cli


TEXTS = {
    "T": "This cell is a T cell. It comes from the blood of a healthy female donor.",
    "B": "This cell is a B cell. It comes from the spleen of a healthy male donor.",
    "N": "This cell is a neuron.",
}
HOSTILE = "</script><script>document.body.dataset.evil='yes'</script><img src=x onerror=alert(1)>"


def described_adata(n=60, groups=True, types=()):
    """Cells in three clouds with three texts; the last cell has no counts. The first of `types` has probability 0.75,
    the others 0.25.
    """
    kinds = np.array(["T", "B", "N"])[np.arange(n) % 3]
    texts = [TEXTS[kind] for kind in kinds[:-1]] + [EMPTY_CELL_TEXT]
    random = np.random.default_rng(0)
    centres = {"T": (0, 0), "B": (8, 0), "N": (0, 8)}
    places = np.array([centres[kind] for kind in kinds]) + random.normal(0, 0.4, (n, 2))
    ranked = RankedCells([f"cell{i}" for i in range(n)], [], random.integers(100, 900, n), np.full(n, 0.9), 1.0)
    concepts = np.tile([0.75, *[0.25] * (len(types) - 1)][: len(types)], (n, 1))
    cell_types = CellTypes(ConceptNames({"cell_type": list(types)}))
    table = make_table(ranked, texts, places.astype(np.float32), cell_types, concepts, fields_only=False)
    adata = ad.AnnData(sp.csr_matrix((n, 3), dtype=np.float32), obs=pd.DataFrame(index=ranked.names))
    for name in table.column_names:
        if name not in ("cell_id", "embedding"):
            adata.obs["cell2text" if name == "text" else f"cell2text_{name}"] = obs_column(table[name], name)
    adata.obs["cluster"] = pd.Categorical(["one" if kind == "T" else "two" for kind in kinds])
    adata.obsm["X_cell2text"] = places.astype(np.float32)
    adata.uns["cell2text"] = {"params": {"model": "runs/it", "options": json.dumps({"max_new_tokens": 9})}}
    if groups:
        found = find_groups(adata.obs["cluster"], "cluster", None, 0)
        bulk = RankedCells(found.names, [], np.full(2, 9), np.ones(2), 1.0)
        bulk = make_table(bulk, [TEXTS["T"], TEXTS["N"]], np.zeros((2, 2), "f4"), fields_only=False)
        adata.uns["cell2text"]["groups"] = groups_for_uns(describe_groups(found, [table], bulk))
        adata.uns["cell2text"]["params"]["groups"] = json.dumps(found.summary())
    return adata


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    path = tmp_path_factory.mktemp("described") / "described.h5ad"
    adata = described_adata(types=["T cell", "B cell"])
    adata.obsm["X_umap"] = adata.obsm["X_cell2text"]
    adata.obs_names = [*adata.obs_names[:1], HOSTILE, *adata.obs_names[2:]]
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def browser():
    with headless_browser() as driver:
        yield driver


def opened(browser, page):
    browser.get(page.resolve().as_uri())
    wait_until(lambda: browser.execute_script("return document.body.dataset.ready") == "yes")


def at_cell(browser, row):
    """Return the position of a cell on the screen, relative to the plot's centre."""
    return browser.execute_script(
        """
        const view = [...Bokeh.index][0], box = view.canvas_view.el.getBoundingClientRect();
        const data = view.model.renderers[0].data_source.data;
        return [Math.round(view.frame.x_scale.compute(data.x[arguments[0]]) - box.width / 2),
                Math.round(view.frame.y_scale.compute(data.y[arguments[0]]) - box.height / 2)];
        """,
        row,
    )


def move_to(browser, row):
    from selenium.webdriver.common.action_chains import ActionChains

    plot = browser.execute_script("return [...Bokeh.index][0].canvas_view.el")
    return ActionChains(browser).move_to_element_with_offset(plot, *at_cell(browser, row))


def test_a_browser_shows_and_filters_cells_and_displays_their_texts(browser, described, tmp_path):
    page = write_report(described, tmp_path / "report.html")
    opened(browser, page)
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    errors = [
        entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in str(entry)
    ]
    assert not errors and browser.execute_script("return document.body.dataset.evil") is None
    assert text_of(browser, "#shown") == "60 of 60 cells shown"
    labels = browser.execute_script("return [...document.querySelectorAll('#legend button')].map(b => b.innerText)")
    assert [label.split("\n") for label in labels] == [
        ["B cell", "20"], ["T cell", "20"], ["neuron", "19"], ["not named", "1"],
    ]  # fmt: skip
    colours = "return new Set([...Bokeh.index][0].model.renderers[0].data_source.data.colour).size"
    assert browser.execute_script(colours) == 4

    move_to(browser, 3).perform()
    wait_until(lambda: "cell3" in text_of(browser, "#cell"))
    assert TEXTS["T"] in text_of(browser, "#cell") and "tissue" in text_of(browser, "#cell")
    move_to(browser, 4).click().perform()
    wait_until(lambda: "cell4" in text_of(browser, "#cell"))
    move_to(browser, 5).perform()  # a clicked cell stays
    assert TEXTS["B"] in text_of(browser, "#cell")

    click = "document.querySelector(arguments[0]).click()"
    ranges = (
        "const m = [...Bokeh.index][0].model; return [m.x_range.start, m.x_range.end, m.y_range.start, m.y_range.end]"
    )
    whole = browser.execute_script(ranges)
    browser.execute_script(click, "#legend button[data-label='T cell']")
    assert browser.execute_script(ranges) == whole  # filtering does not move the map
    move_to(browser, 3).perform()  # a clicked cell is released when a filter hides it
    wait_until(lambda: "cell3" in text_of(browser, "#cell"))
    assert text_of(browser, "#shown") == "20 of 60 cells shown"
    booleans = "return [...Bokeh.index][0].model.renderers[0].view.filter.booleans.filter(Boolean).length"
    assert browser.execute_script(booleans) == 20
    browser.execute_script(click, "#clear")
    box = browser.find_element("id", "words")
    box.send_keys("nothing says this")
    assert text_of(browser, "#shown") == "0 of 60 cells shown" and browser.execute_script(ranges) == whole
    browser.execute_script(click, "#clear")
    box.send_keys("spleen")
    assert text_of(browser, "#shown") == "20 of 60 cells shown"
    browser.execute_script(click, "#clear")
    browser.execute_script("const r = document.getElementById('least'); r.value = 0.6; r.oninput();")
    n = int((read_described(described).cells["type_probability"] >= 0.6).sum())
    assert text_of(browser, "#shown") == f"{n} of 60 cells shown" and n == 20
    browser.execute_script(click, "#clear")
    for name in ("tissue", "type probability", "group: cluster"):
        browser.execute_script(
            "const c = document.getElementById('colour'); c.value = arguments[0]; c.onchange();", name
        )
        assert browser.execute_script(colours) >= 2 and text_of(browser, "#shown") == "60 of 60 cells shown"
    picture = tmp_path / "page.png"
    assert browser.save_screenshot(str(picture)) and picture.stat().st_size > 20_000
    rows = browser.execute_script("return [...document.querySelectorAll('#groups tr')].map(row => row.innerText)")
    assert rows[1].startswith("two\t40\t39\tB cell") and "This cell is a neuron" in rows[1] and len(rows) == 3


def test_the_page_has_summaries_coverage_and_provenance(described, tmp_path):
    text = write_report(described, tmp_path / "r.html").read_text()
    plain = unescape(
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text[text.index("<h1>") : text.index('<script id="data"')]))
    )
    n_genes = read_described(described).cells["n_genes"]
    for expected in [
        "60 cells", "59 described", "3 cell types", "2 tissues", "90.0 % of counts mapped", "the file's own umap",
        f"{(n_genes < 200).sum()} cells express fewer than 200", "1 cells express none and have no description", "runs/it",
        "options: max_new_tokens 9", "groups: column cluster",
    ]:  # fmt: skip
        assert expected in plain, expected


def test_groups_come_from_a_column_or_from_the_predicted_types(tmp_path):
    described_adata(groups=False).write_h5ad(tmp_path / "d.h5ad")
    plain = write_report(tmp_path / "d.h5ad", tmp_path / "a.html").read_text()
    assert "By predicted cell type" in plain and "UMAP of the embeddings" in plain
    rows = re.findall(r"<tr><td class=\"text\">([^<]+)</td><td>(\d+)</td><td>(\d+)</td>", plain)
    assert rows == [("B cell", "20", "20"), ("T cell", "20", "20"), ("neuron", "19", "19")]
    by_cluster = write_report(tmp_path / "d.h5ad", tmp_path / "b.html", groupby="cluster").read_text()
    rows = re.findall(r"<tr><td class=\"text\">([^<]+)</td><td>(\d+)</td><td>(\d+)</td>", by_cluster)
    assert rows == [("two", "40", "39"), ("one", "20", "20")] and "group: cluster" in by_cluster


def test_the_page_ranks_by_type_probability_if_available(tmp_path):
    adata = described_adata(types=["T cell", "B cell"])
    adata.obsm["X_umap"] = adata.obsm["X_cell2text"]
    adata.write_h5ad(tmp_path / "concepts.h5ad")
    page = write_report(tmp_path / "concepts.h5ad", tmp_path / "concepts.html").read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])
    name = "type probability"
    assert data["score"] == name and sorted(set(data["numbers"][name][:59]), key=str) == [0.25, 0.75, None]
    assert f"<b>0.50</b>median {name}" in page and "Minimum type probability" in page
    rows = re.findall(r"<tr><td class=\"text\">(one|two)</td>.*?<td>(\d+) %</td>\n<td class=\"text long\">", page, re.S)
    assert rows == [("two", "25"), ("one", "75")]  # no concept for neurons, which are in "two"
    adata.uns["cell2text"]["groups"] = adata.uns["cell2text"]["groups"].drop(columns="mean_type_probability")
    adata.write_h5ad(tmp_path / "between.h5ad")  # as written by earlier versions
    between = write_report(tmp_path / "between.h5ad", tmp_path / "between.html").read_text()
    assert f"<b>0.50</b>median {name}" in between and "<td>–</td>" in between
    del adata.obs["cell2text_type_probability"]  # as written by earlier versions
    adata.write_h5ad(tmp_path / "old.h5ad")
    old = write_report(tmp_path / "old.h5ad", tmp_path / "old.html").read_text()
    assert "median type" not in old and f'"{name}"' not in old and "<label hidden>Minimum" in old


def test_the_page_shows_candidates_and_counts_cells_without_a_named_type(tmp_path):
    adata = described_adata(types=["T cell", "mature T cell", "B cell"])
    adata.obs["cell2text"] = [declined_text("ambient"), *adata.obs["cell2text"][1:]]
    adata.obs["cell2text_cell_type"] = adata.obs["cell2text_cell_type"].astype(object).where(np.arange(60) > 0, None)
    adata.write_h5ad(tmp_path / "d.h5ad")
    page = write_report(tmp_path / "d.h5ad", tmp_path / "d.html").read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])
    shown = [data["candidate_texts"][code] for code in data["candidates"]]
    assert shown[0] == shown[3] == "mature T cell (0.25)" and shown[1] == ""
    assert "1 got a reason instead of a cell type (1 ambient RNA)" in page and "<b>58</b>described" in page


def test_a_dot_plot_shows_the_marker_genes_of_the_groups(tmp_path):
    described_cells().write_h5ad(tmp_path / "d.h5ad")
    pages = [write_report(tmp_path / "d.h5ad", tmp_path / f"{i}.html", groupby="label").read_text() for i in (1, 2)]
    plot = re.search(r'<div class="wide markers">(.*?)</div>', pages[0], re.S)[1]
    assert "Marker genes by label" in pages[0] and "kidney" in plot and ("B2M" in plot or "HLA-B" in plot)
    assert "<img" not in plot and "&lt;img" in plot  # the name of the other group
    assert plot == re.search(r'<div class="wide markers">(.*?)</div>', pages[1], re.S)[1]


def test_the_page_shows_evidence_and_says_why_there_are_no_marker_genes(tmp_path):
    adata = described_adata()
    adata.obs["cell2text_evidence"] = ["T cell: CD3D* (+1.2), B2M (-0.2) | hypoxia: VEGFA (+0.1)", *[None] * 59]
    adata.obs["cell2text_absent_markers"] = ["CD3E, CD8A", *[None] * 59]
    adata.write_h5ad(tmp_path / "d.h5ad")
    page = write_report(tmp_path / "d.h5ad", tmp_path / "d.html").read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])
    assert data["evidence_texts"][data["evidence"][0]].startswith("T cell: CD3D*")
    assert [data["absent_texts"][code] for code in data["absent"][:2]] == ["CD3E, CD8A", ""]
    assert "No plot of marker genes: " in page and 'class="wide markers"' not in page


def test_a_map_of_many_cells_shows_a_sample_and_says_so(described, tmp_path):
    pages = [write_report(described, tmp_path / f"{i}.html", max_cells=30, seed=1).read_text() for i in (1, 2)]
    data = [json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1]) for page in pages]
    assert "a random sample of 30 of 60\ncells" in pages[0] and len(data[0]["names"]) == 30
    assert data[0] == data[1] and sum(data[0]["labels"]["cell_type"]["counts"]) <= 30


def test_the_density_of_all_cells_lies_behind_a_sample(described, tmp_path):
    adata = ad.read_h5ad(described)
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2)).astype(np.float32)
    adata.obsm["X_umap"][7] = [40, -9]  # alone at the edge, and on the map even if it is not sampled
    adata.write_h5ad(tmp_path / "mapped.h5ad")
    sampled = write_report(tmp_path / "mapped.h5ad", tmp_path / "sampled.html", max_cells=5).read_text()
    assert "a random sample of 5 of 60\ncells over the density of all cells" in sampled and '"density"' in sampled
    end = max(float(value) for value in re.findall(r'"end":(-?[\d.]+)', sampled))
    assert end > 40
    whole = write_report(tmp_path / "mapped.h5ad", tmp_path / "whole.html").read_text()
    assert "density" not in whole.split("<script")[0] + whole.split("Map: ")[1][:400]


def test_a_page_is_reproducible_and_can_be_grouped_by_a_predicted_field(described, tmp_path):
    pages = [write_report(described, tmp_path / f"{i}.html", groupby="cell2text_cell_type").read_text() for i in (1, 2)]
    numbered = [re.sub(r"\bp\d{4,}\b", "p", page) for page in pages]  # Bokeh numbers models per process
    assert numbered[0] == numbered[1] and "By cell2text_cell_type" in pages[0]


def test_invalid_maps_are_skipped_and_invalid_embeddings_raise(tmp_path):
    adata = described_adata(groups=False)[:8].copy()
    adata.obsm["X_umap"] = np.ones((8, 1), dtype=np.float32)
    adata.obsm["X_tsne"] = np.full((8, 2), np.nan, dtype=np.float32)
    adata.uns["cell2text"] = {"params": "none", "groups": {"a": 1}}
    adata.write_h5ad(tmp_path / "d.h5ad")
    assert "components of the embeddings" in write_report(tmp_path / "d.h5ad", tmp_path / "r.html").read_text()
    adata.obsm["X_cell2text"][3] = np.nan
    adata.write_h5ad(tmp_path / "e.h5ad")
    with pytest.raises(ValueError, match=r"obsm\['X_cell2text'\] holds NaN"):
        write_report(tmp_path / "e.h5ad", tmp_path / "s.html")
    del adata.obs["cell2text_disease"]
    adata.write_h5ad(tmp_path / "f.h5ad")
    with pytest.raises(ValueError, match=r"lacks the columns \['cell2text_disease'\]"):
        write_report(tmp_path / "f.h5ad", tmp_path / "s.html")


def test_few_cells_are_laid_out_by_principal_components(tmp_path):
    for n in (1, 2, 5):
        described_adata(groups=False)[:n].copy().write_h5ad(tmp_path / f"{n}.h5ad")
        found = read_described(tmp_path / f"{n}.h5ad")
        places, name = embedding_layout(found, np.arange(n), "cell2text", 0)
        assert places.shape == (n, 2) and np.isfinite(places).all() and "principal components" in name
        assert write_report(tmp_path / f"{n}.h5ad", tmp_path / f"{n}.html").exists()


def test_a_zarr_store_and_another_key_are_read(tmp_path):
    adata = described_adata()
    adata.obsm["X_umap"] = adata.obsm["X_cell2text"]
    adata.obs = adata.obs.rename(columns=lambda name: name.replace("cell2text", "mine"))
    adata.obsm["X_mine"], adata.uns["mine"] = adata.obsm.pop("X_cell2text"), adata.uns.pop("cell2text")
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=3):
        warnings.simplefilter("ignore")
        adata.write_zarr(tmp_path / "d.zarr")
    assert write_report(tmp_path / "d.zarr", tmp_path / "r.html", key="mine").stat().st_size > 1_000_000
    with pytest.raises(ValueError, match="holds no described cells under key='cell2text'"):
        write_report(tmp_path / "d.zarr", tmp_path / "s.html")


def test_unusable_input_ends_in_one_line(described, small_h5ad, tmp_path, capsys):
    (tmp_path / "there.html").write_text("precious")
    (tmp_path / "bad.h5ad").write_text("no HDF5")
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "folder.html").mkdir()
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["values"] = [1, 2]
    described_adata()[:0].copy().write_h5ad(tmp_path / "none.h5ad")
    cases = [
        (small_h5ad, "r.html", {}, "holds no described cells under key='cell2text'. Run `cell2text describe"),
        (described, "there.html", {}, r"exists\. Pass overwrite=True"),
        (described, "r.pdf", {}, r"expected a path that ends in \.html"),
        (described, "no/r.html", {}, "does not exist"),
        (tmp_path / "gone.h5ad", "r.html", {}, r"gone\.h5ad does not exist"),
        (tmp_path / "bad.h5ad", "r.html", {}, "cannot be opened: it is damaged or not an AnnData"),
        (tmp_path / "rows.jsonl", "r.html", {}, r"expected an \.h5ad file or a \.zarr store"),
        (tmp_path / "none.h5ad", "r.html", {}, "holds no cells"),
        (described, "r.html", {"groupby": "leiden"}, r"obs has no such column, it has \['cluster'\]"),
        (tmp_path / "other.h5ad", "r.html", {}, r"is not an AnnData: it lacks obs \(it has \['values'\]\)"),
        (described, "folder.html", {"overwrite": True}, "is a folder"),
        (described, "r.html", {"seed": -1}, "seed=-1: expected a number from 0"),
        (described, "r.html", {"max_cells": 0}, "max_cells=0: expected at least 1"),
    ]
    for source, out, options, message in cases:
        with pytest.raises((ValueError, KeyError), match=message):
            write_report(source, tmp_path / out, **options)
    assert (tmp_path / "there.html").read_text() == "precious" and not (tmp_path / "r.html").exists()
    assert run_cli("report", described, "--out", tmp_path / "there.html") == 2
    assert capsys.readouterr().err.startswith("cell2text: --out")


def test_progress_is_shown_unless_quiet(described, tmp_path, capsys):
    assert run_cli("report", described, "--out", tmp_path / "a.html") == 0
    assert "Summarising groups" in capsys.readouterr().err
    assert run_cli("report", described, "--out", tmp_path / "b.html", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_groups_can_have_a_slash_in_their_name(tmp_path):
    adata = described_adata(groups=False)
    adata.obsm["X_umap"] = adata.obsm["X_cell2text"]
    adata.obs["leiden/0.5"] = adata.obs["cluster"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later versions of anndata refuse such names
        adata.write_h5ad(tmp_path / "described.H5AD")
    found = read_described(tmp_path / "described.H5AD")
    assert found.other_columns == ["cluster", "leiden/0.5"]
    assert found.column("leiden/0.5").tolist() == adata.obs["cluster"].tolist()
    page = write_report(tmp_path / "described.H5AD", tmp_path / "a.html", groupby="leiden/0.5").read_text()
    assert "group: leiden/0.5" in page
    with pytest.raises(KeyError, match="groupby='leiden': obs has no such column"):
        found.column("leiden")
