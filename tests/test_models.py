"""Models: literal formulas, independence of padding, freezing, initialization."""

import copy
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional

from tests.small_models import CONTEXT, DBOF, NEXTVLAD
from yt8m.models.base import fuse
from yt8m.models.classifiers import ContextAwareModel, ContextModelConfig, build_video_model
from yt8m.models.config import VideoModelConfig
from yt8m.models.dbof import DbofEncoder
from yt8m.models.heads import begin_with_shares, mix_experts, mixture_layers
from yt8m.models.layers import CenteredLinear, GatedPooling, NormedLinear, SEGating, begin_centered, center, uncenter
from yt8m.models.model_folders import copy_encoder
from yt8m.models.nextvlad import NextvladEncoder, NextvladLayer
from yt8m.models.packing import Packing

N_CLASSES = 3


def parse(model: dict, **changes: object) -> VideoModelConfig:
    """A model section as a configuration."""
    return TypeAdapter(VideoModelConfig).validate_python({**model, **changes})


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    """Raw features."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def disturb(model: nn.Module) -> nn.Module:
    """Give the batch norms statistics as after training, so that no layer is an identity by chance."""
    generator = torch.Generator().manual_seed(5)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.copy_(torch.randn(layer.num_features, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
    return model


def literal_vlad(layer: NextvladLayer, frames: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """NeXtVLAD with the five-dimensional difference written out; frames (B, L, D), mask (B, L)."""
    n_videos, length, _ = frames.shape
    k, groups = layer.n_clusters, layer.groups
    expanded = layer.expansion_mapper(frames / frames.norm(dim=2, keepdim=True).clamp(min=1e-12))
    attention = layer.attention_mapper(expanded).sigmoid() * mask.unsqueeze(2)
    if isinstance(layer.soft_assignment_mapper, nn.Sequential):
        linear, norm = layer.soft_assignment_mapper
        flat = linear(expanded)
        by_cluster = flat.reshape(n_videos, length, groups, k)
        bn = norm.bn
        flat = ((by_cluster - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias).flatten(2)
    else:
        flat = layer.soft_assignment_mapper(expanded)
    if layer.soft_assignment == "2019":
        assignment = flat.reshape(n_videos, length, k, groups).softmax(dim=2)
    else:
        assignment = flat.reshape(n_videos, length, groups, k).softmax(dim=3).transpose(2, 3)
    parts = expanded.reshape(n_videos, length, 1, groups, -1)
    difference = parts - layer.centroids[:, None, :]  # (B, L, K, G, 2D/G)
    vlad = (attention[:, :, None, :, None] * assignment[..., None] * difference).sum(dim=(1, 3))
    return layer.final_bn(functional.normalize(vlad, dim=2).flatten(1))


@pytest.mark.parametrize("soft_assignment", ["2019", "paper"])
@pytest.mark.parametrize("add_batchnorm", [True, False])
@torch.no_grad()
def test_nextvlad_equals_the_five_dimensional_formula(soft_assignment: str, add_batchnorm: bool) -> None:
    torch.manual_seed(1)
    layer = disturb(NextvladLayer(24, 6, 4, 0.2, add_batchnorm, soft_assignment)).eval()
    if not add_batchnorm:
        layer.soft_assignment_mapper.weight.mul_(0.01)  # else every softmax is saturated
    frames, lengths = random_frames(3, 7, 24).float(), torch.tensor([7, 2, 5])
    rows, packing = Packing.of(frames, lengths)
    mask = torch.arange(7) < lengths[:, None]
    found = layer.aggregate(*layer.encode_frames(rows), packing)
    torch.testing.assert_close(found, literal_vlad(layer, frames, mask), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("soft_assignment", ["2019", "paper"])
@pytest.mark.parametrize("add_batchnorm", [True, False])
@pytest.mark.parametrize("n_clusters, groups", [(2, 2), (24, 8)], ids=["sums first", "frames first"])
@torch.no_grad()
def test_whole_videos_folded_equal_the_padded_ones(
    soft_assignment: str, add_batchnorm: bool, n_clusters: int, groups: int
) -> None:
    torch.manual_seed(1)
    layer = disturb(NextvladLayer(24, n_clusters, groups, 0.2, add_batchnorm, soft_assignment)).eval()
    if not add_batchnorm:
        layer.soft_assignment_mapper.weight.mul_(0.01)  # else every softmax is saturated
    lengths = [30, 9, 17]
    frames = random_frames(3, 30, 24).float()
    rows, packing = Packing.of(frames, torch.tensor(lengths))
    expected = layer.aggregate(*layer.encode_frames(rows), packing)
    layer.fuse()
    torch.testing.assert_close(layer.aggregate(*layer.encode_frames(rows), packing), expected, rtol=1e-4, atol=1e-5)
    with mock.patch.object(layer, "encode_frames", wraps=layer.encode_frames) as expand:
        torch.testing.assert_close(layer.encode_whole(rows, lengths), expected, rtol=1e-4, atol=1e-5)
    assert expand.call_count == (0 if n_clusters == 2 else 1)


def test_training_forgets_what_was_folded() -> None:
    torch.manual_seed(2)
    model = disturb(build_video_model(parse(NEXTVLAD, p_drop=0.0), N_CLASSES)).eval()
    fuse(model)
    keys = model.state_dict().keys()
    model.train()(random_frames(3, 6, 1152)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.video_encoder.parameters())
    with torch.no_grad():
        next(model.video_encoder.attention_mapper.parameters()).add_(1)
    copied = build_video_model(parse(NEXTVLAD, p_drop=0.0), N_CLASSES).eval()
    copied.load_state_dict(model.state_dict())
    frames = random_frames(2, 6, 1152)
    assert keys == copied.state_dict().keys()
    torch.testing.assert_close(model.eval()(frames), copied(frames))


def test_soft_assignment_readings_differ() -> None:
    frames = random_frames(2, 6, 1152)
    logits = []
    for reading in ("2019", "paper"):
        torch.manual_seed(2)
        logits.append(disturb(build_video_model(parse(NEXTVLAD, soft_assignment=reading), N_CLASSES)).eval()(frames))
    assert not torch.allclose(*logits)


@torch.no_grad()
def test_initial_assignment_is_that_of_netvlad() -> None:
    layer = NextvladLayer(8, 3, 2, 0.0, False, "paper")
    expanded = torch.rand(5, 16)
    logits = layer.soft_assignment_mapper(expanded).unflatten(1, (2, 3))
    tiled = layer.centroids.repeat(1, 2)  # (K, 2D)
    literal = 2 * 100 * expanded @ tiled.T - 100 * layer.centroids.norm(dim=1)
    torch.testing.assert_close(logits, literal.unsqueeze(1).expand_as(logits))
    assert 0 <= layer.centroids.min() and layer.centroids.max() < 1


@pytest.mark.parametrize(
    "model",
    [
        DBOF,
        {**DBOF, "frame_se_reduction": 0, "video_se_reduction": 0, "per_class": True},
        NEXTVLAD,
        {**NEXTVLAD, "add_batchnorm": False, "se_reduction": 0},
    ],
    ids=["dbof", "dbof-plain", "nextvlad", "nextvlad-plain"],
)
@settings(deadline=None, derandomize=True, max_examples=8)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), padding=st.integers(0, 5))
def test_a_prediction_does_not_depend_on_padding_or_neighbours(model: dict, lengths: list[int], padding: int) -> None:
    torch.manual_seed(3)
    classifier = disturb(build_video_model(parse(model), N_CLASSES)).eval()
    frames = random_frames(len(lengths), max(lengths) + padding, 1152)  # noise in the padding, too
    with torch.no_grad():
        together = classifier(frames, torch.tensor(lengths))
        alone = torch.cat([classifier(frames[row : row + 1, :length]) for row, length in enumerate(lengths)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_training_statistics_do_not_depend_on_padding(model: dict) -> None:
    lengths = torch.tensor([4, 6, 5])
    statistics = []
    for length in (6, 11):
        torch.manual_seed(4)
        classifier = build_video_model(parse(model, p_drop=0.0), N_CLASSES).train()
        frames = torch.zeros(3, length, 1152, dtype=torch.uint8)
        frames[:, :6] = random_frames(3, 6, 1152)
        classifier(frames, lengths).sum().backward()
        statistics.append(
            {**dict(classifier.named_buffers()), **{key: value.grad for key, value in classifier.named_parameters()}}
        )
    for key, value in statistics[0].items():
        torch.testing.assert_close(value, statistics[1][key], rtol=1e-4, atol=1e-5, msg=key)


def test_dbof_pools_maximum_and_mean_of_valid_frames() -> None:
    config = parse(DBOF, frame_se_reduction=0, video_se_reduction=0)
    encoder = DbofEncoder(config).eval()
    frames = random_frames(1, 6, 1152)
    hidden = functional.relu(encoder.encoder[0](frames[0, :4].float()))
    pooled = torch.cat([hidden.max(dim=0).values, hidden.sum(dim=0) / 4])
    torch.testing.assert_close(encoder(frames, torch.tensor([4])), encoder.intermediate_fc(pooled.unsqueeze(0)))


def test_gating_stored_as_convolutions_is_the_same_gating() -> None:
    convolutions, linears = SEGating(8, 2, per_frame=True).eval(), SEGating(8, 2).eval()
    linears.load_state_dict(
        {key: value.squeeze(2) if value.dim() == 3 else value for key, value in convolutions.state_dict().items()}
    )
    rows = torch.randn(5, 8)
    squeezed = convolutions.fc1(rows.T.unsqueeze(0))  # as a convolution over (1, D, N)
    assert squeezed.shape == (1, 4, 5)
    torch.testing.assert_close(convolutions(rows), linears(rows))


def literal_gated_pooling(gating: SEGating, rows: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """The frame-level gating as its formula has it, then each video's maximum and mean; rows (N, D) → (B, 2D)."""
    hidden = gating.bn2(gating.fc1(gating.bn1(rows).unsqueeze(2)).relu().squeeze(2))
    gated = rows * gating.fc2(hidden.unsqueeze(2)).squeeze(2).sigmoid()
    return torch.stack([torch.cat([video.amax(dim=0), video.mean(dim=0)]) for video in gated.split(lengths)])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [[4] * 11, [3, 1, 4, 1, 4, 2, 4, 3, 4, 3, 2], [2]], ids=["full", "padded", "one"])
