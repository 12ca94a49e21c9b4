r"""No answer costs the parent more than a moment: it is untrusted text, and nobody holds a clock over this process."""

import time

import pytest

from eager.grading import choice_letter, normalise, same_answer
from eager.grading.equivalence import MAX_ANSWER_CHARS

PIECES = (
    "1", "1 ", "1,", "1.", "1/", "1 a", "1 a ", " ", "a", "a ", "a, ", "(", ")", "{", "}", "\\{", "[", "\\", "\\\\",
    "\\text{", "\\text{a}", "\\text{a ", "1\\text{a}", "\\frac", "\\frac{1}", "\\frac{", "\\sqrt", "\\sqrt(", "^(",
    "^{", "=", "x=", "<", "x<", "\\le ", "\\cup ", "\\pm ", "and ", " or ", "\\text{or}", "$", "**", "* ", "`",
    "answer", "answer is ", "Answer: ", "#", "%", "\\%", "°", "^\\circ", "_1", "\\pmod", "mod ", "€", "USD",
    "5 cm ", "million ", "\\color{red}", "\\textcolor{r}{", "½", "²", "٣", "\u2009", "<|a", "<|a|>", "'", "\"", "!",
    "-", "- ", "\\in ", ":", "1:", ";", "\\left.", "\\mathbf{", "e9", "1e", "(1,2),", "{1,2},", "0.(3)",
    "\\overline{3}", "\x1b[", "\ud800",
)  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_no_repetition_takes_longer_than_a_moment(piece: str) -> None:
    """Any piece of syntax, repeated to the limit, alone or after a number, is compared within a second."""
    for start in ("", "5", "5 "):
        for end in ("", "5}"):
            answer = (start + piece * MAX_ANSWER_CHARS)[: MAX_ANSWER_CHARS - 1] + end
            begin = time.process_time()
            same_answer("5", answer)
            same_answer(answer, answer + "" if len(answer) > 1 else "5")
            normalise(answer)
            choice_letter(answer)
            assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    "answer",
    [
        "10^{10^{10}}",
        "1e999999999",
        "1e-999999999",
        "9^{9^{9^{9}}}",
        "10^{99999}",
        "1" * 1999,
        "1/" + "9" * 1900,
        "2004!!!",
    ],
)
def test_no_number_is_written_out(answer: str) -> None:
    """A huge exponent stays text in this process: open, or different, at once."""
    begin = time.process_time()
    assert same_answer("5", answer) is not True
    assert same_answer(answer, answer + " ") is True
    assert time.process_time() - begin < 0.2
