"""Save models so that a killed run or a full disk leaves the files that were there before."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel, get_peft_model
from transformers.initialization import no_init_weights
from trl import ModelConfig

from cell2text.errors import RunStoppedError
from modeling_cell2text import Cell2TextForConditionalGeneration
from processing_cell2text import Cell2TextProcessor


SAVING = ".saving-"
# How the libraries word it that a file could not be written whole.
DISK_WORDS = (
    "No space left",
    "os error 28",
    "File too large",
    "os error 27",
    "Disk quota",
    "unexpected pos",
    "file write",
)


class FullDiskError(RunStoppedError):
    """A file could not be written whole; what was whole before still is."""


@contextmanager
def on_full_disk(folder: Path) -> Iterator[None]:
    """Turn the many errors of a full disk into one that says what to do.

    Raises
    ------
    FullDiskError
        In place of any error that a full disk causes.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        if not full and not any(words in str(error) for words in DISK_WORDS):
            raise
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        raise FullDiskError(
            f"{folder} could not be written whole ({error}); {free / 2**30:.2f} GiB are free. Make room, or lower "
            "--save_total_limit; then go on with --resume_from_checkpoint true, from the last whole checkpoint."
        ) from error


@contextmanager
def saved_whole(folder: Path) -> Iterator[Path]:
    """A folder to save into, whose files then replace those of `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{SAVING}*"):  # by a save that was killed
        shutil.rmtree(left)
    with on_full_disk(folder), tempfile.TemporaryDirectory(prefix=SAVING, dir=folder) as partial:
        yield Path(partial)
        for path in sorted(path for path in Path(partial).rglob("*") if path.is_file()):
            target = folder / path.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def is_sharded(trainer) -> bool:
    """Whether no rank holds the whole model: FSDP, DeepSpeed."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def save_base(model, processor: Cell2TextProcessor, model_args: ModelConfig, folder: Path, training_args) -> None:
    """Save what an adapter is an adapter of, unless it was loaded from a place of its own."""
    found, wanted = model.config._name_or_path, model_args.model_name_or_path
    loaded = found and wanted and Path(found) == Path(wanted)
    if training_args.process_index == 0:
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    if loaded:
        return
    if training_args.process_index == 0:
        with saved_whole(folder) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
    model.config._name_or_path = model.name_or_path = str(folder)


def save_final(trainer, processor: Cell2TextProcessor) -> Cell2TextForConditionalGeneration | None:
    """Save a model that loads with `AutoModel` into the output folder, its adapter beside it.

    All ranks call it, since a sharded model is gathered.

    Returns
    -------
    The whole model, its adapter merged, on the main rank; None on the others.
    """
    model = gathered_model(trainer) if is_sharded(trainer) else trainer.accelerator.unwrap_model(trainer.model)
    if not trainer.accelerator.is_main_process:
        return None
    output_dir = Path(trainer.args.output_dir)
    if isinstance(model, PeftModel):
        with saved_whole(output_dir / "adapter") as folder:
            model.save_pretrained(str(folder))
            processor.save_pretrained(str(folder))
        model = model.merge_and_unload()
    with saved_whole(output_dir) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return model.to(trainer.args.device)


def gathered_model(trainer):
    """The whole of a sharded model on the main rank's CPU, as it was before it was cut; None on the other ranks."""
    state = trainer.accelerator.get_state_dict(trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model)
    if not trainer.accelerator.is_main_process:
        return None
    cut = trainer.accelerator.unwrap_model(trainer.model)
    plain = cut.get_base_model() if isinstance(cut, PeftModel) else cut
    with no_init_weights():
        whole = Cell2TextForConditionalGeneration(plain.config)
    whole.generation_config = plain.generation_config
    whole.name_or_path = plain.name_or_path
    if isinstance(cut, PeftModel):
        whole = get_peft_model(whole, cut.peft_config[cut.active_adapter])
    else:  # sharding made float32 copies of what trains
        state = {name: value.to(plain.config.dtype) for name, value in state.items()}
    whole.load_state_dict(state, assign=True)
    whole.tie_weights()
    return whole.eval()
