"""What became of the cells: `report.json` from what the jobs wrote down, and a page with pictures of it."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.pages import render_page
from cell2text.plots import COLOURS, stacked_bars, svg
from cell2text.preparation.aucell import MIN_COVERAGE
from cell2text.preparation.plan import WORK, Plan
from cell2text.preparation.splits import COVERED, SPLITS
from ranking_cell2text import ROUTES


POPULATION_ACTIVE = 0.005  # published: active in a cell's top 5 % in more than this share of the cells
MOST_BARS = 40


def collect_report(plan: Plan, planned: dict, provenance: dict) -> dict:
    """Add up the reports of all jobs, in their order."""
    files = {name: dict(entry) for name, entry in planned["files"].items()}
    counts = {name: dict.fromkeys(ROUTES, 0.0) for name in files}
    splits: dict[str, dict] = {split: {"rows": 0, "tasks": Counter(), "labels": {}} for split in SPLITS}
    for number, job in enumerate(plan.jobs):
        done = json.loads((plan.folder / WORK / "jobs" / f"{number:05d}.json").read_text(encoding="utf-8"))
        entry = files[job["source"]]
        for key, value in (("chosen", done["cells"]), ("truncated", done["truncated"]), ("rows", 0)):
            entry[key] = entry.get(key, 0) + value
        if done["empty"]:
            entry["dropped"] = {
                **entry["dropped"],
                "without counts": entry["dropped"].get("without counts", 0) + done["empty"],
            }
        for route, value in done["counts_by_route"].items():
            counts[job["source"]][route] += value
        for split, found in done["splits"].items():
            entry["rows"] += found["rows"]
            splits[split]["rows"] += found["rows"]
            splits[split]["tasks"].update(found["tasks"])
            for column, labels in found["labels"].items():
                splits[split]["labels"].setdefault(column, Counter()).update(labels)
    for name, entry in files.items():
        entry.setdefault("rows", 0)
        total = sum(counts[name].values())
        entry["counts_by_route"] = {
            route: round(value / total, 6) if total else 0.0 for route, value in counts[name].items()
        }
        entry["dropped"]["not in the sample"] = (
            entry["cells"]
            - entry.get("chosen", 0)
            - sum(count for reason, count in entry["dropped"].items() if reason != "without counts")
        )
    rows = sum(split["rows"] for split in splits.values())
    if not rows:
        raise UserError("No cell is left: none has a count on a gene of the vocabulary.")
    return {
        "rows": rows,
        "not_covered_by_training": uncovered(splits) if plan.config.split == "donor" else {},
        "files": {
            name: {**entry, "dropped": {k: v for k, v in entry["dropped"].items() if v}}
            for name, entry in files.items()
        },
        "skipped": provenance["skipped"],
        "splits": {name: plain(entry) | {"donors": planned["groups"][name]} for name, entry in splits.items()},
        "sampling": planned["sampling"],
        "diversity": planned["diversity"],
        "pathways": pathway_frequencies(plan, splits, rows),
        "provenance": provenance,
    }


def uncovered(splits: dict) -> dict[str, list[str]]:
    """Categories of held-out rows that no training row has: those whose training cells turned out to have no counts."""
    found = {}
    for column in COVERED:
        held_out = set().union(*(splits[name]["labels"].get(column, {}) for name in SPLITS[1:]))
        missing = sorted(held_out - set(splits["train"]["labels"].get(column, {})))
        if missing:
            found[column] = missing
    return found


def plain(entry: dict) -> dict:
    """Counters as sorted dictionaries, most frequent first."""
    labels = {column: dict(sorted(counter.items(), key=most_first)) for column, counter in entry["labels"].items()}
    return {"rows": entry["rows"], "tasks": dict(sorted(entry["tasks"].items())), "labels": labels}


def most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def pathway_frequencies(plan: Plan, splits: dict, rows: int) -> dict:
    """Of each set the share of rows that name it, in which it is active, and if it is active in the population."""
    if plan.gene_sets is None:
        return {}
    total: dict[str, Counter] = {"pathways": Counter(), "pathways_active": Counter()}
    for split in splits.values():
        for column, counter in total.items():
            counter.update(split["labels"].get(column, {}))
    return {
        name: {
            "named": round(total["pathways"][name] / max(rows, 1), 6),
            "active": round(total["pathways_active"][name] / max(rows, 1), 6),
            "active_in_population": total["pathways_active"][name] > POPULATION_ACTIVE * rows,
        }
        for name in plan.gene_sets.names
    }


def lost_counts(entry: dict) -> float:
    return entry["counts_by_route"].get("unmapped", 0.0)


def write_html(report: dict, path: Path) -> None:
    """Write a page that needs no other file, with pictures as SVG."""
    figures = {
        "genes": genes_figure(report["files"]),
        "cells": cells_figure(report["files"]),
        "labels": labels_figure(report["splits"]),
        "diversity": diversity_figure(report["diversity"]),
        "pathways": pathways_figure(report["pathways"]),
    }
    page = render_page(
        "cell2text.preparation", "report.html", report=report, figures=figures, lost_counts=lost_counts,
        min_coverage=MIN_COVERAGE, splits=SPLITS,
    )  # fmt: skip
    write_atomically(path, page)


def genes_figure(files: dict) -> str:
    series = {
        route: [entry["genes_by_route"].get(route, 0) for entry in files.values()]
        for route in ROUTES
        if any(entry["genes_by_route"].get(route) for entry in files.values())
    }
    names = [f"{name}  ({100 * lost_counts(entry):.1f} % of counts lost)" for name, entry in files.items()]
    return svg(stacked_bars(names, series, "genes of the file, by how they were found"))


def cells_figure(files: dict) -> str:
    reasons = list(dict.fromkeys(reason for entry in files.values() for reason in entry["dropped"]))
    series = {"rows": [entry["rows"] for entry in files.values()]}
    series |= {reason: [entry["dropped"].get(reason, 0) for entry in files.values()] for reason in reasons}
    return svg(stacked_bars(list(files), series, "cells"))


def labels_figure(splits: dict) -> str:
    total: Counter = Counter()
    for split in splits.values():
        total.update(split["labels"].get("cell_type", {}))
    names = [name for name, _ in sorted(total.items(), key=most_first)][:MOST_BARS]
    series = {
        split: [entry["labels"].get("cell_type", {}).get(name, 0) for name in names] for split, entry in splits.items()
    }
    return svg(stacked_bars(names, series, "rows")) if names else ""


def diversity_figure(diversity: dict) -> str:
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


def pathways_figure(pathways: dict) -> str:
    if not pathways:
        return ""
    names = sorted(pathways, key=lambda name: (-pathways[name]["active"], name))[:MOST_BARS]
    only_active: Iterable[float] = (pathways[name]["active"] - pathways[name]["named"] for name in names)
    series = {
        "among the two highest": [100 * pathways[name]["named"] for name in names],
        "active, not among the two": [100 * max(0.0, share) for share in only_active],
    }
    return svg(stacked_bars(names, series, "% of rows"))
