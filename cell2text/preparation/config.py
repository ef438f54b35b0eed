"""Options of `cell2text prepare`: one declaration for the command line, yaml files and Python.

Depends on light modules only, so that options are checked before any library loads.
"""

import json
from dataclasses import asdict, dataclass

from cell2text.errors import UserError
from cell2text.language.names import TASKS
from cell2text.language.own_tasks import OwnTask, parse_tasks
from cell2text.options import Options, document_options, option
from cell2text.preparation.names import AUTO, GROUP_COLUMNS, METADATA_COLUMNS, NAMED, OMITTABLE, SPLITS


# Assays that the published system excluded from the Census. Compared with the beginning of an assay's name.
PUBLISHED_EXCLUDED_ASSAYS = (
    "Smart-seq", "Quartz-seq", "MARS-seq", "SORT-seq", "GEXSCOPE", "BD Rhapsody Targeted", "10x gene expression flex",
)  # fmt: skip
KNOWN_COLUMNS = (*METADATA_COLUMNS, "sex_ontology_term_id", "is_primary_data")
FILE_OPTIONS = ("inputs", "census_uri", "gene_vocab", "gene_sets")
OWN_TASK_OPTIONS = ("own_tasks", "task_questions")
# Columns of a row that no own task may be named after, beside metadata.
ROW_COLUMNS = ("cells", "prompt", "completion", "task", "source", "split", "row", "key", "primary", "donor", "pathways")
SPECIES = ("human", "mouse")
SAMPLINGS = ("all", "random", "balanced", "published")


