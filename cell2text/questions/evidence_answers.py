"""Word the genes that the named type of a cell rests on.

Depends on :class:`cell2text.evidence.explainer.Explainer`.
"""

from cell2text.describe.ranked_cells import RankedCells
from cell2text.evidence.explainer import CELL_TYPE, Explainer
from cell2text.evidence.statements import StatementEvidence, evidence_sentences, statements_of
from cell2text.language.parsing import read_fields
from cell2text.questions.answer import AnswerValue, Wording
from grammar_cell2text import enumeration


N_GENES = 5
GENE, MARKER, ABSENT_MARKER = "gene", "present marker", "absent marker"


def type_evidence(model, processor, cells: RankedCells, text: str) -> Wording:
    """Word why one cell has its named type: the genes that carry it, and known markers that are present or absent.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    cells
        The cell.
    text
        The text that describes it.
    """
    statements = [one for one in statements_of(read_fields(text)) if one.field == CELL_TYPE]
    explain = Explainer(model, processor, n_genes=N_GENES)
    found = explain(cells.cells, [text], [statements], measured=cells.measured, expressed=cells.expressed)[0]
    words = evidence_sentences(found, N_GENES)
    if not words:
        return Wording(
            "The cell has no evidence: its text names no type, or no gene raises the probability of the type."
        )
    is_complete = cells.expressed is not None or len(cells.cells[0]) < processor.max_genes
    return Wording(" ".join([words, *_marker_sentences(found[0], is_complete)]), _values(found[0]))


def for_one_cell_only() -> Wording:
    """Word that evidence is found for one cell at a time."""
    return Wording("Evidence genes are computed for one cell at a time: ask about one cell.")


def _marker_sentences(evidence: StatementEvidence, is_complete: bool) -> list[str]:
    """Return sentences on known markers; `is_complete` says that all expressed genes of the cell are known."""
    absent = "that it does not express" if is_complete else "that are not among the genes read by the model"
    sentences = []
    if evidence.present_markers:
        sentences.append(f"Known markers that the cell expresses: {enumeration(evidence.present_markers)}.")
    if evidence.absent_markers:
        sentences.append(f"Known markers {absent}: {enumeration(evidence.absent_markers)}.")
    return sentences


def _values(evidence: StatementEvidence) -> list[AnswerValue]:
    genes = [AnswerValue(GENE, one.gene) for one in evidence.genes if one.contribution > 0]
    present = [AnswerValue(MARKER, gene) for gene in evidence.present_markers]
    return [*genes, *present, *(AnswerValue(ABSENT_MARKER, gene) for gene in evidence.absent_markers)]
