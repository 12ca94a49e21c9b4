r"""Text -> answer: the last balanced \boxed{...}, a multiple-choice letter, or a benchmark's own last line.

Everything here is linear in the text, whatever the text holds: hence the bounded repetitions in the patterns.
"""

import re
from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from eager.grading.undress import END_TAG, undress

AnswerKind: TypeAlias = Literal["math", "choice", "code"]
Fallback: TypeAlias = Literal["none", "hashes", "last_number"]

# Where a thinking section ends: most reasoning models; gpt-oss.
_END_OF_THINKING = ("</think>", "<|channel|>final<|message|>")

# Where a model that does not stop goes on with a turn or a problem that nobody gave it.
_RUN_ON = re.compile(
    rf"{END_TAG.pattern}"
    r"|^[ \t]{0,9}[*#]{0,5}[ \t]?(?:Question|Problem|Q|User|Human|Instruction)[ \t]?\d{0,4}[*]{0,2}:",
    re.MULTILINE,
)

# An escaped brace or a line break (\\) is text; \\boxed, as models that escape twice write it, is still a box.
_BRACES = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
# \boxed 5: TeX takes the next token; we take the next word, if it can be an answer at all.
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])[ \t]*(?P<answer>[^\s${}]{0,99}\d[^\s$]{0,99}|[A-Z](?![A-Za-z]))")
# What stands before a box that only shows how to box, as in a prompt that the model repeats.
_SHOWN = re.compile(
    r"(?:\bas in|\be\.g\.|\bin the form(?:at)?(?: of)?|\blike so)[\s:,`$\"'(]{0,6}\\{0,2}(?:boxed|fbox)\s*\{?$"
)
_SHOWN_CHARS = 60

# What may stand around a letter: brackets, quotes, markdown and LaTeX dressing.
_OPEN = r"(?:[\s(\[{*_$\"'`:]|\\(?:text|math)?(?:bf|it|rm|sf|tt)?(?:boxed|fbox|left|\()?(?![A-Za-z])){0,16}"
# The letter ends where a word would not go on: "C", "C.", "C)", "C: 42" but not "Carbon" or "A's".
_CLOSE = r"(?![A-Za-z0-9'\u2019])"
_AROUND = r"[\s)\]}*_$\"'`]{0,6}"
_NOUN = rf"(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)s?\b{_OPEN})?"
_ONE = rf"(?:[A-D]{_CLOSE}|[a-d](?=[)\]}}*_$\"'`.]{{0,6}}(?:\s*$|\n)|\)))"
_AND = rf"(?:{_AROUND}(?:,|/|\+|&|;|\b(?:and|or)\b)){{1,2}}{_OPEN}"
# One letter, or a hedge: several.
_LETTERS = rf"(?P<letters>{_ONE}(?:{_AND}{_NOUN}{_ONE}){{0,3}})"
_SPOKEN = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"(?i:\b(?:answers?|option|choice))(?i:\s{{1,4}}(?:is|are|would be|must be)\b|[\s*]{{0,4}}:)"
        rf"{_OPEN}(?i:either\b|both\b)?{_OPEN}{_NOUN}{_LETTERS}",
        rf"(?<![A-Za-z0-9'\u2019]){_LETTERS}{_AROUND}(?:is|are|must be|seems) (?:the |both )?(?:only )?"
        r"(?:correct|right|best|answer|true)\b",
        rf"(?i:\b(?:so|thus|hence|therefore|leaves|leaving|choose|pick|select|go with)),?[ ]{_NOUN}{_OPEN}"
        rf"(?P<letters>[A-D]){_AROUND}(?=[.,;!]|\s*$)",
        rf"<answer>{_OPEN}{_NOUN}{_LETTERS}",
        r"^[ \t]{0,9}[(\[*]{0,3}(?P<letters>[A-D])[)\].*]{0,3}[ \t]{0,9}$",
    )
)

