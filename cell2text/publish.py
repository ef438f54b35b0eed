"""Publish a trained model on the Hub: all files that loading it needs, its card and its results, and nothing else.

Depends on huggingface_hub only.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from cell2text.errors import UserError


# Folders that a run leaves beside its model. A name that ends in a dash is a prefix.
SKIPPED_FOLDERS = ("adapter", "base", "checkpoint-", "data", "data_cache", "runs", "logs")
SKIPPED_FILES = {"predictions.jsonl", "concept_pretraining.json"}
SUFFIXES = {".json", ".jinja", ".md", ".model", ".py", ".safetensors", ".tsv", ".txt"}
# What transformers follows when it downloads the code of a model; importing transformers would take seconds.
RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE)
RESULTS_FOLDER = ".eval_results"  # yaml files that the Hub shows as evaluation results


@dataclass(frozen=True)
class Upload:
    """A file to upload.

    Parameters
    ----------
    path
        The local file.
    name
        Its path in the repository.
    """

    path: Path
    name: str

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size


def files_to_push(folder: str | os.PathLike, *, adapter: bool = False) -> list[Upload]:
    """Return the files of a model's folder that belong in a repository, sorted by name.

    Parameters
    ----------
    folder
        Output folder of `train_sft.py`, or any folder that `save_pretrained` wrote.
    adapter
        Return the LoRA adapter in `adapter/`, with the card and results of the run, instead of the merged model.

    Raises
    ------
    UserError
        If the folder lacks what others need to load the model: safetensors weights, code, a processor, a card.

    Examples
    --------
    >>> import tempfile
    >>> try:
    ...     files_to_push(tempfile.mkdtemp())
    ... except UserError as error:
    ...     print("it lacks README.md (a model card)" in str(error))
    True
    """
    folder = Path(folder)
    root = folder / "adapter" if adapter else folder
    if not root.is_dir():
        raise UserError(f"{root} is not a folder." + (" The run trained no adapter." if adapter else ""))
    names = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
    files = {name.as_posix(): root / name for name in names if _is_published(name)}
    if adapter:  # card and results lie beside the merged model
        of_run = [folder / "README.md", *sorted((folder / RESULTS_FOLDER).glob("*.yaml"))]
        files |= {path.relative_to(folder).as_posix(): path for path in of_run if path.is_file()}
    missing = {name: content for name, content in _required(root, files, adapter=adapter).items() if name not in files}
    if missing:
        lacking = ", ".join(f"{name} ({content})" for name, content in sorted(missing.items()))
        raise UserError(f"{root} cannot be published: it lacks {lacking}.")
    return [Upload(path, name) for name, path in sorted(files.items())]


def _is_published(name: PurePath) -> bool:
    """Return whether a file, named relative to the model's folder, is part of the model or its results."""
    first = name.parts[0]
    if first == RESULTS_FOLDER:
        return len(name.parts) == 2 and name.suffix == ".yaml"
    in_skipped_folder = len(name.parts) > 1 and any(
        first == folder or (folder.endswith("-") and first.startswith(folder)) for folder in SKIPPED_FOLDERS
    )
    hidden = any(part.startswith((".", "__")) for part in name.parts)
    return name.suffix in SUFFIXES and not in_skipped_folder and not hidden and name.name not in SKIPPED_FILES


def _required(root: Path, names, *, adapter: bool) -> dict[str, str]:
    """Return the files that others need to load a model, each with what it holds."""
    required = {"README.md": "a model card"}
    if adapter:
        return required | {"adapter_config.json": "an adapter", "adapter_model.safetensors": "its weights"}
    required |= {
        "config.json": "a configuration",
        "processor_config.json": "a processor",
        "gene_vocabulary.tsv": "a gene vocabulary",
    }
    if not any(name.endswith(".safetensors") for name in names):
        required["model.safetensors"] = "weights"
    code = _code_files(root / "config.json") or {"modeling_cell2text.py"}
    return required | dict.fromkeys(code, "code that loads it")


