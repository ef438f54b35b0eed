"""Options of `train_sft.py`, `train_grpo.py` and `train_encoder.py`, beside those of TRL and transformers.

One dataclass per group of options; `--help` prints them under the group's title. This module imports no library, so
that help and wrong values do not wait for one.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from cell2text.errors import UserError


FAST_BASELINES = (
    "majority", "usual_pathways", "knn", "logistic_regression", "nearest_description", "linear_head",
)  # fmt: skip


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


class _Arguments:
    title: str

    def __post_init__(self):
        for base in reversed(type(self).__mro__):
            if "_check" in base.__dict__:
                base.__dict__["_check"](self)

    def _check_shares(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: expected a share between 0 and 1.")


@dataclass
class DataArguments(_Arguments):
    """Cells to train on, their split, and the threads that a run uses."""

    title = "Data"

    dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "h5ad or zarr files of counts; or one prepared data set (folder or Hub id); or `example_cells`."
        },
    )
    layer: str | None = _option(None, "Layer of the h5ad files that holds the counts, or `raw`. Default: detected.")
    gene_key: str | None = _option(None, "Column of `var` that holds the gene names. Default: detected.")
    allow_fractional: bool = _option(False, "Accept non-integer counts, such as expected counts.")
    gene_sets: str | None = _option(None, "GMT file of pathways to name in the texts, or `hallmark`. Default: none.")
    split: Literal["random", "donor", "dataset", "tissue", "cell_type"] = _option(
        "random", "Unit that is never divided between training, validation and test."
    )
    test_share: float = _option(0.2, "Share of the cells to hold out for the test.")
    validation_share: float = _option(0.0, "Share of the cells to choose the best checkpoint by.")
    stratify: list[str] = field(
        default_factory=lambda: ["dataset_id", "cell_type"],
        metadata={"help": "Columns of `obs` whose combinations keep their shares in a random split."},
    )
    split_seed: int = _option(42, "Random seed of the split.")
    hold_out: Literal["test", "validation"] = _option(
        "test", "`validation` holds out training cells instead and never reads the test cells."
    )
    gene_vocab: str | None = _option(
        None, "Gene vocabulary of the encoder (folder or Hub id). Default: fitted to the training cells."
    )
    max_genes: int | None = _option(
        None, "Maximum gene tokens per cell, special tokens included. Default: the vocabulary's."
    )
    system_prompt: str | None = _option(None, "System message of every prompt. Default: the processor's.")
    cpu_threads: int | None = _option(
        None, "CPU threads per process; 0 uses all cores. Default: PyTorch's choice, or a checkpoint's on resuming."
    )

    def _check(self) -> None:
        if not 0 < self.test_share < 1:
            raise UserError(f"test_share={self.test_share}: expected a share between 0 and 1.")
        if self.validation_share and self.hold_out == "validation":
            raise UserError("hold_out='validation' makes its own validation cells: omit validation_share.")
        if not 0 <= self.validation_share < 1 - self.test_share:
            raise UserError(
                f"validation_share={self.validation_share}: expected at least 0 and less than "
                f"{1 - self.test_share:g}, the share that test_share={self.test_share} leaves."
            )
        if self.cpu_threads is not None and self.cpu_threads < 0:
            raise UserError(f"cpu_threads={self.cpu_threads}: expected a number of threads, or 0 for all cores.")


@dataclass
class EncoderArguments(_Arguments):
    """The cell encoder: a pretrained one, or the sizes of a new one."""

    title = "Cell encoder"

    cell_encoder: str | None = _option(
        None, "Pretrained encoder such as Geneformer (folder or Hub id). Default: a new one."
    )
    cell_encoder_subfolder: str | None = _option(None, "Folder of the encoder inside its repository.")
    encoder_hidden_size: int = _option(256, "Width of a new encoder.")
    encoder_layers: int = _option(6, "Number of layers of a new encoder.")
    encoder_heads: int = _option(4, "Number of attention heads of a new encoder.")


@dataclass
class ModelArguments(_Arguments):
    """The projector, the language model, and what trains."""

    title = "Projector, language model and what trains"

    stage: Literal["full", "lora", "projector"] | None = _option(
        None, "`lora` trains adapters and the projector. Default: `lora` with use_peft, otherwise `full`."
    )
    gguf_file: str | None = _option(None, "GGUF file inside the folder of the language model.")
    projector_type: Literal["mlp", "perceiver", "pooled", "concepts"] = _option(
        "mlp", "Projector from cell to text; `concepts` needs concept pretraining."
    )
    projector_hidden_size: int | None = _option(
        None, "Hidden width of the projector. Default: the language model's; the encoder's for `perceiver`."
    )
    projector_dropout: float = _option(0.1, "Dropout rate in the projector.")
    num_cell_tokens: int = _option(256, "Text positions that represent one cell.")
    cell_feature_layer: int | None = _option(None, "Encoder layer whose states are projected. Default: the model's.")
    freeze_cell_encoder: bool | None = _option(
        None, "Keep the encoder frozen. Default: true for a pretrained encoder, false for a new one."
    )
    unfreeze_encoder_layers: int = _option(
        0, "Number of last encoder layers to train (below cell_feature_layer); the rest stays frozen."
    )
    instruction: str | None = _option(None, "User message of every prompt. Default: the processor's.")
    decoder_hidden_size: int = _option(256, "Width of a new language model.")
    decoder_layers: int = _option(4, "Number of layers of a new language model.")
    decoder_heads: int = _option(4, "Number of attention heads of a new language model.")
    decoder_vocab_size: int = _option(2000, "Vocabulary size of a new language model's tokenizer.")
    cache_cell_states: bool = _option(
        False, "Run a frozen encoder once and store the states that an `mlp` projector reads."
    )
    cell_state_cache: str | None = _option(
        None, "Folder of the stored states. Default: `cell_states` in the output folder."
    )
    encoder_learning_rate: float | None = _option(
        None, "Learning rate of the encoder; 0 freezes it. Default: learning_rate."
    )
    projector_learning_rate: float | None = _option(
        None, "Learning rate of the projector; 0 freezes it. Default: learning_rate."
    )
    language_model_learning_rate: float | None = _option(
        None, "Learning rate of the language model or its LoRA adapters. Default: learning_rate."
    )

    def _check(self) -> None:
        if self.unfreeze_encoder_layers and self.freeze_cell_encoder is False:
            raise UserError("unfreeze_encoder_layers freezes the rest of the encoder: omit freeze_cell_encoder=False.")
        if self.unfreeze_encoder_layers and self.cache_cell_states:
            raise UserError("cache_cell_states needs a frozen encoder: omit unfreeze_encoder_layers.")


@dataclass
class ConceptPretrainingArguments(_Arguments):
    """Initial gene embeddings, and concept pretraining before the language model is trained."""

    title = "Gene embeddings and concept pretraining"

    gene_embeddings: Literal["random", "svd", "svd_sets", "vectors"] = _option(
        "random",
        "For a new encoder. `svd`: co-expression, fixed; `svd_sets`: also gene_sets; `vectors`: gene_vectors, trained.",
    )
    gene_vectors: str | None = _option(
        None, "Npz file with `genes`, Ensembl ids or symbols, and `vectors`, one row per gene. Default: none."
    )
    concept_pretraining_epochs: float = _option(
        0.0, "Epochs of classifying cell types and pathways before text; max_steps bounds their steps as well."
    )
    concept_pretraining_learning_rate: float = _option(1e-3, "Learning rate of concept pretraining.")
    concept_pretraining_batch_size: int | None = _option(
        None, "Cells per step of concept pretraining; per_device_train_batch_size if omitted."
    )
    augment_concept_pretraining: bool = _option(True, "Hide genes during concept pretraining, too.")


@dataclass
class AugmentationArguments(_Arguments):
    """Changes of training cells that imitate other studies, and the sampling of rare types."""

    title = "Augmentation and class balance"

    gene_dropout: float | None = _option(
        None, "Maximum share of genes hidden from a trained encoder. Default: the model's."
    )
    cell_feature_noise: float | None = _option(
        None, "Maximum noise on the features of a cell, relative to their size. Default: the model's."
    )
    panel_share: float = _option(0.0, "Share of training cells restricted to the genes of another data set.")
    depth_loss: float = _option(0.0, "Maximum share of genes a training cell loses; low ranks are lost first.")
    rank_cut: float = _option(0.0, "Maximum share of genes cut off the end of a training cell.")
    nuclei_share: float = _option(
        0.0, "Share of training cells shown as nuclei, without mitochondrial and ribosomal genes."
    )
    class_balance: float = _option(
        0.0, "Sample n rows of a type with weight n ** (1 - class_balance): 0 as they are, 1 all types equally."
    )

    simulated_share: float | None = _option(
        None,
        "Share of the sampled training cells that are simulated; as class_balance gives if omitted.",
    )

    def _check(self) -> None:
        if self.simulated_share is not None:
            self._check_shares("simulated_share")
        self._check_shares("panel_share", "depth_loss", "rank_cut", "nuclei_share", "class_balance")
        if self.gene_dropout is not None and not 0 <= self.gene_dropout < 1:
            raise UserError(f"gene_dropout={self.gene_dropout}: expected a share of at least 0 and less than 1.")
        if self.cell_feature_noise is not None and not 0 <= self.cell_feature_noise < float("inf"):
            raise UserError(f"cell_feature_noise={self.cell_feature_noise}: expected a finite number of at least 0.")


@dataclass
class HeldOutArguments(_Arguments):
    """Describing the held-out cells, and the model card."""

    title = "Held-out cells and model card"

    describe_held_out: bool = _option(True, "Describe and evaluate the held-out cells after training.")
    max_new_tokens: int = _option(160, "Maximum number of generated tokens.")
    baselines: list[str] = field(
        default_factory=lambda: list(FAST_BASELINES),
        metadata={"help": "Baselines to evaluate on the same cells; also `lightgbm`; `none` for none."},
    )
    model_license: str | None = _option(None, "Licence in the model card. Default: the language model's.")

    def _check(self) -> None:
        self.baselines = [name for name in self.baselines if name != "none"]
        known = (*FAST_BASELINES, "lightgbm")
        if set(self.baselines) - set(known):
            raise UserError(f"baselines={self.baselines}: expected some of {', '.join(known)}, or none.")


@dataclass
class ValidationArguments(_Arguments):
    """Choosing the best checkpoint, stopping a run, and generating texts."""

    title = "Validation and generated texts"

    describe_validation: int = _option(
        0, "Validation cells to describe at every evaluation, for metric_for_best_model cell_type_accuracy and others."
    )
    early_stopping_patience: int | None = _option(
        None, "Evaluations without improvement before the run stops; needs load_best_model_at_end. Default: never."
    )
    max_loss_jump: float | None = _option(
        5.0, "Stop when the loss exceeds the median of the last 50 by this many nats; NaN always stops."
    )
    generation_batch_size: int = _option(64, "Cells described per batch; it does not change the texts.")


@dataclass
class Cell2TextArguments(
    HeldOutArguments, ValidationArguments, AugmentationArguments, ConceptPretrainingArguments, ModelArguments,
    EncoderArguments, DataArguments,
):  # fmt: skip
    """All options of `train_sft.py` that are not TRL's `SFTConfig` and `ModelConfig`."""

    def _check(self) -> None:
        if self.concept_pretraining_epochs > 0 and self.cell_encoder is not None and self.freeze_cell_encoder is False:
            raise UserError(
                "concept_pretraining_epochs would overwrite the pretrained cell_encoder: omit "
                "freeze_cell_encoder=False to pretrain the projector alone."
            )
        if self.gene_embeddings != "random" and self.cell_encoder is not None:
            raise UserError(
                f"gene_embeddings={self.gene_embeddings} would overwrite those of the pretrained cell_encoder: omit it."
            )
        if self.gene_embeddings == "svd_sets" and self.gene_sets is None:
            raise UserError("gene_embeddings=svd_sets needs gene sets: pass gene_sets='FILE.gmt', or hallmark.")
        if (self.gene_embeddings == "vectors") != (self.gene_vectors is not None):
            raise UserError("gene_embeddings=vectors and gene_vectors='FILE.npz' belong together: pass both, or none.")


