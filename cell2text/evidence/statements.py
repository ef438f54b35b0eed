"""Statements of a text, and the evidence for each: genes, known markers and missing markers.

Depends on the language of descriptions and on known markers. Loads no model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cell2text.language.fields import FIELDS, Fields
from grammar_cell2text import BECAUSE, enumeration


PATHWAYS = "pathways"
LOG_ODDS, LOG_PROBABILITY = "log-odds", "log-probability"  # contributions of a model
AUCELL, COUNTS = "AUCell score", "counts"  # contributions computed from counts
MARKER_SIGN = "*"


@dataclass(frozen=True)
class Statement:
    """What a text states about a cell.

    Parameters
    ----------
    field
        `"pathways"`, or a field of :data:`cell2text.language.fields.FIELDS`.
    value
        The value, such as `"T cell"`; one gene set for pathways.
    term_id
        Its ontology term; None for values without one.
    words
        The words of the text, if they differ from the value.
    """

    field: str
    value: str
    term_id: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class GeneEvidence:
    """A gene that carries a statement, or speaks against it.

    Parameters
    ----------
    gene
        Symbol; the Ensembl id of a gene without a symbol.
    contribution
        Signed contribution in the unit of :attr:`StatementEvidence.measure`.
    rank
        Position of the gene among the ranked genes of the cell, from 1; 0 if the model does not read it.
    is_marker
        Whether the gene is a known marker of the stated cell type.
    """

    gene: str
    contribution: float
    rank: int = 0
    is_marker: bool = False


@dataclass(frozen=True)
class StatementEvidence:
    """The evidence for one statement.

    Parameters
    ----------
    statement
        The statement.
    measure
        Unit of the contributions: `"log-odds"` or `"log-probability"` that the statement loses without the gene,
        `"AUCell score"` that the gene adds, or `"counts"` of the gene.
    genes
        Genes with the highest contributions, highest first.
    present_markers, absent_markers
        The best-known markers of the stated cell type that the cell expresses, and those that the file measures but the
        cell does not express. Empty for other fields and for types without known markers.
    """

    statement: Statement
    measure: str
    genes: tuple[GeneEvidence, ...]
    present_markers: tuple[str, ...] = ()
    absent_markers: tuple[str, ...] = ()


def statements_of(fields: Fields) -> list[Statement]:
    """Return the statements of a description, in the order of its fields.

    Examples
    --------
    >>> from cell2text.language.parsing import read_fields
    >>> [statement.value for statement in statements_of(read_fields("This cell is a T cell."))]
    ['T cell']
    """
    claims = [(name, getattr(fields, name)) for name in FIELDS]
    found = [Statement(name, claim.name, claim.term_id, claim.label) for name, claim in claims if claim is not None]
    return found + [Statement(PATHWAYS, name) for name in fields.pathways]


def format_evidence(evidence: Sequence[StatementEvidence]) -> str | None:
    """Return evidence as one line of text, None without any.

    Known markers carry a star, and contributions have two significant digits. :func:`read_evidence` reads the line.

    Examples
    --------
    >>> genes = (GeneEvidence("CD3D", 1.234, 4, True), GeneEvidence("B2M", -0.2, 1))
    >>> format_evidence([StatementEvidence(Statement("cell_type", "T cell"), LOG_ODDS, genes)])
    'T cell: CD3D* (+1.2), B2M (-0.2)'
    """
    parts = [f"{one.statement.value}: {', '.join(map(_format_gene, one.genes))}" for one in evidence if one.genes]
    return " | ".join(parts) or None


def read_evidence(line: str) -> list[tuple[str, list[GeneEvidence]]]:
    """Return the stated values and their genes from a line of :func:`format_evidence`.

    Entries that are not of this form are omitted.

    Examples
    --------
    >>> read_evidence("T cell: CD3D* (+1.23)")
    [('T cell', [GeneEvidence(gene='CD3D', contribution=1.23, rank=0, is_marker=True)])]
    """
    found = []
    for part in line.split(" | "):
        value, _, genes = part.rpartition(": ")
        matches = filter(None, map(_GENE.fullmatch, genes.split(", ")))
        entries = [GeneEvidence(match[1], float(match[3]), is_marker=bool(match[2])) for match in matches]
        if value and entries:
            found.append((value, entries))
    return found


def type_evidence(line: str, cell_type: str) -> list[str]:
    """Return the genes that support a cell type in a line of :func:`format_evidence`: those that contribute positively.

    Examples
    --------
    >>> type_evidence("T cell: CD3D* (+1.2), B2M (-0.2) | female: XIST (+2)", "T cell")
    ['CD3D']
    """
    return [
        gene.gene
        for value, genes in read_evidence(line)
        if value == cell_type
        for gene in genes
        if gene.contribution > 0
    ]


def evidence_sentences(evidence: Sequence[StatementEvidence], n_genes: int = 3) -> str:
    """Return sentences that name the genes of each statement, for the end of a text; empty without evidence.

    Examples
    --------
    >>> genes = (GeneEvidence("GCG", 2.1), GeneEvidence("TTR", 1.2), GeneEvidence("CHGA", 0.4))
    >>> evidence_sentences([StatementEvidence(Statement("cell_type", "pancreatic A cell"), LOG_ODDS, genes)])
    'Pancreatic A cell is stated because of GCG, TTR and CHGA.'
    """
    sentences = []
    for one in evidence:
        genes = [gene.gene for gene in one.genes[:n_genes] if gene.contribution > 0]
        if genes:
            sentences.append(f"{_capitalised(one.statement.value)} {BECAUSE} {enumeration(genes)}.")
    return " ".join(sentences)


_GENE = re.compile(rf"(\S{{1,100}}?)({re.escape(MARKER_SIGN)}?) \(([+-]\d+(?:\.\d+)?(?:e[+-]\d+)?)\)")


def _format_gene(gene: GeneEvidence) -> str:
    return f"{gene.gene}{MARKER_SIGN if gene.is_marker else ''} ({gene.contribution:+.2g})"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
