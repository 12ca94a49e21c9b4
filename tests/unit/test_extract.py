r"""Answers out of texts: boxes, letters, last lines."""

import time

import pytest
from hypothesis import given, strategies as st

from eager.grading import choice_letter, extract_answer, last_boxed

BALANCED = st.recursive(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=4),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: "\\frac{" + "}{".join(parts) + "}"),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}", r"\begin{pmatrix}1\\{2}\end{pmatrix}"),
        (r"\\boxed{9}", "9"),
        (r"\boxed{\boxed{5}}", "{5}"),
        (r"\boxed{4} and then \boxed{\frac{1}{2", "4"),
        (r"\boxed{ never closed, but \boxed{6} is", "6"),
        (r"a { stray brace, \boxed{8}", "8"),
        (r"a stray } brace, \boxed{8}", "8"),
        (r"\boxed 5", "5"),
        (r"\boxed{3} or rather $\boxed 5$", "5"),
        (r"\boxed -12", "-12"),
        (r"\boxed{3}, put within \boxed{}.", "3"),
        (r"\boxed{}", None),
        (r"the \boxed form", None),
        (r"\boxedanswer{5}", None),
        (r"\boxed{5", None),
        ("no box: 5", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_with_something_in_it(text: str, answer: str | None) -> None:
    """The last box that is closed and holds something, by whatever name and spelling; None without one."""
    assert last_boxed(text) == answer


@given(BALANCED, st.text(max_size=30).filter(lambda text: "\\" not in text and "}" not in text))
def test_a_box_holds_what_was_put_in(inside: str, before: str) -> None:
    """Whatever balanced LaTeX is boxed comes out as it went in, whatever stood before."""
    assert last_boxed(before + "\\boxed{" + inside + "}") == inside


@given(st.text(st.sampled_from("\\boxedfb{} 1A$\n#"), max_size=200))
def test_no_text_breaks_extraction(text: str) -> None:
    """Braces and box commands in any disorder give a string or None, for every kind."""
    for kind in ("math", "choice", "code"):
        for fallback in ("none", "hashes", "last_number"):
            answer = extract_answer(text, kind, fallback)  # type: ignore[arg-type]
            assert answer is None or answer.strip()


def test_what_is_boxed_after_thinking_wins() -> None:
    """A box in the thinking section, later rejected, does not count where the answer has one."""
    assert extract_answer(r"<think>\boxed{1}</think> It is \boxed{2}.", "math") == "2"


def test_a_box_in_the_thinking_section_counts_if_it_is_the_only_one() -> None:
    """With nothing boxed after </think>, the last box before it is the answer."""
    assert extract_answer(r"<think>\boxed{1}</think> It is one.", "math") == "1"


def test_gpt_oss_final_channel_ends_thinking() -> None:
    """The start of the final channel ends the thinking section as </think> does."""
    text = r"<|channel|>analysis<|message|>\boxed{A} \boxed{B}<|end|><|channel|>final<|message|>\boxed{C}"
    assert extract_answer(text, "choice") == "C"


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{C}",
        r"\boxed{\text{C}}",
        r"\boxed{\text{(C)}}",
        r"\boxed{\textbf{(C)}}",
        r"\boxed{(C)}",
        r"\boxed{C) 42 J}",
        r"\boxed{C. 42 J}",
        r"\boxed{\mathrm{C}}",
        r"\boxed{\text{Option C}}",
        r"\boxed C",
        "Answer: C",
        "**Answer:** C",
        "**Answer: C**",
        "Final answer: (C)",
        "The answer is (C).",
        "the correct answer is **C**",
        "the correct option is C",
        "so the answer must be C, not B",
        r"The answer is $\boxed{C}$",
        "The answer is: C",
        "Answer: option C",
        "Let me think.\nC",
        "Let me think.\n(C)",
        "Let me think.\n**C**",
        "Answer: c",
        "The answer is (c).",
        "<answer>C</answer>",
        "<answer> (c) </answer>",
        "Option C is correct.",
        "option (C) is the right answer",
        "A, B and D are wrong so C",
        "A, B and D are wrong, so C.",
        "A and B are out, which leaves C.",
        r"The answer is \mathbf{C}",
        r"The answer is \textsf{C}",
        r"\boxed{\textcolor{red}{C}}",
        r"\boxed{c}",
        r"\boxed{C}. Answer: D",
        r"\boxed{A = 5}. Answer: C",
        r"\boxed{A_1}. Answer: C",
        "The answer is A. No, wait: the answer is C.",
        r"The answer is A? I box \boxed{C}",
        r"\boxed{x^2} but the answer is C",
    ],
)
def test_a_choice_is_found_as_models_write_it(text: str) -> None:
    """Boxed, said or alone on its line: the letter C."""
    assert extract_answer(text, "choice") == "C"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is Carbon.",
        "The answer is a matter of taste.",
        "The answer is Albert's.",
        r"\boxed{Carbon}",
        r"\boxed{42}",
        "The answer is E.",
        "Choices: A, B, C and D.",
        "I cannot answer. Could be anything",
        "Option A is not correct.",
        "so A is wrong",
        r"\boxed{A = 5}",
        r"\boxed{C_2H_6}",
        r"I was told to box it, as in \boxed{A}.",
    ],
)
def test_a_text_without_a_choice_has_none(text: str) -> None:
    """A word that begins with A to D, or the list of the choices, is no choice."""
    assert extract_answer(text, "choice") is None


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        (r"\boxed{A and C}", "A, C"),
        (r"\boxed{C + A}", "A, C"),
        (r"\boxed{\text{A or C}}", "A, C"),
        (r"\boxed{AC}", "A, C"),
        ("The answer is A and C.", "A, C"),
        ("The answer is A + C", "A, C"),
        ("Answer: A or C", "A, C"),
        ("both A and C are correct", "A, C"),
    ],
)
def test_a_hedge_is_all_its_letters(text: str, letters: str) -> None:
    """Whoever names two choices is credited with neither, and with both where both are asked for."""
    assert extract_answer(text, "choice") == letters


