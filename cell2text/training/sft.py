"""The steps of `train_sft.py`: load, initialise, freeze, train, finish."""

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from transformers import EarlyStoppingCallback, set_seed
from trl import ModelConfig, SFTConfig, get_peft_config

import cell2text  # noqa: F401  registers the Auto classes
from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.publish import push
from cell2text.signatures.gene_sets import load_gene_sets
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.augmentation import cell_augmentation, install_gene_hooks, install_projector_hooks
from cell2text.training.checkpoints import find_checkpoint
from cell2text.training.class_balance import training_weights
from cell2text.training.components import load_components
from cell2text.training.concept_pretraining import CONCEPT_PRETRAINING_FILE, pretrain_concepts
from cell2text.training.concept_targets import CellConcepts, ConceptAugmentation, TrainingConceptOverrides
from cell2text.training.freezing import apply_stage, use_liger_kernels
from cell2text.training.gene_embeddings import (
    freeze_gene_embeddings,
    freeze_positions,
    initialise_gene_embeddings,
    start_from_gene_vectors,
)
from cell2text.training.held_out import describe_held_out
from cell2text.training.launch import destroy_process_group
from cell2text.training.learning_rates import MODEL_PARTS
from cell2text.training.memory import is_out_of_memory, memory_advice
from cell2text.training.model_card import write_model_card
from cell2text.training.own_tasks import add_own_tasks, answer_held_out
from cell2text.training.preflight import preflight
from cell2text.training.rows import TrainingRows, check_vocabulary, load_rows
from cell2text.training.saving import save_base, save_final
from cell2text.training.state_cache import CellStateCache, cache_cell_states
from cell2text.training.threads import set_cpu_threads
from cell2text.training.trainer import Cell2TextTrainer, TrainingCollator
from cell2text.training.validation import check_metric, check_validation, sample_validation_cells
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


@dataclass
class SFTRun:
    """Options and parts of a run.

    Parameters
    ----------
    checkpoint
        Checkpoint to resume; None starts from the beginning.
    row_weights
        Sampling weight per training row, shape (n_rows,); None samples every row once per epoch.
    publish
        Whether to push the finished folder to the Hub.
    caches
        Stored encoder states per split; empty if the encoder runs in every step.
    """

    args: Cell2TextArguments
    training_args: SFTConfig
    model_args: ModelConfig
    checkpoint: str | None
    rows: TrainingRows
    model: Cell2TextForConditionalGeneration
    processor: Cell2TextProcessor
    row_weights: np.ndarray | None
    publish: bool
    caches: dict[str, CellStateCache] = field(default_factory=dict)

    @property
    def output_dir(self) -> Path:
        return Path(str(self.training_args.output_dir))

    @property
    def base_folder(self) -> Path:
        """Folder of the model that a LoRA adapter belongs to."""
        return self.output_dir / "base"


def load(args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig) -> SFTRun:
    """Fix threads and seed, find the checkpoint to resume, and load rows, model and processor."""
    output_dir = str(training_args.output_dir)
    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, output_dir)
    set_cpu_threads(args.cpu_threads, checkpoint if training_args.device.type == "cpu" else None)
    set_seed(training_args.seed)
    publish, training_args.push_to_hub = training_args.push_to_hub, False  # once, when everything is saved: see finish
    base, source = Path(output_dir, "base"), copy.copy(model_args)
    if checkpoint and base.exists():  # the checkpoint of an adapter holds the adapter alone
        source.model_name_or_path = str(base)
    with training_args.main_process_first(desc="preparing the data"):
        rows = load_rows(args, output_dir, prepares=training_args.local_process_index == 0)
    check_validation(args, training_args, rows)
    model, processor = load_components(args, source, rows)
    add_own_tasks(model, rows)
    check_vocabulary(rows, args, processor.gene_vocabulary)
    weights = training_weights(args, rows.train)
    return SFTRun(args, training_args, model_args, checkpoint, rows, model, processor, weights, publish)


def initialise(run: SFTRun) -> None:
    """Set gene embeddings and augmentation, and pretrain the concepts of a run that starts from the beginning."""
    args, model = run.args, run.model
    install_gene_hooks(model, cell_augmentation(args, run.rows.train, run.processor.gene_vocabulary))
    if args.gene_vectors is not None and not run.checkpoint:
        start_from_gene_vectors(model, run.processor, args.gene_vectors, seed=run.training_args.seed)
    if args.gene_embeddings in ("svd", "svd_sets"):
        if not run.checkpoint:
            cells = [cells[0] for cells in run.rows.train["cells"]]
            gene_sets = load_gene_sets(args.gene_sets) if args.gene_embeddings == "svd_sets" else None
            seed = run.training_args.seed
            initialise_gene_embeddings(model, run.processor, cells, seed=seed, gene_sets=gene_sets)
        freeze_gene_embeddings(model)
    freeze_positions(model)
    if args.concept_pretraining_epochs > 0 and not run.checkpoint:
        result = pretrain_concepts(
            model,
            run.processor,
            run.rows.train,
            run.training_args,
            epochs=args.concept_pretraining_epochs,
            learning_rate=args.concept_pretraining_learning_rate,
            batch_size=args.concept_pretraining_batch_size,
            weights=run.row_weights,
            held_out=run.rows.held_out if args.describe_held_out else None,
            augment=args.augment_concept_pretraining,
        )
        if run.training_args.should_save:
            run.output_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(run.output_dir / CONCEPT_PRETRAINING_FILE, json.dumps(asdict(result), indent=1) + "\n")


