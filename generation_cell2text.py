"""One question about many cells, answered in batches: the engine under the pipeline, `cell2text describe` and `tl`.

The tokens before the first cell are the same for every cell: their keys and values are computed once. Rows that have
ended are cut out of the batch, so that no step is spent on them.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .processing_cell2text import EMPTY_CELL_TEXT
except ImportError:
    from processing_cell2text import EMPTY_CELL_TEXT


DEFAULTS = {"do_sample": False, "max_new_tokens": 160}
GENES_AT_ONCE = 131_072
GENES_AT_ONCE_ON_CPU = 8_192  # more do not stay in its caches
CUT_AT = 0.25  # of a batch's rows that have ended before the others are moved together, which copies their cache
# Arguments of `generate` that plain greedy decoding takes; any other calls `generate` itself.
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
    """What was said about some questions, in their order.

    Args:
        texts: One a question; for a cell without counts the reason.
        embeddings: The encoder's states at its projected layer, the mean over the genes of a question's first cell,
            float32, shape (n, cell_hidden); zeros for a cell without counts.
        confidence: Probability of each answer under the model, the product of those of its tokens, float32, shape
            (n,); NaN for a cell without counts, and where an answer was not chosen greedily.
        steps: Decoding steps times rows, of which `useful` brought a token of an answer.
        useful: See `steps`.
        concepts: How probable a model of concepts takes each name for a question's first cell, by group, float32, shape
            (n, n_names); NaN for a cell without counts. Empty for any other model.
    """

    texts: list[str]
    embeddings: np.ndarray
    confidence: np.ndarray
    steps: int
    useful: int
    concepts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class CellFeatures:
    """Cells as the language model reads them.

    Args:
        features: Shape (n, n_cells, num_cell_tokens, text_hidden).
        mask: Which of a question's places hold a cell, shape (n, n_cells, 1).
        embeddings: See :class:`GeneratedTexts`.
        concepts: See :class:`GeneratedTexts`.
    """

    features: torch.Tensor
    mask: torch.Tensor
    embeddings: np.ndarray
    concepts: dict[str, np.ndarray]


@torch.inference_mode()
def encode_cells(model, processor, questions: list[list], genes_at_once: int | None = None) -> CellFeatures:
    """Run the encoder and the projector over the cells of some questions, all of as many cells.

    Args:
        genes_at_once (`int`, *optional*): Gene tokens, with padding, that go through the encoder together; one
            question at least.
    """
    if genes_at_once is None:
        genes_at_once = GENES_AT_ONCE_ON_CPU if model.device.type == "cpu" else GENES_AT_ONCE
    parts = []
    longest = max(len(cell) for cells in questions for cell in cells) * len(questions[0])
    size = max(1, genes_at_once // max(1, longest))
    for start in range(0, len(questions), size):
        batch = processor.pad_cells(questions[start : start + size], return_tensors="pt")
        batch = {name: value.to(model.device) for name, value in batch.items()}
        outputs, mask = model.get_cell_features(**batch), batch["cell_attention_mask"]
        states, genes = outputs.last_hidden_state[:, 0], mask[:, 0].unsqueeze(-1)
        means = (states * genes).sum(dim=1) / genes.sum(dim=1).clamp(min=1)
        told = means.new_empty(len(means), 0) if outputs.concepts is None else outputs.concepts[:, 0]
        parts.append((outputs.pooler_output, mask.any(-1, keepdim=True), means.float().cpu(), told.float().cpu()))
    features, mask, means, told = (torch.cat(part) for part in zip(*parts))
    groups = model.config.concepts.split(told) if told.shape[1] else {}
    return CellFeatures(features, mask, means.numpy(), {group: part.numpy() for group, part in groups.items()})


class CellTextGenerator:
    """Asks a model one question about cell after cell.

    Args:
        model (`Cell2TextForConditionalGeneration`): On its device.
        processor (`Cell2TextProcessor`): Its processor.
        conversation (`list[dict]`, *optional*): Chat with as many cell blocks as a question has cells; the
            processor's own description of one cell when left out.
        genes_at_once (`int`, *optional*): See :func:`encode_cells`.
        **generate_kwargs: Arguments of `generate`. Greedy, and 160 new tokens at most, unless they say otherwise.
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
            raise UserError("The question holds no cell: expected at least one {'type': 'cell'} block in its chat.")
        self.n_shared = int(placeholders[0])
        self.greedy = not self.options["do_sample"] and set(self.options) <= GREEDY
        self._shared: Any = None

    def __call__(self, questions: list[list]) -> GeneratedTexts:
        """Answer the question about some cells.

        Args:
            questions (`list[list]`): For each question its ranked cells, as many as the chat has blocks.

        Raises:
            ValueError: If a question has another number of cells.
        """
        wrong = next((len(cells) for cells in questions if len(cells) != self.n_cells), None)
        if wrong is not None:
            raise UserError(f"A question has {wrong} cells, its chat {self.n_cells} cell blocks.")
        full = [i for i, cells in enumerate(questions) if not any(map(self.processor.is_empty, cells))]
        texts, confidence = [EMPTY_CELL_TEXT] * len(questions), np.full(len(questions), np.nan, dtype=np.float32)
        embeddings = np.zeros((len(questions), self.model.config.cell_config.hidden_size), dtype=np.float32)
        concepts = {
            group: np.full((len(questions), len(names)), np.nan, dtype=np.float32)
            for group, names in self.model.config.concept_groups.items()
        }
        if not full:
            return GeneratedTexts(texts, embeddings, confidence, 0, 0, concepts)
        features = encode_cells(self.model, self.processor, [questions[i] for i in full], self.genes_at_once)
        embeddings[full] = features.embeddings
        for group, found in features.concepts.items():
            concepts[group][full] = found
        ids, chances, steps = self._decode(features)
        for i, tokens, chance in zip(full, ids, chances):
            texts[i] = self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            confidence[i] = chance
        return GeneratedTexts(texts, embeddings, confidence, steps, sum(map(len, ids)), concepts)

    @torch.inference_mode()
    def _decode(self, cells: "CellFeatures") -> tuple[list[list[int]], list[float], int]:
        """Tokens of each answer with its end, its probability, and the steps times rows that were computed."""
        prompts = self.prompt.expand(len(cells.mask), -1)
        inputs = {"cell_embeds": cells.features, "cell_attention_mask": cells.mask}
        if not self.greedy:
            ids = self.model.generate(
                input_ids=prompts, attention_mask=torch.ones_like(prompts), **inputs, **self.options
            )
            said = ids[:, len(self.prompt) :]
            return said.tolist(), [float("nan")] * len(said), said.numel()
        cache = self._shared_cache(len(prompts))
        outputs = self.model(
            input_ids=prompts[:, self.n_shared :], cache=cache, use_cache=True, logits_to_keep=1, **inputs
        )
        return self._greedy(prompts, outputs.logits[:, -1], cache)

    def _shared_cache(self, n_rows: int):
        """Keys and values of the tokens before the first cell, for so many rows."""
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
        config = copy.deepcopy(self.model.generation_config)
        config.update(**self.options)
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        ends = torch.tensor([end for end in ends if end is not None], dtype=torch.long, device=prompts.device)
        processors = self.model._get_logits_processor(config, prompts.shape[1], device=prompts.device)
        limit = config.max_new_tokens
        said: list[list[int]] = [[] for _ in prompts]
        chances = np.zeros(len(prompts))
        rows = np.arange(len(prompts))  # which question each row of the batch is
        ended = np.zeros(len(prompts), dtype=bool)
        steps, ids = 0, prompts
        while True:
            scores = processors(ids, logits.float())
            chosen = scores.argmax(-1)
            log_chance = scores.log_softmax(-1).gather(1, chosen[:, None])[:, 0].cpu().numpy()
            stops = torch.isin(chosen, ends).cpu().numpy()
            for place, token in enumerate(chosen.tolist()):
                if not ended[place]:
                    said[rows[place]].append(token)
                    chances[rows[place]] += log_chance[place]
            ended |= stops
            if ended.all() or ids.shape[1] - prompts.shape[1] + 1 >= limit:
                break
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            if ended.mean() >= CUT_AT:
                kept = torch.from_numpy(np.flatnonzero(~ended)).to(ids.device)
                cache.batch_select_indices(kept)
                ids, chosen = ids[kept], chosen[kept]
                rows, ended = rows[~ended], ended[~ended]
            logits = self.model(input_ids=ids[:, -1:], cache=cache, use_cache=True).logits[:, -1]
            steps += len(ids)
        return said, list(np.exp(chances)), steps + len(prompts)
