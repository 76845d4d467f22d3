"""The synthetic data set: deterministic, with consistent truth and ratings, and look-alikes."""

import numpy as np
import pytest

from yt8m.making.demo_data import AUDIO, RGB, Video, World

SECONDS = (80, 120)
N_CLASSES, SEED = 6, 5


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    return World(N_CLASSES, SEED)


@pytest.fixture(name="videos", scope="module")
def _videos(world: World) -> list[Video]:
    return [world.video(number, SECONDS) for number in range(150)]


def _rated(world: World) -> list[int]:
    return world.labels[: world.n_classes].tolist()


def test_the_same_seed_and_number_make_the_same_video(world: World, videos: list[Video]) -> None:
    again = World(N_CLASSES, SEED).video(3, SECONDS)
    assert again.video_id == videos[3].video_id
    assert again.labels == videos[3].labels
    assert np.array_equal(again.frames, videos[3].frames)
    assert np.array_equal(again.present, videos[3].present)
    assert World(N_CLASSES, SEED).ratings(again, 3) == world.ratings(videos[3], 3)


def test_other_seeds_and_numbers_make_other_videos(world: World, videos: list[Video]) -> None:
    other = World(N_CLASSES, SEED + 1)
    assert set(other.labels.tolist()) != set(world.labels.tolist())
    lengths = [[len(made.video(number, SECONDS).frames) for number in range(5)] for made in (world, other)]
    assert lengths[0] != lengths[1]
    assert other.video(3, SECONDS).video_id != videos[3].video_id
    assert not np.array_equal(other.video(3, (90, 90)).frames, world.video(3, (90, 90)).frames)
    assert not np.array_equal(world.video(4, (90, 90)).frames, world.video(3, (90, 90)).frames)


@pytest.mark.parametrize("seed", [0, 4827])
def test_ids_are_unique_and_have_four_characters(seed: int) -> None:
    world = World(2, seed)
    ids = [world.video(number, (1, 1)).video_id for number in range(1500)]
    assert len(set(ids)) == len(ids)
    assert {len(video_id) for video_id in ids} == {4}
    assert all(video_id.isalnum() and video_id.isascii() for video_id in ids)


def test_frames_are_bytes_of_the_official_width_and_lengths_span_the_range(videos: list[Video]) -> None:
    lengths = {len(video.frames) for video in videos}
    assert min(lengths) >= SECONDS[0]
    assert max(lengths) <= SECONDS[1]
    assert len(lengths) > 20
    for video in videos:
        assert video.frames.dtype == np.uint8
        assert video.frames.shape == (len(video.present), RGB + AUDIO)
        assert 20 < video.frames.std() < 80  # neither constant nor saturated
    assert {len(World(2, 0).video(number, (7, 7)).frames) for number in range(20)} == {7}


def test_labels_are_sorted_and_some_lie_outside_the_vocabulary(world: World, videos: list[Video]) -> None:
    rated, everything = set(_rated(world)), set(world.labels.tolist())
    assert len(everything) == len(world.labels) > len(rated) == N_CLASSES
    assert min(everything) >= 0
    assert max(everything) < 3862
    assert _rated(world) == sorted(rated)
    for video in videos:
        assert video.labels == sorted(set(video.labels))
        assert set(video.labels) <= everything
        assert rated & set(video.labels)
    seen = {label for video in videos for label in video.labels}
    assert seen == everything  # so also those outside the vocabulary


def test_the_official_vocabulary_has_all_labels(world: World) -> None:
    rows = world.vocabulary_rows()
    assert [label for label, _, _ in rows] == sorted(world.labels.tolist())
    assert len({identifier for _, identifier, _ in rows}) == len(rows)
    names = [name for _, _, name in rows]
    assert names[:2] == ["Dog", "Guitar"] and len(set(names)) == len(names)
    many = [name for _, _, name in World(60, 1).vocabulary_rows()]
    assert many[36] == "Dog 2" and len(set(many)) == 90


