"""Fine-tune Cell2Text with TRL's SFTTrainer.

    accelerate launch train_sft.py                                           # the embedded default, minutes on CPU
    accelerate launch train_sft.py --config configs/NAME.yaml [--key value]  # anything else

Parses, prepares or loads rows, trains, saves, describes the held-out cells. `cell2text.training` holds the parts.
"""

import copy
import json
import sys
from dataclasses import asdict
from pathlib import Path

from transformers import EarlyStoppingCallback, set_seed
from trl import ModelConfig, SFTConfig, TrlParser, get_peft_config

import cell2text  # noqa: F401  registers the Auto classes
from cell2text.errors import UserError
from cell2text.files import write_atomically
from cell2text.preparation.gene_sets import load_gene_sets
from cell2text.publish import push
from cell2text.training.arguments import Cell2TextArguments
from cell2text.training.augmentation import cell_augmentation, install_gene_hooks, install_projector_hooks
from cell2text.training.checkpoints import find_checkpoint
from cell2text.training.class_balance import row_weights
from cell2text.training.components import load_components
from cell2text.training.concept_pretraining import CONCEPT_PRETRAINING, pretrain_concepts
from cell2text.training.concept_targets import CellConcepts, ConceptAugmentation, TrainingConceptOverrides
from cell2text.training.freezing import apply_stage, use_liger_kernels
from cell2text.training.gene_embeddings import freeze_gene_embeddings, initialise_gene_embeddings
from cell2text.training.held_out import describe_held_out
from cell2text.training.launch import destroy_process_group, run, use_threads
from cell2text.training.memory import advice, is_out_of_memory
from cell2text.training.model_card import write_model_card
from cell2text.training.preflight import preflight
from cell2text.training.rows import TrainingRows, check_vocabulary, load_rows
from cell2text.training.saving import save_base, save_final
from cell2text.training.state_cache import CellStateCache, keep_cell_states
from cell2text.training.trainer import PARTS, Cell2TextTrainer, TrainingCollator
from cell2text.training.validation import check_metric, check_validation, sample_validation_cells


PROJECT = Path(__file__).resolve().parent
OPTIONS = (Cell2TextArguments, SFTConfig, ModelConfig)
DEFAULT_CONFIG = PROJECT / "configs" / "default.yaml"


def main(args: Cell2TextArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    use_threads(args.cpu_threads)
    set_seed(training_args.seed)
    output_dir = str(training_args.output_dir)
    publish, training_args.push_to_hub = training_args.push_to_hub, False  # once, when all is there: see the end
    resume = find_checkpoint(training_args.resume_from_checkpoint, output_dir)
    base, parts_args = Path(output_dir, "base"), copy.copy(model_args)
    if resume and base.exists():  # an adapter's checkpoint holds the adapter alone
        parts_args.model_name_or_path = str(base)

    with training_args.main_process_first(desc="preparing the data"):
        rows = load_rows(args, output_dir, prepares=training_args.local_process_index == 0)
    check_validation(args, training_args, rows)
    model, processor = load_components(args, parts_args, rows)
    check_vocabulary(rows, args, processor.gene_vocabulary)
    install_gene_hooks(model, cell_augmentation(args, rows.train, processor.gene_vocabulary))
    weights = row_weights(rows.train, args.class_balance) if args.class_balance else None
    if args.gene_embeddings != "random":
        if not resume:
            training_cells = [cells[0] for cells in rows.train["cells"]]
            gene_sets = load_gene_sets(args.gene_sets) if args.gene_embeddings == "svd_sets" else None
            initialise_gene_embeddings(model, processor, training_cells, seed=training_args.seed, gene_sets=gene_sets)
        freeze_gene_embeddings(model)
    if args.concept_pretraining_epochs > 0 and not resume:
        learned = pretrain_concepts(
            model,
            processor,
            rows.train,
            training_args,
            epochs=args.concept_pretraining_epochs,
            learning_rate=args.concept_pretraining_learning_rate,
            weights=weights,
            held_out=rows.held_out if args.describe_held_out else None,
            augment=args.augment_concept_pretraining,
        )
        if training_args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(output_dir, CONCEPT_PRETRAINING), json.dumps(asdict(learned), indent=1) + "\n")
    stage = apply_stage(model, args, model_args)
    if training_args.use_liger_kernel:
        training_args.use_liger_kernel = False  # the Trainer would look for kernels of the whole, and find none
        use_liger_kernels(model, training_args.liger_kernel_config)
    caches = {}
    if args.cache_cell_states:
        with training_args.main_process_first(desc="encoding the cells"):
            builds = training_args.local_process_index == 0
            caches = keep_cell_states(model, processor, rows, args, output_dir, builds=builds)
    if stage == "lora" and not resume:
        save_base(model, processor, model_args, base, training_args)

    trainer = make_trainer(model, processor, rows, caches, weights, args, training_args, model_args)
    preflight(trainer, rows, processor, resume)
    try:
        trainer.train(resume_from_checkpoint=resume)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise MemoryError(advice(model, trainer.batch_shapes, args, training_args, model_args)) from error
        raise
    trained = save_final(trainer, processor)
    destroy_process_group(trainer)
    if trained is None:
        return
    metrics = None
    if args.describe_held_out:
        metrics = describe_held_out(trained, processor, rows, args, output_dir, seed=training_args.seed)
    write_model_card(output_dir, trained, args, training_args, model_args, rows, metrics)
    if publish:
        repository = training_args.hub_model_id or Path(output_dir).resolve().name
        print(push(Path(output_dir), repository, private=bool(training_args.hub_private_repo)))


