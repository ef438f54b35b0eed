"""Arguments of `train_sft.py` and `train_encoder.py` beside the Trainer's own."""

from dataclasses import dataclass, field
from typing import Literal

from cell2text.errors import UserError
from cell2text.evaluation.baselines import METHODS


FAST_BASELINES = tuple(name for name in METHODS if name != "lightgbm")


@dataclass
class DataArguments:
    """Rows of a run, and the threads that it may use."""

    dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files of counts (h5ad, zarr), which are prepared as by `cell2text prepare`; or one data set that "
            "is prepared already, a folder or a Hub id; or `example_cells`, which ship with the package."
        },
    )
    layer: str | None = field(default=None, metadata={"help": "Layer with the counts, or `raw`, of the h5ad files."})
    gene_key: str | None = field(default=None, metadata={"help": "Column of `var` with the gene names."})
    allow_fractional: bool = field(default=False, metadata={"help": "Accept expected counts that are no integers."})
    gene_sets: str | None = field(
        default=None, metadata={"help": "GMT file of the pathways that texts name, or `hallmark`."}
    )
    split: Literal["random", "donor", "dataset", "tissue", "cell_type"] = field(
        default="random", metadata={"help": "What no two splits of the files' cells share."}
    )
    test_share: float = field(default=0.2, metadata={"help": "Share of the files' cells that is held out."})
    validation_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the files' cells that the best checkpoint is chosen by; prepared data bring theirs."
        },
    )
    stratify: list[str] = field(
        default_factory=lambda: ["dataset_id", "cell_type"],
        metadata={"help": "Columns whose combinations keep their share in a random split."},
    )
    split_seed: int = field(default=42, metadata={"help": "Seed of the split."})
    hold_out: Literal["test", "validation"] = field(
        default="test",
        metadata={
            "help": "`validation` holds out as many of the training cells instead, and never sees the test cells."
        },
    )
    gene_vocab: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the encoder's gene vocabulary; fitted to the training cells if left out."
        },
    )
    max_genes: int | None = field(default=None, metadata={"help": "Longest ranked cell, special tokens included."})
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message; the processor's own if left out."}
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Threads on CPU, 0 for all cores: `accelerate launch` gives a process one. Left alone if left out."
        },
    )

    def __post_init__(self):
        if not 0 < self.test_share < 1:
            raise UserError(f"test_share={self.test_share}: expected a share between 0 and 1.")
        if self.validation_share and self.hold_out == "validation":
            raise UserError("hold_out=validation makes its own validation cells: leave out validation_share.")
        if not 0 <= self.validation_share < 1 - self.test_share:
            raise UserError(f"validation_share={self.validation_share}: expected one below {1 - self.test_share:g}.")


@dataclass
class EncoderArguments:
    """The cell encoder: pretrained, or the sizes of a fresh one."""

    cell_encoder: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a pretrained encoder, such as Geneformer; a fresh one if left out."},
    )
    cell_encoder_subfolder: str | None = field(
        default=None, metadata={"help": "Folder inside the encoder's repository."}
    )
    encoder_hidden_size: int = field(default=256, metadata={"help": "Width of a fresh encoder."})
    encoder_layers: int = field(default=6, metadata={"help": "Layers of a fresh encoder."})
    encoder_heads: int = field(default=4, metadata={"help": "Attention heads of a fresh encoder."})


