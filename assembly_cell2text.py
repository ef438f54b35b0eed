"""Assemble a model from a pretrained cell encoder, a pretrained language model and a processor.

Called by `Cell2TextForConditionalGeneration.from_components`, which documents the arguments. Depends on the
configuration; the model class is an argument, so this file does not import the modeling file.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


try:
    from .configuration_cell2text import Cell2TextConfig, count_parameters
except ImportError:
    from configuration_cell2text import Cell2TextConfig, count_parameters

try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


SMALL_MODEL_PARAMETERS = 100_000_000  # allocating so many weights harms nobody
PARAMETERS_PER_BYTE = 8  # of a weight file, at most: more than any quantization stores
LOGIT_TOLERANCE = 1e-2  # absolute and relative; leaves room for bfloat16


def assemble(
    model_class,
    cell_encoder,
    language_model,
    processor,
    *,
    dtype: torch.dtype | None = None,
    cell_encoder_kwargs: dict | None = None,
    language_model_kwargs: dict | None = None,
    **config,
):
    """Build a `model_class` around an encoder and a language model; see `from_components` for the arguments."""
    fresh_encoder = isinstance(cell_encoder, PreTrainedConfig)
    language_model = _load_component(AutoModelForCausalLM, language_model, dtype, language_model_kwargs).eval()
    dtype = dtype or language_model.dtype
    cell_encoder = _load_component(AutoModel, cell_encoder, dtype, cell_encoder_kwargs).to(dtype)
    drop_pooler(cell_encoder)
    check_encoder_fits(cell_encoder.config, processor)
    sample = torch.arange(8, device=language_model.device).unsqueeze(0)
    with torch.no_grad():
        expected_logits = language_model(input_ids=sample).logits
        word_scale = language_model.get_input_embeddings()(sample).float().pow(2).mean().sqrt().item()
    defaults = {"freeze_cell_encoder": not fresh_encoder, "cell_feature_layer": -1 if fresh_encoder else -2}
    model_config = _make_config(cell_encoder, language_model, processor, dtype=dtype, **{**defaults, **config})
    model = _connect(model_class, model_config, cell_encoder, language_model)
    nn.init.constant_(model.model.projector.output_norm.weight, word_scale)  # cells start at the scale of words
    _check_logits_kept(model, language_model, sample, expected_logits)
    if len(processor.tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.generation_config = language_model.generation_config
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    suppressed = [*(model.generation_config.suppress_tokens or []), processor.cell_token_id]
    model.generation_config.suppress_tokens = suppressed
    return model


def _load_component(auto_class, source, dtype, load_kwargs):
    """Return a model from a module, a configuration (random weights), a folder or a Hub id."""
    if isinstance(source, PreTrainedModel):
        return source if dtype is None else source.to(dtype)
    if isinstance(source, PreTrainedConfig):
        return auto_class.from_config(source, **({} if dtype is None else {"dtype": dtype}))
    return auto_class.from_pretrained(source, **{"dtype": dtype or "auto", **(load_kwargs or {})})


def _make_config(cell_encoder, language_model, processor, **config) -> Cell2TextConfig:
    head, embedding = language_model.get_output_embeddings(), language_model.get_input_embeddings()
    text_config = language_model.config.get_text_config(decoder=True)
    text_config.tie_word_embeddings = head.weight is embedding.weight
    attention = {
        "cell_config": cell_encoder.config._attn_implementation,
        "text_config": text_config._attn_implementation,
    }
    return Cell2TextConfig(
        cell_config=cell_encoder.config,
        text_config=text_config,
        cell_token_id=processor.cell_token_id,
        num_cell_tokens=processor.num_cell_tokens,
        cell_cls_token_id=processor.gene_vocabulary.cls_token_id,
        cell_eos_token_id=processor.gene_vocabulary.eos_token_id,
        lm_head_bias=head.bias is not None,
        attn_implementation=attention,
        **config,
    )


def _connect(model_class, config, cell_encoder, language_model):
    """Put existing modules into a new model, whose projector alone gets random weights."""
    with torch.device("meta"):
        model = model_class(config)
    model.model.cell_encoder = cell_encoder
    model.model.language_model = language_model.get_decoder()
    model.lm_head = language_model.get_output_embeddings()
    model.model.projector.to_empty(device=language_model.device).to(config.dtype).apply(model._init_weights)
    model.tie_weights()
    model.model.freeze_cell_encoder(config.freeze_cell_encoder)
    return model.eval()


def drop_pooler(cell_encoder) -> None:
    """Remove BERT's pooler, whose weights would be saved without being used."""
    if getattr(cell_encoder, "pooler", None) is not None:
        cell_encoder.pooler = None