@document_options
@dataclass
class PrepareConfig(Options):
    """Options of a preparation run.

    Raises
    ------
    UserError
        If an option has the wrong type, is out of range or contradicts another option.

    Examples
    --------
    >>> PrepareConfig(inputs=["cells.h5ad"], split="random").shares
    {'train': 0.8, 'validation': 0.1, 'test': 0.1}
    """

    inputs: list[str] = option(
        factory=list, on_command_line=False,
        help="h5ad files, zarr stores, folders, globs or fsspec addresses. Empty for the Census.",
    )  # fmt: skip
    source: str = option("files", choices=("files", "census"), help="Where cells come from: files or census.")
    census_version: str = option("stable", help="Release of the CELLxGENE Census.")
    census_uri: str | None = option(
        None, help="Address of a SOMA store with the layout of the Census, in place of a release."
    )
    value_filter: str | None = option(
        None, help="Filter of Census cells in SOMA's syntax, such as \"tissue == 'lung'\"; all cells if omitted."
    )
    layer: str | None = option(
        None, help="Layer with the raw counts, `X`, or `raw` for adata.raw; the matrix that holds integers if omitted."
    )
    gene_key: str | None = option(
        None, help="Column of `var` that holds the gene names; detected automatically if omitted."
    )
    columns: dict[str, str] = option(
        factory=dict, help="A metadata column and its name in the files, such as cell_type=CellType. Repeatable."
    )
    allow_fractional: bool = option(
        False, help="Accept non-integer counts, such as RSEM's expected counts. Otherwise they are an error."
    )
    species: str = option(
        "human", choices=SPECIES,
        help="Species of the cells: human or mouse. Mouse genes are mapped to human genes by one-to-one orthologs.",
    )  # fmt: skip
    skip_bad_files: bool = option(
        False, help="Skip files that cannot be used and list them in the report. Otherwise the run stops."
    )
    gene_vocab: str | None = option(
        None, help="Gene vocabulary: a folder or Hub id, Geneformer's too; fitted to the training cells if omitted."
    )
    max_genes: int | None = option(
        None, minimum=8,
        help="Maximum number of genes per cell, special tokens included; the vocabulary's own limit if omitted.",
    )  # fmt: skip
    min_cells: int = option(
        3, minimum=1, on_command_line=False,
        help="Minimum number of cells that express a gene of a fitted vocabulary; rarer genes are excluded.",
    )  # fmt: skip
    gene_sets: str | None = option(
        None, help="Gene sets to score: a GMT file, or `hallmark` for the packaged sets; no pathways if omitted."
    )
    ties: str = option(
        "expected", choices=("expected", "seeded"), on_command_line=False,
        help="How AUCell ranks genes with equal counts: by the expected score, or in an order seeded by `ties_seed`, "
        "as pySCENIC does.",
    )  # fmt: skip
    ties_seed: int | None = option(
        None, minimum=0, on_command_line=False, help="Random seed for `ties: seeded`; required there."
    )
    primary_only: bool | None = option(
        None, on_command_line=False,
        help="Keep only cells with `is_primary_data`; if omitted, true for the Census, whose other cells are copies, "
        "and false for files.",
    )  # fmt: skip
    exclude_assays: list[str] = option(
        factory=list, on_command_line=False,
        help="Assays to exclude, by the beginning of their names, in upper or lower case.",
    )  # fmt: skip
    exclude_datasets: list[str] = option(factory=list, on_command_line=False, help="Values of `dataset_id` to exclude.")
    omit: list[str] = option(
        factory=list, on_command_line=False,
        help="Fields to leave out of the rows, so that no text states them: tissue, disease, sex or life_stage.",
    )  # fmt: skip
    labelled: bool = option(
        True, on_command_line=False,
        help="Use only cells with a cell type, tissue or disease. Fitting a vocabulary alone uses all cells.",
    )  # fmt: skip
    require: list[str] = option(
        factory=list, on_command_line=False, help="Metadata columns that must be known; other cells are excluded."
    )
    sampling: str = option(
        "all", choices=SAMPLINGS,
        help="How cells are sampled: all, random, balanced or published. See "
        "`cell2text.preparation.sampling.sample_cells`.",
    )  # fmt: skip
    n_cells: int | None = option(None, minimum=1, help="Number of cells to sample; required unless sampling is `all`.")
    balance: str = option(
        "cell_type", choices=METADATA_COLUMNS, on_command_line=False,
        help="Metadata column whose values `sampling: balanced` balances.",
    )  # fmt: skip
    split: str = option(
        AUTO, choices=(AUTO, *GROUP_COLUMNS, "random", NAMED),
        help="How cells are split: auto (by donor if there are enough donors, otherwise random), whole groups by "
        "donor, dataset, tissue or cell_type, single cells at random, or named cells.",
    )  # fmt: skip
    shares: dict[str, float] = option(
        factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1},
        help="Share of cells in each split, such as train=0.8,validation=0.1,test=0.1. They add up to 1.",
    )
    stratify: list[str] = option(
        factory=lambda: ["cell_type"], on_command_line=False,
        help="Metadata columns whose values are spread evenly over the splits.",
    )  # fmt: skip
    named: dict[str, list[str]] = option(
        factory=dict, on_command_line=False,
        help="Cells of the validation and test splits for `split: named`, each as COLUMN=VALUE.",
    )  # fmt: skip
    tasks: dict[str, float] = option(
        factory=lambda: {"describe": 1.0},
        help="Sampling weight of each task in training, such as describe=4,annotate=1,ask=2,pathways=1,compare=1. "
        "Validation and test cells always get the task describe.",
    )
    own_tasks: dict[str, str] = option(
        factory=dict, flag="--task",
        help="A question of your own about a column of `obs`, as NAME=COLUMN:VALUE,VALUE, such as "
        "drug_response=response:sensitive,resistant. Its weight in --tasks is 1 if omitted. Repeatable.",
    )  # fmt: skip
    task_questions: dict[str, str] = option(
        factory=dict, flag="--task-question",
        help="Wording of the question of a --task, as NAME=QUESTION; made of name and values if omitted. Repeatable.",
    )  # fmt: skip
    broader_types: float = option(
        0.0, minimum=0, maximum=1,
        help="Share of the training cells whose text names a broader term of the Cell Ontology in place of the label, "
        "mostly with the label as its likely subtype.",
    )  # fmt: skip
    pathway_share: float = option(
        1.0, minimum=0, maximum=1, on_command_line=False,
        help="Share of the training cells whose text states pathways. A model that learns both kinds can leave "
        "pathways out where they cannot be scored.",
    )  # fmt: skip
    system_prompt: str | None = option(
        None, on_command_line=False,
        help="System message of every row; the processor's default if omitted, no message if empty.",
    )  # fmt: skip
    cells_per_shard: int = option(
        4096, minimum=1, maximum=65_536, on_command_line=False,
        help="Cells per output shard; an interrupted run recomputes at most this many per worker.",
    )  # fmt: skip
    seed: int = option(0, help="Random seed for sampling, splits, tasks and wordings.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        self._check_columns()
        self._check_splits()
        self._check_tasks()
        if (self.ties == "seeded") != (self.ties_seed is not None):
            raise UserError(
                f"ties={self.ties!r} with ties_seed={self.ties_seed}: seeded ties need a seed, expected ties take none."
            )
        if self.primary_only is None:
            self.primary_only = self.source == "census"
        if self.sampling == "published":
            self.require = self.require or ["cell_type", "tissue", "disease"]
            self.exclude_assays = self.exclude_assays or list(PUBLISHED_EXCLUDED_ASSAYS)

    def _check_source(self) -> None:
        if self.source == "files" and not self.inputs:
            raise UserError("No input. Name h5ad files, zarr stores or folders.")
        if self.source == "census" and self.inputs:
            raise UserError(f"The Census takes no input files, but got {', '.join(self.inputs[:3])}.")

    def _check_columns(self) -> None:
        for name in self.columns:
            if name not in KNOWN_COLUMNS:
                raise UserError(
                    f"columns={name}: no metadata column of this name. Expected {', '.join(KNOWN_COLUMNS)}."
                )
        unknown = sorted(set(self.omit) - set(OMITTABLE))
        if unknown:
            raise UserError(f"omit={unknown}: expected some of {', '.join(OMITTABLE)}.")
        for name in self.require:
            if name not in METADATA_COLUMNS:
                raise UserError(
                    f"require={name}: no metadata column of this name. Expected {', '.join(METADATA_COLUMNS)}."
                )

    def _check_splits(self) -> None:
        unknown = sorted(set(self.shares) - set(SPLITS))
        if unknown:
            raise UserError(f"shares={unknown[0]}: no split of this name. Expected {', '.join(SPLITS)}.")
        if set(self.named) - {"test", "validation"}:
            raise UserError(f"named={sorted(self.named)}: cells can be named for test and validation only.")
        if (self.split == NAMED) != bool(self.named):
            raise UserError(
                f"split={self.split!r} with {len(self.named)} splits of named cells: the split `named`, and no other, "
                "needs cells named for test or validation, such as test_cells='dataset_id=pbmc3k'."
            )

    def questions(self) -> dict[str, OwnTask]:
        """Return the tasks of the user's own columns by name."""
        return parse_tasks(self.own_tasks, self.task_questions)

    def task_weights(self) -> dict[str, float]:
        """Return the sampling weight of each task in training, those of own columns included."""
        return {**dict.fromkeys(self.own_tasks, 1.0), **self.tasks}

    def _check_tasks(self) -> None:
        taken = sorted(set(self.questions()) & {*KNOWN_COLUMNS, *ROW_COLUMNS})
        if taken:
            raise UserError(f"own_tasks={taken[0]}: rows have a column of this name. Choose another name.")
        known = (*TASKS, *self.own_tasks)
        unknown = sorted(set(self.tasks) - set(known))
        if unknown:
            raise UserError(f"tasks={unknown[0]}: no task of this name. Expected {', '.join(known)}.")
        if not self.tasks or min(self.tasks.values()) < 0 or sum(self.task_weights().values()) <= 0:
            weights = ", ".join(f"{name} {weight:g}" for name, weight in self.tasks.items())
            raise UserError(f"Weights of tasks ({weights}): expected none below 0 and one above 0.")
        if self.tasks.get("pathways") and self.gene_sets is None:
            raise UserError("The task pathways needs gene sets. Pass gene_sets='FILE.gmt', or gene_sets='hallmark'.")

    def to_dict(self) -> dict:
        """Return the options that the output depends on, ready for JSON.

        Options that name files are left out: files count by their contents, not by their paths.
        """
        content = json.loads(json.dumps(asdict(self)))
        if content["system_prompt"] is None:
            from prompts_cell2text import SYSTEM_PROMPT

            content["system_prompt"] = SYSTEM_PROMPT
        unused = [name for name in OWN_TASK_OPTIONS if not content[name]]
        return {name: value for name, value in content.items() if name not in (*FILE_OPTIONS, *unused)}
