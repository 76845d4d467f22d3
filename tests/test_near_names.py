"""Near-identical names, against a comparison of all pairs."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from yt8m.making.array_records import near_names


def _slow_distance(one: str, other: str) -> int:
    """The least number of insertions, deletions, replacements and swaps of neighbours from one text to the other."""
    table = {(-1, column): column + 1 for column in range(-1, len(other))}
    for row, letter in enumerate(one):
        table[row, -1] = row + 1
        for column, another in enumerate(other):
            table[row, column] = min(
                table[row - 1, column] + 1, table[row, column - 1] + 1, table[row - 1, column - 1] + (letter != another)
            )
            if row and column and one[row - 1 : row + 1] == other[column - 1 : column + 1][::-1]:
                table[row, column] = min(table[row, column], table[row - 2, column - 2] + 1)
    return table[len(one) - 1, len(other) - 1]


def _slow_near(one: str, other: str) -> bool:
    one, other = one.casefold(), other.casefold()
    if one == other:
        return True
    letters, others = ("".join(c for c in text if not c.isdecimal()) for text in (one, other))
    return letters != others and max(len(one), len(other)) > 2 and _slow_distance(one, other) == 1


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text("abA1é2", max_size=5), max_size=10))
def test_near_names_are_those_of_all_pairs_that_are_near(names: list[str]) -> None:
    expected = [pair for pair in combinations(sorted(set(names)), 2) if _slow_near(*pair)]
    assert near_names(names) == expected


def test_names_in_a_series_are_not_misspellings() -> None:
    assert not near_names([f"label {number}" for number in range(2000)])
    assert near_names(["dog", "dgo", "god", "Cat", "cat", "cart", "A", "B", "3D film", "2D film"]) == [
        ("Cat", "cart"),
        ("Cat", "cat"),
        ("cart", "cat"),
        ("dgo", "dog"),
    ]
