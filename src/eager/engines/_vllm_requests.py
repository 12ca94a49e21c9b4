"""Sequences as vLLM requests: opening and aborting them, and turning what vLLM returns into deltas.

A sequence that is opened again is a new request under a new id, so that whatever still comes for the old one is known
to be stale. Sequences beyond the capacity wait here, whole families of them, and not in vLLM's own queue: where one
sequence of a tree waits and the others go on, a branch throws away what these ran ahead. `llm` is vLLM's `LLMEngine`
or, in tests, anything with its `add_request`, `abort_request`, `step` and `has_unfinished_requests`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Any

from eager.engines._draw import NO_DISTRIBUTION
from eager.engines._refusals import Refusals, failed
from eager.engines._vllm_room import Family, Room
from eager.engines._vllm_watch import Watch, watch_logprobs
from eager.engines.base import EngineError
from eager.errors import first_line
from eager.types import Delta, FinishReason, Request, Token

NewParams = Callable[[Request, Watch], Any]
"""vLLM's sampling parameters; what is seen of the request's logits goes into the Watch."""

_FINISH: dict[str | None, FinishReason | None] = {None: None, "stop": "stop", "length": "length"}


@dataclass(slots=True, eq=False)
class _Sequence:
    """An open sequence; `token_ids` of its request are delivered. It waits while it has no `request_id`."""

    request: Request
    family: Family
    watch: Watch
    is_continued: bool
    request_id: str | None = None
    has_begun: bool = False
    token_ids: list[int] = field(default_factory=list)
    discarded: int = 0

    @property
    def seq_id(self) -> int:
        return self.request.seq_id

    @property
    def length(self) -> int:
        return len(self.request.token_ids) + len(self.token_ids)

    def wait(self) -> None:
        """Go on later, as a request on all there is so far."""
        self.request = replace(self.request, token_ids=[*self.request.token_ids, *self.token_ids])
        self.watch, self.token_ids = Watch(self.watch.is_on), []
        self.is_continued = self.is_continued or self.has_begun
        self.has_begun, self.request_id = False, None


class Requests:
    """The open sequences of one engine."""

    def __init__(
        self,
        llm: Any,
        new_params: NewParams,
        *,
        refusals: Refusals,
        room: Room,
        capacity: int,
        errors_of_requests: tuple[type[Exception], ...] = (ValueError,),
    ) -> None:
        """`capacity`: sequences decoded at once. `errors_of_requests`: what `llm` raises of a request it refuses."""
        self._llm = llm
        self._new_params = new_params
        self._refusals = refusals
        self._room = room
        self._capacity = capacity
        self._errors_of_requests = errors_of_requests
        self._open: dict[int, _Sequence] = {}
        self._by_id: dict[str, _Sequence] = {}  # all of these but those that wait
        self._n_requests = 0
        self._is_whole = True

    def __len__(self) -> int:
        return len(self._open)

    def open(self, request: Request) -> None:
        self._mend()
        seq_id = request.seq_id
        family = self._room.family_of(request.parent)
        self.close(seq_id)
        if self._refusals.refuses(request):
            return
        family = self._room.join(seq_id, family, len(request.token_ids))
        sequence = _Sequence(request, family, Watch(request.monitor), request.parent is not None)
        any_waits = self._any_waits
        self._open[seq_id] = sequence
        if not any_waits and len(self._by_id) < self._capacity:
            self._start(sequence)

    def close(self, seq_id: int) -> None:
        self._refusals.forget(seq_id)
        sequence = self._open.get(seq_id)
        if sequence is not None:
            self._forget(sequence)
            if sequence.request_id is not None:
                self._llm.abort_request([sequence.request_id])

    def forget_all(self) -> list[str]:
        """vLLM broke: no sequence is open any more. Returns the ids of their requests, which it may still hold."""
        request_ids = list(self._by_id)
        for sequence in list(self._open.values()):
            self._forget(sequence)
        self._refusals.take()
        return request_ids

    def unmonitor(self, seq_id: int) -> None:
        if seq_id in self._open:
            self._open[seq_id].watch.is_on = False

    def step(self) -> list[Delta]:
        self._mend()
        self._is_whole = False
        self._room.settle()
        if self._any_waits:
            self._arrange()
        outputs = self._llm.step() if self._by_id else ()
        deltas = self._refusals.take()
        known = [(self._by_id.get(output.request_id), output) for output in outputs]
        watch_logprobs(_returned(known))
        for sequence, output in known:
            if sequence is None:
                self._discard(output)
            else:
                deltas.append(self._delta(sequence, output))
        self._is_whole = True
        return deltas

    # -- who is decoded, and who waits --------------------------------------------------------------------------

    @property
    def _any_waits(self) -> bool:
        return len(self._by_id) < len(self._open)

    def _arrange(self) -> None:
        """Decode the oldest families that fit, each of them whole; the others wait.

        What is too much of a family that is larger than the capacity is left to vLLM's queue.
        """
        families: dict[Family, list[_Sequence]] = {}
        for sequence in self._open.values():
            families.setdefault(sequence.family, []).append(sequence)
        n_decoded = 0
        for family in sorted(families, key=lambda family: family.number):
            members = families[family]
            fits = n_decoded == 0 or n_decoded + len(members) <= self._capacity
            n_decoded += len(members) if fits else 0
            for sequence in members:
                if fits and sequence.request_id is None:
                    self._start(sequence)
                elif not fits and sequence.request_id is not None:
                    self._hold(sequence, sequence.request_id)

    def _start(self, sequence: _Sequence) -> None:
        """Hand the sequence to vLLM; what is wrong with it, if anything, goes into its record."""
        self._n_requests += 1
        request, request_id = sequence.request, f"{sequence.seq_id}-{self._n_requests}"
        prompt = {"type": "token", "prompt_token_ids": list(request.token_ids)}
        try:
            self._llm.add_request(request_id, prompt, self._new_params(request, sequence.watch))
        except self._errors_of_requests as error:
            self._forget(sequence)
            refused = f"vLLM refuses a sequence of {len(request.token_ids)} tokens: {first_line(error)}"
            self._refusals.add(sequence.seq_id, refused)
            return
        sequence.request_id = request_id
        self._by_id[request_id] = sequence

    def _hold(self, sequence: _Sequence, request_id: str) -> None:
        del self._by_id[request_id]
        self._llm.abort_request([request_id])
        sequence.wait()

    # -- what vLLM returns --------------------------------------------------------------------------------------

    def _delta(self, sequence: _Sequence, output: Any) -> Delta:
        completion = output.outputs[0]
        delta = Delta(sequence.seq_id, _tokens(sequence, completion.token_ids))
        if not sequence.has_begun:
            sequence.has_begun = True
            if sequence.is_continued:
                # Of a continued sequence the last token is new; the rest has been through the model before.
                n_prefix = len(sequence.request.token_ids)
                delta.recomputed = max(0, n_prefix - 1 - (output.num_cached_tokens or 0))
        delta.discarded, sequence.discarded = sequence.discarded, 0
        sequence.family.n_tokens += len(delta.tokens)
        sequence.token_ids += [token.id for token in delta.tokens]
        if len(delta.tokens) < len(completion.token_ids):
            self._fail(sequence, delta, is_over=completion.finish_reason is not None)
        elif completion.finish_reason is not None:
            self._end(sequence, delta, completion.finish_reason)
        return delta

    def _end(self, sequence: _Sequence, delta: Delta, reason: str) -> None:
        finish = _FINISH.get(reason, "error")
        delta.finish_reason = finish
        if finish == "error":
            delta.error = f"vLLM ended the sequence after {len(sequence.request.token_ids)} tokens with '{reason}'"
        self._forget(sequence)

    def _fail(self, sequence: _Sequence, delta: Delta, *, is_over: bool) -> None:
        """No distribution was left to draw from: the sequence ends before what vLLM took for a token."""
        delta.finish_reason, delta.error = "error", failed(sequence.length, NO_DISTRIBUTION)
        if is_over:
            self._forget(sequence)
        else:
            self.close(sequence.seq_id)

    def _mend(self) -> None:
        """After a step that was broken off: what is open fails, since nobody knows what of it was delivered.

        And no prefix is taken from the cache any more, since vLLM enters them before it computes them.
        """
        if self._is_whole:
            return
        for seq_id, sequence in list(self._open.items()):
            self.close(seq_id)
            self._refusals.add(seq_id, failed(sequence.length, "the step that decoded it was broken off"))
        self._llm.reset_prefix_cache()
        self._is_whole = True

    def _discard(self, output: Any) -> None:
        """Tokens of a request that was aborted: counted for the sequence, where it is open again."""
        sequence = self._open.get(int(output.request_id.rpartition("-")[0]))
        if sequence is not None:
            sequence.discarded += len(output.outputs[0].token_ids)

    def _forget(self, sequence: _Sequence) -> None:
        del self._open[sequence.seq_id]
        if sequence.request_id is not None:
            del self._by_id[sequence.request_id]
        self._room.leave(sequence.seq_id)


def _returned(known: Iterable[tuple[_Sequence | None, Any]]) -> Iterator[tuple[Watch, int, Any]]:
    """The log-probabilities that vLLM returned for watched sequences, as `watch_logprobs` takes them."""
    for sequence, output in known:
        if sequence is not None and sequence.watch.is_on and output.outputs[0].logprobs is not None:
            yield sequence.watch, len(sequence.token_ids), output.outputs[0].logprobs


def _tokens(sequence: _Sequence, token_ids: Seq[int]) -> list[Token]:
    """What was decoded, as far as there was a distribution to draw from."""
    watch, start = sequence.watch, len(sequence.token_ids)
    if watch.fault is not None:
        token_ids = token_ids[: max(0, watch.fault - start)]
    if not watch.is_on:
        return [Token(token_id) for token_id in token_ids]
    try:
        tokens = [Token(token_id, *watch.take(start + i)) for i, token_id in enumerate(token_ids)]
    except KeyError as missing:
        raise EngineError(
            f"vLLM delivered token {missing} of sequence {sequence.seq_id} and nobody saw its logits: "
            "this vLLM is not one that the engine was tested with (docs/engines.md)"
        ) from missing
    # Where vLLM draws by itself nothing is noted, but an entropy that is no number tells.
    is_nan = (i for i, token in enumerate(tokens) if token.entropy != token.entropy)
    return tokens[: next(is_nan, len(tokens))]
