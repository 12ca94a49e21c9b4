r"""Are these one answer? docs/grading.md says in words what counts as equal.

Both are read into values, and values are compared: numbers exactly, lists item by item. Only where two expressions meet
does it take algebra; whoever has it at hand passes it in (`algebra`), for the others the verdict is open.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from eager.grading.undress import undress
from eager.grading.units import NO_UNIT, compatible
from eager.grading.values import Expression, Group, Measured, Named, Number, Value, Words, parse

Verdict: TypeAlias = bool | None  # None: it takes algebra
Algebra: TypeAlias = Callable[[Number | Expression, Number | Expression], bool]

# Beyond this an "answer" is a runaway text: it is compared as a string and never sent to a worker.
MAX_ANSWER_CHARS = 2000
# x, AB, f(x), \alpha name something; a word is a label, and says nothing.
_LABEL = re.compile(r"\\text\{.*\}|[A-Za-z]{5,}|")


def same_answer(gold: str, answer: str, algebra: Algebra | None = None) -> Verdict:
    """True or False where that is certain; None where it takes algebra to tell, and none is given."""
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > MAX_ANSWER_CHARS:
        return False
    left, right = _parsed(gold), _parsed(answer)
    if not left.text or not right.text:
        return left.text == right.text
    return _same(left, right, algebra)


def normalise(answer: str) -> str:
    """`answer` without its dress; a number in one spelling, without a unit that may be left out.

    Over MAX_ANSWER_CHARS it comes back as it is.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return answer
    value = _parsed(answer)
    if isinstance(value, Measured) and not value.unit.qualifiers:
        value = value.value
    if isinstance(value, Number):
        return str(value.value)
    return _squeeze(value.text if isinstance(value, Words) else undress(answer))


_parsed = lru_cache(maxsize=1024)(parse)  # one target meets every answer to its problem


def _same(left: Value, right: Value, algebra: Algebra | None) -> Verdict:
    if _squeeze(left.text) == _squeeze(right.text):
        return True
    if isinstance(left, Named) or isinstance(right, Named):
        return _same_named(left, right, algebra)
    if isinstance(left, Measured) or isinstance(right, Measured):
        return _same_measured(left, right, algebra)
    if isinstance(left, Group) or isinstance(right, Group):
        return _same_groups(left, right, algebra)
    if isinstance(left, Words) or isinstance(right, Words):
        return _same_words(left, right)
    return _same_leaves(left, right, algebra)


def _same_named(left: Value, right: Value, algebra: Algebra | None) -> Verdict:
    """A name may be left out; two must agree, but for labels. y = 2x and x = y/2 may be one equation."""
    if isinstance(left, Named) and isinstance(right, Named):
        if left.name == right.name or _LABEL.fullmatch(left.name) or _LABEL.fullmatch(right.name):
            return _same(left.value, right.value, algebra)
        return _ask(algebra, Expression(left.text), Expression(right.text))
    if isinstance(left, Named):
        return _against_equation(left, right, algebra)
    assert isinstance(right, Named)
    return _against_equation(right, left, algebra)


def _against_equation(named: Named, other: Value, algebra: Algebra | None) -> Verdict:
    if isinstance(other, Expression) and "=" in other.text:
        return _ask(algebra, Expression(named.text), other)
    return _same(named.value, other, algebra)


def _same_measured(left: Value, right: Value, algebra: Algebra | None) -> Verdict:
    a = left if isinstance(left, Measured) else Measured(left.text, left, NO_UNIT)
    b = right if isinstance(right, Measured) else Measured(right.text, right, NO_UNIT)
    if not compatible(a.unit, b.unit):
        return False
    if "%" in (a.unit.name, b.unit.name) and a.unit != b.unit:
        return _same_share(a, b, algebra)
    return _same(a.value, b.value, algebra)


def _same_share(a: Measured, b: Measured, algebra: Algebra | None) -> Verdict:
    """10 % is 0.1; and where the question asks for per cent, 10. Not so 0.1 %: without the sign it is another share."""
    small = any(isinstance(side.value, Number) and abs(side.value.value) <= 1 for side in (a, b) if side.unit.name)
    as_written = False if small else _same(a.value, b.value, algebra)
    return _any([as_written, _same(_share(a), _share(b), algebra)])


def _share(measured: Measured) -> Value:
    """10 % as 1/10."""
    value = measured.value
    if measured.unit.name != "%" or not isinstance(value, Number):
        return value
    return Number(value.text + "/100", value.value / 100, value.half_place and value.half_place / 100)


