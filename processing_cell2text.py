"""The Cell2Text processor: cells and chat messages in, model inputs out.

`ranking_cell2text.py` ranks the genes of an AnnData, with the vocabulary of `vocabulary_cell2text.py`. The processor
alone decides how many placeholders stand for a cell; the model only checks that they match.
"""

import copy
import re
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging


try:
    from .collation_cell2text import Cell2TextDataCollator
except ImportError:
    from collation_cell2text import Cell2TextDataCollator

try:
    from .declining_cell2text import EMPTY_CELL_TEXT, too_few_genes_text
except ImportError:
    from declining_cell2text import EMPTY_CELL_TEXT, too_few_genes_text

try:
    from .errors_cell2text import UserError, excess
except ImportError:
    from errors_cell2text import UserError, excess

try:
    from .gene_lists_cell2text import rank_gene_lists, replace_gene_lists
except ImportError:
    from gene_lists_cell2text import rank_gene_lists, replace_gene_lists

try:
    from .prompts_cell2text import SYSTEM_PROMPT, conversation_of, text_block
except ImportError:
    from prompts_cell2text import SYSTEM_PROMPT, conversation_of, text_block

try:
    from .ranking_cell2text import RankingReport, rank_anndata, rank_encode
except ImportError:
    from ranking_cell2text import RankingReport, rank_anndata, rank_encode

try:
    from .vocabulary_cell2text import GeneVocabulary
except ImportError:
    from vocabulary_cell2text import GeneVocabulary


logger = logging.get_logger(__name__)

CELL_TOKEN = "<cell>"
INSTRUCTION = "Describe this cell."
MOST_CELL_TOKENS = 100_000
# For tokenizers without a chat template. Each role stands on a line of its own: after "assistant: ", a byte-level
# tokenizer would merge the blank with the first word of an answer, and a prompt would end in a token that training
# never saw.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
_LOAD_ONLY_KWARGS = ("is_local", "local_files_only")  # how a tokenizer was loaded, not what it is


