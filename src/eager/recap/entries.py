"""From a prompt as a result file has it to a `ReadPrompt`, whoever wrote the file."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eager.recap.grades import Regrader
from eager.recap.lineage import find_parents, inherited_tokens, place_branches
from eager.recap.parsing import UnreadableError, parse_answers, parse_branch, parse_entropies
from eager.recap.prompt import ReadBranch, ReadExperiment, ReadPrompt

_MOST = 2**53  # what numpy still counts exactly
_WORDS_NOTICE = (
    "written by the published code, which counts the words, not the tokens, of what it generates after a tree's"
    " branching phase (-2.0): token counts are estimates"
)
_REGRADED_NOTICE = "carries no grades: its answers were compared with the targets now"


class NotAPromptError(ValueError):
    """An entry that cannot be used; the message says what is wrong with it."""


class EntryReader:
    """Reads the entries of one file; `notices` gathers what holds for the file as a whole."""

    def __init__(self, experiment: ReadExperiment, regrader: Regrader) -> None:
        self._experiment = experiment
        self._regrader = regrader
        self.notices: list[str] = []
        self.n_read = 0

    def read(self, entry: Any, number: int) -> ReadPrompt:
        """The `number`-th entry (from 0) of the file's list. Raises NotAPromptError."""
        self.n_read += 1
        if not isinstance(entry, dict):
            raise NotAPromptError("not a JSON object")
        texts = _texts(entry)
        n = len(texts)
        entropies = _entropies(entry, n)
        answers = _answers(entry, n)
        target = _target(entry)
        correct, groups = self._grades(entry, answers, target)
        forks = _forks(entry, entropies)
        parents = _parents(entry, texts, forks)
        branches: Seq[ReadBranch] = _branches(entry)
        if "parents" not in entry:
            branches = place_branches(branches, texts, forks, parents)
        tokens = self._tokens(entry, entropies)
        return ReadPrompt(
            index=_index(entry, number),
            prompt=_text(entry, "prompt") or "",
            target=target,
            texts=tuple(texts),
            prompt_characters=_prompt_characters(entry, texts),
            answers=tuple(answers),
            correct=tuple(correct),
            groups=tuple(groups),
            entropies=tuple(entropies),
            parents=tuple(parents),
            forks=tuple(forks),
            finish_reasons=tuple(_fitting(entry, "finish_reasons", n, str) or [None] * n),
            branches=tuple(branch for branch in branches if _is_inside(branch, n)),
            n_generated=tokens[0],
            n_naive=tokens[1],
            n_recomputed=tokens[2],
            n_discarded=tokens[3],
        )

    def _grades(
        self, entry: dict[str, Any], answers: list[str | None], target: str | None
    ) -> tuple[list[bool | None], list[int | None]]:
        correct = _fitting(entry, "correct", len(answers), bool)
        groups = _fitting(entry, "answer_groups", len(answers), int)
        if correct is None:
            self._note(_REGRADED_NOTICE)
            correct = self._regrader.grade(answers, target, self._experiment.data_name)
        if groups is None:
            groups = self._regrader.group(answers)
        return correct, groups

    def _tokens(self, entry: dict[str, Any], entropies: Seq[NDArray[np.float32]]) -> tuple[int, int, int, int]:
        """Generated, naive, recomputed, discarded."""
        said = entry.get("tokens")
        if isinstance(said, dict):
            numbers = [said.get(name, 0) for name in ("generated", "naive", "recomputed", "discarded")]
            if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
                raise NotAPromptError("'tokens' does not hold counts")
            return numbers[0], numbers[1], numbers[2], numbers[3]
        if any((e == -2.0).any() for e in entropies):
            self._note(_WORDS_NOTICE)
        return sum(int((e != -1.0).sum()) for e in entropies), sum(e.size for e in entropies), 0, 0

    def _note(self, sentence: str) -> None:
        if sentence not in self.notices:
            self.notices.append(sentence)


def _texts(entry: dict[str, Any]) -> list[str]:
    texts = entry.get("generations")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise NotAPromptError("'generations' is not a list of texts")
    if not texts:
        raise NotAPromptError("'generations' is empty")
    return texts


def _entropies(entry: dict[str, Any], n: int) -> list[NDArray[np.float32]]:
    values = entry.get("entropies")
    if not isinstance(values, list) or len(values) != n:
        raise NotAPromptError(f"'entropies' is not a list of {n}, one a generation")
    try:
        return [parse_entropies(value) for value in values]
    except UnreadableError as error:
        raise NotAPromptError(f"one of its 'entropies' is {error}") from None


