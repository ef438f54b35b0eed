"""Figures quoted in the guides equal the results that the benchmarks wrote."""

import json
import re
from pathlib import Path

import pytest
import yaml

from cell2text.describe.group_types import MAX_DISAGREEMENT
from cell2text.describe.thin_cells import LOW_COVERAGE
from cell2text.evaluation.named_types import NAMED_TYPE_METRICS
from cell2text.evaluation.report import SYSTEM_NAMES
from configuration_cell2text import Cell2TextConfig
from declining_cell2text import MIN_SUBTYPE_PROBABILITY, too_few_genes_text


PROJECT = Path(__file__).resolve().parents[1]
GUIDES = PROJECT / "docs" / "guides"
KINDS = ("sparse", "dense")


def results(name: str) -> dict:
    return json.loads((PROJECT / "benchmarks" / "results" / f"{name}.json").read_text())


def measured(name: str) -> dict:
    return {part: found["measured"] for part, found in results(name).items()}


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def with_interval(figures: list[float]) -> str:
    value, *bounds = map(percent, figures)
    return f"{value} ({' to '.join(bounds)})" if bounds else value


@pytest.fixture(scope="module")
def benchmarks() -> str:
    return (GUIDES / "benchmarks.md").read_text()


@pytest.fixture(scope="module")
def packaged_model() -> str:
    return (GUIDES / "packaged_model.md").read_text()


def prose(page: str) -> str:
    return " ".join(page.split())


