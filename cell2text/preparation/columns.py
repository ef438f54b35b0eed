"""Find the metadata columns of a file: those of the CELLxGENE schema, mapped ones, and well-known other names.

Cell types are recognised by their labels, donors by the name of the column. Depends on `ontology` for terms.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cell2text.ontology.common_names import resolve_label
from cell2text.ontology.terms import FIELD_ONTOLOGIES, clean_label, resolve
from cell2text.preparation.rows import METADATA_COLUMNS
from source_cell2text import CellSource


READ_COLUMNS = (*METADATA_COLUMNS, "sex_ontology_term_id", "is_primary_data")
# Parts of the names of columns that may hold cell types, lower-case letters and digits only.
CELL_TYPE_HINTS = (
    "celltype", "cellontology", "cellclass", "cellident", "celllabel", "cellname", "annot", "label", "cluster",
    "louvain", "leiden", "subtype", "subclass", "lineage", "population",
)  # fmt: skip
DONOR_NAMES = ("donor", "patient", "individual", "subject", "participant")
SAMPLE_NAMES = ("sample", "samplename", "origident")  # tried after the names of donors
MIN_RESOLVED = 0.5  # part of the labelled cells whose label is a cell type of the Cell Ontology
MAX_LABELS = 2000  # columns with more values hold names of cells rather than labels


@dataclass
class ChosenColumns:
    """The columns of a file that hold metadata.

    Parameters
    ----------
    columns
        Column of the file for each column of the schema that it has.
    recognised
        The part of `columns` that neither the schema nor the options name.
    notes
        What was recognised, for the report.
    """

    columns: dict[str, str]
    recognised: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, column: str, note: str) -> None:
        """Add a recognised column."""
        self.columns[name] = self.recognised[name] = column
        self.notes.append(note)


def choose_columns(source: CellSource, mapping: dict[str, str], *, labelled: bool = True) -> ChosenColumns:
    """Choose the file's column for each column of the schema.

    A file without the columns `cell_type` and `cell_type_ontology_term_id` gets them from the only other column whose
    labels or ids belong to the Cell Ontology for at least half of its labelled cells. A file without `donor_id` gets it
    from a column such as `patient`, otherwise `sample`.

    Parameters
    ----------
    source
        Open source.
    mapping
        Columns of the file by name in the schema, from the options. Nothing is recognised for these names.
    labelled
        Require a cell type, tissue or disease, and recognise columns. Otherwise only named columns are used.

    Raises
    ------
    BadFileError
        If a mapped column is missing, or the file has no cell type, tissue or disease.
    """
    present = source.obs_columns()
    chosen = ChosenColumns(_named_columns(source, present, mapping))
    if not labelled:
        return chosen
    others = [name for name in present if name not in READ_COLUMNS and name not in mapping.values()]
    if not {"cell_type", "cell_type_ontology_term_id"} & (chosen.columns.keys() | mapping.keys()):
        _recognise_cell_types(source, chosen, others)
    if "donor_id" not in chosen.columns:
        _recognise_donors(source, chosen, others)
    if not present:
        raise source.container.error(
            "has no columns in obs, but training needs a cell_type, tissue or disease of each cell. Add them to "
            "adata.obs, and pass the file that adata.write_h5ad writes."
        )
    if not chosen.columns.keys() & {"cell_type", "cell_type_ontology_term_id", "tissue", "disease"}:
        raise source.container.error(
            f"has no column cell_type, tissue or disease in obs, and no other whose labels are cell types; it has "
            f"{present}. Map the file's columns with columns=, such as cell_type=CellType.",
        )
    return chosen


def _named_columns(source: CellSource, present: Sequence[str], mapping: dict[str, str]) -> dict[str, str]:
    """Return the columns that the options or the schema name."""
    columns = {column: mapping.get(column, column) for column in READ_COLUMNS}
    for column, mapped in mapping.items():
        if mapped not in present and column not in present:
            raise source.container.error(
                f"has no column {mapped!r} in obs, which columns= maps; it has {list(present)}."
            )
        if mapped not in present:
            columns[column] = column
        elif column in FIELD_ONTOLOGIES and f"{column}_ontology_term_id" not in mapping:
            columns[f"{column}_ontology_term_id"] = ""  # these ids belong to the usual column, not to the mapped one
    return {column: name for column, name in columns.items() if name in present}


def _recognise_cell_types(source: CellSource, chosen: ChosenColumns, others: Sequence[str]) -> None:
    """Add the only column with cell types; several are an error, or a note if the file has a tissue or disease."""
    hinted = [name for name in others if any(hint in _plain(name) for hint in CELL_TYPE_HINTS)]
    labels: dict[str, float] = {}
    ids: dict[str, float] = {}
    for name, values in source.read_obs(hinted).items() if hinted else ():
        counts = values.value_counts()
        known = {value: n for value, n in counts.items() if n and clean_label(value)}
        if not known or len(known) > MAX_LABELS:
            continue
        for found, shares in ((_is_cell_type, labels), (_is_cell_type_id, ids)):
            share = sum(n for value, n in known.items() if found(value)) / sum(known.values())
            if share >= MIN_RESOLVED:
                shares[str(name)] = share
    target, shares = ("cell_type", labels) if labels else ("cell_type_ontology_term_id", ids)
    listed = ", ".join(f"{name} ({share:.0%})" for name, share in shares.items())
    if len(shares) == 1:
        (column,) = shares
        chosen.add(
            target, column, f"{target} is read from the column {column!r}: {listed} of its labelled cells have a cell "
            "type of the Cell Ontology.",
        )  # fmt: skip
    elif shares:
        text = f"has no column cell_type in obs, and several that hold cell types of the Cell Ontology: {listed}"
        example = f"such as {target}={max(shares, key=lambda name: shares[name])}"
        if not chosen.columns.keys() & {"tissue", "disease"}:
            raise source.container.error(f"{text}. Choose one with columns=, {example}.")
        chosen.notes.append(f"It {text}. Choose one with the option columns, {example}.")


def _recognise_donors(source: CellSource, chosen: ChosenColumns, others: Sequence[str]) -> None:
    """Add the first column with the name of a donor or a sample, unless it differs for nearly every cell."""
    for known in (*DONOR_NAMES, *SAMPLE_NAMES):
        for name in others:
            if _plain(name).removesuffix("id") != known:
                continue
            values = source.read_obs([name])[name]
            n_values = len({clean_label(value) for value in values.cat.categories} - {None})
            if not 0 < n_values <= max(1, source.n_cells // 2):
                continue
            note = f"donor_id is read from the column {name!r} ({n_values:,} values)."
            if known in SAMPLE_NAMES:
                note += " Samples of one donor can be in different splits."
            chosen.add("donor_id", name, note)
            return


def _plain(name: str) -> str:
    """Return the lower-case letters and digits of a column's name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_cell_type(label: str) -> bool:
    return resolve_label("cell_type", label).term_id is not None


def _is_cell_type_id(text: str) -> bool:
    return resolve("cell_type", None, text).term_id is not None
