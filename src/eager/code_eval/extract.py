"""From a generation to the answer in it. Only looks: which program the answer holds, `program` finds in the sandbox."""

from __future__ import annotations

import re

from eager.grading.extract import END_OF_THINKING

# Where a thinking section begins: the marks that END_OF_THINKING ends.
_THINKING = ("<think>", "<|channel|>analysis<|message|>")
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


def answer_in(text: str) -> str | None:
    """What `text` (the model's own words) says after its thinking section; None where that never ends."""
    start = _last_end(text, END_OF_THINKING)
    answer = text[start:]
    thoughts = [answer.find(mark) for mark in _THINKING if mark in answer]
    if not thoughts:
        return _END_OF_TURN.sub("", answer)
    answer = answer[: min(thoughts)]
    return _END_OF_TURN.sub("", answer) if answer.strip() else None


def with_open_thought(text: str, opening: str) -> str:
    """`text`, with the mark before it that `opening` (the prompt as the model got it) leaves open at its end."""
    begun = _last_end(opening, _THINKING)
    if begun <= _last_end(opening, END_OF_THINKING):
        return text
    return next(mark for mark in _THINKING if opening.endswith(mark, 0, begun)) + text


def own_words(generation: str, prompt: str) -> str:
    """`generation` without the prompt that it begins with, for files that do not say how long that is."""
    start = generation.find(prompt.strip()) if prompt.strip() else -1
    if start < 0:
        return generation
    rest = generation[start + len(prompt.strip()) :]
    turns = [rest.find(turn) + len(turn) for turn in _TURNS if turn in rest]
    return rest[min(turns) :] if turns else rest


def _last_end(text: str, marks: tuple[str, ...]) -> int:
    """Where the last of `marks` in `text` ends; 0 without one."""
    return max((text.rfind(mark) + len(mark) for mark in marks if mark in text), default=0)
