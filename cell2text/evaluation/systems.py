"""A system is whatever answers: the model, a control, a baseline. Each is scored on the same rows in the same way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cell2text.evaluation.bootstrap import Resampler, interval, paired_difference
from cell2text.evaluation.classification import FieldPairs, truth_claim
from cell2text.evaluation.pathway_metrics import pathway_metrics
from cell2text.evaluation.text_metrics import text_figures
from cell2text.language.fields import FIELDS, Claim, Fields
from cell2text.language.parsing import read_fields


Replicates = dict[str, dict[str, np.ndarray]]
# Figures whose differences between systems are tested.
COMPARED = {
    **dict.fromkeys(FIELDS, ("accuracy", "macro_f1")),
    "cell_type": ("accuracy", "macro_f1", "pagerank_similarity"),
    "pathways": ("subset_accuracy", "jaccard"),
    "text": ("exact_match", "rougeL"),
}


@dataclass
class System:
    """GeneratedTexts of one system, one entry a row.

    Parameters
    ----------
    fields
        Of each field one claim a row, None where the system says nothing; a field it does not answer is absent.
    pathways
        Gene sets that each row's answer names; None for a system that names none.
    texts
        Its texts; None for a classifier.
    contradictions
        Fields that each text claims twice, differently.
    """

    fields: dict[str, list[Claim | None]]
    pathways: list[tuple[str, ...]] | None = None
    texts: list[str] | None = None
    contradictions: list[tuple[str, ...]] = field(default_factory=list)

    def take(self, rows: Iterable[int]) -> "System":
        """Its answers for some rows, in their order."""

        rows = list(rows)

        def taken(values):
            return values and [values[row] for row in rows]

        return System(
            fields={name: [claims[row] for row in rows] for name, claims in self.fields.items()},
            pathways=taken(self.pathways),
            texts=taken(self.texts),
            contradictions=taken(self.contradictions),
        )


@dataclass
class Evaluation:
    """The rows and every system that answered for them: what the report is drawn from."""

    rows: list[dict]
    systems: dict[str, System]
    metrics: dict = field(default_factory=dict)


def system_of_texts(texts: Sequence[str], pathway_names: Sequence[str]) -> System:
    """Read every text's fields."""
    names = tuple(pathway_names)
    read: list[Fields] = [read_fields(text, names) for text in texts]
    return System(
        fields={name: [getattr(fields, name) for fields in read] for name in FIELDS},
        pathways=[fields.pathways for fields in read],
        texts=list(texts),
        contradictions=[fields.contradictions for fields in read],
    )


def pathway_names_of(rows: Sequence[Mapping]) -> list[str]:
    return sorted({name for row in rows for key in ("pathways", "pathways_active") for name in row[key] or ()})


def field_pairs(system: System, rows: Sequence[Mapping]) -> dict[str, FieldPairs]:
    """Labels and answers of every field that some row knows and the system answers."""
    found = {}
    for name, claims in system.fields.items():
        there = np.array([i for i, row in enumerate(rows) if row[name] is not None], dtype=np.int64)
        if len(there):
            truths = [truth_claim(name, rows[i][name], rows[i].get(f"{name}_ontology_term_id")) for i in there]
            found[name] = FieldPairs(name, truths, [claims[i] for i in there], there)
    return found


def score_system(
    system: System,
    rows: Sequence[Mapping],
    resampler: Resampler,
    *,
    pairs: Mapping[str, FieldPairs] | None = None,
    bertscore_model: str | None = None,
) -> tuple[dict, Replicates]:
    """Every figure of a system, with its interval, and its replicates for comparisons."""
    replicates: Replicates = {}
    sizes: dict[str, dict] = {}
    for name, found in (pairs or field_pairs(system, rows)).items():
        replicates[name], sizes[name] = found.metrics(resampler), group_sizes(resampler, found.rows)
    if system.pathways is not None:
        there = np.array([i for i, row in enumerate(rows) if row["pathways"]], dtype=np.int64)
        if len(there):
            truths, said = [rows[i]["pathways"] for i in there], [system.pathways[i] for i in there]
            replicates["pathways"], sizes["pathways"] = (
                pathway_metrics(truths, said, there, resampler),
                group_sizes(resampler, there),
            )
    extra: dict[str, dict] = {}
    if system.texts is not None:
        score_texts(system, rows, resampler, bertscore_model, replicates, sizes, extra)
    if system.pathways is not None:
        score_claims(system.pathways, rows, resampler, replicates, sizes, extra)
    return summarise(replicates, sizes, extra), replicates


def score_texts(system, rows, resampler, bertscore_model, replicates, sizes, extra) -> None:
    """Add the figures of texts: `text` against the references, and contradictions to `truthfulness`."""
    there = np.array([i for i, row in enumerate(rows) if row["reference"] is not None], dtype=np.int64)
    if len(there):
        texts, references = [system.texts[i] for i in there], [rows[i]["reference"] for i in there]
        corpus, values = text_figures(texts, references, bertscore_model)
        replicates["text"] = resampler.all_means(values, there)
        sizes["text"], extra["text"] = group_sizes(resampler, there), corpus
    everyone = np.arange(len(rows))
    contradicting = np.array([bool(found) for found in system.contradictions], dtype=float)
    replicates["truthfulness"] = {"contradicts_itself": resampler.means(contradicting, everyone)}
    sizes["truthfulness"] = group_sizes(resampler, everyone)


def score_claims(pathways, rows, resampler, replicates, sizes, extra) -> None:
    """Add to `truthfulness` how many of the named pathways are active in that very cell."""
    claiming = np.array(
        [i for i, row in enumerate(rows) if row["pathways_active"] is not None and pathways[i]], dtype=np.int64
    )
    if not len(claiming):
        return
    right = [[name in rows[i]["pathways_active"] for name in pathways[i]] for i in claiming]
    replicates.setdefault("truthfulness", {}).update(
        pathway_claims_true=resampler.means(np.array([all(found) for found in right], dtype=float), claiming),
        share_of_pathway_claims_true=resampler.means(np.array([np.mean(found) for found in right]), claiming),
    )
    sizes.setdefault("truthfulness", group_sizes(resampler, claiming))
    extra["truthfulness"] = {"answers_with_pathway_claims": len(claiming)}


def group_sizes(resampler: Resampler, rows: np.ndarray) -> dict:
    """Rows of a part, and how many donors or cells its intervals are drawn from."""
    unit, group = resampler.groups(rows)
    return {"n": len(rows), "resampled": unit, "groups": int(group.max()) + 1 if len(group) else 0}


def summarise(replicates: Replicates, sizes: Mapping[str, Mapping], extra: Mapping[str, Mapping]) -> dict:
    """Figures and intervals as they stand in `metrics.json`; a figure that is undefined is null."""
    return {
        part: {
            **sizes[part],
            **extra.get(part, {}),
            **{name: number(values[0]) for name, values in figures.items()},
            "intervals": {name: bounds for name, values in figures.items() if (bounds := interval(values)) is not None},
        }
        for part, figures in replicates.items()
    }


def number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def compare(first: Replicates, second: Replicates) -> dict:
    """Paired differences of two systems on the same draws of donors."""
    return {
        part: {name: paired_difference(first[part][name], second[part][name]) for name in names if name in second[part]}
        for part, names in COMPARED.items()
        if part in first and part in second
    }
