"""Greedy decoding of many texts that share a prompt.

Keys and values of the tokens before the first cell are computed once and reused. New keys and values are written in
place, finished rows are removed from the batch, and tokens that earlier texts make likely are verified in one pass
instead of one by one. On a GPU, where launching the kernels of a step takes longer than running them, a compiled step
with a cache of fixed size is faster for large language models.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, StaticCache, SuppressTokensLogitsProcessor
from transformers.cache_utils import DynamicLayer


COMPACT_AT = 0.25  # share of finished rows at which they are removed; removal copies the cache of the others
ROOM = 64  # positions by which a cache grows
CONTEXTS = (8, 3)  # numbers of tokens that a draft is looked up by, the first that is known
MAX_CONTEXTS = 500_000
MAX_DRAFT = 24
STEPS_BETWEEN_CHECKS = 8  # compiled steps until the next look at which texts have ended, which waits for the GPU
NO_TOKEN, AMBIGUOUS = -1, -2
# Arguments of `generate` that `GreedyDecoder` supports.
GREEDY = {
    "max_new_tokens",
    "do_sample",
    "suppress_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
}


class InPlaceLayer(DynamicLayer):
    """A layer of a key-value cache with room for further tokens.

    `DynamicLayer` copies all keys and values with every token; this layer copies them once per `ROOM` tokens.
    """

    keys: Any
    values: Any
    _store: tuple[torch.Tensor, ...] = ()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self._is_stored() or end > self._store[0].shape[-2]:
            kept = (self.keys[..., :start, :], self.values[..., :start, :]) if start else ()
            self._store = tuple(
                states.new_empty(*states.shape[:-2], end + ROOM, states.shape[-1])
                for states in (key_states, value_states)
            )
            for store, states in zip(self._store, kept):
                store[..., :start, :] = states
        for store, states in zip(self._store, (key_states, value_states)):
            store[..., start:end, :] = states
        self.keys, self.values = (store[..., :end, :] for store in self._store)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if not self._is_stored():
            super().batch_select_indices(indices)
            return
        length = self.get_seq_length()
        self._store = tuple(store[indices] for store in self._store)
        self.keys, self.values = (store[..., :length, :] for store in self._store)

    def _is_stored(self) -> bool:
        """Return whether keys and values are still those of the store: other methods of the class replace them."""
        return bool(self._store) and all(
            states.data_ptr() == store.data_ptr() for states, store in zip((self.keys, self.values), self._store)
        )


@dataclass
class DecodedTexts:
    """Tokens that were decoded for some prompts, in their order.

    Args:
        tokens: Tokens of each text, the end included.
        probabilities: Probability of each text, the product of its tokens' probabilities, float64, shape (n,).
        steps: Computed decoding steps, counted per row.
    """

    tokens: list[list[int]]
    probabilities: np.ndarray
    steps: int


class GreedyDecoder:
    """Decode texts greedily from one prompt that is filled with the features of different cells.

    Args:
        model (`Cell2TextForConditionalGeneration`): On its device, in evaluation mode.
        prompt (`torch.LongTensor` of shape `(length,)`): Tokens of the prompt.
        n_shared (`int`): Number of tokens before the first placeholder of a cell.
        options (`dict`): Arguments of `generate`, of those in `GREEDY`.
    """

    def __init__(self, model, prompt: torch.Tensor, n_shared: int, options: dict):
        self.model, self.prompt, self.n_shared = model, prompt, n_shared
        self.config = copy.deepcopy(model.generation_config)
        self.config.update(**options)
        ends = self.config.eos_token_id
        self.ends = {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
        self.drafts = DraftTable()
        self._shared: Any = None

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor, mask: torch.Tensor) -> DecodedTexts:
        """Decode one text per prompt.

        Args:
            features (`torch.Tensor` of shape `(n, n_cells, num_cell_tokens, text_hidden)`): Projected cells.
            mask (`torch.Tensor` of shape `(n, n_cells, 1)`): Whether a slot holds a cell.
        """
        prompts, cache = self.prompt.expand(len(mask), -1), self._shared_cache(len(mask))
        outputs = self.model(
            input_ids=prompts[:, self.n_shared :],
            cell_embeds=features,
            cell_attention_mask=mask,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return self._decode(prompts, outputs.logits[:, -1], cache)

    def _shared_cache(self, n_rows: int):
        """Return keys and values of the tokens before the first cell, repeated for `n_rows` rows."""
        if self._shared is None:
            self._shared = DynamicCache(config=self.model.config.text_config)
            self._shared.layers = [
                InPlaceLayer() if type(layer) is DynamicLayer else layer for layer in self._shared.layers
            ]
            if self.n_shared:
                shared = self.prompt[None, : self.n_shared]
                self.model(input_ids=shared, cache=self._shared, use_cache=True, logits_to_keep=1)
        cache = copy.deepcopy(self._shared)
        if self.n_shared:
            cache.batch_repeat_interleave(n_rows)
        return cache

    def _decode(self, prompts, logits, cache) -> DecodedTexts:
        """Decode from the last logits of the prompts."""
        processors = self.model._get_logits_processor(self.config, prompts.shape[1], device=prompts.device)
        drafts = self.drafts if self._can_draft(processors, cache) else None
        rows = _Rows(prompts, self.config.max_new_tokens, self.ends)
        logits = logits[:, None]
        while True:
            scores = processors(rows.ids, logits.flatten(0, 1).float())
            best, tokens = scores.max(-1)
            log_probabilities = best - scores.logsumexp(-1)
            rows.add(tokens.view(logits.shape[:2]), log_probabilities.view(logits.shape[:2]))
            if rows.finished.all():
                break
            if rows.finished.mean() >= COMPACT_AT:
                cache.batch_select_indices(rows.remove_finished())
            logits = self.model(**rows.next_inputs(drafts), cache=cache, use_cache=True).logits
        self.drafts.learn(rows.texts)
        return DecodedTexts(rows.texts, np.exp(rows.log_probabilities), rows.steps)

    def _can_draft(self, processors, cache) -> bool:
        """Return whether several tokens of a text can be verified in one pass.

        The cache has to keep every position, and no processor may look at the tokens before.
        """
        return (
            all(isinstance(layer, InPlaceLayer) for layer in cache.layers)
            and all(isinstance(processor, SuppressTokensLogitsProcessor) for processor in processors)
            and "position_ids" in inspect.signature(self.model.get_decoder().forward).parameters
        )


class CompiledDecoder(GreedyDecoder):
    """Greedy decoding with a compiled step and a cache of fixed size.

    `torch.compile` turns a step into one CUDA graph on a GPU. Shapes do not change between steps and batches: smaller
    batches are filled up, and rows stay until all texts have ended. Texts are those of [`GreedyDecoder`], up to ties of
    the rounding. Options that look at earlier tokens, such as `repetition_penalty`, are decoded without compilation.

    Args:
        model, prompt, n_shared, options: See [`GreedyDecoder`].
    """

    def __init__(self, model, prompt: torch.Tensor, n_shared: int, options: dict):
        super().__init__(model, prompt, n_shared, options)
        self._n_rows = 0
        self._cache: Any = None
        self._compiled_step: Any = None

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor, mask: torch.Tensor) -> DecodedTexts:
        processors = self.model._get_logits_processor(self.config, len(self.prompt), device=self.prompt.device)
        if not all(isinstance(processor, SuppressTokensLogitsProcessor) for processor in processors):
            return super().__call__(features, mask)
        self._make_room(len(mask))
        filled = torch.arange(self._n_rows, device=mask.device).clamp(max=len(mask) - 1)
        prompts = self.prompt.expand(self._n_rows, -1)
        outputs = self.model(
            input_ids=prompts,
            cell_embeds=features[filled],
            cell_attention_mask=mask[filled],
            cache=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens, log_probabilities = self._choose(outputs.logits[:, -1], processors)
        chosen, scores = [tokens], [log_probabilities]
        ends = torch.tensor(sorted(self.ends), device=tokens.device)
        ended = torch.isin(tokens, ends)
        while len(chosen) < self.config.max_new_tokens:
            if len(chosen) % STEPS_BETWEEN_CHECKS == 0 and ended.all():
                break
            torch.compiler.cudagraph_mark_step_begin()
            tokens, log_probabilities = (part.clone() for part in self._compiled_step(tokens[:, None], processors))
            chosen.append(tokens)
            scores.append(log_probabilities)
            ended |= torch.isin(tokens, ends)
        return self._cut(torch.stack(chosen, 1)[: len(mask)], torch.stack(scores, 1)[: len(mask)], len(chosen))

    def _make_room(self, n_rows: int) -> None:
        """Make an empty cache for at least `n_rows` rows, and compile the step for it."""
        if n_rows > self._n_rows:
            self._n_rows = n_rows
            length = len(self.prompt) + self.config.max_new_tokens
            self._cache = StaticCache(config=self.model.config.text_config, max_cache_len=length)
            self._compiled_step = torch.compile(self._step, mode="reduce-overhead", dynamic=False)
        else:
            self._cache.reset()

    def _step(self, tokens: torch.Tensor, processors) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the token that follows the last one of each row, and its log-probability."""
        outputs = self.model(input_ids=tokens, cache=self._cache, use_cache=True, logits_to_keep=1)
        return self._choose(outputs.logits[:, -1], processors)

    def _choose(self, logits: torch.Tensor, processors) -> tuple[torch.Tensor, torch.Tensor]:
        scores = processors(None, logits.float())
        best, tokens = scores.max(-1)
        return tokens, best - scores.logsumexp(-1)

    def _cut(self, tokens: torch.Tensor, scores: torch.Tensor, n_steps: int) -> DecodedTexts:
        """Return the texts up to their ends."""
        texts, log_probabilities = [], []
        for row, values in zip(tokens.tolist(), scores.double().cpu().numpy()):
            length = next((place + 1 for place, token in enumerate(row) if token in self.ends), len(row))
            texts.append(row[:length])
            log_probabilities.append(values[:length].sum())
        return DecodedTexts(texts, np.exp(log_probabilities), n_steps * self._n_rows)


