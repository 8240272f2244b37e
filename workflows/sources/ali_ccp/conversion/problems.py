"""What is wrong with a line that the compiled parser refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from twotower.workflows.sources.ali_ccp.conversion.blocks import MAX_LINE
from twotower.workflows.sources.ali_ccp.fields import COMMON, NAMES, SKELETON, Layout

_INDEX = re.compile(rb"[0-9A-Za-z]{1,32}")
_WHOLE = re.compile(rb"[0-9]+")
_DECIMAL = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LARGEST = 3.4028234663852886e38  # of float32
_COLUMNS = {
    5: ("sample_id", "click", "conversion", "common_feature_index", "feature_count", "features"),
    2: ("common_feature_index", "feature_count", "features"),
}
_COPY = "copy or download the file again"


class Problem(NamedTuple):
    """What is wrong with a line.

    Attributes
    ----------
    kind : str
        Its name, by which problems are counted.
    text : str
        What is wrong, the value, and what to do.
    """

    kind: str
    text: str


def shown(value: bytes, limit: int = 60) -> str:
    """Write a value of a file for people: printable, and not too long."""
    text = value[:limit].decode("utf-8", "backslashreplace")
    return repr(text) + (" ..." if len(value) > limit else "")


def find_problem(line: bytes, layout: Layout, complete: bool = True) -> Problem:
    """Say what is wrong with a line.

    Parameters
    ----------
    line : bytes
        Without its line feed. `kernel.parse` has refused it.
    layout : Layout
    complete : bool
        Whether it has a line feed in the file.

    Returns
    -------
    Problem
        The first one; kind "other" if there is none, which is a mistake in this project.
    """
    found = next(_problems(line, layout), Problem("other", f"{shown(line)} cannot be read"))
    if not complete and found.kind not in ("line_too_long", "nul_byte"):
        text = f"the file ends within this line, {shown(line[-60:])}; {_COPY}"
        return Problem("truncated_line", text)
    return found


def _problems(line: bytes, layout: Layout) -> Iterator[Problem]:
    yield from _of_bytes(line)
    names = _COLUMNS[layout.head]
    columns = line.split(b",")
    if len(columns) != len(names):
        yield Problem(
            "wrong_number_of_columns",
            f"{len(columns)} columns in {shown(line)}; expected {len(names)}: {', '.join(names)}",
        )
        return
    yield from _of_head(columns, layout)
    yield from _of_features(columns[-2], columns[-1], layout)


def _of_bytes(line: bytes) -> Iterator[Problem]:
    if len(line) > MAX_LINE:
        yield Problem(
            "line_too_long",
            f"a line of more than {MAX_LINE:,} bytes that begins with {shown(line)}; {_COPY}",
        )
    if not line.strip():
        yield Problem("empty_line", "an empty line; remove it")
    if b"\0" in line:
        yield Problem(
            "nul_byte", f"a NUL byte at place {line.index(0) + 1} of {len(line):,}; {_COPY}"
        )
    if line.startswith(b"\xef\xbb\xbf"):
        yield Problem("byte_order_mark", "a byte order mark; store the file without it")
    try:
        line.decode("ascii")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        yield Problem(
            "not_ascii",
            f"byte 0x{byte:02x} at place {error.start + 1}; the format is ASCII; {_COPY}",
        )
    if line.endswith(b"\r"):
        yield Problem(
            "carriage_return",
            "a carriage return before the line feed; convert the line ends, as with "
            "`sed -i 's/\\r$//' FILE`",
        )
    if line.startswith(b"sample_id,") or line.startswith(b"common_feature_index,"):
        yield Problem("header", f"the header {shown(line)}; the format has none; remove the line")
    if b'"' in line:
        yield Problem("quotes", f"a quote in {shown(line)}; the format has none; remove them")
    if b"\x01" not in line and b"\x02" not in line and b"\x03" not in line:
        yield Problem(
            "no_separators",
            f"none of the separators \\x01, \\x02 and \\x03 in {shown(line)}; a program may have "
            f"removed them; {_COPY}",
        )


def _of_head(columns: list[bytes], layout: Layout) -> Iterator[Problem]:
    if layout.head == 5:
        number = columns[0]
        if not _WHOLE.fullmatch(number):
            yield Problem(
                "sample_id_not_a_number", f"sample_id is {shown(number)}; expected a whole number"
            )
        elif int(number) >= 2**63:
            yield Problem(
                "sample_id_too_large", f"sample_id is {shown(number)}, which is 2^63 or more"
            )
        for name, value in zip(("click", "conversion"), columns[1:3], strict=True):
            if value not in (b"0", b"1"):
                yield Problem(f"{name}_not_0_or_1", f"{name} is {shown(value)}; expected 0 or 1")
    index, count = columns[-3], columns[-2]
    if not index:
        yield Problem("no_common_index", "no common_feature_index; every line needs one")
    elif not _INDEX.fullmatch(index):
        yield Problem(
            "bad_common_index",
            f"common_feature_index is {shown(index)}; expected 1 to 32 letters and digits",
        )
    if not _WHOLE.fullmatch(count):
        yield Problem(
            "feature_count_not_a_number",
            f"feature_count is {shown(count)}; expected a whole number",
        )


def _of_features(count: bytes, features: bytes, layout: Layout) -> Iterator[Problem]:
    tokens = features.split(b"\x01") if features else []
    if not tokens:
        yield Problem("no_features", f"no features; feature_count is {shown(count)}")
        return
    names = {field.code: field.name for field in layout.fields}
    seen: set[str] = set()
    for place, token in enumerate(tokens, start=1):
        found, name = _of_token(token, names)
        if found is not None:
            where = f"feature {place} of {len(tokens)}: {found.text}"
            yield Problem(found.kind, where)
            return
        if name in seen and name not in layout.lists:
            code = next(field.code for field in layout.fields if field.name == name)
            yield Problem(
                "repeated_field",
                f"feature {place} of {len(tokens)}: field {code} ({name}) occurs a second time; if "
                "that is so in all your data, add the name to ingest.ali_ccp_raw.lists",
            )
            return
        seen.add(name)
    if int(count) != len(tokens):
        yield Problem(
            "feature_count_differs",
            f"feature_count is {int(count)}, but there are {len(tokens)} features; {_COPY}",
        )
    if layout.required not in seen:
        field = layout.fields[0]
        yield Problem(f"no_{field.name}", f"no field {field.code} ({field.name}); remove the line")


def _of_token(token: bytes, names: dict[str, str]) -> tuple[Problem | None, str]:
    """Find what is wrong with one feature, and the column that it belongs to."""
    if not token:
        return Problem("empty_feature", "nothing between two separators \\x01"), ""
    for separator, kind in ((b"\x02", "no_separator_2"), (b"\x03", "no_separator_3")):
        if token.count(separator) != 1:
            how_many = token.count(separator)
            text = f"{how_many} separators \\x0{separator[0]} in {shown(token)}; expected one"
            return Problem(kind if not how_many else "repeated_separator", text), ""
    if token.index(2) > token.index(3):
        return Problem("separators_in_wrong_order", f"\\x03 before \\x02 in {shown(token)}"), ""
    code, rest = token.split(b"\x02")
    feature, value = rest.split(b"\x03")
    key = code.decode("ascii")
    if key not in names:
        if key in NAMES:
            skeleton = key in {field.code for field in SKELETON}
            file = "sample_skeleton" if skeleton else "common_features"
            text = f"field {key} ({NAMES[key]}) belongs in {file}"
            return Problem("field_of_other_file", f"{text}; have files been exchanged?"), ""
        known = ", ".join(field.code for field in (SKELETON if "205" in names else COMMON))
        return Problem("unknown_field", f"field {shown(code)}; known here: {known}"), ""
    name = names[key]
    where = f"field {key} ({name})"
    if not _WHOLE.fullmatch(feature):
        text = f"{where}: the feature is {shown(feature)}; expected a whole number, 0 or more"
        return Problem("feature_not_a_number", text), name
    if len(feature) > 19 or int(feature) >= 2**63:
        text = f"{where}: the feature is {shown(feature)}; expected at most 19 digits, below 2^63"
        return Problem("feature_too_large", text), name
    number = float(value) if _DECIMAL.fullmatch(value) else None
    if number is None:
        kind = (
            "value_not_finite" if value.lower().lstrip(b"+-") in _ENDLESS else "value_not_a_number"
        )
        return Problem(kind, f"{where}: the value is {shown(value)}; expected a number"), name
    if abs(number) > _LARGEST:
        text = f"{where}: the value is {shown(value)}; expected at most {_LARGEST:.3g}"
        return Problem("value_too_large", text), name
    return None, name


_ENDLESS = (b"nan", b"inf", b"infinity")
