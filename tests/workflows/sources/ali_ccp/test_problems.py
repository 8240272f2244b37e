"""Each kind of malformed line, and each kind of wrong file, is named with its place."""

from __future__ import annotations

import gzip
import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from tests.workflows.sources.ali_ccp.texts import HAND_MADE, convert, parse_slowly
from twotower.workflows.errors import DataError
from twotower.workflows.sources.ali_ccp.conversion.blocks import MAX_LINE, parse, read_lines
from twotower.workflows.sources.ali_ccp.conversion.problems import find_problem
from twotower.workflows.sources.ali_ccp.fields import Layout

SKELETON, COMMON = "sample_skeleton_train.csv", "common_features_train.csv"
LONG = b"1,0,0,00aa,1," + b"2" * MAX_LINE

# Of each: the file, what is replaced in its second line and by what (or the whole new line), the
# kind, and a part of the message. Impressions of a common line that is left out are left out, too.
WRONG = [
    (SKELETON, b"2,0,0,", b"2,0,", "wrong_number_of_columns", "5 columns in '2,0,00aa,3,205"),
    (SKELETON, b"2,0,0,", b"2,0,0,0,", "wrong_number_of_columns", "7 columns"),
    (
        SKELETON,
        b"2,0,0,",
        b"x,0,0,",
        "sample_id_not_a_number",
        "sample_id is 'x'; expected a",
    ),
    (SKELETON, b"2,0,0,", b"-2,0,0,", "sample_id_not_a_number", "sample_id is '-2'"),
    (SKELETON, b"2,0,0,", b"9223372036854775808,0,0,", "sample_id_too_large", "2^63 or more"),
    (SKELETON, b"2,0,0,", b"2,2,0,", "click_not_0_or_1", "click is '2'; expected 0 or 1"),
    (SKELETON, b"2,0,0,", b"2,,0,", "click_not_0_or_1", "click is ''"),
    (SKELETON, b"2,0,0,", b"2,0,1.0,", "conversion_not_0_or_1", "conversion is '1.0'"),
    (SKELETON, b"00aa", b"", "no_common_index", "no common_feature_index"),
    (SKELETON, b"00aa", b"00-aa", "bad_common_index", "common_feature_index is '00-aa'"),
    (SKELETON, b"00aa", b"a" * 33, "bad_common_index", "1 to 32 letters and digits"),
    (SKELETON, b"00aa", b"00ee", "unknown_common_index", "'00ee' is not in common_features_train"),
    (SKELETON, b"aa,3", b"aa,three", "feature_count_not_a_number", "feature_count is 'three'"),
    (SKELETON, b"aa,3", b"aa,4", "feature_count_differs", "is 4, but there are 3 features"),
    (SKELETON, b"aa,3", b"aa,2", "feature_count_differs", "is 2, but there are 3 features"),
    (SKELETON, b"\x01853", b"\x01\x01853", "empty_feature", "feature 2 of 4: nothing between two"),
    (SKELETON, b"853\x02", b"853", "no_separator_2", "0 separators \\x02 in '85390\\x03-0.5'"),
    (SKELETON, b"90\x03", b"90", "no_separator_3", "0 separators \\x03 in '853\\x0290-0.5'"),
    (SKELETON, b"90\x03", b"90\x03\x03", "repeated_separator", "2 separators \\x03"),
    (SKELETON, b"853\x0290\x03", b"853\x0390\x02", "separators_in_wrong_order", "before \\x02"),
    (SKELETON, b"853\x02", b"999\x02", "unknown_field", "field '999'; known here: 205, 206"),
    (SKELETON, b"853\x02", b"\x02", "unknown_field", "field ''; known here"),
    (SKELETON, b"853\x02", b"101\x02", "field_of_other_file", "101 (user_id) belongs in common_f"),
    (SKELETON, b"\x0290", b"\x029x", "feature_not_a_number", "(user_item_intentions): the feature"),
    (SKELETON, b"\x0290", b"\x02-9", "feature_not_a_number", "is '-9'; expected a whole number, 0"),
    (SKELETON, b"\x0290", b"\x02" + b"9" * 19, "feature_too_large", "below 2^63"),
    (SKELETON, b"-0.5", b"nan", "value_not_finite", "the value is 'nan'; expected a number"),
    (SKELETON, b"-0.5", b"-inf", "value_not_finite", "the value is '-inf'"),
    (SKELETON, b"-0.5", b"half", "value_not_a_number", "the value is 'half'"),
    (SKELETON, b"-0.5", b"", "value_not_a_number", "the value is ''"),
    (
        SKELETON,
        b"-0.5",
        b"1e99",
        "value_too_large",
        "is '1e99'; expected at most 3.4e+38",
    ),
    (
        SKELETON,
        b"853\x02",
        b"205\x02",
        "repeated_field",
        "205 (item_id) occurs a second time",
    ),
    (SKELETON, b"205\x02", b"206\x02", "no_item_id", "no field 205 (item_id); remove the line"),
    (SKELETON, None, b"", "empty_line", "an empty line; remove it"),
    (SKELETON, None, b"2,0,0,00aa,0,", "no_separators", "none of the separators"),
    (SKELETON, None, b"2,0,0,00aa,1,205 6 1.0", "no_separators", "in '2,0,0,00aa,1,205 6 1.0'"),
    (SKELETON, None, b"sample_id,click,conversion", "header", "the format has none"),
    (SKELETON, None, LONG, "line_too_long", "a line of more than 4,194,304 bytes that begins"),
    (SKELETON, b"2,0", b'"2",0', "quotes", 'a quote in \'"2",0'),
    (SKELETON, b"-0.5", b"-0.5\x00", "nul_byte", "a NUL byte at place"),
    (SKELETON, b"3\x031.0", b"3\x031.0\r", "carriage_return", "convert the line ends"),
    (SKELETON, b"00aa", b"00\xffa", "not_ascii", "byte 0xff at place 9; the format is ASCII"),
    (COMMON, b"00bb,", b"", "wrong_number_of_columns", "expected 3: common_feature_index"),
    (COMMON, b"00bb", b"00aa", "repeated_common_index", "'00aa' occurs already in line 1"),
    (COMMON, b"101\x022", b"121\x022", "no_user_id", "no field 101 (user_id)"),
    (COMMON, b"150_14", b"150_15", "unknown_field", "field '150_15'; known here: 101"),
    (COMMON, b"150_14", b"205", "field_of_other_file", "205 (item_id) belongs in sample_skeleton"),
]


