"""Evaluation of generated texts: fields are read back from them and compared with labels.

It reads prediction rows and counts, and never imports a model. Public names are imported on first use, so that
`cell2text.evaluation.bootstrap` alone stays cheap.
"""

from importlib import import_module


_LAZY = {
    "eval_result_entries": "cell2text.evaluation.hub_results",
    "eval_results": "cell2text.evaluation.hub_results",
    "evaluate_described": "cell2text.evaluation.described",
    "evaluate_file": "cell2text.evaluation.run",
    "evaluate_predictions": "cell2text.evaluation.evaluate",
    "metric_path": "cell2text.evaluation.hf_metrics",
    "write_eval_results": "cell2text.evaluation.hub_results",
}

__all__ = [*_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
