"""Small configurations and model folders for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from yt8m.common.config import FeatureContract
from yt8m.data.features import feature_contract
from yt8m.data.vocabulary import Vocabulary, load_vocabulary
from yt8m.models.classifiers import ContextAgnosticModel, ContextAwareModel, build_video_model
from yt8m.models.config import BaseSection, Config, VideoModelConfig, VideoSection
from yt8m.models.model_folders import exported_config, save_model
from yt8m.prediction.inference import Predictor

DBOF = {
    "type": "dbof",
    "hidden_dim": 16,
    "fcn_dim": 8,
    "p_drop": 0.5,
    "max_len": 20,
    "n_mixtures": 2,
    "per_class": False,
    "frame_se_reduction": 4,
    "video_se_reduction": 4,
}
NEXTVLAD = {
    "type": "nextvlad",
    "n_clusters": 4,
    "groups": 4,
    "add_batchnorm": True,
    "fcn_dim": 8,
    "p_drop": 0.5,
    "max_len": 20,
    "n_mixtures": 2,
    "per_class": False,
    "se_reduction": 4,
}
CONTEXT = {"fcn_dim": 8, "p_drop": 0.5, "se_reduction": 4, "max_len": 20, "finetune_context": False, "n_mixture": 2}
Classes = int | Path | Vocabulary  # so many that stand for any, or a data folder's
TRAINING = {"batch_size": 8, "steps": 6, "lr": "1e-3", "eps": "1e-7", "weight_decay": 0.02, "ckpt_interval": 3}
FILES_OF_A_RUN = ["config.yaml", "curves.png", "history.csv", "model.pth", "run.json", "tensorboard", "train.log"]


def small_vocabulary(n_classes: int) -> Vocabulary:
    """Classes that stand for any: the label ids 0, 1, 2 and so on."""
    return Vocabulary(np.arange(n_classes), tuple(f"class {label}" for label in range(n_classes)))


def _outputs(base: VideoModelConfig, classes: Classes) -> tuple[Vocabulary, FeatureContract]:
    if isinstance(classes, Path):
        vocabulary = load_vocabulary(classes)
    else:
        vocabulary = small_vocabulary(classes) if isinstance(classes, int) else classes
    return vocabulary, feature_contract(base.video_dim, base.audio_dim)


def write_config(path: Path, **sections: Any) -> Path:
    """A configuration file with these sections."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def video_folder(path: Path, model: dict[str, Any], classes: Classes, seed: int = 0) -> Path:
    """The folder of a video model that was never trained."""
    torch.manual_seed(seed)
    section = VideoSection.model_validate({"model": model})
    vocabulary, features = _outputs(section.model, classes)
    model_made = build_video_model(section.model, len(vocabulary))
    save_model(path, exported_config(video=section), model_made, vocabulary, features)
    return path


def agnostic_folder(path: Path, model: dict[str, Any], classes: Classes, seed: int = 0) -> Path:
    """The folder of a context-agnostic model that was never trained."""
    torch.manual_seed(seed)
    config = Config.model_validate({"video": {"model": model}, "pure_segment": {"training": TRAINING}})
    assert config.video is not None and config.pure_segment is not None
    vocabulary, features = _outputs(config.video.model, classes)
    save_model(
        path,
        exported_config(video=config.video, pure_segment=config.pure_segment),
        ContextAgnosticModel(build_video_model(config.video.model, len(vocabulary))),
        vocabulary,
        features,
    )
    return path


def aware_folder(path: Path, context: dict[str, Any], segment: dict[str, Any], classes: Classes, seed: int = 0) -> Path:
    """The folder of a context-aware model that was never trained."""
    torch.manual_seed(seed)
    bases = [BaseSection.model_validate({"model": model}) for model in (context, segment)]
    head = Config.model_validate({"segment_w_context": {"model": CONTEXT, "training": TRAINING}}).segment_w_context
    assert head is not None
    vocabulary, features = _outputs(bases[0].model, classes)
    save_model(
        path,
        exported_config(context_base=bases[0], segment_base=bases[1], segment_w_context=head),
        ContextAwareModel(head.model, bases[0].model, bases[1].model, len(vocabulary)),
        vocabulary,
        features,
    )
    return path


def group_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that each call of a `Predictor` adds to: how many videos it is for."""
    sizes: list[int] = []
    original = Predictor.__call__
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, videos, chosen: sizes.append(len(videos)) or original(self, videos, chosen)
    )
    return sizes