@dataclass
class MaskedGeneArguments(EncoderArguments, DataArguments):
    """All options of `train_encoder.py` that are not transformers' `TrainingArguments`."""

    title = "Masked-gene modelling"

    mask_share: float = _option(0.15, "Share of the genes of a cell to predict.")

    def _check(self) -> None:
        if not 0 < self.mask_share < 1:
            raise UserError(f"mask_share={self.mask_share}: expected a share between 0 and 1.")


@dataclass
class RewardArguments(_Arguments):
    """Weights of the rewards."""

    title = "Rewards"

    type_reward_weight: float = _option(1.0, "Weight of the named type's similarity to the label; 0 omits it.")
    calibration_reward_weight: float = _option(1.0, "Weight of the score of the stated probabilities; 0 omits it.")
    pathway_reward_weight: float = _option(0.5, "Weight of pathways that are active in the cell; 0 omits it.")

    @property
    def reward_weights(self) -> dict[str, float]:
        """Weights above 0, by the names of :func:`cell2text.training.rewards.text_rewards`."""
        weights = {
            "type": self.type_reward_weight,
            "calibration": self.calibration_reward_weight,
            "pathways": self.pathway_reward_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def _check(self) -> None:
        for name in ("type_reward_weight", "calibration_reward_weight", "pathway_reward_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)}: expected a finite number of at least 0.")
        if not self.reward_weights:
            raise UserError("All reward weights are 0: set one of them, such as type_reward_weight=1.")


@dataclass
class PolicyArguments(_Arguments):
    """Learning rates of the parts of the model."""

    title = "What trains"

    encoder_learning_rate: float = _option(0.0, "Learning rate of the encoder; 0 freezes it.")
    projector_learning_rate: float | None = _option(
        None, "Learning rate of the projector; 0 freezes it. Default: learning_rate."
    )
    language_model_learning_rate: float | None = _option(
        None, "Learning rate of the language model or its LoRA adapters. Default: learning_rate."
    )


@dataclass
class ReinforcementArguments(HeldOutArguments, PolicyArguments, RewardArguments, DataArguments):
    """All options of `train_grpo.py` that are not TRL's `GRPOConfig` and `ModelConfig`."""

    description_batch_size: int = _option(64, "Held-out cells described per batch; it does not change the texts.")
