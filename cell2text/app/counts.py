"""Counts and predictions of single cells, read and computed when a user looks at them.

The file stays open for reading, and the model loads at first use. Depends on `describe.inputs` for ranked cells and on
`signatures` for pathway scores, on `evidence` for the genes behind statements.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp

from cell2text.describe.evidence import EvidenceFinder
from cell2text.describe.group_markers import read_counts
from cell2text.describe.inputs import CellReader
from cell2text.describe.provenance import reading_options
from cell2text.describe.ranked_cells import RankedCells
from cell2text.evidence.counts import gene_symbol
from cell2text.evidence.statements import StatementEvidence
from cell2text.inference.concepts import predict_concepts
from cell2text.inference.prompts import build_conversation
from cell2text.loading import default_device, load_model, model_name
from cell2text.questions.answering import QuestionAnswerer
from cell2text.signatures.gene_sets import hallmark_gene_sets
from cell2text.signatures.pathways import PathwayScorer
from cell2text.sources.containers import open_source
from cell2text.sources.discovery import find_source
from source_cell2text import CellSource


EVIDENCE_GENES = 5  # per statement


class CellCounts:
    """Counts of a file, and what a model predicts from them.

    Parameters
    ----------
    path
        The described file.
    params
        Parameters of the description, `uns["cell2text"]["params"]`; they say how counts and genes were read.
    model
        Folder or Hub id of a model. None for the packaged model.

    Attributes
    ----------
    lock
        Held while the file or the model is used: requests of a browser arrive in several threads.
    """

    def __init__(self, path: Path, params: dict[str, str], model: str | None = None):
        self.path, self.model, self.lock = path, model, RLock()
        self.options = reading_options(params)

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model and its processor."""
        with self.lock:
            return load_model(self.model, default_device())

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return model_name(self.model)

    @cached_property
    def source(self) -> CellSource:
        """The open file.

        Raises
        ------
        UserError
            If it holds no counts.
        """
        with self.lock:
            location = find_source(str(self.path))
            return open_source(location, layer=self.options.layer, allow_fractional=self.options.allow_fractional)

    @cached_property
    def reader(self) -> CellReader:
        """Reader of ranked cells."""
        model, processor = self.loaded
        return CellReader(self.source, processor, self.options, model.config.concepts)

    @cached_property
    def scorer(self) -> PathwayScorer:
        """Hallmark gene sets, matched to the genes of the file."""
        return PathwayScorer(hallmark_gene_sets(), self.source.read_var(), self.reader.ranker)

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return raw counts of some cells, whose rows are ascending, shape (len(rows), n_genes)."""
        with self.lock:
            return self.source.read_counts(rows)

    def read_model_genes(self, rows: np.ndarray) -> ad.AnnData:
        """Return raw counts of the genes in the vocabulary, with gene symbols as names."""
        with self.lock:
            return read_counts(self.reader, rows)

    def rank(self, rows: np.ndarray) -> RankedCells:
        """Return ranked cells, whose rows are ascending."""
        with self.lock:
            return self.reader.read_rows(rows)

    def gene_names(self, tokens: np.ndarray) -> list[str]:
        """Return the symbol of each gene token, its Ensembl id if it has none."""
        vocabulary = self.loaded[1].gene_vocabulary
        return [gene_symbol(vocabulary, int(token)) for token in tokens]

    def pathway_scores(self, rows: np.ndarray) -> np.ndarray | None:
        """Return AUCell scores of the Hallmark sets, shape (len(rows), n_sets); None if the file has too few genes."""
        with self.lock:
            return self.scorer.score(self.read(rows)) if self.scorer.has_enough_genes else None

    def concepts(self, cells: RankedCells) -> dict[str, np.ndarray]:
        """Return concept probabilities by group; see :func:`cell2text.inference.concepts.predict_concepts`."""
        with self.lock:
            return predict_concepts(*self.loaded, cells.cells)

    @cached_property
    def evidence_reader(self) -> CellReader:
        """Reader of ranked cells with the evidence that their counts show."""
        model, processor = self.loaded
        options = replace(self.options, evidence=EVIDENCE_GENES)
        return CellReader(self.source, processor, options, model.config.concepts)

    @cached_property
    def evidence_finder(self) -> EvidenceFinder:
        """What finds the genes behind the statements of a text."""
        model, processor = self.loaded
        conversation = build_conversation(processor, self.evidence_reader.options.prompt)
        return EvidenceFinder(model, processor, conversation, EVIDENCE_GENES)

    def evidence(self, row: int, text: str) -> list[StatementEvidence]:
        """Return the evidence for each statement of a cell's text; empty for a text that is no description."""
        with self.lock:
            (found,) = self.evidence_finder(self.evidence_reader.read_rows(np.array([row])), [text])
        return found

    @cached_property
    def answerer(self) -> QuestionAnswerer:
        """What answers questions about ranked cells."""
        return QuestionAnswerer(*self.loaded)

    def close(self) -> None:
        """Close the file."""
        if "source" in self.__dict__:
            self.source.close()
