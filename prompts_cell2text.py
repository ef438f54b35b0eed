"""Prompts as chat messages.

Standard library only: `cell2text prepare` writes prompts without loading PyTorch or transformers.
"""

SYSTEM_PROMPT = (
    "You are a scientific assistant for single-cell biology. You read the expression profile of a single cell and "
    "answer in plain, accurate sentences."
)


def conversation_of(instruction: str, system_prompt: str, *, n_cells: int = 1) -> list[dict]:
    """Return a prompt as chat messages, the cells before the instruction, without a system message if it is empty.

    Examples:

    ```python
    >>> conversation_of("Describe this cell.", "")
    [{'role': 'user', 'content': [{'type': 'cell'}, {'type': 'text', 'text': 'Describe this cell.'}]}]

    ```
    """
    cells = [{"type": "cell"} for _ in range(n_cells)]
    system = [{"role": "system", "content": [text_block(system_prompt)]}] if system_prompt else []
    return [*system, {"role": "user", "content": [*cells, text_block(instruction)]}]


def text_block(text: str) -> dict[str, str]:
    """Return a text as one content block of a chat message."""
    return {"type": "text", "text": text}
