"""Describe, embed, question, score and search the cells of an AnnData, in the manner of scanpy's `tl` functions.

Depends on `describe`, `questions` and `donors`, which work on files and AnnData alike, on `inference` and `generate`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import pyarrow as pa
from anndata import AnnData

from cell2text.describe.engine import Describer
from cell2text.describe.evidence import EvidenceFinder, evidence_frame, summarise_evidence
from cell2text.describe.group_summary import group_table
from cell2text.describe.group_types import GroupTypes
from cell2text.describe.inputs import CellReader, cell_positions
from cell2text.describe.options import DescribeOptions
from cell2text.describe.provenance import provenance
from cell2text.describe.run import ROWS_PER_SHARD
from cell2text.describe.summary import summarise, summary_for_uns, summary_line
from cell2text.describe.table import EMBEDDING, ID, TEXT, output_names, type_probability_matrix
from cell2text.describe.thin_cells import thin_warnings
from cell2text.describe.writers import FORMER_COLUMNS, embedding_matrix, groups_for_uns, obs_column
from cell2text.donors import run as donor_run
from cell2text.donors.options import DonorOptions
from cell2text.errors import UserError
from cell2text.generate.run import generate_cells
from cell2text.inference.embedding import embed_cells
from cell2text.loading import load_or_reuse
from cell2text.questions import run
from cell2text.questions.answer import Answer
from source_cell2text import AnnDataContainer, CellSource


logger = logging.getLogger(__name__)


def describe(
    adata: AnnData, model=None, *, layer: str | None = None, gene_key: str | None = None, prompt: str | None = None,
    compare_to: str | None = None, key_added: str = "cell2text", batch_size: int | None = None,
    max_new_tokens: int = 160, groupby: str | None = None, cells_per_group: int | None = None,
    allow_fractional: bool = False, species: str = "human", pathways: str | None = None, sex: str | None = None,
    evidence: int | None = None, evidence_in_text: bool = False, compile: bool = False, bf16: bool = False,
    seed: int = 0, copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Describe every cell.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes).
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor, as :func:`cell2text.load`
        returns it. Defaults to the bundled model.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most
        genes in the vocabulary.
    prompt
        A question, a task such as `"annotate"` or `"ask:tissue"`, or the path of a JSON file with a conversation; see
        :func:`cell2text.inference.prompts.build_conversation`. Defaults to the model's own prompt.
    compare_to
        Name of a cell to compare every cell to. By default, each cell is described alone.
    key_added
        Name of the column of texts, and prefix of all other keys.
    batch_size
        Cells per batch. Defaults to what fits into the free memory. Texts do not depend on it.
    max_new_tokens
        Maximum number of generated tokens per text.
    groupby
        Column of `obs`, such as `"leiden"`, whose groups are described as well. By default, only cells are described.
    cells_per_group
        Maximum number of described cells per group; other cells get an embedding only. Defaults to all cells.
    allow_fractional
        Accept non-integer counts, such as expected counts of RSEM. By default, they raise an error.
    species
        Species of the cells: `"human"`, or `"mouse"`, whose genes are mapped to human genes by one-to-one orthologs.
    pathways
        Where stated pathways come from: `"cell"`, AUCell scores of the cell's own counts with the packaged Hallmark
        sets, or `"model"`, the model's prediction. Defaults to `"cell"` for models that name Hallmark sets.
    sex
        Where a stated sex comes from: `"cell"`, XIST and Y genes among the cell's own counts, or `"model"`, the model's
        prediction. Defaults to `"cell"` for models that name both sexes.
    evidence
        Number of genes to report as evidence for each statement. Defaults to none.
    evidence_in_text
        Also name these genes in sentences at the end of each text.
    compile
        Compile the decoding step, which pays off for a large language model on a GPU.
    bf16
        Run the language model in bfloat16; see :func:`cell2text.load`, to which it is passed. An error for a `model`
        that is loaded already.
    seed
        Random seed for sampling cells within a group.
    copy
        Return a copy instead of changing `adata`.

    Returns
    -------
    The changed copy if `copy`, otherwise None. Sets the following fields; `X` and `var` stay unchanged:

    `.obs[key_added]`
        The text; empty for cells without a text.
    `.obs[key_added + "_cell_type"]`, `"_tissue"`, `"_disease"`, `"_sex"`, `"_life_stage"`, `"_pathways"`
        Fields parsed from the text, missing if it does not name them. Pathways are the cell's two most active gene
        sets by AUCell unless `pathways="model"`.
    `.obs[key_added + "_cell_type_ontology_term_id"]`, `"_tissue..."`, `"_disease..."`, `"_sex..."`
        Their ontology terms.
    `.obs[key_added + "_type_probability"]`
        The probability the model assigns to the named cell type; missing for models without concepts.
    `.obs[key_added + "_cell_type_candidates"]`
        Up to three most probable cell types below the named one, such as "CD8-positive, alpha-beta T cell (0.62);
        CD4-positive, alpha-beta T cell (0.31)"; the most probable types at all if the text names none.
    `.obs[key_added + "_n_genes"]`
        Number of expressed genes in the model's vocabulary.
    `.obs[key_added + "_counts_used"]`
        Fraction of the counts on genes in the vocabulary.
    `.obs[key_added + "_coverage"]`
        Fraction of the vocabulary's genes that the AnnData has; the same for all cells.
    `.obs[key_added + "_evidence"]`
        Genes that each statement rests on, known markers with a star, such as "T cell: CD3D* (+0.31), IL32 (+0.12)";
        only with `evidence`. See :func:`explain` for units.
    `.obs[key_added + "_absent_markers"]`
        Known markers of the cell type that the cell does not express; only with `evidence`.
    `.obsm["X_" + key_added]`
        Embeddings, float32, shape (n_cells, cell_hidden): the mean over genes of the encoder's states.
    `.uns[key_added]["params"]`
        Model, prompt, options and versions that produced the texts.
    `.uns[key_added]["reading"]`
        What the model saw, as JSON: matrix, gene column, genes found, counts used and cells without a text.
    `.uns[key_added]["groups"]`
        Table of groups, only with `groupby`; see :func:`cell2text.describe.consensus.describe_groups`. It also has a
        column `summary`, and `marker_genes` if scanpy is installed.

    `.uns[key_added]["evidence"]`
        Table of evidence genes by statement, with the number of cells; only with `evidence`.

    Raises
    ------
    UserError
        If the values are not counts, the genes are not in the vocabulary, a layer or column does not exist, a column of
        your own has the name `key_added`, or the model cannot be loaded.

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells()[:2].copy()
    >>> cell2text.tl.describe(adata, allow_fractional=True)
    >>> adata.obs["cell2text_cell_type"].tolist()
    ['pancreatic A cell', 'pancreatic A cell']
    """
    options = DescribeOptions(
        prompt=prompt, compare_to=compare_to, layer=layer, gene_key=gene_key, allow_fractional=allow_fractional,
        batch_size=batch_size, max_new_tokens=max_new_tokens, groupby=groupby, cells_per_group=cells_per_group,
        species=species, pathways=pathways, sex=sex, evidence=evidence, evidence_in_text=evidence_in_text,
        compile=compile, bf16=bf16, seed=seed,
    )  # fmt: skip
    source = _open(adata, options, copy=copy)
    described = adata.uns.get(key_added)
    if key_added in source.obs_columns() and not (isinstance(described, Mapping) and "params" in described):
        raise UserError(
            f"obs[{key_added!r}] exists, and cell2text did not write it. Remove it, or pass another name as key_added=."
        )
    loaded, processor, name = load_or_reuse(model, bf16=bf16)
    cells = CellReader(source, processor, options, loaded.config.concepts)
    for note in cells.reading()["notes"]:
        logger.warning(note)
    describer = Describer(loaded, processor, options, cells.comparison_cell())
    starts = range(0, source.n_cells, ROWS_PER_SHARD)
    types = None if cells.groups is None else GroupTypes.of_model(loaded.config, len(cells.groups.names))
    tables = []
    for start in starts:
        rows = describer(cells.read(start, min(start + ROWS_PER_SHARD, source.n_cells)))
        if cells.groups is not None and types is not None:
            types.add(cells.groups.codes[start : start + len(rows)], type_probability_matrix(rows))
        tables.append(rows.select(output_names(rows.schema)))
    table = pa.concat_tables(tables)
    summary = summarise(cells.reading(), [table], processor.min_genes)
    logger.info(summary_line(summary))
    for text in thin_warnings(summary, processor.min_genes):
        logger.warning(text)
    params = provenance(loaded, processor, describer.conversation, options, name, cells.groups)
    added = {"params": params, "reading": summary_for_uns(summary)}
    if cells.groups is not None:
        added["groups"] = groups_for_uns(group_table(describer, cells, [table.drop_columns([EMBEDDING])], types))
    if (found := summarise_evidence([table])) is not None:
        added["evidence"] = groups_for_uns(found)
    changed = adata.copy() if copy else adata
    for column in table.column_names:
        if column not in (ID, EMBEDDING):
            changed.obs[key_added if column == TEXT else f"{key_added}_{column}"] = obs_column(table[column], column)
    if described is not None:  # columns of an earlier version
        changed.obs.drop(columns=[f"{key_added}_{name}" for name in FORMER_COLUMNS], errors="ignore", inplace=True)
    changed.obsm[f"X_{key_added}"] = embedding_matrix(table[EMBEDDING])
    changed.uns[key_added] = added
    return changed if copy else None


