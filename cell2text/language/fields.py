"""The fields of a description: their names, their ontologies, and values parsed from text."""

from dataclasses import dataclass, field

from cell2text.ontology.terms import label_of


# Fields of a description, in the order in which it states them. Pathways are a list and handled separately.
FIELDS = ("cell_type", "tissue", "disease", "sex", "life_stage")
ORIGIN_FIELDS = FIELDS[1:]
# Fields whose values are ontology terms: rows hold the id in the column `<field>_ontology_term_id`.
TERM_FIELDS = ("cell_type", "tissue", "disease", "sex")
# Ontology whose graph compares two values of a field.
FIELD_GRAPHS = {"cell_type": "CL", "tissue": "UBERON", "disease": "MONDO"}
NORMAL = "normal"  # the label of `disease` for a healthy donor (PATO:0000461)


@dataclass(frozen=True)
class Claim:
    """The value of a field that a text states.

    Parameters
    ----------
    label
        Words of the text, or the ontology's label.
    term_id
        Id of the ontology term; None if no term was found.

    Examples
    --------
    >>> Claim("B lymphocyte", "CL:0000236").same_as(Claim("B cell", "CL:0000236"))
    True
    """

    label: str
    term_id: str | None = None

    @property
    def name(self) -> str:
        """Label of the term in the ontology; without a single term, the words of the text."""
        return label_of(self.term_id) if self.term_id and " " not in self.term_id else self.label

    def same_as(self, other: "Claim | None") -> bool:
        """Return whether both claims have the same term, or the same words apart from case."""
        if other is None:
            return False
        if self.term_id and self.term_id == other.term_id:
            return True
        return self.label.casefold() == other.label.casefold()


@dataclass(frozen=True)
class Declined:
    """Why a text names no cell type, read from the texts of :mod:`declining_cell2text`.

    Parameters
    ----------
    reason
        `"no_genes"`, `"other_species"`, `"too_few_genes"`, or a key of `declining_cell2text.REASONS`; `"other"` for
        other words.
    candidates
        The two cell types that a profile combines; empty if the text does not name them.
    """

    reason: str
    candidates: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class Fields:
    """The fields parsed from a text about one cell.

    Parameters
    ----------
    cell_type, tissue, disease, sex, life_stage
        The claim of each field; None if the text does not state it.
    likely_subtype, likely_subtype_probability
        Type below the cell type that the text calls most likely, and the probability that it states.
    pathways
        Gene sets that the text names.
    contradictions
        Fields for which the text states two values that cannot both be true.
    """

    cell_type: Claim | None = None
    tissue: Claim | None = None
    disease: Claim | None = None
    sex: Claim | None = None
    life_stage: Claim | None = None
    likely_subtype: Claim | None = None
    likely_subtype_probability: float | None = None
    pathways: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = field(default=(), compare=False)
