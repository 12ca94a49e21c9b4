"""What a threshold would cost, from one monitored sequence of each of a few prompts: the exposure model.

Branching grows exposure: children are monitored too, and may branch in turn, until the tree is full. So trees are
simulated, under the Brancher's own rules. A root goes along the stream of its prompt. A child goes on, after the token
it was born with, along a stream drawn from the pool at the same position, mostly that of its own prompt: how
uncertain and how long its answers are belongs to the prompt. What is not in the streams is not in the model: that a
second choice of token may lead to text which is more uncertain, or longer, than what the model writes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from eager.branching import Brancher
from eager.metrics import Score, mean_score, saved_share
from eager.types import Branch, BranchConfig, Delta, Open, SamplingParams, Stops, Token, TreeJob, rules_set

# Ids that stand for what the rules see in a token: that it ends the sequence, ends its thinking, or neither; and the
# token that a branch begins with.
_STOP, _THINKING_END, _ANY, _SECOND = range(4)
_STOPS = Stops(frozenset({_STOP}), (_THINKING_END,))
_OWN_SHARE = 0.5
_TREES_A_PROMPT = 8
_KNOWN_RULES = frozenset({"branch_rule", "threshold_percentile", "max_tokens_without_branch"})


def check_rules(rules: BranchConfig) -> None:
    """Raises ValueError where trees under these rules depend on more than entropies."""
    if other := rules_set(rules) - _KNOWN_RULES:
        raise ValueError(f"what {', '.join(sorted(other))} would cost cannot be foreseen: give a threshold as a number")


@dataclass(frozen=True, slots=True)
class Stream:
    """One sequence of a prompt, monitored to its end: the entropies of its tokens in nats, at least one.

    `has_stopped` is False where it ran into the bound on its length. `n_thinking` are the tokens until it had left its
    thinking section, the marker included; None where it never did.
    """

    entropies: tuple[float, ...]
    has_stopped: bool
    n_thinking: int | None = None

    def is_open_at(self, position: int) -> bool:
        """Whether the token there may still branch."""
        return position < len(self.entropies) and (self.n_thinking is None or position < self.n_thinking)

    def tokens(self) -> list[Token]:
        """The stream as an engine would deliver it."""
        ids = [_ANY] * len(self.entropies)
        if self.n_thinking is not None:
            ids[self.n_thinking - 1] = _THINKING_END
        if self.has_stopped:
            ids[-1] = _STOP
        return [Token(i, h, (i, _SECOND), (0.0, -1.0)) for i, h in zip(ids, self.entropies, strict=True)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a prompt takes on average at a threshold, with 95 % intervals over prompts.

    `saved` is the share of the tokens that as many independent sequences as the rules allow would take.
    """

    threshold: float
    n_sequences: Score
    n_tokens: Score
    saved: Score


class Exposure:
    """Simulated trees over the streams of a few prompts; the same draws at every threshold."""

    def __init__(self, streams: Seq[Stream], rules: BranchConfig, max_tokens: int | None = None) -> None:
        """`rules` but for their threshold; `max_tokens` bounds a sequence.

        Raises ValueError without a stream, and as `check_rules`.
        """
        check_rules(rules)
        if not streams:
            raise ValueError("an estimate needs at least one stream")
        self._streams = streams
        self._tokens = [stream.tokens() for stream in streams]
        self._rules = rules
        self._longest = max_tokens or max(map(len, self._tokens))

    def at(self, threshold: float) -> Estimate:
        """The estimate for this threshold."""
        rules = replace(self._rules, entropy_threshold=threshold)
        means = [self._mean_of_prompt(prompt, rules) for prompt in range(len(self._streams))]
        naive = [rules.max_sequences * len(tokens) for tokens in self._tokens]
        sequences, tokens = zip(*means, strict=True)
        saved = saved_share(list(zip(tokens, naive, strict=True)))
        return Estimate(threshold, mean_score(sequences), mean_score(tokens), saved)

    def quantile(self, share: float) -> float:
        """The entropy below which this share of all tokens lies."""
        return float(np.quantile([h for stream in self._streams for h in stream.entropies], share))

    def _mean_of_prompt(self, prompt: int, rules: BranchConfig) -> tuple[float, float]:
        trees = [self._tree(prompt, rules, Random(f"{prompt}/{tree}")) for tree in range(_TREES_A_PROMPT)]
        sequences, tokens = zip(*trees, strict=True)
        return sum(sequences) / _TREES_A_PROMPT, sum(tokens) / _TREES_A_PROMPT

    def _tree(self, prompt: int, rules: BranchConfig, random: Random) -> tuple[int, int]:
        """How many sequences and tokens one simulated tree has."""
        job = TreeJob(prompt, (_ANY,), rules, SamplingParams(), len((_ANY,)) + self._longest, seed=0)
        brancher = Brancher(job, _STOPS)
        actions = brancher.start()
        while opened := [action for action in actions if isinstance(action, Open)]:
            actions = brancher.observe([(one.seq, self._way(one, prompt, brancher.branches, random)) for one in opened])
        tree = brancher.result()
        return len(tree.sequences), tree.n_tokens

    def _way(self, opened: Open, prompt: int, branches: Seq[Branch], random: Random) -> Delta:
        """All that a sequence will decode: the root its own stream, a child the rest of one drawn from the pool."""
        position = len(opened.token_ids) - 1
        if opened.parent is None:
            return self._rest(opened.seq, prompt, 0)
        if self._rules.branch_rule != "sample":
            return self._rest(opened.seq, self._donor(prompt, position, random), position)
        # The child draws the token at its birth anew, from the distribution that its parent drew from.
        rest = self._rest(opened.seq, self._donor(prompt, position + 1, random), position + 1)
        entropy = branches[opened.seq - 1].entropy
        return replace(rest, tokens=[Token(_ANY, entropy, (_ANY, _SECOND), (0.0, -1.0)), *rest.tokens])

    def _rest(self, seq: int, stream: int | None, position: int) -> Delta:
        if stream is None:
            return Delta(seq, (), "length")
        has_stopped = self._streams[stream].has_stopped
        return Delta(seq, self._tokens[stream][position:], "stop" if has_stopped else "length")

    def _donor(self, prompt: int, position: int, random: Random) -> int | None:
        """A stream that goes on at this position, still thinking; None where all have ended."""
        fitting = [i for i, stream in enumerate(self._streams) if stream.is_open_at(position)]
        if prompt in fitting and random.random() < _OWN_SHARE:
            return prompt
        return random.choice(fitting) if fitting else None
