"""Describe ranked gene lists: cells without counts. Depends on the engine, which describes cells from any source."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from cell2text.describe.engine import Describer
from cell2text.describe.inputs import find_cell
from cell2text.describe.options import DescribeOptions
from cell2text.describe.own_concepts import OwnConcepts
from cell2text.describe.ranked_cells import RankedCells
from cell2text.describe.table import EMBEDDING, ID
from cell2text.errors import UserError
from cell2text.loading import load_or_reuse
from concepts_cell2text import ConceptNames
from gene_lists_cell2text import is_gene_list, rank_gene_lists
from processing_cell2text import Cell2TextProcessor
from ranking_cell2text import MappedGenes


BLOCK_LISTS = 1024
MIN_RANKED_GENES = 500  # shorter lists do not reach far enough into the top 5 % of all genes that AUCell reads
OF_COUNTS = ("layer", "gene_key", "allow_fractional", "groupby", "cells_per_group")  # options that need counts or obs


class GeneListReader:
    """Ranked cells of gene lists, a range at a time, as :class:`~cell2text.describe.inputs.CellReader` reads counts.

    Parameters
    ----------
    names
        Name of each cell.
    lists
        Gene symbols or Ensembl ids of each cell, highest expression first.
    processor
        Provides the gene vocabulary and the length of a ranked cell.
    options
        Options of the run.
    concepts
        Concepts of the model that describes the cells. None for a model without concepts.

    Raises
    ------
    UserError
        If an entry is not the name of one gene, fewer than half of the names are known, or an option needs counts.
    """

    groups = None

    def __init__(
        self, names: Sequence[str], lists: Sequence[Sequence[str]], processor: Cell2TextProcessor,
        options: DescribeOptions, concepts: ConceptNames | None = None,
    ):  # fmt: skip
        check_options(options)
        self.names, self.options, self.processor, self.n_cells = list(names), options, processor, len(lists)
        vocabulary = processor.gene_vocabulary
        self.ranked = rank_gene_lists(lists, vocabulary, max_genes=processor.max_genes, species=options.species)
        genes = [token for token in vocabulary.tokens if not token.startswith("<")]
        var = pd.DataFrame(index=genes)
        self.genes = MappedGenes(var, vocabulary, gene_key="index")
        self.column_of_token = np.full(len(vocabulary), -1)
        self.column_of_token[self.genes.token_ids] = np.arange(len(genes))
        self.n_found_genes = len(np.unique(np.concatenate([*self.ranked.genes, np.zeros(0, vocabulary.dtype)])))
        concepts = concepts or ConceptNames()
        self.own = OwnConcepts(concepts, var, self.genes, options) if concepts.n_concepts else None

    def reading(self) -> dict:
        """Return what was found, with notes for the user, ready for JSON; the keys are those of files of counts."""
        notes = [self.ranked.note] if self.ranked.note else []
        n_short = int((self.ranked.n_genes < MIN_RANKED_GENES).sum())
        if self.own is not None:
            notes += self.own.notes
            if self.own.scorer is not None and n_short:
                notes.append(
                    f"{n_short:,} of {self.n_cells:,} lists have fewer than {MIN_RANKED_GENES} genes of the model; "
                    "pathways are not stated for them."
                )
        return {
            "container": "gene lists", "counts": "the order of the genes", "gene_column": "the lists",
            "species": self.options.species, "genes_found": self.n_found_genes,
            "genes_of_model": self.genes.n_model_genes, "coverage": None, "left_out": {}, "notes": notes,
            **({} if self.own is None else self.own.reading()),
        }  # fmt: skip

    def read(self, start: int, stop: int) -> RankedCells:
        """Return the cells of the rows from `start` to before `stop`; their coverage is NaN.

        A gene that no list names may be measured and not expressed.
        """
        rows = slice(start, stop)
        own = None if self.own is None else self.own.read(*self._as_counts(self.ranked.genes[rows]))
        return RankedCells(
            self.names[rows], self.ranked.cells[rows], self.ranked.n_genes[rows], self.ranked.known[rows],
            np.nan, concept_overrides=None if own is None else own.overrides,
            expressed=[np.asarray(genes) for genes in self.ranked.genes[rows]],
            own_evidence=None if own is None else own.evidence,
        )  # fmt: skip

    def comparison_cell(self) -> RankedCells | None:
        """Return the cell named by `options.compare_to`, None if cells are not compared."""
        if self.options.compare_to is None:
            return None
        row = find_cell(self.names, self.options.compare_to)
        cell = self.read(row, row + 1)
        reason = self.processor.reason_not_described(cell.cells[0])
        if reason is not None:
            raise UserError(f"compare_to={self.options.compare_to!r}: {reason} Choose another cell.")
        return cell

    def _as_counts(self, lists: Sequence[np.ndarray]) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Return one count per listed gene, and values in the order of the list, zero for lists that are too short."""
        lengths = [len(tokens) for tokens in lists]
        columns = self.column_of_token[np.concatenate([*lists, np.zeros(0, dtype=np.int64)]).astype(np.int64)]
        ends, shape = np.cumsum([0, *lengths]), (len(lists), len(self.genes.token_ids))
        falling = [np.arange(n, 0, -1) if n >= MIN_RANKED_GENES else np.zeros(n) for n in lengths]
        present = sp.csr_matrix((np.ones(len(columns), dtype=np.float32), columns, ends), shape=shape)
        order = np.concatenate([*falling, np.zeros(0)]).astype(np.float32)
        ranks = sp.csr_matrix((order, columns, ends), shape=shape)
        for matrix in (present, ranks):
            matrix.sort_indices()
        return present, ranks


