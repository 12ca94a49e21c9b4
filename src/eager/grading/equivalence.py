r"""The cheap part of "are these one answer?": decided without Math-Verify wherever that is certain.

Most answers of a contest are integers: deciding those here means that many runs never start a worker process.
"""

import re
from fractions import Fraction

# Beyond this an "answer" is a runaway text: it is compared as a string and never sent to a worker.
MAX_ANSWER_CHARS = 2000
# Beyond this a run of digits is not turned into a number (int() of a very long string is quadratic).
MAX_NUMBER_CHARS = 400

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_DRESSING = re.compile(
    r"\\(?:left|right|displaystyle|bigl|bigr|Bigl|Bigr|limits)(?![A-Za-z])|(?<!\\)\\(?:[,;: ]|[()\[\]])|\\?\$|~"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])|°|(?<=\d)\s*degrees?\b", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,|\{,\})\d{3})+(?:\.\d+)?")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)")
_UNIT_AFTER_NUMBER = re.compile(
    r"([+-]?[\d.,/]+)\s*\\(?:text|mathrm|mbox)\s*\{(?!\s*(?:hundred|thousand|[mb]illion|dozen|percent|and\b|or\b))"
    r"[^{}]*[A-Za-z][^{}]*\}(?:\^\{?\d\}?)?"
)

_RATIONAL = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<decimal>\d+(?:\.\d*)?|\.\d+)"
    r"|\\frac\{(?P<minus>-?)(?P<top>\d+)\}\{(?P<bottom>\d+)\}|(?P<a>\d+)/(?P<b>\d+))"
)
_IN_BASE = re.compile(r"(?P<digits>[0-9A-Fa-f]+)_\{?(?P<base>\d+)\}?")


def same_answer(gold: str, answer: str) -> bool | None:
    """True or False where that is certain; None where it takes algebra to tell."""
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > MAX_ANSWER_CHARS:
        return False
    left, right = normalise(gold), normalise(answer)
    if not left or not right:
        return left == right
    if left == right:
        return True
    for decide in (_compare_rationals, _compare_bases, _compare_letters):
        verdict = decide(left, right)
        if verdict is not None:
            return verdict
    return _compare_words(gold, answer)


def normalise(answer: str) -> str:
    r"""`answer` without what carries no meaning: $, spacing, \text, degrees, thousands commas, a trailing dot.

    Over MAX_ANSWER_CHARS it comes back as it is.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return answer
    text = _CONTROL.sub("", answer).replace("\\!", "")
    text = _DRESSING.sub(" ", text).strip().rstrip(".").strip()
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    unit = _UNIT_AFTER_NUMBER.fullmatch(text)
    text = _DEGREES.sub("", _TEXT.sub(r" \1 ", unit[1] if unit else text)).strip()
    if _THOUSANDS.fullmatch(text):  # the whole answer only: 1,234 inside brackets is two numbers
        text = text.replace("{,}", "").replace(",", "")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    # A space parts two words or a command from its argument; beside anything else it is only typography.
    text = re.sub(r"\s*([^\w\s\\])\s*", r"\1", text)
    return _strip_outer_braces(re.sub(r"\s+", " ", text).strip().rstrip(".").strip())


def expand_plus_minus(answer: str) -> str:
    r"""`answer` with every \pm written out as two values, a part of a list at a time: "1 \pm a" -> "1 + a, 1 - a"."""
    if "\\pm" not in answer or len(answer) > MAX_ANSWER_CHARS:
        return answer
    parts: list[str] = []
    for part in _top_level_parts(answer):
        parts += [part] if "\\pm" not in part else [_with_sign(part, "+", "-"), _with_sign(part, "-", "+")]
    return ", ".join(parts)


def _with_sign(part: str, plus: str, minus: str) -> str:
    text = re.sub(r"\\pm(?![A-Za-z])", plus, part)
    return re.sub(r"\\mp(?![A-Za-z])", minus, text).strip()


def _top_level_parts(answer: str) -> list[str]:
    """`answer` cut at the commas that lie in no bracket."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(answer):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(answer[start:position])
            start = position + 1
    return [*parts, answer[start:]]


def _strip_outer_braces(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and _closes_at_the_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_the_end(text: str) -> bool:
    """Whether the brace that opens `text` is closed by its last character, and not before."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return position == len(text) - 1
    return False


def _compare_rationals(left: str, right: str) -> bool | None:
    a, b = _rational(left), _rational(right)
    if a is None or b is None:
        return None
    if a == b:
        return True
    # A decimal may be a rounded fraction: how near is near enough is Math-Verify's to say.
    return None if "." in left + right else False


def _rational(text: str) -> Fraction | None:
    match = _RATIONAL.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None:
        return None
    top, bottom = match["top"] or match["a"], match["bottom"] or match["b"] or "1"
    if int(bottom) == 0:
        return None
    value = Fraction(match["decimal"]) if match["decimal"] else Fraction(int(top), int(bottom))
    return -value if (match["sign"] == "-") != bool(match["minus"]) else value


def _compare_bases(left: str, right: str) -> bool | None:
    """52_8 against 52_9: Math-Verify drops the base. A base left out on one side is no difference."""
    a, b = _IN_BASE.fullmatch(left), _IN_BASE.fullmatch(right)
    if a is None or b is None:
        return None
    return (a["digits"].lstrip("0"), int(a["base"])) == (b["digits"].lstrip("0"), int(b["base"]))


def _compare_letters(left: str, right: str) -> bool | None:
    """Single letters, as in multiple choice: the same one or not; upper and lower case are two variables."""
    return False if len(left) == len(right) == 1 and left.isalpha() and right.isalpha() else None


def _compare_words(gold: str, answer: str) -> bool | None:
    r"""A \text{word} against letters: the same word, whatever its case. Math-Verify reads letters as a product."""
    left, right = normalise(gold), normalise(answer)
    words = all(re.fullmatch(r"[^\W\d_]{2,}(?: [^\W\d_]+)*", side) for side in (left, right))
    if words and any(_TEXT.search(side) for side in (gold, answer)):
        return left.casefold() == right.casefold()
    return None
