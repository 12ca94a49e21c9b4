r"""What a number counts: units, money, per cent, and the qualifiers that change what is said (am, pm, more, east)."""

import re
from dataclasses import dataclass
from fractions import Fraction

_SAME = {
    "cm": "centimeter centimetre cms", "m": "meter metre", "km": "kilometer kilometre kms",
    "mm": "millimeter millimetre",
    "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "g": "gram gramme gm gms", "kg": "kilogram kilo kgs", "mg": "milligram", "lb": "pound lbs", "oz": "ounce",
    "l": "liter litre", "ml": "milliliter millilitre", "gal": "gallon",
    "s": "second sec secs", "min": "minute mins", "h": "hour hr hrs", "yr": "year yrs",
    "mph": "", "km/h": "kmh kmph kph", "m/s": "", "usd": "dollar buck us$ $", "eur": "euro €", "gbp": "£",
    "jpy": "yen ¥", "inr": "rupee rs ₹", "cent": "¢", "%": "percent pct percentage", "deg": "degree", "rad": "radian",
}  # fmt: skip
_MULTIWORD = {
    "miles per hour": "mph", "mile per hour": "mph", "kilometers per hour": "km/h", "meters per second": "m/s",
    "per cent": "%",
    "us dollar": "usd", "u.s. dollar": "usd",
}  # fmt: skip
_CANONICAL = {alias: unit for unit, aliases in _SAME.items() for alias in [unit, *aliases.split()]}
# Short names that are read as a unit without \text too; one letter never is, it may be a variable.
_BARE = {
    "cm", "km", "mm", "kg", "mg", "ml", "ft", "lb", "lbs", "oz", "mi", "yd", "hr", "hrs", "min", "mins", "sec", "secs",
    "mph", "usd", "eur", "gbp", "jpy", "inr", "gal", "pct", "%", "deg",
}  # fmt: skip

_SQUARE, _CUBIC = {"square", "sq", "sq."}, {"cubic", "cu", "cu."}

_ERAS = {"bc", "ad", "bce", "ce"}  # outside \text, bc is a product
# They are part of the answer: "5 pm" is neither "5 am" nor "5".
_QUALIFIERS = {
    *_ERAS, "am", "pm", "more", "less", "fewer", "north", "south", "east", "west", "left", "right",
    "up", "down", "increase", "decrease", "profit", "loss", "gain",
}  # fmt: skip
# A phrase with one of these is no unit: "5 or more", "5 is wrong".
_NO_UNIT = {
    "and", "or", "not", "is", "are", "if", "when", "where", "wrong", "incorrect", "than", "plus", "minus", "times",
    "no", "mod", "modulo", "base", "over", "isn't", "but", "unless", "least", "most", "about", "almost", "except", "to",
    "between", "squared", "cubed", "false", "true", "half", "quarter", "third", "thirds",
}  # fmt: skip
_MAGNITUDES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
_ANY = {"unit", "number", "in total", "total", "altogether"}  # they say nothing
_MAX_WORDS = 4

_MONEY = r"(?:US)?\\\$|[€£¥₹¢]|USD|EUR|GBP|JPY|INR"
_MONEY_BEFORE = re.compile(rf"(?P<minus>-?)\s*(?P<unit>{_MONEY})\s*(?=[\d.+-])")
_MONEY_AFTER = re.compile(rf"(?P<value>.*[\d}}])\s*(?P<unit>{_MONEY})")
_DEGREES_AFTER = re.compile(
    r"(?P<value>(?!.*\\(?:sin|cos|tan|cot|sec|csc|arc)).*[^\s^])\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z]))\s*(?P<scale>[CFK]?)"
)
_PERCENT_AFTER = re.compile(r"(?P<value>.*[^\s\\])\s*\\?%")
_MODULUS_AFTER = re.compile(
    r"(?P<value>.*[^\s(])\s*(?:\\pmod|\\mod|\(\s*(?:\\bmod|\\mod|(?:\\text\{\s*)?mod\b\s*\}?))\s*"
    r"\{?\s*(?P<modulus>\d+)\s*\}?\s*\)?"
)
_BASE_AFTER = re.compile(r"(?P<value>[\d.]+)\s*_\s*\{?\s*(?P<base>\d+)\s*\}?")
_TEXT_AFTER = re.compile(r"(?P<value>.*[^\s\\])\s*\\text\{(?P<words>[^{}]*)\}\s*(?:\^\s*\{?(?P<power>[23])\}?)?")
_WORDS_AFTER = re.compile(
    r"(?P<value>.*[\d}\])])(?P<gap>\s*)(?P<words>[A-Za-z][A-Za-z.'/ -]*?)\s*(?:\^\s*\{?(?P<power>[23])\}?)?"
)
_ORDINAL = re.compile(r"(?P<value>\d+)\s*\^?\s*\{?\s*(?:\\text\{\s*)?(?:st|nd|rd|th)\s*\}?\}?")


