"""The pipeline task `cell-to-text`: an AnnData in, one text per cell out.

`pipeline("cell-to-text", model=..., trust_remote_code=True)` runs it without the package. `import cell2text` registers
it, so that `trust_remote_code` is not needed. `generation_cell2text.py` generates the texts.
"""

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
    """Describe cells.

    The input is an AnnData of raw counts, a list of ranked cells, or one ranked cell: gene tokens, or gene names with
    the highest first. For a cell that cannot be described, the text states why: it has no counts, or too few. Pathways
    and sex are the model's predictions; `cell2text.tl.describe` reads them from the cell's own counts.
    """

    _load_processor = True  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _pipeline_calls_generate = True
    _generator: CellTextGenerator | None = None  # kept during one call, to reuse the shared beginning of the prompt

    def _sanitize_parameters(self, prompt=None, generate_kwargs=None, **kwargs):
        preprocess = {} if prompt is None else {"prompt": prompt}
        return preprocess, {**kwargs, **(generate_kwargs or {})}, {}

    def __call__(self, cells, *, layer=None, gene_key=None, batch_size=8, **kwargs):
        """Describe cells.

        Args:
            cells (`AnnData`, `list` or `np.ndarray`): Raw counts, ranked cells, or one ranked cell. A ranked cell is a
                sequence of gene token ids, or a list of gene symbols or Ensembl ids, highest first.
            layer (`str`, *optional*): Layer of the AnnData that holds raw counts. Defaults to `X`.
            gene_key (`str`, *optional*): Column of `var` with Ensembl ids or symbols. Defaults to the best match.
            batch_size (`int`, defaults to 8): Cells per batch; the texts do not depend on it.
            **kwargs: `prompt`, the instruction in place of the processor's own, and arguments of `generate`.

        Returns:
            `list[dict]` with the key `generated_text`, one per cell in input order; one `dict` for one ranked cell.

        Raises:
            UserError: If `layer` or `gene_key` is passed with ranked cells.
        """
        if hasattr(cells, "obs_names"):
            ranked = self.processor.rank_encode(cells, layer=layer, gene_key=gene_key)
        elif layer is not None or gene_key is not None:
            raise UserError("layer and gene_key apply to an AnnData, but these cells are ranked: omit both.")
        else:
            cells = self.processor.encode_gene_lists(cells)
            ranked = [cells] if is_cell(cells) else list(cells)
        self._generator = None  # the model may have changed since the last call
        chunks = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
        results = [result for chunk in super().__call__(chunks, **kwargs) for result in chunk] if chunks else []
        return results[0] if is_cell(cells) else results

    def preprocess(self, cells, prompt=None):
        return {"cells": cells, "prompt": prompt}

    def _forward(self, model_inputs, **generate_kwargs):
        if self._generator is None:
            conversation = self.processor.conversation(instruction=model_inputs["prompt"])
            self._generator = CellTextGenerator(self.model, self.processor, conversation, **generate_kwargs)
        return self._generator([[cell] for cell in model_inputs["cells"]])

    def postprocess(self, generated):
        return [{"generated_text": text} for text in generated.texts]
