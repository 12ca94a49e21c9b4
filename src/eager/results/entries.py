"""From a prompt as a result file has it to a record, whoever wrote the file."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

from eager.prefix import common_prefix
from eager.results.experiment import Experiment, Facts
from eager.results.published import (
    CODE_GRADES,
    INHERITED,
    UNMONITORED,
    UnreadableError,
    as_text,
    is_code,
    parse_answers,
    parse_entropies,
    parse_literal,
)
from eager.results.scores import Regrader
from eager.store.records import PromptRecord, SequenceRecord
from eager.types import Branch

_MOST_COUNT = 2**53  # what a float still counts exactly
_WORDS_NOTICE = (
    "written by the published code, which counts the words, not the tokens, of what it generates after a tree's"
    " branching phase (-2.0): token counts are estimates"
)
_NOT_FINITE_NOTICE = "holds entropies that are no finite numbers: such tokens count as not monitored"
_NO_BRANCH_NOTICE = "holds branches whose entropy or threshold is no finite number: they are left out"
_REGRADED_NOTICE = "carries no grades: its answers were compared with the targets now"


class EntryReader:
    """Reads the prompts of one file; `notices` gathers what holds for the file as a whole.

    `regrader` grades where the file carries no grades; without one they stay ungraded.
    """

    def __init__(self, experiment: Experiment, facts: Facts, regrader: Regrader | None) -> None:
        self._experiment = experiment
        self._is_code = is_code(facts.data_name)
        self._regrader = regrader
        self._indices: set[int] = set()
        self.notices: list[str] = []
        self.n_read = 0

    def read(self, entry: Any) -> PromptRecord:
        """The next entry of the file's list. Raises UnreadableError."""
        number = self.n_read
        self.n_read += 1
        if not isinstance(entry, dict):
            raise UnreadableError("not a JSON object")
        texts = _texts(entry)
        rows = _entropies(entry, len(texts))
        n_prompt = _prompt_characters(entry, texts)
        sequences = self._sequences(entry, texts, rows, n_prompt)
        branches = self._branches(entry)
        if "parents" not in entry:
            branches = _placed(branches, texts, sequences)
        n_recomputed, n_discarded = self._waste(entry, rows)
        return PromptRecord(
            experiment=self._experiment.name,
            prompt_index=self._index(entry, number),
            prompt=_said(entry, "prompt") or "",
            prompt_text=texts[0][:n_prompt],
            target=self._target(entry),
            sequences=sequences,
            branches=tuple(branch for branch in branches if _is_inside(branch, len(texts))),
            n_recomputed=n_recomputed,
            n_discarded=n_discarded,
            meta=entry["meta"] if isinstance(entry.get("meta"), dict) else {},
        )

    def _sequences(
        self, entry: dict[str, Any], texts: list[str], rows: list[list[float]], n_prompt: int
    ) -> tuple[SequenceRecord, ...]:
        n = len(texts)
        if not all(map(_is_finite, rows)):
            self._note(_NOT_FINITE_NOTICE)
        answers = _answers(entry, n)
        correct, groups = self._grades(entry, answers)
        forks = _forks(entry, rows)
        parents = _parents(entry, texts, forks)
        reasons = _fitting(entry, "finish_reasons", n, str) or [None] * n
        errors = _fitting(entry, "errors", n, str) or [None] * n
        lenient = _fitting(entry, "lenient_correct", n, bool) or [None] * n
        return tuple(
            SequenceRecord(
                token_ids=None,
                entropies=_own(rows[i], forks[i]),
                text=texts[i][n_prompt:],
                finish_reason=reasons[i],
                parent=parents[i],
                fork=forks[i],
                answer=answers[i],
                correct=correct[i],
                error=errors[i],
                group=groups[i],
                lenient=lenient[i],
            )
            for i in range(n)
        )

    def _branches(self, entry: dict[str, Any]) -> list[Branch]:
        recorded = entry.get("recorded_branches") or []
        if not isinstance(recorded, list):
            raise UnreadableError("'recorded_branches' is not a list")
        try:
            said = [value if isinstance(value, dict) else parse_literal(value) for value in recorded]
            branches = [_branch(fields) for fields in said if _has_entropy(fields)]
        except (TypeError, ValueError, KeyError, OverflowError, RecursionError):
            raise UnreadableError("one of its 'recorded_branches' cannot be read") from None
        if len(branches) < len(recorded):
            self._note(_NO_BRANCH_NOTICE)
        return branches

    def _grades(self, entry: dict[str, Any], answers: list[str | None]) -> tuple[Seq[bool | None], Seq[int | None]]:
        correct = _fitting(entry, "correct", len(answers), bool)
        groups = _fitting(entry, "answer_groups", len(answers), int)
        if correct is None and self._is_code:
            correct = [CODE_GRADES.get(answer or "") for answer in answers]
        if self._regrader is not None:
            if correct is None:
                self._note(_REGRADED_NOTICE)
                correct = self._regrader.grade(answers, self._target(entry))
            groups = groups or self._regrader.group(answers)
        return correct or [None] * len(answers), groups or [None] * len(answers)

    def _waste(self, entry: dict[str, Any], rows: list[list[float]]) -> tuple[int, int]:
        """Tokens recomputed and discarded; files that do not say them may count words for tokens."""
        said = entry.get("tokens")
        if not isinstance(said, dict):
            if any(UNMONITORED in row for row in rows):
                self._note(_WORDS_NOTICE)
            return 0, 0
        counts = [said.get(name, 0) for name in ("generated", "naive", "recomputed", "discarded")]
        if not all(type(count) is int and 0 <= count < _MOST_COUNT for count in counts):
            raise UnreadableError("'tokens' does not hold counts")
        return counts[2], counts[3]

    def _target(self, entry: dict[str, Any]) -> str | None:
        target = _said(entry, "target")
        return None if self._is_code or target is None or target.strip() in ("", "None") else target

    def _index(self, entry: dict[str, Any], number: int) -> int:
        said = entry.get("prompt_index")
        index = said if type(said) is int else number
        if index in self._indices:
            raise UnreadableError(f"'prompt_index' {index} stands in the file twice")
        self._indices.add(index)
        return index

    def _note(self, sentence: str) -> None:
        if sentence not in self.notices:
            self.notices.append(sentence)