def _same_words(left: Value, right: Value) -> bool:
    """Letter by letter. In \\text the case does not matter; outside, letters are names, and there it does."""
    if not all(isinstance(side, Words) or re.fullmatch(r"[^\W\d_]+", side.text) for side in (left, right)):
        return False
    a, b = _squeeze(left.text), _squeeze(right.text)
    said = any(isinstance(side, Words) and side.said for side in (left, right))
    return a.casefold() == b.casefold() if said else a == b


def _same_leaves(left: Value, right: Value, algebra: Algebra | None) -> Verdict:
    assert isinstance(left, Number | Expression)
    assert isinstance(right, Number | Expression)
    if isinstance(left, Number) and isinstance(right, Number):
        return same_numbers(left, right)
    if all(isinstance(side, Number) or re.fullmatch(r"[A-Za-z]", side.text) for side in (left, right)):
        return False  # two letters, or a letter and a number
    return _ask(algebra, left, right)


def same_numbers(left: Number, right: Number) -> bool:
    """Exactly; but a decimal is also the fraction that it is when rounded to the digits that are written."""
    if left.value == right.value:
        return True
    rounded = [side for side in (left, right) if side.half_place is not None]
    if len(rounded) != 1:
        return False
    exact = right if rounded[0] is left else left
    return not _ends(exact.value) and abs(left.value - right.value) <= (rounded[0].half_place or 0)


def _ends(value: Fraction) -> bool:
    """Whether the value has a finite decimal: then a decimal has no reason to be a rounded form of it."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom == 1


def _same_groups(left: Value, right: Value, algebra: Algebra | None) -> Verdict:
    if not (isinstance(left, Group) and isinstance(right, Group)):
        other = right if isinstance(left, Group) else left
        # An expression may name a set: \mathbb{R}, A \setminus B.
        return _ask(algebra, left, right) if isinstance(other, Expression) and "\\" in other.text else False
    kinds = {left.brackets, right.brackets}
    if "u" in kinds:
        matched = kinds == {"u"} and _all_match(left.items, right.items, algebra)
        return matched or _ask(algebra, left, right)
    if kinds == {"{}"}:
        return _same_sets(left.items, right.items, algebra)
    if kinds <= {"", "{}"}:
        return _all_match(left.items, right.items, algebra)
    if "{}" in kinds or len(left.items) != len(right.items):
        return False
    pair = len(left.items) == 2
    if pair and len(kinds - {""}) + ("" in kinds and "()" not in kinds) > 1:
        return False  # [1, 2] is an interval, (1, 2) an open one or a point; 1, 2 can only be a point
    return _all(_same(a, b, algebra) for a, b in zip(left.items, right.items, strict=True))


def _same_sets(left: tuple[Value, ...], right: tuple[Value, ...], algebra: Algebra | None) -> Verdict:
    """Each element of one is in the other; how often it is listed does not matter."""
    rows = [[_same(a, b, algebra) for b in right] for a in left]
    columns = zip(*rows, strict=True)
    return _all(_any(line) for line in [*rows, *columns])


def _all_match(left: tuple[Value, ...], right: tuple[Value, ...], algebra: Algebra | None) -> Verdict:
    """Whether the items pair off, in any order. Each takes the first of its equals that is free."""
    if len(left) != len(right):
        return False
    free, unsure = list(right), []
    for item in left:
        match = next((other for other in free if _same(item, other, None)), None)
        if match is None:
            unsure.append(item)
        else:
            free.remove(match)
    return _pair_off(unsure, free, algebra)


def _pair_off(left: list[Value], right: list[Value], algebra: Algebra | None) -> Verdict:
    free, is_open = list(right), False
    for item in left:
        verdicts = [(_same(item, other, algebra), other) for other in free]
        match = next((other for verdict, other in verdicts if verdict), None)
        if match is not None:
            free.remove(match)
        elif any(verdict is None for verdict, _ in verdicts):
            is_open = True
        else:
            return False
    return None if is_open else True


def _ask(algebra: Algebra | None, left: Value, right: Value) -> Verdict:
    if algebra is None:
        return None
    return algebra(*(side if isinstance(side, Number) else Expression(side.text) for side in (left, right)))


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    known = list(verdicts)
    return True if True in known else None if None in known else False


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    known = list(verdicts)
    return False if False in known else None if None in known else True


def _squeeze(text: str) -> str:
    """Without the spaces that part neither two words nor a command from what follows it."""
    return re.sub(r"\s*([^\w\s\\]|(?<![A-Za-z])(?=\\))\s*", r"\1", re.sub(r"\s+", " ", text).strip())
