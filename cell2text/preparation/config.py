"""Options of `cell2text prepare`: one object from the command line, a yaml file or Python."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path

import yaml

from cell2text.errors import UserError
from cell2text.language.tasks import TASKS
from cell2text.preparation.rows import METADATA_COLUMNS
from cell2text.preparation.splits import GROUP_COLUMNS, NAMED, SPLITS
from processing_cell2text import SYSTEM_PROMPT


# What the published system left out of the Census, by the beginning of an assay's name.
PUBLISHED_EXCLUDED_ASSAYS = (
    "Smart-seq", "Quartz-seq", "MARS-seq", "SORT-seq", "GEXSCOPE", "BD Rhapsody Targeted", "10x gene expression flex",
)  # fmt: skip
KNOWN_COLUMNS = (*METADATA_COLUMNS, "sex_ontology_term_id", "is_primary_data")
FILE_OPTIONS = ("inputs", "census_uri", "gene_vocab", "gene_sets")
SAMPLINGS = ("all", "random", "balanced", "published")


@dataclass
class PrepareConfig:
    """What is prepared and how.

    Parameters
    ----------
    inputs
        h5ad files, zarr stores, folders, globs or fsspec addresses; for the Census none.
    source
        `"files"` or `"census"`.
    census_version, census_uri, value_filter
        Release of the Census, or the address of a SOMA of the same layout; and which of its cells, in SOMA's language.
    layer, gene_key
        Layer with the counts, or `"raw"`; column of `var` with the gene names.
    columns
        Our column names and those of the files, such as `{"cell_type": "CellType"}`.
    allow_fractional
        Accept expected counts that are no integers.
    skip_bad_files
        Leave out files that cannot be used, and report them, instead of stopping.
    gene_vocab
        Folder or Hub id of a gene vocabulary; fitted to the training cells if left out.
    max_genes
        Longest ranked cell, special tokens included; the vocabulary's own if left out.
    min_cells
        A fitted vocabulary leaves out genes seen in fewer cells.
    gene_sets
        GMT file, or `"hallmark"` to have decoupler download it; no pathways if left out.
    ties, ties_seed
        AUCell's ties: `"expected"`, or `"seeded"` with a seed for parity with pySCENIC.
    primary_only
        Keep cells with `is_primary_data` only; the Census's, whose other cells are copies, if left out.
    exclude_assays, exclude_datasets
        Labels that are left out; an assay by the beginning of its name, whatever its case.
    require
        Columns that must be known, or the cell is left out.
    sampling, n_cells, balance
        See :func:`cell2text.preparation.sampling.sample_cells`.
    split, shares, stratify, named
        See :func:`cell2text.preparation.splits.split_cells`.
    tasks
        Weight of each task in training; validation and test are described, with the fixed instruction.
    system_prompt
        System message of every row; empty for none.
    cells_per_shard
        Cells of a file that one job reads and one shard holds.
    seed
        Governs sampling, splits, tasks and wordings.
    """

    inputs: list[str] = field(default_factory=list)
    source: str = "files"
    census_version: str = "stable"
    census_uri: str | None = None
    value_filter: str | None = None
    layer: str | None = None
    gene_key: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    allow_fractional: bool = False
    skip_bad_files: bool = False
    gene_vocab: str | None = None
    max_genes: int | None = None
    min_cells: int = 3
    gene_sets: str | None = None
    ties: str = "expected"
    ties_seed: int | None = None
    primary_only: bool | None = None
    exclude_assays: list[str] = field(default_factory=list)
    exclude_datasets: list[str] = field(default_factory=list)
    require: list[str] = field(default_factory=list)
    sampling: str = "all"
    n_cells: int | None = None
    balance: str = "cell_type"
    split: str = "donor"
    shares: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1})
    stratify: list[str] = field(default_factory=lambda: ["cell_type"])
    named: dict[str, list[str]] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=lambda: {"describe": 1.0})
    system_prompt: str = SYSTEM_PROMPT
    cells_per_shard: int = 4096
    seed: int = 0

    def __post_init__(self):
        for option in fields(self):
            value = getattr(self, option.name)
            default = option.default if option.default_factory is MISSING else option.default_factory()
            if default is not None and default is not MISSING and not isinstance(value, type(default)):
                raise UserError(f"{option.name}={value!r}: expected {type(default).__name__}, such as {default!r}.")
        for name, least in (("max_genes", 8), ("n_cells", 1), ("min_cells", 1), ("ties_seed", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise UserError(f"{name}={value!r}: expected an integer of at least {least}.")
        for weights in (self.tasks, self.shares):
            if not all(isinstance(value, (int, float)) and isfinite(value) for value in weights.values()):
                raise UserError(f"{weights}: expected a number for each.")
        strange = [name for name in self.columns if name not in KNOWN_COLUMNS]
        strange += [name for name in (*self.require, self.balance) if name not in METADATA_COLUMNS]
        if strange:
            raise UserError(f"There is no column {strange[0]!r} to map, require or balance; there are {KNOWN_COLUMNS}.")
        if (self.ties == "seeded") != (self.ties_seed is not None):
            raise UserError(
                f"ties={self.ties}, ties_seed={self.ties_seed}: a seed belongs to seeded ties, and only there."
            )
        if self.tasks.get("pathways") and self.gene_sets is None:
            raise UserError("The task pathways needs gene sets: pass --gene-sets.")
        if self.primary_only is None:
            self.primary_only = self.source == "census"
        choices = {
            "source": ("files", "census"),
            "sampling": SAMPLINGS,
            "split": (*GROUP_COLUMNS, "random", NAMED),
            "ties": ("expected", "seeded"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}.")
        if (self.split == NAMED) != bool(self.named) or set(self.named) - {"test", "validation"}:
            raise UserError(
                f"split={self.split}, named={self.named}: cells are named for test or validation where the split is "
                "named, and only there."
            )
        unknown = [*(set(self.tasks) - set(TASKS)), *(set(self.shares) - set(SPLITS))]
        if unknown or not self.tasks or min(self.tasks.values()) < 0 or sum(self.tasks.values()) <= 0:
            raise UserError(
                f"tasks={self.tasks}, shares={self.shares}: expected weights of {TASKS} and shares of {SPLITS}."
            )
        if not 1 <= self.cells_per_shard <= 65_536:
            raise UserError(f"cells_per_shard={self.cells_per_shard}: expected 1 to 65,536.")
        if self.source == "files" and not self.inputs:
            raise UserError("No input: name h5ad files, zarr stores or folders.")
        if self.source == "census" and self.inputs:
            raise UserError(f"The Census takes no input files, but got {self.inputs[:3]}.")
        if self.sampling == "published":
            self.require = self.require or ["cell_type", "tissue", "disease"]
            self.exclude_assays = self.exclude_assays or list(PUBLISHED_EXCLUDED_ASSAYS)

    @classmethod
    def from_yaml(cls, path: str | Path, **changes) -> "PrepareConfig":
        """Read a yaml file; `changes` win over it.

        Raises
        ------
        ValueError
            If the file is no mapping or names an option that does not exist.
        """
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"Cannot read the configuration {path}: {error}") from error
        if not isinstance(content, Mapping):
            raise UserError(f"{path} holds {type(content).__name__}: expected options, such as `split: donor`.")
        unknown = set(content) - {option.name for option in fields(cls)}
        if unknown:
            raise UserError(f"{path} names options that do not exist: {sorted(unknown)}.")
        return cls(**{**content, **changes})

    def to_dict(self) -> dict:
        """All options but those that name files: files go by their contents, not by where they lie."""
        content = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in content.items() if name not in FILE_OPTIONS}