def _texts(entry: dict[str, Any]) -> list[str]:
    texts = entry.get("generations")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UnreadableError("'generations' is not a list of texts")
    if not texts:
        raise UnreadableError("'generations' is empty")
    return texts


def _said(entry: dict[str, Any], key: str) -> str | None:
    """The text or number under `key` as a text; None where there is none."""
    value = entry.get(key)
    if value is not None and not isinstance(value, (str, int, float)):
        raise UnreadableError(f"'{key}' is neither a text nor a number")
    return as_text(value)


def _prompt_characters(entry: dict[str, Any], texts: list[str]) -> int:
    """How much of each generation is the prompt; in files that do not say: up to the end of the prompt's own text."""
    said = entry.get("prompt_characters")
    if type(said) is int and said >= 0:
        return said
    prompt = _said(entry, "prompt")
    start = texts[0].find(prompt) if prompt else -1
    end = start + len(prompt) if prompt and start >= 0 else 0
    return end if all(text.startswith(texts[0][:end]) for text in texts) else 0


def _entropies(entry: dict[str, Any], n: int) -> list[list[float]]:
    values = entry.get("entropies")
    if not isinstance(values, list) or len(values) != n:
        raise UnreadableError(f"'entropies' is not a list of {n}, one a generation")
    try:
        return [parse_entropies(value) for value in values]
    except UnreadableError as error:
        raise UnreadableError(f"one of its 'entropies' is {error}") from None


def _answers(entry: dict[str, Any], n: int) -> list[str | None]:
    try:
        answers = parse_answers(entry.get("extracted_answers"))
    except UnreadableError as error:
        raise UnreadableError(f"'extracted_answers' is {error}") from None
    if len(answers) != n:
        raise UnreadableError(f"'extracted_answers' holds {len(answers)} answers for {n} generations")
    return [answer or None for answer in answers]