def test_gated_pooling_equals_plain_autograd(lengths: list[int], training: bool) -> None:
    torch.manual_seed(7)
    gating = disturb(SEGating(8, 2, per_frame=True)).double().train(training)
    plain = copy.deepcopy(gating)
    _, packing = Packing.of(torch.empty(len(lengths), 4, 1), torch.tensor(lengths))
    rows = torch.randn(sum(lengths), 8, dtype=torch.float64).relu().requires_grad_()  # zeros tie for the maximum
    weights = torch.randn(len(lengths), 16, dtype=torch.float64)
    found, expected = gating.pool(rows, packing), literal_gated_pooling(plain, rows, lengths)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad((pooled * weights).sum(), [rows, *module.parameters()])
        for pooled, module in ((found, gating), (expected, plain))
    ]
    positive = rows.detach() > 0  # at 0 the maximum has many gradients, but they stop at the ReLU that rows come from
    torch.testing.assert_close(gradients[0][0][positive], gradients[1][0][positive])
    for (name, _), ours, literal in zip(gating.named_parameters(), gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(ours, literal, msg=name)
    for ours, literal in zip(gating.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, literal)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_normed_linear(training: bool) -> None:
    torch.manual_seed(8)
    norm = disturb(nn.BatchNorm1d(4)).train(training).double()
    shapes = ((5, 4), (4,), (4,), (3, 4), (3,))
    tensors = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *inputs: NormedLinear.apply(norm, *inputs), tensors)


