"""`find_lr`: a curve, a picture and a rate for each of the three trainings, and no model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import Outcome
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, video_folder, write_config
from yt8m.training.curves import Curve
from yt8m.training.lr_range import BETA, EXPLODED, steepest_descent

Command = Callable[..., Outcome]


@pytest.fixture(name="made", scope="module")
def fixture_made(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations and base models."""
    folder = tmp_path_factory.mktemp("made")
    write_config(folder / "video.yaml", video={"model": DBOF, "training": TRAINING})
    write_config(folder / "agnostic.yaml", pure_segment={"training": TRAINING})
    write_config(folder / "aware.yaml", segment_w_context={"model": CONTEXT, "training": TRAINING})
    write_config(folder / "none.yaml", video={"model": DBOF})
    write_config(
        folder / "several.yaml", video={"model": DBOF, "training": TRAINING}, pure_segment={"training": TRAINING}
    )
    video_folder(folder / "dbof", DBOF, tiny_data)
    video_folder(folder / "nextvlad", NEXTVLAD, tiny_data)
    return folder


MODELS = {"video": (), "agnostic": ("dbof",), "aware": ("dbof", "nextvlad")}


def arguments(kind: str, made: Path, data_dir: Path, *options: object) -> list[object]:
    """The command line of a test of a kind on the CPU."""
    return [
        "find_lr",
        made / f"{kind}.yaml",
        *(made / name for name in MODELS[kind]),
        "--data-dir",
        data_dir,
        "--device",
        "cpu",
        "--seed",
        5,
        *options,
    ]


