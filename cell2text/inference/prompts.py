"""Build prompts: a question, a task or a conversation file becomes chat messages with cell blocks.

Depends on the processor's own prompt and on the tasks of `language.tasks`.
"""

import json
from pathlib import Path

from cell2text.errors import UserError
from cell2text.language.fields import FIELDS
from cell2text.language.tasks import INSTRUCTIONS, QUESTIONS, default_instruction


def build_conversation(processor, prompt: str | None = None, *, compare_to: str | None = None) -> list[dict]:
    """Return the prompt as chat messages with one cell block, or two if cells are compared.

    Parameters
    ----------
    processor
        Provides the system message and the default instruction.
    prompt
        A question; a task: `describe`, `annotate`, `pathways`, `compare`, or `ask:` followed by `cell_type`, `tissue`,
        `disease`, `sex` or `life_stage`; or the path of a JSON file with a conversation, ending in `.json`. Defaults
        to the processor's own instruction, or to `compare` with `compare_to`.
    compare_to
        Name of the cell that every cell is compared to. If given, each prompt holds two cells.

    Raises
    ------
    UserError
        If a conversation file is missing or invalid, a task is unknown, or the number of cell blocks does not fit.

    Examples
    --------
    >>> import cell2text
    >>> _, processor = cell2text.load()
    >>> build_conversation(processor, "ask:tissue")[-1]["content"]
    [{'type': 'cell'}, {'type': 'text', 'text': 'Which tissue is this cell from?'}]
    """
    n_cells = 1 if compare_to is None else 2
    if prompt is not None and prompt.endswith(".json"):
        conversation = _read_conversation(Path(prompt))
    else:
        if prompt is None and n_cells == 2:
            prompt = "compare"
        if prompt == "compare" and n_cells == 1:
            raise UserError("prompt='compare' needs a cell to compare to: pass compare_to=NAME.")
        conversation = processor.conversation(n_cells, _instruction_for(prompt))
    found = sum(block.get("type") == "cell" for message in conversation for block in _blocks(message))
    if found != n_cells:
        raise UserError(
            f"The conversation {prompt!r} holds {found} cell blocks: expected {n_cells}"
            + (", the described cell and the one of compare_to." if n_cells == 2 else ".")
        )
    return conversation


def _instruction_for(prompt: str | None) -> str | None:
    """Return the fixed instruction of a task, the same that evaluation uses, and any other prompt unchanged."""
    if prompt is None:
        return None
    if prompt in INSTRUCTIONS:
        return default_instruction(prompt)
    task, _, field = prompt.partition(":")
    if task == "ask" and field in QUESTIONS:
        return default_instruction(task, field)
    if task == "ask" and " " not in prompt:
        raise UserError(f"prompt={prompt!r}: expected ask: followed by one of {', '.join(FIELDS)}.")
    if not prompt.strip():
        raise UserError(f"prompt={prompt!r} is empty: expected a question, a task or a conversation file.")
    return prompt


def _blocks(message: dict) -> list[dict]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _read_conversation(path: Path) -> list[dict]:
    if not path.is_file():
        raise UserError(f"prompt={str(path)!r}: the conversation file does not exist.")
    try:
        conversation = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): expected a list of chat messages.") from error
    messages = conversation if isinstance(conversation, list) else [None]
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        raise UserError(f"{path} holds no conversation: expected a list of messages, each with role and content.")
    return conversation
