"""Split a text into words, for any language that puts spaces between them."""

from __future__ import annotations

import unicodedata

APOSTROPHES = "'\u2019"


class _Characters(dict[int, str]):
    """A table for `str.translate` that is filled as characters occur."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in APOSTROPHES:
            kept = "'"
        else:
            # The \w of regular expressions excludes marks, so it would split Hindi words at their
            # vowel signs.
            kept = character if unicodedata.category(character)[0] in "LMN" else " "
        self[code] = kept
        return kept


_CHARACTERS = _Characters()


def words(text: str) -> list[str]:
    """Split `text` into words in lower case.

    A word is a run of letters, digits and the marks on them (accents, vowel signs). An apostrophe
    inside a word belongs to it, so "don't" is one word. Characters that differ only in their
    encoding are the same (Unicode normalization form NFKC).

    Examples
    --------
    >>> words("Toy Story (1995)")
    ['toy', 'story', '1995']
    """
    parts = unicodedata.normalize("NFKC", text).lower().translate(_CHARACTERS).split()
    # A lone apostrophe, or a lone mark such as an emoji's, is not a word.
    return [word for part in parts if any(map(str.isalnum, word := part.strip("'")))]