def _code_files(config: Path) -> set[str]:
    """Return the modules that a configuration names as code, and the sibling modules that they import."""
    if not config.is_file():
        return set()
    content = json.loads(config.read_text(encoding="utf-8"))
    pipelines = {task: entry.get("impl") for task, entry in content.get("custom_pipelines", {}).items()}
    classes = [name for table in (content.get("auto_map", {}), pipelines) for name in table.values() if name]
    found = {str(name).split(".")[0] for name in classes}
    checked: set[str] = set()
    while found - checked:
        module = (found - checked).pop()
        checked.add(module)
        path = config.with_name(f"{module}.py")
        if path.is_file():
            found |= set(RELATIVE_IMPORT.findall(path.read_text(encoding="utf-8")))
    return {f"{module}.py" for module in found}


def push(
    folder: str | os.PathLike, repository: str, *, adapter: bool = False, private: bool = False, tag: str | None = None
) -> str:
    """Upload a model to the Hub in one commit.

    An interrupted upload leaves the repository as it was. A second call does not send the files again that arrived.

    Parameters
    ----------
    folder
        Folder of a trained model; see :func:`files_to_push`.
    repository
        Model repository, `OWNER/NAME`, created if it does not exist. The owner defaults to the user who is logged in.
    adapter
        Upload the LoRA adapter instead of the merged model.
    private
        Make a new repository private. An existing one stays as it is.
    tag
        Tag for the commit, such as `"v1.0"`; no tag if omitted.

    Returns
    -------
    Address of the commit.

    Raises
    ------
    UserError
        If the folder cannot be published, or the repository already has the tag.
    OSError
        If the Hub cannot be reached or refuses the upload.
    """
    uploads = files_to_push(folder, adapter=adapter)
    operations = [CommitOperationAdd(upload.name, upload.path) for upload in uploads]
    return _commit(operations, repository, str(folder), private=private, tag=tag)


def push_space(files: Sequence, repository: str, *, private: bool = False) -> str:
    """Upload the files of a Space to the Hub in one commit.

    Parameters
    ----------
    files
        Files with a `name`, and a `path` or a `text`.
    repository
        Space on the Hub, `OWNER/NAME`, created if it does not exist.
    private
        Make a new Space private. An existing one stays as it is.

    Returns
    -------
    Address of the commit.

    Raises
    ------
    OSError
        If the Hub cannot be reached or refuses the upload.
    """
    contents = [(file.name, file.path if isinstance(file, Upload) else file.text.encode()) for file in files]
    operations = [CommitOperationAdd(name, content) for name, content in contents]
    return _commit(operations, repository, "The Space", private=private, repo_type="space")


def _commit(
    operations: list, repository: str, what: str, *, private: bool, tag: str | None = None, repo_type: str = "model"
) -> str:
    """Create a repository unless it exists, upload files in one commit, and return the address of the commit."""
    api = HfApi()
    sdk = "gradio" if repo_type == "space" else None
    try:
        # The Hub completes a name without an owner.
        repository = api.create_repo(
            repository, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk
        ).repo_id
        if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repository).tags}:
            raise UserError(f"tag={tag!r}: {repository} already has this tag. Choose another one.")
        message = "Model trained by Cell2Text" if repo_type == "model" else "App of Cell2Text"
        commit = api.create_commit(repository, operations, commit_message=message, repo_type=repo_type)
        if tag is not None:
            api.create_tag(repository, tag=tag, revision=commit.oid)
    except (HfHubHTTPError, RuntimeError) as error:  # the client raises RuntimeError for a file it could not send
        reasons = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        reason = " ".join(" ".join(reasons).split())
        raise OSError(f"{what} was not published. The Hub answered: {reason} Run the same command again.") from error
    return str(commit.commit_url)
