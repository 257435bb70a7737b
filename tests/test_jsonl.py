"""Rows leave as they came, whatever they hold, and files appear whole or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrk import jsonl
from rrk.errors import RowError, UsageError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_any_row_survives_a_round_trip_with_its_key_order(row):
    line = jsonl.dumps(row)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    again = jsonl.loads(line)
    assert again == row
    assert list(again) == list(row)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**40])
def test_integers_beyond_64_bits_stay_integers(number):
    assert jsonl.loads(jsonl.dumps({"n": number})) == {"n": number}
    assert jsonl.loads(f'{{"n": {number}}}'.encode()) == {"n": number}
    assert jsonl.loads(f'{{"a": [{{"n": [1.5, {number}]}}]}}'.encode()) == {"a": [{"n": [1.5, number]}]}
    assert jsonl.loads(str(number).encode()) == number


def test_lone_surrogates_and_nan_of_other_tools_are_read_and_written():
    row = jsonl.loads(b'{"text": "\\ud800", "score": NaN}')
    assert row["text"] == "\ud800"
    assert row["score"] != row["score"]
    assert json.loads(jsonl.dumps({"text": "\ud800"})) == {"text": "\ud800"}


def test_a_row_knows_where_it_stands_and_is_still_a_dict(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n')
    rows = list(jsonl.read([str(path)]))
    assert rows == [{"a": 1}, {"a": 2}]
    assert [row.where for row in rows] == [(str(path), 1), (str(path), 3)]
    assert jsonl.dumps(rows[0]) == b'{"a":1}\n'


def test_a_last_line_without_newline_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert len(list(jsonl.read([str(path)]))) == 2


def test_deeply_nested_json_is_a_bad_row_and_no_crash(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(RowError):
        list(jsonl.read([str(path)]))


def test_the_same_rows_give_the_same_compressed_bytes(tmp_path):
    rows = [{"a": n} for n in range(100)]
    for suffix in ("gz", "zst"):
        one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
        jsonl.write(one, rows)
        jsonl.write(two, rows)
        assert one.read_bytes() == two.read_bytes()
        assert list(jsonl.read([str(one)])) == rows


def test_a_folder_is_no_row_file(tmp_path):
    with pytest.raises(UsageError, match="folder"):
        list(jsonl.read([str(tmp_path)]))