class Cell2TextProcessor(ProcessorMixin):
    r"""Converts cells and text to the inputs of a [`Cell2TextForConditionalGeneration`].

    The gene vocabulary is set by [`~Cell2TextProcessor.from_components`] and [`~ProcessorMixin.from_pretrained`], and
    saved beside the processor as plain text. Texts are padded on the left unless a call passes `padding_side`.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The language model's tokenizer. `cell_token` must be one of its special tokens.
        chat_template (`str`, *optional*):
            Chat template. Defaults to the tokenizer's own.
        cell_token (`str`, defaults to `"<cell>"`):
            Placeholder for one cell in a text. The processor expands it to `num_cell_tokens` tokens.
        num_cell_tokens (`int`, defaults to 256):
            Number of text positions that each cell fills.
        max_genes (`int`, defaults to 4096):
            Maximum length of a ranked cell, special tokens included. Longer cells keep their highest-ranked genes.
        min_genes (`int`, defaults to 0):
            Minimum number of expressed genes for a description. For a cell with fewer genes, no text is generated: a
            sentence states that its counts are too few. Cells without genes never have a description.
        system_prompt (`str`):
            System message of [`~Cell2TextProcessor.conversation`]. An empty string omits the message.
        instruction (`str`):
            User message of [`~Cell2TextProcessor.conversation`].
    """

    text_kwargs = {"padding": True}

    def __init__(
        self,
        tokenizer=None,
        chat_template=None,
        cell_token=CELL_TOKEN,
        num_cell_tokens=256,
        max_genes=4096,
        system_prompt=SYSTEM_PROMPT,
        instruction=INSTRUCTION,
        min_genes=0,
    ):
        for name, value in (("num_cell_tokens", num_cell_tokens), ("max_genes", max_genes), ("min_genes", min_genes)):
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise UserError(f"{name}={value!r}: expected an integer.")
        if num_cell_tokens < 1 or (reason := excess("NUM_CELL_TOKENS", num_cell_tokens, MOST_CELL_TOKENS)):
            raise UserError(f"num_cell_tokens={num_cell_tokens}: {reason or 'expected at least 1'}.")
        if not 0 <= min_genes <= max_genes:
            raise UserError(f"min_genes={min_genes}: expected a number of genes from 0 to max_genes={max_genes}.")
        self.cell_token = cell_token
        self.cell_token_id = tokenizer.convert_tokens_to_ids(cell_token)
        if self.cell_token_id is None or self.cell_token_id == tokenizer.unk_token_id:
            raise UserError(
                f"The tokenizer does not know the placeholder {cell_token!r}: build the processor with "
                "Cell2TextProcessor.from_components(tokenizer, gene_vocab), which adds it."
            )
        self.num_cell_tokens = num_cell_tokens
        self.max_genes = max_genes
        self.min_genes = min_genes
        self.system_prompt = system_prompt
        self.instruction = instruction
        self.auto_map = {"AutoProcessor": "processing_cell2text.Cell2TextProcessor"}
        self._vocabulary: GeneVocabulary | None = None
        self._template_probes: dict[tuple, bool] = {}
        super().__init__(tokenizer, chat_template=chat_template or tokenizer.chat_template)

    @classmethod
    def from_components(
        cls,
        tokenizer,
        gene_vocab,
        *,
        num_cell_tokens=256,
        max_genes=None,
        cell_token=CELL_TOKEN,
        generation=None,
        **kwargs,
    ) -> "Cell2TextProcessor":
        """Build a processor from a language model's tokenizer and a cell encoder's gene vocabulary.

        Args:
            tokenizer (`str`, `PathLike` or `PreTrainedTokenizerBase`):
                The language model's tokenizer: a folder, a Hub id, or an object, which is copied. The copy gets the
                placeholder, and the end-of-text token as its padding token if it has none.
            gene_vocab (`str`, `PathLike` or `GeneVocabulary`):
                The encoder's vocabulary: a Geneformer folder or Hub id, or a saved vocabulary.
            num_cell_tokens (`int`, defaults to 256):
                Number of text positions that each cell fills.
            max_genes (`int`, *optional*):
                Maximum length of a ranked cell, special tokens included. Defaults to the vocabulary's.
            cell_token (`str`, defaults to `"<cell>"`):
                Placeholder for one cell in a text.
            generation (`"V1"` or `"V2"`, *optional*):
                Geneformer generation of a folder that holds both. Defaults to V2.
            **kwargs:
                `chat_template`, `system_prompt`, `instruction`, `min_genes`.
        """
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = copy.deepcopy(tokenizer)
        else:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        if not isinstance(gene_vocab, GeneVocabulary):
            gene_vocab = GeneVocabulary.from_pretrained(gene_vocab, generation=generation)
        if cell_token not in tokenizer.get_vocab():
            tokenizer.add_special_tokens({"extra_special_tokens": [cell_token]}, replace_extra_special_tokens=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.chat_template is None and kwargs.get("chat_template") is None:
            logger.warning("The tokenizer has no chat template: Cell2Text's plain `role: text` template is used.")
            kwargs["chat_template"] = DEFAULT_CHAT_TEMPLATE
        processor = cls(
            tokenizer,
            cell_token=cell_token,
            num_cell_tokens=num_cell_tokens,
            max_genes=max_genes or gene_vocab.max_genes,
            **kwargs,
        )
        processor.gene_vocabulary = gene_vocab
        return processor

    @property
    def gene_vocabulary(self) -> GeneVocabulary:
        if self._vocabulary is None:
            raise UserError("This processor has no gene vocabulary: build it with Cell2TextProcessor.from_components.")
        return self._vocabulary

    @gene_vocabulary.setter
    def gene_vocabulary(self, vocabulary: GeneVocabulary):
        self._vocabulary = vocabulary

    @property
    def unused_input_names(self) -> list[str]:
        return ["token_type_ids"]

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "cell_input_ids", "cell_attention_mask"]

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        for name in _LOAD_ONLY_KWARGS:
            self.tokenizer.init_kwargs.pop(name, None)
        files = super().save_pretrained(save_directory)
        if self._vocabulary is not None:
            files += self._vocabulary.save_pretrained(save_directory)
        if push_to_hub:  # the base class would upload its own files alone
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub_kwargs = {name: kwargs[name] for name in _HUB_KWARGS if kwargs.get(name) is not None}
        processor.gene_vocabulary = GeneVocabulary.from_pretrained(pretrained_model_name_or_path, **hub_kwargs)
        return processor

    def rank_encode(
        self, adata, *, layer=None, gene_key=None, allow_fractional=False, species="human"
    ) -> list[np.ndarray]:
        """Rank the genes of every cell of an AnnData, in memory or backed.

        Args:
            adata (`AnnData`):
                Raw counts, cells by genes.
            layer (`str`, *optional*):
                Layer of the counts, `"X"`, or `"raw"` for `adata.raw`. Defaults to the matrix that holds integers.
            gene_key (`str`, *optional*):
                Column of `var` with Ensembl ids or gene symbols, or `"index"`. Defaults to the column with the most
                genes in the vocabulary.
            allow_fractional (`bool`, defaults to `False`):
                Accept non-integer counts, such as RSEM's expected counts. Otherwise they raise an error.
            species (`str`, defaults to `"human"`):
                `"mouse"` maps mouse genes to human genes by one-to-one orthologs.

        Returns:
            One 1-D array of gene token ids per cell, special tokens included, in the order of the file.

        Raises:
            ValueError: If the values are not counts, or the genes are not in the vocabulary.
            KeyError: If the layer or the column does not exist.
        """
        options = {"layer": layer, "gene_key": gene_key, "allow_fractional": allow_fractional, "species": species}
        cells, report = self.rank_encode_with_report(adata, **options)
        logger.info(str(report))
        return cells

    def rank_encode_with_report(self, adata, **options) -> tuple[list[np.ndarray], RankingReport]:
        """Rank the genes of every cell, and report how many genes and counts were mapped, lost and truncated.

        Args:
            adata (`AnnData`): Raw counts, cells by genes.
            **options: `layer`, `gene_key`, `allow_fractional` and `species` of [`~Cell2TextProcessor.rank_encode`].
        """
        return rank_anndata(adata, self.gene_vocabulary, max_genes=self.max_genes, **options)

    def rank_gene_lists(self, lists, *, species="human") -> list[np.ndarray]:
        """Convert ranked gene lists to gene tokens.

        Genes that the model does not know are skipped, and logged. A gene that a list names twice keeps its first
        place.

        Args:
            lists (`list[list[str]]`):
                Gene symbols or Ensembl ids per cell, highest expression first.
            species (`str`, defaults to `"human"`):
                `"mouse"` maps mouse genes to human genes by one-to-one orthologs.

        Returns:
            One 1-D array of gene token ids per list, special tokens included.

        Raises:
            ValueError: If an entry is not the name of one gene, or fewer than half of the names are known.

        Examples:

        ```python
        >>> import cell2text
        >>> _, processor = cell2text.load()
        >>> [cell.tolist() for cell in processor.rank_gene_lists([["CD3D", "ENSG00000010610.10"], []])]
        [[2, 11994, 270, 3], [2, 3]]

        ```
        """
        ranked = rank_gene_lists(lists, self.gene_vocabulary, max_genes=self.max_genes, species=species)
        if ranked.note:
            logger.warning(ranked.note)
        return ranked.cells

    def encode_gene_lists(self, cells):
        """Replace gene lists in nested lists of cells by gene tokens; cells of gene tokens stay unchanged."""
        return replace_gene_lists(cells, self.rank_gene_lists)

    def is_empty(self, cell) -> bool:
        """Return whether a ranked cell holds no genes, only special tokens."""
        return self.count_genes(cell) == 0

    def count_genes(self, cell) -> int:
        """Return the number of genes of a ranked cell, without special tokens."""
        ids = np.asarray(cell, dtype=np.int64)  # `np.isin` takes several times as long for a few tokens
        return ids.size - sum(int((ids == token).sum()) for token in self.gene_vocabulary.frame_token_ids)

    def reason_not_described(self, cell) -> str | None:
        """Return the text of a ranked cell that cannot be described, which states why; `None` for any other cell.

        A cell without genes cannot be described, nor one with fewer genes than `min_genes`.

        Args:
            cell (`np.ndarray` or `list[int]`): Gene token ids of one cell.

        Examples:

        ```python
        >>> import cell2text
        >>> _, processor = cell2text.load()
        >>> processor.reason_not_described([])
        'This cell cannot be described: it has no counts on the genes that the model knows.'

        ```
        """
        n_genes = self.count_genes(cell)
        if n_genes == 0:
            return EMPTY_CELL_TEXT
        return too_few_genes_text(n_genes, self.min_genes) if n_genes < self.min_genes else None

    def conversation(self, n_cells: int = 1, instruction: str | None = None) -> list[dict]:
        """Return the default prompt as chat messages: the system prompt, then the cells and an instruction.

        Args:
            n_cells (`int`, defaults to 1): Number of cell blocks.
            instruction (`str`, *optional*): Text after the cells. Defaults to the processor's `instruction`.
        """
        return conversation_of(instruction or self.instruction, self.system_prompt, n_cells=n_cells)

    def data_collator(self, **options) -> Cell2TextDataCollator:
        """Return the data collator for TRL's `SFTTrainer` and `DPOTrainer` and for `transformers.Trainer`.

        Args:
            **options: `max_length` and `pad_to_multiple_of` of [`Cell2TextDataCollator`].
        """
        return Cell2TextDataCollator(self, **options)

    def __call__(self, text=None, cells=None, **kwargs) -> BatchFeature:
        """Tokenize text and pad cells.

        Args:
            text (`str` or `list[str]`, *optional*):
                Prompts. Each placeholder in them stands for one cell.
            cells (`AnnData` or `list`, *optional*):
                Ranked cells in the order of their placeholders: a list of cells per text, or one cell per text. A
                cell is a sequence of gene token ids, or a list of gene symbols or Ensembl ids, highest first. An
                AnnData supplies one cell per text.
            **kwargs:
                The tokenizer's arguments, and `return_tensors`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(batch, length)`, and `cell_input_ids` and
            `cell_attention_mask` of shape `(batch, n_cells, n_genes)`.

        Raises:
            ValueError: If placeholders and cells differ in number, or `max_length` cuts a cell.
        """
        for modality in ("images", "videos", "audio"):  # `apply_chat_template` always passes them
            if kwargs.pop(modality, None) is not None:
                raise UserError(f"Cell2Text reads text and cells, but got {modality}.")
        if text is None and cells is None:
            raise UserError("Pass text, cells or both.")
        inputs = BatchFeature()
        if text is not None:
            side = {} if "padding_side" in kwargs.get("text_kwargs", {}) else {"padding_side": "left"}
            inputs = super().__call__(text=text, **{**side, **kwargs})
        if cells is not None:
            cells = self.rank_encode(cells) if hasattr(cells, "obs_names") else self.encode_gene_lists(cells)
            nested = self._nest_cells(cells, one_text=isinstance(text, str))
            if text is not None:
                self._check_counts([text] if isinstance(text, str) else list(text), nested)
            tensor_type = self._merge_kwargs(**kwargs)["text_kwargs"].get("return_tensors")
            inputs.update(BatchFeature(self.pad_cells(nested), tensor_type=tensor_type))
        return inputs

    @property
    def all_special_multimodal_tokens(self) -> list[str]:
        return [self.cell_token]

    def get_text_with_replacements(self, text, images_replacements=(), videos_replacements=(), audio_replacements=()):
        """Expand the placeholders, and return where each text grew."""
        return [self.expand(item) for item in text], [self._replacement_offsets(item) for item in text]

    def expand(self, text: str) -> str:
        """Repeat every placeholder `num_cell_tokens` times."""
        return text.replace(self.cell_token, self.cell_token * self.num_cell_tokens)

    def _replacement_offsets(self, text: str) -> list[dict]:
        width = len(self.cell_token)
        expanded = width * self.num_cell_tokens
        starts = [match.start() for match in re.finditer(re.escape(self.cell_token), text)]
        shifted = [start + i * (expanded - width) for i, start in enumerate(starts)]
        return [{"span": (a, a + width), "new_span": (b, b + expanded)} for a, b in zip(starts, shifted)]

    def _check_special_mm_tokens(self, text, text_inputs, modalities):
        """Raise if truncation removed placeholders from an expanded text."""
        for item, ids in zip(text, text_inputs["input_ids"]):
            ids = ids.tolist() if hasattr(ids, "tolist") else ids
            expected, found = item.count(self.cell_token), ids.count(self.cell_token_id)
            if found != expected:
                raise UserError(
                    f"max_length={len(ids)} cut the prompt: {found} of {expected} {self.cell_token} tokens are left. "
                    f"Raise it to at least {len(self.tokenizer(item)['input_ids'])}."
                )

    def _nest_cells(self, cells, one_text: bool) -> list[list]:
        """Group cells into one list per text."""
        if one_text and (is_cell(cells) or all(map(is_cell, cells))):
            return [[cells] if is_cell(cells) else list(cells)]
        return [[item] if is_cell(item) else list(item) for item in cells]

    def _check_counts(self, texts: list[str], cells: list[list]):
        placeholders, found = [item.count(self.cell_token) for item in texts], [len(item) for item in cells]
        if placeholders != found:
            raise UserError(
                f"The texts hold {placeholders} {self.cell_token} placeholders but came with {found} cells: each "
                "text needs one cell per placeholder."
            )

    def pad_cells(self, cells: list[list], *, return_tensors=None, pad_to_multiple_of: int | None = None) -> dict:
        """Pad ranked cells into one block.

        Args:
            cells (`list[list]`):
                Ranked cells, one list per text. Cells longer than `max_genes` are truncated.
            return_tensors (`str`, *optional*):
                `"pt"` for torch tensors. Defaults to NumPy arrays.
            pad_to_multiple_of (`int`, *optional*):
                Round the padded length up to a multiple of this. Defaults to the length of the longest cell.

        Returns:
            `cell_input_ids` and `cell_attention_mask`, int64, both of shape `(batch, n_cells, n_genes)`. The mask of a
            slot without a cell is 0 everywhere. A cell without genes keeps a 1 on its first position.

        Raises:
            ValueError: If a token id is not in the vocabulary.
        """
        vocabulary = self.gene_vocabulary
        arrays = [[self._truncate(np.asarray(cell, dtype=np.int64)) for cell in row] for row in cells]
        length = max([1, *(len(cell) for row in arrays for cell in row)])
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        shape = (len(arrays), max([1, *map(len, arrays)]), length)
        ids, mask = np.full(shape, vocabulary.pad_token_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, row in enumerate(arrays):
            for j, cell in enumerate(row):
                if cell.size and not (cell.min() >= 0 and cell.max() < len(vocabulary)):
                    token = cell.max() if cell.max() >= len(vocabulary) else cell.min()
                    raise UserError(
                        f"Cell {j} of text {i} holds token {token}, but the vocabulary has {len(vocabulary):,} tokens: "
                        "it was ranked with another vocabulary."
                    )
                ids[i, j, : len(cell)] = cell
                mask[i, j, : max(1, len(cell))] = 1
        if return_tensors == "pt":
            return {"cell_input_ids": torch.from_numpy(ids), "cell_attention_mask": torch.from_numpy(mask)}
        return {"cell_input_ids": ids, "cell_attention_mask": mask}

    def _truncate(self, cell: np.ndarray) -> np.ndarray:
        if len(cell) <= self.max_genes:
            return cell
        closing = cell[-1:] if cell[-1] == self.gene_vocabulary.eos_token_id else cell[:0]
        return np.concatenate([cell[: self.max_genes - len(closing)], closing])

    def apply_chat_template(self, conversation, chat_template=None, processor_kwargs=None, **kwargs):
        """Render conversations whose messages may hold cells. See `ProcessorMixin.apply_chat_template`.

        A message's content is a string or a list of blocks: `{"type": "text", "text": ...}`, and
        `{"type": "cell", "cell": ranked_genes}`, or `{"type": "cell"}` if `processor_kwargs` holds the cells. A
        template that reads blocks gets blocks, any other gets strings. If a template has no system role, the system
        message is placed before the user's.
        """
        template = self._resolve_chat_template(chat_template)
        conversations, batched = self._normalize_conversations(conversation)
        flat, cells = zip(*(self._flatten(item, template) for item in conversations))
        if any(cells):
            processor_kwargs = {**(processor_kwargs or {}), "cells": list(cells)}
        if not kwargs.get("tokenize", False):
            processor_kwargs = {k: v for k, v in (processor_kwargs or {}).items() if k != "cells"}
        return super().apply_chat_template(
            list(flat) if batched else flat[0], chat_template=template, processor_kwargs=processor_kwargs, **kwargs
        )

    def _flatten(self, conversation: list[dict], template: str) -> tuple[list[dict], list]:
        """Replace cell blocks by placeholders, and convert every content to the form that the template reads."""
        cells: list = []
        messages = [{**message, "content": self._texts(message, cells)} for message in conversation]
        if messages[0]["role"] == "system" and len(messages) > 1 and not self._reads_system(template):
            system, user, *rest = messages
            messages = [{**user, "content": [*system["content"], "\n\n", *user["content"]]}, *rest]
        reads_blocks = self._reads_blocks(template)
        for message in messages:
            texts = message.pop("content")
            if texts or "tool_calls" not in message:
                blocks = [{"type": "text", "text": text} for text in texts]
                message["content"] = blocks if reads_blocks else "".join(texts)
        return messages, cells

    def _texts(self, message: dict, cells: list) -> list[str]:
        """Return the texts of a message, a placeholder for each cell block, and append its cells to `cells`."""
        content = message.get("content")
        texts = []
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            if block["type"] not in ("text", "cell"):
                raise UserError(
                    f"A message holds a block of type {block['type']!r}; Cell2Text reads 'text' and 'cell'."
                )
            texts.append(block["text"] if block["type"] == "text" else self.cell_token)
            if block["type"] == "cell" and block.get("cell") is not None:
                cells.append(block["cell"])
        return texts

    def _reads_blocks(self, template: str) -> bool:
        """Return whether a template renders content blocks."""
        return self._renders(template, [{"role": "user", "content": [text_block("PROBE")]}])

    def _reads_system(self, template: str) -> bool:
        """Return whether a template renders system messages, as a string or as blocks."""
        probes = [
            [{"role": role, "content": as_content(text)} for role, text in (("system", "PROBE"), ("user", "user"))]
            for as_content in (str, lambda text: [text_block(text)])
        ]
        return any(self._renders(template, probe) for probe in probes)

    def _renders(self, template: str, probe: list[dict]) -> bool:
        key = (template, repr(probe))
        if key not in self._template_probes:
            try:
                text = self.tokenizer.apply_chat_template(probe, chat_template=template, tokenize=False)
            except (TemplateError, TypeError):  # `raise_exception` in the template; a string joined with a list
                text = ""
            self._template_probes[key] = "PROBE" in text and "'type'" not in text and '"type"' not in text
        return self._template_probes[key]


def is_cell(value) -> bool:
    """Return whether a value is one ranked cell: a flat sequence of numbers."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype != object
    if isinstance(value, torch.Tensor):
        return value.ndim == 1
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (int, np.integer))


Cell2TextProcessor.register_for_auto_class()

__all__ = ["Cell2TextProcessor", "GeneVocabulary", "rank_encode"]
