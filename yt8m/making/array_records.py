"""Records from users' arrays and annotations, checked as a whole before anything is written.

Probable mistakes that still allow records to be made are warnings.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from yt8m.common.config import FeatureContract, FeatureMeaning
from yt8m.common.errors import Faults, UserError, counted, listed, with_suggestions
from yt8m.common.progress import Progress
from yt8m.data.features import CONTRACT_NAME, PUBLISHED_RANGE, Scale, find_contract, save_contract
from yt8m.data.index import load_index
from yt8m.data.partitions import FOLDERS, N_FOLDS, NAMES_FILE, PARTITIONS
from yt8m.data.vocabulary import LabelRow, RatingRow, save_names
from yt8m.making.feature_arrays import Survey, array_path, read_array, survey
from yt8m.making.shard_writing import SHARD_VIDEOS, NewFolder, Rating, VideoRecord, write_shard

LOGGER = logging.getLogger(__name__)
_LARGEST_RECORD = 2**31 - 2**20  # bytes: protobuf holds 2 GiB, and a record has more in it than frames
_SHUFFLING = 17  # separates this from other uses of the same seed
_TYPICAL_WIDTHS = frozenset((64, 128, 192, 256, 384, 512, 640, 768, 1024, 1152, 1280, 1536, 2048, 4096))
_SHORT = 2  # characters: an edit turns such a name into another one
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Feature:
    """A feature of the records: the columns of arrays it is taken from, and the range of floats, None for uint8."""

    key: str
    arrays: Survey
    columns: slice
    scale: Scale | None

    @property
    def width(self) -> int:
        """Bytes of a frame."""
        return len(range(self.arrays.width)[self.columns])

    def read(self, video_id: str, n_frames: int) -> tuple[np.ndarray, int]:
        """The first frames of a video, (n_frames, width) uint8, and the number of clipped values."""
        array = read_array(self.arrays.folder, video_id)
        if array.shape != (self.arrays.lengths[video_id], self.arrays.width):
            raise UserError(
                f"{array_path(self.arrays.folder, video_id)}: changed during the run; run the command again"
            )
        values = array[:n_frames, self.columns]
        return (np.ascontiguousarray(values), 0) if self.scale is None else self.scale.quantize(values)


@dataclass(frozen=True)
class ArraySources:
    """Sources of features: `audio` is a separate folder, or None; the last `audio_width` columns of `rgb`'s arrays are
    audio. `scale` and `audio_scale` are for float arrays; with `usual_scales`, those without one get the range of their
    values without outliers."""

    rgb: Path
    audio: Path | None
    audio_width: int = 0
    scale: Scale | None = None
    audio_scale: Scale | None = None
    usual_scales: bool = False


@dataclass(frozen=True)
class Annotations:
    """Labels and ratings by video id; `labels` is None for test data."""

    labels: dict[str, list[int]] | None
    ratings: dict[str, list[tuple[int, Rating]]] = field(default_factory=dict)  # with the line of each
    ratings_path: Path | None = None


def annotate(
    ids: dict[str, int], labels: Sequence[LabelRow] | None, ratings: Sequence[RatingRow], ratings_path: Path | None
) -> Annotations:
    """Sorted annotations, with labels mapped to ids."""
    own_labels: dict[str, list[int]] | None = None
    if labels is not None:
        own_labels = {}
        for row in labels:
            own_labels.setdefault(row.video_id, []).append(ids[row.label])
        own_labels = {video_id: sorted(own) for video_id, own in own_labels.items()}
    own_ratings: dict[str, list[tuple[int, Rating]]] = {}
    for rated in ratings:
        rating = Rating(rated.start, ids[rated.label], rated.score)
        own_ratings.setdefault(rated.video_id, []).append((rated.line, rating))
    for own_rated in own_ratings.values():
        own_rated.sort(key=lambda pair: (pair[1].start, pair[1].label))
    return Annotations(own_labels, own_ratings, ratings_path)


def open_features(sources: ArraySources, video_ids: Sequence[str]) -> list[Feature]:
    """Read all arrays of these videos once. Raises `UserError` for arrays that cannot become records."""
    folders = [folder for folder in (sources.rgb, sources.audio) if folder is not None]
    with Progress("checking arrays", len(folders) * len(video_ids), "array", LOGGER) as progress:
        surveys = [survey(folder, video_ids, progress) for folder in folders]
    visual = surveys[0]
    if sources.audio_width >= visual.width:
        raise UserError(
            f"--audio-width {sources.audio_width}: the arrays of {visual.folder} are {visual.width} columns wide, "
            "and at least one is for visual features"
        )
    split = visual.width - sources.audio_width
    audio_scale = sources.audio_scale or sources.scale
    parts = [("rgb", visual, slice(0, split), sources.scale, "--range")]
    if sources.audio_width:
        parts.append(("audio", visual, slice(split, None), audio_scale, "--audio-range"))
    elif sources.audio is not None:
        parts.append(("audio", surveys[1], slice(0, None), audio_scale, "--audio-range"))
    elif sources.audio_scale is not None:
        raise UserError("--audio-range: there is no audio; name it with --audio or --audio-width")
    unscaled = [part for part in parts if part[1].is_float and part[3] is None]
    for key, part, own, _, _ in unscaled:
        if part.usual_range(own) is None:
            raise UserError(
                f"{part.folder}: all values of the {key} features are {part.low[own].min():g}, which is useless; "
                "check how they were made"
            )
    if sources.usual_scales:
        parts = [(key, part, own, scale or _usual_scale(part, own), option) for key, part, own, scale, option in parts]
    elif unscaled:
        found = ", ".join(f"the {key} features {part.dtype} {part.extent(own)}" for key, part, own, _, _ in unscaled)
        options = " ".join(f"{option} {_typed(part, own)}" for _, part, own, _, option in unscaled)
        raise UserError(
            f"{unscaled[0][1].folder}: {found}; say which range becomes 0 to 255; 99.8 % of the values are in {options}"
        )
    scales = {"--range": sources.scale, "--audio-range": sources.audio_scale}
    for option, given in scales.items():
        users = [arrays for _, arrays, _, scale, _ in parts if scale is given and arrays.is_float]
        if given is not None and not users:
            raise UserError(
                f"{option}: the arrays of {visual.folder} are uint8, which are used as they are; leave it out"
            )
    return [
        Feature(key, arrays, columns, scale if arrays.is_float else None) for key, arrays, columns, scale, _ in parts
    ]


def _usual_scale(arrays: Survey, columns: slice) -> Scale | None:
    """The range for float arrays if none is given."""
    usual = arrays.usual_range(columns) if arrays.is_float else None
    return None if usual is None else Scale(*usual)


def _typed(arrays: Survey, columns: slice) -> str:
    """The usual range as typed on a command line, without exponents, as -1e-3 would be taken for an option."""
    return " ".join(np.format_float_positional(value, trim="-") for value in arrays.usual_range(columns) or ())


def contract_of(features: Sequence[Feature], trim: tuple[int, int]) -> FeatureContract:
    """The contract of the records, for uint8 arrays from the `features.json` beside them.

    Without one they are assumed to be quantized like the published data set. `trim`: seconds at the beginning and the
    end of a video that are not ranked. Raises `UserError` for a `features.json` about other arrays.
    """
    contracts = {feature.key: find_contract(feature.arrays.folder) for feature in features}
    meanings = {feature.key: _meaning(feature, contracts[feature.key]) for feature in features}
    extractors = [None if contract is None else contract.extractor for contract in contracts.values()]
    if extractors[0] != extractors[-1]:
        folders = " and ".join(str(feature.arrays.folder) for feature in features)
        raise UserError(f"{folders}: their {CONTRACT_NAME} name different extractors; take both features from one")
    return FeatureContract(**meanings, extractor=extractors[0], trim=trim)


def _meaning(feature: Feature, contract: FeatureContract | None) -> FeatureMeaning:
    """The meaning of a feature's bytes; `contract`: of its arrays, if any."""
    bounds = PUBLISHED_RANGE if feature.scale is None else (feature.scale.low, feature.scale.high)
    found = FeatureMeaning(width=feature.width, range=bounds)
    if contract is None:
        return found
    known: FeatureMeaning | None = getattr(contract, feature.key)
    if known is None or known.width != found.width or feature.scale is not None:
        kind = "float" if feature.scale is not None else "uint8"
        raise UserError(
            f"{feature.arrays.folder / CONTRACT_NAME}: is not about the {feature.key} features here, {kind} and "
            f"{found.width} wide; it belongs to other arrays: replace or remove it"
        )
    return known


