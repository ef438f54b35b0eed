"""The chat of a description run: a question, a task or a chat file as messages with cell blocks."""

import json
from pathlib import Path

from cell2text.describe.options import DescribeOptions
from cell2text.errors import UserError
from cell2text.language.fields import FIELDS
from cell2text.language.tasks import INSTRUCTIONS, QUESTIONS, default_instruction


def conversation(options: DescribeOptions, processor) -> list[dict]:
    """The chat that is asked, with one cell block, or two where cells are compared.

    Raises
    ------
    ValueError
        If a chat file holds no chat, or cells are to be compared without a cell to compare to, or the other way round.
    """
    n_cells = 1 if options.compare_to is None else 2
    prompt = options.prompt
    if prompt is not None and prompt.endswith(".json"):
        chat = read_chat(Path(prompt))
    else:
        if prompt is None and n_cells == 2:
            prompt = "compare"
        if prompt == "compare" and n_cells == 1:
            raise UserError("The task compare needs a cell to compare to: pass compare_to (--compare-to NAME).")
        chat = processor.conversation(n_cells, instruction_of(prompt))
    found = sum(block.get("type") == "cell" for message in chat for block in blocks_of(message))
    if found != n_cells:
        raise UserError(
            f"The chat {options.prompt!r} holds {found} cell blocks: expected {n_cells}"
            + (", the cell and the one of compare_to." if n_cells == 2 else ".")
        )
    return chat


def instruction_of(prompt: str | None) -> str | None:
    """The fixed instruction of a task, as evaluation asks it; any other prompt as it is."""
    if prompt is None:
        return None
    if prompt in INSTRUCTIONS:
        return default_instruction(prompt)
    task, _, field = prompt.partition(":")
    if task == "ask" and field in QUESTIONS:
        return default_instruction(task, field)
    if task == "ask" and " " not in prompt:
        raise UserError(f"prompt={prompt!r}: expected ask: and one of {', '.join(FIELDS)}.")
    if not prompt.strip():
        raise UserError("The prompt is empty: expected a question, a task or a chat file.")
    return prompt


def blocks_of(message: dict) -> list[dict]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def read_chat(path: Path) -> list[dict]:
    if not path.is_file():
        raise UserError(f"The chat file {path} does not exist.")
    try:
        chat = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): expected a list of chat messages.") from error
    if not isinstance(chat, list) or not all(isinstance(message, dict) and "role" in message for message in chat):
        raise UserError(f"{path} holds no chat: expected a list of messages, each with role and content.")
    return chat
