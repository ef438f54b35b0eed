"""Configuration of a Cell2Text model: cell encoder, projector and causal language model.

Loads from the Hugging Face Hub as remote code. Depends on the files for concepts, their calibration and statements.
"""

from typing import Literal, get_args

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


try:
    from .calibration_cell2text import check_calibration, check_group_calibration
except ImportError:
    from calibration_cell2text import check_calibration, check_group_calibration

try:
    from .concepts_cell2text import ConceptNames
except ImportError:
    from concepts_cell2text import ConceptNames

try:
    from .declining_cell2text import TYPE_THRESHOLD
except ImportError:
    from declining_cell2text import TYPE_THRESHOLD

try:
    from .errors_cell2text import UserError, excess
except ImportError:
    from errors_cell2text import UserError, excess


ProjectorType = Literal["mlp", "perceiver", "pooled", "concepts"]

# Ceilings of a model, by words in the names of its sizes: a configuration of somebody else must not fill the memory.
LARGEST_SIZES = {
    "layers": 1_000,
    "heads": 10_000,
    "experts": 10_000,
    "groups": 10_000,
    "vocab": 5_000_000,
    "intermediate": 500_000,
    "positions": 20_000_000,
    "position": 20_000_000,
    "tokens": 100_000,
    "hidden": 100_000,
    "size": 100_000,
    "dim": 100_000,
}
LARGEST_NUMBER = 1e12  # of any number in a configuration; -1e9 masks attention
UNBOUNDED_NUMBERS = {"time_step_limit"}  # may be infinite, in state-space models
MODEL_PARAMETERS = 100_000_000_000


