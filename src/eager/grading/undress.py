r"""An answer without its dress: what a model puts around the mathematics and that says nothing about it.

Characters of other scripts, spacing, fonts, colours, markdown, labels ("Answer:"), end tags, a full stop. What is left
is plain LaTeX in which words stand inside \text{...}.
"""

import re
import unicodedata
from collections.abc import Callable

_ROUNDS = 6  # dress inside dress; what is dressed more often than that stays as it is

# What tokenizers write at the end of a turn.
END_TAG = re.compile(r"<\|[a-z_]{1,30}\|>|</?s>|<(?:end|start)_of_turn>|<eos>|<\uff5c[^<>]{1,30}\uff5c>|\[/INST\]")

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NAMED = {
    "−": "-", "–": "-", "‒": "-", "‐": "-", "﹣": "-", "×": r"\times ", "÷": "/", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ",
    "°": r"^\circ ", "…": r"\ldots ", "∕": "/", "⁄": "/", "٫": ".", "٬": ",", "、": ",", "。": ".", "“": '"', "”": '"',
    "’": "'", "ℝ": r"\mathbb{R}",
}  # fmt: skip
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")

_SPACING = re.compile(r"(?<!\\)\\(?:quad|qquad|hfill|,|;|:|>| )|\\[hv]space\*?\{[^{}]*\}|~|(?<!\\)\\\n")
_SILENT = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lr]?|(?:display|text|script)style|limits|nolimits|tiny|scriptsize|small|"
    r"footnotesize|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it|sf|tt|bfseries|itshape|boldmath|centering|noindent)"
    r"(?![A-Za-z])|(?<!\\)\\[()\[\]]|\\color\s*(?:\[[a-z]*\])?\s*\{[^{}]*\}|\\(?:phantom|tag|label)\*?\s*\{[^{}]*\}"
)
_MATH_FONT = re.compile(
    r"\\(?:math(?:bf|it|sf|tt|normal|strut)|boldsymbol|bm|pmb|underline|ensuremath|boxed|fbox|framebox|Aboxed|"
    r"(?:textcolor|colorbox|fcolorbox)\s*(?:\[[a-z]*\])?\s*\{[^{}]*\}|mathop)\s*\{"
)
_TEXT_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|sc|up|md)?|mathrm|mbox|hbox|operatorname\*?|emph)\s*\{(?!\s*\})"
)
_EMPTY_TEXT = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox)\s*\{\s*\}")
_MARKDOWN = re.compile(
    r"(?<![\w)}])\*\*|\*\*(?![\w(\\-])|~~|`|^\s*__|__\s*$|</?(?:strong|em|answer|final_answer|span|br|code)\s*/?>"
)
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(?P<a>\d)|\{(?P<aa>[^{}]*)\})\s*(?:(?P<b>\d)|\{(?P<bb>[^{}]*)\})")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d+|[A-Za-z](?![A-Za-z]))")
_PLAIN_NAME = re.compile(
    r"(?<![A-Za-z\\])(?P<name>sqrt|pi|theta|alpha|beta|gamma|phi|infinity|infty|inf|oo|sin|cos|tan|cot|sec|csc|ln|log)"
    r"(?![A-Za-z])"
)
_PLAIN_NAMES = {"infinity": "infty", "inf": "infty", "oo": "infty"}
_BRACKETED = re.compile(r"(?:\^|\\sqrt)\s*\(")

_WORDS_ONLY = re.compile(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*|")

# "= 5", "\\approx 5": how exact it is, the digits say.
_EQUALS = re.compile(r"^(?:=(?!=)|\\approx(?![A-Za-z])|≈)\s*")

_LABEL = re.compile(
    r"(?:(?:so|thus|hence|therefore|and)\b,?\s*)?(?:the\s+|my\s+|our\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:answer|ans|result|solution)\b\s*(?:is|are|=|:)*\s*[:=]?\s*|#+\s*(?=[\d$\\+-])",
    re.IGNORECASE,
)


# \text{The number of apples is } 7
_TEXT_LABEL = re.compile(r"\\text\{[A-Za-z' ]{1,60}(?:\bis|\bare|:|=)\s*\}\s*(?=[\d$\\(+-])")
_DENIED = re.compile(r"\b(?:not|no|never|neither|nor|least|most|than|about|false|wrong|if|when)\b|n't", re.IGNORECASE)


def undress(answer: str) -> str:
    """`answer` as plain LaTeX; words in \\text{...}, one space where there were several."""
    text = _plain_characters(answer)
    for _ in range(_ROUNDS):
        before, text = text, _one_round(text)
        if text == before:
            break
    return text


def text_inside(text: str) -> str | None:
    r"""X, if `text` as a whole is \text{X}."""
    if not text.startswith("\\text{"):
        return None
    end = closing_brace(text, len("\\text"))
    return text[len("\\text{") : end].strip() if end == len(text) - 1 else None


def closing_brace(text: str, start: int) -> int:
    """Where the brace that opens at `start` is closed; -1 if it never is. Escaped braces are text."""
    depth, position = 0, start
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return position
        position += 1
    return -1


def strip_braces(text: str) -> str:
    """`text` without the braces (not \\{), the quotes and the stars that hold all of it."""
    text = text.strip()
    while text[:1] == "{" and closing_brace(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'*":
        text = text[1:-1].strip()
    return text


def _plain_characters(answer: str) -> str:
    text = _SUPERSCRIPTS.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run[0]).replace("−", "-") + "}", answer)
    return "".join(map(_plain, _ANSI.sub("", text)))


