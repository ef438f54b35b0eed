"""The Cell2Text model: cell encoder -> projector -> causal language model.

Follows LLaVA's spine: `get_cell_features` -> `get_placeholder_mask` -> fill the placeholders -> language model. It
knows nothing of genes, files or prompts; `processing_cell2text.py` turns those into the tensors used here.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
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
    from .projectors_cell2text import PROJECTORS, init_projector
except ImportError:
    from projectors_cell2text import PROJECTORS, init_projector


PIPELINE_FILES = ("pipeline_cell2text.py", "generation_cell2text.py")
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
class Cell2TextCellOutput(BaseModelOutputWithPooling):
    """Outputs of the encoder and the projector.

    Args:
        concepts (`torch.FloatTensor` of shape `(batch, n_cells, n_concepts)`, *optional*):
            What a projector of concepts tells of the cells, its groups in the order of their names.
    """

    concepts: torch.FloatTensor | None = None


@dataclass
class Cell2TextModelOutputWithPast(BaseModelOutputWithPast):
    """Outputs of the language model's decoder, and the projected cells.

    Args:
        cell_hidden_states (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`, *optional*):
            What the projector made of the cells; None when the call brought no cells.
    """

    cell_hidden_states: torch.FloatTensor | None = None


@dataclass
class Cell2TextCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Outputs with a language modelling head.

    Args:
        cell_hidden_states (`torch.FloatTensor`, *optional*): See [`Cell2TextModelOutputWithPast`].
    """

    cell_hidden_states: torch.FloatTensor | None = None


class Cell2TextPreTrainedModel(PreTrainedModel):
    config: Cell2TextConfig
    config_class = Cell2TextConfig
    base_model_prefix = "model"
    input_modalities = ["text"]
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
        # Loading replaces every parameter, so that the freezing done in `__init__` is lost.
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.base_model.freeze_cell_encoder(model.config.freeze_cell_encoder)
        return loaded

    def save_pretrained(self, save_directory, **kwargs):
        # transformers registers a class under one Auto class only, and never ships a pipeline's file.
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = CUSTOM_PIPELINES
        super().save_pretrained(save_directory, **kwargs)
        for name in PIPELINE_FILES:
            file = Path(__file__).with_name(name)
            if not file.exists():  # remote code fetches it only when the pipeline is used
                file = cached_file(self.config._name_or_path, name, _raise_exceptions_for_missing_entries=False)
            target = Path(save_directory, name)
            if file is not None and not (target.exists() and target.samefile(file)):
                shutil.copyfile(file, target)

    def post_init(self):
        super().post_init()
        # FSDP looks for every class named here, and fails on one that this very model does not hold.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        init_projector(module, self.config.initializer_range)


class Cell2TextModel(Cell2TextPreTrainedModel):
    """Cell encoder, projector and decoder, without a language modelling head."""

    augment_cells: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    """What training does to ranked cells and their mask before a trained encoder reads them; never saved."""
    augment_concepts: Callable[[torch.Tensor], torch.Tensor] | None = None
    """What training does to `concept_overrides`, shape (n_cells, n_concepts), before they are read; never saved."""

    def __init__(self, config: Cell2TextConfig):
        super().__init__(config)
        self.cell_encoder = AutoModel.from_config(config.cell_config)
        drop_pooler(self.cell_encoder)
        self.projector = PROJECTORS[config.projector_type](config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()
        self.freeze_cell_encoder(config.freeze_cell_encoder)

    def freeze_cell_encoder(self, freeze: bool = True):
        """Take the encoder out of training (`freeze=True`) or put it back; the choice is saved with the model."""
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

    @can_return_tuple
    def get_cell_features(
        self,
        cell_input_ids: torch.LongTensor,
        cell_attention_mask: torch.Tensor | None = None,
        cell_states: torch.FloatTensor | None = None,
        concept_overrides: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | Cell2TextCellOutput:
        """Encode cells and project them into the language model's space.

        Args:
            cell_input_ids (`torch.LongTensor` of shape `(batch, n_cells, n_genes)` or `(batch, n_genes)`):
                Gene tokens, highest-ranked first.
            cell_attention_mask (`torch.Tensor` of the same shape, *optional*):
                1 for gene tokens, 0 for padding; made from the padding token when left out.
            cell_states (`torch.FloatTensor` of shape `(batch, n_cells, n_genes, cell_hidden)`, *optional*):
                The frozen encoder's states of these tokens, kept from before: the encoder is not run again.
            concept_overrides (`torch.FloatTensor` of shape `(batch, n_cells, n_concepts)`, *optional*):
                What is known of the cells beforehand: the `cell_concepts` of all groups, which stand in the order of
                their names, from 0 to 1 and NaN where unknown. It stands in for what the projector would tell.

        Returns:
            `Cell2TextCellOutput`: `last_hidden_state` holds the chosen layer of the encoder, shape
            `(batch, n_cells, n_genes, cell_hidden)`; `pooler_output` the features that take the placeholders' place,
            shape `(batch, n_cells, num_cell_tokens, text_hidden)`; `concepts` what they are made of, if of concepts.

        Raises:
            ValueError: If `concept_overrides` are given to a projector that knows no concepts, or others than its own.
        """
        states, gene_mask, outputs = self.encode_cells(cell_input_ids, cell_attention_mask, cell_states, **kwargs)
        read = [states.flatten(0, 1), gene_mask.flatten(0, 1)]
        if concept_overrides is not None:
            self._check_concepts(concept_overrides)
            known = concept_overrides.flatten(0, 1)
            if self.training and self.augment_concepts is not None:
                known = self.augment_concepts(known)
            read.append(known)
        features, concepts = self.projector(*read), None
        if self.config.projector_type == "concepts":
            features, concepts = features
        return Cell2TextCellOutput(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=features.unflatten(0, states.shape[:2]),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            concepts=None if concepts is None else concepts.unflatten(0, states.shape[:2]),
        )

    def get_cell_concepts(
        self, cell_input_ids: torch.LongTensor, cell_attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.FloatTensor]:
        """How probable each of the configuration's `cell_concepts` is for cells, as the language model reads them.

        Args:
            cell_input_ids (`torch.LongTensor` of shape `(batch, n_cells, n_genes)` or `(batch, n_genes)`):
                Gene tokens, highest-ranked first.
            cell_attention_mask (`torch.Tensor` of the same shape, *optional*):
                1 for gene tokens, 0 for padding; made from the padding token when left out.

        Returns:
            `dict[str, torch.FloatTensor]`: of each group its names' probabilities in the order of the configuration,
            shape `(batch, n_cells, n_names)`. They add up to 1 in a group of which a cell has one.

        Raises:
            ValueError: If the projector knows no concepts.
        """
        self._check_concepts()
        found = self.get_cell_features(cell_input_ids, cell_attention_mask, return_dict=True).concepts
        return self.config.split_concepts(found)

    def encode_concepts(self, **names: str | list[str]) -> torch.Tensor:
        """What is known of a cell beforehand, as `forward` and `generate` take it for `concept_overrides`.

        Args:
            **names: By group the name that is true of the cell (`tissue="kidney"`), a list of them for a group of which
                a cell may have several. Groups left out are left to the model.

        Returns:
            `torch.Tensor`: float, shape `(1, 1, n_concepts)`; `expand` or stack it for more cells.

        Raises:
            ValueError: If the projector knows no concepts, or not this group or name.
        """
        self._check_concepts()
        groups, multiclass = self.config.concept_groups, self.config.cell_concepts.get("multiclass", {})
        others = sorted(set(names) - set(groups))
        if others:
            raise UserError(f"{others} are no groups of concepts: expected {sorted(groups)}.")
        parts = []
        for group, expected in groups.items():
            true = names.get(group)
            if true is None:
                parts.append(torch.full((len(expected),), float("nan")))
                continue
            true = [true] if isinstance(true, str) else list(true)
            if set(true) - set(expected) or (group in multiclass and len(true) != 1):
                raise UserError(f"{group}={true}: expected {'one' if group in multiclass else 'some'} of {expected}.")
            parts.append(torch.tensor([float(name in true) for name in expected]))
        return torch.cat(parts).view(1, 1, -1).to(self.device)

    def _check_concepts(self, known=None):
        if self.config.projector_type != "concepts":
            raise UserError(
                f"projector_type={self.config.projector_type!r} knows no concepts of cells: only 'concepts' does."
            )
        sizes = {group: len(names) for group, names in self.config.concept_groups.items()}
        n_concepts = sum(sizes.values())
        if known is not None and known.shape[-1] != n_concepts:
            raise UserError(
                f"concept_overrides has {known.shape[-1]} columns but the model {n_concepts} concepts, in the groups "
                f"{sizes}: pass one column for each, NaN where nothing is known."
            )

    def encode_cells(self, cell_input_ids, cell_attention_mask=None, cell_states=None, **kwargs):
        """What the projector reads of cells: states, which positions of theirs are genes; and the encoder's outputs."""
        ids, mask = self._as_cell_batch(cell_input_ids, cell_attention_mask)
        shape = ids.shape
        ids, mask = ids.flatten(0, 1), mask.flatten(0, 1)
        if self.training and not self.config.freeze_cell_encoder and self.augment_cells is not None:
            ids, mask = self.augment_cells(ids, mask)
        gene_mask = mask & self._is_gene(ids)
        if self.training and not self.config.freeze_cell_encoder and self.config.gene_dropout > 0:
            hidden_share = torch.rand(len(ids), 1, device=ids.device) * self.config.gene_dropout
            dropped = gene_mask & (torch.rand(ids.shape, device=ids.device) < hidden_share)
            mask, gene_mask = mask & ~dropped, gene_mask & ~dropped
        if cell_states is None:
            outputs, states = self._encode(ids, mask, **kwargs)
            states = states.unflatten(0, shape[:2])
        else:
            outputs, states = BaseModelOutputWithPooling(), cell_states
        outputs.last_hidden_state = states
        # PEFT keeps a projector trained whole in float32, whatever the encoder's precision.
        states = states.to(next(self.projector.parameters()).dtype)
        return states, gene_mask.unflatten(0, shape[:2]), outputs

    def _encode(self, ids, mask, **kwargs):
        """The encoder's outputs, and of them the layer that is projected."""
        # A slot without a cell attends to its first padding token: attention to nothing is not a number.
        visible = mask | (~mask.any(-1, keepdim=True) & (torch.arange(ids.shape[-1], device=ids.device) == 0))
        layer = self.config.cell_feature_layer
        kwargs = {**kwargs, "output_hidden_states": layer != -1 or kwargs.get("output_hidden_states", False)}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_cell_encoder):
            outputs = self.cell_encoder(input_ids=ids, attention_mask=visible.long(), return_dict=True, **kwargs)
        return outputs, outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]

    def _as_cell_batch(self, ids, mask):
        """Cells and their boolean mask, both of shape (batch, n_cells, n_genes)."""
        if mask is None:
            mask = ids != (self.config.cell_config.pad_token_id or 0)
        if ids.ndim == 2:
            ids, mask = ids.unsqueeze(1), mask.unsqueeze(1)
        return ids, mask.bool()

    def _is_gene(self, ids):
        genes = ids != (self.config.cell_config.pad_token_id or 0)
        for special in (self.config.cell_cls_token_id, self.config.cell_eos_token_id):
            if special is not None:
                genes = genes & (ids != special)
        return genes

    def get_placeholder_mask(self, input_ids, inputs_embeds, cell_embeds, n_cells=None):
        """Find the placeholders, and raise where a row's placeholders and cells do not match.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): Text tokens; without them the
                placeholders are found in `inputs_embeds`.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, text_hidden)`): Text embeddings.
            cell_embeds (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`): Cells.
            n_cells (`torch.LongTensor` of shape `(batch,)`, *optional*): Cells of each row; as many as its
                placeholders call for when left out.

        Returns:
            `torch.BoolTensor` of shape `(batch, length)`.
        """
        mask = self._is_placeholder(input_ids, inputs_embeds)
        found, (slots, per_cell) = mask.sum(-1), cell_embeds.shape[1:3]
        expected = found // per_cell if n_cells is None else n_cells.to(found.device)

        def message():
            counts = f"{found.sum().item()} <cell> tokens but {expected.sum().item()} cells x {per_cell} features"
            rows = (found != expected * per_cell).nonzero().flatten().tolist() or (
                expected > slots
            ).nonzero().flatten().tolist()
            return (
                f"{counts} ({expected.sum().item() * per_cell}); at most {slots} cells a row; rows that differ: "
                f"{rows}. "
                f"Did max_length cut the prompt, or do the prompts hold another number of cells?"
            )

        torch_compilable_check((found == expected * per_cell).all() & (expected <= slots).all(), message)
        return mask

    def _is_placeholder(self, input_ids, inputs_embeds):
        if input_ids is not None:
            return input_ids == self.config.cell_token_id
        token = torch.full((), self.config.cell_token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def _noisy(self, cell_embeds):
        largest = torch.rand(*cell_embeds.shape[:2], 1, 1, device=cell_embeds.device) * self.config.cell_feature_noise
        size = cell_embeds.detach().float().square().mean((-1, -2), keepdim=True).sqrt()
        return cell_embeds + (largest * size * torch.randn_like(cell_embeds, dtype=torch.float32)).to(cell_embeds.dtype)

    def _fill_placeholders(self, input_ids, inputs_embeds, cell_embeds, cell_attention_mask):
        n_cells = None if cell_attention_mask is None else cell_attention_mask.any(-1).sum(-1)
        mask = self.get_placeholder_mask(input_ids, inputs_embeds, cell_embeds, n_cells)
        features = cell_embeds.flatten(1, 2).to(inputs_embeds.device, inputs_embeds.dtype)
        # The n-th placeholder of a row takes its n-th feature. A gather keeps every shape static and never lets a
        # feature slip into the next row, as a `masked_scatter` over the batch would where rows hold unequal cells.
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
            cell_input_ids, cell_attention_mask = self._as_cell_batch(cell_input_ids, cell_attention_mask)
            cell_embeds = self.get_cell_features(
                cell_input_ids, cell_attention_mask, cell_states, concept_overrides
            ).pooler_output
        if cell_embeds is not None:
            if self.training and self.config.cell_feature_noise > 0:
                cell_embeds = self._noisy(cell_embeds)
            inputs_embeds = self._fill_placeholders(input_ids, inputs_embeds, cell_embeds, cell_attention_mask)
        elif input_ids is not None and not has_cache(kwargs):
            self.check_no_placeholders(input_ids)

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **kwargs,
        )
        return Cell2TextModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME, None)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cell_hidden_states=cell_embeds,
        )

    def check_no_placeholders(self, input_ids):
        """Raise if a text without cells holds placeholders."""
        placeholders = input_ids == self.config.cell_token_id
        torch_compilable_check(
            ~placeholders.any(),
            lambda: (
                f"{placeholders.sum().item()} <cell> tokens but 0 cells: pass cell_input_ids, or leave the "
                "placeholders "
                f"out of the prompt."
            ),
        )


class Cell2TextForConditionalGeneration(Cell2TextPreTrainedModel, GenerationMixin):
    """A language model that reads single cells. Every Auto class loads this one."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: Cell2TextConfig):
        super().__init__(config)
        self.model = Cell2TextModel(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=config.lm_head_bias
        )
        embedding = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embedding)  # `wte` in GPT-2
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()

    @classmethod
    def from_components(
        cls,
        cell_encoder,
        language_model,
        processor,
        *,
        dtype: torch.dtype | None = None,
        cell_encoder_kwargs: dict | None = None,
        language_model_kwargs: dict | None = None,
        **config,
    ) -> "Cell2TextForConditionalGeneration":
        """Assemble a model around an encoder and a language model that exist.

        Args:
            cell_encoder (`str`, `PathLike`, `PreTrainedModel` or `PreTrainedConfig`):
                Folder, Hub id or module of a pretrained encoder, which stays frozen; or a configuration, for a fresh
                encoder that trains.
            language_model (`str`, `PathLike`, `PreTrainedModel` or `PreTrainedConfig`):
                The same for any `AutoModelForCausalLM`. A module that is passed becomes part of the new model.
            processor (`Cell2TextProcessor`):
                Brings the placeholder token, the number of features a cell, and the gene vocabulary's special tokens.
            dtype (`torch.dtype`, *optional*):
                Precision of all parts; the language model's own when left out.
            cell_encoder_kwargs, language_model_kwargs (`dict`, *optional*):
                Passed to `from_pretrained` (`subfolder`, `revision`, `token`, `trust_remote_code`, `gguf_file`, ...).
            **config:
                Fields of [`Cell2TextConfig`], such as `projector_type`.

        Raises:
            ValueError: If the encoder cannot hold the vocabulary or its longest cell, or if the language model's head
                is more than a linear layer with an optional soft cap.
        """
        fresh_encoder = isinstance(cell_encoder, PreTrainedConfig)
        language_model = load_component(AutoModelForCausalLM, language_model, dtype, language_model_kwargs).eval()
        dtype = dtype or language_model.dtype
        cell_encoder = load_component(AutoModel, cell_encoder, dtype, cell_encoder_kwargs).to(dtype)
        drop_pooler(cell_encoder)
        check_encoder_fits(cell_encoder.config, processor)
        head, embedding = language_model.get_output_embeddings(), language_model.get_input_embeddings()
        sample = torch.arange(8, device=language_model.device).unsqueeze(0)
        with torch.no_grad():
            expected = language_model(input_ids=sample).logits
            word_scale = embedding(sample).float().pow(2).mean().sqrt()
        text_config = language_model.config.get_text_config(decoder=True)
        text_config.tie_word_embeddings = head.weight is embedding.weight
        attention = {
            "cell_config": cell_encoder.config._attn_implementation,
            "text_config": text_config._attn_implementation,
        }
        defaults = {"freeze_cell_encoder": not fresh_encoder, "cell_feature_layer": -1 if fresh_encoder else -2}
        model_config = Cell2TextConfig(
            cell_config=cell_encoder.config,
            text_config=text_config,
            cell_token_id=processor.cell_token_id,
            num_cell_tokens=processor.num_cell_tokens,
            cell_cls_token_id=processor.gene_vocabulary.cls_token_id,
            cell_eos_token_id=processor.gene_vocabulary.eos_token_id,
            lm_head_bias=head.bias is not None,
            attn_implementation=attention,
            dtype=dtype,
            **{**defaults, **config},
        )
        with torch.device("meta"):
            model = cls(model_config)
        model.model.cell_encoder = cell_encoder
        model.model.language_model = language_model.get_decoder()
        model.lm_head = head
        projector = model.model.projector.to_empty(device=language_model.device).to(dtype)
        projector.apply(model._init_weights)
        nn.init.constant_(projector.output_norm.weight, word_scale.item())  # cells start at the scale of words
        model.tie_weights()
        model.model.freeze_cell_encoder(model_config.freeze_cell_encoder)
        model.eval()
        check_same_answers(model, language_model, sample, expected)
        if len(processor.tokenizer) > embedding.weight.shape[0]:
            model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
        model.generation_config = language_model.generation_config
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        suppressed = [*(model.generation_config.suppress_tokens or []), processor.cell_token_id]
        model.generation_config.suppress_tokens = suppressed
        return model

    def get_output_embeddings(self):
        return self.lm_head

    def get_cell_features(self, cell_input_ids, cell_attention_mask=None, **kwargs: Unpack[TransformersKwargs]):
        """See [`Cell2TextModel.get_cell_features`]."""
        return self.model.get_cell_features(cell_input_ids, cell_attention_mask, **kwargs)

    def get_cell_concepts(self, cell_input_ids, cell_attention_mask=None):
        """See [`Cell2TextModel.get_cell_concepts`]."""
        return self.model.get_cell_concepts(cell_input_ids, cell_attention_mask)

    def encode_concepts(self, **names):
        """See [`Cell2TextModel.encode_concepts`]."""
        return self.model.encode_concepts(**names)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The language model's head on states of shape `(..., text_hidden)`."""
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
        """Score the next text tokens, given text and the cells it holds.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Text tokens, `num_cell_tokens` placeholders for every cell among them. Or pass `inputs_embeds`.
            cell_input_ids (`torch.LongTensor` of shape `(batch, n_cells, n_genes)`, *optional*):
                Gene tokens of the cells, in the order of their placeholders.
            cell_attention_mask (`torch.Tensor` of the same shape, *optional*):
                1 for gene tokens, 0 for padding. A slot of zeros is no cell; a cell without genes keeps a 1 on its
                first position.
            cell_states (`torch.FloatTensor` of shape `(batch, n_cells, n_genes, cell_hidden)`, *optional*):
                A frozen encoder's states of the gene tokens, kept from before, so that it is not run again.
            concept_overrides (`torch.FloatTensor` of shape `(batch, n_cells, n_concepts)`, *optional*):
                What is known of the cells beforehand: the `cell_concepts` of all groups, which stand in the order of
                their names, from 0 to 1 and NaN where unknown. It stands in for what the projector would tell.
            cell_embeds (`torch.FloatTensor` of shape `(batch, n_cells, num_cell_tokens, text_hidden)`, *optional*):
                Features of the cells, in place of `cell_input_ids`.
            cache (`Cache`, *optional*):
                Keys and values of the tokens before these. Its older name `past_key_values` works, too.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*):
                Text tokens to learn; -100 is left out of the loss.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Last positions to score, 0 for all.

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
        """`GenerationMixin.generate`, with the cells encoded once instead of once a step and beam.

        Raises:
            ValueError: If placeholders and cells do not match in number.
        """
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if kwargs.get("cell_input_ids") is not None and kwargs.get("cell_embeds") is None:
            cells, mask = self.model._as_cell_batch(kwargs.pop("cell_input_ids"), kwargs.get("cell_attention_mask"))
            with torch.no_grad():
                known = kwargs.pop("concept_overrides", None)
                features = self.get_cell_features(cells, mask, concept_overrides=known).pooler_output
            kwargs.update(cell_embeds=features, cell_attention_mask=mask)
        if kwargs.get("cell_embeds") is None and ids is not None and not has_cache(kwargs):
            self.model.check_no_placeholders(ids)
        return super().generate(inputs, *args, **kwargs)


def has_cache(kwargs) -> bool:
    """Whether arguments of `forward` or `generate` hold a cache, under its newer or its older name."""
    return any(kwargs.get(name) is not None for name in ("cache", "past_key_values"))


def load_component(auto_class, source, dtype, load_kwargs):
    """A model from a module, a configuration (fresh weights), a folder or a Hub id."""
    if isinstance(source, PreTrainedModel):
        return source if dtype is None else source.to(dtype)
    if isinstance(source, PreTrainedConfig):
        return auto_class.from_config(source, **({} if dtype is None else {"dtype": dtype}))
    return auto_class.from_pretrained(source, **{"dtype": dtype or "auto", **(load_kwargs or {})})


def drop_pooler(cell_encoder):
    """BERT's pooler reads one state that Cell2Text never uses: its weights would only be dead freight."""
    if getattr(cell_encoder, "pooler", None) is not None:
        cell_encoder.pooler = None


def check_same_answers(model, language_model, sample, expected):
    """Raise unless the assembled model's logits for a text without cells are the language model's own."""
    with torch.no_grad():
        found = model.compute_logits(model.model.language_model(input_ids=sample).last_hidden_state)
    if not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
        raise UserError(
            f"{type(language_model).__name__} scales or shifts its logits in a way that Cell2Text does not reproduce "
            f"(largest difference {(found - expected).abs().max().item():.3g}). Use a language model whose head is a "
            "linear layer, such as Llama, Gemma, Qwen or SmolLM."
        )


def check_encoder_fits(encoder_config, processor):
    size, tokens = encoder_config.vocab_size, len(processor.gene_vocabulary)
    if tokens > size:
        raise UserError(
            f"The gene vocabulary has {tokens:,} tokens but the cell encoder only {size:,} embeddings: they do not "
            "belong "
            f"together. Geneformer V1 has 25,426 tokens, V2 20,275; pass the vocabulary of the encoder's generation."
        )
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if positions is not None and processor.max_genes > positions:
        raise UserError(
            f"max_genes={processor.max_genes} but the cell encoder has {positions} positions: pass "
            f"max_genes={positions} "
            f"to the processor."
        )


# Saving then always ships the code, from a Trainer's checkpoints too.
Cell2TextForConditionalGeneration.register_for_auto_class("AutoModel")
Cell2TextModel.register_for_auto_class("AutoModel")

__all__ = ["Cell2TextForConditionalGeneration", "Cell2TextModel", "Cell2TextPreTrainedModel"]
