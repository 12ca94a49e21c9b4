"""A tree grown over the gate, as a server's plugin does it, and the same tree grown by `eager.branching`."""

from dataclasses import dataclass, field

from fake_runners import Request
from vllm import SamplingParams

from eager.branching import Brancher
from eager.engines._gate_rule import Rule
from eager.engines._vllm_top import best_of, entropy_of
from eager.randomness import sequence_seed
from eager.types import Close, Delta, Open, Token, Unmonitor

FIRST = {"top2": ("best", "second"), "sample": ("drawn", "drawn")}
"""How parent and child go on from a branch, by branch rule."""


@dataclass(eq=False)
class Sequence:
    index: int
    tokens: list
    parent: int | None = None
    fork: int = 0
    request: Request | None = None


@dataclass
class GatedTree:
    """Opens the requests of one job on a runner; `on_tokens` takes what they drew."""

    job: object
    stops: object
    pause_id: int
    runner: object
    name: str = "tree"
    sequences: list = field(default_factory=list)
    branches: list = field(default_factory=list)
    finish: dict = field(default_factory=dict)
    over: list = field(default_factory=list)
    """Requests that ended since it was last emptied."""

    def start(self):
        self._add(Sequence(0, []), None)

    @property
    def open(self):
        return [sequence for sequence in self.sequences if sequence.index not in self.finish]

    def _add(self, sequence, first):
        self.sequences.append(sequence)
        self._request(sequence, first)

    def _request(self, sequence, first):
        job, config = self.job, self.job.config
        rule = Rule(
            self.name,
            sequence.index,
            len(job.prompt_ids),
            config.max_sequences - 1,
            config.entropy_threshold,
            self.pause_id,
            config.threshold_percentile,
            config.max_tokens_without_branch,
            self.stops.thinking_end,
            first,
        )
        prompt = [*job.prompt_ids, *sequence.tokens]
        params = SamplingParams(
            temperature=1.0,
            max_tokens=job.max_length - len(prompt),
            stop_token_ids=[*self.stops.stop_ids, self.pause_id],
            ignore_eos=True,
            extra_args=rule.args,
        )
        sequence.request = Request(params, prompt, sequence_seed(job.seed, job.prompt_index, sequence.index))
        self.runner.add(sequence.request)

    def on_tokens(self):
        """Look at each open request's newest token: keep it, or branch."""
        for sequence in self.open:
            outputs = sequence.request.outputs
            if not outputs or len(sequence.request.tokens) == len(self.job.prompt_ids) + len(sequence.tokens):
                continue
            if outputs[-1] == self.pause_id:
                self.over.append(sequence.request)
                self._branch(sequence)
                continue
            sequence.tokens.append(outputs[-1])
            if outputs[-1] in self.stops.stop_ids:
                self.over.append(sequence.request)
                self.finish[sequence.index] = "stop"
            elif len(self.job.prompt_ids) + len(sequence.tokens) == self.job.max_length:
                self.finish[sequence.index] = "length"

    def _branch(self, sequence):
        child = Sequence(len(self.sequences), list(sequence.tokens), sequence.index, len(sequence.tokens))
        self.branches.append((sequence.index, len(sequence.tokens), child.index))
        parent_first, child_first = FIRST[self.job.config.branch_rule]
        self._request(sequence, parent_first)
        self._add(child, child_first)


def grow_as_published(model, job, stops):
    """The finished tree by `Brancher`, with the model's own draws and the gate's own entropies."""
    brancher = Brancher(job, stops)
    opened, actions = {}, brancher.start()
    while True:
        for action in actions:
            if isinstance(action, Open):
                opened[action.seq] = list(action.token_ids)
            elif isinstance(action, Close):
                del opened[action.seq]
            else:
                assert isinstance(action, Unmonitor)
        if brancher.is_done:
            return brancher.result()
        actions = brancher.observe([(index, _decode(model, job, stops, opened, index)) for index in list(opened)])


def _decode(model, job, stops, opened, index):
    tokens = opened[index]
    logits = model.logits(tokens).unsqueeze(0)
    values, best = best_of(logits)
    entropy, ids = entropy_of(values).item(), best[0].tolist()
    logprobs = logits.log_softmax(dim=-1)[0, ids].tolist()
    tokens.append(model.draw(tokens, sequence_seed(job.seed, job.prompt_index, index)))
    finish = "stop" if tokens[-1] in stops.stop_ids else "length" if len(tokens) == job.max_length else None
    if finish:
        del opened[index]
    return Delta(index, [Token(tokens[-1], entropy, ids, logprobs)], finish)
