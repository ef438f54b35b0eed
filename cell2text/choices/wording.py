"""Find the genes, the candidates and the kind of a question in its words. Standard library only."""

import re
from collections.abc import Iterator

from cell2text.choices.question import (
    CELL_TYPE,
    DRUG_RESPONSE,
    GENERATION,
    LETTERS,
    OTHER,
    PERTURBATION,
)


LEAST_GENES = 5  # words that look like genes in a list without a heading
GENE_SHARE = 0.8  # of the words of such a list
# CellVerse words a question once and gives its parts below: "{cell_types}: 'B cell', 'T cell'."
_DEFINITION = re.compile(r"^[ \t]*\{(\w+)\}[ \t]*:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
_CELL_TAG = re.compile(r"<cell>(.*?)</cell>", re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(r"\b(?:genes?|gene[ _](?:names?|list|symbols?)|cell sentence|expression)\b[^:\n]{0,40}:", re.I)
_OPTIONS = re.compile(
    r"\b(?:options?|choices?|candidates?|(?:choose|select) (?:one )?(?:from|among)|one of(?: the following)?)\b"
    r"[^:\n]{0,60}:\s*(.+?)(?=[?\n]|\.\s|\.?$)",
    re.IGNORECASE | re.MULTILINE,
)
_FORMAT_ANSWER = re.compile(r"['\"]final answer:\s*([^'\"]+?)\s*['\"]", re.IGNORECASE)
_LETTERED = re.compile(r"(?:^|(?<=[\s;,]))\(?([A-Z])[).:]\s+")
_QUOTED = re.compile(r"(?<!\w)(['\"])(.+?)\1(?=\s*(?:[,.;\])]|or\b|and\b|$))")
_INCOMPLETE_NAME = ("-positive", "-negative", "-low", "-high", "-bright", "-dim")  # "CD4-positive, alpha-beta T cell"
_KINDS = (
    (PERTURBATION, re.compile(r"\bperturb|\bknock(?:ed|ing)?[ -]?(?:out|down)|\bcrispr", re.IGNORECASE)),
    (DRUG_RESPONSE, re.compile(r"(?=.*\b(?:drug|pharmac))(?=.*\b(?:respon|sensitiv|resist|react))", re.I | re.DOTALL)),
    (CELL_TYPE, re.compile(r"\bcell[ _-]?types?\b|\btype of (?:this )?cell|\bkind of cell|\bannotat", re.IGNORECASE)),
)
_GENERATES = re.compile(r"\bgenerat|\bsimulat|\bsynthe|\bpseudo[ -]?cell|\bcreate\b", re.IGNORECASE)


def definitions_in(text: str) -> dict[str, str]:
    """Return the parts of a question that it gives as `{name}: value` on lines of their own.

    Examples
    --------
    >>> definitions_in("Which of {cell_types} is it?\\n{cell_types}: 'B cell', 'T cell'.")
    {'cell_types': "'B cell', 'T cell'."}
    """
    return dict(_DEFINITION.findall(text))


def genes_in(text: str) -> tuple[str, ...]:
    """Return the ranked genes in a question: a named part, the text within cell tags, or a line of gene symbols.

    Examples
    --------
    >>> genes_in("Genes, highest first: CD3D CD3E TRAC IL7R LTB. Which cell type is it?")
    ('CD3D', 'CD3E', 'TRAC', 'IL7R', 'LTB')
    """
    named = [value for name, value in definitions_in(text).items() if "gene" in name.casefold()]
    tagged = _CELL_TAG.findall(text)
    if named or tagged:
        return split_genes((named or tagged)[0])
    return max((_longest_run(line) for line in text.splitlines()), key=len, default=())


def split_genes(text: str) -> tuple[str, ...]:
    """Return the names of genes that blanks, commas or semicolons separate."""
    names = (name.strip("'\"[]().") for name in re.split(r"[\s,;]+", text))
    return tuple(name for name in names if name)


def _longest_run(line: str) -> tuple[str, ...]:
    """Return the genes of a line, behind a heading or as its longest run of words that look like genes."""
    heading = _HEADING.search(line)
    words = re.split(r"[\s,;]+", line[heading.end() :] if heading else line)
    best: list[str] = []
    run: list[str] = []
    for word in [*words, ""]:
        name = word.strip("'\"[]().")
        if name and _looks_like_gene(name):
            run.append(name)
        if not name or not _looks_like_gene(name) or word.endswith("."):
            best, run = max(best, run, key=len), []
    return tuple(best) if len(best) >= LEAST_GENES else ()


def _looks_like_gene(word: str) -> bool:
    return bool(re.fullmatch(r"[A-Z0-9][\w.@/-]*", word)) and (word.upper() == word or any(map(str.isdigit, word)))


def candidates_in(text: str) -> tuple[str, ...]:
    """Return the candidate answers in a question, in its order; empty if it lists none.

    Understood are a named part (`{cell_types}: ...`), lettered options, a list in brackets, a list behind words such as
    "choose from:", and the answers of a format hint ("'Final Answer: Yes' or 'Final Answer: No'").

    Examples
    --------
    >>> candidates_in("How does it respond to Erlotinib: [resistant, sensitive]?")
    ('resistant', 'sensitive')
    >>> candidates_in("Which type is it?  A. B cell  B. CD4-positive, alpha-beta T cell")
    ('B cell', 'CD4-positive, alpha-beta T cell')
    >>> candidates_in("Answer in format 'Final Answer: Yes' or 'Final Answer: No'.")
    ('Yes', 'No')
    """
    parts = definitions_in(text)
    for name, value in parts.items():
        if re.search(r"type|candidate|option|choice|answer|label", name, re.IGNORECASE):
            return split_names(value)
    prose = _DEFINITION.sub("", text)
    for found in (_lettered(prose), _bracketed(prose), _after_words(prose), tuple(_FORMAT_ANSWER.findall(prose))):
        if len(found) > 1:
            return tuple(dict.fromkeys(found))
    return ()


def split_names(text: str) -> tuple[str, ...]:
    """Return the names of a list: quoted ones, otherwise those between commas, semicolons or bars.

    Examples
    --------
    >>> split_names("'CD4-positive, alpha-beta T cell', 'B cell'.")
    ('CD4-positive, alpha-beta T cell', 'B cell')
    >>> split_names("CD4-positive, alpha-beta T cell, B cell or NK cell")
    ('CD4-positive, alpha-beta T cell', 'B cell', 'NK cell')
    """
    quoted = [name for _, name in _QUOTED.findall(text)]
    if len(quoted) > 1:
        return tuple(dict.fromkeys(quoted))
    names: list[str] = []
    for piece in re.split(r"\s*[;|]\s*|\s*,\s*(?:or |and )?|\s+or\s+", text.strip(" []().?")):
        if names and names[-1].endswith(_INCOMPLETE_NAME):
            names[-1] += f", {piece}"
        elif piece:
            names.append(piece.strip("'\" "))
    return tuple(dict.fromkeys(name for name in names if name))


def _lettered(text: str) -> tuple[str, ...]:
    """Return options that the letters A, B, C ... mark."""
    marks = list(_LETTERED.finditer(text))
    start = next((i for i, mark in enumerate(marks) if mark[1] == "A"), len(marks))
    options: list[str] = []
    for mark, following in zip(marks[start:], [*marks[start + 1 :], None]):
        if mark[1] != LETTERS[min(len(options), len(LETTERS) - 1)]:
            break
        option = text[mark.end() : following.start() if following else len(text)]
        options.append(option.split("\n")[0].strip(" .,;("))
    return tuple(option for option in options if option)


def _bracketed(text: str) -> tuple[str, ...]:
    """Return the names in the longest pair of brackets that holds a comma."""
    lists = [split_names(group) for group in _groups(text) if "," in group]
    return max(lists, key=len, default=())


def _groups(text: str) -> Iterator[str]:
    """Yield the content of each outermost pair of brackets."""
    depth, start = 0, 0
    for place, letter in enumerate(text):
        if letter in "([":
            depth += 1
            start = place + 1 if depth == 1 else start
        elif letter in ")]" and depth:
            depth -= 1
            if not depth:
                yield text[start:place]


def _after_words(text: str) -> tuple[str, ...]:
    found = [split_names(match[1]) for match in _OPTIONS.finditer(text) if "{" not in match[1]]
    return max(found, key=len, default=())


def kind_of(text: str, *, has_cell: bool) -> str:
    """Return what a question is about, by its words.

    Parameters
    ----------
    text
        The question.
    has_cell
        Whether it comes with a cell. A question without one may ask for a generated cell.

    Examples
    --------
    >>> kind_of("Does perturbing HARS change SAMD9?", has_cell=False)
    'perturbation'
    >>> kind_of("Select the cell type of this cell.", has_cell=True)
    'cell_type'
    """
    prose = _DEFINITION.sub("", text)
    if not has_cell and _GENERATES.search(prose):
        return GENERATION
    return next((kind for kind, pattern in _KINDS if pattern.search(prose)), OTHER)
