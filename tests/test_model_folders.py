"""Model folders: round trips, and refusals in one line."""

from pathlib import Path

import pytest
import torch
import yaml

from tests.small_models import DBOF, NEXTVLAD, TRAINING, agnostic_folder, aware_folder, small_vocabulary, video_folder
from yt8m.common.errors import UserError
from yt8m.data.vocabulary import Vocabulary
from yt8m.models.model_files import folder_digest
from yt8m.models.model_folders import (
    exported_config,
    list_folders,
    load_segment_model,
    load_video_model,
    open_folder,
    save_model,
)
from yt8m.prediction.inference import ModelChoice

N_CLASSES = 3


def edit_config(folder: Path, **sections: object) -> None:
    """Replace or (with None) remove sections of a folder's configuration."""
    path = folder / "config.yaml"
    config = {**yaml.safe_load(path.read_text(encoding="utf-8")), **sections}
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))


def edit_state(folder: Path, **entries: torch.Tensor | None) -> None:
    """Replace or (with None) remove entries of a folder's state dict; `__` stands for a dot."""
    state = torch.load(folder / "model.pth", weights_only=True)
    state.update({key.replace("__", "."): value for key, value in entries.items()})
    torch.save({key: value for key, value in state.items() if value is not None}, folder / "model.pth")


@pytest.mark.parametrize("model", [DBOF, NEXTVLAD], ids=["dbof", "nextvlad"])
def test_video_folder_round_trip(model: dict, tmp_path: Path) -> None:
    folder = video_folder(tmp_path / "base", model, N_CLASSES)
    assert all(key.startswith("model.") for key in torch.load(folder / "model.pth", weights_only=True))
    loaded = load_video_model(folder)
    again = tmp_path / "again"
    opened = open_folder(folder)
    save_model(again, exported_config(video=opened.config.video), loaded, opened.vocabulary(), opened.features)
    assert (again / "config.yaml").read_bytes() == (folder / "config.yaml").read_bytes()
    first, second = (torch.load(path / "model.pth", weights_only=True) for path in (folder, again))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_segment_folders_round_trip(tmp_path: Path) -> None:
    agnostic = open_folder(agnostic_folder(tmp_path / "a", DBOF, N_CLASSES))
    aware = open_folder(aware_folder(tmp_path / "b", DBOF, NEXTVLAD, N_CLASSES))
    assert (agnostic.kind, aware.kind) == ("context-agnostic", "context-aware")
    segments = torch.full((2, 11, 1152), 100, dtype=torch.uint8)
    load_segment_model(agnostic).eval()(segments)
    model = load_segment_model(aware).eval()
    assert model(segments, segments, None, torch.tensor([0, 1])).shape == (2, N_CLASSES)
    assert all(key.startswith("_model.") for key in torch.load(agnostic.path / "model.pth", weights_only=True))
    assert not any(parameter.requires_grad for parameter in model.context_model.parameters())


def test_unknown_training_keys_of_an_older_release_are_left_alone(tmp_path: Path) -> None:
    folder = agnostic_folder(tmp_path / "a", DBOF, N_CLASSES)
    edit_config(folder, pure_segment={"training": {"offset": 2, "a_key_of_2019": True}}, another_section={})
    assert open_folder(folder).offset == 2
    load_segment_model(open_folder(folder))


def test_a_folder_without_training_keys_has_the_published_offset(tmp_path: Path) -> None:
    folder = agnostic_folder(tmp_path / "a", DBOF, N_CLASSES)
    edit_config(folder, pure_segment={})
    assert open_folder(folder).offset == 3


@pytest.mark.parametrize("offset", [-1, 2.5, "3"])
def test_an_invalid_offset_is_refused(offset: object, tmp_path: Path) -> None:
    folder = agnostic_folder(tmp_path / "a", DBOF, N_CLASSES)
    edit_config(folder, pure_segment={"training": {"offset": offset}})
    with pytest.raises(UserError, match="training.offset: expected a number of frames") as error:
        open_folder(folder)
    assert str(folder / "config.yaml") in str(error.value)


def test_a_state_without_the_mixture_head_is_refused(tmp_path: Path) -> None:
    folder = agnostic_folder(tmp_path / "a", DBOF, N_CLASSES)
    state = torch.load(folder / "model.pth", weights_only=True)
    name = next(key for key in state if key.endswith("expert_fc.2.bias"))
    torch.save({key: value for key, value in state.items() if key != name}, folder / "model.pth")
    with pytest.raises(UserError) as error:
        load_segment_model(open_folder(folder))
    assert str(error.value) == f"{folder / 'model.pth'}: does not fit config.yaml: no {name}"


