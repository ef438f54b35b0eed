"""Register Cell2Text with transformers: the Auto classes and the pipeline task `cell-to-text`.

Importing transformers takes seconds, so `import cell2text` does not do it. If transformers is loaded later, an import
hook registers the classes at that moment. The hook leaves `sys.meta_path` once it has done so.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


TASK = "cell-to-text"


def register() -> None:
    """Register the configuration, model, processor and pipeline of Cell2Text with transformers.

    `import cell2text` does this automatically, at once or when transformers is imported. A second call has no effect.
    """
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )
    from transformers.pipelines import PIPELINE_REGISTRY

    from configuration_cell2text import Cell2TextConfig
    from modeling_cell2text import Cell2TextForConditionalGeneration
    from pipeline_cell2text import CellToTextPipeline
    from processing_cell2text import Cell2TextProcessor

    AutoConfig.register("cell2text", Cell2TextConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(Cell2TextConfig, Cell2TextForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(Cell2TextConfig, Cell2TextProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=CellToTextPipeline, pt_model=AutoModelForMultimodalLM, type="multimodal"
        )


def register_with_transformers() -> None:
    """Register now if transformers is loaded, otherwise when it is imported."""
    if "transformers" in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisteringFinder())


class _RegisteringFinder:
    """Call `register` once transformers has been imported.

    The Hub files import transformers themselves. While one of them is being imported, registration would need a module
    that is only half there, so it waits until the outermost of these imports has ended.
    """

    def __init__(self) -> None:
        self._depth = 0

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "transformers" and ("." in name or not name.endswith("_cell2text")):
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            self._watch(spec.loader)
        return spec

    def _watch(self, loader) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            loader.exec_module = execute
            self._depth += 1
            try:
                execute(module)
            finally:
                self._depth -= 1
            if not self._depth and "transformers" in sys.modules and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        loader.exec_module = exec_module
