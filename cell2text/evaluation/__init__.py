"""Text to fields to figures. Reads texts and counts; never imports a model file."""

from cell2text.evaluation.evaluate import evaluate_predictions
from cell2text.evaluation.hf_metrics import metric_path
from cell2text.evaluation.hub_results import eval_results


__all__ = ["eval_results", "evaluate_predictions", "metric_path"]