@pytest.mark.parametrize(("name", "old", "new", "kind", "message"), WRONG, ids=range(len(WRONG)))
def test_a_malformed_line_is_named_or_left_out(hand_made, tmp_path, name, old, new, kind, message):
    lines = list(HAND_MADE[name])
    if old is not None:
        assert lines[1].count(old) >= 1
        new = lines[1].replace(old, new, 1)
    lines[1] = new
    (hand_made / name).write_bytes(b"".join(line + b"\n" for line in lines))
    text = rf"{re.escape(str(hand_made / name))}, line 2: .*{re.escape(message)}"
    with pytest.raises(DataError, match=text):
        convert(hand_made, tmp_path / "work")
    tables, messages = convert(hand_made, tmp_path / "work", on_error="skip")
    (found,) = [each for each in messages if each.startswith(f"{name}: ")]
    start = f"{name}: 1 of {len(lines)} lines left out ({kind.replace('_', ' ')}), "
    assert found.startswith(f"{start}the first is line 2: ") and message in found
    log = pa.concat_tables(list(tables.interactions.batches()))
    left = {SKELETON: [5, 5, 6, 7, 5], COMMON: [5, 6, 6, 7, 5]}[name]
    assert log["item_id"].to_pylist() == left


def test_the_kinds_are_at_least_thirty():
    assert len({kind for *_, kind, _ in WRONG}) >= 30


