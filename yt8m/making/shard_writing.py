"""TFRecord shards in the official schema, in a folder that is replaced atomically."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from helperbot.files import locked, replacing, sync

from yt8m.common.errors import UserError
from yt8m.data.frames import SEGMENT_SECONDS
from yt8m.data.records import framed
from yt8m.data.sequence_example import messages

SHARD_VIDEOS = 1000  # of a shard, if nothing else is said


@dataclass(frozen=True)
class Rating:
    """A rated segment: start second, label id, score 0 or 1."""

    start: int
    label: int
    score: int

    @property
    def end(self) -> int:
        """The second after the segment."""
        return self.start + SEGMENT_SECONDS


@dataclass(frozen=True, eq=False)
class VideoRecord:
    """The content of a record: `features` by name, "rgb" and optionally "audio", are (seconds, width) uint8; `labels`
    are label ids, None in test data; without `ratings` their keys are left out."""

    video_id: str
    features: Mapping[str, np.ndarray]
    labels: Sequence[int] | None
    ratings: Sequence[Rating] = ()


def serialize(video: VideoRecord) -> bytes:
    """Serialize a video as a SequenceExample in the official schema, deterministically."""
    train = messages()

    def integers(values: Sequence[int]) -> Any:
        return train.Feature(int64_list=train.Int64List(value=values))

    def string(value: bytes) -> Any:
        return train.Feature(bytes_list=train.BytesList(value=[value]))

    context = {"id": string(video.video_id.encode())}
    if video.labels is not None:
        context["labels"] = integers(video.labels)
    if video.ratings:
        scores = train.FloatList(value=[rating.score for rating in video.ratings])
        context |= {
            "segment_start_times": integers([rating.start for rating in video.ratings]),
            "segment_end_times": integers([rating.end for rating in video.ratings]),
            "segment_labels": integers([rating.label for rating in video.ratings]),
            "segment_scores": train.Feature(float_list=scores),
        }
    example = train.SequenceExample(context=train.Features(feature=context))
    for key, frames in video.features.items():
        features = example.feature_lists.feature_list[key].feature
        for frame in frames:  # one at a time: there may be hours of them
            features.add().bytes_list.value.append(frame.tobytes())
    payload: bytes = example.SerializeToString(deterministic=True)
    return payload


def write_shard(path: Path, videos: Iterable[VideoRecord]) -> None:
    """Write a shard of these videos, one after the other, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for video in videos:
            file.writelines(framed(serialize(video)))


def finish_interrupted(folder: Path) -> None:
    """Restore `folder` if a process was killed while replacing it.

    Raises `UserError` if another process is writing.
    """
    folder = folder.resolve()
    if _beside(folder, "old").is_dir():
        with _claimed(folder):
            _put_back(folder)


class NewFolder:
    """A context with a new folder to write to, which `publish` puts in the place of `folder`.

    Other files than shards in `folder` are kept. Leftovers of a killed process are removed. Entering raises `UserError`
    if another process is writing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self.path = _beside(self._folder, "new")
        self.published = False
        self._context = ExitStack()

    def __enter__(self) -> "NewFolder":
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(_claimed(self._folder))
            _put_back(self._folder)
            stack.callback(shutil.rmtree, self.path, ignore_errors=True)
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir()
            self._context = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def publish(self) -> None:
        """Replace `folder` by the new one.

        Shards survive any interruption, including Ctrl-C; a process killed between the renames leaves the old ones to
        `finish_interrupted`. The new ones are synced to disk before the old ones are removed.
        """
        for path in (*self.path.iterdir(), self.path):
            sync(path)
        if not self._folder.exists():
            self.path.rename(self._folder)
            self.published = True
            return
        old = _beside(self._folder, "old")
        self._folder.rename(old)
        try:
            self.path.rename(self._folder)
        except BaseException:
            old.rename(self._folder)
            raise
        self.published = True
        sync(self._folder.parent)
        _keep_the_rest(old, self._folder)


def _claimed(folder: Path) -> AbstractContextManager[None]:
    occupied = UserError(f"{folder}: another process is writing its shards; wait for it or stop it")
    return locked(_beside(folder, "lock"), occupied)


def _beside(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _put_back(folder: Path) -> None:
    old = _beside(folder, "old")
    if old.is_dir():
        if folder.exists():
            _keep_the_rest(old, folder)
        else:
            old.rename(folder)


def _keep_the_rest(old: Path, folder: Path) -> None:
    """Move other files than shards that the new folder lacks from the old one to it, and remove the old one."""
    for entry in old.iterdir():
        if entry.suffix != ".tfrecord" and not (folder / entry.name).exists():
            entry.rename(folder / entry.name)
    shutil.rmtree(old)
