"""Ask, score and search the cells of an AnnData or of a file.

    AnnData or file -> reader of ranked cells -> QuestionAnswerer, LabelScorer or search_cells -> result

Depends on `describe.cell_files`, which opens files of counts and of ranked gene lists.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cell2text.describe.cell_files import locate_cells, open_cells
from cell2text.describe.gene_list_files import is_gene_list_file
from cell2text.describe.gene_lists import GeneListReader
from cell2text.describe.inputs import CellReader
from cell2text.describe.options import DescribeOptions
from cell2text.describe.provenance import provenance
from cell2text.describe.writers import TABLES, write_groups
from cell2text.errors import UserError
from cell2text.files import atomic_path
from cell2text.loading import default_device, load_model, load_or_reuse, model_name
from cell2text.questions.answer import EVIDENCE, Answer
from cell2text.questions.answering import QuestionAnswerer
from cell2text.questions.evidence_answers import N_GENES
from cell2text.questions.model_types import TEXT
from cell2text.questions.reading import cell_names, open_anndata, read_selected
from cell2text.questions.scoring import NONE_OF_THEM, LabelScorer, LabelScores, score_reader
from cell2text.questions.searching import CELL, search_cells
from cell2text.questions.understanding import understand
from cell2text.questions.words import check_text
from cell2text.sources.containers import load_anndata


logger = logging.getLogger(__name__)

BEST, PROBABILITY = "best", "best_probability"


@contextmanager
def open_reader(
    source: AnnData | str | os.PathLike, model, options: DescribeOptions, device: str | None = None
) -> Iterator[tuple]:
    """Open an AnnData or a file; yield the reader of its cells, the model, its processor and its name.

    Raises
    ------
    UserError
        If there are no cells, or the cells or the model cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_cells(locate_cells(source), options) as opened:
            if isinstance(model, tuple):
                loaded, processor, name = load_or_reuse(model)
            else:
                loaded, processor = load_model(model, device or default_device())
                name = model_name(model)
            yield _checked(opened.reader(processor, options, loaded.config.concepts)), loaded, processor, name
        return
    cells = open_anndata(source, options)
    loaded, processor, name = load_or_reuse(model)
    yield _checked(CellReader(cells, processor, options, loaded.config.concepts)), loaded, processor, name


def _checked(reader: CellReader | GeneListReader) -> CellReader | GeneListReader:
    if not reader.n_cells:
        raise UserError("The file holds no cells.")
    for note in reader.reading()["notes"]:
        logger.warning(note)
    return reader


def ask(
    source: AnnData | str | os.PathLike, question: str, model=None, *, cells: str | Sequence[str] | None = None,
    where: Mapping[str, str] | None = None, compare_to: str | Sequence[str] | None = None,
    options: DescribeOptions | None = None, device: str | None = None,
) -> Answer:  # fmt: skip
    """Answer a question about cells of an AnnData or of a file; see :func:`cell2text.tl.ask`.

    Parameters
    ----------
    source
        AnnData, path or address.
    question, model, cells, where, compare_to
        As for :func:`cell2text.tl.ask`.
    options
        How the file is read. Defaults to `DescribeOptions()`.
    device
        Torch device for a model that is loaded here. Defaults to a GPU if there is one, otherwise to the CPU.

    Examples
    --------
    >>> import cell2text
    >>> ask(cell2text.example_cells(unseen=True)[:1], "Is this a T cell?").verdict
    'no'
    """
    check_text("question", question)
    options = options or DescribeOptions()
    if understand(question).task == EVIDENCE:
        options = replace(options, evidence=N_GENES)  # then all expressed genes are read
    with open_reader(source, model, options, device) as (reader, loaded, processor, _):
        chosen = read_selected(reader, cells, where)
        second = None if compare_to is None else read_selected(reader, compare_to, parameter="compare_to")
        answerer = QuestionAnswerer(
            loaded, processor, batch_size=options.batch_size, max_new_tokens=options.max_new_tokens
        )
        return answerer(chosen, question, second)


