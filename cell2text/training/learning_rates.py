"""Learning rates per part of the model, for any Trainer."""

from collections.abc import Mapping
from typing import Any

import torch


# Parts of the model that can have their own learning rate, and substrings of their parameters' names.
MODEL_PARTS = {
    "cell_encoder": ("cell_encoder.",),
    "projector": ("projector.",),
    "language_model": ("language_model.", "lm_head."),
}


class PartLearningRates:
    """Mixin for a Trainer: one learning rate per part of the model.

    A class that inherits it calls `set_learning_rates` before the Trainer's own `__init__`.
    """

    args: Any
    model: torch.nn.Module
    optimizer: Any
    optimizer_cls_and_kwargs: Any

    def set_learning_rates(self, model: torch.nn.Module, learning_rates: Mapping[str, float | None] | None) -> None:
        """Keep the learning rates, and freeze the parts whose rate is 0.

        Parameters
        ----------
        learning_rates
            Learning rate per part, a key of `MODEL_PARTS`. 0 freezes the part; None, or a missing part, uses
            `learning_rate`.
        """
        self.learning_rates = {part: rate for part, rate in (learning_rates or {}).items() if rate is not None}
        for name, parameter in model.named_parameters():
            if self.learning_rates.get(part_of(name)) == 0:
                parameter.requires_grad_(False)

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.learning_rates:
            trained = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            decayed = set(self.get_decay_parameter_names(trained))
            groups = parameter_groups(trained, self.learning_rates, decayed, weight_decay=self.args.weight_decay)
            self.optimizer_cls_and_kwargs = optimizer_class, {**options, "params": groups}
        return super().create_optimizer(model)


def part_of(name: str) -> str:
    """Return the part of the model, a key of `MODEL_PARTS`, that a parameter belongs to; otherwise `other`."""
    return next((part for part, prefixes in MODEL_PARTS.items() if any(prefix in name for prefix in prefixes)), "other")


def parameter_groups(model, rates: Mapping[str, float], decayed: set[str], *, weight_decay: float) -> list[dict]:
    """Group trainable parameters by part and weight decay; the groups of parts in `rates` get their learning rate."""
    groups: dict[tuple, dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name) if part_of(name) in rates else None
        decay = weight_decay if name in decayed else 0.0
        group = groups.setdefault((part, decay), {"params": [], "weight_decay": decay})
        group["params"].append(parameter)
        if part is not None:
            group["lr"] = rates[part]
    return list(groups.values())