def row(page: str, start: str) -> list[str]:
    """Cells of the only table row that starts with this text."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def verdicts(bars: list[bool]) -> str:
    return " / ".join("yes" if bar else "no" for bar in bars)


def test_speed_of_preparation_is_quoted_with_its_verdicts(benchmarks):
    found, bars = measured("preparation"), results("preparation")
    scale, scores = found["scale"], found["aucell"]
    rows = {
        "Rank encoding": (
            "ranks",
            [found["ranks"][kind]["ratio"] for kind in KINDS],
            ("1 sparse >= 4", "1 dense >= 2.5"),
        ),
        "Whole run, gzip-compressed h5ad, 60,000": (
            "scale",
            [scale[f"{kind}-gzip"]["cpu_ratio_to_published_at_60000"] for kind in KINDS],
            [f"2 {kind}-gzip >= 3, at 60,000" for kind in KINDS],
        ),
        "Whole run, uncompressed": (
            "scale",
            [scale[f"{kind}-raw"]["cpu_ratio_to_published_at_60000"] for kind in KINDS],
            [f"2 {kind}-raw >= 4.5, at 60,000" for kind in KINDS],
        ),
        "Whole run, gzip-compressed h5ad: a bare": (
            "scale",
            [scale[f"{kind}-gzip"]["speed_relative_to_bare_read_at_60000"] for kind in KINDS],
            [f"4 {kind} >= 0.75, at 60,000" for kind in KINDS],
        ),
        "AUCell pathway scores, expected": (
            "aucell",
            [scores[kind]["expected_over_decoupler"] for kind in KINDS],
            ("5 expected sparse >= 12", "5 expected dense >= 6"),
        ),
        "AUCell pathway scores, seeded": (
            "aucell",
            [scores[kind]["seeded_over_decoupler"] for kind in KINDS],
            ("5 seeded >= 4", "5 seeded >= 4"),
        ),
    }
    for start, (part, values, names) in rows.items():
        expected = [*(f"{value:.2f}" for value in values), verdicts([bars[part]["bars"][name] for name in names])]
        assert row(benchmarks, start)[2:] == expected


def test_memory_of_preparation_is_quoted_with_its_verdicts(benchmarks):
    bars = results("preparation")["scale"]["bars"]
    names = {"Sparse, gzip": "sparse-gzip", "Sparse, uncompressed": "sparse-raw", "Dense, gzip": "dense-gzip"}
    for start, name in {**names, "Dense, uncompressed": "dense-raw"}.items():
        found = measured("preparation")["scale"][name]
        met = bars[f"3 {name} <= 300 MiB"] and bars[f"3 {name} growth <= 10 %"]
        sizes = [f"{found['MiB_above_imports'][cells]:.0f}" for cells in ("20000", "60000")]
        assert row(benchmarks, start)[2:] == [*sizes, f"{percent(found['growth'])} %", verdicts([met])]


def test_other_results_of_preparation_are_quoted_with_their_verdicts(benchmarks):
    found, bars = measured("preparation"), results("preparation")
    writing, arrow = found["writing"], "6 arrow_over_from_generator_of"
    rows = {
        "Writing Arrow shards, relative to `Dataset.from_generator` on lists": (
            f"{writing['arrow_over_from_generator_of_lists']:,.0f}",
            bars["writing"]["bars"][f"{arrow}_lists >= 50"],
        ),
        "Writing Arrow shards, relative to `Dataset.from_generator` on arrays": (
            f"{writing['arrow_over_from_generator_of_arrays']:.1f}",
            bars["writing"]["bars"][f"{arrow}_arrays >= 50"],
        ),
        "Bytes per token, Arrow": (f"{writing['arrow_bytes_per_token']:.2f}", bars["writing"]["bars"]["6 bytes <= 2.2"]),
        "Bytes per token, Parquet": (
            f"{writing['parquet_bytes_per_token']:.2f}", bars["writing"]["bars"]["6 bytes <= 2.2"],
        ),
        **{
            f"Merging genes that occur twice, share of preparation time, {kind}": (
                f"{found['collapse'][kind]['share_of_preparation']:.3f}", bars["collapse"]["bars"][f"7 {kind} <= 15 %"],
            )
            for kind in KINDS
        },
    }  # fmt: skip
    for start, (value, met) in rows.items():
        assert row(benchmarks, start)[2:] == [value, verdicts([met])]
    text = prose(benchmarks)
    lists, arrays = (writing[f"parquet_over_from_generator_of_{kind}"] for kind in ("lists", "arrays"))
    assert f"written {lists:.1f} times as fast as `from_generator` on lists and {arrays:.1f} times as fast" in text
    assert (
        f"in {sum(found['ranks'][kind]['cells_that_differ_otherwise'] for kind in KINDS)} cells beyond the order"
        in text
    )
    genes = [f"{found['ranks'][kind]['genes_per_cell']:,}" for kind in KINDS]
    assert f"about {genes[0]} expressed genes per cell (sparse) and {genes[1]} (dense)" in text
    real = found["aucell"]["real cells"]
    worst = max(cells["largest_difference_from_pyscenic"] for cells in real.values())
    assert f"from each of {len(real)} reference files (largest difference {worst:g})" in text
    assert not any(found["aucell"][kind]["largest_difference_between_batches"] for kind in KINDS)


def test_results_of_training_are_quoted_with_their_verdicts(benchmarks):
    found, bars = measured("training"), results("training")
    rows = {
        "Encoder (V1-10M)": (f"{found['buckets']['bucketed by length, over pad-to-2,048']:.2f}", "8 bucketed >= 1.7"),
        "Largest difference of its outputs": (
            f"{found['buckets']['largest_difference_from_one_cell_calls']:.1e}", "8 equal to 1e-4",
        ),
        "Step with cached": (f"{found['states']['encoding_over_kept']:.2f}", "9 kept >= 2.2"),
        "Difference of the two losses": (f"{found['states']['difference_of_the_losses']:g}", "9 equal loss"),
        "Projector and placeholder fill": (f"{found['parts']['share_of_a_step']:.3f}", "10 share <= 0.05"),
        "Head and loss": (f"{found['head']['all_positions_over_the_answer']:.2f}", "11 answer alone >= 1.9"),
        "Largest relative difference of the gradients": (
            f"{found['head']['largest_relative_difference_of_gradients']:.1e}", "11 gradients equal",
        ),
    }  # fmt: skip
    met = {name: bar for part in bars.values() for name, bar in part["bars"].items()}
    assert len(rows) == len(met)
    for start, (value, name) in rows.items():
        assert row(benchmarks, start)[2:] == [value, verdicts([met[name]])]
    assert f"runs at {found['head']['all_positions_over_TRL_on_CPU']:.2f} times the speed" in prose(benchmarks)


def test_results_of_describing_are_quoted_with_their_verdicts(benchmarks):
    found, bars = measured("describing"), results("describing")
    met = {name: bar for part in bars.values() for name, bar in part["bars"].items()}
    batches, files = found["batches"], found["files"]
    rows = {
        "Cells per second": (f"{batches['batch_32_over_batch_1']:.2f}", "12 batch 32 >= 6 times batch 1"),
        "Prompt tokens": (f"{batches['prompt_tokens_over_real_ones']:.2f}", "12 prompt padding <= 1.1"),
        "Texts equal": ("all" if batches["texts_equal_in_any_order_and_batch"] == 1 else "not all", "12 same text in any order"),
        "Growth of peak memory": (f"{percent(found['memory']['growth'])} %", "13 growth <= 10 %"),
    }  # fmt: skip
    for start, (value, name) in rows.items():
        assert row(benchmarks, start)[2:] == [value, verdicts([met[name]])]
    text = prose(benchmarks)
    assert f"{batches['steps_over_tokens']:.2f} decoding steps per generated token" in text
    assert f"would take {batches['steps_over_tokens_if_no_row_were_cut']:.2f} if they stayed" in text
    cells = [n for name, n in files.items() if name.endswith(" cells")]
    assert f"all {sum(cells):,} cells of {len(cells)} reference files" in text


def test_the_speed_of_description_is_quoted_with_its_verdicts(benchmarks):
    found = results("speed")
    ratios = {"Ranked genes to concepts, relative": (8, found["encoder"]["ratio"])}
    for mode, name, target, cells in (("describe", "describe", 4, 140), ("fields", "describe --fields", 10, 167)):
        for file, one in found[mode].items():
            ratios[f"`{name}`, {file}, relative"] = (target, one["ratio"])
            ratios[f"`{name}`, {file}, cells"] = (cells, one["cells_per_cpu_second"]["now"])
    for start, (target, value) in ratios.items():
        digits = 0 if target > 100 else 1
        assert row(benchmarks, start)[1:] == [
            str(target),
            f"{value:.{digits}f}",
            "yes" if value >= target else "**no**",
        ]
    assert f"git show {found['commit_before']}" in benchmarks
    for mode in ("describe", "fields"):
        for one in found[mode].values():
            differ = {name for name, n_cells in one["cells_that_differ"].items() if n_cells}
            assert differ <= {"text", "pathways", "type_probability"}
    first, second = (one["cells_that_differ"] for one in found["describe"].values())
    text = prose(benchmarks)
    assert f"{first['text']} of kang_pbmc_sle and {second['text']} of pbmc3k differ" in text
    assert f"in {first['type_probability']} and {second['type_probability']} cells" in text


def test_bars_of_processes_and_larger_models_are_quoted(benchmarks):
    found, page = results("speed"), section(benchmarks, "Speed of description")
    processes = found["processes"]
    for start, ratio in (
        ("Decoding, ", found["language_model"]["ratio"]),
        ("Decoding with `--bf16`", found["bf16"]["ratio"]),
        ("Wall time of one process", processes["ratio"]),
    ):
        assert row(page, start)[1:] == ["1.8", f"{ratio:.1f}", "yes" if ratio >= 1.8 else "**no**"]
    seconds, text = processes["wall_seconds"], prose(page)
    stated = f"describe {processes['cells']:,} cells in {seconds['2']:.1f} s instead of {seconds['1']:.1f} s"
    assert stated in text and processes["same_bytes"]
    assert f"Two independent runs at the same time reach {processes['independent_ratio']:.2f}" in text
    cells = sum(one.pop("cells") for one in found["bf16_texts"].values())
    assert not any(value for one in found["bf16_texts"].values() for value in one.values())
    assert f"no text and no field changes in bfloat16 for the {cells:,} cells of both files" in text
    padding = list(found["padding"].values())
    kang, pbmc = (percent(one["sorted"]) for one in padding)
    assert f"padding is {kang} % of the gene tokens in kang_pbmc_sle and {pbmc} % in pbmc3k" in text
    kang, pbmc = (percent(one["unsorted"]) for one in padding)
    assert f"({kang} and {pbmc} % in the order of the files)" in text


def test_the_speed_of_the_report_is_quoted(benchmarks):
    found, page = results("report"), section(benchmarks, "Speed of the report page")
    assert f"{found['cells']:,} described cells" in page
    for start, name in (("with a map", "own_map"), ("without one", "umap_of_embeddings")):
        seconds = found[name]["wall_seconds"]
        assert row(page, start)[1:] == ["60", f"{seconds:.0f}", "yes" if seconds <= 60 else "**no**"]


def test_other_tools_are_quoted(benchmarks):
    page = section(benchmarks, "Speed beside other tools")
    for name, found in results("alternatives")["systems"].items():
        rate = found["cells_per_cpu_second"]
        start = {"kNN": "Nearest neighbours"}.get(name, name)
        assert row(page, f"{start} |")[2:] == [
            f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
            f"{found['peak_MiB']:,.0f}",
        ]


def test_gpu_figures_are_quoted():
    found = results("gpu")
    page, measured = section((GUIDES / "benchmarks.md").read_text(), "On a GPU"), found["measured"]
    assert found["device"] in prose(page)
    figures = {
        "Training, share of the peak": (
            percent(measured["training_share_of_peak_flops"]),
            "14 training >= 30 % of peak",
        ),
        "Training, share of time": (percent(measured["share_of_time_waiting_for_data"]), "14 waiting <= 5 %"),
        "Description, cells": (
            f"{measured['described_cells_per_second_compiled_steps']:.1f}",
            "14 description >= 70 cells/s",
        ),
    }
    for start, (figure, bar) in figures.items():
        assert row(page, start)[2:] == [figure, "yes" if found["bars"][bar] else "**no**"]
    assert row(page, "Description without")[2] == f"{measured['described_cells_per_second_steps']:.1f}"
    assert f"{percent(measured['share_of_equal_texts'])} % are the same" in prose(page)


def test_the_run_of_a_million_cells_is_quoted():
    found, text = results("million"), prose((GUIDES / "scale.md").read_text())
    assert f"described {found['cells']:,} synthetic cells with {found['genes']:,} genes on two CPU cores" in text
    assert f"in {found['wall_seconds']:.0f} seconds: {found['cells_per_second']:,} cells per second" in text
    assert f"took at most {found['peak_MiB']:,} MiB" in text and found["cores"] == 2
    assert f"{found['described_alone']:,} of the cells, described in a file of their own" in text
    readme = prose((PROJECT / "README.md").read_text())
    assert f"took {found['wall_seconds']:.0f} seconds for a million synthetic cells on two CPU cores" in readme
    assert found["equal_alone"] == found["described_alone"]
    assert 0 < found["killed"]["shards"] < found["killed"]["of_shards"]


def test_scale_follows_from_the_measured_rates():
    page = (GUIDES / "scale.md").read_text()
    runs = [one for mode in ("describe", "fields") for one in results("speed")[mode].values()]
    rates = [one["cells_per_cpu_second"]["now"] for one in runs]
    assert f"describes {min(rates):,.0f} to {max(rates):,.0f} cells per CPU second" in prose(page)
    assert f"100 machines would describe their cells in {1e8 / min(rates) / 1600:.0f} seconds" in prose(page)
    for machines in (1, 10, 100):
        assert row(page, f"{machines} |")[1] == f"{1e8 / min(rates) / 16 / machines / 3600:.2g}"


def test_scale_on_gpus_follows_from_the_measured_rate():
    page, rate = (
        prose((GUIDES / "scale.md").read_text()),
        results("gpu")["measured"]["described_cells_per_second_compiled_steps"],
    )
    hours = 1e8 / rate / 3600
    assert f"describes {rate:.1f} cells per second on one H100" in page
    assert f"take {hours:.0f} hours on one GPU, {hours / 8:.0f} on 8 and {hours / 64:.1f} on 64" in page


def test_interruptions_are_quoted_and_leave_nothing(benchmarks):
    found = results("interruptions")
    names = {
        "describe": "`describe`, one process", "describe_2": "`describe`, two processes",
        "prepare": "`prepare`, four workers", "train": "`train_sft.py`",
    }  # fmt: skip
    for command, start in names.items():
        counts = {name: found.get(name, {}).get(command) for name in ("kill", "terminate", "disk", "crowd")}
        cells = {name: "" if one is None else f"{one['equal']} of {one['times']}" for name, one in counts.items()}
        stopped = counts["terminate"]
        left = "" if stopped is None else str(stopped["processes_left"] + stopped["files_left"])
        expected = [cells["kill"], cells["terminate"], left, cells["disk"], cells["crowd"]]
        assert row(benchmarks, start)[1:] == expected and left in ("", "0")
        for one in filter(None, counts.values()):
            assert one["equal"] == one["times"]
    room = found["disk"]["train"]
    assert f"disk ran full in {room['full']} of the {room['times']} training runs" in prose(benchmarks)
    for one in found.get("disk", {}).values():
        assert not one["partial_output"] and one["said_in_one_line"] == one["full"]
    assert found["crowd"]["describe"]["told_who"] == found["crowd"]["describe"]["one_finished"] == 20


def test_outcomes_of_fuzzing_are_quoted(benchmarks):
    for kind, found in results("fuzz")["kinds"].items():
        bad = sum(found.get(name, 0) for name in ("fault", "signal", "slow", "changed"))
        counts = [found["inputs"], found.get("read", 0), found.get("refused", 0), bad]
        assert row(benchmarks, f"{kind} |")[1:] == [f"{count:,}" for count in counts]
    total = results("fuzz")["total"]
    assert total["inputs"] >= 9_998 and set(total) <= {"inputs", "read", "refused"}


def test_ontology_similarity_is_quoted(benchmarks):
    found = results("similarity")
    rows = {
        "Connected terms": f"{found['terms']:,}",
        "Time for all pairs": f"{found['seconds']:.2f}",
        "Peak memory with all": f"{found['MiB']:,}",
        "Largest difference from networkx": f"{found['largest_difference_from_networkx']:.1e}",
        "Highest similarity of": f"{found['largest_off_diagonal']:.4f}",
        "Highest similarity published": f"{found['published_for_release_2025-09-10']['largest_off_diagonal']:.4f}",
    }
    assert {start: row(benchmarks, start)[1] for start in rows} == rows


def test_accuracy_of_the_default_recipe_is_quoted(benchmarks):
    found = results("default")
    mean = found["mean"]
    for name, value in mean.items():
        if name != "exact_text":
            assert row(benchmarks, SYSTEM_NAMES[name])[1] == percent(value)
    assert f"word for word for {percent(mean['exact_text'])} % of the cells" in prose(benchmarks)
    assert mean["logistic_regression"] > mean["cell2text"] and "Logistic regression is ahead" in benchmarks
    assert {run["n"] for run in found["runs"]} == {284} and len(found["runs"]) == 3


def test_the_comparison_of_recipes_is_quoted(benchmarks):
    for name, found in results("recipes").items():
        mean = found["mean"]
        (line,) = (line for line in benchmarks.splitlines() if line.startswith(f"| {name} |"))
        assert (
            line == f"| {name} | {len(found['runs'])} | {percent(mean['cell2text'])} | {percent(mean['exact_text'])} |"
        )


def section(page: str, title: str) -> str:
    """Text below a heading of the second level."""
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def shares(figures: dict, *further: str) -> list[str]:
    return [percent(figures[name]) for name in (*NAMED_TYPE_METRICS, *further)]


def test_accuracy_of_the_packaged_model_is_quoted(packaged_model):
    found, page = results("mini"), section(packaged_model, "Accuracy")
    for name, study in found["studies"].items():
        start = f"{name}, held-out donors" if study["part"] == "donors" else name
        figures = [with_interval(study[key]) for key in (*NAMED_TYPE_METRICS, "exact")]
        assert row(page, f"{start} |")[1:] == [f"{study['cells']:,}", *figures]
    for part, words in (("unseen", "unseen studies"), ("donors", "held-out donors")):
        assert row(page, f"mean of the {words}")[2:] == shares(found["mean"][part], "exact")


def test_baselines_of_the_packaged_model_are_quoted(packaged_model):
    found, page = results("mini"), section(packaged_model, "Accuracy")
    unseen = [name for name, study in found["studies"].items() if study["part"] == "unseen"]
    of_model = shares(found["mean"]["unseen"]) + shares(results("mini_folds")["base"]["mean"])
    assert row(page, "Cell2Text |")[1:] == of_model
    for name, baseline in results("mini_baselines")["baselines"].items():
        studies = [baseline["test"][f"{study}: real"] for study in unseen]
        mean = {key: sum(study[key] for study in studies) / len(studies) for key in NAMED_TYPE_METRICS}
        assert row(page, f"{name} |")[1:] == shares(mean) + shares(baseline["mean"])


def test_calibration_of_the_packaged_model_is_quoted(packaged_model):
    found, page = results("mini_folds")["base"], section(packaged_model, "Probabilities")
    calibration = dict(found["calibration"])
    ceiling = calibration.pop("ceiling", None)
    for name, value in calibration.items():
        assert row(page, f"`{name}`")[1] == str(value)
    if ceiling:
        (genes, least), (enough, most) = ceiling[0], ceiling[-1]
        limit = f"up to {genes} genes exceeds {least:.2f}; this limit rises to {most:.2f} at {enough} genes"
        assert limit in prose(page)
    for name, study in found["studies"].items():
        if name.endswith(": real"):
            assert row(page, f"{name.removesuffix(': real')} |")[1:] == [str(study["cells"]), *shares(study)]
    assert row(page, "mean of the tissues")[2:] == shares(found["mean"])
    assert row(page, "mean of the cultured cells")[2:] == shares(found["mean_of_cell_lines"])
    folds = yaml.safe_load((PROJECT / "recipes" / "mini" / "folds.yaml").read_text())["folds"]
    assert f"into {len(folds)} groups" in prose(page)


SITUATIONS = {
    "ambient RNA": "ambient",
    "genes shuffled": "shuffled",
    "300 random genes": "panel",
    "a tenth of the counts": "thinned",
}


def test_cells_without_ground_for_a_type_are_quoted(packaged_model):
    found, page = results("mini")["situations_mean"], section(packaged_model, "Cells without a named type")
    for start, kind in SITUATIONS.items():
        start = "ambient RNA at" if kind == "ambient" else start
        assert row(page, start)[1:] == [percent(found[kind][key]) for key in ("named", "above_90", "wrong_above_90")]
    processor = json.loads((PROJECT / "cell2text" / "models" / "mini" / "processor_config.json").read_text())
    assert f"fewer than {processor['min_genes']} expressed genes" in prose(page)


def test_simulated_outliers_are_quoted(packaged_model):
    page = section(packaged_model, "Cells without a named type")
    starts = {"ambient RNA, 5 counts": "ambient RNA", "two cells of": "two cells", "shuffled genes": "no cell"}
    for start, kind in starts.items():
        parts = [part for name, part in results("mini_folds")["base"]["studies"].items() if name.endswith(f": {kind}")]
        cells = sum(part["cells"] for part in parts)
        named, above = (sum(part["cells"] * part[key] for part in parts) / cells for key in ("named_share", "above_90"))
        assert row(page, start)[1:] == [f"{cells:,}", percent(named), percent(above)]


def test_pathways_of_the_packaged_model_are_quoted(packaged_model):
    own, predicted = (results("own_pathways")["means"][source]["studies"]["all_true"] for source in ("cell", "model"))
    page = prose(section(packaged_model, "Pathways and sex"))
    assert f"the cell's two highest Hallmark sets in {percent(own)} % of the texts" in page
    assert f"own prediction of pathways it is {percent(predicted)} %" in page


def test_what_simulated_cells_are_worth_is_quoted(packaged_model):
    found, text = results("mini_folds")["no simulated cells"], prose(section(packaged_model, "What was tried"))
    true = found["studies"]["heart_san: real"]["named_true"]
    assert f"in heart_san, whose organ is left out, {percent(true)} % of the named types are true" in text
    unnamed = [name for name, one in found["studies"].items() if one.get("named_share") == 0 and name.endswith("real")]
    assert unnamed == ["retina: real"] and "No cell of the retina gets a type" in text


def test_the_time_of_a_rebuild_is_quoted(packaged_model):
    found = results("mini_seconds")
    assert found.pop("cores") == 2
    for step, seconds in found.items():
        assert row(section(packaged_model, "Rebuild"), f"{step} |")[1:] == [str(seconds)]


def test_types_without_cells_are_quoted(packaged_model):
    found, page = results("types_without_cells"), section(packaged_model, "Types without cells")
    starts = {"markers": "known markers", "definitions": "definitions", "names": "names of", "ontology": "similarity"}
    for name, start in starts.items():
        assert row(page, start)[1:] == [percent(found["systems"][name]["accuracy"])]
    assert row(page, "chance")[1:] == [percent(found["chance"])]
    n_types = found["types_left_out"] + found["types_seen"]
    assert f"{found['types_left_out']} of {n_types} types were left out" in prose(page)
    assert f"their {found['cells']:,} cells were then named" in prose(page)


def test_recipes_that_were_tried_are_quoted(packaged_model):
    page = section(packaged_model, "What was tried")
    for name, found in results("mini_folds").items():
        assert row(page, f"{name} |")[1:] == [found["description"], *shares(found["mean"])]
    trainings = [results("mini_folds")[name]["mean"] for name in ("base", "on a GPU", "seed 1", "seed 2")]
    true, ece = ([percent(one[name]) for one in trainings] for name in ("named_true", "ece"))
    stated = f"{min(true)} to {max(true)} % of the named types are true, and the ECE is {min(ece, key=float)} to {max(ece, key=float)} %"
    assert stated in prose(page) and sum(float(value) > 10 for value in ece) == 2


def test_targets_of_the_packaged_model_are_quoted_with_their_verdicts(packaged_model):
    found, page = results("mini"), section(packaged_model, "Targets")
    unseen, situations = found["mean"]["unseen"], found["situations_mean"]
    donors = [study for study in found["studies"].values() if study["part"] == "donors"]
    exact = sum(study["cells"] * study["exact"][0] for study in donors) / sum(study["cells"] for study in donors)
    own = results("own_pathways")["means"]["cell"]["studies"]["pathways_among_two_highest"]
    at_least = {
        "Named type is true": (85, 100 * unseen["named_true"]),
        "Depth of true types": (75, 100 * unseen["named_depth"]),
        "Named |": (80, 100 * unseen["named_share"]),
        "Exact type, all cells": (94.8, 100 * exact),
        "Stated pathways true": (95, 100 * own),
    }
    at_most = {
        "ECE": (10, 100 * unseen["ece"]),
        "Wrong above 0.9": (5, 100 * unseen["wrong_above_90"]),
        **{
            f"Type above 0.9, {start}": (5, 100 * situations[kind]["above_90"])
            for start, kind in (*list(SITUATIONS.items())[:1], *list(SITUATIONS.items())[2:])
        },
        "Type above 0.9, shuffled genes": (5, 100 * situations["shuffled"]["above_90"]),
        "Size in MB": (60, found["model"]["megabytes"]),
    }
    for start, (target, value) in at_least.items():
        assert row(page, start)[1:] == [f"at least {target:g}", f"{value:.1f}", verdict(value >= target)]
    for start, (target, value) in at_most.items():
        assert row(page, start)[1:] == [f"at most {target:g}", f"{value:.1f}", verdict(value <= target)]


def test_thresholds_of_named_types_are_quoted(packaged_model):
    page = section(packaged_model, "Targets")
    for threshold, found in results("type_threshold")["type_threshold"].items():
        unseen, donors = found["unseen"], found["donors"]
        figures = [unseen[key] for key in ("named_share", "named_true", "named_depth")]
        figures += [donors[key] for key in ("named_true", "exact", "exact_of_cells")]
        start = {"specific": "none, the end", "specific_real": "none, only labels"}.get(threshold, threshold)
        assert row(page, f"{start}")[1:] == list(map(percent, figures))
    exact = [
        found["donors"]["exact_of_cells"]
        for found in map(results("type_threshold")["type_threshold"].get, ("0.6", "specific", "specific_real"))
    ]
    assert f"{percent(exact[2])} instead of {percent(exact[1])} % of all cells are exact" in prose(page)
    lost = [after - before for before, after in zip(exact, [*exact[1:], 0.948])]
    costs = f"double profiles cost {percent(lost[0])}, and the choice among more types {percent(lost[1])}; the other"
    assert f"of the {percent(0.948 - exact[0])} points to the target, the threshold and" in prose(page)
    assert f"{costs} {percent(lost[2])} are unexplained" in prose(page)
    trained, cells = results("exact_types")["trainings"], results("exact_types")["cells"]
    first, second = (
        " and ".join(percent(one["specific"]["exact_of_cells"]) for one in trained[name])
        for name in ("all rows", "no simulated cells")
    )
    assert f"two trainings with them name {first} % of these {cells:,} cells exactly" in prose(page)
    assert f"two without them {second} %" in prose(page)


def verdict(met: bool) -> str:
    return "yes" if met else "**no**"


def test_make_of_the_packaged_model_is_quoted(packaged_model):
    model, rows, text = results("mini")["model"], results("mini_rows"), prose(packaged_model)
    assert f"{model['parameters']:,} parameters and {model['megabytes']} MB" in text
    starts = {"real": "real cells of", "thinned": "copies of real cells", "simulated": "[simulated](simulate.md)"}
    for kind, start in starts.items():
        counts = rows[kind]
        assert row(packaged_model, start)[1:] == [
            f"{counts['cells']:,}", str(counts["types"]), str(counts["data_sets"]),
        ]  # fmt: skip
    simulated = rows["simulated"]
    assert f"from {simulated['profiles']} mean profiles of {simulated['tissues']} tissues" in text
    assert f"{simulated['types_without_real_cells']} cell types were learned from simulated cells alone" in text
    config = Cell2TextConfig.from_pretrained(PROJECT / "cell2text" / "models" / "mini")
    assert f"A softmax over {len(config.concepts.groups['cell_type']):,} Cell Ontology terms" in text
    assert f"with a probability of at least {config.type_threshold}." in text
    assert f"if its probability is at least {MIN_SUBTYPE_PROBABILITY}." in text
    language = config.text_config
    assert f"A Llama of {language.num_hidden_layers} layers and width {language.hidden_size}" in text
    assert f"reads the statement as {config.num_cell_tokens} tokens" in text
    assert f"embedding of {config.cell_config.hidden_size} dimensions per gene" in text


@pytest.fixture(scope="module")
def thin() -> str:
    return (GUIDES / "thin_cells.md").read_text()


def test_correct_types_of_thin_cells_are_quoted(thin):
    bins = results("thin_cells")["genes"]["validation"]
    for one, following in zip(bins, [*bins[1:], None]):
        start = f"{one['from']} to {one['below'] - 1}" if following else f"{one['from']} or more"
        assert row(thin, f"{start} |") == [
            start, str(one["cells"]), with_interval([one["lenient"], *one["lenient_interval"]])
        ]  # fmt: skip


def test_thresholds_for_thin_cells_are_quoted(thin):
    found, text = results("thin_cells"), prose(thin)
    chosen = found["chosen"]
    assert f"fewer than {chosen['min_genes']} genes of the model gets no cell type" in text
    assert too_few_genes_text(12, chosen["min_genes"]) in thin
    full = chosen["full"]
    value, interval = with_interval([full["lenient"], *full["lenient_interval"]]).split(" ", 1)
    assert f"with all genes and counts, which are {value} % {interval}" in text
    enough = [one["lenient"] >= chosen["minimum_share"] * full["lenient"] for one in found["genes"]["validation"]]
    first = next(i for i in range(len(enough)) if all(enough[i:]))
    assert found["genes"]["validation"][first]["from"] == chosen["min_genes"]
    validation = [part for part in found["settings"]["parts"] if part["kind"] == "validation"]
    assert {part["study"] for part in validation} == {"heart_san", "gut_scp1884"}


def test_thin_panels_are_quoted(thin):
    found, text = results("thin_cells"), prose(thin)
    genes = found["settings"]["panels"]["xenium_human_multi_tissue"]
    studies, donors = (
        {name: percent(one["lenient"]) for name, one in found["conditions"][kind].items()}
        for kind in ("studies", "donors")
    )
    panel, random = studies["panel: xenium_human_multi_tissue"], studies["random genes: 2000"]
    assert f"the {genes} genes of a Xenium panel supported {panel} % correct types" in text
    assert f"and 2,000 random genes {random} %" in text
    (few, full), (few_donors, full_donors) = (
        (part["variable genes: 5000"], part["full"]) for part in (studies, donors)
    )
    assert f"{few} % were correct instead of {full} % on those studies, and {few_donors} % instead of" in text
    assert f"instead of {full_donors} % on held-out donors" in text
    assert f"Under {100 * LOW_COVERAGE:.0f} % there is a warning" in text


def test_outcomes_of_situations_are_quoted(benchmarks):
    found = results("situations")
    assert len(found) == 30 and "FAULT" not in str(found)
    for name, outcomes in found.items():
        faces = [outcomes[face] for face in ("describe", "prepare", "tl.describe")]
        shown = [re.sub(r"read: counts from (\S+),", r"`\1`,", text) for text in faces]
        refusals = [text.removeprefix("refused: ") for text in faces if text.startswith("refused")]
        expected = [text if text.startswith("`") else text.split(":")[0] for text in shown]
        assert row(benchmarks, f"{name} |")[1:] == [*expected, refusals[0] if refusals else ""]
    same = sum(
        len({outcomes[face][:7] for face in ("describe", "prepare", "tl.describe")}) == 1 for outcomes in found.values()
    )
    assert f"{same} of the 30 situations" in prose(benchmarks)


CELLXGENE_FILES = {
    "Valid |": "valid",
    "Valid, with the labels": "labelled",
    "Valid, counts in `X`": "counts_in_x",
    "Valid, genes filtered": "filtered_genes",
    "No `donor_id`": "no_donor",
    "Ensembl ids with a version": "versioned_ids",
    "Symbols as names": "symbols_as_names",
    "A cell without counts": "a_cell_without_counts",
    "Logarithms only": "logarithms_only",
    "Normalised values in `raw.X`": "normalised_raw",
}


@pytest.mark.parametrize("schema", ["schema 5", "schema 6"])
def test_outcomes_of_cellxgene_files_are_quoted(benchmarks, schema):
    found = results("cellxgene_schema")[schema]
    assert found["validator"].split()[-1] in benchmarks
    assert set(found["files"]) == set(CELLXGENE_FILES.values())
    for start, name in CELLXGENE_FILES.items():
        file = found["files"][name]
        _, validator, outcome, counts = row(benchmarks, start)
        assert file["validator"].startswith("valid" if validator == "valid" else "ERROR")
        assert file["describe"] == outcome
        if outcome == "refused":
            assert file["message"].startswith("cell2text: ") and " / " not in file["message"] and counts == ""
            assert "Pass a file with the raw counts." in file["message"]
        else:
            assert f"counts from {counts.strip('`')}," in file["message"] and " 400 of the model's" in file["message"]


def test_the_sex_from_xist_and_y_genes_is_quoted():
    found = results("sex_genes")["means_of_studies"]
    text = " ".join((PROJECT / "docs" / "guides" / "describe.md").read_text().split())
    female, male = found["female"], found["male"]
    assert f"{female['stated']:.0%} of the cells of female and {male['stated']:.0%} of male".replace("%", " %") in text
    assert f"means over {female['studies']} and {male['studies']} studies" in text
    assert f"{female['correct']:.0%} and {male['correct']:.0%} of these".replace("%", " %") in text


def test_time_and_memory_of_the_app_are_quoted():
    page, found = (GUIDES / "app.md").read_text(), list(results("app").values())
    rows = {
        "Start of the command": ("start_s", "{:.0f}"),
        "Map on the page": ("map_s", "{:.0f}"),
        "First cell": ("first_cell_s", "{:.1f}"),
        "First answer": ("first_answer_s", "{:.1f}"),
        "From the start": ("start_to_first_answer_s", "{:.0f}"),
        "Next answer": ("next_answer_s", "{:.1f}"),
        "Answer about a selection": ("answer_of_selection_s", "{:.1f}"),
        "Cells of the selection": ("cells_selected", "{:,}"),
        "Peak memory": ("memory_mb", "{:,}"),
    }
    for start, (name, form) in rows.items():
        assert row(page, start)[1:] == [form.format(one[name]) for one in found]
    assert all(one["requests_to_other_hosts"] == 0 for one in found)
    assert found[-1]["cells_on_map"] == 20_000


def test_the_consensus_of_groups_is_quoted_with_its_verdict():
    found, calibration = results("group_consensus"), results("group_calibration")
    page = (GUIDES / "describe.md").read_text(encoding="utf-8")
    every, text = found["all"], prose(page)
    for way in ("consensus", "majority of texts", "summed counts"):
        figures = every[way]
        expected = [with_interval(figures[key]) for key in ("named_true", "named_depth", "exact")]
        error = with_interval(figures["ece"]) if "ece" in figures else ""
        assert row(page, f"{way} |")[1:] == [f"{figures['groups_right']} of {every['groups']}", *expected, error]
    difference = every["consensus minus majority"]["right"]
    value, low, high = map(percent, (difference["difference"], *difference["interval"]))
    assert f"the difference is {value} points ({low} to {high})" in text
    assert every["consensus"]["groups_right"] == every["majority of texts"]["groups_right"] and "not more" in text
    left_out = calibration["left_out"]
    mean, majority = (percent(left_out[way]["right"]) for way in ("mean", "majority of texts"))
    assert f"{mean} % of the groups have a true type, and {majority} % by majority" in text


def test_flags_of_heterogeneous_groups_are_quoted():
    text = prose((GUIDES / "describe.md").read_text(encoding="utf-8"))
    shares = results("group_calibration")["flagged"]
    one, few, half = (
        percent(shares[kind][str(MAX_DISAGREEMENT)])
        for kind in ("one label", "20% of another label", "50% of another label")
    )
    assert f"covariance of the two probabilities is below -{MAX_DISAGREEMENT}" in text
    assert f"it flags {one} % of the groups of one label, {few} % of those with 20 % of another label" in text
    assert f"and {half} % of mixtures of two halves" in text
    mixed, pure = (
        results("group_consensus")["flagged"]["mixed"],
        results("group_consensus")["flagged"]["at least 80 % one label"],
    )
    assert f"it flags {mixed['flagged']} of {mixed['clusters']} mixed clusters" in text
    assert f"and {pure['flagged']} of {pure['clusters']} clusters with at least 80 % of one label" in text