def score(
    source: AnnData | str | os.PathLike, labels: Sequence[str], model=None, *, options: DescribeOptions | None = None,
    device: str | None = None,
) -> tuple[pd.DataFrame, LabelScores, dict]:  # fmt: skip
    """Score the cells of an AnnData or of a file by labels; see :func:`cell2text.tl.score`.

    Returns
    -------
    A table with one row per cell, the columns `best` and `best_probability` and one column per label; the scores; and
    what they depend on.

    Examples
    --------
    >>> import cell2text
    >>> table, _, _ = score(cell2text.example_cells(unseen=True)[:1], ["alpha cell", "T cell"])
    >>> table["best"].tolist()
    ['alpha cell']
    """
    options = options or DescribeOptions()
    with open_reader(source, model, options, device) as (reader, loaded, processor, name):
        scorer = LabelScorer(loaded, processor, labels)
        for note in scorer.notes():
            logger.warning(note)
        if all(label.route != TEXT for label in scorer.labels):
            reader.own = None  # types do not depend on pathways and sex, which take most of the time of reading
        scores = score_reader(reader, scorer)
        without = int(np.isnan(scores.best_probabilities).sum())
        if without:
            logger.warning(f"{without:,} of {reader.n_cells:,} cells cannot be described and have no scores.")
        names = [label.label for label in scores.labels]
        table = pd.DataFrame(scores.probabilities, index=cell_names(reader).astype(str), columns=names)
        table.insert(0, BEST, pd.Categorical(scores.best, categories=[*names, NONE_OF_THEM]))
        table.insert(1, PROBABILITY, scores.best_probabilities)
        params = provenance(loaded, processor, [], options, name)
    return table, scores, {key: value for key, value in params.items() if key not in ("prompt", "generation")}


def search(
    source: AnnData | str | os.PathLike, query: str, model=None, *, n: int | None = 20,
    options: DescribeOptions | None = None, device: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Rank the cells of an AnnData or of a file by a query; see :func:`cell2text.tl.search`.

    Examples
    --------
    >>> import cell2text
    >>> search(cell2text.example_cells(unseen=True)[:3], "alpha cells", n=1)["pancreatic A cell"].round(1).tolist()
    [1.0]
    """
    check_text("query", query)
    options = options or DescribeOptions()
    with open_reader(source, model, options, device) as (reader, loaded, processor, _):
        if isinstance(reader, GeneListReader):
            raise UserError("Ranked gene lists cannot be searched: pathways and columns need a file of counts.")
        if reader.own is not None:
            reader.own.scorer = None  # the search scores the pathways that it needs
        return search_cells(reader, loaded, processor, query, n)


def add_scores(adata: AnnData, table: pd.DataFrame, scores: LabelScores, params: Mapping[str, str], key: str) -> None:
    """Add the result of :func:`score` to an AnnData, in place."""
    names = [label.label for label in scores.labels]
    matrix = table[names].copy()
    matrix.index = adata.obs_names
    adata.obsm[key] = matrix
    adata.obs[f"{key}_{BEST}"] = pd.Categorical(table[BEST])
    adata.obs[f"{key}_{PROBABILITY}"] = table[PROBABILITY].to_numpy()
    adata.uns[key] = {"mapping": scores.mapping(), "params": dict(params)}


def write_scores(
    source: str | os.PathLike, out: str | os.PathLike, table: pd.DataFrame, scores: LabelScores,
    params: Mapping[str, str], key: str = "cell2text_score",
) -> Path:  # fmt: skip
    """Write scores as a table, or into a copy of the file as :func:`cell2text.tl.score` does.

    Parameters
    ----------
    source
        The file that was scored.
    out
        Output; the suffix sets the format: `.csv`, `.parquet` or `.jsonl` for a table, `.h5ad` for a copy of the file,
        which is read into memory.
    table, scores, params
        Result of :func:`score`.
    key
        As `key_added` of :func:`cell2text.tl.score`.
    """
    path = Path(out)
    if path.suffix in TABLES:
        write_groups(table.rename_axis(CELL).reset_index(), path)
        return path
    adata = load_anndata(locate_cells(source))
    add_scores(adata, table, scores, params, key)
    with atomic_path(path) as partial:
        adata.write_h5ad(partial)
    return path


def check_scores_output(source: str | os.PathLike, out: str | os.PathLike, *, overwrite: bool) -> None:
    """Raise a `UserError` unless scores of a file can be written to a path."""
    path = Path(out)
    if path.suffix not in (".h5ad", *TABLES):
        raise UserError(f"out={str(out)!r}: expected one of the suffixes .h5ad, {', '.join(TABLES)}.")
    if path.resolve() == Path(source).resolve():
        raise UserError(f"out={str(out)!r} is the input, and the input is never changed. Choose another path.")
    if path.suffix == ".h5ad" and is_gene_list_file(source):
        raise UserError(
            f"out={str(out)!r}: ranked gene lists have no counts to copy. Write a table: {', '.join(TABLES)}."
        )
    if path.exists() and not overwrite:
        raise UserError(f"out={str(out)!r} exists. Pass overwrite=True to replace it, or choose another path.")