def _plain(character: str) -> str:
    """One character in ASCII, where it has a form there."""
    if character.isascii():
        return character if character.isprintable() else " " if character in "\t\n\r" else ""
    if character in _NAMED:
        return _NAMED[character]
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    if category == "Cf":  # zero width, direction marks
        return ""
    if 0xFF01 <= ord(character) <= 0xFF5E:  # the full-width forms of ASCII
        return chr(ord(character) - 0xFEE0)
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character).replace("⁄", "/") + " "
    kind, _, letter = unicodedata.name(character, "").partition(" LETTER ")
    if kind == "GREEK SMALL" and letter.isalpha():
        return f"\\{letter.lower()} "
    return character


def _one_round(text: str) -> str:
    if "\\begin" not in text:  # there, \\ ends a row; elsewhere it is a backslash escaped twice
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    text = _SILENT.sub(" ", _SPACING.sub(" ", text.replace("\\!", "").replace("{,}", ",")))
    text = _MARKDOWN.sub("", END_TAG.sub("", _without_dollars(text)))
    text = _replace_groups(_EMPTY_TEXT.sub(" ", text), _MATH_FONT, _keep_inside)
    text = _replace_groups(text, _TEXT_FONT, _as_text)
    text = _plain_mathematics(text)
    text = strip_braces(re.sub(r"\s+", " ", text))
    text = _without_end(_without_label(text))
    inside = text_inside(text)
    return text if inside is None or _WORDS_ONLY.fullmatch(inside) else inside


def _without_dollars(text: str) -> str:
    r"""Without the $ of TeX. One that has no partner is money: \$."""
    delimiters = re.findall(r"(?<!\\)\$", text)
    return re.sub(r"(?<!\\)\$", r"\\$" if len(delimiters) == 1 else "", text)


def _keep_inside(inside: str, before: str) -> str:
    return "{" + inside + "}" if before in ("^", "_", "}") else inside


def _as_text(inside: str, before: str) -> str:
    r"""\text{...} for words; one letter, or no letter at all, is mathematics, unless a unit of what is before."""
    plain = inside.strip()
    is_word = len(plain) > 1 if not before or not (before.isdigit() or before in "})") else plain not in ("e", "i")
    return f"\\text{{{inside}}}" if is_word and re.search("[A-Za-z]{1}", plain) else _keep_inside(inside, before)


def _replace_groups(text: str, command: re.Pattern[str], replace: Callable[[str, str], str]) -> str:
    """`text` with every `command{...}` put through replace(what is inside, the last character before)."""
    parts, position = [], 0
    for match in command.finditer(text):
        end = closing_brace(text, match.end() - 1)
        if match.start() >= position and end >= 0:
            parts += [
                text[position : match.start()],
                replace(text[match.end() : end], text[: match.start()].rstrip()[-1:]),
            ]
            position = end + 1
    return "".join([*parts, text[position:]])


def _plain_mathematics(text: str) -> str:
    """pi/3, sqrt(3), x**2, 2^(1/3), x^12, \\dfrac12: what is written outside TeX, or short, as TeX has it in full."""
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text).replace("**", "^")
    text = re.sub(r"\\(?:leqslant|leq|le)(?![A-Za-z])|<=", r"\\le ", text)
    text = re.sub(r"\\(?:geqslant|geq|ge)(?![A-Za-z])|>=", r"\\ge ", text)
    text = re.sub(r"\\(?:lt|gt)(?![A-Za-z])", lambda sign: "<" if sign[0] == "\\lt" else ">", text)
    text = _PLAIN_NAME.sub(lambda match: "\\" + _PLAIN_NAMES.get(match["name"], match["name"]) + " ", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    text = re.sub(r"\^\s*(\d{2,})", r"^{\1}", text)  # TeX would raise the first digit; nobody means that
    text = _replace_brackets(text)
    text = _SHORT_FRACTION.sub(_full_fraction, text)
    return _SHORT_ROOT.sub(r"\\sqrt{\1}", text)


def _full_fraction(match: re.Match[str]) -> str:
    top, bottom = match["a"] or match["aa"], match["b"] or match["bb"]
    return f"\\frac{{{top.strip()}}}{{{bottom.strip()}}}"


def _replace_brackets(text: str) -> str:
    """^(...) and sqrt(...) with braces."""
    for match in reversed(list(_BRACKETED.finditer(text))):
        depth, start = 0, match.end() - 1
        for end in range(start, len(text)):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                text = f"{text[:start].rstrip()}{{{text[start + 1 : end]}}}{text[end + 1 :]}"
                break
    return text


def _without_label(text: str) -> str:
    r"""Without "The answer is", "Answer:", "#"; the label may stand in a \text of its own."""
    if match := _TEXT_LABEL.match(text):
        return text if _DENIED.search(match[0]) else text[match.end() :]
    opened = text.startswith("\\text{")
    body = text[len("\\text{") :] if opened else text
    label = _LABEL.match(body.lstrip())
    rest = body.lstrip()[label.end() :] if label else ""
    if label is None or rest in ("", "}"):
        return text
    if not opened:
        return rest
    return rest[1:].lstrip(" :=") if rest.startswith("}") else "\\text{" + rest


def _without_end(text: str) -> str:
    """Without the punctuation that ends a sentence; an ellipsis, which says "and so on", stays."""
    text = re.sub(r"(?:\\\\)+$", "", text.strip(" ,;:")).strip()
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    return _EQUALS.sub("", text)
