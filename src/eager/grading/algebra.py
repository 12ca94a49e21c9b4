r"""Whether two expressions are equal: read by Math-Verify's LaTeX reader, compared here. Imported in the worker only.

This is the one place where Math-Verify is corrected (docs/grading.md lists what is wrong with it). Its reader is used
without the search for an answer and without the dropping of units; of its comparison only that of sets. Numbers are
compared to a relative precision, never to an absolute one; expressions at several points, to the same precision.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import math_verify
import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.relational import Relational

from eager.grading.values import Expression, Number

Sympy: TypeAlias = Any  # sympy has no types to speak of
Point: TypeAlias = dict[Sympy, Sympy]

# What differs shows at the first precision, nearly always; what agrees there is looked at more closely.
_PRECISIONS = (60, 1000)
# (sign, shift) of the values that the symbols take: what agrees at each of these points is one expression.
_POINTS = ((1, 0), (-1, 0), (1, 3), (-1, 5))
_UNEVALUATED = (sympy.Integral, sympy.Derivative, sympy.Limit, sympy.Sum, sympy.Product)
# What sympy raises for an expression that it cannot evaluate.
_CANNOT = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_MISREAD = re.compile(r"(?<![_\d])\d+\s+\d|[A-Za-z}]\s*'|\^\s*\{?\s*\\prime")  # 2 3 would be 5, and f' would be f

_CLEANING = NormalizationConfig(units=False, malformed_operators=True, nits=False, boxed="none")
_READING = ConversionConfig(lowercase_symbols=False)


def same_expression(left: Number | Expression, right: Number | Expression) -> bool:
    """Whether two leaves are equal; what cannot be read, or compared, is not. May take for ever: see `math_grader`."""
    a, b = _sympy(left), _sympy(right)
    if a is None or b is None:
        return False
    half_places = [side.half_place for side in (left, right) if isinstance(side, Number) and side.half_place]
    return _same(a, b, half_places[0] if half_places else None)


def _sympy(leaf: Number | Expression) -> Sympy | None:
    if isinstance(leaf, Number):
        return sympy.Rational(leaf.value.numerator, leaf.value.denominator)
    return _read(leaf.text)


@lru_cache(maxsize=512)
def _read(text: str) -> Sympy | None:
    """From LaTeX to a sympy object; None for what is not understood as a whole. Decimals are read as fractions."""
    if _MISREAD.search(text):
        return None
    exact = _DECIMAL.sub(lambda match: rf"\frac{{{match[1]}{match[2]}}}{{1{'0' * len(match[2])}}}", text)
    try:
        plain = normalize_latex(exact, _CLEANING)
        return latex2sympy(
            plain, is_real=True, convert_degrees=True, normalization_config=None, conversion_config=_READING
        )
    except Exception:  # noqa: BLE001 - the reader refuses what it cannot read with a bare Exception
        return None


def _same(left: Sympy, right: Sympy, half_place: Fraction | None) -> bool:
    if isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase):
        pairs = zip(left.flat(), right.flat(), strict=False)
        return bool(left.shape == right.shape) and all(_same(a, b, None) for a, b in pairs)
    if isinstance(left, sympy.Set) and isinstance(right, sympy.Set):
        return bool(math_verify.verify(left, right, timeout_seconds=None))
    if isinstance(left, Relational) and isinstance(right, Relational):
        return _same_relations(left, right)
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):
        return bool(left == right) or _same_values(left, right, half_place)
    return False


def _same_values(left: Sympy, right: Sympy, half_place: Fraction | None) -> bool:
    points = _points(left, right)
    for digits in _PRECISIONS:
        values: list[Sympy] = [_evaluate(side, point, digits) for point in points for side in (left, right)]
        if None in values:
            return _cancel(left, right)
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if half_place and len(pairs) == 1:
            return bool(abs(pairs[0][0] - pairs[0][1]) <= sympy.Rational(half_place))
        if all(min(abs(a), abs(b)) < _tolerance(digits) for a, b in pairs):  # of a zero, only the noise is left
            return _cancel(left, right)
        if not all(_near(a, b, digits) for a, b in pairs):
            return False
    # 2004! and 2004! + 1 differ in their 5,749th digit only.
    exact = bool((left - right).is_Rational or (left.is_rational and right.is_rational))
    return _cancel(left, right) if exact else True


def _same_relations(left: Sympy, right: Sympy) -> bool:
    """2x + 4y = 6 and x + 2y = 3: the sides differ by the same but for a factor, a positive one if it is < or <=."""
    if not all(isinstance(side, sympy.Expr) for side in (*left.args, *right.args)):
        return False
    left, right = (side.reversed if side.rel_op in (">", ">=") else side for side in (left, right))
    a, b = left.lhs - left.rhs, right.lhs - right.rhs
    digits = _PRECISIONS[-1]
    ratios = [_quotient(_evaluate(a, point, digits), _evaluate(b, point, digits)) for point in _points(a, b)]
    first = ratios[0]
    if left.rel_op != right.rel_op or first is None:
        return False
    constant = all(ratio is not None and _near(ratio, first, digits) for ratio in ratios)
    return constant and (left.rel_op in ("==", "!=") or bool(sympy.re(first) > 0))


def _points(left: Sympy, right: Sympy) -> list[Point]:
    """Values for every symbol, by its name: i is the imaginary unit, the others are fractions of no special kind."""
    symbols = left.free_symbols | right.free_symbols
    names = sorted({symbol.name for symbol in symbols} - {"i"})
    points = []
    for sign, shift in _POINTS if names else _POINTS[:1]:
        value = {name: sign**n * sympy.Rational(137 + 64 * (n + shift), 101 + shift) for n, name in enumerate(names, 1)}
        points.append({symbol: value.get(symbol.name, sympy.I) for symbol in symbols})
    return points


def _evaluate(expression: Sympy, point: Point, digits: int) -> Sympy | None:
    """Its value to so many digits; None where there is none (a function without a definition, an infinity)."""
    try:
        value = expression.subs(point).evalf(digits)
        known = value.is_number and value.is_finite and not value.has(*_UNEVALUATED)
    except _CANNOT:
        return None
    return value if known else None


def _near(left: Sympy, right: Sympy, digits: int) -> bool:
    """To two thirds of the digits of the larger one, however small both are."""
    return bool(abs(left - right) <= max(abs(left), abs(right)) * _tolerance(digits))


def _tolerance(digits: int) -> Sympy:
    return sympy.Rational(1, 10 ** (2 * digits // 3))


def _quotient(a: Sympy | None, b: Sympy | None) -> Sympy | None:
    return None if a is None or b is None or a == 0 or b == 0 else a / b


def _cancel(left: Sympy, right: Sympy) -> bool:
    try:
        return bool(sympy.simplify(left - right) == 0)
    except _CANNOT:
        return False
