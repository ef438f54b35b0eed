"""The Cell2Text model: cell encoder -> projector -> causal language model.

Follows LLaVA: `get_cell_features` (in `encoding_cell2text.py`) encodes and projects cells, `get_placeholder_mask` finds
their places in the text, and the language model reads the filled text. The model reads tensors only;
`processing_cell2text.py` makes them from AnnData and chats.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, cached_file, torch_compilable_check
from transformers.utils.generic import can_return_tuple


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .configuration_cell2text import Cell2TextConfig
except ImportError:
    from configuration_cell2text import Cell2TextConfig

try:
    from .encoding_cell2text import Cell2TextGeneMask, CellEncodingMixin
except ImportError:
    from encoding_cell2text import Cell2TextGeneMask, CellEncodingMixin

try:
    from .projectors_cell2text import PROJECTORS, init_projector
except ImportError:
    from projectors_cell2text import PROJECTORS, init_projector

try:
    from .assembly_cell2text import assemble, check_loaded, check_weights_fit, drop_pooler
except ImportError:
    from assembly_cell2text import assemble, check_loaded, check_weights_fit, drop_pooler


PIPELINE_FILES = ("pipeline_cell2text.py", "generation_cell2text.py", "decoding_cell2text.py")
GENERATING_CLASS = "modeling_cell2text.Cell2TextForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_cell2text.Cell2TextConfig",
    "AutoProcessor": "processing_cell2text.Cell2TextProcessor",
    "AutoModel": GENERATING_CLASS,
    "AutoModelForCausalLM": GENERATING_CLASS,
    "AutoModelForImageTextToText": GENERATING_CLASS,
    "AutoModelForMultimodalLM": GENERATING_CLASS,
}
CUSTOM_PIPELINES = {
    "cell-to-text": {
        "impl": "pipeline_cell2text.CellToTextPipeline",
        "pt": ["AutoModelForMultimodalLM"],
        "type": "multimodal",
    }
}
CELL_INPUTS = ("cell_input_ids", "cell_attention_mask", "cell_embeds", "concept_overrides")
# transformers 5.24 renamed the key-value cache, as an argument and as an output.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


@dataclass
class Cell2TextModelOutputWithPast(BaseModelOutputWithPast):
    """Outputs of the language model's decoder, and the projected cells.

    Args:
        cell_hidden_states (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`, *optional*):
            Projected cells; None if the call has no cells.
    """

    cell_hidden_states: torch.FloatTensor | None = None


@dataclass
class Cell2TextCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Outputs with a language modeling head.

    Args:
        cell_hidden_states (`torch.FloatTensor`, *optional*): See [`Cell2TextModelOutputWithPast`].
    """

    cell_hidden_states: torch.FloatTensor | None = None


class Cell2TextPreTrainedModel(PreTrainedModel):
    config: Cell2TextConfig
    config_class = Cell2TextConfig
    base_model_prefix = "model"
    input_modalities = ["cell", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["Cell2TextPerceiverLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        folder = Path((args[0] if args else kwargs.get("pretrained_model_name_or_path")) or "")
        if kwargs.get("state_dict") is None and (folder / "config.json").is_file():
            given = kwargs.get("config")
            config = given if isinstance(given, Cell2TextConfig) else cls.config_class.from_pretrained(folder)
            check_weights_fit(folder, config)
        wants_report = kwargs.pop("output_loading_info", False)
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if not wants_report and kwargs.get("state_dict") is None:  # otherwise the caller looks at the weights
            check_loaded(model, report, allow_mismatched=kwargs.get("ignore_mismatched_sizes", False))
        # Loading replaces every parameter, which undoes the freezing in `__init__`.
        model.base_model.freeze_cell_encoder(model.config.freeze_cell_encoder)
        return (model, report) if wants_report else model

    def save_pretrained(self, save_directory, **kwargs):
        # transformers registers a class under one Auto class only and does not save a pipeline's file.
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = CUSTOM_PIPELINES
        super().save_pretrained(save_directory, **kwargs)
        for name in PIPELINE_FILES:
            file = Path(__file__).with_name(name)
            if not file.exists():  # remote code downloads it only when the pipeline is used
                file = cached_file(self.config._name_or_path, name, _raise_exceptions_for_missing_entries=False)
            target = Path(save_directory, name)
            if file is not None and not (target.exists() and target.samefile(file)):
                shutil.copyfile(file, target)

    def post_init(self):
        super().post_init()
        # FSDP fails on a class that is named here but absent from this model.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        init_projector(module, self.config.initializer_range)


class Cell2TextModel(CellEncodingMixin, Cell2TextPreTrainedModel):
    """Cell encoder, projector and decoder, without a language modeling head."""

    def __init__(self, config: Cell2TextConfig):
        super().__init__(config)
        self.gene_mask = Cell2TextGeneMask(config)
        self.cell_encoder = AutoModel.from_config(config.cell_config)
        drop_pooler(self.cell_encoder)
        self.projector = PROJECTORS[config.projector_type](config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()
        self.freeze_cell_encoder(config.freeze_cell_encoder)

    def freeze_cell_encoder(self, freeze: bool = True):
        """Exclude the encoder from training, or include it with `freeze=False`; the choice is saved with the model."""
        self.config.freeze_cell_encoder = freeze
        self.cell_encoder.requires_grad_(not freeze)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.config.freeze_cell_encoder:
            self.cell_encoder.eval()
        return self

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_placeholder_mask(self, input_ids, inputs_embeds, cell_embeds, n_cells=None):
        """Find the placeholders, and check that each row has as many as its cells need.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Text tokens. If omitted, placeholders are found in `inputs_embeds`.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, text_hidden)`): Text embeddings.
            cell_embeds (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`): Cells.
            n_cells (`torch.LongTensor` of shape `(batch,)`, *optional*):
                Number of cells per row. Defaults to the number that the row's placeholders call for.

        Returns:
            `torch.BoolTensor` of shape `(batch, length)`.
        """
        mask = self._is_placeholder(input_ids, inputs_embeds)
        found, (slots, per_cell) = mask.sum(-1), cell_embeds.shape[1:3]
        expected = found // per_cell if n_cells is None else n_cells.to(found.device)

        def message():
            total = expected.sum().item()
            rows = (found != expected * per_cell).nonzero().flatten().tolist()
            rows = rows or (expected > slots).nonzero().flatten().tolist()
            return (
                f"{found.sum().item()} <cell> tokens but {total} cells x {per_cell} features ({total * per_cell}); at "
                f"most {slots} cells per row; rows that differ: {rows}. Did max_length cut the prompt, or do the "
                "prompts hold another number of cells?"
            )

        torch_compilable_check((found == expected * per_cell).all() & (expected <= slots).all(), message)
        return mask

    def check_no_placeholders(self, input_ids):
        """Raise if a text without cells holds placeholders."""
        placeholders = input_ids == self.config.cell_token_id
        torch_compilable_check(
            ~placeholders.any(),
            lambda: (
                f"{placeholders.sum().item()} <cell> tokens but 0 cells: pass cell_input_ids, or remove the "
                "placeholders from the prompt."
            ),
        )

    def _is_placeholder(self, input_ids, inputs_embeds):
        if input_ids is not None:
            return input_ids == self.config.cell_token_id
        token = torch.full((), self.config.cell_token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def _fill_placeholders(self, input_ids, inputs_embeds, cell_embeds, cell_attention_mask):
        n_cells = None if cell_attention_mask is None else cell_attention_mask.any(-1).sum(-1)
        mask = self.get_placeholder_mask(input_ids, inputs_embeds, cell_embeds, n_cells)
        features = cell_embeds.flatten(1, 2).to(inputs_embeds.device, inputs_embeds.dtype)
        # The n-th placeholder of a row takes its n-th feature. A gather keeps every shape static, and a feature cannot
        # slip into the next row, as with a `masked_scatter` over a batch whose rows hold different numbers of cells.
        index = (mask.cumsum(-1) - 1).clamp(min=0, max=features.shape[1] - 1)
        filled = features.gather(1, index.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        return torch.where(mask.unsqueeze(-1), filled, inputs_embeds)

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: torch.LongTensor | None = None,
        cell_input_ids: torch.LongTensor | None = None,
        cell_attention_mask: torch.Tensor | None = None,
        cell_states: torch.FloatTensor | None = None,
        concept_overrides: torch.FloatTensor | None = None,
        cell_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Cell2TextModelOutputWithPast:
        """See [`Cell2TextForConditionalGeneration.forward`]."""
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        if (input_ids is None) == (inputs_embeds is None):
            raise UserError("Pass exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if cell_input_ids is not None:
            if cell_embeds is not None:
                raise UserError("Pass cell_input_ids or cell_embeds, not both.")
            cell_input_ids, cell_attention_mask = self._as_cell_batch(  # type: ignore[operator]
                cell_input_ids, cell_attention_mask
            )
            cell_embeds = self.get_cell_features(  # type: ignore[operator]
                cell_input_ids, cell_attention_mask, cell_states, concept_overrides
            ).pooler_output
        if cell_embeds is not None:
            inputs_embeds = self._fill_placeholders(input_ids, inputs_embeds, cell_embeds, cell_attention_mask)
        elif input_ids is not None and not _has_cache(kwargs):
            self.check_no_placeholders(input_ids)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )
        return Cell2TextModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME, None)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cell_hidden_states=cell_embeds,
        )


class Cell2TextForConditionalGeneration(Cell2TextPreTrainedModel, GenerationMixin):
    """A language model that reads single cells. Every Auto class loads this one."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: Cell2TextConfig):
        super().__init__(config)
        self.model = Cell2TextModel(config)
        text_config = config.text_config
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=config.lm_head_bias)
        embedding = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embedding)  # `wte` in GPT-2
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    @classmethod
    def from_components(cls, cell_encoder, language_model, processor, **kwargs) -> "Cell2TextForConditionalGeneration":
        """Assemble a model from an encoder and a language model.

        Args:
            cell_encoder (`str`, `PathLike`, `PreTrainedModel` or `PreTrainedConfig`):
                Folder, Hub id or module of a pretrained encoder, which stays frozen; or a configuration, for an
                encoder with random weights, which is trained.
            language_model (`str`, `PathLike`, `PreTrainedModel` or `PreTrainedConfig`):
                The same for any `AutoModelForCausalLM`. A module becomes part of the new model.
            processor (`Cell2TextProcessor`):
                Defines the placeholder token, the number of features per cell and the gene vocabulary.
            dtype (`torch.dtype`, *optional*):
                Precision of all parts. Defaults to the language model's.
            cell_encoder_kwargs, language_model_kwargs (`dict`, *optional*):
                Arguments of `from_pretrained` (`subfolder`, `revision`, `trust_remote_code`, `gguf_file`, ...).
            **kwargs:
                Fields of [`Cell2TextConfig`], such as `projector_type`.

        Raises:
            UserError: If the encoder cannot hold the vocabulary or its longest cell, or if the language model's head
                is more than a linear layer with an optional soft cap.
        """
        return assemble(cls, cell_encoder, language_model, processor, **kwargs)

    def get_output_embeddings(self):
        return self.lm_head

    def get_cell_features(self, cell_input_ids, cell_attention_mask=None, **kwargs: Unpack[TransformersKwargs]):
        """See [`Cell2TextModel.get_cell_features`]."""
        return self.model.get_cell_features(cell_input_ids, cell_attention_mask, **kwargs)

    @property
    def looks_genes_up(self) -> bool:
        """See [`Cell2TextModel.looks_genes_up`]."""
        return self.model.looks_genes_up

    def summarise_cells(self, cell_input_ids, cell_attention_mask=None, concept_overrides=None):
        """See [`Cell2TextModel.summarise_cells`]."""
        return self.model.summarise_cells(cell_input_ids, cell_attention_mask, concept_overrides)

    def project_statements(self, encoded):
        """Return what the language model reads for encoded statements; see [`StatementEncoder`]."""
        return self.model.projector.project_statements(encoded)

    def get_cell_concepts(self, cell_input_ids, cell_attention_mask=None):
        """See [`Cell2TextModel.get_cell_concepts`]."""
        return self.model.get_cell_concepts(cell_input_ids, cell_attention_mask)

    def encode_concepts(self, **names):
        """See [`Cell2TextModel.encode_concepts`]."""
        return self.model.encode_concepts(**names)

    def order_of_concepts(self, group: str) -> list[int]:
        """Return the columns of a concept group, those first that are active in most training cells.

        The order is that of the biases of the group's head, of a `concepts` projector.
        """
        return self.model.projector.heads[group].bias.argsort(descending=True, stable=True).tolist()

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the language model's head to states of shape `(..., text_hidden)`."""
        logits = self.lm_head(hidden_states)
        cap = getattr(self.config.text_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: torch.LongTensor | None = None,
        cell_input_ids: torch.LongTensor | None = None,
        cell_attention_mask: torch.Tensor | None = None,
        cell_states: torch.FloatTensor | None = None,
        concept_overrides: torch.FloatTensor | None = None,
        cell_embeds: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Cell2TextCausalLMOutputWithPast:
        """Score the next text tokens, given text and cells.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Text tokens, with `num_cell_tokens` placeholders per cell. Alternatively pass `inputs_embeds`.
            cell_input_ids (`torch.LongTensor` of shape `(batch, n_cells, n_genes)`, *optional*):
                Gene tokens of the cells, in the order of their placeholders.
            cell_attention_mask (`torch.Tensor` of the same shape, *optional*):
                1 for gene tokens, 0 for padding. A row of zeros is an empty slot; a cell without genes keeps a 1 at
                its first position.
            cell_states, concept_overrides (*optional*): See [`~Cell2TextModel.get_cell_features`].
            cell_embeds (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`, *optional*):
                Projected cells, instead of `cell_input_ids`.
            cache (`Cache`, *optional*):
                Keys and values of the preceding tokens. The name before transformers 5.24, `past_key_values`, works
                as well.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Target tokens; -100 excludes a position from the loss.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Number of last positions to score; 0 scores all.

        Raises:
            ValueError: If placeholders and cells do not match in number.
        """
        outputs = self.model(
            input_ids=input_ids,
            cell_input_ids=cell_input_ids,
            cell_attention_mask=cell_attention_mask,
            cell_states=cell_states,
            concept_overrides=concept_overrides,
            cell_embeds=cell_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.compute_logits(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return Cell2TextCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME, None)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cell_hidden_states=outputs.cell_hidden_states,
        )

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, is_first_iteration=False, past_key_values=None, **kwargs
    ):
        # `generate` looks for `inputs_embeds` and for the cache's older name in this signature.
        if past_key_values is not None:
            kwargs["past_key_values"] = past_key_values
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and model_inputs.get("use_cache", True):
            for name in CELL_INPUTS:
                model_inputs.pop(name, None)
        return model_inputs

    def generate(self, inputs=None, *args, **kwargs):
        """Generate as `GenerationMixin.generate` does, but encode the cells once instead of once per step and beam.

        Raises:
            ValueError: If placeholders and cells do not match in number.
        """
        # transformers' own route, `mm_encoder_outputs`, repeats images and videos for beams but no other modality.
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if kwargs.get("cell_input_ids") is not None and kwargs.get("cell_embeds") is None:
            cells, mask = self.model._as_cell_batch(kwargs.pop("cell_input_ids"), kwargs.get("cell_attention_mask"))
            overrides = kwargs.pop("concept_overrides", None)
            with torch.no_grad():
                features = self.get_cell_features(cells, mask, concept_overrides=overrides).pooler_output
            kwargs.update(cell_embeds=features, cell_attention_mask=mask)
        if kwargs.get("cell_embeds") is None and ids is not None and not _has_cache(kwargs):
            self.model.check_no_placeholders(ids)
        return super().generate(inputs, *args, **kwargs)


def _has_cache(kwargs) -> bool:
    """Return whether arguments of `forward` or `generate` hold a cache, under its current or its older name."""
    return any(kwargs.get(name) is not None for name in ("cache", "past_key_values"))


# Saving then always copies the code, also into a Trainer's checkpoints.
Cell2TextForConditionalGeneration.register_for_auto_class("AutoModel")
Cell2TextModel.register_for_auto_class("AutoModel")

__all__ = ["Cell2TextForConditionalGeneration", "Cell2TextModel", "Cell2TextPreTrainedModel"]