def freeze(run: SFTRun) -> None:
    """Freeze what does not train, store a frozen encoder's states, and save the base of an adapter."""
    args, training_args = run.args, run.training_args
    stage = apply_stage(run.model, args, run.model_args)
    if training_args.use_liger_kernel:
        training_args.use_liger_kernel = False  # the Trainer would look for kernels of the whole model and find none
        use_liger_kernels(run.model, training_args.liger_kernel_config)
    if args.cache_cell_states:
        with training_args.main_process_first(desc="encoding the cells"):
            builds = training_args.local_process_index == 0
            run.caches = cache_cell_states(run.model, run.processor, run.rows, args, str(run.output_dir), builds=builds)
    if stage == "lora" and not run.checkpoint:
        save_base(run.model, run.processor, run.model_args, run.base_folder, training_args)


def train(run: SFTRun) -> Cell2TextTrainer:
    """Check the run before its first step, then train.

    Raises
    ------
    MemoryError
        If memory is exhausted; the message says what used it and what to change.
    """
    trainer = make_trainer(run)
    preflight(trainer, run.rows, run.processor, run.checkpoint)
    try:
        trainer.train(resume_from_checkpoint=run.checkpoint)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            advice = memory_advice(run.model, trainer.batch_shapes, run.args, run.training_args, run.model_args)
            raise MemoryError(advice) from error
        raise
    return trainer


def finish(run: SFTRun, trainer: Cell2TextTrainer) -> None:
    """Save the model, describe and evaluate the held-out cells, write the model card, and publish."""
    trained = save_final(trainer, run.processor)
    destroy_process_group(trainer)
    if trained is None:  # this is not the main rank
        return
    args, training_args, output_dir = run.args, run.training_args, str(run.output_dir)
    metrics = None
    if args.describe_held_out:
        options = {"batch_size": args.generation_batch_size, "seed": training_args.seed}
        metrics = describe_held_out(trained, run.processor, run.rows, args, output_dir, **options)
        answer_held_out(trained, run.processor, run.rows, output_dir, seed=training_args.seed)
    write_model_card(output_dir, trained, args, training_args, run.model_args, run.rows, metrics)
    if run.publish:
        repository = training_args.hub_model_id or run.output_dir.resolve().name
        print(push(run.output_dir, repository, private=bool(training_args.hub_private_repo)))


def make_trainer(run: SFTRun) -> Cell2TextTrainer:
    """Return the trainer of a run.

    Raises
    ------
    UserError
        If `class_balance` and `train_sampling_strategy` both choose the rows.
    """
    args, training_args, rows, model = run.args, run.training_args, run.rows, run.model
    if run.row_weights is not None and training_args.train_sampling_strategy != "random":
        raise UserError(
            f"class_balance={args.class_balance} samples the rows: omit train_sampling_strategy="
            f"{training_args.train_sampling_strategy}."
        )
    evaluates = training_args.eval_strategy != "no"
    concept_overrides = augment_concepts = None
    if model.config.projector_type == "concepts":
        concepts = CellConcepts(model.config.cell_concepts)
        concept_overrides = TrainingConceptOverrides(concepts, rows.train)
        if not model.config.concepts.hierarchical:  # statements are crisp and need no softening
            augment_concepts = ConceptAugmentation(model.config.concept_groups)
    install_projector_hooks(model, augment_concepts)
    trainer = Cell2TextTrainer(
        model=model,
        args=training_args,
        train_dataset=rows.train,
        eval_dataset=(rows.held_out if rows.validation is None else rows.validation) if evaluates else None,
        processing_class=run.processor,
        peft_config=get_peft_config(run.model_args) if run.model_args.use_peft else None,
        data_collator=TrainingCollator(run.processor, caches=run.caches, concept_overrides=concept_overrides),
        learning_rates={part: getattr(args, f"{part.removeprefix('cell_')}_learning_rate") for part in MODEL_PARTS},
        max_loss_jump=args.max_loss_jump,
        row_weights=run.row_weights,
        callbacks=_early_stopping(args),
    )
    if args.describe_validation and evaluates:
        sample = sample_validation_cells(rows.validation, args.describe_validation, training_args.seed)
        check_metric(sample, training_args.metric_for_best_model)
        trainer.describe_at_evaluation(
            sample, batch_size=args.generation_batch_size, max_new_tokens=args.max_new_tokens
        )
    return trainer


def _early_stopping(args: Cell2TextArguments) -> list[EarlyStoppingCallback] | None:
    patience = args.early_stopping_patience
    return None if patience is None else [EarlyStoppingCallback(patience)]
