r"""What an answer says, as a value: an exact number, words, a list, a set, a tuple, an interval; else an expression.

`parse` is cheap and safe for any text: no number is written out that its text does not hold.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from eager.grading.undress import strip_braces, text_inside, undress
from eager.grading.units import NO_UNIT, Unit, split_unit

# Beyond this a run of digits is not turned into a number, nor a power of ten written out.
MAX_NUMBER_CHARS = 400
_MAX_DEPTH = 5
_MAX_ITEMS = 60

# A decimal with fewer significant digits is never taken for a rounded value.
_DIGITS_OF_A_ROUNDED_VALUE = 6


@dataclass(frozen=True)
class Number:
    """`half_place`: half of the last decimal place, where enough digits are written to take it for a rounded value."""

    text: str
    value: Fraction
    half_place: Fraction | None = None


@dataclass(frozen=True)
class Words:
    """`said`: they stood in \\text{...}; otherwise they are letters that are no product, as AB."""

    text: str
    said: bool


@dataclass(frozen=True)
class Expression:
    """What takes algebra to compare."""

    text: str


@dataclass(frozen=True)
class Group:
    """`brackets`: "" of a bare list, "{}" of a set, "()", "[]", "(]", "[)" of tuples and intervals, "u" of a union."""

    text: str
    brackets: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Named:
    """x = 5, x > 3 (an interval): a value with the name it is given."""

    text: str
    name: str
    value: "Value"


@dataclass(frozen=True)
class Measured:
    """A value with its unit."""

    text: str
    value: "Value"
    unit: Unit


Value: TypeAlias = Number | Words | Expression | Group | Named | Measured

_INTEGER = r"(?:\d{1,3}(?:[, ']\d{3})+(?!\d)|\d+)"
_DECIMAL = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<whole>{_INTEGER})?(?:\.(?P<part>\d*)(?:\\overline\s*\{{(?P<over>\d+)\}}|\((?P<again>\d+)\))?)?"
    r"(?:[eE](?P<e>[+-]?\d{1,5})|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*(?P<braced>[+-]?\d{1,5})\s*\}|(?P<digit>\d)))?"
)
_POWER_OF_TEN = re.compile(r"(?P<sign>[+-]?)\s*10\s*\^\s*(?:\{\s*(?P<braced>[+-]?\d{1,5})\s*\}|(?P<digit>\d))")
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*(?:\\frac\{(?P<a>[^{}]*)\}\{(?P<b>[^{}]*)\}|(?P<c>[\d.,]+)\s*/\s*(?P<d>[\d.,]+))"
)
_MIXED = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<whole>\d[\d, ]*?)\s*"
    r"(?:\\frac\{\s*(?P<a>\d+)\s*\}\{\s*(?P<b>\d+)\s*\}|\s(?P<c>\d+)\s*/\s*(?P<d>\d+))"
)
_CLOCK = re.compile(r"\d{1,2}:[0-5]\d")
_WORDS = re.compile(r"[^\W\d_]+(?:\s+[^\W\d_]+)*[.!?]?")
_SAID = re.compile(r"[^\W\d_]+(?:[\s'-]+[^\W\d_]+)*[.!?]?")
_AND_OR = re.compile(r"\s*,?\s*(?:\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*", re.IGNORECASE)
_OR = re.compile(r"\\text\{\s*or\s*\}|(?<![A-Za-z])or(?![A-Za-z])", re.IGNORECASE)
_NAME = re.compile(
    r"\\?[A-Za-z]+(?:_(?:\w|\{[^{}]*\}))?'*(?:\s*\(\s*\\?[A-Za-z]+\s*(?:,\s*[A-Za-z]\s*)*\))?"
    r"|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z]){1,5}\s*\)|\\text\{[^{}]*\}|\\(?:angle|triangle|overline|hat|bar|vec)\s*\{?[A-Za-z]*\}?"
)
_LETTER = re.compile(r"[A-Za-z]")
_ARITHMETIC = re.compile(r"\\(?:times|cdot|div|frac|sqrt|pi|le|ge)(?![A-Za-z])|\\text\{[^{}]*\}")
_FUNCTIONS = {"\\pi", "\\infty", "e", "i", "\\sqrt", "\\frac", "\\emptyset"}
_RELATION = re.compile(r"(\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>|\\equiv(?![A-Za-z])|(?<![<>!:\\])=)")
_MEMBER = re.compile(r"(?P<name>.{1,40}?)\s*\\in(?![A-Za-z])\s*(?P<value>.+)")
_BUILDER = re.compile(r"\\\{\s*(?P<name>[A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:|\\mid)(?P<condition>.+)\\\}")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_OPEN, _CLOSE = "([{", ")]}"


def parse(answer: str) -> Value:
    """The value of an answer as a model or a benchmark wrote it."""
    return _parse(undress(answer), 0)


def _parse(text: str, depth: int) -> Value:
    text = strip_braces(text)
    if depth > _MAX_DEPTH:
        return Expression(text)
    inside = text_inside(text)
    if inside is not None:
        plain = _parse(inside, depth + 1)
        return replace(plain, said=True) if isinstance(plain, Words) else _said(plain)
    quantity = _quantity(text)
    if quantity is not None:
        return quantity
    for read in (_list, _union, _relation, _bracketed):
        value = read(text, depth)
        if value is not None:
            return value
    return _measured(text, depth) or _words(text) or Expression(text)


def _said(value: Value) -> Value:
    """Letters that stood in a \\text are words, whatever they would be outside: never a product."""
    letters = isinstance(value, Expression) and len(value.text) > 1 and _SAID.fullmatch(value.text)
    return Words(value.text, True) if letters else value


def _quantity(text: str) -> Value | None:
    """A number, alone or with its unit."""
    number = _number(text)
    if number is not None:
        return number
    counted, unit = split_unit(text)
    number = None if unit == NO_UNIT and counted == text else _number(strip_braces(counted))
    if number is not None:
        return _with_unit(text, number, unit)
    return Words(text, True) if _CLOCK.fullmatch(text) else None


def _with_unit(text: str, value: Value, unit: Unit) -> Value:
    if unit.factor != 1 and isinstance(value, Number):
        value = Number(text, value.value * unit.factor, value.half_place and value.half_place * unit.factor)
    bare = Unit(unit.name, unit.qualifiers)
    return value if bare == NO_UNIT else Measured(text, value, bare)


def _measured(text: str, depth: int) -> Value | None:
    """An expression with its unit; a factor (2x million) is left alone, and so is a unit of units."""
    counted, unit = split_unit(text)
    if counted == text or unit.factor != 1:
        return None
    value = _parse(counted, depth + 1)
    return None if isinstance(value, Measured) else _with_unit(text, value, unit)


def _number(text: str) -> Number | None:
    if not text or len(text) > MAX_NUMBER_CHARS:
        return None
    if match := _DECIMAL.fullmatch(text):
        return _decimal(match, text)
    if match := _POWER_OF_TEN.fullmatch(text):
        power = _power_of_ten(match["braced"] or match["digit"])
        return None if power is None else Number(text, -power if match["sign"] == "-" else power)
    if match := _MIXED.fullmatch(text):
        return _mixed(match, text)
    if match := _FRACTION.fullmatch(text):
        return _fraction(match, text)
    return None


def _decimal(match: re.Match[str], text: str) -> Number | None:
    whole, part = re.sub(r"\D", "", match["whole"] or ""), match["part"] or ""
    power = _power_of_ten(match["e"] or match["braced"] or match["digit"] or "0")
    if power is None or not whole + part + (match["over"] or ""):
        return None
    place = Fraction(1, 10 ** len(part))
    value = int(whole + part or "0") * place
    period = match["over"] or match["again"]
    if period:
        value += int(period) * place / (10 ** len(period) - 1)
    value = -value * power if match["sign"] == "-" else value * power
    rounded = match["part"] and not period and len((whole + part).lstrip("0")) >= _DIGITS_OF_A_ROUNDED_VALUE
    return Number(text, value, place * power / 2 if rounded else None)


def _power_of_ten(exponent: str) -> Fraction | None:
    return None if abs(int(exponent)) > MAX_NUMBER_CHARS else Fraction(10) ** int(exponent)


def _mixed(match: re.Match[str], text: str) -> Number | None:
    """11 5/6 is 11 + 5/6; with an improper fraction it could be a product as well, and is no number here."""
    whole = _number(match["whole"].strip())
    top, bottom = int(match["a"] or match["c"]), int(match["b"] or match["d"])
    if whole is None or whole.value.denominator != 1 or not 0 < top < bottom:
        return None
    value = whole.value + Fraction(top, bottom)
    return Number(text, -value if match["sign"] == "-" else value)


def _fraction(match: re.Match[str], text: str) -> Number | None:
    top = _number((match["a"] or match["c"] or "").strip())
    bottom = _number((match["b"] or match["d"] or "").strip())
    if top is None or bottom is None or bottom.value == 0:
        return None
    value = top.value / bottom.value
    return Number(text, -value if match["sign"] == "-" else value)


def _list(text: str, depth: int) -> Value | None:
    """a, b and c; with "or" between inequalities it is a union. \\pm is two values."""
    separator = "u" if _OR.search(text) and _RELATION.search(text) else ""
    spaced = _AND_OR.sub(lambda word: ", " if _depth_at(text, word.start()) == 0 else word[0], text)
    parts = _split(spaced, ";") if ";" in spaced else _split(spaced, ",")
    parts = [signed for part in parts for signed in _both_signs(part.strip()) if signed]
    if not 1 < len(parts) <= _MAX_ITEMS:
        return None
    items = tuple(_parse(part, depth + 1) for part in parts)
    if separator and not all(isinstance(item, Named) and isinstance(item.value, Group) for item in items):
        separator = ""
    return Group(text, separator, items)


def _both_signs(part: str) -> list[str]:
    if not _PLUS_MINUS.search(part):
        return [part]
    relation = _RELATION.search(part)
    head, tail = (part[: relation.end()], part[relation.end() :]) if relation else ("", part)
    return [head + _PLUS_MINUS.sub(plus, re.sub(r"\\mp(?![A-Za-z])", minus, tail)) for plus, minus in ("+-", "-+")]


def _depth_at(text: str, position: int) -> int:
    return sum((character in _OPEN) - (character in _CLOSE) for character in text[:position])


def _split(text: str, separator: str) -> list[str]:
    """`text` cut at the separators that lie in no bracket."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0 and character == separator:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _union(text: str, depth: int) -> Value | None:
    parts = re.split(r"\\cup(?![A-Za-z])", text)
    if not 1 < len(parts) <= _MAX_ITEMS:
        return None
    items = tuple(_parse(part, depth + 1) for part in parts)
    return Group(text, "u", items) if all(isinstance(item, Group) for item in items) else None


