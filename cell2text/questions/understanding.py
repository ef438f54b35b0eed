"""Map a question in free words to one of the tasks that the model has.

The mapping is a fixed list of rules over key words, so the same question always gets the same task. Questions that
training samples are looked up first. Depends on `type_names` and `pathway_names` for what a question names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from cell2text.language.tasks import INSTRUCTIONS, QUESTIONS
from cell2text.ontology.mentions import term_named
from cell2text.questions import answer as tasks
from cell2text.questions.pathway_names import PathwayMention, find_pathways
from cell2text.questions.type_names import TypeMention, find_cell_types
from cell2text.questions.words import cell_type_words, check_text, corrected, singular, word_set, words_of


# Key words of each topic, in the singular.
_TOPICS = {
    "why": "why reason justify justification evidence proof because rationale explain based basis support indicate",
    "gene": "gene marker transcript mrna feature",
    "compare": "compare comparison contrast differ difference different differently distinguish discriminate similar "
    "similarity alike versus vs same resemble unlike relate equal identical",
    "count": "many number count fraction share proportion percentage percent ratio frequent frequency majority amount",
    "composition": "composition compose mixture mix contain consist heterogeneous homogeneous breakdown pure "
    "population",
    "common": "common shared agree agreement consensus overall together collectively mostly mainly typically",
    "pathway": "pathway programme program process signature hallmark signaling signalling active activity activated "
    "upregulated enriched function",
    "sex": "sex gender male female man woman boy girl men women xx xy",
    "stage": "age aged old young adult child foetal fetal fetus embryonic embryo prenatal newborn stage teenager "
    "elderly baby infant developmental adulthood childhood",
    "disease": "disease diseased healthy health ill illness sick patient condition diagnosis diagnosed disorder "
    "affected infected infection cancer tumor tumour cancerous covid pathological pathology",
    "tissue": "tissue organ body located location where origin sampled site anatomical anatomy come source",
    "candidate": "subtype alternative else other possibility candidate option second runner-up closest specific "
    "precise precisely exactly guess alternatively subclass subset finer",
    "sure": "sure certain certainty confident confidence reliable reliability reliably trust trustworthy probability "
    "probable likelihood likely chance odds odd believe calibrated uncertain uncertainty unsure doubt score convinced "
    "correct right wrong accurate accuracy error mistaken",
    "type": "type kind sort identity identify annotate annotation label lineage class classify classification category "
    "celltype assign",
    "describe": "describe description summary summarise summarize report overview characterise characterize "
    "characteristic information tell explain say know about introduce detail",
    "profile": "doublet multiplet duplex ambient droplet soup debris quality artefact artifact singlet empty real",
    "help": "help question ability capability ask",
}  # fmt: skip
_TOPIC_OF = {word: topic for topic, words in _TOPICS.items() for word in words.split()}
# Words that carry no topic and are common in questions about cells.
_NEUTRAL = word_set(
    "a an the this that these those it its is are was were be been being am of in to for or and as at by do does "
    "did have has had having i we you me my us our your he she they them their what which who whom whose how if "
    "not no so from with on than then there here please can could would should will may might must shall give "
    "show list state write read look looking get got see find think want need let make made take taken just only "
    "really actually also both one two first cell profile expression data dataset sample experiment cluster group "
    "selection selected donor person human individual most more much very some any all every each own thing "
    "something anything please thank hello hi hey ok well now again still yet even quite rather like into out up "
    "down over under between main top highest strongest dominant leading high low strong level plain sentence "
    "word short brief briefly single possible possibly perhaps maybe probably belong strongly point seem appear "
    "look represent mean picture gene rank transcriptome rna seq scrna sequencing model predict predicted "
    "prediction current new following work happen go going express expressed alone nothing bare kind-of hand side "
    "set answer sir biologically biological life due species rate stem live name call"
)
_WH = {"what", "which", "who", "whats"}
_SUBJECT_WORDS = {"this", "it", "that", "these", "they", "those", "cell", "i", "we", "here"}
_KIND_WORDS = {"kind", "type", "sort", "subtype", "subset", "subclass", "class"}
_SUBJECTS = {"cell", "profile", "donor", "cluster", "gene", "group"}
_NARROWING = {None, "stage", "tissue", "disease", "sex", "pathway"}  # topics whose words narrow a cell type
_NOT_NARROWING = {"and", "or", "versus", "vs", "come", "from"}
_PROFILE_WORDS = _TOPICS["profile"].split()


@dataclass(frozen=True)
class Understood:
    """What a question asks for.

    Parameters
    ----------
    task
        One of :data:`cell2text.questions.answer.TASKS`.
    types
        Cell types that it names, in its order.
    pathways
        Gene sets that it names.
    sex
        The sex that it names, None if it names none or both.
    is_negated
        Whether it denies what it names: "not a T cell".
    qualifiers
        Words in front of a cell type that are not part of its name: "old T cell".
    unknown
        Words without a meaning for the model.
    """

    task: str
    types: tuple[TypeMention, ...] = ()
    pathways: tuple[PathwayMention, ...] = ()
    sex: str | None = None
    is_negated: bool = False
    qualifiers: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Parsed:
    """Words of a question with the topics, types and gene sets found in them."""

    words: list[str]
    topics: frozenset[str]
    types: tuple[TypeMention, ...]
    pathways: tuple[PathwayMention, ...]
    unknown: tuple[str, ...]
    n_known: int
    n_cells: int

    def has(self, *topics: str) -> bool:
        return not self.topics.isdisjoint(topics)

    def says(self, phrase: str) -> bool:
        return f" {phrase} " in f" {' '.join(self.words)} "


def understand(
    question: str, pathways: Sequence[str] = (), *, n_cells: int = 1, has_second: bool = False
) -> Understood:
    """Map a question to a task.

    Parameters
    ----------
    question
        The question, in English.
    pathways
        Names of the gene sets that the question may name.
    n_cells
        Number of cells that it is about.
    has_second
        Whether there is a second selection of cells to compare with.

    Raises
    ------
    UserError
        If the question is not a text, is empty or is too long.

    Examples
    --------
    >>> understand("How sure are you?").task, understand("is it an nk cel?").types[0].label
    ('confidence', 'natural killer cell')
    >>> understand("What is the capital of France?").task
    'outside'
    """
    text = check_text("question", question)
    is_pair = n_cells == 2 or has_second
    known = _known_questions().get(_spelled(words_of(text)))
    parsed = _parse(text, tuple(pathways), n_cells)
    if known is not None and (known != tasks.COMPARE or is_pair):
        return Understood(known)
    task = next(task for task, applies in _RULES if applies(parsed, is_pair))
    return Understood(
        task, parsed.types, parsed.pathways, _named_sex(parsed.words), "not" in parsed.words,
        _qualifiers(parsed), parsed.unknown,
    )  # fmt: skip


def _spelled(words: Sequence[str]) -> str:
    return " ".join(words)


@cache
def _known_questions() -> dict[str, str]:
    """Return the task of each question and instruction that training samples."""
    questions = {text: task for task, texts in INSTRUCTIONS.items() for text in texts}
    questions |= {text: task for task, texts in QUESTIONS.items() for text in texts}
    names = {"annotate": tasks.CELL_TYPE, **{task: task for task in tasks.TASKS}}
    return {_spelled(words_of(text)): names[task] for text, task in questions.items()}


def _parse(text: str, pathways: tuple[str, ...], n_cells: int) -> _Parsed:
    words = [_corrected(word) for word in words_of(text)]
    found_pathways = find_pathways(words, pathways)
    types = find_cell_types(words)
    taken = {place for mention in types for place in range(mention.start, mention.stop)}
    found_pathways = [one for one in found_pathways if not taken & set(range(one.start, one.stop))]
    taken |= {place for mention in found_pathways for place in range(mention.start, mention.stop)}
    rest = [word for place, word in enumerate(words) if place not in taken]
    topics = {topic for word in rest if (topic := _topic(word))}
    if "gene set" in " ".join(map(singular, words)):
        topics.add("pathway")
    unknown = tuple(word for word in rest if not (_topic(word) or _is_neutral(word)) and word.isalpha())
    n_known = sum(bool(_topic(word)) or singular(word) in _SUBJECTS for word in rest)
    return _Parsed(
        words, frozenset(topics), tuple(types), tuple(found_pathways), unknown, n_known + len(taken), n_cells
    )


def _topic(word: str) -> str | None:
    """Return the topic of a word: that of a key word, or of a tissue or disease that it names."""
    topic = _TOPIC_OF.get(word) or _TOPIC_OF.get(singular(word))
    if topic or _is_neutral(word) or not word.isalpha():
        return topic
    return next((field for field in ("tissue", "disease") if term_named(field, word)), None)


def _is_neutral(word: str) -> bool:
    return word in _NEUTRAL or singular(word) in _NEUTRAL


def _corrected(word: str) -> str:
    """Correct typing errors in a key word or a word of a cell type's name."""
    single = singular(word)
    if _topic(word) or _is_neutral(word):
        return word
    for known in (_TOPIC_OF, cell_type_words()):
        found = corrected(single, known, protected=_NEUTRAL)
        if found != single:
            return found
    return word


