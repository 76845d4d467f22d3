"""Heads: from the features of a video or segment to logits.

Dimensions: B examples, F features, C classes, M mixtures.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import StrictBool
from torch import Tensor, nn

from yt8m.common.config import Count, Fraction, Section
from yt8m.models.base import Registry
from yt8m.models.layers import initialize

Layers = Mapping[str, nn.Module]


class Head(ABC):
    """Base class of the heads: their layers and how these are used.

    The layers are part of the model (`Classifier`), under the names in `layers`.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def layers(self, in_features: int, n_classes: int) -> dict[str, nn.Module]:
        """New layers for features (B, F) and logits (B, C)."""

    @abstractmethod
    def logits(self, layers: Layers, features: Tensor) -> Tensor:
        """Features (B, F) → (B, C)."""

    @abstractmethod
    def begin_with_shares(self, layers: Layers, shares: np.ndarray) -> None:
        """Initialize the biases so that logits match the shares (C,), in (0, 1), of examples of each class.

        Otherwise the first hundreds of steps are spent on making all classes improbable.
        """

    @property
    @abstractmethod
    def class_rows(self) -> dict[str, int]:
        """For each linear layer with outputs per class: its name within the head, such as "fc.2", and the number of
        parameter rows per class."""

    def reorder(self, state: dict[str, Tensor], prefix: str, rows: np.ndarray) -> dict[str, Tensor]:
        """A state dict whose head, at `prefix`, has the former output rows[c] as output c; `rows` (C,) is a
        permutation."""
        reordered = dict(state)
        for layer, per_class in self.class_rows.items():
            for key in (f"{prefix}{layer}.weight", f"{prefix}{layer}.bias"):
                if key in state and len(state[key]) == len(rows) * per_class:  # else loading reports the mismatch
                    by_class = state[key].unflatten(0, (len(rows), per_class))
                    reordered[key] = by_class[torch.from_numpy(rows)].flatten(0, 1)
        return reordered


HEADS: Registry[Head] = Registry()
Registered = TypeVar("Registered", bound=Head)


def register_head(name: str, config: type[Section]) -> Callable[[type[Registered]], type[Registered]]:
    """Decorator that registers a head as `head: name` in configurations, with the keys of `config`.

    Raises `NameTakenError`.
    """
    return HEADS.register(name, config)


class Classifier(nn.Module):  # pylint: disable=abstract-method  # subclasses define `forward`
    """A model that has the layers of a head among its own."""

    head: Head
    _head_layers: tuple[str, ...]

    def add_head(self, head: Head, in_features: int, n_classes: int) -> None:
        """Add new layers of a head."""
        layers = head.layers(in_features, n_classes)
        self.head, self._head_layers = head, tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    @property
    def head_layers(self) -> dict[str, nn.Module]:
        """The layers of the head."""
        return {name: self.get_submodule(name) for name in self._head_layers}

    def logits(self, features: Tensor) -> Tensor:
        """The head's logits: features (B, F) → (B, C)."""
        return self.head.logits(self.head_layers, features)

    def begin_with_shares(self, shares: np.ndarray) -> None:
        """See `Head`."""
        self.head.begin_with_shares(self.head_layers, shares)


def _log_odds(shares: np.ndarray) -> Tensor:
    return torch.from_numpy(np.log(shares / (1 - shares)))


def _output_layer(in_features: int, n_outputs: int, p_drop: float) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(in_features), nn.Dropout(p_drop), nn.Linear(in_features, n_outputs))


class LogisticConfig(Section):
    """A logistic regression for each class, after dropout."""

    p_drop: Fraction