class _Rows:
    """The rows of a batch: the text of each so far, and which positions of the cache belong to it."""

    def __init__(self, prompts: torch.Tensor, max_new_tokens: int, ends: set[int]):
        self.texts: list[list[int]] = [[] for _ in prompts]
        self.log_probabilities = np.zeros(len(prompts))
        self.steps, self.limit, self.ends = len(prompts), max_new_tokens, ends
        self.numbers = np.arange(len(prompts))  # the text of each row
        self.finished = np.zeros(len(prompts), dtype=bool)
        self.ids = prompts  # with all tokens of the texts, unless tokens are drafted
        self.valid = torch.ones_like(prompts)
        self.drafted: list[list[int]] = [[] for _ in prompts]

    def add(self, tokens: torch.Tensor, log_probabilities: torch.Tensor) -> None:
        """Add to each text its next token, and one more for each token that was drafted rightly.

        Args:
            tokens, log_probabilities (`torch.Tensor` of shape `(rows, 1 + longest draft)`): The token that follows the
                last one of the text and each drafted token.
        """
        found, scores = tokens.tolist(), log_probabilities.tolist()
        right = np.zeros(len(found), dtype=np.int64)
        for row, (number, draft) in enumerate(zip(self.numbers, self.drafted)):
            text = self.texts[number]
            for place in range(0 if self.finished[row] else 1 + len(draft)):
                text.append(found[row][place])
                self.log_probabilities[number] += scores[row][place]
                self.finished[row] = text[-1] in self.ends or len(text) >= self.limit
                if self.finished[row] or place == len(draft) or draft[place] != text[-1]:
                    break
                right[row] += 1
        places = torch.arange(tokens.shape[1], device=tokens.device)
        self.valid[:, -tokens.shape[1] :] &= places <= torch.from_numpy(right).to(tokens.device)[:, None]

    def remove_finished(self) -> torch.Tensor:
        """Drop the rows of finished texts, and return the indices of the others."""
        kept = np.flatnonzero(~self.finished)
        indices = torch.from_numpy(kept).to(self.ids.device)
        self.ids, self.valid = self.ids[indices], self.valid[indices]
        self.numbers, self.finished = self.numbers[kept], self.finished[kept]
        return indices

    def next_inputs(self, drafts: "DraftTable | None") -> dict:
        """Return the model's inputs: the last token of each text, and what is drafted to follow it."""
        texts = [self.texts[number] for number in self.numbers]
        last = torch.tensor([text[-1] for text in texts], device=self.ids.device)[:, None]
        if drafts is None:
            self.ids, self.valid = torch.cat([self.ids, last], dim=1), torch.ones_like(last)
            self.drafted = [[] for _ in texts]
            self.steps += len(texts)
            return {"input_ids": last}
        self.drafted = drafts.propose(texts, self.finished, self.limit)
        width = max(map(len, self.drafted))
        padded = torch.tensor([draft + [0] * (width - len(draft)) for draft in self.drafted], device=last.device)
        block = torch.cat([last, padded.long().view(len(texts), width)], dim=1)
        positions = self.valid.sum(1, keepdim=True) + torch.arange(1 + width, device=last.device)
        self.valid = torch.cat([self.valid, torch.ones_like(block)], dim=1)
        self.steps += block.numel()
        inputs = {"input_ids": block, "position_ids": positions}
        if width or not self.valid.all():
            inputs["attention_mask"] = self.valid
        return inputs