def files(folder: Path) -> dict[Path, bytes]:
    """What a folder holds."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(name="curve_of_training")
def fixture_curve_of_training(
    command: Command, made: Path, tiny_data: Path, tmp_path: Path
) -> Callable[..., pd.DataFrame]:
    """Ten steps of a kind, with other values in the training section."""

    def curve(kind: str, **training: object) -> pd.DataFrame:
        section, content = {
            "video": ("video", {"model": DBOF}),
            "agnostic": ("pure_segment", {}),
            "aware": ("segment_w_context", {"model": CONTEXT}),
        }[kind]
        config = write_config(tmp_path / "x.yaml", **{section: {**content, "training": {**TRAINING, **training}}})
        line = arguments(kind, made, tiny_data, "--steps", 10, "--output", tmp_path / "x.png")
        outcome = command(line[0], config, *line[2:])
        assert outcome.status == 0, outcome.err
        return pd.read_csv(tmp_path / "x.csv")

    return curve


@pytest.mark.parametrize("kind", MODELS)
def test_each_training_gets_a_curve_a_picture_and_a_rate(
    kind: str, command: Command, made: Path, data_dir: Path
) -> None:
    before = files(made), files(data_dir)
    outcome = command(*arguments(kind, made, data_dir, "--steps", 14, "--from", 1e-6, "--to", 1e-2))
    assert outcome.status == 0, outcome.err
    picture = data_dir / "cache" / "find_lr" / f"{kind}.png"
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    table = pd.read_csv(picture.with_suffix(".csv"))
    assert list(table) == ["step", "lr", "loss", "smoothed"]
    assert table["step"].tolist() == list(range(1, 15))
    np.testing.assert_allclose(table["lr"], 1e-6 * 1e4 ** (np.arange(14) / 13), rtol=1e-6)
    assert (np.diff(table["lr"]) > 0).all()
    assert table["smoothed"][0] == pytest.approx(table["loss"][0])
    weights = BETA ** np.arange(14)[::-1]
    assert table["smoothed"][13] == pytest.approx((table["loss"] * weights).sum() / weights.sum())
    (line,) = outcome.out.splitlines()
    assert line.startswith(f"{picture}: ") and line.endswith("; the configuration has 1e-03")
    after = files(made), files(data_dir)
    assert after[0] == before[0]
    new = {path.relative_to(data_dir / "cache").parts[0] for path in after[1].keys() - before[1].keys()}
    assert new <= {"find_lr", "index"}
    kept = {path: content for path, content in before[1].items() if path.parent.name != "index"}  # of other inodes
    assert after[1].items() >= kept.items()
    assert sorted(path.name for path in picture.parent.iterdir()) == [f"{kind}.csv", f"{kind}.png"]


def test_the_curve_is_a_function_of_the_seed(command: Command, made: Path, tiny_data: Path, tmp_path: Path) -> None:
    def curve(name: str, *options: object) -> bytes:
        outcome = command(
            *arguments("video", made, tiny_data, "--steps", 10, "--output", tmp_path / f"{name}.png", *options)
        )
        assert outcome.status == 0, outcome.err
        return (tmp_path / f"{name}.csv").read_bytes()

    first = curve("first")
    assert curve("again", "--workers", 2) == first
    assert curve("other", "--seed", 6) != first


def test_groups_keep_the_ratios_of_their_rates(
    command: Command, made: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *rest: object) -> object:
        rates.append({"lr": [group["lr"] for group in self.param_groups], "eps": self.defaults["eps"]})
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    outcome = command(*arguments("aware", made, tiny_data, "--steps", 10, "--output", tmp_path / "x.png"))
    assert outcome.status == 0, outcome.err
    table = pd.read_csv(tmp_path / "x.csv")
    assert len(rates) == len(table) == 10
    for row, lr in zip(rates, table["lr"]):
        assert row["eps"] == 1e-7
        assert row["lr"] == pytest.approx([lr, lr, lr / 2, lr / 2])  # head, segment encoder; with and without decay


def test_it_trains_by_the_configuration(
    curve_of_training: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, limits = [], []
    step, clip = torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_

    def recorded(self: torch.optim.AdamW, *rest: object) -> object:
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *rest)

    def clipped(parameters: object, max_norm: float) -> Tensor:
        limits.append(max_norm)
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    table = curve_of_training("aware", segment_encoder_lr_factor=0.125)
    for row, lr in zip(rates, table["lr"], strict=True):
        assert row == pytest.approx([lr, lr, lr / 8, lr / 8])
    assert limits == [10] * 10
    curve_of_training("video", clip_grad_norm=0.5)
    assert limits[10:] == [0.5] * 10
    curve_of_training("video", clip_grad_norm=None)
    assert len(limits) == 20
    losses = [curve_of_training("agnostic", mined_weight=weight)["loss"][0] for weight in (0, 0.5, 1)]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    assert losses[1] - losses[0] > 0.05


def test_half_precision(command: Command, made: Path, tiny_data: Path, tmp_path: Path) -> None:
    outcome = command(
        *arguments("agnostic", made, tiny_data, "--steps", 10, "--amp", "bf16", "--output", tmp_path / "x.png")
    )
    assert outcome.status == 0, outcome.err
    assert np.isfinite(pd.read_csv(tmp_path / "x.csv")["loss"]).all()


def test_it_ends_where_the_loss_explodes(command: Command, made: Path, tiny_data: Path, tmp_path: Path) -> None:
    outcome = command(
        *arguments(
            "video", made, tiny_data, "--from", 1e-5, "--to", 1e25, "--steps", 60, "--output", tmp_path / "x.png"
        )
    )
    assert outcome.status == 0, outcome.err
    assert "ended at step" in outcome.err and " of 60" in outcome.err
    table = pd.read_csv(tmp_path / "x.csv")
    assert 10 <= len(table) < 60 and np.isfinite(table).all(axis=None)
    exploded = table["smoothed"] > EXPLODED * table["smoothed"].cummin()
    assert not exploded[:-1].any()


def test_a_nan_loss_ends_the_test_and_is_left_out(
    command: Command, made: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yt8m.training.losses import VideoTask

    criterion = VideoTask.criterion
    left = [12]

    def failing(*operands: object) -> object:
        left[0] -= 1
        return criterion(*operands) * (float("nan") if left[0] < 0 else 1)

    monkeypatch.setattr(VideoTask, "criterion", failing)
    options = "--to", 1e-3, "--steps", 20, "--output", tmp_path / "x.png"
    outcome = command(*arguments("video", made, tiny_data, *options))
    assert outcome.status == 0, outcome.err
    assert "ended at step 13 of 20" in outcome.err and "the training loss is nan" in outcome.err
    table = pd.read_csv(tmp_path / "x.csv")
    assert len(table) == 12 and np.isfinite(table).all(axis=None)
    left[0] = 9
    refused = command(*arguments("video", made, tiny_data, *options))
    assert refused.status == 2 and "--from 1e-07: only 9 steps before the training loss is nan" in refused.err
    assert refused.err.endswith("choose a lower --from, such as 1e-10\n")
    left[0] = 10
    assert command(*arguments("video", made, tiny_data, *options)).status == 0


@pytest.mark.parametrize(
    "line, parts",
    [
        ("video.yaml dbof", ("video.yaml", "video.training", "takes no base model", "found 1")),
        ("agnostic.yaml", ("agnostic.yaml", "pure_segment.training", "takes BASE_MODEL_DIR", "found 0")),
        ("aware.yaml dbof", ("aware.yaml", "CONTEXT_MODEL_DIR and SEGMENT_MODEL_DIR", "found 1")),
        ("aware.yaml dbof dbof dbof", ("aware.yaml", "found 3")),
        ("none.yaml", ("none.yaml", "no training section", "segment_w_context.training")),
        ("several.yaml", ("several.yaml", "several training sections", "one of video.training, pure_segment.training")),
        ("missing.yaml", ("missing.yaml", "no such configuration")),
        ("agnostic.yaml missing", ("missing", "no such model folder")),
        ("agnostic.yaml dbof --fold 8", ("--fold", "'8'", "0 to 7 or none")),
        ("video.yaml --from 1e-3 --to 1e-3", ("--from 0.001", "--to 0.001")),
        ("video.yaml --from 1 --to 1e-3", ("--from 1 ", "--to 0.001")),
        ("video.yaml --from 0", ("--from", "positive number")),
        ("video.yaml --to inf", ("--to", "positive number")),
        ("video.yaml --steps 9", ("--steps 9", "at least 10")),
        ("video.yaml --output x.csv", ("--output x.csv", ".png")),
        ("video.yaml --device tpu", ("--device tpu",)),
    ],
)
def test_mistakes(
    line: str, parts: tuple[str, ...], command: Command, made: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    before = files(made)
    outcome = command("find_lr", *line.split(), "--data-dir", tiny_data)
    assert outcome.status == 2
    errors = [text for text in outcome.err.splitlines() if "error:" in text]
    assert errors == outcome.err.splitlines()[-1:] and "Traceback" not in outcome.err
    for part in parts:
        assert part in errors[0]
    assert not (tiny_data / "cache" / "find_lr").exists() and files(made) == before


# --- the suggestion --------------------------------------------------------------------------------------


def curve_of(lr: np.ndarray, smoothed: np.ndarray) -> Curve:
    """A curve for its smoothed loss alone."""
    return Curve(lr, smoothed, smoothed)


@settings(deadline=None)
@given(
    st.integers(5, 36),
    st.integers(40, 120),
    st.floats(1, 4),
    st.floats(0.01, 10),
    st.integers(-12, -4),
    st.integers(1, 12),
)
def test_the_suggestion_is_the_middle_of_a_slope(
    place: int, n: int, width: float, height: float, start: int, decades: int
) -> None:
    """A logistic slope of the loss over log(lr) is steepest in its middle."""
    lr = np.geomspace(10.0**start, 10.0 ** (start + decades), n)
    loss = height * (1 + 1 / (1 + np.exp((np.arange(n) - place) / width)))
    assert steepest_descent(curve_of(lr, loss)) == pytest.approx(lr[place], rel=1e-9)


def test_the_ends_do_not_count() -> None:
    lr = np.geomspace(1e-6, 1, 30)
    loss = 10 - 0.01 * np.arange(30.0)
    loss[12:] -= 0.2
    loss[:4] += 5, 4, 2, 1
    loss[28:] -= 3
    assert steepest_descent(curve_of(lr, loss)) in lr[[11, 12]]
    assert steepest_descent(curve_of(lr[:10], np.linspace(2, 1, 10))) in lr[5:7]


def test_a_loss_that_never_falls_gives_no_suggestion() -> None:
    lr = np.geomspace(1e-6, 1, 30)
    assert steepest_descent(curve_of(lr, np.linspace(1, 2, 30))) is None
