"""Model families and heads in a file outside the package, through all commands."""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.conftest import Outcome
from tests.documentation import blocks
from tests.small_models import CONTEXT, DBOF, NEXTVLAD, TRAINING, video_folder, write_config
from tests.test_commands import assert_refused
from yt8m.__main__ import main
from yt8m.common.config import Count
from yt8m.common.errors import UserError
from yt8m.data.datasets import WholeVideoDataset
from yt8m.data.frames import CANDIDATES, Trim, context_frames
from yt8m.data.index import load_index
from yt8m.models.base import FAMILIES, Encoder, EncoderConfig, Entry, NameTakenError, fuse, register
from yt8m.models.classifiers import ContextAgnosticModel, VideoModel, build_segment_encoder, build_video_model
from yt8m.models.config import VideoSection, parse_config
from yt8m.models.heads import HEADS, LogisticHead, MixtureHead, register_head
from yt8m.models.model_folders import load_segment_model, load_video_model, open_folder
from yt8m.models.packing import Windows
from yt8m.prediction.onnx_export import make_portable

Command = Callable[..., Outcome]
PAGE = [block for block in blocks("docs/adding-a-model.md") if block.language in ("python", "yaml")]
SOURCE, VIDEO_CONFIG = PAGE[0].text, yaml.safe_load(PAGE[1].text)
ATTENTION = {**VIDEO_CONFIG["video"]["model"], "hidden_dim": 8}
RECURRENT = {"type": "recurrent", "head": "logistic", "hidden_dim": 6, "p_drop": 0.5, "max_len": 20}
N_CLASSES = 3


class RecurrentConfig(EncoderConfig):
    """Keys of a family that is registered here."""

    hidden_dim: Count


class RecurrentEncoder(Encoder):
    """Two tensors of each frame, and the last state of a recurrent layer: all that frames come after counts."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.out_features = config.hidden_dim
        self.frame_fc = nn.Linear(config.frame_dim, config.hidden_dim)
        self.gate_fc = nn.Linear(config.frame_dim, 1)
        self.recurrent = nn.GRU(config.hidden_dim, config.hidden_dim, batch_first=True)

    def encode_frames(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (N, D) → (N, H) and (N, 1)."""
        rows = rows / 128 - 1
        return self.frame_fc(rows), self.gate_fc(rows)

    def pool(self, encoded: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """(B, L, H) and (B, L, 1), (B, L) → (B, H)."""
        units, gates = encoded
        states, _ = self.recurrent(units * gates.sigmoid())
        last = mask.sum(dim=1) - 1
        return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)


@pytest.fixture(name="attention")
def fixture_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The family of the page, in a file that can be imported."""
    path = tmp_path / "families" / "attention.py"
    path.parent.mkdir()
    path.write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(path.parent)
    yield path
    forget()


@pytest.fixture(name="families", autouse=True)
def fixture_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family of this module."""
    monkeypatch.setitem(FAMILIES, "recurrent", Entry(RecurrentEncoder, RecurrentConfig))


def forget() -> None:
    """As in a new process."""
    for module in ("attention", "another"):
        sys.modules.pop(module, None)
    FAMILIES.pop("attention", None)


def video_model(model: dict[str, Any], **changes: Any) -> VideoModel:
    """A video model with batch norms as after training, in eval mode."""
    torch.manual_seed(4)
    made = build_video_model(VideoSection.model_validate({"model": {**model, **changes}}).model, N_CLASSES)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return made.eval()


def random_frames(*shape: int) -> Tensor:
    """Frames, uint8, not so different that all gates are shut."""
    return torch.from_numpy(np.random.default_rng(8).integers(90, 160, shape, np.uint8))