def check_encoder_fits(encoder_config, processor) -> None:
    """Raise `UserError` unless the encoder can hold the processor's gene vocabulary and its longest cell."""
    size, tokens = encoder_config.vocab_size, len(processor.gene_vocabulary)
    if tokens > size:
        raise UserError(
            f"The gene vocabulary has {tokens:,} tokens but the cell encoder only {size:,} embeddings: they do not "
            "belong together. Geneformer V1 has 25,426 tokens, V2 20,275; pass the vocabulary of the encoder's "
            "generation."
        )
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if positions is not None and processor.max_genes > positions:
        raise UserError(
            f"max_genes={processor.max_genes} but the cell encoder has {positions} positions: pass "
            f"max_genes={positions} to the processor."
        )


def _check_logits_kept(model, language_model, sample, expected) -> None:
    """Raise `UserError` unless the new model scores text without cells as its language model does."""
    with torch.no_grad():
        found = model.compute_logits(model.model.language_model(input_ids=sample).last_hidden_state)
    if not torch.allclose(found, expected, rtol=LOGIT_TOLERANCE, atol=LOGIT_TOLERANCE):
        raise UserError(
            f"{type(language_model).__name__} scales or shifts its logits in a way that Cell2Text does not reproduce "
            f"(largest difference {(found - expected).abs().max().item():.3g}). Use a language model whose head is a "
            "linear layer, such as Llama, Gemma, Qwen or SmolLM."
        )


def check_weights_fit(folder, config) -> None:
    """Raise `UserError` if the weight files of a folder are far too small for a configuration.

    transformers would allocate the weights that the files lack before their absence is noticed.

    Args:
        folder (`str` or `PathLike`): Folder of the model; anything else, such as a Hub id, is accepted.
        config (`Cell2TextConfig`): The configuration.
    """
    stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    needed = count_parameters(config)
    if stored and needed > max(SMALL_MODEL_PARAMETERS, PARAMETERS_PER_BYTE * stored):
        raise UserError(
            f"model={str(folder)!r}: config.json describes a model of about {needed:,} parameters, but the weights "
            f"have {stored:,} bytes. It is damaged, or its config.json belongs to another model. Save or download it "
            "again."
        )


def check_loaded(model, report: dict, *, allow_mismatched: bool = False):
    """Raise unless every weight of a model was loaded and is finite.

    transformers fills weights that a file lacks with random numbers, and a model with such weights writes texts as if
    nothing were wrong.

    Args:
        model (`PreTrainedModel`): The loaded model.
        report (`dict`): What `from_pretrained` returns for `output_loading_info=True`.
        allow_mismatched (`bool`): Accept weights of another shape, as `ignore_mismatched_sizes=True` asks for.

    Raises:
        UserError: If weights are missing, unexpected, of another shape, or not finite.
    """
    name = model.config._name_or_path
    kinds = {"missing_keys": "lacks", "unexpected_keys": "has unknown"}
    if not allow_mismatched:
        kinds["mismatched_keys"] = "has misshapen"
    for key, words in kinds.items():
        found = sorted(str(weight) for weight in report.get(key) or ())
        if found:
            raise UserError(
                f"model={name!r} {words} weights ({len(found)}, first: {found[0]}). It is damaged, or its config.json "
                "belongs to another model. Save or download it again."
            )
    for weight, values in model.named_parameters():
        if values.is_floating_point() and not values.is_meta and not bool(values.isfinite().all()):
            raise UserError(
                f"model={name!r} has weights that are not finite numbers (first: {weight}). It is damaged, or its "
                "training diverged."
            )


__all__ = ["assemble", "check_encoder_fits", "check_loaded", "check_weights_fit", "drop_pooler"]
