"""The gene vocabulary: the genes that a model reads, with their token ids, medians and names.

Loads the dictionaries of Geneformer (generations V1 and V2) or the plain text of a saved Cell2Text model, from a folder
or the Hub, and saves plain text. Depends on transformers for downloads alone; `ranking_cell2text.py` handles counts.
"""

import hashlib
import logging
import os
import pickle
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError


try:
    from .genes_cell2text import ROUTES, map_names
except ImportError:
    from genes_cell2text import ROUTES, map_names


logger = logging.getLogger(__name__)

VOCABULARY_FILE = "gene_vocabulary.tsv"
ALIASES_FILE = "gene_aliases.tsv"
_VOCABULARY_COLUMNS = ("token_id", "ensembl_id", "median", "symbol")
PAD, MASK, CLS, EOS = SPECIAL_TOKENS = ("<pad>", "<mask>", "<cls>", "<eos>")
# Suffixes of Geneformer's dictionaries, newest name first; gc95M and gc104M are the same files.
_GENERATIONS = {"V2": ("gc104M", "gc95M"), "V1": ("gc30M",)}
_GENERATION_FOLDERS = ("", "geneformer", "geneformer/gene_dictionaries_30m", "gene_dictionaries_30m")
_FILE_STEMS = {
    "token": "token_dictionary",
    "median": "gene_median_dictionary",
    "symbol": "gene_name_id_dict",
    "mapping": "ensembl_mapping_dict",
}


