"""The words of a text, of any language that puts spaces between them."""

from __future__ import annotations

import unicodedata

APOSTROPHES = "'\u2019"


class _Characters(dict):
    """What `str.translate` makes of a character; filled as they are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in APOSTROPHES:
            kept = "'"
        else:
            # A regular expression's \w knows no marks: it would cut a word of Hindi at its vowels.
            kept = character if unicodedata.category(character)[0] in "LMN" else " "
        self[code] = kept
        return kept


_CHARACTERS = _Characters()


def words(text: str) -> list[str]:
    """The words of `text` in their order, lower-cased: of "Toy Story (1995)" toy, story and 1995.

    A word is a run of letters, digits and the marks on them (accents, vowel signs); an apostrophe
    within one is part of it, so that "don't" is one word and leaves no "t" behind. Characters that
    differ in their encoding alone are the same (Unicode's NFKC).
    """
    parts = unicodedata.normalize("NFKC", text).lower().translate(_CHARACTERS).split()
    # What is an apostrophe alone, or the mark on an emoji, is none.
    return [word for part in parts if any(map(str.isalnum, word := part.strip("'")))]