@dataclass
class Cell2TextArguments(EncoderArguments, DataArguments):
    """Data, parts and stages of a run; the model's path, LoRA and all of training are TRL's `ModelConfig` and
    `SFTConfig`."""

    stage: Literal["full", "lora", "projector"] | None = field(
        default=None,
        metadata={
            "help": "What trains: everything (`full`), LoRA on the language model and the projector (`lora`), the "
            "projector "
            "alone (`projector`). A frozen encoder stays frozen. `lora` with --use_peft, else `full`, when left out."
        },
    )
    gguf_file: str | None = field(default=None, metadata={"help": "GGUF file inside the language model's folder."})
    projector_type: Literal["mlp", "perceiver", "pooled", "concepts"] = field(
        default="mlp",
        metadata={
            "help": "Kind of the projector; `concepts` needs concept_pretraining_epochs, in which it learns them."
        },
    )
    projector_hidden_size: int | None = field(
        default=None,
        metadata={"help": "Width inside the projector; the language model's if None, a Perceiver's the encoder's."},
    )
    projector_dropout: float = field(default=0.1, metadata={"help": "Dropout inside the projector."})
    num_cell_tokens: int = field(
        default=256, metadata={"help": "Features, and so text tokens, that stand for one cell."}
    )
    cell_feature_layer: int | None = field(default=None, metadata={"help": "Encoder layer that is projected."})
    freeze_cell_encoder: bool | None = field(
        default=None, metadata={"help": "Keep the encoder frozen: true for a pretrained one, false for a fresh one."}
    )
    unfreeze_encoder_layers: int = field(
        default=0,
        metadata={
            "help": "Train so many of the encoder's last layers that the projected states pass; freeze the rest."
        },
    )
    gene_dropout: float | None = field(
        default=None,
        metadata={"help": "Largest share of genes hidden from an encoder in training; the model's own if None."},
    )
    cell_feature_noise: float | None = field(
        default=None,
        metadata={
            "help": "Largest noise on the features of a cell that the language model reads in training, relative to "
            "their size; the model's own if None."
        },
    )
    panel_share: float = field(
        default=0.0,
        metadata={"help": "Share of training cells that are restricted to the genes of another data set."},
    )
    depth_loss: float = field(
        default=0.0, metadata={"help": "Largest share of genes that a training cell loses, those of low rank first."}
    )
    rank_cut: float = field(default=0.0, metadata={"help": "Largest share of genes cut off a training cell's end."})
    nuclei_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of training cells that are shown as nuclei: without mitochondrial and ribosomal genes."
        },
    )
    augment_concept_pretraining: bool = field(
        default=True, metadata={"help": "Whether the warm start hides genes too, or only the training after it."}
    )
    class_balance: float = field(
        default=0.0,
        metadata={
            "help": "Draw each data set's cells of a type in proportion to their number to the power of 1 minus this: "
            "0 as they are, 0.5 the root, 1 all types alike."
        },
    )
    instruction: str | None = field(default=None, metadata={"help": "Instruction; the processor's own if left out."})

    decoder_hidden_size: int = field(default=256, metadata={"help": "Width of a fresh language model."})
    decoder_layers: int = field(default=4, metadata={"help": "Layers of a fresh language model."})
    decoder_heads: int = field(default=4, metadata={"help": "Attention heads of a fresh language model."})
    decoder_vocab_size: int = field(default=2000, metadata={"help": "Tokens of a fresh language model."})

    cache_cell_states: bool = field(
        default=False,
        metadata={"help": "Run a frozen encoder once and keep the states that an mlp projector reads on disk."},
    )
    cell_state_cache: str | None = field(
        default=None, metadata={"help": "Folder of those states; `cell_states` in the output folder if left out."}
    )

    gene_embeddings: Literal["random", "svd", "svd_sets"] = field(
        default="random",
        metadata={
            "help": "Gene embeddings of a fresh encoder: `random` ones that train, `svd` ones from the co-expression "
            "of the training cells, which stay fixed, or `svd_sets`, which know the --gene_sets as well."
        },
    )
    concept_pretraining_epochs: float = field(
        default=0.0,
        metadata={
            "help": "Epochs in which a fresh encoder and the projector first learn cell types and pathways; with a "
            "frozen encoder the projector alone."
        },
    )
    concept_pretraining_learning_rate: float = field(
        default=1e-3, metadata={"help": "Learning rate of the warm start."}
    )
    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "The encoder's own learning rate; 0 leaves it as it is."}
    )
    projector_learning_rate: float | None = field(
        default=None, metadata={"help": "The projector's own learning rate; 0 leaves it as it is."}
    )
    language_model_learning_rate: float | None = field(
        default=None, metadata={"help": "The language model's own learning rate; LoRA's with LoRA."}
    )

    describe_validation: int = field(
        default=0,
        metadata={
            "help": "Describe so many validation cells at every evaluation, 0 for none, and log what the texts get "
            "right, for --metric_for_best_model: cell_type_accuracy, cell_type_pagerank, tissue_accuracy or "
            "disease_accuracy."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better --metric_for_best_model; needs "
            "validation cells and --load_best_model_at_end true."
        },
    )

    max_loss_jump: float | None = field(
        default=5.0,
        metadata={
            "help": "Stop when a loss is so many nats above the median of the last 50; one that is no number always."
        },
    )
    model_license: str | None = field(
        default=None, metadata={"help": "Licence in the model card; that of the language model if left out."}
    )
    describe_held_out: bool = field(default=True, metadata={"help": "Describe all held-out cells after training."})
    max_new_tokens: int = field(default=160, metadata={"help": "Longest description, in tokens."})
    generation_batch_size: int = field(
        default=64, metadata={"help": "Cells described at a time; of no effect on the texts."}
    )
    baselines: list[str] = field(
        default_factory=lambda: list(FAST_BASELINES),
        metadata={"help": f"Baselines for the same cells, any of {', '.join(METHODS)}; `none` for none."},
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("panel_share", "depth_loss", "rank_cut", "nuclei_share", "class_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: expected one between 0 and 1.")
        if self.gene_dropout is not None and not 0 <= self.gene_dropout < 1:
            raise UserError(f"gene_dropout={self.gene_dropout}: expected a share of at least 0 and below 1.")
        if self.cell_feature_noise is not None and not 0 <= self.cell_feature_noise < float("inf"):
            raise UserError(f"cell_feature_noise={self.cell_feature_noise}: expected a number from 0 on.")
        if self.concept_pretraining_epochs > 0 and self.cell_encoder is not None and self.freeze_cell_encoder is False:
            raise UserError(
                "concept_pretraining_epochs would overwrite the pretrained --cell_encoder: leave out "
                "freeze_cell_encoder false, and it trains the projector alone."
            )
        if self.gene_embeddings != "random" and self.cell_encoder is not None:
            raise UserError(
                f"gene_embeddings={self.gene_embeddings} would overwrite those of the pretrained --cell_encoder."
            )
        if self.gene_embeddings == "svd_sets" and self.gene_sets is None:
            raise UserError("gene_embeddings=svd_sets needs gene sets: pass --gene_sets FILE.gmt, or hallmark.")
        self.baselines = [name for name in self.baselines if name != "none"]
        if set(self.baselines) - set(METHODS):
            raise UserError(f"baselines={self.baselines}: expected some of {METHODS}, or none.")
        if self.unfreeze_encoder_layers and self.freeze_cell_encoder is False:
            raise UserError(
                "unfreeze_encoder_layers freezes the rest of the encoder: leave out freeze_cell_encoder false."
            )
        if self.unfreeze_encoder_layers and self.cache_cell_states:
            raise UserError("cache_cell_states needs a frozen encoder: not with unfreeze_encoder_layers.")


@dataclass
class MaskedGeneArguments(EncoderArguments, DataArguments):
    """Data and encoder of a pretraining run; all of training are transformers' `TrainingArguments`."""

    mask_share: float = field(default=0.15, metadata={"help": "Share of a cell's genes that are to be guessed."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_share < 1:
            raise UserError(f"mask_share={self.mask_share}: expected a share between 0 and 1.")