class Cell2TextConfig(PreTrainedConfig):
    r"""Configuration of a [`Cell2TextForConditionalGeneration`].

    Args:
        cell_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the cell encoder, any BERT-like `AutoModel` (Geneformer is `bert`).
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the language model's decoder, any that `AutoModel` and `AutoModelForCausalLM` support.
        cell_token_id (`int`, defaults to 0):
            Text token that reserves the place of one cell feature.
        num_cell_tokens (`int`, defaults to 256):
            Number of features, and so of text tokens, per cell.
        projector_type (`"mlp"`, `"perceiver"`, `"pooled"` or `"concepts"`, defaults to `"mlp"`):
            `mlp` projects the `num_cell_tokens` highest-ranked genes one by one. `perceiver` lets `num_cell_tokens`
            latents attend to all genes. `pooled` computes `num_cell_tokens` features from the rank-weighted mean of
            all genes and the `<cls>` state. `concepts` predicts the probabilities of `cell_concepts` from pooled
            features and passes only these on (a concept bottleneck).
        cell_concepts (`dict`, *optional*):
            Names that the `concepts` projector predicts, by group. A cell has one name of a group under `multiclass`
            (`{"cell_type": ["B cell", "T cell"]}`) and any number of names of a group under `multilabel`. Names of a
            group under `hierarchical` come with the names above them
            (`{"cell_type": {"cell": [], "T cell": ["cell"]}}`).
        type_threshold (`float`, defaults to 0.6):
            Least probability of a cell type that a text names. The deepest type of a hierarchical group `cell_type`
            that reaches it is named. Above 0.5 and below 1.
        type_calibration (`dict`, *optional*):
            Coefficients that calibrate the probabilities of hierarchical cell types; see
            [`~calibration_cell2text.calibrate_types`]. Defaults to no calibration.
        group_calibration (`dict`, *optional*):
            Coefficients that calibrate the mean type probabilities of groups of cells: `slope` and `intercept` of every
            type, optionally `named_slope` and `named_intercept` of the named one, and `threshold`, which replaces
            `type_threshold`. Defaults to no calibration.
        uninformative_types (`list[str]`, *optional*):
            Names of a hierarchical group that are never stated, such as `"cell"`.
        own_tasks (`dict[str, dict]`, *optional*):
            Questions about columns of the user's data that the model was trained on, by name: their `question` and
            the `values` that answer it (`{"drug_response": {"question": "...", "values": ["sensitive",
            "resistant"]}}`).
        projector_hidden_size (`int`, *optional*):
            Width inside the projector. Defaults to the encoder's hidden size for `perceiver`, to the language model's
            for the others.
        projector_hidden_act (`str`, defaults to `"gelu"`):
            Activation inside the projector.
        projector_dropout (`float`, defaults to 0.1):
            Dropout inside the projector.
        projector_num_layers (`int`, defaults to 4):
            Number of self-attention layers of the perceiver, after its one cross-attention layer.
        projector_num_heads (`int`, defaults to 2):
            Number of attention heads of the perceiver.
        projector_ffn_ratio (`float`, defaults to 1.5):
            Width of the perceiver's feed-forward layers, relative to its hidden size.
        cell_feature_layer (`int`, defaults to -2):
            Index into the encoder's `hidden_states` of the projected layer. -2 is the second-to-last layer, which
            Geneformer's own tools call `emb_layer=-1`.
        cell_cls_token_id (`int`, *optional*):
            Gene token at the start of every cell (Geneformer V2: 2). `None` if cells have none (Geneformer V1).
        cell_eos_token_id (`int`, *optional*):
            Gene token at the end of every cell (Geneformer V2: 3).
        gene_dropout (`float`, defaults to 0.0):
            Largest share of a cell's genes hidden from a trained encoder; each cell samples its share uniformly
            between 0 and this value. Recorded for `train_sft.py`, which hides the genes; other trainers ignore it.
        cell_feature_noise (`float`, defaults to 0.0):
            Largest standard deviation of normal noise on projected cells in training, relative to the root mean square
            of the cell's features; each cell samples its own uniformly between 0 and this value. Recorded for
            `train_sft.py`, which adds the noise; other trainers ignore it.
        freeze_cell_encoder (`bool`, defaults to `True`):
            Whether the encoder stays in evaluation mode and without gradients, also after `from_pretrained`.
        lm_head_bias (`bool`, defaults to `False`):
            Whether the language model's head has a bias.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of random projector weights.
        tie_word_embeddings (`bool`, defaults to `False`):
            Whether the language model's head shares its input embedding. True if `text_config` ties them.
    """

    model_type = "cell2text"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "cell_hidden_states"]

    sub_configs_defaults = {
        "cell_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    cell_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    cell_token_id: int = 0
    num_cell_tokens: int = 256
    projector_type: ProjectorType = "mlp"
    cell_concepts: dict[str, dict] | None = None
    type_threshold: float = TYPE_THRESHOLD
    type_calibration: dict | None = None
    group_calibration: dict | None = None
    uninformative_types: list[str] | None = None
    own_tasks: dict[str, dict] | None = None
    projector_hidden_size: int | None = None
    projector_hidden_act: str = "gelu"
    projector_dropout: float = 0.1
    projector_num_layers: int = 4
    projector_num_heads: int = 2
    projector_ffn_ratio: float = 1.5
    cell_feature_layer: int = -2
    cell_cls_token_id: int | None = None
    cell_eos_token_id: int | None = None
    gene_dropout: float = 0.0
    cell_feature_noise: float = 0.0
    freeze_cell_encoder: bool = True
    lm_head_bias: bool = False
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        # `pipeline` insists on remote code for a task that the configuration names. The installed package registers
        # the task instead, and `save_pretrained` of the model names it again.
        if __name__ == "configuration_cell2text":
            kwargs.pop("custom_pipelines", None)
        kwargs.pop("type_reliability", None)  # of models saved before their types were calibrated
        super().__post_init__(**kwargs)
        check_numbers(self.to_dict())
        check_parameters(self)
        if self.num_cell_tokens < 1:
            raise UserError(f"num_cell_tokens={self.num_cell_tokens}: a cell needs at least one token.")
        if self.projector_hidden_size is not None and self.projector_hidden_size < 1:
            raise UserError(f"projector_hidden_size={self.projector_hidden_size}: expected a width of at least 1.")
        if not 0 <= self.projector_dropout < 1:
            raise UserError(f"projector_dropout={self.projector_dropout}: expected a share of at least 0 and below 1.")
        if not 0 < self.projector_ffn_ratio <= 100:
            raise UserError(f"projector_ffn_ratio={self.projector_ffn_ratio}: expected a ratio above 0 and up to 100.")
        layers = getattr(self.cell_config, "num_hidden_layers", None)
        if isinstance(layers, int) and not -layers - 1 <= self.cell_feature_layer <= layers:
            raise UserError(
                f"cell_feature_layer={self.cell_feature_layer}: expected an index into the {layers + 1} states of the "
                "cell encoder."
            )
        if self.projector_type not in get_args(ProjectorType):
            raise UserError(f"projector_type={self.projector_type!r}: expected one of {get_args(ProjectorType)}.")
        if self.cell_concepts is not None:
            self.cell_concepts = ConceptNames.from_dict(self.cell_concepts).to_dict()
        if not 0.5 < self.type_threshold < 1:
            raise UserError(f"type_threshold={self.type_threshold}: expected a probability above 0.5 and below 1.")
        if self.type_calibration is not None:
            check_calibration(self.type_calibration, self.type_threshold)
        if self.group_calibration is not None:
            check_group_calibration(self.group_calibration)
        check_own_tasks(self.own_tasks)
        if not 0 <= self.gene_dropout < 1:
            raise UserError(f"gene_dropout={self.gene_dropout}: expected a share of at least 0 and below 1.")
        if not 0 <= self.cell_feature_noise < float("inf"):
            raise UserError(f"cell_feature_noise={self.cell_feature_noise}: expected a finite number of at least 0.")
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)

    @property
    def concepts(self) -> ConceptNames:
        """Names and column order of `cell_concepts`; no names if there are none."""
        return ConceptNames.from_dict(self.cell_concepts)

    @property
    def concept_groups(self) -> dict[str, list[str]]:
        """Names of `cell_concepts` by group, in the column order of concept tensors."""
        return self.concepts.groups