def count_frames(features: Sequence[Feature], video_ids: Sequence[str]) -> dict[str, int]:
    """The seconds of each video that have all features; logs what is left out. Raises `UserError`."""
    faults = Faults(features[0].arrays.folder, "too long for one record; cut the video")
    n_frames, unlike, n_left_out = {}, [], 0
    for video_id in video_ids:
        lengths = [feature.arrays.lengths[video_id] for feature in features]
        n_frames[video_id] = min(lengths)
        if min(lengths) < max(lengths):
            unlike.append(f"{video_id} ({' and '.join(map(str, lengths))})")
        n_left_out += max(lengths) - min(lengths)
        if min(lengths) * sum(feature.width + 20 for feature in features) > _LARGEST_RECORD:
            faults.add(f"{array_path(features[0].arrays.folder, video_id).name}: has {min(lengths)} seconds")
    faults.raise_any()
    if unlike:
        LOGGER.warning(
            "%d of %d videos have visual and audio features of different length: %s; %d seconds with only one of them "
            "are left out",
            len(unlike),
            len(video_ids),
            listed(unlike),
            n_left_out,
        )
    return n_frames


def check_ratings(annotations: Annotations, n_frames: dict[str, int]) -> None:
    """Raise `UserError` for ratings beyond the end of their video."""
    faults = Faults(annotations.ratings_path)
    for video_id, length in n_frames.items():
        for line, rating in annotations.ratings.get(video_id, ()):
            if rating.start >= length:
                faults.add(f"line {line}: start: {rating.start} is beyond the end of {video_id}, {length} s long")
    faults.raise_any()