_CHOICE = re.compile(
    r"(?:both|either)?\s*(?P<letters>L(?:S\s*L)*)(?:\s*:.*|(?<=[.)\]])\s.*)?".replace(
        "L", r"[(\[]*(?:(?:option|choice)s?\s*)?[(\[]*[A-Da-d](?![A-Za-z0-9_^='])[)\].]*"
    ).replace("S", r"\s*(?:,|/|\+|&|;|\b(?:and|or)\b)+"),
    re.IGNORECASE | re.DOTALL,
)
# More than this is no choice, and no last line, but a text.
_CHOICE_CHARS = _LINE_CHARS = 300
_MAX_TURNS = 20
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_RUN_OF_LETTERS = re.compile(r"A?B?C?D?")

_HASHES = re.compile(r"####[ \t]*(?P<answer>[^\n#]+)")
# 72 clips in all: GSM8K's answers are numbers, what is counted is nobody's question.
_COUNTED = re.compile(
    r"(?P<number>(?:\\?[$€£]\s?)?-?\d[\d,.]*(?:/\d+)?)(?:\s*(?:\\?%|[€£]))?\s+(?!and\b|or\b|to\b|not\b|[AaPp]\.?[Mm]\b|\w+illion|thousand"
    r"|hundred|dozen)[A-Za-z].*"
)
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


def extract_answer(text: str, kind: AnswerKind, fallback: Fallback = "none", *, strict: bool = False) -> str | None:
    """The answer that `text` (the model's own, without the prompt) ends in; None if it gives none.

    Looked for after the thinking section first; if there is nothing there, anywhere; never in what a model goes on to
    write after its turn. `strict`: a choice counts only in a box, not where it is said. Code is its own answer: None.
    """
    if kind == "code":
        return None
    finders: list[Callable[[str], str | None]] = [_boxed_choice] if kind == "choice" else [last_boxed]
    if kind == "choice" and not strict:
        finders.append(_spoken_choice)
    if fallback == "hashes":
        finders.append(_after_hashes)
    if fallback == "last_number":
        finders.append(_last_number)
    pieces = [piece for scope in _scopes(text) for piece in _turns(scope)]
    found = (find(piece) for find in finders for piece in pieces)
    return next((answer for answer in found if answer), None)


def last_boxed(text: str) -> str | None:
    r"""What is inside the last balanced \boxed{...} or \fbox{...} of `text` that holds anything; None without one.

    A box that only shows how to answer ("as in \boxed{A}") is none.
    """
    for start, end in reversed(_outermost(_balanced_boxes(text))):
        inside = _BOX_COMMAND.sub("", text[start:end]).strip()
        if inside and not _SHOWN.search(text, max(0, start - _SHOWN_CHARS), start):
            return inside
    return None


def choice_letter(answer: str) -> str | None:
    r"""The choice that an answer is: "C" for C, c, \text{(C)}, "C. 42 J", "Option C"; "A, C" where it is several."""
    plain = undress(answer[:_CHOICE_CHARS])
    plain = _TEXT.sub(r" \1 ", plain).strip()
    if len(plain) > 1 and _RUN_OF_LETTERS.fullmatch(plain):
        return ", ".join(plain)
    match = _CHOICE.fullmatch(plain)
    return _joined(match["letters"]) if match else None


def _joined(letters: str) -> str:
    """The letters of a hedge or of one choice, in order."""
    found = re.findall(r"(?<![A-Za-z])[A-Da-d](?![A-Za-z])", letters)
    return ", ".join(sorted({letter.upper() for letter in found}))


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


def _turns(text: str) -> list[str]:
    """`text` cut where the model runs on: the first part that gives an answer is the answer's."""
    starts = [match.start() for match in _RUN_ON.finditer(text)]
    return [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)][:_MAX_TURNS]


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
    """The last choice that is said, in whatever phrase; a hedge as all its letters."""
    said = [(match.end("letters"), match["letters"]) for pattern in _SPOKEN for match in pattern.finditer(text)]
    return _joined(max(said)[1]) if said else None


def _after_hashes(text: str) -> str | None:
    answers = [match["answer"].strip() for match in _HASHES.finditer(text)]
    if not answers:
        return None
    counted = _COUNTED.fullmatch(undress(answers[-1][:_LINE_CHARS]))
    return counted["number"] if counted else answers[-1]


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else None
