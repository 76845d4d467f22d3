"""The mixture-of-experts head. Dimensions: B examples, C classes, M mixtures."""

import numpy as np
import torch
from torch import Tensor, nn

from yt8m.models.initialization import initialize


def mixture_layers(
    in_features: int, n_classes: int, n_mixtures: int, per_class: bool, p_drop: float
) -> tuple[nn.Sequential, nn.Sequential]:
    """The `expert_fc` and `gating_fc` of a mixture-of-experts head.

    There is one gate more than experts: the last is a dummy that contributes nothing.
    """
    n_gates = (n_mixtures + 1) * (n_classes if per_class else 1)
    experts, gates = (
        nn.Sequential(nn.BatchNorm1d(in_features), nn.Dropout(p_drop), nn.Linear(in_features, out))
        for out in (n_classes * n_mixtures, n_gates)
    )
    initialize(experts)
    initialize(gates)
    return experts, gates


@torch.no_grad()
def begin_with_shares(experts: nn.Sequential, shares: np.ndarray) -> None:
    """Have the logits of a new head begin about where those shares (C,) of the examples, in (0, 1), would have them.

    Else the first hundreds of steps go into making all classes improbable, and some examples' gates into saying
    nothing, with the dummy expert, for good. With equal gates M of M + 1 of a logit count.
    """
    linear = experts[2]
    assert isinstance(linear, nn.Linear)
    n_mixtures = linear.out_features // len(shares)
    logits = torch.from_numpy(np.log(shares / (1 - shares))) * (n_mixtures + 1) / n_mixtures
    linear.bias.copy_(logits.repeat_interleave(n_mixtures))


def mix_experts(experts: Tensor, gates: Tensor, n_mixtures: int) -> Tensor:
    """Expert outputs (B, C·M) and gate logits (B, M+1) or (B, C·(M+1)) → logits (B, C).

    The mix is of logits, not of probabilities.
    """
    experts = experts.unflatten(1, (-1, n_mixtures))  # (B, C, M)
    shares = gates.unflatten(1, (-1, n_mixtures + 1)).softmax(dim=2)[:, :, :n_mixtures]  # (B, 1 or C, M)
    logits = experts[:, :, 0] * shares[:, :, 0]
    for mixture in range(1, n_mixtures):  # few, so that a sum over the innermost dimension would be slow
        logits = logits.addcmul(experts[:, :, mixture], shares[:, :, mixture])
    return logits


def reorder_classes(state: dict[str, Tensor], prefix: str, n_mixtures: int, rows: np.ndarray) -> dict[str, Tensor]:
    """A state dict whose head, at `prefix`, gives what was output rows[c] as output c; `rows` (C,) is a permutation."""
    reordered = dict(state)
    for layer, per_class in (("expert_fc", n_mixtures), ("gating_fc", n_mixtures + 1)):
        for parameter in ("weight", "bias"):
            key = f"{prefix}{layer}.2.{parameter}"
            values = state.get(key)
            if values is not None and len(values) == len(rows) * per_class:  # else the gates are shared
                by_class = values.unflatten(0, (len(rows), per_class))
                reordered[key] = by_class[torch.from_numpy(rows)].flatten(0, 1)
    return reordered
