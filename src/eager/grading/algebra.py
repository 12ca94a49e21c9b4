r"""Whether two expressions are equal: read by Math-Verify's LaTeX reader, compared here. Runs in the worker only.

This is the one place where Math-Verify is corrected (docs/grading.md lists what is wrong with it). Its reader is used
without the search for an answer and without dropping units; of its comparison only that of sets. Numbers are compared
to a relative precision, never to an absolute one, and expressions at several points, to the same precision.
"""

import importlib
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Any, TypeAlias

from eager.grading.values import Expression, Number

Sympy: TypeAlias = Any

_DIGITS = 60
_AGREEING_DIGITS = 40
# Two expressions that agree at each of these points are one, as far as 40 digits can tell.
_POINTS = ((1, 0), (-1, 0), (1, 3), (-1, 5))
# What sympy raises for an expression that it cannot evaluate.
_CANNOT = (ArithmeticError, AttributeError, NotImplementedError, RecursionError, TypeError, ValueError)

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_JUXTAPOSED = re.compile(r"\d\s+\d")  # Math-Verify reads 2 3 as 5
_PRIMES = re.compile(r"[A-Za-z}]\s*'|\^\s*\{?\s*\\prime")  # and f' as f


def load() -> Callable[[Number | Expression, Number | Expression], bool]:
    """Import Math-Verify and return the comparison of two leaves; ImportError without it."""
    math_verify = importlib.import_module("math_verify")
    read = _reader()

    def compare(left: Number | Expression, right: Number | Expression) -> bool:
        a, b = (_rational(side) if isinstance(side, Number) else read(side.text) for side in (left, right))
        if a is None or b is None:
            return False
        half_places = [side.half_place for side in (left, right) if isinstance(side, Number) and side.half_place]
        return _same(a, b, half_places[0] if half_places else 0, math_verify)

    return compare


def _reader() -> Callable[[str], Sympy | None]:
    """From LaTeX to a sympy object; None for what cannot be read whole."""
    latex = importlib.import_module("latex2sympy2_extended")
    conversion = importlib.import_module("latex2sympy2_extended.latex2sympy2").ConversionConfig(lowercase_symbols=False)
    config = latex.NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )

    @lru_cache(maxsize=512)
    def read(text: str) -> Sympy | None:
        if _JUXTAPOSED.search(text) or _PRIMES.search(text):
            return None
        exact = _DECIMAL.sub(lambda match: rf"\frac{{{match[1]}{match[2]}}}{{1{'0' * len(match[2])}}}", text)
        try:
            return latex.latex2sympy(
                latex.normalize_latex(exact, config),
                is_real=True,
                convert_degrees=True,
                normalization_config=None,
                conversion_config=conversion,
            )
        except Exception:  # noqa: BLE001 - what it cannot read it refuses with a bare Exception
            return None

    return read


def _rational(number: Number) -> Sympy:
    import sympy

    return sympy.Rational(number.value.numerator, number.value.denominator)


def _same(left: Sympy, right: Sympy, half_place: Any, math_verify: Any) -> bool:
    import sympy

    if isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase):
        return left.shape == right.shape and all(
            _same(a, b, 0, math_verify) for a, b in zip(left.flat(), right.flat(), strict=True)
        )
    if isinstance(left, sympy.Set) and isinstance(right, sympy.Set):
        return bool(math_verify.verify(left, right, timeout_seconds=None))
    if isinstance(left, sympy.core.relational.Relational) and isinstance(right, sympy.core.relational.Relational):
        return _same_relations(left, right)
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):
        return left == right or _same_expressions(left, right, half_place)
    return False


def _same_expressions(left: Sympy, right: Sympy, half_place: Any) -> bool:
    if half_place and not left.free_symbols | right.free_symbols:
        values = [_evaluate(side, {}) for side in (left, right)]
        return None not in values and abs(values[0] - values[1]) <= half_place
    pairs = [(_evaluate(left, point), _evaluate(right, point)) for point in _points(left, right)]
    if all(None not in pair for pair in pairs):
        return all(_near(a, b) for a, b in pairs)
    return _simplified_away(left, right)


def _same_relations(left: Sympy, right: Sympy) -> bool:
    """2x + 4y = 6 and x + 2y = 3: the difference of the sides is the same but for a factor (positive, if it is < or >)."""
    import sympy

    if left.rel_op in (">", ">="):
        left = left.reversed
    if right.rel_op in (">", ">="):
        right = right.reversed
    if left.rel_op != right.rel_op:
        return False
    a, b = left.lhs - left.rhs, right.lhs - right.rhs
    ratios = [_quotient(_evaluate(a, point), _evaluate(b, point)) for point in _points(a, b)]
    if None in ratios or not all(_near(ratio, ratios[0]) for ratio in ratios):
        return False
    return left.rel_op in ("==", "!=") or bool(sympy.re(ratios[0]) > 0)


def _points(left: Sympy, right: Sympy) -> list[dict[Sympy, Sympy]]:
    """Values for every symbol, by its name: i is the imaginary unit, the others are fractions of no special kind."""
    import sympy

    symbols = left.free_symbols | right.free_symbols
    names = sorted({symbol.name for symbol in symbols} - {"i"})
    points = []
    for sign, shift in _POINTS if names else _POINTS[:1]:
        value = {name: sign**n * sympy.Rational(137 + 64 * (n + shift), 101 + shift) for n, name in enumerate(names, 1)}
        points.append({symbol: value.get(symbol.name, sympy.I) for symbol in symbols})
    return points


def _evaluate(expression: Sympy, point: dict[Sympy, Sympy]) -> Sympy | None:
    """Its value to 60 digits; None where there is none (a function without a definition, an infinity)."""
    try:
        value = expression.evalf(_DIGITS, subs=point)
        if not value.is_number:
            value = expression.subs(point).evalf(_DIGITS)
    except _CANNOT:
        return None
    return value if value.is_number and value.is_finite and not value.has(*_unknown()) else None


@lru_cache(maxsize=1)
def _unknown() -> tuple[Sympy, ...]:
    import sympy

    return (sympy.Integral, sympy.Derivative, sympy.Limit, sympy.Sum, sympy.Product)


def _near(left: Sympy, right: Sympy) -> bool:
    """To 40 digits of the larger one, however small both are."""
    import sympy

    scale = max(abs(left), abs(right))
    return bool(scale == 0 or abs(left - right) <= scale * sympy.Rational(1, 10**_AGREEING_DIGITS))


def _quotient(a: Sympy | None, b: Sympy | None) -> Sympy | None:
    return None if a is None or b is None or b == 0 or a == 0 else a / b


def _simplified_away(left: Sympy, right: Sympy) -> bool:
    import sympy

    try:
        return bool(sympy.simplify(left - right) == 0)
    except _CANNOT:
        return False
