"""The steps of `train_grpo.py`: load, train, finish."""

import logging
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from trl import GRPOConfig, ModelConfig, get_peft_config

import cell2text  # noqa: F401  registers the Auto classes
from cell2text.errors import UserError
from cell2text.loading import check_model_folder
from cell2text.models import MINI
from cell2text.publish import push
from cell2text.training.arguments import ReinforcementArguments
from cell2text.training.checkpoints import find_checkpoint
from cell2text.training.freezing import lora_pattern
from cell2text.training.grpo_trainer import Cell2TextGRPOTrainer
from cell2text.training.held_out import describe_held_out
from cell2text.training.launch import destroy_process_group
from cell2text.training.learning_rates import MODEL_PARTS
from cell2text.training.model_card import write_reinforcement_card
from cell2text.training.rewarded_rows import pathway_names, rewarded_rows
from cell2text.training.rewards import text_rewards
from cell2text.training.rows import TrainingRows, check_vocabulary, load_rows
from cell2text.training.saving import save_final
from cell2text.training.threads import set_cpu_threads
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


logger = logging.getLogger(__name__)


@dataclass
class GRPORun:
    """Options and parts of a run.

    Parameters
    ----------
    checkpoint
        Checkpoint to resume; None starts from the beginning.
    start
        Folder or Hub id of the model that the run starts from.
    train_rows, validation_rows
        Rows as the trainer reads them; no validation rows if the run does not evaluate.
    publish
        Whether to push the finished folder to the Hub.
    """

    args: ReinforcementArguments
    training_args: GRPOConfig
    model_args: ModelConfig
    checkpoint: str | None
    start: str
    rows: TrainingRows
    train_rows: Dataset
    validation_rows: Dataset | None
    model: Cell2TextForConditionalGeneration
    processor: Cell2TextProcessor
    publish: bool


def load(args: ReinforcementArguments, training_args: GRPOConfig, model_args: ModelConfig) -> GRPORun:
    """Find the checkpoint to resume, and load the model, the rows and what their rewards need.

    Raises
    ------
    UserError
        If the model is not a Cell2Text model, a reward lacks its labels, or an evaluation lacks validation rows.
    """
    from transformers import set_seed

    output_dir = str(training_args.output_dir)
    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, output_dir)
    set_cpu_threads(args.cpu_threads, checkpoint if training_args.device.type == "cpu" else None)
    set_seed(training_args.seed)
    publish, training_args.push_to_hub = training_args.push_to_hub, False  # once, when everything is saved: see finish
    check_model_folder(model_args.model_name_or_path)
    start = model_args.model_name_or_path or str(MINI)
    model, processor = _load_model(start, model_args)
    args.gene_vocab = args.gene_vocab or start
    with training_args.main_process_first(desc="preparing the data"):
        rows = load_rows(args, output_dir, prepares=training_args.local_process_index == 0)
    check_vocabulary(rows, args, processor.gene_vocabulary)
    evaluates = training_args.eval_strategy != "no"
    if evaluates and rows.validation is None:
        raise UserError("eval_strategy needs validation rows: set validation_share, or eval_strategy=no.")
    weights = args.reward_weights
    return GRPORun(
        args, training_args, model_args, checkpoint, start, rows,
        train_rows=rewarded_rows(rows.train, processor, weights),
        validation_rows=rewarded_rows(rows.validation, processor, weights) if evaluates else None,
        model=model, processor=processor, publish=publish,
    )  # fmt: skip


def _load_model(start: str, model_args: ModelConfig) -> tuple[Cell2TextForConditionalGeneration, Cell2TextProcessor]:
    import torch

    dtype = "auto" if model_args.dtype in (None, "auto") else getattr(torch, model_args.dtype)
    model = Cell2TextForConditionalGeneration.from_pretrained(
        start,
        revision=model_args.model_revision,
        dtype=dtype,
        attn_implementation=model_args.attn_implementation,
    )
    if model.config.concepts.hierarchical:
        logger.warning(
            "The concepts of this model decide the cell type, the likely subtype and the pathways that `describe` "
            "states, and texts do not train concepts. This run changes only how the language model writes."
        )
    return model, Cell2TextProcessor.from_pretrained(start, revision=model_args.model_revision)


def make_trainer(run: GRPORun) -> Cell2TextGRPOTrainer:
    """Return the trainer of a run, with the rewards whose weight is above 0.

    Raises
    ------
    UserError
        If TRL's `reward_weights` are set as well.
    """
    args, training_args, model_args = run.args, run.training_args, run.model_args
    if training_args.reward_weights is not None:
        raise UserError(
            "reward_weights depends on the order of the rewards: omit it, and set type_reward_weight, "
            "calibration_reward_weight and pathway_reward_weight."
        )
    weights = args.reward_weights
    training_args.reward_weights = list(weights.values())
    rewards = text_rewards(pathway_names(run.rows))
    rates = {part: getattr(args, f"{part.removeprefix('cell_')}_learning_rate") for part in MODEL_PARTS}
    if rates["cell_encoder"] != 0:
        run.model.model.freeze_cell_encoder(False)
    if model_args.use_peft:
        model_args.lora_target_modules = model_args.lora_target_modules or lora_pattern(run.model)  # type: ignore[assignment]
        model_args.lora_modules_to_save = model_args.lora_modules_to_save or ["projector"]
    return Cell2TextGRPOTrainer(
        model=run.model,
        reward_funcs=[rewards[name] for name in weights],
        args=training_args,
        train_dataset=run.train_rows,
        eval_dataset=run.validation_rows,
        processing_class=run.processor,
        peft_config=get_peft_config(model_args) if model_args.use_peft else None,
        learning_rates=rates,
    )


def train(run: GRPORun) -> Cell2TextGRPOTrainer:
    """Train from the start, or from the checkpoint of the run."""
    trainer = make_trainer(run)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    return trainer


def finish(run: GRPORun, trainer: Cell2TextGRPOTrainer) -> None:
    """Save the model, describe and evaluate the held-out cells, write the model card, and publish."""
    trained = save_final(trainer, run.processor)
    destroy_process_group(trainer)
    if trained is None:  # this is not the main rank
        return
    args, training_args = run.args, run.training_args
    output_dir, metrics = Path(str(training_args.output_dir)), None
    if args.describe_held_out:
        options = {"batch_size": args.description_batch_size, "seed": training_args.seed}
        metrics = describe_held_out(trained, run.processor, run.rows, args, str(output_dir), **options)
    write_reinforcement_card(str(output_dir), trained, args, training_args, run.model_args, run.rows, metrics)
    if run.publish:
        repository = training_args.hub_model_id or output_dir.resolve().name
        print(push(output_dir, repository, private=bool(training_args.hub_private_repo)))
