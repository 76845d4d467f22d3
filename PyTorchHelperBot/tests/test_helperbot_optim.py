"""Parameter groups and schedules."""

import pytest
import torch
from helperbot import parameter_groups, warmup_linear_decay
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


class Net(nn.Module):  # pylint: disable=abstract-method,too-many-instance-attributes
    """Layers of several kinds, with a bias that is not named exactly so."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
        self.norm = nn.LayerNorm(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.instance_norm = nn.InstanceNorm1d(4, affine=True)
        self.attention = nn.MultiheadAttention(4, 2)
        self.centers = nn.Parameter(torch.zeros(4, 4))
        self.row_bias = nn.Parameter(torch.zeros(4, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.body[2].weight


def ids(parameters):
    """The identities, for comparisons without comparing tensors."""
    return [id(parameter) for parameter in parameters]


def test_normalization_layers_and_biases_have_no_decay():
    net = Net()
    decay, no_decay = parameter_groups(net, 0.1, 0.01)
    assert (decay["lr"], decay["weight_decay"]) == (0.1, 0.01)
    assert (no_decay["lr"], no_decay["weight_decay"]) == (0.1, 0)
    assert set(ids(decay["params"])) == set(
        ids(
            [
                net.body[0].weight,
                net.body[2].weight,
                net.attention.in_proj_weight,
                net.attention.out_proj.weight,
                net.centers,
            ]
        )
    )
    assert set(ids(no_decay["params"])) == set(
        ids(
            [
                net.body[0].bias,
                net.body[1].weight,
                net.body[1].bias,
                net.norm.weight,
                net.norm.bias,
                net.group_norm.weight,
                net.group_norm.bias,
                net.instance_norm.weight,
                net.instance_norm.bias,
                net.attention.in_proj_bias,
                net.attention.out_proj.bias,
                net.row_bias,
            ]
        )
    )


def test_each_trained_parameter_is_listed_exactly_once():
    net = Net()
    listed = [p for group in parameter_groups(net, 0.1, 0.01) for p in group["params"]]
    assert sorted(ids(listed)) == sorted(ids(p for p in net.parameters() if p.requires_grad))


def test_empty_groups_are_dropped():
    assert [g["weight_decay"] for g in parameter_groups(nn.Linear(2, 2, bias=False), 1, 1)] == [1]
    assert [g["weight_decay"] for g in parameter_groups(nn.LayerNorm(2), 1, 1)] == [0]
    assert not parameter_groups(nn.ReLU(), 1, 1)


def test_groups_of_submodules_combine_in_one_optimizer():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(parameter_groups(first, 0.1, 0.5) + parameter_groups(second, 0.2, 0.5))
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.1, 0.5),
        (0.1, 0),
        (0.2, 0.5),
        (0.2, 0),
    ]


@pytest.mark.parametrize("lr, decay", [(-1, 0), (float("nan"), 0), (1, -1), (1, float("inf"))])
def test_bad_rates_are_refused(lr, decay):
    with pytest.raises(ValueError, match="must be finite"):
        parameter_groups(nn.Linear(1, 1), lr, decay)


def test_warmup_linear_decay_by_hand():
    factors = [warmup_linear_decay(step, 8, 0.25, 0.2, 0.4) for step in range(10)]
    assert factors == pytest.approx([0.2, 0.6, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4])


def test_schedule_without_warmup_starts_at_one():
    assert warmup_linear_decay(0, 10, 0.0) == 1.0


@settings(deadline=None)
@given(
    steps=st.integers(1, 10**7),
    warmup=st.floats(0, 1, exclude_max=True),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    data=st.data(),
)
def test_schedule_is_bounded_rises_then_falls_and_meets_its_ends(steps, warmup, start, end, data):
    def factor(step):
        return warmup_linear_decay(step, steps, warmup, start, end)

    step = data.draw(st.integers(0, steps - 1))
    assert min(start, end) - 1e-9 <= factor(step) <= 1 + 1e-9
    assert factor(steps) == factor(steps + step) == end
    assert factor(0) == (start if warmup * steps > 0 else 1.0)
    if step + 1 <= warmup * steps:
        assert factor(step) <= factor(step + 1) + 1e-9
    if step >= warmup * steps:
        assert factor(step) >= factor(step + 1) - 1e-9


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"step": -1},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"warmup": float("nan")},
        {"start_factor": -0.1},
        {"start_factor": 1.5},
        {"end_factor": float("nan")},
    ],
)
def test_schedule_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="must be"):
        warmup_linear_decay(**{"step": 1, "steps": 10, "warmup": 0.1, **arguments})