def check_numbers(content: dict, part: str = "") -> None:
    """Raise `UserError` if a number of a configuration is not finite, or a size is beyond that of any model.

    Args:
        content (`dict`): A configuration, with the configurations inside it.
        part (`str`): Name of the part in messages; empty for the whole configuration.
    """
    for name, value in content.items():
        where = f"{part}.{name}" if part else str(name)
        if isinstance(value, dict):
            check_numbers(value, where)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)) or name in UNBOUNDED_NUMBERS:
                continue
            if not abs(number) <= LARGEST_NUMBER:  # NaN is not
                raise UserError(f"{where}={number:.6g}: expected a number from -1e12 to 1e12.")
            if "dropout" in str(name) and not 0 <= number <= 1:
                raise UserError(f"{where}={number:.6g}: expected a share from 0 to 1.")
            if isinstance(number, int):
                _check_size(where, str(name), number)


def _check_size(where: str, name: str, value: int) -> None:
    """Raise `UserError` if an integer is a size, by a word in its name, and beyond its ceiling."""
    words = name.split("_")
    word = next((word for word in LARGEST_SIZES if word in words), None)
    if word is None or "id" in words or "ids" in words:
        return
    reason = excess(name.upper(), value, LARGEST_SIZES[word])
    if reason:
        raise UserError(f"{where}={value:,}: {reason}.")


def check_parameters(config) -> None:
    """Raise `UserError` if the sizes of a configuration multiply to a model that would fill the memory."""
    found = count_parameters(config)
    reason = excess("PARAMETERS", found, MODEL_PARAMETERS)
    if reason:
        raise UserError(f"The configuration describes a model of about {found:,} parameters, {reason}.")


def count_parameters(config) -> int:
    """Return about how many parameters encoder and language model have: embeddings, attention and feed-forward layers.

    Examples:

    ```python
    >>> count_parameters(Cell2TextConfig(text_config={"model_type": "llama"})) > 10**9
    True

    ```
    """
    return sum(_count_parameters(part) for part in (config.cell_config, config.text_config))


def _count_parameters(part) -> int:
    width, layers, wide, heads, head_width, words, positions = (
        max(0, value) if isinstance(value := getattr(part, name, None), int) else 0
        for name in (
            "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "head_dim", "vocab_size",
            "max_position_embeddings",
        )
    )  # fmt: skip
    learned = positions if getattr(part, "model_type", None) == "bert" else 0
    per_layer = 2 * width * max(width, heads * head_width) + 2 * width * wide
    return (words + learned) * width + layers * per_layer


def check_own_tasks(own_tasks: dict[str, dict] | None) -> None:
    """Raise `UserError` unless every own task has a question and a list of values, all of them texts."""
    for name, entry in (own_tasks or {}).items():
        parts = entry if isinstance(entry, dict) else {}
        values = parts.get("values")
        texts = [name, parts.get("question"), *(values if isinstance(values, (list, tuple)) else [None])]
        if not all(isinstance(text, str) and text for text in texts):
            raise UserError(
                f"own_tasks[{name!r}] is {entry!r}: expected a `question` and a list of `values`, as texts."
            )


Cell2TextConfig.register_for_auto_class()

__all__ = ["Cell2TextConfig"]