@pytest.mark.parametrize("lengths", [[2, 2, 2], [3, 1, 2]])
def test_gradients_of_gated_pooling(lengths: list[int]) -> None:
    torch.manual_seed(9)
    _, packing = Packing.of(torch.empty(3, max(lengths), 1), torch.tensor(lengths))
    tensors = [torch.rand(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (6, 2), (4, 2), (4,))]
    assert torch.autograd.gradcheck(lambda *inputs: GatedPooling.apply(packing, *inputs), tensors)


@pytest.mark.parametrize("lengths", [None, [9, 3, 6]])
def test_dbof_trains_in_half_precision(lengths: list[int] | None) -> None:
    frames = random_frames(3, 9, 1152) / 255  # raw ones would saturate the gates
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(10)
        encoder = DbofEncoder(parse(DBOF, p_drop=0.0)).eval()  # batch norm over 3 videos would magnify the rounding
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            features = encoder(frames, None if lengths is None else torch.tensor(lengths))
        features.float().square().sum().backward()
        gradients.append({key: value.grad for key, value in encoder.named_parameters()})
    for key, exact in gradients[0].items():
        assert gradients[1][key].dtype == torch.float32
        assert (gradients[1][key] - exact).norm() < 0.1 * exact.norm(), key


@pytest.mark.parametrize("per_class", [False, True])
def test_mixture_is_of_logits_with_a_dummy_expert(per_class: bool) -> None:
    experts, gates = torch.randn(2, 3 * 2), torch.randn(2, 3 * (3 if per_class else 1))
    logits = mix_experts(experts, gates, 2)
    for row in range(2):
        for label in range(3):
            gate = gates[row].reshape(-1, 3)[label if per_class else 0].softmax(0)
            value = sum(experts[row].reshape(3, 2)[label, m] * gate[m] for m in range(2))
            assert logits[row, label].item() == pytest.approx(value.item(), rel=1e-5)