def divide(video_ids: Sequence[str], shard_videos: int | None, seed: int) -> list[list[str]]:
    """Shuffle videos and divide them into shards of about equal size, at most `shard_videos` each.

    None: at most 1,000 each, but at least as many shards as folds.
    """
    at_least = min(N_FOLDS, len(video_ids)) if shard_videos is None else 1
    n_shards = max(-(-len(video_ids) // (shard_videos or SHARD_VIDEOS)), at_least)
    order = np.random.default_rng((seed, _SHUFFLING)).permutation(len(video_ids))
    shuffled = [sorted(video_ids)[row] for row in order]
    ends = [len(shuffled) * number // n_shards for number in range(n_shards + 1)]
    return [shuffled[start:end] for start, end in zip(ends, ends[1:])]


class RecordWriter:
    """A writer of a partition's shards; `clipped` of the `values` of float arrays were clipped."""

    def __init__(self, features: Sequence[Feature], n_frames: dict[str, int], annotations: Annotations) -> None:
        self.features, self.n_frames, self.annotations = features, n_frames, annotations
        self.clipped = self.values = 0

    def write(self, folder: Path, stem: str, shards: Sequence[Sequence[str]]) -> None:
        """Write the shards, each a list of video ids, into a folder."""
        digits = max(4, len(str(len(shards) - 1)))
        with Progress("writing videos", sum(map(len, shards)), "video", LOGGER) as progress:
            for number, video_ids in enumerate(shards):
                write_shard(folder / f"{stem}{number:0{digits}d}.tfrecord", self._records(video_ids, progress))

    def _records(self, video_ids: Sequence[str], progress: Progress) -> Iterator[VideoRecord]:
        for video_id in video_ids:
            frames: dict[str, np.ndarray] = {}
            for feature in self.features:
                frames[feature.key], clipped = feature.read(video_id, self.n_frames[video_id])
                if feature.scale is not None:
                    self.clipped += clipped
                    self.values += frames[feature.key].size
            labels = None if self.annotations.labels is None else self.annotations.labels.get(video_id, [])
            ratings = [rating for _, rating in self.annotations.ratings.get(video_id, ())]
            yield VideoRecord(video_id, frames, labels, ratings)
            progress.update(1)

    def log_losses(self, labels_path: Path | None) -> None:
        """Warn of clipped values and missing labels in the written records."""
        if self.values:
            LOGGER.warning(
                "%d of %d values (%.3g %%) were outside the range and clipped",
                self.clipped,
                self.values,
                100 * self.clipped / self.values,
            )
        labels = self.annotations.labels
        if labels is not None:
            n_bare = sum(video not in labels for video in self.n_frames)
            if n_bare:
                LOGGER.warning("%d of %d videos have no label in %s", n_bare, len(self.n_frames), labels_path)


def write_partition(
    data_dir: Path,
    partition: str,
    writer: RecordWriter,
    contract: FeatureContract,
    shards: Sequence[Sequence[str]],
    new_names: Sequence[str] = (),
) -> None:
    """Write the shards of a partition, each a list of video ids, replacing those in a data folder.

    `contract`: of the features, see `contract_of`. `new_names`: for a `vocabulary.csv` to create with them, see
    `LabelIds`.
    """
    names = data_dir / NAMES_FILE
    (stem,) = (part.stem for part in PARTITIONS if part.folder == partition)
    with NewFolder(data_dir / partition) as new:
        writer.write(new.path, stem, shards)
        save_contract(contract, new.path)
        try:
            if new_names:
                save_names(new_names, names)
            new.publish()
        except BaseException:  # Ctrl-C, too
            if new_names and not new.published:  # no shards have them
                names.unlink(missing_ok=True)
            raise
    if new_names:
        LOGGER.info("%s: %d names", names, len(new_names))


def has_shards(folder: Path) -> bool:
    """Whether a folder, which need not exist, has shards."""
    return any(folder.glob("*.tfrecord"))


def warn_of_names(new_names: Sequence[str], rows: Sequence[LabelRow | RatingRow], names_path: Path) -> None:
    """Warn of names in a new vocabulary so similar that they may be one, pairs with the most unequal counts first."""
    counts = Counter(row.label for row in rows)
    pairs = [sorted(pair, key=lambda name: counts[name]) for pair in near_names(new_names)]
    pairs.sort(key=lambda pair: counts[pair[0]] / counts[pair[1]])
    if pairs:
        LOGGER.warning(
            "%s: some of the new names may be misspelt: %s; if so, correct them in the CSVs, remove this file once it "
            "is written, and run the command again with --overwrite",
            names_path,
            listed([" beside ".join(f"{name!r} ({_rows(counts[name])})" for name in pair) for pair in pairs]),
        )


def warn_of_ratings(
    labels: Sequence[LabelRow], ratings: Sequence[RatingRow], videos: Sequence[str], labels_path: Path | None
) -> None:
    """Warn of rated labels that no video has, and of positive ratings for labels that their own video lacks."""
    chosen = set(videos)
    ratings = [row for row in ratings if row.video_id in chosen]
    known = {row.label for row in labels}
    rated = {row.label for row in ratings}
    unknown = sorted(rated - known)
    if unknown:
        LOGGER.warning(
            "%s: no video has %d of the %d rated labels: %s",
            labels_path,
            len(unknown),
            len(rated),
            listed([repr(label) for label in unknown]),
        )
    pairs = {(row.video_id, row.label) for row in labels}
    lacking = [row for row in ratings if row.score and (row.video_id, row.label) not in pairs]
    if lacking:
        LOGGER.warning(
            "%s: %d of the %d positive ratings are for labels that it does not give to their video, such as %r to %s",
            labels_path,
            len(lacking),
            sum(row.score for row in ratings),
            lacking[0].label,
            lacking[0].video_id,
        )


def warn_of_other_videos(
    rows: Sequence[LabelRow | RatingRow], arrays: Collection[str], source: Path | None, folder: Path
) -> None:
    """Warn of videos in the CSV `source` without an array in the folder, which has `arrays` of these ids."""
    others = list(dict.fromkeys(row.video_id for row in rows if row.video_id not in arrays))
    if others:
        LOGGER.warning(
            "%s: %s without an array in %s left out: %s",
            source,
            counted(len(others), "video"),
            folder,
            with_suggestions(others, arrays),
        )


def warn_of_shared_videos(videos: Sequence[str], data_dir: Path, partition: str) -> None:
    """Warn of videos that another partition of the data folder also has."""
    for name in FOLDERS:
        folder = data_dir / name
        if name == partition or not has_shards(folder):
            continue
        try:
            there = set(load_index(folder, data_dir / "cache").video_id.tolist())
        except UserError as error:
            LOGGER.warning("%s: its videos were not compared with these: %s", folder, error)
            continue
        shared = [video_id for video_id in videos if video_id.encode() in there]
        if shared:
            LOGGER.warning(
                "%s: also has %d of these %d videos: %s; scores on videos that a model has seen say nothing",
                folder,
                len(shared),
                len(videos),
                listed(shared),
            )


def warn_of_transposed_arrays(features: Sequence[Feature]) -> None:
    """Warn of arrays that all have as many rows as features usually have columns."""
    for arrays in {feature.arrays.folder: feature.arrays for feature in features}.values():
        lengths = set(arrays.lengths.values())
        if len(lengths) == 1 and lengths < _TYPICAL_WIDTHS and arrays.width not in _TYPICAL_WIDTHS:
            LOGGER.warning(
                "%s: arrays may be transposed, (width, seconds): all have %d rows of %d columns; if so, save array.T",
                arrays.folder,
                *lengths,
                arrays.width,
            )


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def near_names(names: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of different names that differ only in case and at most one edit; each pair and the list are sorted.

    An edit inserts, deletes or replaces a character, or swaps two neighbours. Names that differ only in digits, such as
    "label 1" and "label 2", do not count, and names of one or two characters only if they differ just in case.
    """
    sharing: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        for key in _with_one_less(name.casefold()):
            sharing.setdefault(key, []).append(name)
    return sorted({pair for group in sharing.values() for pair in combinations(group, 2) if _are_near(*pair)})


def _with_one_less(text: str) -> set[str]:
    """A text and all its versions without one character; two texts an edit apart share one of these."""
    return {text, *(text[:place] + text[place + 1 :] for place in range(len(text)))}


def _are_near(name: str, other: str) -> bool:
    short, long = sorted((name.casefold(), other.casefold()), key=len)
    if short == long:
        return True
    if len(long) <= _SHORT or _DIGITS.sub("", short) == _DIGITS.sub("", long):
        return False
    start = len(os.path.commonprefix([short, long]))
    swapped = short[start : start + 2][::-1] + short[start + 2 :]
    return long[start + 1 :] in (short[start:], short[start + 1 :]) or long[start:] == swapped