def embed(
    adata: AnnData, model=None, *, layer: str | None = None, gene_key: str | None = None,
    key_added: str = "X_cell2text", allow_fractional: bool = False, species: str = "human", copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Embed every cell: the mean over its genes of the encoder's states at the projected layer.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes).
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the bundled
        model.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most
        genes in the vocabulary.
    key_added
        Key in `.obsm`.
    allow_fractional
        Accept non-integer counts, such as expected counts of RSEM. By default, they raise an error.
    species
        Species of the cells: `"human"`, or `"mouse"`, whose genes are mapped to human genes by one-to-one orthologs.
    copy
        Return a copy instead of changing `adata`.

    Returns
    -------
    The changed copy if `copy`, otherwise None. Sets the following field:

    `.obsm[key_added]`
        Embeddings, float32, shape (n_cells, cell_hidden); zeros for cells without counts on the vocabulary.

    Raises
    ------
    UserError
        If the values are not counts, the genes are not in the vocabulary, a layer or column does not exist, or the
        model cannot be loaded.

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells()[:2].copy()
    >>> cell2text.tl.embed(adata, allow_fractional=True)
    >>> adata.obsm["X_cell2text"].shape
    (2, 256)
    """
    options = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, species=species)
    source = _open(adata, options, copy=copy)
    loaded, processor, _ = load_or_reuse(model)
    cells = CellReader(source, processor, options).read(0, source.n_cells).cells
    changed = adata.copy() if copy else adata
    changed.obsm[key_added] = embed_cells(loaded, processor, cells)
    return changed if copy else None


def explain(
    adata: AnnData, cells=None, model=None, *, n_genes: int = 5, prompt: str | None = None, layer: str | None = None,
    gene_key: str | None = None, allow_fractional: bool = False, species: str = "human", pathways: str | None = None,
    sex: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Describe cells, and find the genes that each statement rests on.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes). It stays unchanged.
    cells
        Names of the cells. Defaults to all cells.
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the bundled
        model.
    n_genes
        Number of genes per statement.
    prompt, layer, gene_key, allow_fractional, species, pathways, sex
        See :func:`describe`.

    Returns
    -------
    One row per statement and gene, in the order of the cells, with the columns

    `cell_id`
        Name of the cell.
    `field`, `value`, `ontology_term_id`
        The statement, such as `"cell_type"`, `"T cell"` and its term.
    `role`
        `"evidence"` for the genes that carry the statement, highest contribution first. `"present marker"` and
        `"absent marker"` for the best-known markers of the stated cell type, by whether the cell expresses them; genes
        that the AnnData does not hold are omitted.
    `contribution`, `measure`
        How much the statement rests on the gene, and the unit: `"log-odds"` of the probability before calibration or
        `"log-probability"` of the words, which the statement loses without the gene, by its gradient; `"AUCell score"`
        that the gene adds to its gene set; `"counts"` of a gene that shows the sex. A negative value speaks against the
        statement.
    `rank`
        Position of the gene among the ranked genes of the cell, from 1.
    `is_marker`
        Whether the gene is a known marker of the stated cell type.

    Cells without a description have no rows.

    Raises
    ------
    UserError
        If a cell does not exist or its name occurs twice, and for the reasons that :func:`describe` names.

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells()
    >>> evidence = cell2text.tl.explain(adata, cells=adata.obs_names[:1], n_genes=2, allow_fractional=True)
    >>> evidence.loc[evidence["field"] == "cell_type", ["value", "gene", "is_marker"]].values.tolist()[:2]
    [['pancreatic A cell', 'GCG', True], ['pancreatic A cell', 'TTR', True]]
    """
    options = DescribeOptions(
        prompt=prompt, layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, species=species,
        pathways=pathways, sex=sex, evidence=n_genes,
    )  # fmt: skip
    loaded, processor, _ = load_or_reuse(model)
    chosen = adata if cells is None else adata[cell_positions(adata.obs_names, cells)].to_memory()
    source = _open(chosen, options, copy=False)
    reader = CellReader(source, processor, options, loaded.config.concepts)
    describer = Describer(loaded, processor, replace(options, evidence=None))
    find_evidence = EvidenceFinder(loaded, processor, describer.conversation, n_genes)
    frames = []
    for start in range(0, source.n_cells, ROWS_PER_SHARD):
        ranked = reader.read(start, min(start + ROWS_PER_SHARD, source.n_cells))
        frames.append(evidence_frame(ranked.names, find_evidence(ranked, describer(ranked)[TEXT].to_pylist())))
    return pd.concat(frames, ignore_index=True)


def ask(
    adata: AnnData, question: str, model=None, *, cells: str | Sequence[str] | None = None,
    where: Mapping[str, str] | None = None, compare_to: str | Sequence[str] | None = None, layer: str | None = None,
    gene_key: str | None = None, allow_fractional: bool = False, species: str = "human",
) -> Answer:  # fmt: skip
    """Answer a question about a cell, a group of cells, or two of them.

    The question is mapped to one of the tasks of the model by fixed rules; no part of it reaches the language model.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes).
    question
        The question, in English: "Is this a T cell?", "How sure are you?", "What do these cells have in common?".
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the bundled
        model.
    cells
        Name of the cell that the question is about, or names of several. Defaults to all cells.
    where
        Values of columns of `obs` that the cells must have, such as `{"leiden": "3"}`.
    compare_to
        Name of a cell, or names of cells, to compare with.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most
        genes in the vocabulary.
    allow_fractional
        Accept non-integer counts, such as expected counts of RSEM. By default, they raise an error.
    species
        Species of the cells: `"human"`, or `"mouse"`, whose genes are mapped to human genes by one-to-one orthologs.

    Returns
    -------
    The answer: its text, the task, and the values and probabilities that it rests on. A question that the model cannot
    answer gets the questions that are answered.

    Raises
    ------
    UserError
        If the question is empty or too long, no cell is chosen, or the cells cannot be read.

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells(unseen=True)[:5]
    >>> answer = cell2text.tl.ask(adata, "Is this an alpha cell?", cells=adata.obs_names[0])
    >>> answer.text, answer.values[0].probability > 0.9
    ('Yes: this cell is a pancreatic A cell (0.96).', True)
    """
    options = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, species=species)
    return run.ask(adata, question, model, cells=cells, where=where, compare_to=compare_to, options=options)


