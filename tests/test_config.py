"""Configurations: accepted values, refused ones, and one message that names all faults."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from yt8m.common.config import read_yaml
from yt8m.common.errors import UserError
from yt8m.models.config import Config, load_config, override_steps, parse_config
from yt8m.models.model_folders import exported_config

SCRIPTS = Path(__file__).parent.parent / "scripts"
SHIPPED = sorted(path.relative_to(SCRIPTS).as_posix() for path in SCRIPTS.rglob("*.yaml"))
SECTIONS = {
    "video": ("video.model", "video.training"),
    "pure": ("pure_segment.training",),
    "segment": ("segment_w_context.model", "segment_w_context.training"),
}

TRAINING = {"batch_size": 8, "steps": 100, "lr": "2e-4", "eps": "1e-7", "weight_decay": 0.02, "ckpt_interval": 10}
DBOF = {
    "type": "dbof",
    "hidden_dim": 24,
    "fcn_dim": 16,
    "p_drop": 0.5,
    "max_len": 150,
    "n_mixtures": 3,
    "frame_se_reduction": 8,
    "video_se_reduction": 4,
}
NEXTVLAD = {
    "type": "nextvlad",
    "n_clusters": 8,
    "groups": 16,
    "fcn_dim": 16,
    "p_drop": 0.5,
    "max_len": 150,
    "n_mixtures": 2,
    "se_reduction": 4,
    "add_batchnorm": True,
}
CONTEXT = {"fcn_dim": 20, "p_drop": 0.5, "se_reduction": 4, "max_len": 150, "finetune_context": False, "n_mixture": 2}
WHOLE = {
    "video": {"model": DBOF, "training": TRAINING},
    "pure_segment": {"training": TRAINING},
    "segment_w_context": {"model": CONTEXT, "training": TRAINING},
    "context_base": {"model": NEXTVLAD},
    "segment_base": {"model": DBOF},
}
ABSENT = object()
UNLIKE_2019 = {
    section: {"center_inputs": True} | ({"prior_bias": True} if section == "video" else {})
    for section in ("video", "pure_segment", "segment_w_context")
}
_SHARED_2019 = {"start_lr_factor": 0.01, "clip_grad_norm": 10.0}
_SEGMENTS_2019 = {
    **_SHARED_2019,
    "warmup_ratio": 0.25,
    "end_lr_factor": 0.001,
    "offset": 3,
    "negative_weight": 0.5,
    "mined_weight": 0.5,
}
DEFAULTS_2019: dict[str, dict[str, Any]] = {  # what the 2019 release had in its code
    "video": {**_SHARED_2019, "warmup_ratio": 0.2, "end_lr_factor": 0.01},
    "pure_segment": _SEGMENTS_2019,
    "segment_w_context": {**_SEGMENTS_2019, "segment_encoder_lr_factor": 0.5, "context_encoder_lr_factor": 0.25},
}


def _changed(changes: dict[str, Any]) -> dict[str, Any]:
    """A whole configuration with some keys, given by their dotted paths, changed, added or (ABSENT) left out."""
    data = json.loads(json.dumps(WHOLE))  # unlike deepcopy, this shares no section
    for path, value in changes.items():
        *parents, key = path.split(".")
        section: dict[str, Any] = data
        for parent in parents:
            section = section[parent]
        if value is ABSENT:
            del section[key]
        else:
            section[key] = value
    return data


def _load(tmp_path: Path, data: dict[str, Any], *sections: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_config(path, *sections)


def _problems(tmp_path: Path, data: dict[str, Any], *sections: str) -> list[str]:
    """The faults that the one message about a configuration lists; it says how many they are."""
    with pytest.raises(UserError) as caught:
        _load(tmp_path, data, *sections)
    message = str(caught.value)
    assert "\n" not in message
    found = re.fullmatch(re.escape(str(tmp_path / "config.yaml")) + r": (\d+) problems?: (.*)", message)
    assert found, message
    faults = found[2].split("; ")
    assert len(faults) == int(found[1])
    return sorted(faults)


def _only_problem(tmp_path: Path, changes: dict[str, Any], *sections: str) -> str:
    (problem,) = _problems(tmp_path, _changed(changes), *sections)
    return problem


def test_configurations_are_shipped() -> None:
    names = ["pure_segment_dbof", "pure_segment_nextvlad", "segment_with_context", "video_gated_dbof", "video_nextvlad"]
    assert {f"{name}.yaml" for name in names} <= set(SHIPPED)
    assert sum(name.startswith("demo/") for name in SHIPPED) >= 4


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_valid(name: str) -> None:
    sections = SECTIONS[Path(name).name.split("_")[0]]
    config = load_config(SCRIPTS / name, *sections)
    for section in sections:
        value: Any = config
        for key in section.split("."):
            value = getattr(value, key)
        assert value is not None


@pytest.mark.parametrize(
    "name, section, published",
    [
        ("video_gated_dbof", "video", (128, 100_000, 3e-4, 1e-6, 0.1, 10_000)),
        ("video_nextvlad", "video", (48, 200_000, 3e-4, 1e-6, 0.1, 10_000)),
        ("pure_segment_dbof", "pure_segment", (128, 9000, 2e-4, 1e-7, 0.02, 3000)),
        ("pure_segment_nextvlad", "pure_segment", (128, 8000, 2e-4, 1e-7, 0.02, 4000)),
        ("segment_with_context", "segment_w_context", (128, 9000, 2e-4, 1e-7, 0.02, 3000)),
    ],
)
def test_shipped_training_is_as_published(name: str, section: str, published: tuple[float, ...]) -> None:
    training = getattr(load_config(SCRIPTS / f"{name}.yaml"), section).training.model_dump()
    keys = ("batch_size", "steps", "lr", "eps", "weight_decay", "ckpt_interval")
    assert training == dict(zip(keys, published, strict=True)) | DEFAULTS_2019[section] | UNLIKE_2019[section]


@pytest.mark.parametrize("section", DEFAULTS_2019)
def test_omitted_training_keys_are_as_in_2019(section: str, tmp_path: Path) -> None:
    config = _load(tmp_path, WHOLE)  # as exported before there were these keys
    numbers = {key: float(value) if isinstance(value, str) else value for key, value in TRAINING.items()}
    assert getattr(config, section).training.model_dump() == numbers | DEFAULTS_2019[section] | UNLIKE_2019[section]


@pytest.mark.parametrize("section", DEFAULTS_2019)
def test_an_exported_configuration_says_everything_and_is_read_as_it_was(section: str, tmp_path: Path) -> None:
    given = {"warmup_ratio": 0, "start_lr_factor": 0, "end_lr_factor": 1, "clip_grad_norm": None}
    config = _load(tmp_path, _changed({f"{section}.training.{key}": value for key, value in given.items()}))
    exported = exported_config(**{section: getattr(config, section)})
    training = exported[section]["training"]
    assert training.keys() == {*TRAINING, *DEFAULTS_2019[section], *UNLIKE_2019[section]}
    assert {key: training[key] for key in given} == given
    assert getattr(_load(tmp_path, exported, f"{section}.training"), section) == getattr(config, section)


def test_a_section_that_is_not_there_is_not_exported() -> None:
    config = parse_config({"video": {"model": DBOF}}, "test")
    assert config.video
    assert exported_config(video=config.video).keys() == {"video"}
    assert exported_config(video=config.video)["video"].keys() == {"model"}


@pytest.mark.parametrize("value, expected", [(0, None), (0.0, None), (None, None), ("1e-3", 0.001), (2, 2.0)])
def test_no_clipping_is_null_or_0(value: object, expected: float | None, tmp_path: Path) -> None:
    config = _load(tmp_path, _changed({"video.training.clip_grad_norm": value}))
    assert config.video and config.video.training
    assert config.video.training.clip_grad_norm == expected


@pytest.mark.parametrize(
    "path",
    [
        "video.training.mined_weight",
        "video.training.segment_encoder_lr_factor",
        "pure_segment.training.segment_encoder_lr_factor",
        "pure_segment.training.context_encoder_lr_factor",
        "pure_segment.training.warmup",
    ],
)
def test_a_key_of_another_training_is_unknown(path: str, tmp_path: Path) -> None:
    assert _only_problem(tmp_path, {path: 0.5}) == f"{path}: unknown key"


def test_shipped_models_are_as_published() -> None:
    shared = {
        "fcn_dim": 2048,
        "p_drop": 0.5,
        "max_len": 150,
        "n_mixtures": 4,
        "per_class": False,
        "video_dim": 1024,
        "audio_dim": 128,
    }
    dbof, nextvlad = (load_config(SCRIPTS / f"{name}.yaml").video for name in ("video_gated_dbof", "video_nextvlad"))
    context = load_config(SCRIPTS / "segment_with_context.yaml").segment_w_context
    assert dbof and nextvlad and context
    assert dbof.model.model_dump() == shared | {
        "type": "dbof",
        "hidden_dim": 4096,
        "frame_se_reduction": 8,
        "video_se_reduction": 4,
    }
    assert nextvlad.model.model_dump() == shared | {
        "type": "nextvlad",
        "n_clusters": 64,
        "groups": 16,
        "se_reduction": 4,
        "add_batchnorm": True,
        "soft_assignment": "2019",
    }
    assert context.model.model_dump() == {
        "fcn_dim": 2048,
        "p_drop": 0.5,
        "se_reduction": 4,
        "max_len": 150,
        "finetune_context": False,
        "n_mixture": 4,
    }


def test_a_whole_configuration_is_taken(tmp_path: Path) -> None:
    config = _load(tmp_path, WHOLE, *WHOLE, "context_base.model")
    assert config.video and config.segment_base and config.context_base and config.segment_w_context
    assert config.video.model == config.segment_base.model
    assert config.video.model.type == "dbof"
    assert config.context_base.model.type == "nextvlad"
    assert config.video.model.frame_dim == 1152
    assert config.video.model.per_class is False
    assert config.segment_w_context.model.n_mixture == 2


def test_numbers_with_an_exponent_are_floats(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "pure_segment:\n  training: {batch_size: 8, steps: 100, lr: 2e-4, eps: 1e-7, weight_decay: 2E-2, "
        "ckpt_interval: 10, negative_weight: 1}\n",
        encoding="utf-8",
    )
    config = load_config(tmp_path / "config.yaml", "pure_segment.training")
    assert config.pure_segment and config.pure_segment.training
    training = config.pure_segment.training
    assert [training.lr, training.eps, training.weight_decay] == [0.0002, 0.0000001, 0.02]
    assert [type(value) for value in (training.lr, training.eps, training.negative_weight)] == [float] * 3
    assert training.offset == 3


def test_all_problems_are_in_one_message(tmp_path: Path) -> None:
    data = _changed(
        {
            "vidoe": {},
            "video.modle": {},
            "video.model.hiden_dim": 24,
            "video.model.hidden_dim": ABSENT,
            "video.training.steps": "many",
            "video.training.lr": True,
            "pure_segment.training.eps": ABSENT,
            "segment_w_context.model.finetune_context": "perhaps",
            "context_base.model.add_batchnorm": ABSENT,
            "segment_base": ABSENT,
        }
    )
    assert _problems(tmp_path, data, "video.model", "segment_base.model") == sorted(
        [
            "vidoe: unknown key",
            "video.modle: unknown key",
            "video.model.hiden_dim: unknown key",
            "video.model.hidden_dim: missing key",
            "video.training.steps: expected a valid integer, found 'many'",
            "video.training.lr: expected a number, found True",
            "pure_segment.training.eps: missing key",
            "segment_w_context.model.finetune_context: expected a valid boolean, found 'perhaps'",
            "context_base.model.add_batchnorm: missing key",
            "segment_base.model: missing section",
        ]
    )


@pytest.mark.parametrize(
    "path",
    [
        "video.nextvlad",
        "video.model.dbof",
        "video.model.nextvlad",
        "context_base.dbof",
        "segment_w_context.model.dbof",
        "pure_segment.training.nextvlad",
        "dbof",
    ],
)
def test_an_unknown_key_called_like_a_model_type_keeps_its_path(path: str, tmp_path: Path) -> None:
    assert _only_problem(tmp_path, {path: 1}) == f"{path}: unknown key"


@pytest.mark.parametrize(
    "path",
    [
        "video.training.lr",
        "video.training.weight_decay",
        "video.training.batch_size",
        "video.model.p_drop",
        "video.model.hidden_dim",
        "video.model.max_len",
        "context_base.model.groups",
        "segment_w_context.model.max_len",
    ],
)
@pytest.mark.parametrize("value", [True, False, "many", None, [1]])
def test_values_that_are_not_numbers_are_refused(path: str, value: object, tmp_path: Path) -> None:
    problem = _only_problem(tmp_path, {path: value})
    assert problem.startswith(f"{path}: expected ")
    assert problem.endswith(f", found {value!r}")


@pytest.mark.parametrize(
    "path, value",
    [
        ("video.training.lr", 0),
        ("video.training.lr", "-1e-4"),
        ("video.training.lr", "nan"),
        ("video.training.lr", float("inf")),
        ("video.training.eps", 0),
        ("video.training.weight_decay", -0.1),
        ("video.training.steps", 0),
        ("video.training.steps", 1.5),
        ("video.training.steps", "100"),
        ("video.training.warmup_ratio", 1),
        ("video.training.warmup_ratio", -0.1),
        ("video.training.warmup_ratio", None),
        ("video.training.start_lr_factor", 1.01),
        ("video.training.start_lr_factor", -0.01),
        ("video.training.end_lr_factor", 3e1),
        ("pure_segment.training.end_lr_factor", -1),
        ("video.training.clip_grad_norm", -10),
        ("video.training.clip_grad_norm", "inf"),
        ("video.training.clip_grad_norm", False),
        ("pure_segment.training.mined_weight", -0.5),
        ("segment_w_context.training.segment_encoder_lr_factor", -0.5),
        ("segment_w_context.training.context_encoder_lr_factor", "nan"),
        ("video.model.p_drop", 1),
        ("video.model.p_drop", -0.1),
        ("video.model.frame_se_reduction", -1),
        ("context_base.model.n_clusters", 1),
        ("context_base.model.groups", 7),
        ("pure_segment.training.offset", -1),
        ("pure_segment.training.negative_weight", -0.5),
        ("video.model.per_class", 1),
        ("video.model.per_class", "yes"),
    ],
)
def test_values_out_of_range_are_refused(path: str, value: object, tmp_path: Path) -> None:
    assert _only_problem(tmp_path, {path: value}).startswith(f"{path}: expected ")


@pytest.mark.parametrize("path", ["video.model", "context_base.model", "segment_w_context.model"])
def test_max_len_is_a_number_of_frames_or_minus_1(path: str, tmp_path: Path) -> None:
    for refused in (0, -2, -150):
        assert _only_problem(tmp_path, {f"{path}.max_len": refused}) == (
            f"{path}.max_len: expected a number of frames, or -1 for no limit, found {refused}"
        )
    for taken in (-1, 1, 300):
        section = getattr(_load(tmp_path, _changed({f"{path}.max_len": taken})), path.split(".", maxsplit=1)[0])
        assert section.model.max_len == taken


@pytest.mark.parametrize("value, expected", [(ABSENT, "2019"), ("2019", "2019"), (2019, "2019"), ("paper", "paper")])
def test_soft_assignment_is_2019_or_paper(value: object, expected: str, tmp_path: Path) -> None:
    data = WHOLE if value is ABSENT else _changed({"context_base.model.soft_assignment": value})
    config = _load(tmp_path, data)
    assert config.context_base
    assert config.context_base.model.model_dump()["soft_assignment"] == expected


@pytest.mark.parametrize("value", ["2018", 2020, "Paper", True, None, "2019.0"])
def test_another_soft_assignment_is_refused(value: object, tmp_path: Path) -> None:
    path = "context_base.model.soft_assignment"
    assert _only_problem(tmp_path, {path: value}) == f"{path}: expected '2019' or 'paper', found {str(value)!r}"


def test_soft_assignment_belongs_to_nextvlad(tmp_path: Path) -> None:
    path = "video.model.soft_assignment"
    assert _only_problem(tmp_path, {path: "2019"}) == f"{path}: unknown key"


def test_the_type_of_a_model_decides_its_keys(tmp_path: Path) -> None:
    path = "video.model.type"
    known = f"{path}: expected one of 'dbof', 'nextvlad', found "
    assert _only_problem(tmp_path, {path: "netvlad"}) == f"{known}'netvlad' (did you mean nextvlad?)"
    for stranger in ("transformer", 7, None):
        problem = _only_problem(tmp_path, {path: stranger})
        assert problem.startswith(f"{known}{stranger!r} (") and "`module`" in problem
    assert _only_problem(tmp_path, {path: ABSENT}) == f"{path}: missing key"
    faults = _problems(tmp_path, _changed({path: "nextvlad"}))
    assert "video.model.hidden_dim: unknown key" in faults
    assert "video.model.n_clusters: missing key" in faults


def test_a_missing_section_is_named_once(tmp_path: Path) -> None:
    assert _only_problem(tmp_path, {"pure_segment": ABSENT}, "pure_segment.training", "pure_segment.training") == (
        "pure_segment.training: missing section"
    )
    assert _only_problem(tmp_path, {"pure_segment.training": ABSENT}, "pure_segment.training") == (
        "pure_segment.training: missing section"
    )
    assert _only_problem(tmp_path, {"video": None}, "video.model") == "video.model: missing section"
    assert _only_problem(tmp_path, {"video.model": ABSENT}, "video.model") == "video.model: missing key"


@pytest.mark.parametrize("value", [3, "dbof", [1, 2]])
def test_a_section_that_is_not_a_mapping_is_named(value: object, tmp_path: Path) -> None:
    problem = _only_problem(tmp_path, {"video": value})
    assert problem.startswith("video: expected a valid dictionary")
    assert problem.endswith(f"found {value!r}")


@pytest.mark.parametrize("text", ["", "- video\n", "video\n", "3\n"])
def test_a_file_that_is_not_a_mapping_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}: expected a mapping of sections, found "):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "video: [",
        "\tvideo: 1\n",
        "video: !!python/object/apply:os.getcwd []\n",
        "video: !!python/name:os.getcwd\n",
        "video: 2020-13-45\n",
        "{[1]: 2}\n",
    ],
)
def test_unsupported_yaml_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: not valid YAML: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, key, line",
    [
        ("video: {}\npure_segment: {}\nvideo: {}\n", "video", 3),
        ("pure_segment:\n  training:\n    lr: 2e-4\n    steps: 10\n    lr: 3e-4\n", "lr", 5),
    ],
)
def test_a_duplicate_key_is_named(text: str, key: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}: not valid YAML: duplicate key '{key}' .*line {line},"):
        load_config(path)


@pytest.mark.parametrize(
    "text, number", [("016", "14"), ("1:00", "60"), ("0x10", "16"), ("0b11", "3"), ("-010", "-8"), ("1:30.5", "90.5")]
)
def test_a_number_that_is_not_what_people_read_is_refused(text: str, number: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"pure_segment:\n  training: {{batch_size: 8,\n    steps: {text}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"{path}: not valid YAML: {text} is read as {number}: .*line 3,"):
        load_config(path)


@pytest.mark.parametrize("text", ["0", "-0", "10", "+7", "1_000", "0.5", "2.e-4", "1.5e+3", ".5"])
def test_a_decimal_number_is_taken_as_it_is_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text(f"number: {text}\n", encoding="utf-8")
    assert float(read_yaml(path)["number"]) == float(text)


def test_anchors_and_merge_keys_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "pure_segment:\n  training: &shared {batch_size: 8, steps: 9, lr: 2e-4, eps: 1e-7, weight_decay: 0, "
        f"ckpt_interval: 3}}\nsegment_w_context:\n  model: {yaml.safe_dump(CONTEXT, default_flow_style=True)}"
        "  training: {<<: *shared, steps: 10}\n",
        encoding="utf-8",
    )
    config = load_config(path)
    assert config.pure_segment and config.pure_segment.training
    assert config.segment_w_context and config.segment_w_context.training
    assert (config.pure_segment.training.steps, config.segment_w_context.training.steps) == (9, 10)
    assert config.segment_w_context.training.batch_size == 8


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(UserError, match=f"{missing}: no such configuration file"):
        load_config(missing)
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be read as a configuration file"):
        load_config(tmp_path)
    binary = tmp_path / "model.pth"
    binary.write_bytes(b"\x80\x02\xff")
    with pytest.raises(UserError, match=f"{binary}: cannot be read as a configuration file"):
        load_config(binary)


def test_a_configuration_is_frozen() -> None:
    config = parse_config(WHOLE, "test")
    assert config.video and config.video.training
    for section, key in (
        (config, "video"),
        (config.video, "model"),
        (config.video.model, "fcn_dim"),
        (config.video.training, "steps"),
    ):
        before = getattr(section, key)
        with pytest.raises(ValidationError):
            setattr(section, key, 7)
        assert getattr(section, key) is before


def test_steps_of_the_command_line_override_the_file() -> None:
    section = parse_config(WHOLE, "test").video
    assert section and section.training
    changed = override_steps(section, 12)
    assert changed.training and changed.training.steps == 12
    assert changed.training.lr == section.training.lr
    assert section.training.steps == 100
    assert override_steps(section, None) == section
    untrained = section.model_copy(update={"training": None})
    assert override_steps(untrained, 12) == untrained


def test_what_is_written_is_read(tmp_path: Path) -> None:
    config = parse_config(WHOLE, "test")
    assert _load(tmp_path, config.model_dump(mode="json", exclude_none=True)) == config


@pytest.mark.parametrize(
    ("video_dim", "audio_dim", "fits"), [(40, 0, True), (40, 8, True), (40, 12, False), (36, 0, False)]
)
def test_groups_divide_the_features_that_there_are(video_dim: int, audio_dim: int, fits: bool) -> None:
    model = {**NEXTVLAD, "video_dim": video_dim, "audio_dim": audio_dim}
    if fits:
        assert parse_config({"video": {"model": model}}, "c.yaml").video is not None
        return
    with pytest.raises(UserError, match="video.model.groups: expected a divisor of 2 . (audio|video)_dim"):
        parse_config({"video": {"model": model}}, "c.yaml")


def test_a_negative_audio_width_is_refused() -> None:
    with pytest.raises(UserError, match="video.model.audio_dim: expected .*, found -1"):
        parse_config({"video": {"model": {**DBOF, "audio_dim": -1}}}, "c.yaml")
    found = parse_config({"video": {"model": {**DBOF, "audio_dim": 0}}}, "c.yaml")
    assert found.video is not None and found.video.model.frame_dim == 1024
