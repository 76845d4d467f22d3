"""Which segment is worth a rating next: the rule of the page, measured by `benchmarks/rating_choice.py`.

Dimensions: Q questions.
"""

from dataclasses import dataclass

import numpy as np

# Of a model's probabilities the one of which an answer teaches most. Answers "yes" move a model three times as far as
# answers "no" (a rating weighs its score + 0.5), so that it is less than 0.5.
TELLING_PROBABILITY = 0.3


@dataclass(frozen=True, eq=False)
class Questions:
    """Does class `classes[q]` appear in the 5 seconds from second `starts[q]` of film `films[q]`?

    All are (Q,), films and classes numbers from 0 on. `probabilities` is what a model says, 0 to 1, nan where it says
    nothing; None without a model.
    """

    films: np.ndarray
    starts: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.films)


class Chooser:
    """Chooses among questions: first the classes, then the films that have been asked about least.

    Of what is left, the question whose probability is next to `telling`; without a model a random one. The same seed,
    questions and answers make the same choice.
    """

    def __init__(self, questions: Questions, seed: int, telling: float = TELLING_PROBABILITY) -> None:
        self.questions = questions
        order = np.random.default_rng(seed).permutation(len(questions))
        if questions.probabilities is not None:
            distances = np.abs(questions.probabilities - telling)
            order = order[np.argsort(distances[order], kind="stable")]  # nan comes last
        self._places = np.empty(len(questions), np.int64)  # in that order
        self._places[order] = np.arange(len(questions))

    def choose(self, free: np.ndarray, asked: np.ndarray) -> int | None:
        """The next question; None if there is none.

        Of the questions that are `free` (Q,) to be asked; `asked` (Q,) are those that have been asked, whatever the
        answers. Both bool.
        """
        left = np.flatnonzero(free)
        for groups in (self.questions.classes, self.questions.films):
            if left.size:
                counts = np.bincount(groups[asked], minlength=int(groups.max()) + 1)[groups[left]]
                left = left[counts == counts.min()]
        return int(left[self._places[left].argmin()]) if left.size else None
