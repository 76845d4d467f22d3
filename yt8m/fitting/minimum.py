"""The minimum of data that a fit needs. Imports nothing heavy, for `--help`."""

LEAST_CLASSES = 2
LEAST_VIDEOS = 5  # with a class's label, and without it
LEAST_RATINGS = 4  # of a class, of either score
LEAST_RATED_VIDEOS = 12


def minimum_text(with_ratings: bool) -> str:
    """The requirements, as text."""
    text = f"at least {LEAST_CLASSES} classes, each with {LEAST_VIDEOS} labelled videos and {LEAST_VIDEOS} others"
    if not with_ratings:
        return text
    return (
        f"{text}, {LEAST_RATINGS} segments rated 1 and {LEAST_RATINGS} rated 0; and ratings of "
        f"{LEAST_RATED_VIDEOS} videos"
    )