def literal_logits(data_dir: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of a model for the first two segments of the first test video, and what was predicted."""
    index = load_index(data_dir / "segment" / "test", data_dir / "cache")
    ((_, frames),) = WholeVideoDataset(index, np.arange(1)).__getitems__([(0, 0)])
    segments = torch.stack([frames[start - 3 : start + 8] for start in (30, 35)])
    model = load_segment_model(open_folder(data_dir / "cache" / "segment" / name)).eval()
    context = (frames[None, slice(*context_frames(len(frames)))], None, torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        logits = model(segments, *context) if model.needs_context else model(segments)
    predicted = np.load(data_dir / "cache" / "predictions" / f"{name}.npy")[:2]
    return 9999 * logits.sigmoid().numpy(), predicted


def test_a_family_in_one_file_goes_all_the_way(
    attention: Path, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    def run(module: str, *arguments: object) -> str:
        outcome = command(module, *arguments, "--data-dir", data_dir)
        assert outcome.status == 0, outcome.err
        return outcome.out

    base, segments = data_dir / "cache" / "video" / "attention", data_dir / "cache" / "segment"
    dbof = video_folder(tmp_path / "dbof", DBOF, data_dir)
    video = {"model": ATTENTION, "training": VIDEO_CONFIG["video"]["training"]}
    train = "--device", "cpu", "--seed", 5
    run("train_video", write_config(tmp_path / "v.yaml", video=video), "--name", "attention", *train)
    alone = write_config(tmp_path / "a.yaml", pure_segment={"training": TRAINING})
    run("train_pure_segment", alone, base, "--fold", 0, "--name", "alone", *train)
    beside = write_config(tmp_path / "c.yaml", segment_w_context={"model": CONTEXT, "training": TRAINING})
    for name, bases in (("in", (base, dbof)), ("around", (dbof, base))):
        run("train_segment_w_context", beside, *bases, "--fold", 0, "--name", name, *train)
    state = torch.load(base / "model.pth", weights_only=True)
    assert {key.split(".")[1] for key in state} == {"frame_fc", "attention_fc", "class_fc"}
    kept = yaml.safe_load((segments / "in_0" / "config.yaml").read_text(encoding="utf-8"))
    assert kept["context_base"]["model"] == {"video_dim": 1024, "audio_dim": 128, **ATTENTION}
    assert not {"head", "module"} & kept["segment_base"]["model"].keys()

    run("prepare_test_meta")
    run("inference_memmap", "--device", "cpu")
    for name in ("alone_0", "in_0", "around_0"):
        expected, predicted = literal_logits(data_dir, name)
        assert np.abs(predicted - expected).max() < 1 < np.ptp(expected)
    run("evaluate", "--fold", 0, "--device", "cpu")
    page = run("localize", data_dir / "segment" / "test" / "test0000.tfrecord", "--threshold", 0)
    assert "0:00" in page
    for folder in (base, segments / "alone_0", segments / "in_0"):
        assert "differs from PyTorch" in run("export_model", folder)

    forget()
    attention.unlink()
    outcome = command("localize", data_dir / "segment" / "test" / "test0000.tfrecord", "--data-dir", data_dir)
    where = str(segments / "alone_0" / "config.yaml"), "video.model.module"
    assert_refused(outcome, "there is no Python module attention", "attention.py", "PYTHONPATH")
    assert_refused(command("export_model", segments / "alone_0"), *where)


def test_a_run_goes_on_with_the_file_that_it_began_with(
    attention: Path, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "v.yaml", video={"model": ATTENTION, "training": TRAINING})
    arguments = "train_video", config, "--name", "x", "--data-dir", data_dir, "--device", "cpu"
    assert command(*arguments).status == 0
    (data_dir / "cache" / "video" / "x" / "model.pth").unlink()  # as if it had been interrupted
    assert command(*arguments).status == 0
    (data_dir / "cache" / "video" / "x" / "model.pth").unlink()
    attention.write_text(SOURCE + "\n", encoding="utf-8")
    assert_refused(command(*arguments), "has been trained by", "--allow-other-code")


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD, ATTENTION, RECURRENT], ids=["dbof", "nextvlad", "attention", "gru"])
@torch.no_grad()
def test_all_ways_give_what_one_example_gives(model: dict[str, Any], attention: Path) -> None:
    assert attention.is_file()
    made = video_model(model, video_dim=24, audio_dim=8)
    lengths, frames = [12, 5, 9], random_frames(3, 14, 32)
    videos = [video[:length] for video, length in zip(frames, lengths)]
    expected = torch.cat([made.encode(video[None]) for video in videos])
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(made.encode(frames, torch.tensor(lengths)), expected, **close)
    rows, windows = frames.flatten(0, 1).float(), Windows(7, 5)
    torch.testing.assert_close(
        made.pool_rows(made.encode_frames(rows), windows), made.encode(windows.unpack(rows)), **close
    )
    for trim, length in ((CANDIDATES, 1), (CANDIDATES, 40), (CANDIDATES, 41), (CANDIDATES, 73), (Trim(0, 1), 9)):
        whole = random_frames(length, 32)
        seen = whole[None, slice(*context_frames(length, trim))]
        torch.testing.assert_close(make_portable(made, trim).logits(whole), made(seen)[0], **close)
    segments = random_frames(4, 11, 32)
    torch.testing.assert_close(
        make_portable(ContextAgnosticModel(made), CANDIDATES).logits(segments), made(segments), **close
    )
    fuse(made)
    torch.testing.assert_close(made.encode_whole(torch.cat(videos).float(), lengths), expected, **close)


def test_padding_counts_for_nothing_in_training() -> None:
    frames, lengths = random_frames(2, 9, 1152), torch.tensor([9, 4])
    gradients = []
    for padding in (0, 3):
        made = video_model(RECURRENT).train()
        made.class_fc[1].p = 0.0
        made(nn.functional.pad(frames, (0, 0, 0, padding), value=7), lengths).square().sum().backward()
        gradients.append({name: value.grad for name, value in made.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], gradient)


def test_an_encoder_that_cannot_pool_says_so() -> None:
    class Unfinished(RecurrentEncoder):
        """Without a way to join frames."""

        pool = Encoder.pool

    config = VideoSection.model_validate({"model": RECURRENT}).model
    with pytest.raises(TypeError, match="Unfinished has to define `pool`"):
        Unfinished(config)(random_frames(1, 3, 1152))
    assert isinstance(build_segment_encoder(config), RecurrentEncoder)


def test_two_files_with_a_family_of_the_same_name(attention: Path) -> None:
    attention.with_name("another.py").write_text(SOURCE, encoding="utf-8")
    models = ATTENTION, {**ATTENTION, "module": "another"}
    with pytest.raises(UserError) as caught:
        parse_config(
            {name: {"model": model} for name, model in zip(("context_base", "segment_base"), models)}, "c.yaml"
        )
    assert str(caught.value).startswith("c.yaml: 1 problem: segment_base.model.module: another.AttentionEncoder is ")


def test_the_program_finds_modules_where_it_is_started(
    attention: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(attention.parent)
    elsewhere = [path for path in sys.path if path not in ("", str(attention.parent))]
    monkeypatch.setattr(sys, "path", elsewhere)
    assert find_spec("attention") is None
    with pytest.raises(SystemExit):
        main(["--version"])
    assert find_spec("attention") is not None and capsys.readouterr().out


def test_a_name_belongs_to_one_class() -> None:
    assert register("recurrent", RecurrentConfig)(RecurrentEncoder) is RecurrentEncoder  # as when it is imported anew
    with pytest.raises(NameTakenError, match=r"'dbof', as is yt8m\.models\.dbof\.DbofEncoder"):
        register("dbof", RecurrentConfig)(RecurrentEncoder)
    with pytest.raises(NameTakenError, match="'moe'"):
        register_head("moe", HEADS["logistic"].config)(LogisticHead)


@pytest.mark.parametrize(
    "source, error",
    [
        ("import no_such_package_at_all\n", ModuleNotFoundError),
        ("int('x')\n", ImportError),
        ("1 / 0\n", ZeroDivisionError),
    ],
)
def test_a_mistake_in_a_familys_file_is_not_one_of_the_configuration(
    source: str, error: type[Exception], attention: Path
) -> None:
    attention.write_text(source, encoding="utf-8")
    with pytest.raises(error) as caught:
        parse_config({"video": {"model": ATTENTION}}, "test")
    assert "attention" in str(caught.traceback[-1].path) or error is ImportError and "attention" in str(caught.value)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"type": "atention"}, "video.model.type: expected one of 'attention', 'dbof', 'nextvlad', 'recurrent', "),
        (
            {"head": "logistics"},
            "video.model.head: expected one of 'logistic', 'moe', found 'logistics' (did you mean ",
        ),
        ({"module": "families.none"}, "video.model.module: there is no Python module families"),
        ({"module": "../attention"}, "video.model.module: expected"),
        ({"module": 3}, "video.model.module: expected"),
        ({"hidden_dim": 0}, "video.model.hidden_dim: expected"),
        ({"n_mixtures": 2}, "video.model.n_mixtures: unknown key"),
        ({"head": "moe"}, "video.model.n_mixtures: missing key"),
    ],
)
def test_mistakes_in_the_section_of_a_family(changes: dict[str, Any], problem: str, attention: Path) -> None:
    assert attention.is_file()
    with pytest.raises(UserError) as caught:
        parse_config({"video": {"model": {**ATTENTION, **changes}}}, "v.yaml")
    assert str(caught.value).startswith(f"v.yaml: 1 problem: {problem}")


@pytest.mark.parametrize(
    "head",
    [{"head": "logistic"}, {"head": "moe", "n_mixtures": 2}, {"head": "moe", "n_mixtures": 3, "per_class": True}],
)
@torch.no_grad()
def test_heads_reorder_classes_and_begin_with_shares(head: dict[str, Any], tmp_path: Path) -> None:
    made = video_model({**RECURRENT, **head})
    frames, rows = random_frames(2, 6, 1152), np.array([2, 0, 1])
    before = made(frames)
    made.load_state_dict(made.head.reorder(made.state_dict(), "", rows))
    torch.testing.assert_close(made(frames), before[:, rows])
    shares = np.array([0.5, 0.02, 0.3])
    for name, parameter in made.named_parameters():
        if name.startswith(tuple(made.head_layers)):
            parameter.zero_()
    made.begin_with_shares(shares)
    torch.testing.assert_close(made(frames).sigmoid(), torch.tensor(shares).float().expand(2, 3))
    folder = video_folder(tmp_path / "x", {**RECURRENT, **head}, N_CLASSES)
    assert load_video_model(folder)(frames).shape == (2, N_CLASSES)
    assert isinstance(open_folder(folder).head, LogisticHead if head["head"] == "logistic" else MixtureHead)