def expected_start(name: str, model: nn.Module) -> str:
    """How 2019's release began a parameter, see the design: by the rule and not by the code."""
    layer_name, _, parameter = name.rpartition(".")
    layer = model.get_submodule(layer_name)
    if isinstance(layer, NextvladLayer):
        return "uniform"  # the centroids
    if isinstance(layer, nn.Conv1d):
        return "torch"
    if isinstance(layer, nn.BatchNorm1d):
        of_vlad = "soft_assignment_mapper" in name or "final_bn" in name
        return "zero" if parameter == "bias" else "one" if of_vlad else "uniform"
    if "soft_assignment_mapper" in name:
        return "assignment"
    return "zero" if parameter == "bias" else "kaiming"


@pytest.mark.parametrize(
    "config",
    [
        parse(DBOF, hidden_dim=512, fcn_dim=256),
        parse(NEXTVLAD, n_clusters=16, fcn_dim=256),
        parse(NEXTVLAD, n_clusters=16, fcn_dim=256, se_reduction=0, add_batchnorm=False),
    ],
    ids=["dbof", "nextvlad", "plain nextvlad"],
)
def test_all_parameters_begin_as_in_2019(config: VideoModelConfig) -> None:
    torch.manual_seed(0)
    model = build_video_model(config, 200)
    kinds = {name: expected_start(name, model) for name, _ in model.named_parameters()}
    assert {"kaiming", "zero", "uniform"} <= set(kinds.values())
    for name, values in model.named_parameters():
        n_inputs = values[0].numel()
        deviation, largest = values.std().item(), values.abs().max().item()
        close = {"rel": 5 / values.numel() ** 0.5}  # five standard errors, at least
        if kinds[name] == "kaiming":
            assert deviation == pytest.approx((2 / n_inputs) ** 0.5, **close), name
            assert largest > 2.5 * deviation or values.numel() < 200, name  # normal
        elif kinds[name] == "torch":  # U(-1, 1) / sqrt(fan in), of weights and biases alike
            bound = 1 / model.get_submodule(name.rpartition(".")[0]).in_channels ** 0.5
            assert deviation == pytest.approx(bound / 3**0.5, **close) and largest <= bound, name
        elif kinds[name] == "uniform":
            assert values.min() >= 0 and largest <= 1, name
            assert values.mean().item() == pytest.approx(0.5, rel=5 * (1 / 3 / values.numel()) ** 0.5), name
        elif kinds[name] in ("zero", "one"):
            assert (values == float(kinds[name] == "one")).all(), name


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_centered_inputs_are_another_form_of_the_same_model(model: dict) -> None:
    torch.manual_seed(0)
    classifier = disturb(build_video_model(parse(model), N_CLASSES)).double().eval()
    frames = random_frames(2, 12, 1152).double()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    with torch.no_grad():
        expected = classifier(frames)
        center(classifier)
        center(classifier)  # once is enough
        changed = [key for key, value in classifier.state_dict().items() if not torch.equal(value, before[key])]
        torch.testing.assert_close(classifier(frames), expected)
        uncenter(classifier)
        uncenter(classifier)
        torch.testing.assert_close(classifier(frames), expected)
    assert {key.rpartition(".")[0] for key in changed} == (
        {"encoder.0"} if model is DBOF else {f"{part}_encoder.expansion_mapper" for part in ("video", "audio")}
    )
    for key, value in classifier.state_dict().items():
        torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_centered_inputs_tell_frames_apart(model: dict) -> None:
    """On bytes as they are, most of what a new unit gives is the same for all frames."""
    torch.manual_seed(0)
    classifier = build_video_model(parse(model, **({"hidden_dim": 64} if model is DBOF else {})), N_CLASSES)
    layer = next(layer for layer in classifier.modules() if isinstance(layer, CenteredLinear))
    rows = random_frames(200, 1152)[:, : layer.in_features].float()
    if model is NEXTVLAD:
        rows = functional.normalize(rows, dim=1)
    shares = []
    for begin in (lambda _: None, begin_centered):
        begin(classifier)
        units = layer(rows)
        shares.append((units.var(dim=0) / units.square().mean(dim=0)).median().item())
    assert shares[0] < 0.5 and shares[1] > 0.9


