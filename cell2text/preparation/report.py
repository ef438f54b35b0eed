"""Write the report of a run: `report.json` from the reports of its jobs, and `report.html` with figures.

Depends on matplotlib and jinja2.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.pages import render_page
from cell2text.plots import COLOURS, stacked_bars, svg
from cell2text.preparation.output_folder import job_report_path
from cell2text.preparation.plan import Plan
from cell2text.preparation.splits import COVERED_COLUMNS, SPLITS
from cell2text.signatures.aucell import MIN_COVERAGE
from ranking_cell2text import ROUTES


ACTIVE_IN_POPULATION = 0.005  # published: active in the top 5 % of the sets of more than this share of the cells
MAX_BARS = 40
LISTED_LABELS = 5  # per column in a message
STATED_COUNTS = ("broader_types", "likely_subtypes")  # rows of a split whose text names them
WITHOUT_COUNTS = "without counts on genes of the vocabulary"
NOT_SAMPLED = "not sampled"


def collect_report(plan: Plan, planned: dict, provenance: dict) -> dict:
    """Add up the reports of all jobs.

    Parameters
    ----------
    plan
        Plan of the run, whose jobs are all done.
    planned
        Part of the report that was known when the plan was made.
    provenance
        Options, hashes and versions of the run.

    Returns
    -------
    The content of `report.json`.

    Raises
    ------
    UserError
        If no cell has counts on genes of the vocabulary.
    """
    files = {name: dict(entry) for name, entry in planned["files"].items()}
    counts = {name: dict.fromkeys(ROUTES, 0.0) for name in files}
    splits: dict[str, dict] = {
        split: {"rows": 0, **dict.fromkeys(STATED_COUNTS, 0), "tasks": Counter(), "labels": {}} for split in SPLITS
    }
    for number, job in enumerate(plan.jobs):
        done = json.loads(job_report_path(plan.folder, number).read_text(encoding="utf-8"))
        _add_job(done, files[job["source"]], counts[job["source"]], splits)
    for name, entry in files.items():
        _complete_file_entry(entry, counts[name])
    rows = sum(split["rows"] for split in splits.values())
    if not rows:
        raise UserError("No cell remains: none has counts on genes of the vocabulary.")
    return {
        "rows": rows,
        "split": planned["split"],
        "not_covered_by_training": _labels_missing_in_training(splits),
        "files": files,
        "skipped": provenance["skipped"],
        **({"own_tasks": planned["own_tasks"]} if "own_tasks" in planned else {}),
        "splits": {name: _sort_counts(entry) | {"donors": planned["groups"][name]} for name, entry in splits.items()},
        "sampling": planned["sampling"],
        "diversity": planned["diversity"],
        "pathways": _pathway_frequencies(plan, splits, rows),
        "provenance": provenance,
    }


def _add_job(done: dict, file: dict, counts: dict[str, float], splits: dict[str, dict]) -> None:
    """Add the report of a job to its file's entry and counts, and to the splits."""
    for key, value in (("chosen", done["cells"]), ("truncated", done["truncated"]), ("rows", 0)):
        file[key] = file.get(key, 0) + value
    if done["empty"]:
        earlier = file["dropped"].get(WITHOUT_COUNTS, 0)
        file["dropped"] = {**file["dropped"], WITHOUT_COUNTS: earlier + done["empty"]}
    for route, value in done["counts_by_route"].items():
        counts[route] += value
    for split, entry in done["splits"].items():
        file["rows"] += entry["rows"]
        for count in ("rows", *STATED_COUNTS):
            splits[split][count] += entry[count]
        splits[split]["tasks"].update(entry["tasks"])
        for column, labels in entry["labels"].items():
            splits[split]["labels"].setdefault(column, Counter()).update(labels)


def _complete_file_entry(file: dict, counts: dict[str, float]) -> None:
    """Add the shares of counts by route and the number of cells that were not sampled."""
    file.setdefault("rows", 0)
    total = sum(counts.values())
    file["counts_by_route"] = {route: round(value / total, 6) if total else 0.0 for route, value in counts.items()}
    filtered = sum(count for reason, count in file["dropped"].items() if reason != WITHOUT_COUNTS)
    dropped = {**file["dropped"], NOT_SAMPLED: file["cells"] - file.get("chosen", 0) - filtered}
    file["dropped"] = {reason: count for reason, count in dropped.items() if count}


def _labels_missing_in_training(splits: dict) -> dict[str, dict[str, int]]:
    """Return the labels of held-out rows that no training row has, with their number of rows, by column."""
    missing_labels = {}
    for column in COVERED_COLUMNS:
        held_out: Counter = Counter()
        for name in SPLITS[1:]:
            held_out.update(splits[name]["labels"].get(column, {}))
        in_training = splits["train"]["labels"].get(column, {})
        missing = {label: n for label, n in held_out.items() if label not in in_training}
        if missing:
            missing_labels[column] = dict(sorted(missing.items(), key=_frequency_order))
    return missing_labels


def describe_split(report: dict) -> str:
    """Return a sentence on the split of a report and what it means for figures on the test split."""
    split = report["split"]
    chosen = f" (chosen by auto: {split['reason']})" if split["reason"] else ""
    return f"Split: {split['method']}{chosen}. {split['meaning']}"


