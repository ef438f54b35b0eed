"""Load a model and its processor: the packaged model, a folder, or a model on the Hub.

Folders are checked before torch and transformers are imported, so that a mistyped path fails at once.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cell2text.errors import UserError
from cell2text.models import MINI, MINI_NAME
from cell2text.paths import check_folder, check_readable
from errors_cell2text import first_line


if TYPE_CHECKING:
    from modeling_cell2text import Cell2TextForConditionalGeneration
    from processing_cell2text import Cell2TextProcessor


def load(
    model: str | os.PathLike | None = None, device: str | None = None, *, bf16: bool = False
) -> tuple["Cell2TextForConditionalGeneration", "Cell2TextProcessor"]:
    """Load a Cell2Text model and its processor, ready to describe cells.

    Parameters
    ----------
    model
        Folder or Hub id; the packaged model, which needs no network, if omitted.
    device
        Device, such as `"cuda:1"`; the GPU of this process if there is one, otherwise the CPU.
    bf16
        Run the language model in bfloat16, which processors and GPUs with such instructions multiply about twice as
        fast. Concept probabilities stay the same, and so do types of models with hierarchical types; all else that
        the language model writes or scores can change.

    Returns
    -------
    The model, in evaluation mode, and its processor. Together they are a `model` for :func:`cell2text.tl.describe`.

    Raises
    ------
    UserError
        If the folder does not exist or is not a Cell2Text model with weights and a processor, or if the model and its
        processor do not fit together.
    OSError
        If the Hub does not provide the model.

    Examples
    --------
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> processor.num_cell_tokens == model.config.num_cell_tokens
    True
    """
    return load_model(None if model is None else os.fspath(model), device or default_device(), bf16=bf16)


def load_or_reuse(
    model, *, bf16: bool = False
) -> tuple["Cell2TextForConditionalGeneration", "Cell2TextProcessor", str]:
    """Return model, processor and name for a name, the packaged model for None, or a pair that is loaded already.

    Raises
    ------
    UserError
        If `bf16` is set for a pair that is loaded already.
    """
    if isinstance(model, tuple):
        if bf16:
            raise UserError("bf16 has no effect on a model that is loaded. Load it with cell2text.load(bf16=True).")
        loaded, processor = model
        return loaded, processor, str(loaded.config._name_or_path)
    name = None if model is None else str(model)
    return (*load_model(name, default_device(), bf16=bf16), model_name(name))


def default_device() -> str:
    """Return the GPU of this process, `cuda:LOCAL_RANK`, or the CPU if there is no GPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def model_name(model: str | os.PathLike | None) -> str:
    """Return the name under which results record a model, None being the packaged model."""
    return MINI_NAME if model is None else str(model)


def check_model_folder(model: str | os.PathLike | None) -> None:
    """Raise unless a local model is complete. Hub ids are not checked.

    Parameters
    ----------
    model
        Folder or Hub id; None for the packaged model.

    Raises
    ------
    UserError
        If the path does not exist, is a file, or lacks a configuration, weights or a processor of Cell2Text.
    """
    if model is None:
        if not (MINI / "config.json").is_file():
            raise UserError("The bundled model is missing; reinstall cell2text, or pass model='FOLDER'.")
        return
    name, folder = os.fspath(model), Path(model).expanduser()
    if folder.is_dir():
        check_folder(folder, recursive=False)
        _check_content(name, folder)
    elif folder.exists():
        check_readable(folder)
        raise UserError(f"model={name!r} is a file. Expected the folder that holds config.json and the weights.")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"model={name!r} does not exist. Expected a folder, or a Hub id such as OWNER/NAME.")


