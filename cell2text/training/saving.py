"""Save models so that a killed run or a full disk leaves the previous files intact."""

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


PARTIAL_PREFIX = ".saving-"
# Parts of the libraries' messages when a file cannot be written completely.
FULL_DISK_MESSAGES = (
    "No space left",
    "os error 28",
    "File too large",
    "os error 27",
    "Disk quota",
    "unexpected pos",
    "file write",
)


class FullDiskError(RunStoppedError):
    """A file could not be written completely; the files before it are intact."""


@contextmanager
def on_full_disk(folder: Path) -> Iterator[None]:
    """Raise one `FullDiskError` instead of the many errors that a full disk causes.

    Raises
    ------
    FullDiskError
        If the block fails for want of disk space.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        if not full and not any(words in str(error) for words in FULL_DISK_MESSAGES):
            raise
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        raise FullDiskError(
            f"{folder} could not be written completely ({error}); {free / 2**30:.2f} GiB are free. Free some space, or "
            "lower save_total_limit; then pass resume_from_checkpoint=true to resume the last complete checkpoint."
        ) from error


@contextmanager
def saved_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and move its files into `folder` when the block ends without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{PARTIAL_PREFIX}*"):  # of a killed save
        shutil.rmtree(leftover)
    with on_full_disk(folder), tempfile.TemporaryDirectory(prefix=PARTIAL_PREFIX, dir=folder) as partial:
        yield Path(partial)
        for path in sorted(path for path in Path(partial).rglob("*") if path.is_file()):
            target = folder / path.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)


def is_sharded(trainer) -> bool:
    """Return whether no rank holds the whole model, as under FSDP and DeepSpeed ZeRO-3."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def save_base(model, processor: Cell2TextProcessor, model_args: ModelConfig, folder: Path, training_args) -> None:
    """Save the model that a LoRA adapter belongs to, unless it was loaded from a folder or the Hub."""
    source, requested = model.config._name_or_path, model_args.model_name_or_path
    loaded = source and requested and Path(source) == Path(requested)
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
    """Save a model that `AutoModel` loads into the output folder, and a LoRA adapter beside it.

    Every rank calls this function, since a sharded model is gathered.

    Returns
    -------
    The whole model, with merged adapters, on the main rank; None on the others.
    """
    model = _gathered_model(trainer) if is_sharded(trainer) else trainer.accelerator.unwrap_model(trainer.model)
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


def _gathered_model(trainer):
    """Return the whole of a sharded model on the main rank's CPU, as it was before sharding; None on other ranks."""
    state = trainer.accelerator.get_state_dict(trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model)
    if not trainer.accelerator.is_main_process:
        return None
    sharded = trainer.accelerator.unwrap_model(trainer.model)
    plain = sharded.get_base_model() if isinstance(sharded, PeftModel) else sharded
    with no_init_weights():
        whole = Cell2TextForConditionalGeneration(plain.config)
    whole.generation_config = plain.generation_config
    whole.name_or_path = plain.name_or_path
    if isinstance(sharded, PeftModel):
        whole = get_peft_model(whole, sharded.peft_config[sharded.active_adapter])
    else:  # sharding made float32 copies of the trained weights
        state = {name: value.to(plain.config.dtype) for name, value in state.items()}
    whole.load_state_dict(state, assign=True)
    whole.tie_weights()
    return whole.eval()
