"""Sequences as vLLM requests: opening and aborting them, and turning what vLLM returns into deltas.

A sequence that is opened again is a new request under a new id, so that whatever still comes for the old one is known
to be stale. `llm` is vLLM's `LLMEngine` or, in tests, anything with its `add_request`, `abort_request`, `step` and
`has_unfinished_requests`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence as Seq
from dataclasses import dataclass
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
    """An open sequence; `n_tokens` of its request are delivered."""

    seq_id: int
    request_id: str
    prefix_length: int
    is_continued: bool
    watch: Watch
    family: Family
    has_begun: bool = False
    n_tokens: int = 0
    discarded: int = 0

    @property
    def length(self) -> int:
        return self.prefix_length + self.n_tokens


class Requests:
    """The open sequences of one engine."""

    def __init__(
        self,
        llm: Any,
        new_params: NewParams,
        *,
        refusals: Refusals,
        room: Room,
        errors_of_requests: tuple[type[Exception], ...] = (ValueError,),
    ) -> None:
        """`errors_of_requests`: what `llm` raises of a request that it refuses."""
        self._llm = llm
        self._new_params = new_params
        self._refusals = refusals
        self._room = room
        self._errors_of_requests = errors_of_requests
        self._open: dict[int, _Sequence] = {}
        self._by_id: dict[str, _Sequence] = {}
        self._n_requests = 0
        self._is_whole = True

    def __len__(self) -> int:
        return len(self._open)

    def open(self, request: Request) -> None:
        self._mend()
        seq_id, n_prefix = request.seq_id, len(request.token_ids)
        family = self._room.family_of(request.parent)
        self.close(seq_id)
        if self._refusals.refuses(request):
            return
        self._n_requests += 1
        request_id = f"{seq_id}-{self._n_requests}"
        watch = Watch(request.monitor)
        error = self._add(request_id, request.token_ids, self._new_params(request, watch))
        if error:
            self._refusals.add(seq_id, error)
            return
        family = self._room.join(seq_id, family, n_prefix)
        sequence = _Sequence(seq_id, request_id, n_prefix, request.parent is not None, watch, family)
        self._open[seq_id] = self._by_id[request_id] = sequence

    def close(self, seq_id: int) -> None:
        self._refusals.forget(seq_id)
        sequence = self._open.get(seq_id)
        if sequence is not None:
            self._forget(sequence)
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
        outputs = self._llm.step() if self._open else ()
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

    def _add(self, request_id: str, token_ids: Seq[int], params: Any) -> str | None:
        """Hand the request to vLLM; what is wrong with it, or None."""
        prompt = {"type": "token", "prompt_token_ids": list(token_ids)}
        try:
            self._llm.add_request(request_id, prompt, params)
        except self._errors_of_requests as error:
            return f"vLLM refuses a sequence of {len(token_ids)} tokens: {first_line(error)}"
        return None

    def _delta(self, sequence: _Sequence, output: Any) -> Delta:
        completion = output.outputs[0]
        delta = Delta(sequence.seq_id, _tokens(sequence, completion.token_ids))
        if not sequence.has_begun:
            sequence.has_begun = True
            if sequence.is_continued:
                # Of a continued sequence the last token is new; the rest has been through the model before.
                delta.recomputed = max(0, sequence.prefix_length - 1 - (output.num_cached_tokens or 0))
        delta.discarded, sequence.discarded = sequence.discarded, 0
        sequence.family.n_tokens += len(delta.tokens)
        sequence.n_tokens += len(delta.tokens)
        if len(delta.tokens) < len(completion.token_ids):
            self._fail(sequence, delta, is_over=completion.finish_reason is not None)
        elif completion.finish_reason is not None:
            self._end(sequence, delta, completion.finish_reason)
        return delta

    def _end(self, sequence: _Sequence, delta: Delta, reason: str) -> None:
        finish = _FINISH.get(reason, "error")
        delta.finish_reason = finish
        if finish == "error":
            delta.error = f"vLLM ended the sequence after {sequence.prefix_length} tokens with '{reason}'"
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
        del self._open[sequence.seq_id], self._by_id[sequence.request_id]
        self._room.leave(sequence.seq_id)


def _returned(known: Iterable[tuple[_Sequence | None, Any]]) -> Iterator[tuple[Watch, int, Any]]:
    """The log-probabilities that vLLM returned for watched sequences, as `watch_logprobs` takes them."""
    for sequence, output in known:
        if sequence is not None and sequence.watch.is_on and output.outputs[0].logprobs is not None:
            yield sequence.watch, sequence.n_tokens, output.outputs[0].logprobs


def _tokens(sequence: _Sequence, token_ids: Seq[int]) -> list[Token]:
    """What was decoded, as far as there was a distribution to draw from."""
    watch, start = sequence.watch, sequence.n_tokens
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