def make_trainer(
    model, processor, rows: TrainingRows, caches: dict[str, CellStateCache], weights, args: Cell2TextArguments,
    training_args: SFTConfig, model_args: ModelConfig,
) -> Cell2TextTrainer:  # fmt: skip
    if weights is not None and training_args.train_sampling_strategy != "random":
        raise UserError(
            f"class_balance draws rows by itself: not with train_sampling_strategy="
            f"{training_args.train_sampling_strategy}."
        )
    patience = args.early_stopping_patience
    evaluated = rows.held_out if rows.validation is None else rows.validation
    concept_overrides = augment_concepts = None
    if model.config.projector_type == "concepts":  # the rows that are asked for in the end are unknown to it
        concepts = CellConcepts(model.config.cell_concepts)
        concept_overrides = TrainingConceptOverrides(concepts, rows.train)
        augment_concepts = ConceptAugmentation(model.config.concept_groups)
    install_projector_hooks(model, augment_concepts)
    trainer = Cell2TextTrainer(
        model=model,
        args=training_args,
        train_dataset=rows.train,
        eval_dataset=evaluated if training_args.eval_strategy != "no" else None,
        processing_class=processor,
        peft_config=get_peft_config(model_args) if model_args.use_peft else None,
        data_collator=TrainingCollator(processor, caches=caches, concept_overrides=concept_overrides),
        learning_rates={part: getattr(args, f"{part.removeprefix('cell_')}_learning_rate") for part in PARTS},
        max_loss_jump=args.max_loss_jump,
        row_weights=weights,
        callbacks=[EarlyStoppingCallback(patience)] if patience is not None else None,
    )
    if args.describe_validation and training_args.eval_strategy != "no":
        chosen = sample_validation_cells(rows.validation, args.describe_validation, training_args.seed)
        check_metric(chosen, training_args.metric_for_best_model)
        trainer.describe_at_evaluation(
            chosen, batch_size=args.generation_batch_size, max_new_tokens=args.max_new_tokens
        )
    return trainer


def parse_arguments(argv: list[str]) -> tuple[Cell2TextArguments, SFTConfig, ModelConfig]:
    parser = TrlParser(OPTIONS)  # type: ignore[arg-type]
    return parser.parse_args_and_config(argv or ["--config", str(DEFAULT_CONFIG)])  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(run("train_sft.py", lambda: main(*parse_arguments(sys.argv[1:])), OPTIONS))