def _qualifiers(parsed: _Parsed) -> tuple[str, ...]:
    """Return the words directly in front of cell types that narrow them: "old T cell", "tissue-resident T cell"."""
    found: list[str] = []
    for mention in parsed.types:
        place = mention.start - 1
        while place >= 0 and _narrows(parsed.words[place]):
            found.insert(0, parsed.words[place])
            place -= 1
    return tuple(found)


def _narrows(word: str) -> bool:
    return not _is_neutral(word) and _topic(word) in _NARROWING and word not in _NOT_NARROWING


def _named_sex(words: Sequence[str]) -> str | None:
    female = not {"female", "woman", "women", "girl", "xx"}.isdisjoint(map(singular, words))
    male = not {"male", "man", "men", "boy", "xy"}.isdisjoint(map(singular, words))
    return None if female == male else "female" if female else "male"


def _is_strange(parsed: _Parsed) -> bool:
    """Return whether the question is mostly about things that are unknown here."""
    return len(parsed.unknown) >= max(1, parsed.n_known)


def _asks_for_genes(parsed: _Parsed, _pair: bool) -> bool:
    if parsed.says("gene set") or parsed.says("gene sets"):
        return False
    words = set(map(singular, parsed.words))
    genes = parsed.has("gene") or "gene" in words
    return "why" in words or (genes and not parsed.pathways) or (parsed.has("why") and not parsed.has("describe"))