@dataclass(frozen=True)
class Unit:
    """`name` None: something is counted, but not said what. `factor`: dozen, million."""

    name: str | None
    qualifiers: frozenset[str] = frozenset()
    factor: Fraction = Fraction(1)


NO_UNIT = Unit(None)


def split_unit(text: str) -> tuple[str, Unit]:
    """(what is counted, its unit); the text as it is and NO_UNIT where none can be told."""
    if ordinal := _ORDINAL.fullmatch(text):
        return ordinal["value"], NO_UNIT
    if before := _MONEY_BEFORE.match(text):
        value, unit = split_unit(before["minus"] + text[before.end() :])
        return value, Unit(_canonical(before["unit"]), unit.qualifiers, unit.factor)
    for pattern in (_MODULUS_AFTER, _BASE_AFTER, _DEGREES_AFTER, _PERCENT_AFTER, _MONEY_AFTER):
        if match := pattern.fullmatch(text):
            return match["value"].strip(), _symbol_unit(match)
    for pattern in (_TEXT_AFTER, _WORDS_AFTER):
        match = pattern.fullmatch(text)
        phrase = match and _phrase(match, bare=pattern is _WORDS_AFTER)
        if match and phrase:
            return match["value"].strip(), phrase
    return text, NO_UNIT


def compatible(left: Unit, right: Unit) -> bool:
    """Whether two units can go with one answer: a unit may be left out, but not changed; a qualifier neither."""
    return left.qualifiers == right.qualifiers and (left.name is None or right.name is None or left.name == right.name)


def _symbol_unit(match: re.Match[str]) -> Unit:
    groups = match.groupdict()
    if "modulus" in groups:
        return Unit(f"mod {int(groups['modulus'])}")
    if "base" in groups:
        return Unit(f"base {int(groups['base'])}")
    if "scale" in groups:
        return Unit("deg" + groups["scale"])
    return Unit(_canonical(groups["unit"]) if "unit" in groups else "%")


def _phrase(match: re.Match[str], bare: bool) -> Unit | None:
    """The unit that a phrase after a value names; None where the phrase is no unit."""
    phrase = match["words"].lower().strip(" .,-")
    phrase = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", phrase)
    words = phrase.split()
    if not 1 <= len(words) <= _MAX_WORDS or _NO_UNIT & set(words) or not re.fullmatch(r"[a-z$€£.'/ -]+", phrase):
        return None
    if bare and not _is_bare_unit(words, glued=not match["gap"]):
        return None
    factor = Fraction(1)
    while words and words[0].rstrip("s") in _MAGNITUDES:
        factor *= _MAGNITUDES[words.pop(0).rstrip("s")]
    qualifiers = frozenset(word for word in words if word in _QUALIFIERS)
    rest = [word for word in words if word not in _QUALIFIERS]
    return Unit(_name(rest, match["power"]), qualifiers, factor)


def _is_bare_unit(words: list[str], glued: bool) -> bool:
    """Outside \\text letters may be variables: only what is surely a word counts."""
    known = words[0] in _BARE | _QUALIFIERS - _ERAS or words[0].rstrip("s") in _MAGNITUDES
    return known or (not glued and (len(words[0]) >= 4 or words[0] in _SQUARE | _CUBIC | {"per"}))


def _name(words: list[str], power: str | None) -> str | None:
    if words and words[0] in _SQUARE:
        words, power = words[1:], "2"
    elif words and words[0] in _CUBIC:
        words, power = words[1:], "3"
    if words and words[0] in ("of", "per"):
        words = words[1:]
    name = _canonical(" ".join(words))
    if name is None or name in _ANY:
        return None
    return f"{name}^{power}" if power else name


def _canonical(name: str) -> str | None:
    name = name.lower().replace("\\$", "$").strip(" .")
    singular = name[:-1] if len(name) > 2 and name.endswith("s") and not name.endswith("ss") else name
    for known in (name, singular):
        if known in _CANONICAL or known in _MULTIWORD:
            return _MULTIWORD.get(known) or _CANONICAL[known]
    return singular or None
