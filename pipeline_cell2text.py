"""`pipeline("cell-to-text", model=..., trust_remote_code=True)`: an AnnData in, one text a cell out."""

from transformers import Pipeline


try:
    from .errors_cell2text import UserError
except ImportError:
    from errors_cell2text import UserError

try:
    from .generation_cell2text import CellTextGenerator
except ImportError:
    from generation_cell2text import CellTextGenerator

try:
    from .processing_cell2text import is_cell
except ImportError:
    from processing_cell2text import is_cell


class CellToTextPipeline(Pipeline):
    """Describes cells.

    Takes an AnnData of raw counts, a list of ranked cells, or one ranked cell. A cell without counts gets a reason
    instead of a text.
    """

    _load_processor = True  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _pipeline_calls_generate = True
    _answerer: CellTextGenerator | None = None  # of the call that runs: its question's beginning is computed once

    def _sanitize_parameters(self, prompt=None, generate_kwargs=None, **kwargs):
        preprocess = {} if prompt is None else {"prompt": prompt}
        return preprocess, {**kwargs, **(generate_kwargs or {})}, {}

    def __call__(self, cells, *, layer=None, gene_key=None, batch_size=8, **kwargs):
        """Describe cells.

        Args:
            cells (`AnnData`, `list` or `np.ndarray`): Raw counts, ranked cells, or one ranked cell.
            layer, gene_key (`str`, *optional*): Where an AnnData keeps counts and gene names.
            batch_size (`int`, defaults to 8): Cells a step; the texts do not depend on it.
            **kwargs: `prompt`, the question, and arguments of `generate`.

        Returns:
            `list[dict]` with a `generated_text` a cell, in order; for one ranked cell its `dict` alone.
        """
        if hasattr(cells, "obs_names"):
            ranked = self.processor.rank_encode(cells, layer=layer, gene_key=gene_key)
        elif layer is not None or gene_key is not None:
            raise UserError(
                "layer and gene_key say where an AnnData keeps counts and gene names; these cells are ranked."
            )
        else:
            ranked = [cells] if is_cell(cells) else list(cells)
        self._answerer = None  # the model may have changed since
        chunks = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
        results = [result for chunk in super().__call__(chunks, **kwargs) for result in chunk] if chunks else []
        return results[0] if is_cell(cells) else results

    def preprocess(self, cells, prompt=None):
        return {"cells": cells, "prompt": prompt}

    def _forward(self, model_inputs, **generate_kwargs):
        if self._answerer is None:
            conversation = self.processor.conversation(instruction=model_inputs["prompt"])
            self._answerer = CellTextGenerator(self.model, self.processor, conversation, **generate_kwargs)
        return self._answerer([[cell] for cell in model_inputs["cells"]])

    def postprocess(self, answers):
        return [{"generated_text": text} for text in answers.texts]
