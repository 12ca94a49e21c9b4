r"""Text -> answer: the last balanced \boxed{...}, a multiple-choice letter, or a benchmark's own last line.

Everything here is linear in the text, whatever the text holds: hence the bounded repetitions in the patterns.
"""

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

AnswerKind: TypeAlias = Literal["math", "choice", "code"]
Fallback: TypeAlias = Literal["none", "hashes", "last_number"]

# Where a thinking section ends: most reasoning models; gpt-oss.
_END_OF_THINKING = ("</think>", "<|channel|>final<|message|>")

# An escaped brace or a line break (\\) is text; \\boxed, as models that escape twice write it, is still a box.
_BRACES = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
# \boxed 5: TeX takes the next token; we take the next word, if it can be an answer at all.
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*(?P<answer>[^\s${}]{0,99}\d[^\s$]{0,99}|[A-Z](?![A-Za-z]))")

_LETTER = r"(?P<letter>[A-D])"
# What may stand around a letter: brackets, quotes, markdown and LaTeX dressing.
_OPEN = r"(?:[\s(\[{*_$\"'`:]|\\(?:text|textbf|mathrm|mathbf|boxed|fbox|left|\()){0,16}"
# The letter ends where a word would not go on: "C", "C.", "C)", "C: 42" but not "Carbon" or "A's".
_CLOSE = r"(?![A-Za-z0-9'\u2019])"
_CHOICE_ALONE = re.compile(rf"{_OPEN}(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\b{_OPEN})?{_LETTER}{_CLOSE}")
_CHOICE_PHRASE = re.compile(
    rf"(?i:\b(?:answer|option|choice))(?i:\s{{1,4}}(?:is|would be|must be)\b|[\s*]{{0,4}}:)"
    rf"{_OPEN}(?:(?:[Oo]ption|[Cc]hoice)\b{_OPEN})?{_LETTER}{_CLOSE}"
)
_CHOICE_LINE = re.compile(rf"^[ \t]*[(\[*]{{0,3}}{_LETTER}[)\].*]{{0,3}}[ \t]*$", re.MULTILINE)

_HASHES = re.compile(r"####[ \t]*(?P<answer>[^\n]+)")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def extract_answer(text: str, kind: AnswerKind, fallback: Fallback = "none") -> str | None:
    """The answer that `text` (the model's own, without the prompt) ends in; None if it gives none.

    Looked for after the thinking section first; if there is nothing there, anywhere. Code is its own answer and is
    never extracted: None.
    """
    if kind == "code":
        return None
    finders = [_boxed_choice, _spoken_choice] if kind == "choice" else [last_boxed]
    if fallback == "hashes":
        finders.append(_after_hashes)
    if fallback == "last_number":
        finders.append(_last_number)
    scopes = list(_scopes(text))
    found = (find(scope) for find in finders for scope in scopes)
    return next((answer for answer in found if answer), None)


def last_boxed(text: str) -> str | None:
    r"""What is inside the last balanced \boxed{...} or \fbox{...} of `text` that holds anything; None without one."""
    for start, end in reversed(_outermost(_balanced_boxes(text))):
        inside = _BOX_COMMAND.sub("", text[start:end]).strip()
        if inside:
            return inside
    return None


def choice_letter(answer: str) -> str | None:
    r"""The letter of an answer that is a choice: C, (C), \text{(C)}, "C. 42 J", "Option C"."""
    match = _CHOICE_ALONE.match(answer)
    return match["letter"] if match else None


def after_thinking(text: str) -> str:
    """What follows the last end of a thinking section; `text` itself where there is none."""
    ends = [text.rfind(marker) + len(marker) for marker in _END_OF_THINKING if marker in text]
    return text[max(ends) :] if ends else text


def _scopes(text: str) -> Iterator[str]:
    """The part after the thinking section, where there is one, then the whole text."""
    after = after_thinking(text)
    if len(after) < len(text):
        yield after
    yield text


def _balanced_boxes(text: str) -> list[tuple[int, int]]:
    """(start, end) of what every balanced box holds, bare ones (\boxed 5) too, in the order they close."""
    open_braces: list[int | None] = []  # where a box's content starts; None for any other brace
    boxes = [match.span("answer") for match in _BARE_BOX.finditer(text)]
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None:
                boxes.append((start, match.start()))
        elif token == "{":
            open_braces.append(None)
        elif len(token) > 2:
            open_braces.append(match.end())
    return boxes


def _outermost(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans that lie in no other one, by position."""
    kept: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _boxed_choice(text: str) -> str | None:
    boxed = last_boxed(text)
    return choice_letter(boxed) if boxed else None


def _spoken_choice(text: str) -> str | None:
    for pattern in (_CHOICE_PHRASE, _CHOICE_LINE):
        letters = [match["letter"] for match in pattern.finditer(text)]
        if letters:
            return letters[-1]
    return None


def _after_hashes(text: str) -> str | None:
    answers = [match["answer"].strip() for match in _HASHES.finditer(text)]
    return answers[-1] if answers else None


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None
