"""The vote among texts: where answers stand in them, and which of them lead."""

import pytest

from eager.chat.votes import Voter, answers_in, settles


@pytest.mark.parametrize(
    ("texts", "kind", "answers"),
    [
        ([r"so \boxed{4}", "it is 5", None], "math", ["4", None, None]),  # boxes alone where there is one
        (["it is 4", "3 and 5", "none"], "math", ["4", "5", None]),  # else numbers
        (["<think>no</think>Blue  it\nis", "Red"], "math", ["Blue it is", "Red"]),  # else what was said
        ([r"\boxed{B}", "the answer is A"], "choice", ["B", None]),
        (["the answer is A", "what?"], "choice", ["A", None]),
        ([r"\boxed{4}", "4"], "text", [r"\boxed{4}", "4"]),
        (["", None], "math", [None, None]),
    ],
)
def test_answers_are_found_by_the_first_way_that_finds_any(texts, kind, answers):
    """For all texts alike, so that a number in passing does not vote against a box."""
    assert answers_in(texts, kind)[0] == answers


def test_equivalent_answers_are_one():
    """Two ways to write a half outvote a third."""
    voter = Voter()
    vote = voter.vote([r"\boxed{1/3}", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}"], "math")
    voter.close()
    assert (vote.answer, vote.sequence, vote.n_votes, vote.n_voters) == ("0.5", 1, 2, 3)


def test_equal_texts_are_counted_where_nothing_answers():
    """As whole texts, which no mathematics can make equal."""
    voter = Voter()
    vote = voter.vote(["red", "blue", "blue ", "red"], "text")
    assert (vote.answer, vote.n_votes, vote.is_tie) == ("red", 2, True)
    voter.close()


def test_texts_settle_once_they_agree_enough():
    """Three of one answer do, two against one do not; what stands behind a stop text does not count."""
    is_settled = settles(0.9, "math", ["\n"])
    assert is_settled([r"\boxed{1}", r"\boxed{1}", "\\boxed{1}\n\\boxed{2}"])
    assert not is_settled([r"\boxed{1}", r"\boxed{1}", r"\boxed{2}"])
    assert not is_settled([])


def test_a_voter_does_not_remember_for_ever(monkeypatch):
    """A server votes for months."""
    monkeypatch.setattr("eager.chat.votes._MOST_REMEMBERED", 10)
    voter = Voter()
    for i in range(20):
        voter.vote([rf"\boxed{{{i}}}", rf"\boxed{{{i + 1}}}"], "math")
        assert voter._grader.outcomes.total() <= 11
    voter.close()
