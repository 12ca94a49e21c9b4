"""From a generated text to the program in it. Only looks: nothing here runs or parses the program."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from eager.grading.extract import after_thinking

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)(?P<rest>.*)")
_PYTHON = frozenset(("python", "py", "python3", "python2", "ipython", "pycon", ""))
# Where the model's turn begins, in the templates of the models one meets.
_TURNS = (
    "<|im_start|>assistant",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<|start|>assistant",
    "<|assistant|>",
    "<｜Assistant｜>",  # noqa: RUF001 - DeepSeek's own bars
    "<start_of_turn>model",
    "[/INST]",
)
_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|eot_id|return|end|end_of_text)\|>|<end_of_turn>|</s>")


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    code: str


def extract_program(text: str, entry_point: str, prompt: str) -> str | None:
    """The program in `text` (the model's own words); None where there is none.

    After the thinking section the last fenced block that defines `entry_point`, else the last one of Python, else all
    of the text. What begins indented goes on where `prompt` (the function's head) ends.
    """
    answer = _END_OF_TURN.sub("", after_thinking(text))
    blocks = list(_blocks(answer))
    python = [block.code for block in blocks if block.language.lower() in _PYTHON] or [block.code for block in blocks]
    defining = [code for code in python if defines(code, entry_point)]
    program = (defining or python or [answer])[-1]
    if not program.strip():
        return None
    if not defines(program, entry_point) and program.lstrip("\n")[0] in " \t":
        return f"{prompt.rstrip()}\n{program}"
    return program


def defines(program: str, name: str) -> bool:
    """Whether `program` seems to define `name` at its top level."""
    pattern = rf"^(?:(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b|{re.escape(name)}[ \t]*(?::[^\n=]*)?=(?!=))"
    return re.search(pattern, program, re.MULTILINE) is not None


def own_words(generation: str, prompt: str) -> str:
    """`generation` without the prompt that it begins with, for files that do not say how long that is."""
    start = generation.find(prompt.strip()) if prompt.strip() else -1
    if start < 0:
        return generation
    rest = generation[start + len(prompt.strip()) :]
    turns = [rest.find(turn) + len(turn) for turn in _TURNS if turn in rest]
    return rest[min(turns) :] if turns else rest


def _blocks(text: str) -> Iterator[_Block]:
    """The fenced blocks, in order; one that is never closed ends with the text."""
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line.rstrip())
        is_bare = fence is not None and not fence["language"] and not fence["rest"].strip()
        if opened is None:
            if fence is not None and "`" not in fence["rest"]:
                opened, lines = fence, []
        elif fence is not None and is_bare and fence["marks"].startswith(opened["marks"]):
            yield _block(opened, lines)
            opened = None
        elif fence is not None and not is_bare and fence["marks"] == opened["marks"] and fence["language"] in _PYTHON:
            # A fence with a language only opens: what seemed open was the end of a block that began before the text.
            yield _block(opened, lines)
            opened, lines = fence, []
        else:
            lines.append(line)
    if opened is not None:
        yield _block(opened, lines)


def _block(opened: re.Match[str], lines: list[str]) -> _Block:
    code = "\n".join(lines) + "\n"
    return _Block(opened["language"], textwrap.dedent(code) if opened["indent"] else code)
