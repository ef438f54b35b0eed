"""`cell2text push`: a trained model to the Hub, with all that loading it needs and nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.dynamic_module_utils import get_relative_imports

from cell2text.errors import UserError


# What a run leaves beside its model, or a model never needs.
LEFT_OUT = ("base", "checkpoint-", "data", "data_cache", "runs", "logs")
KINDS = {".json", ".jinja", ".md", ".model", ".py", ".safetensors", ".tsv", ".txt"}
LEFT_OUT_FILES = {"predictions.jsonl", "concept_pretraining.json"}


@dataclass(frozen=True)
class Upload:
    """A file that would be uploaded: where it is, and its name in the repository."""

    path: Path
    name: str

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def files_to_push(folder: Path, *, adapter: bool = False) -> list[Upload]:
    """Files of a model's folder that belong into a repository, by name.

    Parameters
    ----------
    folder
        Output folder of `train_sft.py`, or any folder that `save_pretrained` wrote.
    adapter
        The LoRA adapter in `adapter/` rather than the merged model.

    Raises
    ------
    ValueError
        If the folder holds no model that others could load: no weights as safetensors, no code, no processor, no card.
    """
    root = folder / "adapter" if adapter else folder
    if not root.is_dir():
        raise UserError(f"{root} is no folder" + (": this run trained no adapter." if adapter else "."))
    found = [
        Upload(path, path.relative_to(root).as_posix())
        for path in sorted(root.rglob("*"))
        if path.is_file() and belongs(path.relative_to(root))
    ]
    card = folder / "README.md"
    if adapter and card.is_file():
        found = [upload for upload in found if upload.name != "README.md"] + [Upload(card, "README.md")]
    names = {upload.name for upload in found}
    wanted = {"README.md": "a model card"}
    if adapter:
        wanted |= {"adapter_config.json": "an adapter", "adapter_model.safetensors": "its weights"}
    else:
        wanted |= {"config.json": "a model", "processor_config.json": "a processor", "gene_vocabulary.tsv": "its genes"}
        if not any(name.endswith(".safetensors") for name in names):
            wanted["model.safetensors"] = "weights"
        code = code_files(root / "config.json") or {"modeling_cell2text.py"}
        wanted |= dict.fromkeys(code, "code that loads it")
    missing = {name: what for name, what in wanted.items() if name not in names}
    if missing:
        lacking = ", ".join(f"{name} ({what})" for name, what in sorted(missing.items()))
        raise UserError(f"{root} cannot be published: it lacks {lacking}.")
    return sorted(found, key=lambda upload: upload.name)


def belongs(name: Path) -> bool:
    """Whether a file of a run's folder is part of its model."""
    inside = name.parts[0]
    left_out = len(name.parts) > 1 and any(
        inside == folder or (folder.endswith("-") and inside.startswith(folder)) for folder in (*LEFT_OUT, "adapter")
    )
    hidden = any(part.startswith((".", "__")) for part in name.parts)
    return name.suffix in KINDS and not left_out and not hidden and name.name not in LEFT_OUT_FILES


def code_files(config: Path) -> set[str]:
    """Modules that a configuration names as the code of its classes, and those that they import beside them."""
    if not config.is_file():
        return set()
    content = json.loads(config.read_text(encoding="utf-8"))
    named = [content.get("auto_map", {}), {k: v.get("impl") for k, v in content.get("custom_pipelines", {}).items()}]
    found = {str(name).split(".")[0] for table in named for name in table.values() if name}
    checked: set[str] = set()
    while found - checked:
        module = (found - checked).pop()
        checked.add(module)
        path = config.with_name(f"{module}.py")
        if path.is_file():
            found |= set(get_relative_imports(path))
    return {f"{module}.py" for module in found}


def push(folder: Path, repository: str, *, adapter: bool = False, private: bool = False, tag: str | None = None) -> str:
    """Upload a model in one commit, tag it, and return the commit's address.

    A connection that drops leaves the repository as it was: start again, and files that arrived are not sent twice.

    Raises
    ------
    ValueError
        If the folder cannot be published, or the tag exists already.
    OSError
        If the Hub cannot be reached.
    """
    uploads = files_to_push(folder, adapter=adapter)
    root = folder / "adapter" if adapter else folder
    operations = [CommitOperationAdd(upload.name, upload.path) for upload in uploads]
    api = HfApi()
    try:
        # A name alone is one in the user's own space, which the Hub adds.
        repository = api.create_repo(repository, repo_type="model", private=private, exist_ok=True).repo_id
        if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repository).tags}:
            raise UserError(f"{repository} has the tag {tag!r} already: choose another one.")
        commit = api.create_commit(repository, operations, commit_message="Model trained by Cell2Text")
        if tag is not None:
            api.create_tag(repository, tag=tag, revision=commit.oid)
    except (HfHubHTTPError, RuntimeError) as error:  # RuntimeError: the client, of a file that could not be sent
        reasons = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        words = " ".join(" ".join(reasons).split())
        raise OSError(f"{root} was not published, the Hub answered: {words} Start again to go on.") from error
    return str(commit.commit_url)
