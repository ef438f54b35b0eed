"""Generate texts for many cells from one prompt; used by the pipeline, `cell2text describe` and `cell2text.tl`.

Keys and values of the tokens before the first cell are computed once and reused. Finished rows are removed from the
batch, so that no decoding step is spent on them.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache


try:
    from .correction_cell2text import StatedType, correct_comparison
except ImportError:
    from correction_cell2text import StatedType, correct_comparison

try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .statements_cell2text import CellStatements
except ImportError:
    from statements_cell2text import CellStatements


DEFAULTS = {"do_sample": False, "max_new_tokens": 160}
GENES_AT_ONCE = 131_072
GENES_AT_ONCE_ON_CPU = 8_192  # larger batches overflow the CPU caches
COMPACT_AT = 0.25  # share of finished rows at which they are removed; removal copies the cache of the others
# Arguments of `generate` that the greedy loop of this file supports; any other argument calls `generate` instead.
GREEDY = {
    "max_new_tokens",
    "do_sample",
    "suppress_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
}


@dataclass
class GeneratedTexts:
    """Texts generated for a batch of prompts, in their order.

    Args:
        texts: One text per prompt. For a cell that cannot be described, the reason; see
            [`~Cell2TextProcessor.reason_not_described`].
        embeddings: Mean of the encoder's states at the projected layer over the genes of the prompt's first cell,
            float32, shape (n, cell_hidden); zeros for a cell without counts.
        confidence: Probability of the generated text, the product of its tokens' probabilities, float32, shape (n,);
            NaN for a cell that cannot be described and for texts that are not decoded greedily.
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
            holds at least one prompt. Defaults to 8,192 on a CPU and to 131,072 on other devices.
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
        genes_at_once = GENES_AT_ONCE_ON_CPU if model.device.type == "cpu" else GENES_AT_ONCE
    parts = []
    longest = max(len(cell) for cells in prompts for cell in cells) * len(prompts[0])
    size = max(1, genes_at_once // max(1, longest))
    for start in range(0, len(prompts), size):
        batch = processor.pad_cells(prompts[start : start + size], return_tensors="pt")
        if concept_overrides is not None:
            batch["concept_overrides"] = torch.as_tensor(concept_overrides[start : start + size])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        outputs, mask = model.get_cell_features(**batch), batch["cell_attention_mask"]
        states, genes = outputs.last_hidden_state[:, 0], mask[:, 0].unsqueeze(-1)
        means = (states * genes).sum(dim=1) / genes.sum(dim=1).clamp(min=1)
        concepts = outputs.concepts
        if concepts is None:
            concepts = means.new_empty(*batch["cell_attention_mask"].shape[:2], 0)
        parts.append((outputs.pooler_output, mask.any(-1, keepdim=True), means.float().cpu(), concepts.float().cpu()))
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
        **generate_kwargs,
    ):
        self.genes_at_once = genes_at_once
        self.model, self.processor, self.options = model.eval(), processor, {**DEFAULTS, **generate_kwargs}
        self.conversation = conversation or processor.conversation()
        ids = processor.apply_chat_template([self.conversation], tokenize=True, add_generation_prompt=True)[0]
        self.prompt = torch.tensor(ids, device=model.device)
        placeholders = (self.prompt == processor.cell_token_id).nonzero().flatten()
        self.n_cells = len(placeholders) // processor.num_cell_tokens
        if self.n_cells == 0:
            raise UserError("The prompt has no cell: expected at least one {'type': 'cell'} block in its chat.")
        self.n_shared = int(placeholders[0])
        self.statements = CellStatements(model.config)
        self.greedy = not self.options["do_sample"] and set(self.options) <= GREEDY
        self._shared: Any = None

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
        described, features = described[stated], features[stated]
        ids, generated.confidence[described], generated.steps = self._decode(features)
        generated.useful = sum(map(len, ids))
        for i, row, tokens in zip(described, stated, ids):
            text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            generated.texts[i] = self._correct(text, statements[row])
        return generated

    def _correct(self, text: str, stated: tuple[StatedType, ...]) -> str:
        """Return a text that names the types of its cells as the probabilities do."""
        if len(stated) == 1:
            return stated[0].correct(text, set(self.model.config.concept_groups["cell_type"]))
        return correct_comparison(text, *stated) if len(stated) == 2 else text

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
    def _decode(self, cells: "CellFeatures") -> tuple[list[list[int]], list[float], int]:
        """Return the tokens of each text, end included, the texts' probabilities and the number of computed steps."""
        prompts = self.prompt.expand(len(cells.mask), -1)
        inputs = {"cell_embeds": cells.features, "cell_attention_mask": cells.mask}
        if not self.greedy:
            ids = self.model.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts), **inputs, **self.options
            )
            generated = ids[:, len(self.prompt) :]
            return generated.tolist(), [float("nan")] * len(generated), generated.numel()
        cache = self._shared_cache(len(prompts))
        outputs = self.model(
            input_ids=prompts[:, self.n_shared :], cache=cache, use_cache=True, logits_to_keep=1, **inputs
        )
        return self._greedy(prompts, outputs.logits[:, -1], cache)

    def _shared_cache(self, n_rows: int):
        """Return keys and values of the tokens before the first cell, repeated for `n_rows` rows."""
        if self._shared is None:
            self._shared = DynamicCache(config=self.model.config.text_config)
            if self.n_shared:
                shared = self.prompt[None, : self.n_shared]
                self.model(input_ids=shared, cache=self._shared, use_cache=True, logits_to_keep=1)
        cache = copy.deepcopy(self._shared)
        if self.n_shared:
            cache.batch_repeat_interleave(n_rows)
        return cache

    def _greedy(self, prompts, logits, cache):
        """Decode greedily from the prompts' last logits; see `_decode` for the result."""
        config = copy.deepcopy(self.model.generation_config)
        config.update(**self.options)
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        ends = torch.tensor([end for end in ends if end is not None], dtype=torch.long, device=prompts.device)
        processors = self.model._get_logits_processor(config, prompts.shape[1], device=prompts.device)
        generated: list[list[int]] = [[] for _ in prompts]
        log_probabilities = np.zeros(len(prompts))
        rows = np.arange(len(prompts))  # the prompt of each row of the batch
        finished = np.zeros(len(prompts), dtype=bool)
        steps, ids = 0, prompts
        while True:
            scores = processors(ids, logits.float())
            tokens = scores.argmax(-1)
            token_scores = scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0].cpu().numpy()
            ends_row = torch.isin(tokens, ends).cpu().numpy()
            for place, token in enumerate(tokens.tolist()):
                if not finished[place]:
                    generated[rows[place]].append(token)
                    log_probabilities[rows[place]] += token_scores[place]
            finished |= ends_row
            if finished.all() or ids.shape[1] - prompts.shape[1] + 1 >= config.max_new_tokens:
                break
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            if finished.mean() >= COMPACT_AT:
                unfinished = torch.from_numpy(np.flatnonzero(~finished)).to(ids.device)
                cache.batch_select_indices(unfinished)
                ids = ids[unfinished]
                rows, finished = rows[~finished], finished[~finished]
            logits = self.model(input_ids=ids[:, -1:], cache=cache, use_cache=True).logits[:, -1]
            steps += len(ids)
        return generated, list(np.exp(log_probabilities)), steps + len(prompts)