def test_a_new_head_begins_with_the_shares_of_the_classes() -> None:
    torch.manual_seed(0)
    shares = np.array([0.5, 0.01, 0.2])
    experts, gates = mixture_layers(8, 3, 4, False, 0.5)
    begin_with_shares(experts, shares)
    gates[2].weight.data.zero_()
    nothing = torch.zeros(2, 8)
    logits = mix_experts(experts.eval()(nothing), gates.eval()(nothing), 4)
    torch.testing.assert_close(logits.sigmoid(), torch.tensor(shares).float().expand(2, 3))


def context_aware(finetune: bool) -> ContextAwareModel:
    """A small context-aware model."""
    config = ContextModelConfig.model_validate({**CONTEXT, "finetune_context": finetune})
    return ContextAwareModel(config, parse(DBOF), parse(NEXTVLAD), N_CLASSES)


@pytest.mark.parametrize("finetune", [False, True])
def test_the_context_encoder_is_frozen_unless_fine_tuned(finetune: bool) -> None:
    model = context_aware(finetune).train()
    before = {key: value.clone() for key, value in model.context_model.state_dict().items()}
    segments, videos = random_frames(4, 11, 1152), random_frames(2, 15, 1152, seed=1)
    logits = model(segments, videos, torch.tensor([15, 9]), torch.tensor([0, 0, 1, 1]))
    logits.sum().backward()
    moved = any(not torch.equal(value, before[key]) for key, value in model.context_model.state_dict().items())
    has_gradient = any(parameter.grad is not None for parameter in model.context_model.parameters())
    assert moved == has_gradient == finetune
    assert all(parameter.grad is not None for parameter in model.segment_model.parameters())


def test_context_encoders_start_from_video_models() -> None:
    torch.manual_seed(6)
    context, segment = (build_video_model(parse(model), N_CLASSES) for model in (DBOF, NEXTVLAD))
    model = context_aware(False)
    copy_encoder(model.context_model, context)
    copy_encoder(model.segment_model, segment)
    frames = random_frames(2, 11, 1152)
    disturbed = disturb(model).eval(), disturb(context).eval(), disturb(segment).eval()
    with torch.no_grad():
        torch.testing.assert_close(disturbed[0].encode_context(frames), DbofEncoder.forward(disturbed[1], frames))
    assert not [key for key in model.segment_model.state_dict() if key.startswith(("se_gating", "expert"))]
    assert len(model.segment_model.intermediate_fc) == 1  # the first Linear only: no ReLU, no gating


def test_other_feature_widths() -> None:
    for model in (DBOF, NEXTVLAD):
        classifier = build_video_model(parse(model, video_dim=24, audio_dim=8), N_CLASSES).eval()
        assert classifier(random_frames(2, 5, 32)).shape == (2, N_CLASSES)
    assert NextvladEncoder(parse(NEXTVLAD, video_dim=24, audio_dim=8)).video_encoder.centroids.shape == (4, 12)
