"""How little there may be to learn from. Imports nothing heavy: `--help` says it."""

LEAST_CLASSES = 2
LEAST_VIDEOS = 5  # labelled with a class, and as many that are not
LEAST_RATINGS = 4  # of a class with either score
LEAST_RATED_VIDEOS = 12


def minimum_text(with_ratings: bool) -> str:
    """What it takes, in words."""
    text = (
        f"at least {LEAST_CLASSES} classes, each with {LEAST_VIDEOS} videos that have the label and {LEAST_VIDEOS} "
        "that have not"
    )
    if not with_ratings:
        return text
    return (
        f"{text}, {LEAST_RATINGS} segments rated 1 and {LEAST_RATINGS} rated 0; and ratings of "
        f"{LEAST_RATED_VIDEOS} videos"
    )