def _answers(entry: dict[str, Any], n: int) -> list[str | None]:
    try:
        answers = parse_answers(entry.get("extracted_answers"))
    except UnreadableError as error:
        raise NotAPromptError(f"'extracted_answers' is {error}") from None
    if len(answers) != n:
        raise NotAPromptError(f"'extracted_answers' holds {len(answers)} answers for {n} generations")
    return answers


def _target(entry: dict[str, Any]) -> str | None:
    target = _text(entry, "target")
    return None if target is None or target.strip() in ("", "None") else target


def _text(entry: dict[str, Any], key: str) -> str | None:
    """The text or number under `key` as a text; None where there is none."""
    value = entry.get(key)
    if value is not None and not isinstance(value, (str, int, float)):
        raise NotAPromptError(f"'{key}' is neither a text nor a number")
    return None if value is None else str(value)


def _forks(entry: dict[str, Any], entropies: Seq[NDArray[np.float32]]) -> list[int]:
    forks = _fitting(entry, "forks", len(entropies), int) or [inherited_tokens(e) for e in entropies]
    if not all(fork is not None and 0 <= fork <= e.size for fork, e in zip(forks, entropies, strict=True)):
        raise NotAPromptError("'forks' names tokens that its sequence does not have")
    return forks


def _parents(entry: dict[str, Any], texts: list[str], forks: list[int]) -> list[int | None]:
    if "parents" not in entry:
        return find_parents(texts, forks)
    parents = _fitting(entry, "parents", len(texts), int) or []
    if any(parent is not None and not 0 <= parent < seq for seq, parent in enumerate(parents)):
        raise NotAPromptError("'parents' names a sequence that does not come before its child")
    return parents


def _branches(entry: dict[str, Any]) -> list[ReadBranch]:
    recorded = entry.get("recorded_branches") or []
    if not isinstance(recorded, list):
        raise NotAPromptError("'recorded_branches' is not a list")
    try:
        return [_branch(parse_branch(value)) for value in recorded]
    except (UnreadableError, TypeError, ValueError, KeyError, OverflowError, RecursionError):
        raise NotAPromptError("one of its 'recorded_branches' cannot be read") from None


def _branch(fields: dict[str, Any]) -> ReadBranch:
    new_token = fields["man_token_branch"]
    position, entropy, threshold = int(fields["gen_step"]), float(fields["entropy"]), float(fields["entropy_threshold"])
    if not (0 <= position < _MOST and math.isfinite(entropy) and math.isfinite(threshold)):
        raise ValueError(f"no branch can be at {position} with entropy {entropy} over {threshold}")
    return ReadBranch(
        seq=int(fields["seq_idx"]),
        position=position,
        entropy=entropy,
        threshold=threshold,
        sampled_token=str(fields["auto_selected_token"]),
        kept_token=str(fields["man_token_original"]),
        new_token=None if new_token is None else str(new_token),
        new_seq=int(fields["new_seq_idx"]),
        before=str(fields["last_generated_chars"]),
    )


def _is_inside(branch: ReadBranch, n: int) -> bool:
    return all(seq is None or 0 <= seq < n for seq in (branch.seq, branch.new_seq))


def _fitting(entry: dict[str, Any], key: str, n: int, kind: type) -> list[Any] | None:
    """The list under `key`; None without one. NotAPromptError where it does not fit the generations."""
    values = entry.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(value is None or type(value) is kind for value in values):
        raise NotAPromptError(f"'{key}' is not a list of {kind.__name__}")
    if len(values) != n:
        raise NotAPromptError(f"'{key}' holds {len(values)} values for {n} generations")
    return values


def _index(entry: dict[str, Any], number: int) -> int:
    index = entry.get("prompt_index")
    return index if type(index) is int else number


def _prompt_characters(entry: dict[str, Any], texts: list[str]) -> int:
    """How much of each generation is the prompt; in files that do not say: up to the end of the prompt's own text."""
    said = entry.get("prompt_characters")
    if type(said) is int and said >= 0:
        return said
    prompt = _text(entry, "prompt")
    start = texts[0].find(prompt) if prompt else -1
    return start + len(prompt) if prompt and start >= 0 else 0
