"""Find the evidence for the statements of descriptions: contributions of genes, known markers, missing markers.

Depends on `attribution` for what the model read, and on :mod:`cell2text.ontology.markers`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cell2text.evidence.attribution import ConceptScore, GeneAttribution, TextScore
from cell2text.evidence.counts import gene_symbol
from cell2text.evidence.statements import (
    LOG_ODDS,
    LOG_PROBABILITY,
    PATHWAYS,
    GeneEvidence,
    Statement,
    StatementEvidence,
)
from cell2text.language.free_text import pathway_index
from cell2text.ontology.markers import marker_genes


CELL_TYPE = "cell_type"
N_MARKERS = 10  # best-known markers of a type that are looked up in each cell
OwnEvidence = Mapping[tuple[str, str], tuple[str, Sequence[GeneEvidence]]]


class Explainer:
    """Find the genes that each statement about a cell rests on.

    Parameters
    ----------
    model, processor
        A Cell2Text model on its device, and its processor.
    conversation
        The prompt of the texts, with one cell. Defaults to the processor's own prompt.
    n_genes
        Number of genes per statement.
    """

    def __init__(self, model, processor, conversation: list[dict] | None = None, *, n_genes: int = 5):
        self.attribution, self.n_genes = GeneAttribution(model, processor, conversation), n_genes
        self.groups, self.vocabulary = model.config.concept_groups, processor.gene_vocabulary
        self.frame = np.array(self.vocabulary.frame_token_ids)

    def __call__(
        self, cells: Sequence[np.ndarray], texts: Sequence[str], statements: Sequence[Sequence[Statement]],
        own: Sequence[OwnEvidence] | None = None, measured: np.ndarray | None = None,
        expressed: Sequence[np.ndarray] | None = None,
    ) -> list[list[StatementEvidence]]:  # fmt: skip
        """Return the evidence for the statements of each cell, in their order.

        A statement that the model has no concept for, and whose words the text does not hold, has no evidence.

        Parameters
        ----------
        cells
            Ranked cells: gene token ids, one sequence per cell.
        texts
            The text of each cell.
        statements
            The statements of each text.
        own
            Per cell, evidence from its counts: by field and value the unit and the genes. It replaces that of the
            model.
        measured
            Token ids of the genes that the file measures. If omitted, no marker is called absent.
        expressed
            Token ids of all expressed genes of each cell. Defaults to those of the ranked cell, which may lack genes
            of low rank.
        """
        expressed = cells if expressed is None else expressed
        measured_tokens = set() if measured is None else set(measured[measured >= 0].tolist())
        found: list[dict[int, StatementEvidence]] = [{} for _ in cells]
        of_concepts: list[tuple[int, int, ConceptScore]] = []
        of_texts: list[tuple[int, int, TextScore]] = []
        for row, (text, of_cell) in enumerate(zip(texts, statements)):
            for place, statement in enumerate(of_cell):
                counted = (own[row] if own is not None else {}).get((statement.field, statement.value.casefold()))
                if counted is not None:
                    found[row][place] = StatementEvidence(statement, counted[0], tuple(counted[1][: self.n_genes]))
                elif self.groups:
                    if (name := self._concept(statement)) is not None:
                        of_concepts.append((row, place, ConceptScore(statement.field, name)))
                elif (score := words_in_text(text, statement)) is not None:
                    of_texts.append((row, place, score))
        attribution = self.attribution
        of_model: list[tuple[str, Sequence[tuple], list[np.ndarray]]] = [
            (LOG_ODDS, of_concepts, attribution.of_concepts(*_arguments(cells, of_concepts))),
            (LOG_PROBABILITY, of_texts, attribution.of_texts(*_arguments(cells, of_texts))),
        ]
        for measure, items, values in of_model:
            for (row, place, _), contributions in zip(items, values):
                found[row][place] = self._evidence(
                    statements[row][place], measure, cells[row], contributions, measured_tokens, expressed[row]
                )
        return [[of_cell[place] for place in sorted(of_cell)] for of_cell in found]

    def _concept(self, statement: Statement) -> str | None:
        """Return the model's name for a stated value, None if it has no concept for it."""
        names = self.groups.get(statement.field, [])
        if statement.field == PATHWAYS:
            return pathway_index(tuple(names)).get(statement.value.casefold())
        return statement.value if statement.value in names else None

    def _evidence(
        self,
        statement: Statement,
        measure: str,
        cell: np.ndarray,
        contributions: np.ndarray,
        measured: set[int],
        all_expressed: np.ndarray,
    ) -> StatementEvidence:
        genes = np.flatnonzero(~np.isin(cell, self.frame))
        ranks = dict(zip(genes.tolist(), range(1, len(genes) + 1)))
        best = genes[np.argsort(-contributions[genes], kind="stable")[: self.n_genes]]
        markers = marker_tokens(statement, self.vocabulary)
        known, expressed = set(markers.tolist()), set(np.asarray(all_expressed).tolist())
        expected = [token for token in markers.tolist() if token in measured or token in expressed][:N_MARKERS]
        return StatementEvidence(
            statement,
            measure,
            tuple(
                GeneEvidence(self.symbol(int(cell[i])), float(contributions[i]), ranks[i], int(cell[i]) in known)
                for i in best.tolist()
            ),
            tuple(self.symbol(token) for token in expected if token in expressed),
            tuple(self.symbol(token) for token in expected if token not in expressed),
        )

    def symbol(self, token: int) -> str:
        """Return the symbol of a gene token, or its name in the vocabulary if it has none."""
        return gene_symbol(self.vocabulary, token)


def marker_tokens(statement: Statement, vocabulary) -> np.ndarray:
    """Return the gene tokens of the known markers of a stated cell type, best known first; empty for other fields."""
    found = marker_genes(statement.term_id) if statement.field == CELL_TYPE and statement.term_id else None
    if found is None:
        return np.zeros(0, dtype=np.int64)
    tokens, _ = vocabulary.map_genes(found.genes)
    return tokens[tokens >= 0]


def _arguments(cells: Sequence[np.ndarray], items: Sequence[tuple]) -> tuple[list, list]:
    """Return the cell and the score of each item."""
    return [cells[row] for row, _, _ in items], [score for _, _, score in items]


def words_in_text(text: str, statement: Statement) -> TextScore | None:
    """Return the place of a statement's words in its text; None if it does not hold them."""
    for words in (statement.words, statement.value):
        start = text.casefold().find(words.casefold()) if words else -1
        if start >= 0:
            return TextScore(text, start, start + len(str(words)))
    return None