def describe_gene_lists(
    lists, model=None, *, names: Sequence[str] | None = None, prompt: str | None = None,
    compare_to: str | None = None, species: str = "human", pathways: str | None = None, sex: str | None = None,
    batch_size: int | None = None, max_new_tokens: int = 160,
) -> pd.DataFrame:  # fmt: skip
    """Describe ranked gene lists, such as cells that a paper gives by their most expressed genes.

    Parameters
    ----------
    lists
        One list of gene symbols or Ensembl ids per cell, highest expression first; a mapping from names to lists, or a
        Series of lists, names the cells as well. Genes that the model does not know are skipped, and logged.
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor, as :func:`cell2text.load`
        returns it. Defaults to the packaged model.
    names
        Name of each cell. Defaults to `cell_1`, `cell_2`, ...
    prompt, compare_to, species, batch_size, max_new_tokens
        See :func:`cell2text.tl.describe`.
    pathways
        `"cell"`: the most active pathways by AUCell, with the order of the list as ranking; none for lists with fewer
        than 500 genes of the model. `"model"`: the model's prediction. Defaults to `"cell"` where the model allows it.
    sex
        `"cell"`: XIST and Y genes in the list. `"model"`: the model's prediction. Defaults to `"cell"` where the model
        allows it.

    Returns
    -------
    One row per list, indexed by its name, with the columns of `.obs` in :func:`cell2text.tl.describe` without the
    prefix: `text`, `cell_type`, ... `counts_used` is the fraction of the list's names that the model knows, and
    `coverage` is missing.

    Raises
    ------
    UserError
        If an entry is not the name of one gene, fewer than half of the names are known, names and lists differ in
        number, or the model cannot be loaded.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> adata = cell2text.example_cells()
    >>> beta_cell = adata[adata.obs["cell_type"] == "type B pancreatic cell"][:1]
    >>> tokens = processor.rank_encode(beta_cell, allow_fractional=True)[0]
    >>> genes = [processor.gene_vocabulary.symbols[token] for token in tokens[1:301]]
    >>> cell2text.describe_gene_lists({"beta cell": [gene for gene in genes if gene]})["cell_type"].tolist()
    ['type B pancreatic cell']
    """
    options = DescribeOptions(
        prompt=prompt, compare_to=compare_to, species=species, pathways=pathways, sex=sex, batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    names, lists = _named_lists(lists, names)
    loaded, processor, _ = load_or_reuse(model)
    reader = GeneListReader(names, lists, processor, options, loaded.config.concepts)
    describer = Describer(loaded, processor, options, reader.comparison_cell())
    frame = pa.concat_tables(list(_tables(reader, describer))).drop_columns([EMBEDDING]).to_pandas()
    return frame.set_index(ID)


def check_options(options: DescribeOptions) -> None:
    """Raise a `UserError` if an option applies to counts alone."""
    given = [name for name in OF_COUNTS if getattr(options, name)]
    if given:
        value = getattr(options, given[0])
        raise UserError(f"{given[0]}={value!r} applies to counts, but the cells are ranked gene lists. Omit it.")


def _tables(reader: GeneListReader, describer: Describer) -> Iterator[pa.Table]:
    for start in range(0, reader.n_cells, BLOCK_LISTS):
        yield describer(reader.read(start, min(start + BLOCK_LISTS, reader.n_cells)))


def _named_lists(lists, names: Sequence[str] | None) -> tuple[list[str], list]:
    """Return names and lists of any input that `describe_gene_lists` accepts."""
    if isinstance(lists, (str, pd.DataFrame)) or hasattr(lists, "obs_names"):
        raise UserError(
            f"lists is a {type(lists).__name__}: expected one list of gene names per cell. Pass an AnnData to "
            "cell2text.tl.describe, and a file to cell2text.describe.describe_file."
        )
    if isinstance(lists, (Mapping, pd.Series)):
        names = [str(name) for name in lists.keys()] if names is None else names  # noqa: SIM118
        lists = list(lists.values()) if isinstance(lists, Mapping) else lists.tolist()
    if is_gene_list(lists) and " " not in str(lists[0]).strip():
        raise UserError(f"lists starts with the gene {str(lists[0])!r}: expected a list of lists, one per cell.")
    lists = list(lists)
    names = [f"cell_{i}" for i in range(1, len(lists) + 1)] if names is None else [str(name) for name in names]
    if not lists or len(names) != len(lists):
        raise UserError(
            f"lists holds {len(lists):,} cells and names {len(names):,}: expected the same number, above 0."
        )
    return names, lists
