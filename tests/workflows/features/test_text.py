"""What counts as a word."""

from __future__ import annotations

import pytest

from twotower.workflows.features.text import words


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Toy Story (1995)", ["toy", "story", "1995"]),
        ("Se7en: snake_case / 2001-II", ["se7en", "snake", "case", "2001", "ii"]),
        ("Don't say L\u2019\u00c9t\u00e9", ["don't", "say", "l'\u00e9t\u00e9"]),
        ("'Til the Dogs' day", ["til", "the", "dogs", "day"]),
        ("Ame\u0301lie \uff12", ["am\u00e9lie", "2"]),  # an accent of its own; a wide digit
        ("Северный полюс", ["северный", "полюс"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("千と千尋の神隠し", ["千と千尋の神隠し"]),  # no spaces, one word
        ("Fargo, Fargo", ["fargo", "fargo"]),
        (" ' ?! \u2764\ufe0f", []),  # a heart and what asks for its colour
        ("", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_in_lower_case(text, expected):
    assert words(text) == expected