@register_head("logistic", LogisticConfig)
class LogisticHead(Head):
    """A logistic regression for each class."""

    @property
    def class_rows(self) -> dict[str, int]:
        """See `Head`."""
        return {"class_fc.2": 1}

    def layers(self, in_features: int, n_classes: int) -> dict[str, nn.Module]:
        """`class_fc`."""
        layer = _output_layer(in_features, n_classes, self.config.p_drop)
        initialize(layer)
        return {"class_fc": layer}

    def logits(self, layers: Layers, features: Tensor) -> Tensor:
        """See `Head`."""
        return layers["class_fc"](features)

    def begin_with_shares(self, layers: Layers, shares: np.ndarray) -> None:
        """See `Head`."""
        layers["class_fc"].get_parameter("2.bias").data.copy_(_log_odds(shares))


class MixtureConfig(Section):
    """A mixture of `n_mixtures` experts for each class, after dropout; `per_class`: separate gates for each class."""

    n_mixtures: Count
    per_class: StrictBool = False
    p_drop: Fraction


@register_head("moe", MixtureConfig)
class MixtureHead(Head):
    """A mixture of experts for each class."""

    @property
    def class_rows(self) -> dict[str, int]:
        """See `Head`."""
        gates = {"gating_fc.2": self.config.n_mixtures + 1} if self.config.per_class else {}
        return {"expert_fc.2": self.config.n_mixtures, **gates}

    def layers(self, in_features: int, n_classes: int) -> dict[str, nn.Module]:
        """`expert_fc` and `gating_fc`."""
        config = self.config
        layers = mixture_layers(in_features, n_classes, config.n_mixtures, config.per_class, config.p_drop)
        return dict(zip(("expert_fc", "gating_fc"), layers))

    def logits(self, layers: Layers, features: Tensor) -> Tensor:
        """See `Head`."""
        return mix_experts(layers["expert_fc"](features), layers["gating_fc"](features), self.config.n_mixtures)

    def begin_with_shares(self, layers: Layers, shares: np.ndarray) -> None:
        """See `Head`."""
        begin_with_shares(layers["expert_fc"], shares)


def mixture_layers(
    in_features: int, n_classes: int, n_mixtures: int, per_class: bool, p_drop: float
) -> tuple[nn.Sequential, nn.Sequential]:
    """The `expert_fc` and `gating_fc` of a mixture-of-experts head.

    There is one gate more than experts: the last one selects a dummy that contributes nothing.
    """
    n_gates = (n_mixtures + 1) * (n_classes if per_class else 1)
    experts, gates = (_output_layer(in_features, out, p_drop) for out in (n_classes * n_mixtures, n_gates))
    initialize(experts)
    initialize(gates)
    return experts, gates


@torch.no_grad()
def begin_with_shares(experts: nn.Module, shares: np.ndarray) -> None:
    """Initialize a new head's biases so that logits match the shares (C,), in (0, 1), of examples of each class.

    Otherwise the first hundreds of steps are spent on making all classes improbable, and the gates of some examples
    choose the dummy expert for good. Equal gates scale logits by M / (M + 1), for which the biases compensate.
    """
    bias = experts.get_parameter("2.bias")
    n_mixtures = len(bias) // len(shares)
    logits = _log_odds(shares) * (n_mixtures + 1) / n_mixtures
    bias.copy_(logits.repeat_interleave(n_mixtures))


def mix_experts(experts: Tensor, gates: Tensor, n_mixtures: int) -> Tensor:
    """Expert outputs (B, C·M) and gate logits (B, M+1) or (B, C·(M+1)) → logits (B, C).

    The mix is of logits, not of probabilities.
    """
    # Not by indices, whose gradients would be summed in as many tensors of zeros.
    outputs = experts.unflatten(1, (-1, n_mixtures)).unbind(2)  # M times (B, C)
    shares = gates.unflatten(1, (-1, n_mixtures + 1)).softmax(dim=2).unbind(2)  # M + 1 times (B, 1 or C)
    logits = outputs[0] * shares[0]
    for output, share in zip(outputs[1:], shares[1:-1]):  # few; a sum over the innermost dimension would be slow
        logits = logits.addcmul(output, share)
    return logits
