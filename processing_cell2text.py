"""The Cell2Text processor: cells and chat in, model inputs out.

An AnnData is ranked by `ranking_cell2text.py` with the vocabulary of `vocabulary_cell2text.py`. The processor alone
decides how many placeholders stand for a cell; the model only checks that they match.
"""

import os

import numpy as np
import torch
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging


try:
    from .collation_cell2text import Cell2TextDataCollator
except ImportError:
    from collation_cell2text import Cell2TextDataCollator

try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

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
SYSTEM_PROMPT = (
    "You are a scientific assistant for single-cell biology. You read the expression profile of a single cell and "
    "answer "
    "in plain, accurate sentences."
)
INSTRUCTION = "Describe this cell."
EMPTY_CELL_TEXT = "This cell cannot be described: it has no counts on the genes that the model knows."
# For language models whose tokenizer has no chat template of its own.
# A role ends with its line: a byte-level tokenizer makes one token of a blank and the answer's first word, and text
# would be generated after a blank that no training row has.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ':\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class Cell2TextProcessor(ProcessorMixin):
    r"""Turns cells and text into the inputs of a [`Cell2TextForConditionalGeneration`].

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The language model's tokenizer, which knows `cell_token` as one special token.
        chat_template (`str`, *optional*):
            Chat template; the tokenizer's own when left out.
        cell_token (`str`, defaults to `"<cell>"`):
            Placeholder; one in a text stands for one cell and is expanded to `num_cell_tokens`.
        num_cell_tokens (`int`, defaults to 256):
            Features of one cell.
        max_genes (`int`, defaults to 4096):
            Length of a ranked cell, special tokens included, as Geneformer counts it.
        system_prompt (`str`): System message of [`~Cell2TextProcessor.conversation`].
        instruction (`str`): User message of [`~Cell2TextProcessor.conversation`].

    The gene vocabulary is set by [`~Cell2TextProcessor.from_components`] and [`~ProcessorMixin.from_pretrained`], and
    saved beside the processor as plain text.
    """

    text_kwargs = {"padding": True, "return_token_type_ids": False}

    def __init__(
        self,
        tokenizer=None,
        chat_template=None,
        cell_token=CELL_TOKEN,
        num_cell_tokens=256,
        max_genes=4096,
        system_prompt=SYSTEM_PROMPT,
        instruction=INSTRUCTION,
    ):
        self.cell_token = cell_token
        self.cell_token_id = tokenizer.convert_tokens_to_ids(cell_token)
        if self.cell_token_id is None or self.cell_token_id == tokenizer.unk_token_id:
            raise UserError(
                f"The tokenizer does not know the placeholder {cell_token!r}: build the processor with "
                f"Cell2TextProcessor.from_components(tokenizer, gene_vocab), which adds it."
            )
        tokenizer.padding_side = "left"  # generation goes on at the right; not every tokenizer saves this
        self.num_cell_tokens = num_cell_tokens
        self.max_genes = max_genes
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
        """Build a processor for a language model and an encoder.

        Args:
            tokenizer (`str`, `PathLike` or `PreTrainedTokenizerBase`):
                The language model's tokenizer; the placeholder is added to it, and it pads on the left.
            gene_vocab (`str`, `PathLike` or `GeneVocabulary`):
                The encoder's vocabulary: a Geneformer folder or Hub id, or a saved vocabulary.
            num_cell_tokens (`int`, defaults to 256): Features of one cell.
            max_genes (`int`, *optional*): Longest ranked cell; the vocabulary's own when left out.
            cell_token (`str`, defaults to `"<cell>"`): Placeholder.
            generation (`"V1"` or `"V2"`, *optional*): Geneformer generation, where a folder holds both.
            **kwargs: `chat_template`, `system_prompt`, `instruction`.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
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
    def model_input_names(self) -> list[str]:
        names = [name for name in self.tokenizer.model_input_names if name != "token_type_ids"]
        return [*names, "cell_input_ids", "cell_attention_mask"]

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        os.makedirs(save_directory, exist_ok=True)
        if self._vocabulary is not None:
            self._vocabulary.save_pretrained(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        hub_kwargs = {name: kwargs[name] for name in HUB_KWARGS if kwargs.get(name) is not None}
        processor.gene_vocabulary = GeneVocabulary.from_pretrained(pretrained_model_name_or_path, **hub_kwargs)
        return processor

    def rank_encode(self, adata, *, layer=None, gene_key=None, allow_fractional=False) -> list[np.ndarray]:
        """Rank every cell of an AnnData, in memory or backed, as the encoder reads it.

        Args:
            adata (`AnnData`): Raw counts, cells by genes.
            layer (`str`, *optional*): Layer with the counts, or `"raw"`; `X` when left out.
            gene_key (`str`, *optional*): Column of `var` with Ensembl ids or symbols, or `"index"`; found by itself.
            allow_fractional (`bool`, defaults to `False`): Accept expected counts that are no integers.

        Returns:
            One 1-D array of gene token ids a cell, special tokens included, in the order of the file.

        Raises:
            ValueError: If the values are no counts, or the genes are not the vocabulary's.
            KeyError: If the layer or the column does not exist.
        """
        options = {"layer": layer, "gene_key": gene_key, "allow_fractional": allow_fractional}
        cells, report = self.rank_encode_with_report(adata, **options)
        logger.info(str(report))
        return cells

    def rank_encode_with_report(self, adata, **options) -> tuple[list[np.ndarray], RankingReport]:
        """`rank_encode`, and what was mapped, lost and cut on the way."""
        return rank_anndata(adata, self.gene_vocabulary, max_genes=self.max_genes, **options)

    def is_empty(self, cell) -> bool:
        """Whether a ranked cell holds no gene, only special tokens."""
        vocabulary = self.gene_vocabulary
        special = [token for token in (vocabulary.cls_token_id, vocabulary.eos_token_id) if token is not None]
        return bool(np.isin(np.asarray(cell, dtype=np.int64), special).all())

    def conversation(self, n_cells: int = 1, instruction: str | None = None) -> list[dict]:
        """The model's usual prompt: a system message, unless it is empty, then the cells and an instruction."""
        return conversation_of(instruction or self.instruction, self.system_prompt, n_cells=n_cells)

    def data_collator(self, **options) -> Cell2TextDataCollator:
        """Return the data collator for fine-tuning: with TRL's `SFTTrainer`, `DPOTrainer`, or `transformers.Trainer`.

        Args:
            **options: Arguments of [`Cell2TextDataCollator`]: `max_length`, `pad_to_multiple_of`.
        """
        return Cell2TextDataCollator(self, **options)

    def __call__(self, text=None, cells=None, **kwargs) -> BatchFeature:
        """Tokenize text and pad cells.

        Args:
            text (`str` or `list[str]`, *optional*):
                Prompts; each placeholder in them stands for one cell.
            cells (`AnnData` or `list`, *optional*):
                Ranked cells, in the order of their placeholders: a list of cells for each text, or one cell for each
                text. An AnnData gives one cell for each text.
            **kwargs:
                The tokenizer's arguments, and `return_tensors`.

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` of shape `(batch, length)`, and `cell_input_ids` and
            `cell_attention_mask` of shape `(batch, n_cells, n_genes)`.

        Raises:
            ValueError: If placeholders and cells differ in number, or `max_length` cuts a cell.
        """
        for modality in ("images", "videos", "audio"):  # apply_chat_template always names them
            if kwargs.pop(modality, None) is not None:
                raise UserError(f"Cell2Text reads text and cells, but got {modality}.")
        if text is None and cells is None:
            raise UserError("Pass text, cells or both.")
        options = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)["text_kwargs"]
        return_tensors = options.get("return_tensors")
        data = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not all(isinstance(item, str) for item in texts):
                raise UserError("text must be a string or a list of strings.")
            data.update(self._tokenize(texts, options))
        if cells is not None:
            if hasattr(cells, "obs_names"):
                cells = self.rank_encode(cells)
            nested = self._nest_cells(cells, one_text=isinstance(text, str))
            if text is not None:
                self._check_counts(texts, nested)
            data.update(self.pad_cells(nested))
        return BatchFeature(data, tensor_type=return_tensors)

    def _tokenize(self, texts: list[str], options: dict) -> dict:
        want_offsets = options.pop("return_text_replacement_offsets", False)
        options.pop("return_mm_token_type_ids", None)
        return_tensors = options.pop("return_tensors", None)
        encoded = dict(self.tokenizer([self.expand(item) for item in texts], **options))
        for item, ids in zip(texts, encoded["input_ids"]):
            expected, found = item.count(self.cell_token) * self.num_cell_tokens, list(ids).count(self.cell_token_id)
            if found != expected:
                needed = len(self.tokenizer(self.expand(item))["input_ids"])
                raise UserError(
                    f"max_length={options.get('max_length')} cut the prompt: {found} of {expected} <cell> tokens are "
                    "left. "
                    f"Raise it to at least {needed}."
                )
        if want_offsets:
            encoded["text_replacement_offsets"] = [self._replacement_offsets(item) for item in texts]
        options["return_tensors"] = return_tensors
        return encoded

    def _replacement_offsets(self, text: str) -> list[dict]:
        """Where `expand` lengthened a text, as transformers' assistant masks want it."""
        offsets, gained, start = [], 0, text.find(self.cell_token)
        while start >= 0:
            end = start + len(self.cell_token)
            longer = len(self.cell_token) * self.num_cell_tokens
            offsets.append({"span": (start, end), "new_span": (start + gained, start + gained + longer)})
            gained += longer - len(self.cell_token)
            start = text.find(self.cell_token, end)
        return offsets

    def expand(self, text: str) -> str:
        """Repeat every placeholder `num_cell_tokens` times."""
        return text.replace(self.cell_token, self.cell_token * self.num_cell_tokens)

    def _nest_cells(self, cells, one_text: bool) -> list[list]:
        """A list of cells for each text, whichever way they were given."""
        if one_text and (is_cell(cells) or all(map(is_cell, cells))):
            return [[cells] if is_cell(cells) else list(cells)]
        return [[item] if is_cell(item) else list(item) for item in cells]

    def _check_counts(self, texts: list[str], cells: list[list]):
        placeholders, found = [item.count(self.cell_token) for item in texts], [len(item) for item in cells]
        if placeholders != found:
            raise UserError(
                f"The texts hold {placeholders} {self.cell_token} placeholders but came with {found} cells: each "
                "text needs "
                f"one cell for every placeholder."
            )

    def pad_cells(self, cells: list[list], *, return_tensors=None, pad_to_multiple_of: int | None = None) -> dict:
        """Pad ranked cells into one block.

        Args:
            cells (`list[list]`): For each text its ranked cells; longer ones are cut to `max_genes`.
            return_tensors (`str`, *optional*): `"pt"` for torch tensors, NumPy arrays otherwise.
            pad_to_multiple_of (`int`, *optional*): Round the length up.

        Returns:
            `cell_input_ids` and `cell_attention_mask`, int64, both of shape `(batch, n_cells, n_genes)`. A slot without
            a cell is masked whole; a cell without genes keeps its first position.

        Raises:
            ValueError: If a token id is not in the vocabulary.
        """
        vocabulary = self.gene_vocabulary
        arrays = [[self._cut(np.asarray(cell, dtype=np.int64)) for cell in row] for row in cells]
        length = max([1, *(len(cell) for row in arrays for cell in row)])
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        shape = (len(arrays), max([1, *map(len, arrays)]), length)
        ids, mask = np.full(shape, vocabulary.pad_token_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for i, row in enumerate(arrays):
            for j, cell in enumerate(row):
                if cell.size and not (cell.min() >= 0 and cell.max() < len(vocabulary)):
                    raise UserError(
                        f"Cell {j} of text {i} holds token "
                        f"{cell.max() if cell.max() >= len(vocabulary) else cell.min()}, but "
                        f"the vocabulary has {len(vocabulary):,} tokens: it was ranked with another vocabulary."
                    )
                ids[i, j, : len(cell)] = cell
                mask[i, j, : max(1, len(cell))] = 1
        if return_tensors == "pt":
            return {"cell_input_ids": torch.from_numpy(ids), "cell_attention_mask": torch.from_numpy(mask)}
        return {"cell_input_ids": ids, "cell_attention_mask": mask}

    def _cut(self, cell: np.ndarray) -> np.ndarray:
        if len(cell) <= self.max_genes:
            return cell
        closing = cell[-1:] if cell[-1] == self.gene_vocabulary.eos_token_id else cell[:0]
        return np.concatenate([cell[: self.max_genes - len(closing)], closing])

    def apply_chat_template(self, conversation, chat_template=None, processor_kwargs=None, **kwargs):
        """Render conversations whose messages may hold cells; see `ProcessorMixin.apply_chat_template`.

        A message's content is a string, or a list of blocks: `{"type": "text", "text": ...}`, and
        `{"type": "cell", "cell": ranked_genes}`, or `{"type": "cell"}` where the cells travel apart. Templates that
        read blocks get blocks, all others strings. A system message goes into the user's where the template has none.
        """
        template = self._resolve_chat_template(chat_template)
        batched = not isinstance(conversation[0], dict)
        flat, cells = zip(*(self._flatten(item, template) for item in (conversation if batched else [conversation])))
        if any(cells):
            processor_kwargs = {**(processor_kwargs or {}), "cells": list(cells)}
        if not kwargs.get("tokenize", False):
            processor_kwargs = {k: v for k, v in (processor_kwargs or {}).items() if k != "cells"}
        return super().apply_chat_template(
            list(flat) if batched else flat[0], chat_template=template, processor_kwargs=processor_kwargs, **kwargs
        )

    def _flatten(self, conversation: list[dict], template: str) -> tuple[list[dict], list]:
        """Replace cell blocks by placeholders and give every content the form that the template reads."""
        cells, messages = [], []
        for message in conversation:
            content = message.get("content")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            texts = []
            for block in blocks:
                if block["type"] == "cell":
                    texts.append(self.cell_token)
                    if block.get("cell") is not None:
                        cells.append(block["cell"])
                elif block["type"] == "text":
                    texts.append(block["text"])
                else:
                    raise UserError(
                        f"A message holds a block of type {block['type']!r}; Cell2Text reads 'text' and 'cell'."
                    )
            messages.append({**message, "content": texts})
        if messages[0]["role"] == "system" and len(messages) > 1 and not self._template_reads(template, "system"):
            system, user, *rest = messages
            messages = [{**user, "content": [*system["content"], "\n\n", *user["content"]]}, *rest]
        blocks_read = self._template_reads(template, "blocks")
        for message in messages:
            if message["content"] or "tool_calls" not in message:
                joined = "".join(message["content"])
                message["content"] = (
                    [{"type": "text", "text": text} for text in message["content"]] if blocks_read else joined
                )
            else:
                del message["content"]
        return messages, cells

    def _template_reads(self, template: str, what: str) -> bool:
        """Whether a template renders content blocks, or system messages, found by rendering a probe."""
        key = (template, what)
        if key not in self._template_probes:
            role, content = ("user", [{"type": "text", "text": "PROBE"}]) if what == "blocks" else ("system", "PROBE")
            probes = [content] if what == "blocks" else [content, [{"type": "text", "text": content}]]
            self._template_probes[key] = any(self._renders(template, role, probe) for probe in probes)
        return self._template_probes[key]

    def _renders(self, template: str, role: str, content) -> bool:
        probe = [{"role": role, "content": content}]
        if role == "system":
            other = "PROBE" if isinstance(content, str) else [{"type": "text", "text": "user"}]
            probe.append({"role": "user", "content": other if isinstance(other, list) else "user"})
        try:
            text = self.tokenizer.apply_chat_template(probe, chat_template=template, tokenize=False)
        except Exception:  # a template raises whatever its author chose, jinja2 errors among it
            return False
        return "PROBE" in text and "'type'" not in text and '"type"' not in text


def conversation_of(instruction: str, system_prompt: str, *, n_cells: int = 1) -> list[dict]:
    """A prompt about cells as chat messages, the cells before the instruction; no system message if it is empty."""
    cells = [{"type": "cell"} for _ in range(n_cells)]
    system = [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}] if system_prompt else []
    return [*system, {"role": "user", "content": [*cells, {"type": "text", "text": instruction}]}]


def is_cell(value) -> bool:
    """Whether a value is one ranked cell: a flat run of numbers."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype != object
    if isinstance(value, torch.Tensor):
        return value.ndim == 1
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (int, np.integer))


Cell2TextProcessor.register_for_auto_class()

__all__ = ["Cell2TextProcessor", "GeneVocabulary", "rank_encode"]