def test_a_model_named_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a_0", "b_0"):
        agnostic_folder(tmp_path / name, DBOF, N_CLASSES)
    assert [folder.name for folder in ModelChoice(tmp_path).open_all()] == ["a_0", "b_0"]
    assert [folder.name for folder in ModelChoice(tmp_path, ["b_0", "a_0"]).open_all()] == ["b_0", "a_0"]
    with pytest.raises(UserError, match="--model-names: a_0 is named more than once"):
        ModelChoice(tmp_path, ["a_0", "b_0", "a_0"]).open_all()


def test_digest_tells_models_apart(tmp_path: Path) -> None:
    digests = {folder_digest(video_folder(tmp_path / str(seed), DBOF, N_CLASSES, seed)) for seed in (0, 1)}
    assert len(digests) == 2
    assert folder_digest(video_folder(tmp_path / "again", DBOF, N_CLASSES, 0)) in digests


def refusal(folder: Path, vocabulary: Vocabulary | None = None) -> str:
    """The one line with which a video model's folder is refused."""
    with pytest.raises(UserError) as error:
        load_video_model(folder, vocabulary)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "config.yaml" in refusal(tmp_path / "empty")

    folder = video_folder(tmp_path / "base", DBOF, N_CLASSES)
    message = refusal(folder, small_vocabulary(7))
    assert "other classes than those of the vocabulary: only the vocabulary has 3 (class 3), 4" in message

    edit_state(
        folder, model__encoder__0__bias=torch.zeros(5), model__unheard_of=torch.zeros(1), model__encoder__0__weight=None
    )
    message = refusal(folder)
    assert "no encoder.0.weight" in message and "unknown unheard_of" in message and "(5,), expected (16,)" in message

    (folder / "model.pth").write_bytes(b"not a state dict")
    assert "cannot be read as a state dict" in refusal(folder)
    torch.save([1, 2], folder / "model.pth")
    assert "not a state dict of tensors" in refusal(folder)
    (folder / "model.pth").unlink()
    assert "no model.pth" in refusal(folder)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    folder = video_folder(tmp_path / "base", DBOF, N_CLASSES)
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "model.pth")
    assert "cannot be read as a state dict" in refusal(folder)


def test_a_truncated_state_dict_is_refused(tmp_path: Path) -> None:
    folder = video_folder(tmp_path / "base", DBOF, N_CLASSES)
    whole = (folder / "model.pth").read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (folder / "model.pth").write_bytes(whole[:size])
        message = refusal(folder)
        assert "cannot be read as a state dict" in message and "copy the file again" in message


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    segment = agnostic_folder(tmp_path / "segment", DBOF, N_CLASSES)
    assert "context-agnostic segment model, where a video model is needed" in refusal(segment)
    video = open_folder(video_folder(tmp_path / "video", DBOF, N_CLASSES))
    with pytest.raises(UserError, match="a video model, where a segment model is needed"):
        load_segment_model(video)


def test_problems_of_an_exported_config_are_one_message(tmp_path: Path) -> None:
    folder = video_folder(tmp_path / "base", DBOF, N_CLASSES)
    edit_config(folder, video={"model": {**DBOF, "hidden_dim": "wide", "surprise": 1}})
    message = refusal(folder)
    assert "video.model.hidden_dim" in message and "video.model.surprise: unknown key" in message
    edit_config(folder, video=None)
    assert "video.model: missing section" in refusal(folder)
    edit_config(folder, video=3)
    assert "expected a mapping" in refusal(folder)
    aware = aware_folder(tmp_path / "aware", DBOF, DBOF, N_CLASSES)
    edit_config(aware, segment_base=None)
    assert "segment_base.model: missing section" in refusal(aware)
    edit_config(aware, segment_w_context={"training": {**TRAINING, "offset": -1}})
    assert "segment_w_context.model" in refusal(aware)


def test_a_failed_export_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = video_folder(tmp_path / "base", DBOF, N_CLASSES)
    before = (folder / "model.pth").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    model = load_video_model(folder)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError):
        save_model(folder, {}, model, small_vocabulary(N_CLASSES), open_folder(folder).features)
    assert (folder / "model.pth").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "model.pth"]


def test_list_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of models"):
        list_folders(tmp_path / "none")
    with pytest.raises(UserError, match="no model folders"):
        list_folders(tmp_path)
    for name in ("b", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert [path.name for path in list_folders(tmp_path)] == ["a", "b"]
