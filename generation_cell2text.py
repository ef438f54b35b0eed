"""Generate texts for many cells from one prompt; used by the pipeline, `cell2text describe` and `cell2text.tl`.

The language model of a model with hierarchical cell types reads nothing but a statement about each cell. Cells whose
statements differ at most in the probability of the subtype and in the names of the pathways share a text, which is
decoded once; probability and pathways are written into it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


try:
    from .correction_cell2text import StatedType, correct_comparison
except ImportError:
    from correction_cell2text import StatedType, correct_comparison

try:
    from .decoding_cell2text import GREEDY, CompiledDecoder, GreedyDecoder
except ImportError:
    from decoding_cell2text import GREEDY, CompiledDecoder, GreedyDecoder

try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .statements_cell2text import N_PATHWAYS, NONE_REPLACED, PATHWAYS, CellStatements, Placeholders
except ImportError:
    from statements_cell2text import N_PATHWAYS, NONE_REPLACED, PATHWAYS, CellStatements, Placeholders


DEFAULTS = {"do_sample": False, "max_new_tokens": 160}
GENES_AT_ONCE = 131_072
GENES_AT_ONCE_ON_CPU = 8_192  # larger batches overflow the CPU caches
TEXTS_AT_ONCE = 32
SHARED_PERCENT = 60  # the probability of a subtype that the language model reads, in a text that cells share
SHARED_STATEMENTS = 2  # pairs of pathways that are tried in a shared text, before those of the cell
KNOWN_TEXTS = 16_384  # texts of statements that are kept for later batches


@dataclass
class GeneratedTexts:
    """Texts generated for a batch of prompts, in their order.

    Args:
        texts: One text per prompt. For a cell that cannot be described, the reason; see
            [`~Cell2TextProcessor.reason_not_described`].
        embeddings: Mean of the encoder's states at the projected layer over the genes of the prompt's first cell,
            float32, shape (n, cell_hidden); zeros for a cell without counts.
        confidence: Probability of the decoded text, before its correction: the product of its tokens' probabilities,
            float32, shape (n,); NaN for a cell that cannot be described and for texts that are not decoded greedily.
        steps: Computed decoding steps, counted per row.
        useful: Number of steps that produced a token of a text.
        concepts: Concept probabilities of the prompt's first cell, by group, float32, shape (n, n_names); NaN for a
            cell that cannot be described. Empty for a model without concepts.
    """

    texts: list[str]
    embeddings: np.ndarray
    confidence: np.ndarray
    steps: int
    useful: int
    concepts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class CellFeatures:
    """Projected cells of a batch of prompts.

    Args:
        features: Shape (n, n_cells, num_cell_tokens, text_hidden).
        mask: Whether a slot holds a cell, shape (n, n_cells, 1).
        embeddings: See :class:`GeneratedTexts`.
        concepts: Concept probabilities of the cells, float32 on the CPU, shape (n, n_cells, n_concepts).
    """

    features: torch.Tensor
    mask: torch.Tensor
    embeddings: np.ndarray
    concepts: torch.Tensor

    def __getitem__(self, rows: np.ndarray) -> "CellFeatures":
        """Return the features of some prompts, by their indices."""
        kept = torch.from_numpy(rows)
        on_device = kept.to(self.features.device)
        return CellFeatures(self.features[on_device], self.mask[on_device], self.embeddings[rows], self.concepts[kept])


@torch.inference_mode()
def encode_cells(
    model, processor, prompts: list[list], genes_at_once: int | None = None, concept_overrides=None
) -> CellFeatures:
    """Run the encoder and the projector on the cells of prompts.

    Args:
        model (`Cell2TextForConditionalGeneration`): On its device.
        processor (`Cell2TextProcessor`): Its processor.
        prompts (`list[list]`): Ranked cells of each prompt; every prompt has the same number of cells.
        genes_at_once (`int`, *optional*): Maximum number of gene tokens, padding included, per encoder batch; a batch
            holds at least one prompt. Defaults to 8,192 on a CPU, and to 131,072 on other devices and for an encoder
            that looks genes up in a table.
        concept_overrides (`np.ndarray` of shape `(n, n_cells, n_concepts)`, *optional*): Values that replace the
            predicted concept probabilities of each cell; NaN keeps the prediction.

    Examples:

    ```python
    >>> import cell2text
    >>> model, processor = cell2text.load()
    >>> cells = processor.rank_encode(cell2text.example_cells(unseen=True)[:2])
    >>> encode_cells(model, processor, [[cell] for cell in cells]).embeddings.shape
    (2, 256)

    ```
    """
    if genes_at_once is None:
        small = model.device.type == "cpu" and not model.looks_genes_up
        genes_at_once = GENES_AT_ONCE_ON_CPU if small else GENES_AT_ONCE
    parts = []
    longest = max(len(cell) for cells in prompts for cell in cells) * len(prompts[0])
    size = max(1, genes_at_once // max(1, longest))
    for start in range(0, len(prompts), size):
        batch = processor.pad_cells(prompts[start : start + size], return_tensors="pt")
        if concept_overrides is not None:
            batch["concept_overrides"] = torch.as_tensor(concept_overrides[start : start + size])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        cells, mask = model.summarise_cells(**batch), batch["cell_attention_mask"]
        concepts = cells.means.new_empty(*mask.shape[:2], 0) if cells.concepts is None else cells.concepts
        means = cells.means[:, 0]
        parts.append((cells.features, mask.any(-1, keepdim=True), means.float().cpu(), concepts.float().cpu()))
    features, mask, means, concepts = (torch.cat(part) for part in zip(*parts))
    return CellFeatures(features, mask, means.numpy(), concepts)


class CellTextGenerator:
    """Generate texts for batches of cells with one prompt.

    Args:
        model (`Cell2TextForConditionalGeneration`): On its device; it is put into evaluation mode.
        processor (`Cell2TextProcessor`): Its processor.
        conversation (`list[dict]`, *optional*): Chat of the prompt, with one block per cell. Defaults to the
            processor's prompt about one cell.
        genes_at_once (`int`, *optional*): See :func:`encode_cells`.
        texts_at_once (`int`, *optional*): Maximum number of texts that are decoded together. Defaults to 32.
        compiled (`bool`, defaults to `False`): Whether greedy decoding compiles its step; see
            [`~decoding_cell2text.CompiledDecoder`].
        **generate_kwargs: Arguments of `generate`. Defaults to greedy decoding of at most 160 new tokens.

    Raises:
        UserError: If the chat has no cell block.
    """

    def __init__(
        self,
        model,
        processor,
        conversation: list[dict] | None = None,
        genes_at_once: int | None = None,
        texts_at_once: int | None = None,
        compiled: bool = False,
        **generate_kwargs,
    ):
        self.genes_at_once, self.texts_at_once = genes_at_once, texts_at_once or TEXTS_AT_ONCE
        self.model, self.processor, self.options = model.eval(), processor, {**DEFAULTS, **generate_kwargs}
        self.conversation = conversation or processor.conversation()
        ids = processor.apply_chat_template([self.conversation], tokenize=True, add_generation_prompt=True)[0]
        self.prompt = torch.tensor(ids, device=model.device)
        placeholders = (self.prompt == processor.cell_token_id).nonzero().flatten()
        self.n_cells = len(placeholders) // processor.num_cell_tokens
        if self.n_cells == 0:
            raise UserError("The prompt has no cell: expected at least one {'type': 'cell'} block in its chat.")
        self.statements = CellStatements(model.config)
        self.decoder = None
        if not self.options["do_sample"] and set(self.options) <= GREEDY:
            decoder = CompiledDecoder if compiled else GreedyDecoder
            self.decoder = decoder(model, self.prompt, int(placeholders[0]), self.options)
        self._known: dict[bytes, tuple[str, float]] = {}
        self.type_names = set(model.config.concept_groups.get("cell_type", ()))
        self.pathway_names = model.config.concept_groups.get(PATHWAYS, ())
        self._placeholders = [*self._shared_statements(), NONE_REPLACED]

    @property
    def shares_texts(self) -> bool:
        """Whether cells with equal statements, up to placeholders, get one text that is decoded once."""
        return self.decoder is not None and self.statements.decides

    def __call__(self, prompts: list[list], concept_overrides: np.ndarray | None = None) -> GeneratedTexts:
        """Generate one text per prompt.

        Args:
            prompts (`list[list]`): Ranked cells of each prompt, one per cell block of the chat.
            concept_overrides (`np.ndarray` of shape `(n, n_cells, n_concepts)`, *optional*): Values that replace the
                predicted concept probabilities of each cell of each prompt, for a `concepts` projector; NaN keeps the
                prediction. The returned concepts hold them too.

        Raises:
            UserError: If a prompt has another number of cells, or `concept_overrides` another shape.
        """
        wrong = next((len(cells) for cells in prompts if len(cells) != self.n_cells), None)
        if wrong is not None:
            raise UserError(
                f"A prompt has {wrong} cells, but its chat has {self.n_cells} cell blocks: pass one cell per block."
            )
        self._check_overrides(concept_overrides, len(prompts))
        reasons = [self._reason_not_described(cells) for cells in prompts]
        described = np.array([i for i, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        filled = np.array([i for i, cells in enumerate(prompts) if not self._has_empty(cells)], dtype=np.int64)
        generated = self._without_texts(reasons)
        if not len(filled):
            return generated
        overrides = None if concept_overrides is None else concept_overrides[filled]
        features = encode_cells(self.model, self.processor, [prompts[i] for i in filled], self.genes_at_once, overrides)
        generated.embeddings[filled] = features.embeddings
        if not len(described):
            return generated
        features = features[np.searchsorted(filled, described)]
        for group, probabilities in self.model.config.concepts.split(features.concepts[:, 0]).items():
            generated.concepts[group][described] = probabilities.numpy()
        statements = self.statements(features.concepts)
        reasons = [next((cell for cell in cells if isinstance(cell, str)), None) for cells in statements]
        for i, reason in zip(described, reasons):
            generated.texts[i] = reason or ""
        stated = np.array([row for row, reason in enumerate(reasons) if reason is None], dtype=np.int64)
        if not len(stated):
            return generated
        texts = self._write(features[stated], [statements[row] for row in stated], generated)
        for i, (text, probability) in zip(described[stated], texts):
            generated.texts[i], generated.confidence[i] = text, probability
        return generated

    def _write(self, cells: CellFeatures, stated: list[tuple], generated: GeneratedTexts) -> list[tuple[str, float]]:
        """Return the text of each prompt with its probability, and add the computed steps to `generated`.

        The digits of a subtype's probability and the names of pathways are not shared: `_correct` writes them. A text
        that has them elsewhere, or names another type, is decoded again from the next statement.
        """
        if not self.shares_texts:
            return self._decode(cells.features, cells.mask, generated)
        texts: list[tuple[str, float]] = [("", 0.0)] * len(stated)
        rows = list(range(len(stated)))
        for placeholders in self._placeholders:
            decoded = self._decode_statements(self.statements.encode(cells.concepts[rows], placeholders), generated)
            for row, (text, probability) in zip(rows, decoded):
                texts[row] = self._correct(text, stated[row]), probability
            rows = [
                row for row, (text, _) in zip(rows, decoded)
                if not self._is_corrected(text, texts[row][0], stated[row], placeholders)
            ]  # fmt: skip
            if not rows:
                break
        return texts

    def _shared_statements(self) -> list[Placeholders]:
        """Return what replaces parts of statements, so that cells share texts; the first that suits a text is used.

        Pathways that are active in many training cells come first: the language model has read them most often. A
        comparison keeps the pathways that it names. It is assumed that other sentences do not depend on the pathways.
        """
        if not self.shares_texts or self.n_cells > 1 or len(self.pathway_names) < N_PATHWAYS:
            return [Placeholders(SHARED_PERCENT)]
        order = self.model.order_of_concepts(PATHWAYS)
        pairs = [tuple(order[first : first + N_PATHWAYS]) for first in range(0, len(order) - 1, N_PATHWAYS)]
        return [Placeholders(SHARED_PERCENT, pair) for pair in pairs[:SHARED_STATEMENTS]]

    def _decode_statements(self, encoded: torch.Tensor, generated: GeneratedTexts) -> list[tuple[str, float]]:
        """Return the text of each encoded statement with its probability; equal statements are decoded once."""
        keys = [row.tobytes() for row in (2 * encoded).byte().flatten(1).numpy()]  # values are 0, 0.5 or 1
        if len(self._known) > KNOWN_TEXTS:
            self._known.clear()
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in self._known}
        rows = sorted(new.values())
        if rows:
            features = self.model.project_statements(encoded[rows].flatten(0, 1).to(self.model.device))
            features = features.unflatten(0, (len(rows), -1))
            mask = torch.ones(*features.shape[:2], 1, dtype=torch.bool, device=features.device)
            self._known.update(zip((keys[row] for row in rows), self._decode(features, mask, generated)))
        return [self._known[key] for key in keys]

    def _correct(self, text: str, stated: tuple[StatedType, ...]) -> str:
        """Return a text that names the types of its cells as the probabilities do."""
        if len(stated) == 1:
            return stated[0].correct(text, self.type_names)
        return correct_comparison(text, *stated) if len(stated) == 2 else text

    def _is_corrected(
        self, decoded: str, text: str, stated: tuple[StatedType, ...], placeholders: Placeholders
    ) -> bool:
        """Return whether a text, once corrected, contains no placeholder value."""
        if placeholders.percent is not None and f"0.{placeholders.percent}" in _without_subtypes(text, stated):
            return False
        if placeholders.pathways is None:
            return True
        shared = tuple(self.pathway_names[column] for column in placeholders.pathways)
        return stated[0].accepts(decoded, self.type_names, shared)

    def _check_overrides(self, concept_overrides: np.ndarray | None, n_prompts: int) -> None:
        """Raise `UserError` unless there are overrides for each cell of each prompt, or none at all."""
        expected = (n_prompts, self.n_cells, self.model.config.concepts.n_concepts)
        if concept_overrides is not None and concept_overrides.shape != expected:
            raise UserError(
                f"concept_overrides has the shape {concept_overrides.shape}: expected {expected}, which is (prompts, "
                "cells per prompt, concepts of the model)."
            )

    def _reason_not_described(self, cells: list) -> str | None:
        """Return why a prompt gets no description: the reason of its first cell that cannot be described."""
        return next(filter(None, map(self.processor.reason_not_described, cells)), None)

    def _has_empty(self, cells: list) -> bool:
        return any(map(self.processor.is_empty, cells))

    def _without_texts(self, reasons: list[str | None]) -> GeneratedTexts:
        """Return the result for prompts that are all without a description; `reasons` are their texts."""
        n, config = len(reasons), self.model.config
        return GeneratedTexts(
            texts=[reason or "" for reason in reasons],
            embeddings=np.zeros((n, config.cell_config.hidden_size), dtype=np.float32),
            confidence=np.full(n, np.nan, dtype=np.float32),
            steps=0,
            useful=0,
            concepts={
                group: np.full((n, len(names)), np.nan, dtype=np.float32)
                for group, names in config.concept_groups.items()
            },
        )

    @torch.inference_mode()
    def _decode(self, features, mask, generated: GeneratedTexts) -> list[tuple[str, float]]:
        """Return a newly decoded text for each prompt, with its probability; see :meth:`_write`."""
        texts: list[tuple[str, float]] = []
        for start in range(0, len(mask), self.texts_at_once):
            part = slice(start, start + self.texts_at_once)
            tokens, probabilities, steps = self._decode_batch(features[part], mask[part])
            written = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            texts += [(text.strip(), probability) for text, probability in zip(written, probabilities)]
            generated.steps += steps
            generated.useful += sum(map(len, tokens))
        return texts

    def _decode_batch(self, features, mask) -> tuple[list[list[int]], Sequence[float], int]:
        """Return the tokens of each text, end included, the texts' probabilities and the number of computed steps."""
        if self.decoder is not None:
            decoded = self.decoder(features, mask)
            return decoded.tokens, decoded.probabilities, decoded.steps
        prompts = self.prompt.expand(len(mask), -1)
        inputs = {"cell_embeds": features, "cell_attention_mask": mask}
        ids = self.model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), **inputs, **self.options)
        tokens = ids[:, len(self.prompt) :].tolist()
        return tokens, [float("nan")] * len(tokens), sum(map(len, tokens))


def _without_subtypes(text: str, stated: tuple[StatedType, ...]) -> str:
    """Return a text without the sentences about likely subtypes, whose digits are those of the cell."""
    for one in stated:
        text = text.replace(one.subtype_sentence, "") if one.subtype_sentence else text
    return text