def score(
    adata: AnnData, labels: Sequence[str], model=None, *, key_added: str = "cell2text_score",
    layer: str | None = None, gene_key: str | None = None, allow_fractional: bool = False, species: str = "human",
    copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Compute the probability of each of your own labels for every cell, and choose one label per cell.

    A label that names a cell type of the model gets its calibrated probability. A cell type that the model lacks gets
    the joined probability of its narrower types, or that of the nearest broader type, an upper bound. Any other label,
    and every label for a model without concepts, gets the likelihood of its words: pointwise mutual information of the
    statement and the cell, as a probability that is not calibrated.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes).
    labels
        Labels of cell types, or statements that end with a full stop. They may be kinds of each other.
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the bundled
        model.
    key_added
        Key in `.obsm` and `.uns`, and prefix of the columns.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most
        genes in the vocabulary.
    allow_fractional
        Accept non-integer counts, such as expected counts of RSEM. By default, they raise an error.
    species
        Species of the cells: `"human"`, or `"mouse"`, whose genes are mapped to human genes by one-to-one orthologs.
    copy
        Return a copy instead of changing `adata`.

    Returns
    -------
    The changed copy if `copy`, otherwise None. Sets the following fields:

    `.obsm[key_added]`
        DataFrame of probabilities, float32, shape (n_cells, n_labels); NaN for cells that cannot be described.
    `.obs[key_added + "_best"]`
        The chosen label, or "none of them"; see :func:`cell2text.questions.scoring.choose_labels`.
    `.obs[key_added + "_best_probability"]`
        Probability of the choice, normalised over the labels.
    `.uns[key_added]["mapping"]`
        One row per label: how it was mapped (`exact`, `synonym`, `narrower`, `broader` or `text`), its term, and the
        types of the model that its probability is read from.
    `.uns[key_added]["params"]`
        Model, options and versions that produced the scores.

    Raises
    ------
    UserError
        If there are no labels, the same one twice or one that is not a text, or the cells cannot be read.

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells(unseen=True)[:2].copy()
    >>> cell2text.tl.score(adata, ["alpha cell", "beta cell", "T cell"])
    >>> adata.obs["cell2text_score_best"].tolist(), adata.obsm["cell2text_score"].shape
    (['alpha cell', 'none of them'], (2, 3))
    """
    options = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, species=species)
    _open(adata, options, copy=copy)
    table, scores, params = run.score(adata, labels, model, options=options)
    changed = adata.copy() if copy else adata
    run.add_scores(changed, table, scores, params, key_added)
    return changed if copy else None


def search(
    adata: AnnData, query: str, model=None, *, n: int | None = 20, layer: str | None = None,
    gene_key: str | None = None, allow_fractional: bool = False, species: str = "human",
) -> pd.DataFrame:  # fmt: skip
    """Rank cells by how well they match a query in words.

    The query is read as claims: cell types, pathways (the packaged Hallmark sets), the sex of the donor, and values of
    columns of `obs`. The score of a cell is the product of its parts, each from 0 to 1: the calibrated probability of
    the cell types, the rank of the pathway's AUCell score among all cells of `adata`, the probability of the sex, and
    1 or 0 for a value of `obs`. "without", "not" and "low" deny the claim that follows.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes).
    query
        What to look for: "T cells with interferon response", "male alpha cells without hypoxia".
    model
        Folder or Hub id of a Cell2Text model with concepts of cell types, or a pair of a loaded model and its
        processor. Defaults to the bundled model.
    n
        Number of cells to return; None for all cells.
    layer
        Layer with the raw counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
    gene_key
        Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most
        genes in the vocabulary.
    allow_fractional
        Accept non-integer counts, such as expected counts of RSEM. By default, they raise an error.
    species
        Species of the cells: `"human"`, or `"mouse"`, whose genes are mapped to human genes by one-to-one orthologs.

    Returns
    -------
    One row per cell, best first: `cell`, its name; `score`; and one column per claim. Words that are not evaluated are
    logged as a warning and listed in `.attrs["not_evaluated"]`.

    Raises
    ------
    UserError
        If no part of the query can be evaluated, or the cells cannot be read.

    Examples
    --------
    >>> import cell2text
    >>> found = cell2text.tl.search(cell2text.example_cells(unseen=True)[:9], "male alpha cells", n=3)
    >>> list(found.columns)
    ['cell', 'score', 'male', 'pancreatic A cell']
    """
    options = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, species=species)
    return run.search(adata, query, model, n=n, options=options)


def donors(
    adata: AnnData, model=None, *, donor: str = "donor_id", target: str = "disease", sample: str | None = None,
    positive: str | None = None, folds: int | None = None, attention: bool = True,
    cells_per_sample: int | None = None, key_added: str = "cell2text_donors", layer: str | None = None,
    gene_key: str | None = None, allow_fractional: bool = False, species: str = "human", seed: int = 0,
    copy: bool = False,
) -> AnnData | None:  # fmt: skip
    """Predict a property of donors, such as their disease, from all of their cells, cross-validated by donor.

    Embeddings and concept probabilities of the cells of a sample are pooled by attention in a generalised linear mixed
    model. Every sample is predicted by a model that was fitted without its donor, from the scaling to the attention.
    Both classes have the same weight, so probabilities refer to classes of equal size.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts, shape (n_cells, n_genes).
    model
        Folder or Hub id of a Cell2Text model, or a pair of a loaded model and its processor. Defaults to the bundled
        model.
    donor
        Column of `obs` with the donor of each cell.
    target
        Column of `obs` with the property to predict, one value per sample.
    sample
        Column of `obs` that divides the cells of a donor into samples, such as `"treatment"`. By default, each donor is
        one sample.
    positive
        Value of `target` whose probability is predicted, against all other values. By default, `target` must have two
        values; it is the one that does not mean healthy or untreated, or else the second in alphabetical order.
    folds
        Number of cross-validation folds. By default, each donor is left out in turn; more than 20 donors, with 10 or
        more of each class, form 10 folds.
    attention
        Weight the cells of a sample by attention. Otherwise all cells count equally.
    cells_per_sample
        Maximum number of cells per sample, sampled at random. Defaults to all cells.
    key_added
        Key in `.uns`, and prefix of the columns.
    layer, gene_key, allow_fractional, species
        See :func:`describe`.
    seed
        Random seed for sampling cells, for the folds and for the fit.
    copy
        Return a copy instead of changing `adata`.

    Returns
    -------
    The changed copy if `copy`, otherwise None. Sets the following fields:

    `.uns[key_added]["samples"]`
        One row per sample with its donor, number of cells, fold, and the out-of-fold `log_odds` and `probability`.
    `.uns[key_added]["concepts"]`
        One row per concept, largest contribution first: `weight`, log-odds per standard deviation between cells, and
        `contribution` to the difference in log-odds between the classes, both means over the folds, and
        `same_sign_in_folds`. The row of group `embedding` sums up all embedding dimensions.
    `.uns[key_added]["metrics"]`
        `auroc` and its 95 % interval `auroc_interval`, `balanced_accuracy`, `brier`, and numbers of donors and samples.
    `.obs[key_added + "_attention"]`
        Attention to the cell, in the fold that tests its donor; 1 is the average over the cells of a sample. NaN for
        cells that cannot be described or were not sampled.
    `.obs[key_added + "_contribution"]`
        What the cell adds to the log-odds of its sample.
    `.uns[key_added]["params"]`
        Model, options and versions that produced the prediction.

    Raises
    ------
    UserError
        If a column does not exist or lacks values, `target` holds numbers, one value, or several values of a sample,
        there are too few donors of a class, or the cells cannot be read.

    References
    ----------
    Engelmann et al. 2024, Mixed models with multiple instance learning, AISTATS (MixMIL).

    Examples
    --------
    >>> import cell2text
    >>> adata = cell2text.example_cells()
    >>> adata = adata[adata.obs["tissue"].isin(["pancreas", "kidney"])][::4].copy()
    >>> cell2text.tl.donors(adata, target="tissue")
    >>> adata.uns["cell2text_donors"]["metrics"]["auroc"]
    1.0
    """
    options = DonorOptions(
        donor=donor, target=target, sample=sample, positive=positive, folds=folds, attention=attention,
        cells_per_sample=cells_per_sample, seed=seed,
    )  # fmt: skip
    reading = DescribeOptions(layer=layer, gene_key=gene_key, allow_fractional=allow_fractional, species=species)
    _open(adata, reading, copy=copy)
    prediction, cells, params = donor_run.donors(adata, model, options=options, reading=reading)
    changed = adata.copy() if copy else adata
    donor_run.add_donors(changed, prediction, cells, params, key_added)
    return changed if copy else None


def generate(text: str, n: int = 500, *, seed: int = 0) -> AnnData:
    """Generate raw counts of cells that a text names.

    The text is read as descriptions and questions are: a cell type of the Cell Ontology, and optionally a tissue, a
    disease, the sex of the donor and fetal origin. Counts are sampled from the packaged conditional model; see the
    guide "Generate cells from words" for what it was trained on and how close its cells are to real ones.

    Parameters
    ----------
    text
        The cells, in English: "CD8-positive T cell from the lung of a patient with COVID-19". A description written by
        :func:`describe` is also accepted.
    n
        Number of cells.
    seed
        Random seed; the same text, number and seed give the same cells.

    Returns
    -------
    AnnData of shape (n, n_genes) with the following fields:

    `.X`
        Counts, CSR float32 with integer values.
    `.var`
        Ensembl ids as index, and `feature_name`, the gene symbols.
    `.obs["cell_type"]`, `["tissue"]`, `["disease"]`, each with `_ontology_term_id`; `["sex"]`, `["assay"]`
        The condition that each cell was sampled from. For a broad cell type, `cell_type` is the type below it. `assay`
        is the assay of the training cells that lent depth and style.
    `.obs["generated"]`
        True, so that generated cells are recognised when they are joined with real ones.
    `.uns["cell2text_generate"]`
        `understood`, what the text was read as; `concepts`; `notes` on what the generator never saw, which are also
        logged; `not_used`, words without effect; and text, number, seed and versions.

    Raises
    ------
    UserError
        If the text names no cell type or several, or a tissue or disease that the ontologies do not hold.

    Examples
    --------
    >>> import cell2text
    >>> cells = cell2text.tl.generate("pancreatic A cell from the pancreas", n=3)
    >>> cells.uns["cell2text_generate"]["understood"]
    'type: pancreatic A cell (CL:0000171); tissue: pancreas (UBERON:0001264)'
    """
    return generate_cells(text, n, seed=seed)


def _open(adata: AnnData, options: DescribeOptions, *, copy: bool) -> CellSource:
    """Open an AnnData for reading; raise a `UserError` unless it holds counts and can be changed or copied."""
    container = AnnDataContainer(adata)
    if not adata.n_obs:
        raise UserError("The AnnData holds no cells.")
    if adata.isbacked and (copy or adata.is_view):
        raise UserError(
            "A backed AnnData cannot be copied, and a view of it cannot be changed. Pass adata.to_memory() instead."
        )
    return CellSource(container, layer=options.layer, allow_fractional=options.allow_fractional)