def test_skipped_lines_are_counted_by_kind_over_all_blocks(generated, tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    for path in generated.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    place = folder / SKELETON
    lines = place.read_bytes().split(b"\n")[:-1]
    clicks = range(1, len(lines), 100)
    for row in clicks:
        number, _, rest = lines[row].split(b",", 2)
        lines[row] = b",".join([number, b"7", rest])
    lines[5000] = b""
    place.write_bytes(b"".join(line + b"\n" for line in lines))
    tables, messages = convert(folder, tmp_path / "work", block_mb=1, on_error="skip")
    assert len(tables.interactions) == 14_000 + 5_000 - len(clicks) - 1
    start = f"{SKELETON}: {len(clicks)} of 14,000 lines left out (click not 0 or 1), "
    assert f"{start}the first is line 2: click is '7'; expected 0 or 1" in messages
    start = f"{SKELETON}: 1 of 14,000 lines left out (empty line), "
    assert f"{start}the first is line 5,001: an empty line; remove it" in messages
    lines[1] = lines[0]
    place.write_bytes(b"".join(line + b"\n" for line in [*lines[:101], *lines[102:12_000], b"?"]))
    with pytest.raises(DataError, match=rf"{SKELETON}, line 201: click is '7'"):
        convert(folder, tmp_path / "work", block_mb=1)


def test_conversions_without_a_click_are_left_out_and_counted(hand_made, tmp_path):
    place = hand_made / SKELETON
    place.write_bytes(place.read_bytes().replace(b"2,0,0,", b"2,0,1,"))
    tables, messages = convert(hand_made, tmp_path / "work")
    assert len(tables.interactions) == 5
    text = "1 of 4 lines have a conversion without a click; they are left out"
    assert f"{SKELETON}: {text}" in messages


def test_a_last_line_without_line_feed_is_kept_if_it_is_complete(hand_made, tmp_path):
    place = hand_made / SKELETON
    whole = place.read_bytes()
    place.write_bytes(whole[:-1])
    tables, messages = convert(hand_made, tmp_path / "work")
    assert len(tables.interactions) == 6
    assert f"{SKELETON}: the last line has no line feed; it is complete and kept" in messages
    place.write_bytes(whole[:-8])
    with pytest.raises(DataError, match="line 4: the file ends within this line, '4,0,0,00cc"):
        convert(hand_made, tmp_path / "work")


def test_wrong_files_are_named(hand_made, tmp_path):
    place = hand_made / SKELETON
    whole = place.read_bytes()

    def message() -> str:
        with pytest.raises(DataError) as error:
            convert(hand_made, tmp_path / "work")
        assert str(error.value).startswith(str(hand_made))
        return str(error.value)

    place.write_bytes(b"")
    assert message() == f"{place}: the file is empty; copy or download it again"
    place.write_bytes(gzip.compress(whole))
    assert message() == f"{place}: a gzip file; unpack it"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(SKELETON, whole)
    assert message() == f"{place}: a zip file; unpack it"
    place.write_bytes("1,0".encode("utf-16"))
    assert "UTF-16" in message()
    place.write_bytes(b"PAR1....")
    assert "use the configuration ali-ccp instead" in message()
    place.unlink()
    assert message().startswith(f"{place}: no such file")
    (hand_made / "sample_skeleton_train.tar.gz").write_bytes(b"\x1f\x8b")
    assert message().endswith(f"sample_skeleton_train.tar.gz: compressed; unpack it to {SKELETON}")
    place.mkdir()
    assert message() == f"{place}: a folder; expected a file"
    place.rmdir()
    place.write_bytes(b"?\n" * 4)
    with pytest.raises(DataError, match="no impression is left"):
        for name in ("sample_skeleton_test.csv", "common_features_test.csv"):
            (hand_made / name).unlink()
        convert(hand_made, tmp_path / "work", on_error="skip")


def test_half_a_part_is_refused(hand_made, tmp_path):
    (hand_made / "common_features_test.csv").unlink()
    with pytest.raises(
        DataError, match=r"common_features_test\.csv: no such file; each part needs"
    ):
        convert(hand_made, tmp_path / "work")


@pytest.mark.parametrize("kind", ["sample_skeleton", "common_features"])
def test_the_compiled_parser_and_the_slow_one_agree_on_damaged_lines(generated, tmp_path, kind):
    """What one accepts, the other accepts, and both read the same from it."""
    draw = np.random.default_rng(5)
    whole = (generated / f"{kind}_test.csv").read_bytes().split(b"\n")[:-1]
    alphabet = b"\x01\x02\x03\x03,.-+eE0123456789_a\r\n\x00\xff "
    lines = []
    for number in range(6000):
        line = bytearray(whole[number % len(whole)][:400])
        for _ in range(draw.integers(1, 3)):
            place = int(draw.integers(len(line)))
            byte = alphabet[int(draw.integers(len(alphabet)))]
            line[place : place + int(draw.integers(0, 2))] = bytes([byte])
        lines += bytes(line).split(b"\n")
    if kind == "common_features":  # so that some damaged lines are right
        lines = [shortened(line) for line in lines]
    path = tmp_path / "lines"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    layout = Layout.skeleton() if kind == "sample_skeleton" else Layout.common()
    read = read_lines(path, 0)
    parsed = parse(read, layout)
    assert len(read) == len(lines)
    kinds = [find_problem(line, layout).kind for line in lines]
    assert [kind == "other" for kind in kinds] == parsed.right.tolist()
    assert 100 < parsed.right.sum() < len(lines) - 1000 and len(set(kinds)) > 12
    path.write_bytes(b"".join(lines[row] + b"\n" for row in np.flatnonzero(parsed.right)))
    slow = parse_slowly(path)
    places = dict.fromkeys(layout.multiple, 0)
    for row, (head, triples) in zip(np.flatnonzero(parsed.right), slow, strict=True):
        assert parsed.indices[row].decode() == head[-2]
        for field in layout.fields:
            found = [(feature, np.float32(v)) for code, feature, v in triples if code == field.code]
            if field.name in layout.lists:
                start = places[field.name]
                end = start + parsed.counts[field.name][row]
                mine = zip(
                    parsed.features[field.name][start:end],
                    parsed.weights[field.name][start:end],
                    strict=True,
                )
                places[field.name] = end
                assert list(mine) == found
            elif found:
                mine = (parsed.single[field.name][row], parsed.values[field.name][row])
                assert [mine] == found
            else:
                assert parsed.single[field.name][row] == -1


def shortened(line: bytes) -> bytes:
    """Keep a line's first features, with their right number."""
    head, comma, tokens = line.partition(b",")
    parts = tokens.partition(b",")[2].split(b"\x01")[:12]
    return head + comma + str(len(parts)).encode() + b"," + b"\x01".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "1.",
        ".5",
        "-0.0",
        "2.3979",
        "123456789.125",
        "1e-44",
        "3.4028234e38",
        "0.000001234567890123456789",
        "12345678901234567890123",
        "1E+5",
        "9007199254740993",
    ],
)
def test_values_are_rounded_as_python_does(tmp_path, text):
    path = tmp_path / "line"
    path.write_text(f"1,0,0,aa,1,205\x021\x03{text}\n")
    parsed = parse(read_lines(path, 0), Layout.skeleton())
    assert parsed.right.all()
    assert parsed.values["item_id"][0] == np.float32(text)


@pytest.mark.parametrize("size", [1, 2, 7, 50, 1000])
def test_blocks_of_any_size_have_all_lines_once(tmp_path, size):
    lines = [b"a", b"", b"ccc" * 20, b"dd", b"", b"e" * 49, b"f"]
    path = tmp_path / "lines"
    for end in (b"\n", b""):
        path.write_bytes(b"\n".join(lines) + end)
        count = -(-path.stat().st_size // size)
        found = [read_lines(path, number, size) for number in range(count)]
        assert [each.text(row) for each in found for row in range(len(each))] == lines
        last = next(each for each in reversed(found) if len(each))
        assert last.complete == bool(end)
