"""Summarise an evaluation against own labels in a few lines. Depends on the metrics and the ontology."""

from collections.abc import Mapping

from cell2text.evaluation.classification import NOT_FOUND
from cell2text.evaluation.named_types import METRIC_NAMES, NAMED_TYPE_METRICS
from cell2text.language.fields import FIELD_GRAPHS, FIELDS
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import resolve


MAX_CONFUSIONS, MAX_UNMAPPED = 3, 5
MIN_GAP = 0.05  # between the stated probability and the share of true types; smaller ones are called "close"
ONTOLOGIES = {"cell_type": "the Cell Ontology", "tissue": "UBERON", "disease": "MONDO", "sex": "PATO"}


def summary_lines(metrics: Mapping) -> list[str]:
    """Return the summary of :func:`cell2text.evaluation.evaluate_described`, one block of lines per field.

    Parameters
    ----------
    metrics
        The content of `metrics.json`.
    """
    lines: list[str] = []
    for field in FIELDS:
        if field in metrics["input"]["truth"] and field in metrics:
            lines += _field_lines(metrics, field)
    return lines


def evidence_line(metrics: Mapping) -> str:
    """Return the metrics of :func:`cell2text.describe.faithfulness.evidence_metrics` in one line.

    Examples
    --------
    >>> shares = {"marker_share": 0.6, "marker_share_by_chance": 0.1}
    >>> evidence_line({"n": 20, "loss_without_5": 0.05, "random_loss_5": 0.001, **shares}).split(";")[1]
    ' 60 % of these genes are known markers, 10 % by chance (20 cells)'
    """
    losses = [100 * metrics[name] for name in ("loss_without_5", "random_loss_5")]
    shares = [100 * metrics[name] for name in ("marker_share", "marker_share_by_chance")]
    return (
        f"evidence: without 5 genes a type's probability falls by {losses[0]:.1f} points, without 5 random genes by "
        f"{losses[1]:.1f}; {shares[0]:.0f} % of these genes are known markers, {shares[1]:.0f} % by chance "
        f"({metrics['n']:,} cells)"
    )


def _field_lines(metrics: Mapping, field: str) -> list[str]:
    """Return the lines of one field. The figures cover the cells whose label is a term, if there are any."""
    note, scores, title = metrics["input"]["truth"][field], metrics[field], field.replace("_", " ")
    mapped = note["mapped"]
    shown = scores if mapped is None else mapped
    of = f" of the {_cells(mapped['n'])} whose label is a term" if mapped and note["unmapped"] else ""
    lines = [f"{title.capitalize()}: predictions against {note['column']}", _line("cells", _cell_counts(note))]
    lines.append(_line("labels", f"{note['mapped_labels']:,} of {note['labels']:,} are {_terms(field)}"))
    lines += [_line("" if number else "not terms", text) for number, text in enumerate(_unmapped(note))]
    lines.append(_line("accuracy", f"{_share(shown, 'accuracy')}{of}: the predicted {title} is the label"))
    if field in FIELD_GRAPHS:
        text = "it is the label, or more general or more specific"
        lines.append(_line("lenient", f"{_share(shown, 'lenient_accuracy')}: {text}"))
    if of:
        text = "accuracy if labels that are not terms count as well; they are compared by name"
        lines.append(_line("all labels", f"{_share(scores, 'accuracy')}: {text}"))
    if field == "cell_type" and "named_types" in metrics:
        lines += _named_type_lines(metrics["named_types"], mapped and mapped["type_probability"])
    confusions = metrics["confusions"].get(field, []) if mapped is None else mapped["confusions"]
    for number, one in enumerate(confusions[:MAX_CONFUSIONS]):
        lines.append(_line("" if number else "confusions", _confusion(field, one)))
    return lines