def test_concepts_are_visible_exactly_where_they_are_labels(world: World, videos: list[Video]) -> None:
    for video in videos:
        visible = {label for label, seconds in zip(_rated(world), video.present.T) if seconds.any()}
        assert visible == set(_rated(world)) & set(video.labels)


def _slow_truth(video: Video) -> dict[int, list[bool]]:
    """Start second → for each class whether it is visible for at least 3 of the 5 seconds, of candidates only."""
    starts = list(range(0, len(video.frames), 5))[6:-2]
    return {
        start: [
            sum(video.present[second, label] for second in range(start, start + 5)) >= 3
            for label in range(video.present.shape[1])
        ]
        for start in starts
    }


def test_truth_holds_for_visible_concepts_only(world: World, videos: list[Video]) -> None:
    values = []
    for video in videos:
        truth = world.truth(video)
        assert truth.tolist() == list(_slow_truth(video).values())
        hidden = ~np.isin(_rated(world), video.labels)
        assert not truth[:, hidden].any()
        values.append(truth[:, ~hidden].mean())
    assert 0.1 < np.mean(values) < 0.9


def test_a_video_without_candidates_has_no_truth_and_no_ratings(world: World) -> None:
    for seconds in (1, 4, 39, 40):
        video = world.video(0, (seconds, seconds))
        assert world.truth(video).shape == (0, N_CLASSES)
        assert not world.ratings(video, 0)
        assert not world.rate_test(video, np.random.default_rng(0))
    assert len(world.truth(world.video(0, (41, 41)))) == 1


def test_ratings_agree_with_truth(world: World, videos: list[Video]) -> None:
    counts, scores = [], []
    for number, video in enumerate(videos):
        truth = _slow_truth(video)
        ratings = world.ratings(video, number)
        for rating in ratings:
            assert rating.label in video.labels
            assert truth[rating.start][_rated(world).index(rating.label)] == rating.score
        assert ratings == sorted(ratings, key=lambda rating: (rating.start, rating.label))
        assert len({(rating.start, rating.label) for rating in ratings}) == len(ratings)
        counts.append(len(ratings))
        scores += [rating.score for rating in ratings]
    assert 3 <= np.mean(counts) <= 6
    assert 0.35 < np.mean(scores) < 0.65


def test_ratings_of_test_videos_agree_with_truth(world: World, videos: list[Video]) -> None:
    rng = np.random.default_rng(1)
    n_others = 0
    for video in videos[:50]:
        truth = _slow_truth(video)
        own = set(_rated(world)) & set(video.labels)
        rows = world.rate_test(video, rng)
        assert len({row[:3] for row in rows}) == len(rows)
        for video_id, start, label, score in rows:
            assert video_id == video.video_id
            assert truth[start][_rated(world).index(label)] == score
        rated = {(start, label) for _, start, label, _ in rows}
        assert {(start, label) for start in truth for label in own} <= rated
        others = [score for _, _, label, score in rows if label not in own]
        assert not any(others)
        n_others += len(others)
    assert n_others > 100


def test_twins_look_alike_and_sound_different(videos: list[Video]) -> None:
    looks = []
    for label in range(N_CLASSES):
        differences = []
        for video in videos:
            seen = video.present[:, label]
            if seen.any() and not seen.all():
                differences.append(video.frames[seen].mean(axis=0) - video.frames[~seen].mean(axis=0))
        looks.append(np.mean(differences, axis=0))
    rgb, audio = (np.corrcoef(np.array(looks)[:, part]) for part in (slice(RGB), slice(RGB, None)))
    for first in range(N_CLASSES):
        for second in range(first + 1, N_CLASSES):
            if (first, second) in ((0, 1), (2, 3), (4, 5)):
                assert rgb[first, second] > 0.6
            else:
                assert abs(rgb[first, second]) < 0.3
            assert abs(audio[first, second]) < 0.5
