r"""What is decided without Math-Verify, and what is left to it."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, strategies as st

from eager.grading import normalise, same_answer
from eager.grading.equivalence import MAX_ANSWER_CHARS
from eager.grading.units import NO_UNIT, Unit, compatible
from eager.grading.values import Measured, Named, parse


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("25", "025"),
        ("25", "25."),
        ("25", "25.0"),
        ("25", "+25"),
        ("25", "$25$"),
        ("25", r"\(25\)"),
        ("25", r"\text{25}"),
        ("25", r"{25}"),
        ("25", " 25 \n"),
        ("336", r"336^\circ"),
        ("336", r"336^{\circ}"),
        ("336", "336°"),
        ("336", "336 degrees"),
        (r"90^\circ", "90"),
        ("1234", "1,234"),
        ("1234567", "1,234,567"),
        ("1234", r"1{,}234"),
        ("10000", r"10,\!000"),
        ("5", r"\$5"),
        ("5", r"5 \text{ cm}"),
        ("5", r"5\text{ cm}^2"),
        ("5", "\x1b[31m5\x1b[0m"),
        ("1/2", r"\frac{1}{2}"),
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac{1}{2}", r"\frac{2}{4}"),
        ("-1/2", r"-\frac{1}{2}"),
        ("-1/2", r"\frac{-1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\text{east}", "East"),
        ("C", r"\text{C}"),
        ("52_8", "52_{8}"),
        ("x", "x"),
        ("1/3", "0.3333333"),
        ("1, 2", "2, 1"),
        ("x=5", "5"),
        ("3000000", r"3 \text{ million}"),
        ("10", r"10\%"),
        ("52_8", "52"),
    ],
)
def test_spellings_of_one_answer_are_equal(gold: str, answer: str) -> None:
    """Zeros, dots, units, commas and typography carry no meaning, in either order."""
    assert same_answer(gold, answer) is True
    assert same_answer(answer, gold) is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("25", "26"),
        ("25", "-25"),
        ("25", "250"),
        ("1/2", "1/3"),
        (r"\frac{1}{2}", "2"),
        ("A", "B"),
        ("x", "X"),
        ("52_8", "52_9"),
        ("(1,234)", "(1234)"),
        ("100, 200", "100200"),
        (r"\text{east}", "seat"),
        ("5", ""),
        ("100,200", "100201"),
    ],
)
def test_different_answers_are_different(gold: str, answer: str) -> None:
    """Certain differences need no algebra, in either order."""
    assert same_answer(gold, answer) is False
    assert same_answer(answer, gold) is False


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"\sqrt{3}", "1.7320508"),
        (r"\sqrt{12}, 1", r"1, 2\sqrt{3}"),
        (r"x=\sqrt{12}", r"2\sqrt{3}"),
        ("xy", "yx"),
        ("1/0", "1"),
        ("9^{9^{9^{9}}}", "9"),
        ("10^{1000000}", "1e1000000"),
        (r"(-\infty,\infty)", r"\mathbb{R}"),
    ],
)
def test_what_takes_algebra_is_left_open(gold: str, answer: str) -> None:
    """None says that Math-Verify must look; a shortcut never guesses, and writes out no tower."""
    assert same_answer(gold, answer) is None


DRESSES = (
    "{}", "${}$", r"\({}\)", r"\text{{{}}}", r"\mathbf{{{}}}", r"\textcolor{{red}}{{{}}}", "**{}**", "`{}`", "{}.",
    "Answer: {}", "The answer is {}.", "x = {}", "{} = x", r"\boxed{{{}}}", "{} dollars", "{} USD", r"{}\text{{ cm}}",
    "{}<|im_end|>", r"{{\Large {}}}", r"\left({}\right)", "{}.0", "{}/1", r"{}^\circ", r"{}\%",
)  # fmt: skip


@given(
    st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12), st.sampled_from(DRESSES), st.sampled_from(DRESSES)
)
def test_no_dress_makes_one_integer_of_two(a: int, b: int, gold: str, answer: str) -> None:
    """An integer is equal to itself in any dress, and to no other one; per cent is the one with two readings."""
    left, right = gold.format(a), answer.format(b)
    if compatible(parse_unit(left), parse_unit(right)):
        assert same_answer(left, answer.format(a)) is True
    if a != b and 100 * a != b and a != 100 * b:
        assert same_answer(left, right) is False


def parse_unit(answer: str) -> Unit:
    value = parse(answer)
    while isinstance(value, Named):
        value = value.value
    return value.unit if isinstance(value, Measured) else NO_UNIT


@given(st.decimals(-(10**9), 10**9, places=9), st.decimals(0, 1, places=9))
def test_two_decimals_are_equal_only_if_they_are(a: Decimal, difference: Decimal) -> None:
    """However small the difference: a decimal against a decimal is exact."""
    assert same_answer(f"{a:f}", f"{a + difference:f}") is (difference == 0)


@given(st.fractions(-1000, 1000, max_denominator=10**6), st.integers(6, 20))
def test_a_rounded_fraction_is_equal_and_its_neighbour_is_not(value: Fraction, places: int) -> None:
    """Rounded to six significant digits or more it is the fraction; one unit of the last place beside it is not."""
    scaled = round(value * 10**places)
    assume(abs(scaled) >= 10**5 and 10**40 % value.denominator != 0)
    assert same_answer(f"{value.numerator}/{value.denominator}", decimal(scaled, places)) is True
    assert same_answer(f"{value.numerator}/{value.denominator}", decimal(scaled + 1, places)) is False


def decimal(scaled: int, places: int) -> str:
    digits = str(abs(scaled)).rjust(places + 1, "0")
    return f"{'-' if scaled < 0 else ''}{digits[:-places]}.{digits[-places:]}"


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=5), st.lists(st.integers(-3, 3), min_size=2, max_size=5))
def test_lists_sets_and_tuples_keep_what_they_say(a: list[int], b: list[int]) -> None:
    """A list says which values and how often, a set which, a tuple which and where."""
    left, right = ", ".join(map(str, a)), ", ".join(map(str, b))
    assert same_answer(left, right) is (sorted(a) == sorted(b))
    assert same_answer(rf"\{{{left}\}}", rf"\{{{right}\}}") is (set(a) == set(b))
    assert same_answer(f"({left})", f"({right})") is (a == b)
    assert same_answer(rf"\{{{left}\}}", f"({right})") is False


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_always_decided(a: int, b: int) -> None:
    """Two integers are equal exactly if they are, with thousands commas or without."""
    assert same_answer(f"{a:,}", str(b)) is (a == b)
    assert same_answer(f"{a:,}", str(a)) is True


@given(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 9))
def test_fractions_are_compared_in_lowest_terms(top: int, bottom: int, factor: int) -> None:
    """a/b equals ka/kb, in plain and LaTeX form."""
    assert same_answer(f"{top}/{bottom}", rf"\frac{{{factor * top}}}{{{factor * bottom}}}") is True


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_can_be_compared_in_either_order(a: str, b: str) -> None:
    """No text raises, the verdict is symmetric, and every text equals itself."""
    assert same_answer(a, b) == same_answer(b, a)
    assert same_answer(a, a) is True


@given(st.text(max_size=60))
def test_a_normalised_answer_is_the_same_answer(answer: str) -> None:
    """Normalising never makes another answer of one: it still equals what it came from, or is left open."""
    assert same_answer(answer, normalise(answer)) is not False


def test_a_runaway_answer_is_only_a_string() -> None:
    """Beyond the limit, equal strings are equal and everything else is different; nothing is left to a worker."""
    runaway = "1" * (MAX_ANSWER_CHARS + 1)
    assert same_answer(runaway, runaway) is True
    assert same_answer("1", runaway) is False
    assert normalise(runaway) == runaway