def describe_stated_types(report: dict) -> str:
    """Return a sentence on the training texts that name a broader type than the label; empty if there are none."""
    training = report["splits"]["train"]
    if not training["broader_types"]:
        return ""
    return (
        f"The texts of {training['broader_types']:,} of {training['rows']:,} training rows name a broader term of the "
        f"Cell Ontology than the label, {training['likely_subtypes']:,} of them with the label as a likely subtype."
    )


def describe_uncovered(report: dict) -> str:
    """Return a sentence on the labels that training lacks; empty if there are none, or if the split holds them out."""
    parts = []
    for column, labels in report["not_covered_by_training"].items():
        if column == report["split"]["method"]:
            continue
        names = ", ".join(f"{label} ({n:,})" for label, n in list(labels.items())[:LISTED_LABELS])
        more = f" and {len(labels) - LISTED_LABELS} more" if len(labels) > LISTED_LABELS else ""
        parts.append(f"{column}: {names}{more}")
    return f"Training has no cell with these labels of validation or test cells: {'; '.join(parts)}." if parts else ""


def _sort_counts(entry: dict) -> dict:
    """Return the counters of a split as dictionaries, the most frequent label first."""
    labels = {
        column: dict(sorted(counter.items(), key=_frequency_order)) for column, counter in entry["labels"].items()
    }
    return {**entry, "tasks": dict(sorted(entry["tasks"].items())), "labels": labels}


def _frequency_order(item: tuple[str, int]) -> tuple[int, str]:
    """Return a sort key: the highest count first, equal counts by name."""
    return -item[1], item[0]


def _pathway_frequencies(plan: Plan, splits: dict, rows: int) -> dict:
    """Return for each set the shares of rows that name it and in which it is active."""
    if plan.gene_sets is None:
        return {}
    total: dict[str, Counter] = {"pathways": Counter(), "pathways_active": Counter()}
    for split in splits.values():
        for column, counter in total.items():
            counter.update(split["labels"].get(column, {}))
    return {
        name: {
            "named": round(total["pathways"][name] / rows, 6),
            "active": round(total["pathways_active"][name] / rows, 6),
            "active_in_population": total["pathways_active"][name] > ACTIVE_IN_POPULATION * rows,
        }
        for name in plan.gene_sets.names
    }


def _unmapped_share(file: dict) -> float:
    return file["counts_by_route"].get("unmapped", 0.0)


def write_html(report: dict, path: Path) -> None:
    """Write the report as a self-contained page, with figures as SVG.

    Parameters
    ----------
    report
        Content of `report.json`.
    path
        HTML file to write.
    """
    figures = {
        "genes": _genes_figure(report["files"]),
        "cells": _cells_figure(report["files"]),
        "labels": _labels_figure(report["splits"]),
        "diversity": _diversity_figure(report["diversity"]),
        "pathways": _pathways_figure(report["pathways"]),
    }
    page = render_page(
        "cell2text.preparation", "report.html", report=report, figures=figures, unmapped_share=_unmapped_share,
        min_coverage=MIN_COVERAGE, splits=SPLITS, split_text=describe_split(report),
        stated_text=describe_stated_types(report),
    )  # fmt: skip
    write_atomically(path, page)


def _genes_figure(files: dict) -> str:
    series = {
        route: [file["genes_by_route"].get(route, 0) for file in files.values()]
        for route in ROUTES
        if any(file["genes_by_route"].get(route) for file in files.values())
    }
    names = [f"{name}  ({100 * _unmapped_share(file):.1f} % of counts unmapped)" for name, file in files.items()]
    return svg(stacked_bars(names, series, "genes, by how they were mapped"))


def _cells_figure(files: dict) -> str:
    reasons = list(dict.fromkeys(reason for file in files.values() for reason in file["dropped"]))
    series = {"rows": [file["rows"] for file in files.values()]}
    series |= {reason: [file["dropped"].get(reason, 0) for file in files.values()] for reason in reasons}
    return svg(stacked_bars(list(files), series, "cells"))


def _labels_figure(splits: dict) -> str:
    total: Counter = Counter()
    for split in splits.values():
        total.update(split["labels"].get("cell_type", {}))
    names = [name for name, _ in sorted(total.items(), key=_frequency_order)][:MAX_BARS]
    series = {
        split: [entry["labels"].get("cell_type", {}).get(name, 0) for name in names] for split, entry in splits.items()
    }
    return svg(stacked_bars(names, series, "rows")) if names else ""


def _diversity_figure(diversity: dict) -> str:
    columns = [column for column, entry in diversity["before"].items() if entry["categories"]]
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for offset, (moment, colour) in zip((-0.2, 0.2), zip(("before", "after"), COLOURS)):
        heights = [diversity[moment][column]["shannon"] for column in columns]
        axes.bar(
            [i + offset for i in range(len(columns))], heights, width=0.38, label=f"{moment} sampling", color=colour
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel("Shannon diversity (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return svg(figure)


def _pathways_figure(pathways: dict) -> str:
    if not pathways:
        return ""
    names = sorted(pathways, key=lambda name: (-pathways[name]["active"], name))[:MAX_BARS]
    only_active: Iterable[float] = (pathways[name]["active"] - pathways[name]["named"] for name in names)
    series = {
        "named: among the two most active": [100 * pathways[name]["named"] for name in names],
        "active but not named": [100 * max(0.0, share) for share in only_active],
    }
    return svg(stacked_bars(names, series, "% of rows"))
