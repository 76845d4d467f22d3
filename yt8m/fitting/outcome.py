"""The summary of a fit."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yt8m.common.errors import counted, listed
from yt8m.data.partitions import PARTITIONS
from yt8m.fitting.material import VALID
from yt8m.fitting.measuring import AS_IT_IS, THRESHOLD, Area, ClassScore, LabelScore, RatingScore

WEAK = 0.8  # AUC below which a class is weak
FEW = 3  # held-out ratings of a score, below which a class's AUC is unreliable
_WAYS = {AS_IT_IS: "the video model as it is", "fine-tuned": "fine-tuned on the segments that it is surest of"}


@dataclass(frozen=True)
class Outcome:
    """The resulting data folder, the model in it, whether it is for films, the held-out videos and their score."""

    folder: Path
    model: Path
    is_of_films: bool
    held_out: Sequence[str]
    score: RatingScore | LabelScore

    def lines(self) -> list[str]:
        """The summary, line by line."""
        score = self.score
        (stem,) = (part.stem for part in PARTITIONS if part.folder == VALID)
        example = "film.mp4" if self.is_of_films else str(self.folder / VALID / f"{stem}0000.tfrecord")
        command = shlex.join(("python", "-m", "yt8m.localize", example, "--data-dir", str(self.folder)))
        return [
            f"model: {self.model}; trained without {counted(len(self.held_out), 'video')}, which measure it",
            *(_rating_lines(score) if isinstance(score, RatingScore) else _label_lines(score)),
            f"settings: {self.folder / 'video.yaml'} and segment.yaml, with the commands that take them",
            f"localize: {command}",
        ]


def _rating_lines(score: RatingScore) -> list[str]:
    head = (
        f"held out: {counted(score.videos, 'rated video')}, {counted(score.ratings, 'rating')}, {score.positive} of "
        "them 1"
    )
    lines = [
        *[f"also trained on {score.added:,} segments of videos without ratings, as the video model rates them"]
        * (score.added > 0),
        head,
        f"AUC {_area(score.auc)}: how often a segment rated 1 comes before one rated 0; 0.5 is chance",
        f"MAP {score.mean_average_precision:.2f}; at probability {THRESHOLD:g}: precision {_share(score.precision)}, "
        f"recall {_share(score.recall)}",
    ]
    width = max(len(row.name) for row in score.classes)
    lines += [f"  {row.name:{width}}  {_class_text(row)}" for row in score.classes]
    weak = [row.name for row in score.classes if row.auc < WEAK]
    if weak:
        lines.append(f"weak: {listed(weak)}; rate more segments of these, especially 1s and look-alikes")
    lines.append(_gain_text(score))
    return lines


def _class_text(row: ClassScore) -> str:
    text = f"{counted(row.ratings, 'rating')}, {row.positive} of them 1"
    if math.isnan(row.auc):
        return f"{text}: all alike, not measured"
    few = min(row.positive, row.ratings - row.positive) < FEW
    return f"{text}: AUC {row.auc:.2f}" + ", too few to rely on" * few


def _gain_text(score: RatingScore) -> str:
    text = (
        f"with half of the ratings ({score.half_ratings}) AUC {score.half.value:.3f}, with all {score.auc.value:.3f}: "
    )
    if score.gain.low > 0:
        return text + "more ratings will probably help"
    if score.gain.value > 0 and score.auc.value < 0.99:
        return text + "a gain within chance; more ratings may help"
    return text + "no gain beyond chance"


def _label_lines(score: LabelScore) -> list[str]:
    lines = [
        f"without ratings; held out: {counted(score.videos, 'labelled video')}",
        "AUC of the highest probability in a video against its labels, the mean over the classes:",
        *(f"  {_mean(score.means[way])}  {text}" for way, text in _WAYS.items()),
        f"chosen: {_WAYS[score.chosen]}",
    ]
    areas = score.areas[score.chosen]
    width = max(map(len, areas))
    lines += [f"  {name:{width}}  {'not measured' if math.isnan(a) else f'AUC {a:.2f}'}" for name, a in areas.items()]
    return [*lines, "this measures which videos show a class, not when: only ratings measure times"]


def _area(area: Area) -> str:
    if math.isnan(area.low):
        return f"{area.value:.3f} (no interval: too few videos)"
    return f"{area.value:.3f} (95 %: {area.low:.3f} to {area.high:.3f})"


def _mean(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.2f}"
