"""Texts as they come: the same as the whole text made at once, and never a part of a stop text or of a character."""

import pytest
from hypothesis import given, strategies as st

from eager.chat.text import TextStream, cut

PIECES = [b"a", b"b", b"ab", b" ", b"\n", "é".encode(), *(bytes([byte]) for byte in "é🌍".encode()), b"\xff"]


def decode(ids):
    return b"".join(PIECES[i] for i in ids).decode("utf-8", errors="replace")


def told(ids, splits, stops):
    """What a stream tells of the ids, fed in portions that end at `splits`."""
    stream, shown = TextStream(stops), []
    for start, end in zip([0, *splits], [*splits, len(ids)], strict=True):
        stream.add(ids[start:end])
        shown.append(stream.take(*map(decode, stream.windows)))
    return [*shown, stream.end(*map(decode, stream.windows))]


IDS = st.lists(st.integers(0, len(PIECES) - 1), max_size=30)
STOPS = st.lists(st.sampled_from(["ab", "b\n", "aba", "é", " é", "🌍"]), max_size=3)


@given(ids=IDS, places=st.lists(st.integers(0, 30), max_size=6), stops=STOPS)
def test_pieces_are_the_whole_text(ids, places, stops):
    """However the tokens come: together they are the text of all tokens, cut where a stop text begins."""
    splits = sorted({min(place, len(ids)) for place in places})
    assert "".join(told(ids, splits, stops)) == cut(decode(ids), stops)[0]


@given(ids=IDS)
def test_a_character_is_told_whole(ids):
    """Its bytes may be tokens of their own: none is told before it is there."""
    valid = decode(ids)
    shown = told(ids, list(range(len(ids))), ())
    if "\ufffd" not in valid:
        assert "\ufffd" not in "".join(shown[:-1])


def test_what_may_become_a_stop_text_waits():
    """And is told once it has not become one."""
    ids = [0, 3, 0, 3, 1]  # "a a b"
    assert told(ids, [1, 2, 3, 4], ["a b"]) == ["", "", "a ", "", "", ""]
    assert told(ids[:3], [1, 2], ["a b"]) == ["", "", "a ", "a"]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [("abc", (), "abc"), ("abcabc", ("c",), "ab"), ("abc", ("c", "b"), "a"), ("", ("a",), "")],
)
def test_a_text_ends_where_the_first_stop_text_begins(text, stops, expected):
    """Whichever is named first."""
    assert cut(text, stops) == (expected, expected != text)