@dataclass(frozen=True, eq=False)
class GeneVocabulary:
    """Genes with their token ids, medians and names.

    Args:
        tokens (`list[str]`):
            Ensembl id or special token of every token id, from 0 on. `<pad>` and `<mask>` are required; `<cls>` and
            `<eos>` are optional and open and close every cell.
        medians (`np.ndarray` of shape `(len(tokens),)`):
            Non-zero median of each gene over a corpus, in counts per 10,000; NaN for special tokens.
        symbols (`list[str]`):
            Current symbol of each gene, empty if unknown.
        aliases (`dict[str, str]`):
            Ensembl id of each further name: former symbols and retired Ensembl ids. Defaults to none.
        max_genes (`int`, defaults to 4096):
            Maximum length of a ranked cell in the vocabulary's corpus, special tokens included.

    Raises:
        ValueError: If a required token is missing, a gene appears twice, or a gene has no positive median.

    Examples:

    ```python
    >>> medians = np.array([np.nan, np.nan, 1.5])
    >>> vocabulary = GeneVocabulary(["<pad>", "<mask>", "ENSG00000141510"], medians, ["", "", "TP53"])
    >>> vocabulary.map_genes(["TP53", "ENSG00000141510.18", "Trp53"])[0].tolist()
    [2, 2, -1]

    ```
    """

    tokens: list[str]
    medians: np.ndarray
    symbols: list[str]
    aliases: dict[str, str] = field(default_factory=dict)
    max_genes: int = 4096

    def __post_init__(self):
        missing = [token for token in (PAD, MASK) if token not in self.token_ids]
        if missing:
            raise UserError(f"The gene vocabulary lacks {missing}, found {self.tokens[:4]} as its first tokens.")
        if len(self.token_ids) != len(self.tokens):
            raise UserError(f"The gene vocabulary lists {len(self.tokens) - len(self.token_ids)} genes twice.")
        genes = np.array([token not in SPECIAL_TOKENS for token in self.tokens])
        bad = genes & ~((self.medians > 0) & np.isfinite(self.medians))
        if bad.any():
            first = self.tokens[int(bad.argmax())]
            raise UserError(f"{bad.sum()} genes of the vocabulary have no positive median (first: {first!r}).")

    def __len__(self) -> int:
        return len(self.tokens)

    def __deepcopy__(self, memo):
        return self  # immutable, and large

    @cached_property
    def token_ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    @property
    def pad_token_id(self) -> int:
        return self.token_ids[PAD]

    @property
    def mask_token_id(self) -> int:
        return self.token_ids[MASK]

    @property
    def cls_token_id(self) -> int | None:
        return self.token_ids.get(CLS)

    @property
    def eos_token_id(self) -> int | None:
        return self.token_ids.get(EOS)

    @property
    def frame_token_ids(self) -> tuple[int, ...]:
        """Ids of `<cls>` and `<eos>`, which open and close every ranked cell; those that the vocabulary has."""
        return tuple(self.token_ids[token] for token in (CLS, EOS) if token in self.token_ids)

    @property
    def dtype(self) -> np.dtype:
        """Smallest unsigned type that holds every token id."""
        return np.dtype(np.uint16 if len(self) <= 2**16 else np.uint32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and medians, which ranked cells depend on."""
        text = "\n".join(f"{token}\t{median!r}" for token, median in zip(self.tokens, self.medians.tolist()))
        return hashlib.sha256(text.encode()).hexdigest()

    def map_genes(self, names) -> tuple[np.ndarray, np.ndarray]:
        """Look up gene names. A name that several routes know takes the first one in `ROUTES`.

        Args:
            names (iterable of `str`): Ensembl ids with or without a version, symbols, aliases or retired ids.

        Returns:
            Token ids of shape `(n_names,)`, -1 if unmapped, and indices into `ROUTES` of the same shape.
        """
        return map_names(names, self._routes_by_name.get)

    @cached_property
    def _routes_by_name(self) -> dict[str, tuple[int, int]]:
        """Token id and route of every name."""
        by_id, by_symbol, retired, alias = map(ROUTES.index, ("ensembl_id", "symbol", "retired_id", "alias"))
        token_ids = self.token_ids
        found = {
            name: (token_ids[target], retired if name.startswith("ENS") else alias)
            for name, target in self.aliases.items()
        }
        # Of genes that share a symbol, the first one keeps it: readthrough genes have later ids.
        found |= {symbol: (index, by_symbol) for index, symbol in reversed([*enumerate(self.symbols)]) if symbol}
        found |= {name: (index, by_id) for name, index in token_ids.items() if name not in SPECIAL_TOKENS}
        return found

    def save_pretrained(self, save_directory: str | os.PathLike) -> list[str]:
        """Write the vocabulary to a folder as two tables of tab-separated text, and return their paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        rows = zip(range(len(self)), self.tokens, self.medians.tolist(), self.symbols)
        lines = ["\t".join(_VOCABULARY_COLUMNS)]
        lines += [
            f"{index}\t{token}\t{'' if median != median else repr(median)}\t{symbol}"
            for index, token, median, symbol in rows
        ]
        aliases = ["alias\tensembl_id", *(f"{alias}\t{target}" for alias, target in sorted(self.aliases.items()))]
        paths = [folder / VOCABULARY_FILE, folder / ALIASES_FILE]
        header = f"# max_genes={self.max_genes}"
        _write_atomically(paths[0], "\n".join([header, *lines]) + "\n")
        _write_atomically(paths[1], "\n".join(aliases) + "\n")
        return [str(path) for path in paths]

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, *, generation: str | None = None, **hub_kwargs
    ) -> "GeneVocabulary":
        """Load a vocabulary from a folder or a Hub repository.

        Args:
            name_or_path (`str` or `PathLike`):
                A saved Cell2Text model or vocabulary, or Geneformer's own repository.
            generation (`"V1"` or `"V2"`, *optional*):
                Geneformer generation to load from a repository that holds both. Defaults to V2.
            **hub_kwargs:
                `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder`.

        Raises:
            ValueError: If there is no vocabulary, its table is damaged, or a pickle holds more than a plain table.
        """
        path = _find_file(name_or_path, VOCABULARY_FILE, hub_kwargs)
        if path is not None:
            aliases_path = _find_file(name_or_path, ALIASES_FILE, hub_kwargs)
            return _parse_tables(path, _read_text(path), aliases_path, _read_text(aliases_path))
        return cls._from_geneformer(name_or_path, generation, hub_kwargs)

    @classmethod
    def _from_geneformer(cls, name_or_path, generation: str | None, hub_kwargs: dict) -> "GeneVocabulary":
        if generation is not None and generation not in _GENERATIONS:
            raise UserError(f"generation={generation!r}: Geneformer has {' and '.join(map(repr, _GENERATIONS))}.")
        for candidate in [generation] if generation else _GENERATIONS:
            suffixes = _GENERATIONS[candidate]
            suffix = next((s for s in suffixes if _find_dictionary(name_or_path, "token", s, hub_kwargs)), None)
            if suffix is None:
                continue
            tables = {
                name: _read_pickled_table(_find_dictionary(name_or_path, name, suffix, hub_kwargs))
                for name in _FILE_STEMS
            }
            logger.info(f"Gene vocabulary: Geneformer {candidate} ({suffix}), {len(tables['token']):,} tokens.")
            return cls._from_tables(**tables, max_genes=2048 if candidate == "V1" else 4096)
        raise UserError(
            f"No gene vocabulary in {str(name_or_path)!r}: expected {VOCABULARY_FILE} (a saved Cell2Text model or "
            f"vocabulary) or {', '.join(f'token_dictionary_{s[0]}.pkl' for s in _GENERATIONS.values())} (Geneformer)."
        )

    @classmethod
    def _from_tables(cls, token: dict, median: dict, symbol: dict, mapping: dict, max_genes: int) -> "GeneVocabulary":
        tokens = sorted(token, key=lambda name: token[name])
        if [int(token[name]) for name in tokens] != list(range(len(tokens))):
            raise UserError(f"The ids of the token dictionary have gaps: expected 0 to {len(tokens) - 1}.")
        current: dict[str, str] = {}
        further: dict[str, str] = {}
        for name, gene in symbol.items():
            if gene in token and name != gene:
                (further if gene in current else current).setdefault(
                    *((name, gene) if gene in current else (gene, name))
                )
        aliases = {name: gene for name, gene in mapping.items() if gene in token and name != gene}
        names = set(current.values())
        return cls(
            tokens=tokens,
            medians=np.array([float(median.get(name, np.nan)) for name in tokens]),
            symbols=[current.get(name, "") for name in tokens],
            aliases={name: gene for name, gene in {**further, **aliases}.items() if name not in names},
            max_genes=max_genes,
        )