@pytest.mark.parametrize("text", ["Answer: C", "C", "<answer>C</answer>", r"\boxed{A = 5}. Answer: C"])
def test_the_strict_reading_takes_boxes_only(text: str) -> None:
    """What is said outside a box is no answer there; what is boxed is one in both readings."""
    assert extract_answer(text, "choice", strict=True) is None
    assert extract_answer(text + r" \boxed{B}", "choice", strict=True) == "B"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("(b)", "B"),
        (" (B) ", "B"),
        ("D.", "D"),
        ("AC", "A, C"),
        ("DAD", None),
        ("A - B", None),
        ("e", None),
    ],
)
def test_a_choice_letter_is_what_a_choice_may_look_like(answer: str, letter: str | None) -> None:
    """A to D, dressed or not, in either case; several for a question with several answers; else none."""
    assert choice_letter(answer) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48 + 24 = 72\n#### 72", "72"),
        ("#### 1\nno\n#### 1,234", "1,234"),
        (r"\boxed{5}" + "\n#### 6", "5"),
        ("72", None),
        ("#### 72 clips altogether in April and May", "72"),
        ("#### $72 per week", r"\$72"),
        ("#### **72**", "**72**"),
        ("#### 72<|im_end|>", "72"),
        ("#### 72\n\nQuestion: And now?\n#### 5", "72"),
        ("#### 72</s>\n#### 5", "72"),
        ("#### 72 or 73", "72 or 73"),
        ("#### 72 million", "72 million"),
        ("Question: what is asked?\n#### 72", "72"),
    ],
)
def test_hashes_are_gsm8ks_fallback(text: str, answer: str | None) -> None:
    """A "#### 72" line counts where nothing is boxed, and only where it is asked for."""
    assert extract_answer(text, "math", "hashes") == answer
    assert extract_answer(text, "math") == last_boxed(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7", "7"),
        ("7 apples cost 1,250.50 dollars.", "1250.50"),
        ("20-3 = 17.", "17"),
        ("It is -5 degrees", "-5"),
        ("20-3", "3"),
        (r"12 eggs, so \boxed{9}", "9"),
        ("no number, not even in B2", None),
    ],
)
def test_the_last_number_is_the_demos_fallback(text: str, answer: str | None) -> None:
    """The last number of the text counts where nothing is boxed."""
    assert extract_answer(text, "math", "last_number") == answer


def test_code_is_never_extracted() -> None:
    """Code is graded by running the text; it has no answer string."""
    assert extract_answer(r"```python\nreturn 1\n``` \boxed{1}", "code") is None


HOSTILE = {
    "open boxes": "\\boxed{" * 15_000,
    "nested boxes": "\\boxed{" * 15_000 + "1" + "}" * 15_000,
    "open braces": "{" * 100_000,
    "closed braces": "}" * 100_000,
    "bare boxes": "\\boxed" * 17_000,
    "bare boxes with a letter": "\\boxed x" * 13_000,
    "answer and spaces": "answer" + " " * 100_000,
    "many answers and spaces": "answer is      " * 7_000,
    "brackets after answer": "answer:" + "(" * 100_000,
    "digits": "1" * 100_000,
    "thousands": "1,111" * 20_000,
    "dashes": "-" * 100_000,
    "hashes": "#" * 100_000,
    "null bytes": "\x00" * 100_000,
    "lone surrogates": "\ud800" * 100_000,
    "backslashes": "\\" * 100_000,
    "blank lines": "\n" * 100_000,
    "spaces": " " * 100_000,
    "ends of thinking": "</think>" * 12_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_100_000_hostile_characters_take_no_time(text: str) -> None:
    """Every kind and fallback together end within two seconds: nothing backtracks."""
    start = time.perf_counter()
    for fallback in ("none", "hashes", "last_number"):
        extract_answer(text, "math", fallback)  # type: ignore[arg-type]
    extract_answer(text, "choice")
    assert time.perf_counter() - start < 2
