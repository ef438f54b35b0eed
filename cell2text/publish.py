"""Publish a trained model on the Hub: all files that loading it needs, its card and its results, and nothing else.

Depends on huggingface_hub, and on safetensors to check the weights.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

import errors_cell2text
from cell2text.errors import UserError
from errors_cell2text import first_line


# Everything that loading a model needs, and the results that its card quotes. Code files are those that the
# configuration names. A run leaves other files beside them, and so do users.
MODEL_FILES = {
    "LICENSE", "README.md", "added_tokens.json", "chat_template.jinja", "config.json", "gene_aliases.tsv",
    "gene_vocabulary.tsv", "generation_config.json", "merges.txt", "model.safetensors.index.json",
    "processor_config.json", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "vocab.json", "vocab.txt", "evaluation/metrics.json", "evaluation/report.md",
}  # fmt: skip
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
# Shapes of access tokens and private keys.
SECRETS = re.compile(
    rb"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|AKIA[A-Z0-9]{16}|"
    rb"sk-(?:\w+-)?[A-Za-z0-9]{30,}|xox[abp]-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----)"
)
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
        If the folder lacks what others need to load the model: safetensors weights, code, a processor, a card; if a
        file of it is a symbolic link, holds weights that cannot be read, or holds an access token.

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
    allowed = ADAPTER_FILES if adapter else MODEL_FILES | _code_files(root / "config.json")
    files = {name: root / name for name in sorted(allowed) if (root / name).is_file()}
    if not adapter:
        files |= {path.name: path for path in sorted(root.iterdir()) if WEIGHTS.fullmatch(path.name)}
    of_run = [folder / "README.md", *sorted((folder / RESULTS_FOLDER).glob("*.yaml"))]
    files |= {path.relative_to(folder).as_posix(): path for path in of_run if path.is_file()}
    missing = {name: content for name, content in _required(root, files, adapter=adapter).items() if name not in files}
    if missing:
        lacking = ", ".join(f"{name} ({content})" for name, content in sorted(missing.items()))
        raise UserError(f"{root} cannot be published: it lacks {lacking}.")
    uploads = [Upload(path, name) for name, path in sorted(files.items())]
    for upload in uploads:
        check_upload(upload, folder)
    return uploads


def left_out(folder: str | os.PathLike, uploads: Sequence[Upload]) -> list[str]:
    """Return the names of the files in a model's folder that are not uploaded, sorted; hidden ones are omitted."""
    root, sent = Path(folder), {upload.path for upload in uploads}
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file() and path not in sent)
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def check_upload(upload: Upload, folder: Path) -> None:
    """Raise a `UserError` for a link, for weights that cannot be read, and for a file that holds a secret.

    Parameters
    ----------
    upload
        The file.
    folder
        The folder that is published. Links to files inside of it, and to code of the package, are accepted.
    """
    own_code = Path(errors_cell2text.__file__).with_name(upload.path.name)
    is_own_code = own_code.is_file() and upload.path.samefile(own_code)
    if not is_own_code and (upload.path.is_symlink() or folder.resolve() not in upload.path.resolve().parents):
        raise UserError(
            f"{upload.path} is a symbolic link, and what it leads to is not published. Replace it by a file."
        )
    if upload.path.suffix == ".safetensors":
        _check_weights(upload.path)
        return
    with open(upload.path, "rb") as file:
        match = SECRETS.search(file.read())
    if match:
        raise UserError(
            f"{upload.path} holds what looks like an access token or a private key ({match[0][:6].decode()}...). "
            "Remove it, and revoke it if it was ever shared."
        )


def _check_weights(path: Path) -> None:
    """Raise a `UserError` unless a file holds finite weights."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as weights:
            names = list(weights.keys())
            broken = next((name for name in names if not _is_finite(weights, name)), None)
    except Exception as error:  # safetensors has one class for all faults
        raise UserError(f"{path} cannot be read as safetensors ({first_line(error)}). Save the model again.") from error
    if not names or broken:
        raise UserError(f"{path} holds {'weights that are not finite: ' + broken if broken else 'no weights'}.")


def _is_finite(weights, name: str) -> bool:
    kind = weights.get_slice(name).get_dtype()
    if kind not in ("F16", "F32", "F64", "BF16"):
        return True
    return bool(weights.get_tensor(name).isfinite().all())


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
    return {f"{module}.py" for module in found if module.isidentifier()}


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