def _compares(parsed: _Parsed, pair: bool) -> bool:
    if parsed.types:
        return pair and parsed.has("compare") and parsed.says("two cells")
    return (parsed.has("compare") and pair) or (pair and parsed.says("in common"))


def _asks_for_subtypes(parsed: _Parsed, _pair: bool) -> bool:
    """Return whether a question with a cell type asks for its subtypes: "which kind of T cell"."""
    if not parsed.types:
        return False
    start = parsed.types[0].start
    before = [singular(word) for word in parsed.words[:start]]
    asks_kind = len(before) >= 2 and before[-1] == "of" and before[-2] in _KIND_WORDS and not _WH.isdisjoint(before)
    after = [singular(word) for word in parsed.words[parsed.types[0].stop :]]
    is_named = not _WH.isdisjoint(before) and (after[:1] in (["subtype"], ["subset"], ["type"], ["subclass"]))
    return asks_kind or is_named or (before[-1:] in (["which"], ["what"]))


def _asks_for_types(parsed: _Parsed, _pair: bool) -> bool:
    if _is_strange(parsed):
        return False
    words = set(map(singular, parsed.words)) | set(parsed.words)
    if parsed.has("type"):
        return True
    if _SUBJECT_WORDS.isdisjoint(words) or "about" in words:
        return False
    asks = not _WH.isdisjoint(words) or not {"name", "call"}.isdisjoint(words)
    return asks and not parsed.topics - {"describe"}


def _on(*topics: str) -> Callable[[_Parsed, bool], bool]:
    return lambda parsed, _pair: parsed.has(*topics) and not _is_strange(parsed)


def _asks_for_stage(parsed: _Parsed, _pair: bool) -> bool:
    return parsed.has("stage") and not _is_strange(parsed)


def _asks_for_profile(parsed: _Parsed, _pair: bool) -> bool:
    single = {singular(word) for word in parsed.words}
    strong = not single.isdisjoint(set(_PROFILE_WORDS) - {"quality", "real", "empty"})
    return strong or (
        (parsed.says("real cell") or "quality" in single or parsed.says("empty droplet")) and not parsed.types
    )


def _counts_types(parsed: _Parsed, _pair: bool) -> bool:
    return bool(parsed.types) and parsed.has("count")


def _asks_for_composition(parsed: _Parsed, _pair: bool) -> bool:
    if _is_strange(parsed):
        return False
    return parsed.has("composition", "common") or (parsed.has("count") and parsed.n_cells > 1)


def _asks_for_sex(parsed: _Parsed, _pair: bool) -> bool:
    return parsed.has("sex") and not _is_strange(parsed)


def _asks_for_help(parsed: _Parsed, _pair: bool) -> bool:
    if parsed.types or parsed.pathways:
        return False
    asks = "question" in map(singular, parsed.words) or parsed.says("you answer") or parsed.says("i ask")
    return parsed.words == ["help"] or parsed.says("can you do") or (asks and not _WH.isdisjoint(parsed.words))


# The first rule that applies decides.
_RULES: tuple[tuple[str, Callable[[_Parsed, bool], bool]], ...] = (
    (tasks.HELP, _asks_for_help),
    (tasks.EVIDENCE, _asks_for_genes),
    (tasks.PROFILE, _asks_for_profile),
    (tasks.COMPARE, _compares),
    (tasks.COUNT_TYPE, _counts_types),
    (tasks.CANDIDATES, _asks_for_subtypes),
    (tasks.IS_TYPE, lambda parsed, _pair: bool(parsed.types)),
    (tasks.PATHWAYS, lambda parsed, _pair: bool(parsed.pathways)),
    (tasks.SEX, _asks_for_sex),
    (tasks.LIFE_STAGE, _asks_for_stage),
    (tasks.DISEASE, _on("disease")),
    (tasks.PATHWAYS, _on("pathway")),
    (tasks.TISSUE, lambda parsed, _pair: parsed.has("tissue") and not _is_strange(parsed) and not parsed.has("count")),
    (tasks.COMPOSITION, _asks_for_composition),
    (tasks.CANDIDATES, _on("candidate")),
    (tasks.CONFIDENCE, _on("sure")),
    (tasks.CELL_TYPE, _asks_for_types),
    (tasks.DESCRIBE, _on("describe")),
    (tasks.OUTSIDE, lambda parsed, _pair: True),
)