def named_types_line(named: Mapping) -> str:
    """Return the part `named_types` of `metrics.json` as one line; figures that are undefined are left out.

    Examples
    --------
    >>> named_types_line({"n": 20, "named_share": 0.9, "named_true": 0.95, "named_depth": None})
    'named types: named 90.0%, true 95.0% on 20 cells'
    """
    shown = [f"{METRIC_NAMES[name]} {named[name]:.1%}" for name in NAMED_TYPE_METRICS if named.get(name) is not None]
    return f"named types: {', '.join(shown)} on {_cells(named['n'])}"


def _named_type_lines(named: Mapping, stated: float | None) -> list[str]:
    """Return the lines about how often a type is named, whether it is true, and whether its probability is right."""
    lines = [_line("named", f"{_share(named, 'named_share')} of {_cells(named['n'])} with a label have a cell type")]
    if named["named_true"] is None:
        return lines
    depth = f", at {named['named_depth']:.1%} of the label's depth" if named["named_depth"] is not None else ""
    text = "of the named types are true, which includes more general and more specific ones"
    lines.append(_line("true", f"{_share(named, 'named_true')} {text}{depth}"))
    if stated is not None and named.get("ece") is not None:
        lines.append(_line("probability", _calibration(stated, named["named_true"])))
        lines.append(_line("calibration", f"{_share(named, 'ece')} is the expected error of the probability"))
        wrong = f"{_share(named, 'wrong_above_90')} of the cells have a type that is not true and above 90% probable"
        lines.append(_line("sure, wrong", wrong))
    return lines


def _terms(field: str) -> str:
    return f"terms of {ONTOLOGIES[field]}" if field in ONTOLOGIES else "known life stages"


def _unmapped(note: Mapping) -> list[str]:
    """Return the most frequent labels that are not terms, each with its most frequent prediction."""
    lines = []
    for label, one in list(note["unmapped"].items())[:MAX_UNMAPPED]:
        named = f", predicted: {one['prediction']} in {one['n']:,}" if one["prediction"] else ""
        lines.append(f"{label} ({_cells(one['cells'])}){named}")
    left = len(note["unmapped"]) - MAX_UNMAPPED
    return [*lines, f"and {left:,} more, listed in the report"] if left > 0 else lines


def _confusion(field: str, one: Mapping) -> str:
    """Return one kind of error, with a remark if both terms are related: then it counts as correct in lenient."""
    if one["prediction"] == NOT_FOUND:
        return f"{one['label']}, predicted: no {field.replace('_', ' ')} named ({_cells(one['n'])})"
    terms = [resolve(field, one[name]).term_id for name in ("prediction", "label")] if field in FIELD_GRAPHS else []
    related = bool(terms) and load_graph(FIELD_GRAPHS[field]).related(*terms)
    remark = ", more general or more specific" if related else ""
    return f"{one['label']}, predicted: {one['prediction']} ({_cells(one['n'])}{remark})"


def _line(title: str, text: str) -> str:
    return f"  {title:<12} {text}"


def _cells(n: int) -> str:
    return f"{n:,} cell{'' if n == 1 else 's'}"


def _cell_counts(note: Mapping) -> str:
    labelled = note["cells"] - note["without_label"]
    text = f"{note['scored']:,} of {note['cells']:,} scored"
    if note["without_prediction"]:
        share = note["scored"] / labelled
        text += f"; {share:.1%} of cells with a label have a prediction, {note['without_prediction']:,} have none"
    return text + (f"; {_cells(note['without_label'])} without a label" if note["without_label"] else "")


def _share(scores: Mapping, name: str) -> str:
    bounds = scores["intervals"].get(name)
    interval = f" (95% interval {bounds[0]:.1%} to {bounds[1]:.1%})" if bounds else ""
    return f"{scores[name]:.1%}{interval}"


def _calibration(stated: float, true: float) -> str:
    """Compare the mean probability that the model states with the share of true types."""
    gap = stated - true
    if abs(gap) < MIN_GAP:
        verdict = "close to the share that is true"
    else:
        verdict = f"{100 * abs(gap):.1f} points {'above' if gap > 0 else 'below'} the share that is true: "
        verdict += "too confident on these cells" if gap > 0 else "less confident than it could be"
    return f"{stated:.1%} is the mean type probability, {verdict}"