def _relation(text: str, depth: int) -> Value | None:
    """name = value (or value = name), an inequality of a name, name \\in set."""
    member = _MEMBER.fullmatch(text)
    if member and _NAME.fullmatch(member["name"]):
        return Named(text, _squeeze(member["name"]), _parse(member["value"], depth + 1))
    pieces = [piece.strip() for piece in _RELATION.split(text)]
    sides, signs = pieces[::2], set(pieces[1::2])
    if len(sides) < 2 or not all(sides) or _depth_at(text, len(text)) != 0:
        return None
    if signs <= {"=", "\\equiv"}:
        return _equation(text, sides, depth)
    return _inequality(text, sides, pieces[1::2], depth)


def _equation(text: str, sides: list[str], depth: int) -> Value | None:
    name, value = sides[0], sides[-1]
    if not _is_name(name) and len(sides) == 2 and _is_name(value):
        name, value = value, name
    elif not _LETTER.search(_ARITHMETIC.sub("", name)):  # 3 + 4 = 7 says 7
        name = ""
    elif not _is_name(name):
        return None
    return Named(text, _squeeze(name), _parse(value, depth + 1))


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and text.strip() not in _FUNCTIONS


def _inequality(text: str, sides: list[str], signs: list[str], depth: int) -> Value | None:
    """x > 3 is x in (3, oo), -1 < x \\le 2 is x in (-1, 2]."""
    if any(sign in (">", "\\ge") for sign in signs):
        if any(sign in ("<", "\\le") for sign in signs):
            return None
        sides, signs = sides[::-1], ["<" if sign == ">" else "\\le" for sign in reversed(signs)]
    if len(sides) == 2 and _is_name(sides[0]):
        sides, signs = ["-\\infty", *sides], ["<", *signs]
    elif len(sides) == 2:
        sides, signs = [*sides, "\\infty"], [*signs, "<"]
    if len(sides) != 3 or not _is_name(sides[1]):
        return None
    brackets = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    ends = (_parse(sides[0], depth + 1), _parse(sides[2], depth + 1))
    return Named(text, _squeeze(sides[1]), Group(text, brackets, ends))


