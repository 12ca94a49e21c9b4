"""The words of the house as frozen dataclasses: what passes between the modules.

Everything here is plain data over token ids. Text is made once, at the end; logits stay inside the engines.
A *position* counts generated tokens of a sequence from 0, the prompt not included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import MISSING, dataclass, fields
from numbers import Integral
from typing import Literal, NamedTuple

ENTROPY_TOP_K = 20
"""K of the paper: how many of the largest next-token log-probabilities the entropy is computed from."""

MAX_ENTROPY = math.log(ENTROPY_TOP_K)
"""ln K: the entropy of K equally likely tokens, in nats."""

MAX_VARENTROPY = math.log(ENTROPY_TOP_K - 1) ** 2 / 4 + 1
"""No distribution over K tokens has a greater varentropy, in nats² (Reeb and Wolf 2015, arXiv 1304.0036)."""

TEMPERATURES = (1e-5, 1e5)
"""The lowest and the highest that every engine can draw at."""

BranchRule = Literal["top2", "distinct", "sample"]
FinishReason = Literal["stop", "length", "error", "cut"]
"""`cut`: its tree ended before it did (`stop_after`, `--settle`); it costs what it has, and answers nothing."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is drawn from the model's distribution; the entropy never depends on it.

    A temperature outside [1e-5, 1e5] is refused: logits divided by it leave the range of 32-bit numbers, and below
    it nothing is left to chance. ValueError for that and any other value outside its range; nan and inf are in none.
    """

    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        lowest, highest = TEMPERATURES
        _require(
            lowest <= self.temperature <= highest,
            f"temperature must be in [{lowest:g}, {highest:g}], got {self.temperature!r}",
        )
        _require(0 < self.top_p <= 1, f"top_p must be in (0, 1], got {self.top_p!r}")
        _require(
            isinstance(self.top_k, Integral) and self.top_k >= 0,
            f"top_k must be a whole number, 0 (off) or more, got {self.top_k!r}",
        )
        _require(0 <= self.min_p <= 1, f"min_p must be in [0, 1], got {self.min_p!r}")


@dataclass(frozen=True, slots=True)
class BranchConfig:
    """When and how a tree branches (paper, section 3); the threshold in nats.

    `threshold_percentile` raises the threshold at each position to that percentile (numpy's, linear) of the entropies
    of all the tree's tokens at earlier positions. The code behind the paper's numbers has 99, the paper's text none.

    Two rules of Decoding Tree Sketching (arXiv 2511.00640), both off by default. With `varentropy_threshold` (nats²) a
    token branches, too, where its varentropy exceeds that and its entropy is at most `varentropy_max_entropy`. With
    `stop_after` the tree ends when so many of its sequences have ended, those that end at the same position included.
    """

    max_sequences: int
    entropy_threshold: float
    branch_rule: BranchRule = "top2"
    threshold_percentile: float | None = None
    max_tokens_without_branch: int = 1000
    varentropy_threshold: float | None = None
    varentropy_max_entropy: float = 2.5
    stop_after: int | None = None

    def __post_init__(self) -> None:
        threshold, percentile = self.entropy_threshold, self.threshold_percentile
        _require(self.max_sequences >= 1, f"max_sequences must be at least 1, got {self.max_sequences}")
        _require(
            0 < threshold <= MAX_ENTROPY,
            f"entropy_threshold must be in (0, ln {ENTROPY_TOP_K} = {MAX_ENTROPY!r}], got {threshold!r}",
        )
        _require(self.max_tokens_without_branch >= 1, "max_tokens_without_branch must be at least 1")
        _require(
            percentile is None or 0 <= percentile <= 100, f"threshold_percentile must be in [0, 100], got {percentile}"
        )
        self._check_sketching()

    def _check_sketching(self) -> None:
        varentropy, bound = self.varentropy_threshold, self.varentropy_max_entropy
        _require(
            varentropy is None or 0 <= varentropy < MAX_VARENTROPY,
            f"varentropy_threshold must be in [0, {MAX_VARENTROPY!r}), got {varentropy!r}",
        )
        _require(
            0 < bound <= MAX_ENTROPY,
            f"varentropy_max_entropy must be in (0, ln {ENTROPY_TOP_K} = {MAX_ENTROPY!r}], got {bound!r}",
        )
        _require(
            self.stop_after is None or self.stop_after >= 1, f"stop_after must be at least 1, got {self.stop_after}"
        )


@dataclass(frozen=True, slots=True)
class Stops:
    """What a model's own tokenizer says about endings.

    `stop_ids` end a sequence. `thinking_end` is the run of ids that leaves the thinking section, empty for a
    model that has none.
    """

    stop_ids: frozenset[int]
    thinking_end: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TreeJob:
    """One tree to grow: its prompt, its rules, how it draws, and where its randomness starts.

    `max_length` bounds prompt and generated tokens of a sequence together. `n_roots` sequences are opened at the
    start: 1 for EAGer, `max_sequences` for the parallel baseline, which then has nothing left to branch for.
    `first_sequence` numbers the tree's sequences among all of the prompt's: a later tree on the same prompt
    continues the count, so that it draws anew. With `record_entropies` a tree is monitored to its end, whether it can
    still branch or not. A sequence ends, too, where its text holds one of `stop_texts`, on an engine that is asked for
    that (`eager.engines.text_stops`).
    """

    prompt_index: int
    prompt_ids: tuple[int, ...]
    config: BranchConfig
    sampling: SamplingParams
    max_length: int
    seed: int
    n_roots: int = 1
    first_sequence: int = 0
    record_entropies: bool = False
    stop_texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_prompt, n_most = len(self.prompt_ids), self.config.max_sequences
        _require(n_prompt >= 1, f"prompt {self.prompt_index} has no tokens")
        _require(n_prompt < self.max_length, f"max_length must exceed the prompt's {n_prompt}, got {self.max_length}")
        _require(1 <= self.n_roots <= n_most, f"n_roots must be between 1 and max_sequences, got {self.n_roots}")


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence for an engine to decode, from exactly `token_ids`: at least one, fewer than `max_length`.

    `parent` names a sequence that holds a prefix of `token_ids`, which may be `seq_id` itself: a hint for sharing the
    KV cache. `monitor` asks for the entropy and the K best of every token. The first `n_prompt` ids are the prompt;
    they and `stop_texts` are for `eager.engines.text_stops`: engines by themselves look at no text.
    """

    seq_id: int
    token_ids: Seq[int]
    sampling: SamplingParams
    max_length: int
    seed: int
    parent: int | None = None
    monitor: bool = True
    n_prompt: int = 0
    stop_texts: tuple[str, ...] = ()


class Token(NamedTuple):
    """A decoded token; of a monitored sequence with the entropy (nats) it was drawn under and the K best.

    `best_ids` and `best_logprobs`: most likely first, of the raw distribution. Where not monitored, None and empty.
    `logprob` is the token's own; None, too, on an engine that knows only those of the K best (see `logprob_of`).
    """

    id: int
    entropy: float | None = None
    best_ids: Seq[int] = ()
    best_logprobs: Seq[float] = ()
    logprob: float | None = None

    def logprob_of(self, token_id: int) -> float | None:
        """The raw log-probability that `token_id` had at this place; None where that is not known."""
        if token_id in self.best_ids:
            return self.best_logprobs[self.best_ids.index(token_id)]
        return self.logprob if token_id == self.id else None


@dataclass(slots=True)
class Delta:
    """What an engine decoded for one sequence since its last report.

    `tokens` in order, the stop token included. `finish_reason` None means that the sequence goes on. `recomputed`
    counts tokens that went through the model a second time for this sequence since its last report, `discarded` those
    decoded for nothing.
    """

    seq_id: int
    tokens: Seq[Token]
    finish_reason: FinishReason | None = None
    error: str | None = None
    recomputed: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """Decode sequence `seq` from exactly `token_ids`; `parent` already holds a prefix of them."""

    seq: int
    token_ids: tuple[int, ...]
    parent: int | None
    monitor: bool


@dataclass(frozen=True, slots=True)
class Close:
    """Sequence `seq` has ended where the engine would have gone on."""

    seq: int


@dataclass(frozen=True, slots=True)
class Unmonitor:
    """Sequence `seq` can branch no more: its entropies are no longer needed."""

    seq: int


Action = Open | Close | Unmonitor


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch as it happened: at `position`, `seq` went on with `kept_id` and `new_seq` began with `new_id`.

    `new_id` is None where the new sequence failed before its first token; ids and sequences are None where the file
    that was read does not say them. The tokens as text, and what stood before them, are added when a record is made.
    """

    seq: int | None
    position: int
    entropy: float
    threshold: float
    new_seq: int | None
    sampled_id: int | None = None
    kept_id: int | None = None
    new_id: int | None = None
    sampled_token: str | None = None
    kept_token: str | None = None
    new_token: str | None = None
    text_before: str = ""


@dataclass(frozen=True, slots=True)
class SequenceResult:
    """One finished sequence: all its generated tokens, of which the first `fork` were taken over from `parent`.

    `entropies` (nats) runs parallel to `token_ids`; None where the token was inherited or not monitored. So does
    `logprobs`, the tokens' raw log-probabilities, None also where the engine does not tell; empty where the source of
    the tree has none.
    """

    token_ids: tuple[int, ...]
    entropies: tuple[float | None, ...]
    finish_reason: FinishReason
    parent: int | None = None
    fork: int = 0
    error: str | None = None
    logprobs: tuple[float | None, ...] = ()

    @property
    def n_own_tokens(self) -> int:
        return len(self.token_ids) - self.fork


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished tree. `recomputed` and `discarded` count tokens the engine spent on forking beyond the kept ones."""

    sequences: tuple[SequenceResult, ...]
    branches: tuple[Branch, ...] = ()
    recomputed: int = 0
    discarded: int = 0

    @property
    def children(self) -> tuple[SequenceResult, ...]:
        """The sequences that the branches began, one each and in their order; the roots come before them."""
        return self.sequences[len(self.sequences) - len(self.branches) :]

    @property
    def n_tokens(self) -> int:
        """Tokens kept, a shared prefix counted once."""
        return sum(sequence.n_own_tokens for sequence in self.sequences)

    @property
    def n_tokens_naive(self) -> int:
        """Tokens that a sampler without sharing would have generated for the same sequences."""
        return sum(len(sequence.token_ids) for sequence in self.sequences)


def rules_set(rules: BranchConfig) -> frozenset[str]:
    """Which of the rules differ from their defaults, those aside that have none."""
    return frozenset(
        field.name for field in fields(rules) if field.default not in (MISSING, getattr(rules, field.name))
    )
