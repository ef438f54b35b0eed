"""What a Cell2Text model is made of: a cell encoder, a projector and a causal language model.

Loads on the Hugging Face Hub as remote code. It knows nothing of genes, prompts or data.
"""

from typing import Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


class Cell2TextConfig(PreTrainedConfig):
    r"""Configuration of a [`Cell2TextForConditionalGeneration`].

    Args:
        cell_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the cell encoder, any BERT-like `AutoModel` (Geneformer is `bert`).
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the language model's decoder, any that `AutoModel` and `AutoModelForCausalLM` know.
        cell_token_id (`int`, defaults to 0):
            Text token that holds the place of one cell feature.
        num_cell_tokens (`int`, defaults to 256):
            Features, and so text tokens, that stand for one cell.
        projector_type (`"mlp"`, `"perceiver"`, `"pooled"` or `"concepts"`, defaults to `"mlp"`):
            `mlp` projects the `num_cell_tokens` highest-ranked genes one by one; `perceiver` lets `num_cell_tokens`
            latents attend to all genes; `pooled` makes `num_cell_tokens` features of the rank-weighted mean of all
            genes and the `<cls>` state; `concepts` makes them of the probabilities of `cell_concepts` alone, which it
            tells from such features.
        cell_concepts (`dict`, *optional*):
            Names that the `concepts` projector predicts, by group. A cell has one name of a group under `multiclass`
            (`{"cell_type": ["B cell", "T cell"]}`) and any number of names of a group under `multilabel`.
        projector_hidden_size (`int`, *optional*):
            Width inside the projector; the encoder's hidden size for `perceiver`, the language model's for any other,
            when left out.
        projector_hidden_act (`str`, defaults to `"gelu"`):
            Activation inside the projector.
        projector_dropout (`float`, defaults to 0.1):
            Dropout inside the projector.
        projector_num_layers (`int`, defaults to 4):
            Self-attention layers of the perceiver, after its one cross-attention layer.
        projector_num_heads (`int`, defaults to 2):
            Attention heads of the perceiver.
        projector_ffn_ratio (`float`, defaults to 1.5):
            Width of the perceiver's feed-forward layers, relative to its hidden size.
        cell_feature_layer (`int`, defaults to -2):
            Entry of the encoder's `hidden_states` that is projected. -2 is the second-to-last layer, which
            Geneformer's own tools call `emb_layer=-1`.
        cell_cls_token_id (`int`, *optional*):
            Gene token that opens every cell (Geneformer V2: 2). None where there is none (Geneformer V1).
        cell_eos_token_id (`int`, *optional*):
            Gene token that closes every cell (Geneformer V2: 3).
        gene_dropout (`float`, defaults to 0.0):
            Largest share of a cell's genes hidden from an encoder in training; each cell draws its share uniformly
            between 0 and this. Of no effect on a frozen encoder.
        cell_feature_noise (`float`, defaults to 0.0):
            Largest noise on what the language model reads of a cell in training, relative to the features' root mean
            square; each cell draws its own uniformly between 0 and this, and every feature normal noise of that size.
        freeze_cell_encoder (`bool`, defaults to `True`):
            Keep the encoder in evaluation mode and without gradients, after `from_pretrained` too.
        lm_head_bias (`bool`, defaults to `False`):
            Whether the language model's head has a bias.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of freshly made projector weights.
        tie_word_embeddings (`bool`, defaults to `False`):
            Whether the language model's head shares its input embedding; taken from `text_config` when that ties.
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
    projector_type: Literal["mlp", "perceiver", "pooled", "concepts"] = "mlp"
    cell_concepts: dict[str, dict[str, list[str]]] | None = None
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
        super().__post_init__(**kwargs)
        if self.num_cell_tokens < 1:
            raise UserError(f"num_cell_tokens={self.num_cell_tokens}: a cell needs at least one token.")
        if self.projector_hidden_size is not None and self.projector_hidden_size < 1:
            raise UserError(f"projector_hidden_size={self.projector_hidden_size}: expected a width of at least 1.")
        groups = [group for kind in (self.cell_concepts or {}).values() for group in kind]
        if set(self.cell_concepts or ()) - {"multiclass", "multilabel"} or len(set(groups)) < len(groups):
            raise UserError(
                f"cell_concepts has {sorted(self.cell_concepts)} with the groups {groups}: expected `multiclass` and "
                "`multilabel`, and no group in both."
            )
        if not 0 <= self.gene_dropout < 1:
            raise UserError(f"gene_dropout={self.gene_dropout}: expected a share of at least 0 and below 1.")
        if not 0 <= self.cell_feature_noise < float("inf"):
            raise UserError(f"cell_feature_noise={self.cell_feature_noise}: expected a number from 0 on.")
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)

    @property
    def concept_groups(self) -> dict[str, list[str]]:
        """Names of `cell_concepts` by group, in the order in which a model tells them: that of the groups' names."""
        groups = {group: names for kind in (self.cell_concepts or {}).values() for group, names in kind.items()}
        return {group: groups[group] for group in sorted(groups)}

    def split_concepts(self, told) -> dict:
        """What a model tells, a tensor of shape `(..., n_concepts)`, cut into the groups of `concept_groups`."""
        groups = self.concept_groups
        return dict(zip(groups, told.split([len(names) for names in groups.values()], dim=-1)))


Cell2TextConfig.register_for_auto_class()

__all__ = ["Cell2TextConfig"]
