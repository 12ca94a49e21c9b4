"""What the Python API returns: a prompt's finished sequences and branches, with texts and log-probabilities.

Everything that runs parallel to a sequence's tokens covers the whole way from the prompt: what belongs to the tokens
that a sequence took over from its parent is the parent's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eager.api.html import Part, foldable
from eager.prefix import common_prefix
from eager.types import Branch, BranchConfig, FinishReason, SamplingParams
from eager.words import count, one_line

_MOST_SHOWN, _MOST_OPEN = 64, 8  # a notebook is saved with what it shows


@dataclass(frozen=True, slots=True, repr=False)
class Sequence:
    """One finished sequence; the first `fork` of its tokens are those of `parent`, an index into the tree's sequences.

    Parallel to `token_ids`, the stop token included:

    - `entropies` (nats, of the K most likely tokens): None where the token was not monitored.
    - `logprobs`: of the model's raw distribution (temperature 1, before top_p and the like). None where the token was
      not monitored, or where it was outside the K best of an engine that knows no others (docs/python.md).
    - `forced`: True where the branch rule put the token there in place of what was drawn, or before anything was.

    `text` is all that was generated, without the stop token. `error` says why where `finish_reason` is "error".
    """

    index: int
    token_ids: tuple[int, ...]
    entropies: tuple[float | None, ...]
    logprobs: tuple[float | None, ...]
    forced: tuple[bool, ...]
    text: str
    finish_reason: FinishReason
    parent: int | None = None
    fork: int = 0
    error: str | None = None

    @property
    def shared_ids(self) -> tuple[int, ...]:
        """The tokens taken over from the parent."""
        return self.token_ids[: self.fork]

    @property
    def own_ids(self) -> tuple[int, ...]:
        """The tokens that were generated for this sequence: its first one stands at `fork`."""
        return self.token_ids[self.fork :]

    def __repr__(self) -> str:
        born = "" if self.parent is None else f", from {self.parent} at {self.fork}"
        own = count(len(self.own_ids), "own token")
        return f"<Sequence {self.index}{born}: {own}, {self.finish_reason}, {one_line(self.text, 60)!r}>"


@dataclass(frozen=True, slots=True, repr=False)
class Tree:
    """A prompt's sequences in the order of their birth, the branches between them, and what they were drawn with.

    Several sequences have no parent where they were sampled side by side, or after `allocate`, which adds further trees
    behind the first `n_init` sequences; `branching` are then still the rules of those. `recomputed` and `discarded`
    count tokens the engine spent on forking beyond those kept.
    """

    prompt_index: int
    prompt_ids: tuple[int, ...]
    prompt_text: str
    sequences: tuple[Sequence, ...]
    branches: tuple[Branch, ...]
    branching: BranchConfig
    sampling: SamplingParams
    seed: int
    max_length: int
    n_init: int
    recomputed: int = 0
    discarded: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens generated, a shared prefix counted once."""
        return sum(len(sequence.own_ids) for sequence in self.sequences)

    @property
    def n_tokens_naive(self) -> int:
        """Tokens that a sampler without sharing would have generated for the same sequences."""
        return sum(len(sequence.token_ids) for sequence in self.sequences)

    def __repr__(self) -> str:
        return f"<{self._headline()}>"

    def _repr_html_(self) -> str:
        """For notebooks: the sequences with their own texts, escaped; long ones, and many, are cut."""
        return foldable(self._headline(), self._parts(), max(0, len(self.sequences) - _MOST_SHOWN))

    def _headline(self) -> str:
        n_branches = len(self.branches)
        branches = "1 branch" if n_branches == 1 else f"{n_branches:,} branches"
        sequences, tokens = count(len(self.sequences), "sequence"), count(self.n_tokens, "token")
        return f"Tree of prompt {self.prompt_index}: {sequences}, {branches}, {tokens}"

    def _parts(self) -> Iterator[Part]:
        yield Part(f"prompt, {count(len(self.prompt_ids), 'token')}", self.prompt_text, is_open=False)
        entropies = {branch.new_seq: branch.entropy for branch in self.branches}
        for sequence in self.sequences[:_MOST_SHOWN]:
            born, before = "", ""
            if sequence.parent is not None:
                entropy = entropies.get(sequence.index)
                height = "" if entropy is None else f", entropy {entropy:.2f}"
                born = f" from {sequence.parent} at token {sequence.fork:,}{height}"
                before = self.sequences[sequence.parent].text
            reason = f"{sequence.finish_reason}: {sequence.error}" if sequence.error else sequence.finish_reason
            title = f"{sequence.index}{born} · {count(len(sequence.own_ids), 'token')} of its own · {reason}"
            own_text = sequence.text[common_prefix(sequence.text, before) :]
            yield Part(title, own_text, is_open=len(self.sequences) <= _MOST_OPEN)
