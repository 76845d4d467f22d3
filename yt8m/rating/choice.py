"""The rule that chooses the next segment to rate, measured by `benchmarks/rating_choice.py`.

Dimensions: Q questions.
"""

from dataclasses import dataclass

import numpy as np

# The probability at which an answer teaches a model most: below 0.5, since a "yes" moves it three times as far as a
# "no" (a rating weighs its score + 0.5).
TELLING_PROBABILITY = 0.3


@dataclass(frozen=True, eq=False)
class Questions:
    """Does class `classes[q]` appear in the 5 seconds from second `starts[q]` of film `films[q]`?

    All are (Q,); films and classes are numbered from 0. `probabilities` are a model's, 0 to 1, NaN where unknown; None
    without a model.
    """

    films: np.ndarray
    starts: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.films)


class Chooser:
    """Chooses questions of the classes, then of the films asked about least.

    Among these, the question with the probability nearest to `telling`; without a model a random one. The same seed,
    questions and answers give the same choice.
    """

    def __init__(self, questions: Questions, seed: int, telling: float = TELLING_PROBABILITY) -> None:
        self.questions = questions
        order = np.random.default_rng(seed).permutation(len(questions))
        if questions.probabilities is not None:
            distances = np.abs(questions.probabilities - telling)
            order = order[np.argsort(distances[order], kind="stable")]  # NaN comes last
        self._places = np.empty(len(questions), np.int64)  # in that order
        self._places[order] = np.arange(len(questions))

    def choose(self, free: np.ndarray, asked: np.ndarray) -> int | None:
        """The next question among the `free` (Q,) ones, None if there is none.

        `asked` (Q,): questions asked so far, whatever the answers. Both bool.
        """
        left = np.flatnonzero(free)
        for groups in (self.questions.classes, self.questions.films):
            if left.size:
                counts = np.bincount(groups[asked], minlength=int(groups.max()) + 1)[groups[left]]
                left = left[counts == counts.min()]
        return int(left[self._places[left].argmin()]) if left.size else None
