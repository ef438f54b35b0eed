"""Read question files: JSON lists or JSON lines of chats (CellVerse) or of instructions (InstructCell).

Depends on `wording` for what the text of a question holds, and on `templates` for instructions with placeholders.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cell2text.choices.question import KINDS, ChoiceQuestion, answer_in
from cell2text.choices.templates import PLACEHOLDER, LabelledCells, questions_from_templates
from cell2text.choices.wording import candidates_in, genes_in, kind_of, split_genes, split_names
from cell2text.errors import UserError


CHAT_KEYS = ("messages", "conversations", "conversation")
PROMPT_KEYS = ("question", "instruction", "prompt", "input")
ANSWER_KEYS = ("correct_answer", "ground_truth", "answer", "response", "output", "label")
CANDIDATE_KEYS = ("candidates", "options", "choices", "standard_answer_range")
GENE_KEYS = ("genes", "gene_list", "gene_names", "cell_sentence")
CELL_KEYS = ("cell_id", "cell", "barcode")
ID_KEYS = ("question_id", "id")
TASK_KEYS = ("task", "task_type", "tag")
USER, ASSISTANT = ("user", "human"), ("assistant", "gpt")
# Tasks of InstructCell, by their names in its files.
_TASKS = {
    "cell type annotation": "cell_type",
    "drug sensitivity prediction": "drug_response",
    "conditional pseudo cell generation": "generation",
}


def read_questions(
    path: str | os.PathLike, cells: LabelledCells | None = None, *, seed: int = 0
) -> list[ChoiceQuestion]:
    """Read the questions of a file.

    Parameters
    ----------
    path
        JSON file with a list, or JSON lines. A question is a chat (`messages` with `role` and `content`, or
        `conversations` with `from` and `value`) whose last message is the answer, or an object with the question
        (`question`, `instruction`, `prompt`), the answer (`answer`, `response`, `correct_answer`, ...) and optionally
        candidates (`candidates`, `options`, `choices`), genes (`genes`), `cell_id`, `dataset`, `donor_id` and `task`.
        Instructions with placeholders, such as `{input}`, are templates: each labelled cell gets one.
    cells
        Labels of the cells, for templates and for questions that name a cell.
    seed
        Random seed that chooses the template of each cell.

    Raises
    ------
    UserError
        If the file cannot be read or holds no questions, an object lacks the question or its answer, or templates are
        read without cells.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "questions.json"
    >>> _ = path.write_text('[{"question": "Which cell type is it? A. B cell  B. T cell", "answer": "B"}]')
    >>> read_questions(path)[0].answer
    'T cell'
    """
    rows = _read_rows(Path(path))
    if all(PLACEHOLDER.search(str(row.get("instruction", ""))) for row in rows):
        if cells is None:
            raise UserError(
                f"{path} holds templates with placeholders. Pass the cells to ask about: cells='FILE.h5ad'."
            )
        return questions_from_templates(rows, cells, seed=seed)
    questions = [_question_of(row, number, path) for number, row in enumerate(rows, start=1)]
    repeated = [name for name, n in Counter(question.question_id for question in questions).items() if n > 1]
    if repeated:
        raise UserError(
            f"{path}: {len(repeated):,} question ids occur more than once (first: {repeated[0]!r}). "
            "Give each question its own `id`, or remove the ids."
        )
    return questions


def _read_rows(path: Path) -> list[dict]:
    """Return the objects of a JSON list, of an object that holds lists, or of JSON lines."""
    if not path.is_file():
        raise UserError(f"{path} is not a file. Expected a JSON file of questions.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}). Save it with UTF-8 encoding.") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = _read_lines(path, text)
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = [row for rows in lists for row in rows] if lists and not _is_question(content) else [content]
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        raise UserError(f"{path} holds no list of questions. Expected a JSON list of objects, or one object per line.")
    return content


def _read_lines(path: Path, text: str) -> list:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}, is not JSON ({error.msg}): {line[:60]!r}. Expected a JSON "
                "list, or one JSON object per line."
            ) from error
    return rows


def _is_question(row: Mapping) -> bool:
    return any(key in row for key in (*CHAT_KEYS, *PROMPT_KEYS))


def _question_of(row: Mapping, number: int, path: str | os.PathLike) -> ChoiceQuestion:
    prompt, answer = _prompt_and_answer(row)
    if not prompt or not answer:
        raise UserError(
            f"{path}: question {number} has no {'answer' if prompt else 'text'}. Expected a chat in `messages` whose "
            f"last message is the answer, or the keys `question` and `answer`. Its keys: {sorted(row)}."
        )
    genes, candidates = _genes(row, prompt), _candidates(row, prompt)
    cell = _first(row, CELL_KEYS)
    cell = None if genes or not isinstance(cell, (str, int)) else str(cell)
    task = str(_first(row, TASK_KEYS) or "").casefold()
    kind = _TASKS.get(task, task)
    return ChoiceQuestion(
        question_id=str(_first(row, ID_KEYS) or number),
        kind=kind if kind in KINDS else kind_of(prompt, has_cell=bool(genes or cell)),
        candidates=candidates,
        answer=answer_in(answer, candidates) or answer.strip(),
        genes=genes,
        cell=cell,
        dataset=_text(row.get("dataset")),
        donor=_text(row.get("donor_id")),
    )


def _prompt_and_answer(row: Mapping) -> tuple[str, str]:
    """Return the text of a question and of its answer; empty where the row has none."""
    answer = _text(_first(row, ANSWER_KEYS)) or ""
    chat = _first(row, CHAT_KEYS)
    if not isinstance(chat, list):
        extra = row.get("input") if "instruction" in row else None  # Alpaca's form: an instruction and its input
        parts = [_text(_first(row, PROMPT_KEYS)), _text(extra)]
        return "\n".join(part for part in parts if part), answer
    turns = [(str(_first(one, ("role", "from"))), _content(_first(one, ("content", "value")))) for one in chat]
    prompt = [text for role, text in turns if role in USER]
    last = [text for role, text in turns if role in ASSISTANT][-1:]
    return "\n".join(prompt), last[0] if last else answer


def _content(value: Any) -> str:
    """Return the text of a message, whose content is a text or a list of blocks."""
    if isinstance(value, list):
        return "\n".join(str(block.get("text") or "") if isinstance(block, dict) else str(block) for block in value)
    return str(value or "")


def _genes(row: Mapping, prompt: str) -> tuple[str, ...]:
    found = _first(row, GENE_KEYS)
    if isinstance(found, str):
        return split_genes(found)
    return tuple(map(str, found)) if found else genes_in(prompt)


def _candidates(row: Mapping, prompt: str) -> tuple[str, ...]:
    found = _first(row, CANDIDATE_KEYS)
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, str):
        return split_names(found)
    if isinstance(found, Sequence) and found:
        return tuple(dict.fromkeys(map(str, found)))
    return candidates_in(prompt)


def _first(row: Mapping, keys: Iterable[str]) -> Any:
    """Return the first value of a row that is not missing."""
    return next((row[key] for key in keys if row.get(key) not in (None, "", [])), None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