class DraftTable:
    """Likely next tokens, learned from texts that are decoded already.

    Texts of a model have much in common, such as the definition of a cell type. Tokens that have always followed the
    last tokens of a text are drafted, and the language model verifies them in one pass. Only tokens that the model
    itself would choose are kept, so drafts change the time that a text takes and not the text.
    """

    def __init__(self):
        self._next: dict[tuple[int, ...], int] = {}  # AMBIGUOUS where different tokens have followed
        self._started = (NO_TOKEN,) * max(CONTEXTS)

    def learn(self, texts: list[list[int]]) -> None:
        """Remember which tokens follow which in some texts."""
        for text in texts:
            if len(self._next) >= MAX_CONTEXTS:
                return
            tokens = (*self._started, *text)
            for place in range(len(self._started), len(tokens)):
                for length in CONTEXTS:
                    context, token = tokens[place - length : place], tokens[place]
                    if self._next.setdefault(context, token) != token:
                        self._next[context] = AMBIGUOUS

    def propose(self, texts: list[list[int]], finished: np.ndarray, limit: int) -> list[list[int]]:
        """Draft tokens for each text, none for a finished one.

        Drafts are at most as long as the median one: every row of a batch computes as many tokens as the longest.

        Args:
            limit (`int`): Largest number of tokens of a text.
        """
        drafts = [
            [] if done else self._continue(text, min(MAX_DRAFT, limit - len(text) - 1))
            for text, done in zip(texts, finished)
        ]
        longest = int(np.median([len(draft) for draft, done in zip(drafts, finished) if not done]))
        return [draft[:longest] for draft in drafts]

    def _continue(self, text: list[int], most: int) -> list[int]:
        tokens = [*self._started, *text[-max(CONTEXTS) :]]
        draft: list[int] = []
        while len(draft) < most:
            known = (self._next.get(tuple(tokens[-length:])) for length in CONTEXTS)
            token = next((token for token in known if token is not None), AMBIGUOUS)
            if token == AMBIGUOUS:
                break
            tokens.append(token)
            draft.append(token)
        return draft


__all__ = ["CompiledDecoder", "DecodedTexts", "GreedyDecoder", "InPlaceLayer"]
