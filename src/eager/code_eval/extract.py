"""From a generation to the answer in it. Only looks: which program the answer holds, `program` finds in the sandbox."""

from __future__ import annotations

import re

from eager.grading.extract import after_thinking

# Where a thinking section begins, as `after_thinking` knows where it ends.
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
    answer = after_thinking(text)
    thoughts = [answer.find(mark) for mark in _THINKING if mark in answer]
    if thoughts:
        answer = answer[: min(thoughts)]
        if not answer.strip():
            return None
    return _END_OF_TURN.sub("", answer)


def with_open_thought(text: str, opening: str) -> str:
    """`text`, with the mark before it of a thought that `opening`, the prompt as the model got it, ends in."""
    end = opening.rstrip()
    return next((mark + text for mark in _THINKING if end.endswith(mark)), text)


def own_words(generation: str, prompt: str) -> str:
    """`generation` without the prompt that it begins with, for files that do not say how long that is."""
    start = generation.find(prompt.strip()) if prompt.strip() else -1
    if start < 0:
        return generation
    rest = generation[start + len(prompt.strip()) :]
    turns = [rest.find(turn) + len(turn) for turn in _TURNS if turn in rest]
    return rest[min(turns) :] if turns else rest