def _check_content(name: str, folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = " It holds a LoRA adapter: pass the folder of the whole model."
        raise UserError(f"model={name!r} is a folder without config.json. Expected a saved Cell2Text model.{hint}")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"model={name!r}: config.json is not a configuration ({error}).") from error
    if kind != "cell2text":
        raise UserError(f"model={name!r} is a model of type {kind!r}. Expected type 'cell2text'.")
    if not (folder / "processor_config.json").is_file():
        raise UserError(
            f"model={name!r} has no processor. Save it beside the model: processor.save_pretrained({name!r})."
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model={name!r} has no weights. Expected model.safetensors.")


def load_model(
    name: str | None, device: str, *, bf16: bool = False
) -> tuple["Cell2TextForConditionalGeneration", "Cell2TextProcessor"]:
    """Load a model onto a device; see :func:`load`."""
    check_model_folder(name)
    from transformers import AutoModel, AutoProcessor

    from assembly_cell2text import check_encoder_fits

    path = MINI if name is None else Path(name).expanduser()
    local = path.is_dir()
    source = str(path) if local else str(name)
    target = _device(device)
    with damage_named(source, local=local), _no_weight_bars():
        model = AutoModel.from_pretrained(source)
        processor = AutoProcessor.from_pretrained(source)
    if model.config.model_type != "cell2text":
        raise UserError(f"model={source!r} is a model of type {model.config.model_type!r}. Expected type 'cell2text'.")
    if name is None:  # results name the model, not the folder of its installation
        model.config._name_or_path = model.name_or_path = MINI_NAME
    check_encoder_fits(model.config.cell_config, processor)
    if model.config.num_cell_tokens != processor.num_cell_tokens:
        raise UserError(
            f"model={source!r}: the model makes {model.config.num_cell_tokens} features per cell, but its processor "
            f"expects {processor.num_cell_tokens}. Save both from the same training run."
        )
    _check_prompt(model, processor, source)
    if bf16:
        import torch

        model.get_decoder().to(torch.bfloat16)
        model.get_output_embeddings().to(torch.bfloat16)
    try:
        return model.to(target).eval(), processor
    except (RuntimeError, AssertionError) as error:  # no driver, no such GPU
        raise UserError(f"device={device!r} cannot be used ({first_line(error)}). Pass device='cpu'.") from error


@contextmanager
def damage_named(source: str, *, local: bool = True) -> Iterator[None]:
    """Raise an error that names the model, if a library cannot read a file of it.

    Parameters
    ----------
    source
        Folder or Hub id of the model.
    local
        Whether it is a folder; otherwise an `OSError` means that the Hub does not provide it.
    """
    try:
        yield
    except MemoryError:
        raise
    except UserError as error:
        if source in str(error):
            raise
        raise UserError(f"model={source!r}: {error}") from error
    except OSError as error:
        if local:
            raise _damaged(source, error) from error
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"model={source!r}: no folder of this name, and the Hub does not provide it: {reason}") from error
    except Exception as error:  # transformers, tokenizers and safetensors raise many classes
        raise _damaged(source, error) from error


def _device(name: str):
    """Return a torch device; raise `UserError` unless the name is that of one."""
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name!r} is not a device. Expected cpu, cuda, or cuda:1.") from error


def _damaged(source: str, error: Exception) -> UserError:
    return UserError(
        f"model={source!r} cannot be loaded ({type(error).__name__}: {first_line(error)}). A file of it is damaged or "
        "belongs to another model. Save or download it again."
    )


def _check_prompt(model, processor, source: str) -> None:
    """Raise `UserError` unless the processor's prompt has tokens that the model knows, and a place for a cell."""
    known = model.get_input_embeddings().weight.shape[0]
    try:
        ids = processor.apply_chat_template(
            [processor.conversation()], tokenize=True, return_dict=False, add_generation_prompt=True
        )[0]
    except UserError:
        raise
    except Exception as error:  # a chat template can raise anything
        raise _damaged(source, error) from error
    if processor.cell_token_id != model.config.cell_token_id or max(ids, default=0) >= known:
        raise UserError(
            f"model={source!r}: the tokenizer does not belong to the model (cell token {processor.cell_token_id}, "
            f"expected {model.config.cell_token_id}; largest token {max(ids, default=0):,} of {known:,}). Save both "
            "from the same training run."
        )
    if ids.count(processor.cell_token_id) != processor.num_cell_tokens:
        raise UserError(
            f"model={source!r}: its chat template writes {ids.count(processor.cell_token_id)} placeholders for a cell, "
            f"expected {processor.num_cell_tokens}. Restore chat_template.jinja."
        )


@contextmanager
def _no_weight_bars() -> Iterator[None]:
    """Hide the progress bar "Loading weights" of transformers, but not those of downloads."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    downloads_hidden, weights_hidden = are_progress_bars_disabled(), not logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # hides both
    if not downloads_hidden:
        enable_progress_bars()
    try:
        yield
    finally:
        if not weights_hidden:
            logging.enable_progress_bar()  # shows both
        if downloads_hidden:
            disable_progress_bars()
