"""Annotations of a described experiment in the Cell Annotation Schema (CAS), as a dictionary ready for JSON.

The schema lists label sets, and per label its cells, its ontology term and the reasons for it. Confidence goes into
`author_annotation_fields`, which the schema leaves to its users. Depends on `described_file` for the descriptions and
on the Cell Ontology for broader terms.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from cell2text.describe.consensus import N_EVIDENCE_GENES
from cell2text.describe.described_file import Described
from cell2text.describe.evidence import EVIDENCE
from cell2text.errors import UserError
from cell2text.evidence.statements import type_evidence
from cell2text.exchange.matrix_genes import matrix_genes
from cell2text.language.described import CANDIDATES, EVIDENCE_GENES, MARKERS, SUMMARY, TEXT
from cell2text.language.parsing import read_declined
from cell2text.ontology.broader_terms import is_informative
from cell2text.ontology.graph import load_graph
from cell2text.ontology.terms import label_of
from declining_cell2text import NOT_DESCRIBED_START, TOO_FEW_GENES_START


SCHEMA_VERSION = "1.1.0"
ALGORITHM, CELL_LABELS = "Cell2Text", "cell2text_cell_type"
# Labels that the schema reserves.
UNKNOWN, DOUBLETS, JUNK, NOT_ANNOTATED = "unknown", "doublets", "junk", "NA"
RESERVED = (UNKNOWN, DOUBLETS, JUNK, NOT_ANNOTATED)
RESERVED_REASONS = {
    UNKNOWN: "The model names no cell type.",
    DOUBLETS: "The profile combines two cells.",
    JUNK: "The profile has too few counts on human genes, or resembles ambient RNA.",
    NOT_ANNOTATED: "The cell has no description.",
}
MAX_TITLE, MAX_RATIONALE = 200, 2000
# Columns of the table of groups that go into `author_annotation_fields`.
GROUP_FIELDS = (
    "type_probability", "mean_type_probability", CANDIDATES, "cell_type_agreement", "cell_type_disagree",
    "heterogeneity", "pathways", "pseudobulk_cell_type",
)  # fmt: skip


def cell_annotations(
    described: Described, *, title: str | None = None, author: str = ALGORITHM, version: str = "1.0.0",
    url: str | None = None, algorithm_url: str | None = None, evidence: Mapping[str, Sequence[str]] | None = None,
) -> dict:  # fmt: skip
    """Return the annotations of a described experiment.

    Parameters
    ----------
    described
        The experiment, as :func:`cell2text.describe.described_file.read_described` returns it.
    title
        Title of the data set, at most 200 characters. Defaults to the name of the file.
    author
        Name of the primary author. Defaults to Cell2Text.
    version
        Version of the annotations.
    url
        Persistent address of the annotations. The CAP extension of the schema requires one, the general schema does
        not.
    algorithm_url
        Address of the repository of the model or the package. With it, label sets state the algorithm; the schema
        requires an address for that.
    evidence
        Genes that carry a cell type, by its name: `marker_gene_evidence` of the labels of cells. Defaults to the genes
        that are evidence for the type in most of its cells, if the cells were described with evidence. Group labels
        state evidence and marker genes of the table of groups. Genes that the file lacks are left out.

    Returns
    -------
    Labels of the cells in the label set `cell2text_cell_type`, and of the groups, if any were described, in a label set
    with the name of their column. A cell without a type has a label that the schema reserves: `unknown`, `doublets`,
    `junk` (too few counts, or ambient RNA), or `NA` for a cell that was not described.

    Raises
    ------
    UserError
        If a title is too long, or cell names are not unique.

    Examples
    --------
    >>> cells = pd.DataFrame({"cell_type": ["T cell", None], "cell_type_ontology_term_id": ["CL:0000084", None]})
    >>> cells.index = ["cell1", "cell2"]
    >>> found = cell_annotations(Described("cells.h5ad", cells, [], None, {}, {}), title="A data set")
    >>> [(one["cell_label"], one["cell_ids"]) for one in found["annotations"]]
    [('T cell', ['cell1']), ('unknown', ['cell2'])]
    """
    names = described.cells.index.astype(str)
    if not names.is_unique:
        repeated = names[names.duplicated()]
        raise UserError(
            f"{described.path}: {len(repeated):,} cell names are not unique, such as {repeated[0]!r}, and annotations "
            "refer to cells by name. Call adata.obs_names_make_unique() and describe the file again."
        )
    title = str(described.path).rpartition("/")[2] if title is None else title
    if not title.strip() or len(title) > MAX_TITLE:
        raise UserError(f"title={title[:40]!r}... has {len(title)} characters: expected 1 to {MAX_TITLE}.")
    if not author.strip():
        raise UserError("author is empty: expected a name.")
    algorithm = _algorithm(described.params, algorithm_url)
    labelsets = [{"name": CELL_LABELS, "description": "Cell type of each cell, predicted by Cell2Text."} | algorithm]
    annotations = _cell_labels(described, evidence or {})
    if described.groups is not None:
        column = described.groups_column
        description = f"Cell type of each group of {column}, predicted by Cell2Text from all of its cells."
        labelsets.append({"name": column, "description": description} | algorithm)
        annotations += _group_labels(described, described.groups, column)
    return {
        "title": title,
        "author_name": author,
        "description": _description(described.params),
        "cellannotation_schema_version": SCHEMA_VERSION,
        "cellannotation_timestamp": _timestamp(described),
        "cellannotation_version": version,
        **({} if url is None else {"cellannotation_url": url}),
        "labelsets": labelsets,
        "annotations": annotations,
    }


def _cell_labels(described: Described, evidence: Mapping[str, Sequence[str]]) -> list[dict]:
    """Return one annotation per cell type, and one per reserved label, of the cells."""
    cells, found = described.cells, []
    in_matrix = matrix_genes(described.path)
    labels, names = cell_labels(cells), cells.index.astype(str).to_numpy()
    for label in sorted(set(labels), key=lambda label: (label in RESERVED, label)):
        rows = np.flatnonzero(labels == label)
        of_label = cells.iloc[rows]
        annotation = {"labelset": CELL_LABELS, "cell_label": label, "cell_fullname": label}
        if label in RESERVED:
            annotation["rationale"] = RESERVED_REASONS[label]
        else:
            annotation |= _term_fields(_first(of_label, "cell_type_ontology_term_id"))
            annotation |= _confidence(of_label)
            genes = in_matrix(evidence.get(label) or _evidence_genes(of_label, label))
            annotation |= {"marker_gene_evidence": genes} if genes else {}
        found.append(annotation | {"cell_ids": names[rows].tolist()})
    return found


def cell_labels(cells: pd.DataFrame) -> np.ndarray:
    """Return the label of each cell: its named type, or a label that the schema reserves.

    Parameters
    ----------
    cells
        Columns of :func:`cell2text.describe.table.table_schema`.

    Examples
    --------
    >>> texts = ["This cell is a T cell.", "No cell type is assigned: the profile combines two cells.", ""]
    >>> cell_labels(pd.DataFrame({"cell_type": ["T cell", None, None], "text": texts})).tolist()
    ['T cell', 'doublets', 'NA']
    """
    types = cells["cell_type"].astype(object)
    texts = cells[TEXT].astype(object) if TEXT in cells else pd.Series(None, index=cells.index, dtype=object)
    known = {text: _reserved_label(text) for text in texts.unique()}
    return np.array([known[text] if pd.isna(name) else str(name) for name, text in zip(types, texts)], dtype=object)


def _reserved_label(text: str | None) -> str:
    if text is None or pd.isna(text):
        return UNKNOWN
    if text == "":
        return NOT_ANNOTATED
    if text.startswith((TOO_FEW_GENES_START, NOT_DESCRIBED_START)):
        return JUNK
    declined = read_declined(text)
    return UNKNOWN if declined is None else {"two_profiles": DOUBLETS, "ambient": JUNK}.get(declined.reason, UNKNOWN)


def _confidence(cells: pd.DataFrame) -> dict:
    """Return rationale and confidence of the cells of one label."""
    n = f"{len(cells):,} {'cell' if len(cells) == 1 else 'cells'}"
    values = cells["type_probability"].astype(float).dropna() if "type_probability" in cells else pd.Series(dtype=float)
    if values.empty:
        return {"rationale": f"Predicted by Cell2Text for {n}."}
    mean, low = float(values.mean()), float(values.min())
    return {
        "rationale": f"Predicted by Cell2Text for {n}, with a mean probability of {mean:.2f} and at least {low:.2f}.",
        "author_annotation_fields": {
            "cell2text_mean_type_probability": round(mean, 4),
            "cell2text_min_type_probability": round(low, 4),
        },
    }


def _evidence_genes(cells: pd.DataFrame, label: str) -> list[str]:
    """Return the genes that are evidence for a cell type in most of its cells."""
    lines = cells[EVIDENCE].dropna() if EVIDENCE in cells else ()
    counts = Counter(gene for line in lines for gene in type_evidence(str(line), label))
    return sorted(counts, key=lambda gene: (-counts[gene], gene))[:N_EVIDENCE_GENES]


def _group_labels(described: Described, groups: pd.DataFrame, column: str) -> list[dict]:
    """Return one annotation per group."""
    found = []
    in_matrix = matrix_genes(described.path)
    values = described.column(column).map(str, na_action="ignore").to_numpy(dtype=object)
    names = described.cells.index.astype(str).to_numpy()
    for row in groups.astype(object).to_dict(orient="records"):
        group, cell_type = str(row["group"]), _present(row, "cell_type")
        annotation: dict = {
            "labelset": column,
            "cell_label": group,
            "cell_fullname": group if group in RESERVED else cell_type or UNKNOWN,
            "rationale": str(_present(row, SUMMARY) or f"Described by Cell2Text from {row['n_cells']:,} cells.")[
                :MAX_RATIONALE
            ],
        } | _term_fields(_present(row, "cell_type_ontology_term_id"))
        lists = (str(_present(row, name) or "").split("; ") for name in (EVIDENCE_GENES, MARKERS))
        genes = in_matrix([gene for genes in lists for gene in genes])
        annotation |= {"marker_gene_evidence": genes} if genes else {}
        fields = {f"cell2text_{name}": _plain(row[name]) for name in GROUP_FIELDS if _present(row, name) is not None}
        annotation |= {"author_annotation_fields": fields} if fields else {}
        found.append(annotation | {"cell_ids": names[values == group].tolist()})
    return found


def _term_fields(term: str | None) -> dict:
    """Return the fields of an ontology term, with the most specific informative term above it for CAP."""
    graph = load_graph("CL")
    if term is None or pd.isna(term) or term not in graph:
        return {"cell_ontology_exists": False}
    fields = {"cell_ontology_term_id": str(term), "cell_ontology_term": label_of(term), "cell_ontology_exists": True}
    above = [parent for parent in graph.parents[str(term)] if is_informative(parent)]
    if above:
        broader = max(above, key=lambda parent: (graph.depth(parent), parent))
        fields |= {
            "category_fullname": label_of(broader),
            "category_cell_ontology_exists": True,
            "category_cell_ontology_term_id": broader,
            "category_cell_ontology_term": label_of(broader),
        }
    return fields


def _algorithm(params: Mapping[str, str], url: str | None) -> dict:
    """Return how a label set was made."""
    found: dict = {"annotation_method": "algorithmic"}
    if url is not None:
        version = json.loads(params.get("libraries", "{}")).get("cell2text") or "unknown"
        details = {"algorithm_name": ALGORITHM, "algorithm_version": version, "algorithm_repo_url": url}
        found["automated_annotation"] = details
    return found


def _description(params: Mapping[str, str]) -> str:
    """Return a sentence on what made the annotations."""
    versions = json.loads(params.get("libraries", "{}"))
    parts = [
        f"version {versions['cell2text']}" if versions.get("cell2text") else "",
        f"model {params['model']}" if params.get("model") else "",
        f"revision {params['revision']}" if params.get("revision") else "",
    ]
    stated = ", ".join(part for part in parts if part)
    return f"Cell types predicted from RNA counts by Cell2Text{f' ({stated})' if stated else ''}. Not for clinical use."


def _timestamp(described: Described) -> str:
    """Return when the described file was written, in UTC, so that a second export of a file is equal to the first."""
    try:
        seconds = described.path.stat().st_mtime
    except (OSError, AttributeError):
        seconds = 0.0
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")


def _first(cells: pd.DataFrame, name: str) -> str | None:
    values = cells[name].dropna() if name in cells else pd.Series(dtype=object)
    return None if values.empty else str(values.iloc[0])


def _present(row: Mapping, name: str):
    """Return a value of a row, None if it is missing or empty."""
    value = row.get(name)
    return None if value is None or pd.isna(value) or value == "" else value


def _plain(value):
    """Return a number with four digits, or a text, that JSON can hold."""
    return round(float(value), 4) if isinstance(value, (float, int, np.number)) else str(value)