def _fitting(entry: dict[str, Any], key: str, n: int, kind: type) -> list[Any] | None:
    """The list under `key`; None without one. UnreadableError where it does not fit the generations."""
    values = entry.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(value is None or type(value) is kind for value in values):
        raise UnreadableError(f"'{key}' is not a list of {kind.__name__}")
    if len(values) != n:
        raise UnreadableError(f"'{key}' holds {len(values)} values for {n} generations")
    return values


def _own(row: list[float], fork: int) -> tuple[float | None, ...]:
    """The entropies of a sequence's own tokens, None for a sentinel; by whole lists, as a row can be very long."""
    own = row[fork:]
    if own and _is_finite(own):
        if min(own) >= 0:
            return tuple(own)
        if max(own) < 0:
            return (None,) * len(own)
    return tuple(entropy if 0 <= entropy < _MOST_COUNT else None for entropy in own)


def _is_finite(row: list[float]) -> bool:
    """Whether all are numbers that a mean can be made of."""
    try:
        return math.isfinite(sum(row))
    except OverflowError:  # an integer beyond every float
        return False


# -- trees: who branched from whom; the published code lists sequences in the order they ended -----------------------


def _forks(entry: dict[str, Any], rows: list[list[float]]) -> list[int]:
    forks = _fitting(entry, "forks", len(rows), int)
    if forks is None:
        return [next((i for i, entropy in enumerate(row) if entropy != INHERITED), len(row)) for row in rows]
    if not all(fork is not None and 0 <= fork <= len(row) for fork, row in zip(forks, rows, strict=True)):
        raise UnreadableError("'forks' names tokens that its sequence does not have")
    return forks


def _parents(entry: dict[str, Any], texts: list[str], forks: list[int]) -> list[int | None]:
    if "parents" not in entry:
        return find_parents(texts, forks)
    parents = _fitting(entry, "parents", len(texts), int) or []
    if any(parent is not None and not 0 <= parent < seq for seq, parent in enumerate(parents)):
        raise UnreadableError("'parents' names a sequence that does not come before its child")
    return parents or [None] * len(texts)


def find_parents(texts: Seq[str], forks: Seq[int]) -> list[int | None]:
    """For each sequence that took tokens over, the one with the longest common text among those forked earlier."""
    parents: list[int | None] = []
    for seq, fork in enumerate(forks):
        earlier = [other for other in range(len(texts)) if other != seq and forks[other] < fork]
        shared = {other: common_prefix(texts[seq], texts[other]) for other in earlier}
        parents.append(max(earlier, key=lambda other: shared[other], default=None) if fork else None)
    return parents


def _has_entropy(fields: dict[str, Any]) -> bool:
    said = [fields[name] for name in ("entropy", "entropy_threshold")]
    return all(value is not None and math.isfinite(float(value)) for value in said)


def _branch(fields: dict[str, Any]) -> Branch:
    new_token = fields["man_token_branch"]
    position, entropy, threshold = int(fields["gen_step"]), float(fields["entropy"]), float(fields["entropy_threshold"])
    if not 0 <= position < _MOST_COUNT:
        raise ValueError(f"no branch can be at {position}")
    return Branch(
        seq=int(fields["seq_idx"]),
        position=position,
        entropy=entropy,
        threshold=threshold,
        new_seq=int(fields["new_seq_idx"]),
        sampled_token=str(fields["auto_selected_token"]),
        kept_token=str(fields["man_token_original"]),
        new_token=None if new_token is None else str(new_token),
        text_before=str(fields["last_generated_chars"]),
    )


def _placed(branches: Seq[Branch], texts: Seq[str], sequences: Seq[SequenceRecord]) -> list[Branch]:
    """The branches with the sequences they made, found by position and text; None where none fits."""
    free = set(range(len(texts)))
    placed = []
    for branch in branches:
        start = branch.text_before + (branch.new_token or "")
        fits = (seq for seq in sorted(free) if sequences[seq].fork == branch.position and start in texts[seq])
        child = next(fits, None)
        free.discard(-1 if child is None else child)
        placed.append(replace(branch, seq=None if child is None else sequences[child].parent, new_seq=child))
    return placed


def _is_inside(branch: Branch, n: int) -> bool:
    return all(seq is None or 0 <= seq < n for seq in (branch.seq, branch.new_seq))