@lru_cache(maxsize=2)  # a vocabulary is immutable, and every call that names a model loads it
def _parse_tables(path: str, text: str, aliases_path: str | None, aliases_text: str) -> GeneVocabulary:
    """Read a vocabulary from the texts of its two files; raise `UserError` that names the damaged file."""
    lines = text.splitlines()
    header = re.fullmatch(r"# max_genes=(\d+)", lines[0]) if lines else None
    if header is None or tuple(lines[1:2]) != ("\t".join(_VOCABULARY_COLUMNS),):
        raise UserError(
            f"{path} is not a gene vocabulary: expected the columns {_VOCABULARY_COLUMNS}, found "
            f"{str(lines[:2])[:300]}."
        )
    rows = [line.split("\t") for line in lines[2:]]
    for number, row in enumerate(rows):
        if len(row) != len(_VOCABULARY_COLUMNS) or row[0] != str(number):
            raise UserError(f"{path} is damaged: line {number + 3} reads {str(row)[:300]}, expected token {number}.")
    pairs = [line.split("\t") for line in aliases_text.splitlines()[1:]]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{aliases_path} is damaged: expected two columns, a name and an Ensembl id.")
    try:
        medians = np.array([float(row[2] or "nan") for row in rows])
        max_genes = int(header[1])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {str(error)[:300]}.") from error
    return GeneVocabulary(
        tokens=[row[1] for row in rows],
        medians=medians,
        symbols=[row[3] for row in rows],
        aliases=dict(pairs),
        max_genes=max_genes,
    )


def _read_text(path: str | None) -> str:
    """Return the text of a file, empty without one; raise `UserError` if it is not UTF-8."""
    try:
        return "" if path is None else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: it is not UTF-8 text ({error.reason}).") from error


def _find_dictionary(name_or_path, table: str, suffix: str, hub_kwargs: dict) -> str | None:
    """Return the path of one of Geneformer's dictionaries, or None if no folder of the repository holds it."""
    name = f"{_FILE_STEMS[table]}_{suffix}.pkl"
    names = (f"{folder}/{name}".lstrip("/") for folder in _GENERATION_FOLDERS)
    return next(filter(None, (_find_file(name_or_path, name, hub_kwargs) for name in names)), None)


def _find_file(name_or_path, filename: str, hub_kwargs: dict) -> str | None:
    """Return the path of a file in a local folder or a Hub repository, or None if there is no such file."""
    if os.path.isdir(name_or_path):
        path = Path(name_or_path, hub_kwargs.get("subfolder") or "", filename)
        return str(path) if path.is_file() else None
    from transformers.utils import cached_file  # takes seconds to import, and a local folder does not need it

    return cached_file(str(name_or_path), filename, _raise_exceptions_for_missing_entries=False, **hub_kwargs)


class _TableUnpickler(pickle.Unpickler):
    """Reads tables of names and numbers, and refuses everything else that a pickle can run."""

    ALLOWED = {
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _read_pickled_table(path: str | None) -> dict:
    """Read a dictionary of names and numbers from a pickle without running its code.

    Raises:
        ValueError: If the file is missing, unreadable, or holds anything but such a dictionary.
    """
    if path is None:
        raise UserError(f"The Geneformer folder lacks a dictionary: it needs {', '.join(_FILE_STEMS.values())}.")
    try:
        with open(path, "rb") as file:
            table = _TableUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} is not a plain dictionary of genes ({error}): it was refused, and none of its code was run."
        ) from error
    plain = isinstance(table, dict) and all(
        isinstance(key, str) and isinstance(value, (str, int, float, np.number)) for key, value in table.items()
    )
    if not plain:
        raise UserError(f"{path} is not a plain dictionary of genes: found {type(table).__name__}.")
    return table


def _write_atomically(path: Path, text: str):
    """Write a file beside its target and rename it, so that a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
