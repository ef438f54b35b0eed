"""Where training rows come from: h5ad files, which are split here, or a dataset that has its splits."""

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
from datasets import DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from transformers.utils import logging

from cell2text.data import build_rows, example_cells_path, fit_vocabulary, stratified_split
from cell2text.data.descriptions import describe_row
from cell2text.training.arguments import Cell2TextArguments
from processing_cell2text import Cell2TextProcessor
from vocabulary_cell2text import GeneVocabulary


logger = logging.get_logger(__name__)

EXAMPLE = "example_cells"


@dataclass
class CellSplits:
    """Cells of h5ad files, split. `train` and `test` hold one AnnData a file."""

    train: list[ad.AnnData]
    test: list[ad.AnnData]

    def texts(self) -> list[str]:
        """Descriptions of the training cells, for a tokenizer of their own."""
        rows = (row for adata in self.train for row in adata.obs.astype(str).to_dict(orient="records"))
        return [text for text in map(describe_row, rows) if text]

    def vocabulary(self, args: Cell2TextArguments) -> GeneVocabulary:
        """Genes and medians of the training cells."""
        max_genes = {} if args.max_genes is None else {"max_genes": args.max_genes}
        return fit_vocabulary(self.train, layer=args.layer, allow_fractional=args.allow_fractional, **max_genes)

    def rows(self, processor: Cell2TextProcessor, args: Cell2TextArguments) -> DatasetDict:
        """Dataset rows of both splits; what was mapped, lost and dropped is logged."""
        splits = {}
        for name, adatas in (("train", self.train), ("test", self.test)):
            parts = []
            for adata in adatas:
                dataset, report = build_rows(
                    adata,
                    processor,
                    layer=args.layer,
                    gene_key=args.gene_key,
                    allow_fractional=args.allow_fractional,
                )
                logger.warning(f"{name}: {report}")
                parts.append(dataset)
            splits[name] = concatenate_datasets(parts)
        return DatasetDict(splits)


def load_source(args: Cell2TextArguments) -> CellSplits | DatasetDict:
    """Read what `--dataset` names.

    Raises
    ------
    ValueError
        If it names nothing, mixes files and datasets, or a dataset lacks a split.
    """
    if not args.dataset:
        raise ValueError(
            "--dataset names nothing: pass h5ad files, a dataset's folder or Hub id, or example_cells; or run "
            "train_sft.py "
            "without any argument for the embedded default."
        )
    if all(name == EXAMPLE or name.endswith(".h5ad") for name in args.dataset):
        return split_files([example_cells_path() if name == EXAMPLE else Path(name) for name in args.dataset], args)
    if len(args.dataset) > 1:
        raise ValueError(f"--dataset mixes h5ad files and datasets: {args.dataset}. Pass files, or one dataset.")
    name = args.dataset[0]
    saved = Path(name, "dataset_dict.json").exists()
    dataset = load_from_disk(name) if saved else load_dataset(name)
    missing = {"train", "test"} - set(dataset)
    if missing:
        raise ValueError(f"Dataset {name!r} has the splits {sorted(dataset)}, but lacks {sorted(missing)}.")
    return dataset


def split_files(paths: list[Path], args: Cell2TextArguments) -> CellSplits:
    """Read h5ad files and split the cells of all of them together."""
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise ValueError(f"--dataset names files that do not exist: {absent}.")
    adatas = [ad.read_h5ad(path) for path in paths]
    labels, origin = [], []
    for number, adata in enumerate(adatas):
        lacking = [column for column in args.stratify if column not in adata.obs.columns]
        if lacking:
            raise ValueError(
                f"{paths[number]} lacks the columns {lacking} of --stratify; it has {list(adata.obs.columns)}."
            )
        labels += list(adata.obs[args.stratify].astype(str).agg("|".join, axis=1))
        origin += [(number, row) for row in range(adata.n_obs)]
    train, test = stratified_split(labels, args.test_share, seed=args.split_seed)
    if args.hold_out == "validation":
        kept, validation = stratified_split(np.asarray(labels)[train], args.test_share, seed=args.split_seed)
        train, test = train[kept], train[validation]

    def parts(indices):
        chosen = [
            [origin[index][1] for index in indices if origin[index][0] == number] for number in range(len(adatas))
        ]
        return [adata[rows].copy() for adata, rows in zip(adatas, chosen) if rows]

    return CellSplits(parts(train), parts(test))