def _bracketed(text: str, depth: int) -> Value | None:
    """{a, b}, (a, b), [a, b): the brackets must hold all of the text."""
    if builder := _BUILDER.fullmatch(text):  # {x : x > 3} is x > 3
        condition = _parse(builder["condition"], depth + 1)
        return condition if isinstance(condition, Named | Group) else None
    plain = text.replace("\\{", "{").replace("\\}", "}")
    if len(plain) < 2 or plain[0] not in _OPEN or plain[-1] not in _CLOSE or not _holds_all(plain):
        return None
    inner = plain[1:-1].strip()
    parts = [part.strip() for part in _split(inner, ";" if ";" in inner else ",")]
    brackets = plain[0] + plain[-1]
    if brackets not in ("{}", "()", "[]", "(]", "[)") or not all(parts) or len(parts) > _MAX_ITEMS:
        return None
    if len(parts) == 1:  # (5) is 5, and so is the set of 5 alone
        many = _parse(inner, depth + 1)
        return Group(text, brackets, many.items) if isinstance(many, Group) and many.brackets == "" else many
    return Group(text, brackets, tuple(_parse(part, depth + 1) for part in parts))


def _holds_all(text: str) -> bool:
    """Whether the bracket that opens `text` is closed by its last character, and not before."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0:
            return position == len(text) - 1
    return False


def _words(text: str) -> Value | None:
    """Letters that are words and no product: four or more together, capitals as in AB, a capital as in No."""
    if re.search(r"\\(?!text)", text) or not _WORDS.fullmatch(re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()):
        return None
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).strip(" .!?")
    surely = max(map(len, plain.split())) >= 4 or re.fullmatch(r"[A-Z]{2,}|[A-Z][a-z]{1,}", plain)
    return Words(plain, "\\text" in text) if surely else None


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)
