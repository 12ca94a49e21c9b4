"""Sequences as vLLM requests: opening and aborting them, and turning what vLLM returns into deltas.

A sequence that is opened again is a new request under a new id, so that whatever still comes for the old one is known
to be stale. `llm` is vLLM's `LLMEngine` or, in tests, anything with its `add_request`, `abort_request`, `step` and
`has_unfinished_requests`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np

from eager.engines._draw import NO_DISTRIBUTION
from eager.engines._refusals import Fault, Refusals, failed
from eager.engines._vllm_room import Family, Room
from eager.entropy import top_k_entropy
from eager.errors import first_line
from eager.types import ENTROPY_TOP_K, Delta, FinishReason, Request, Token

NewParams = Callable[[Request, Fault], Any]
"""vLLM's sampling parameters; the request's draws note in the Fault where none was possible."""

_FINISH: dict[str | None, FinishReason | None] = {None: None, "stop": "stop", "length": "length"}


@dataclass(slots=True, eq=False)
class _Sequence:
    """An open sequence. `monitor`: whether entropies are wanted; what it was opened with decides if there are any."""

    seq_id: int
    request_id: str
    prefix_length: int
    is_continued: bool
    monitor: bool
    family: Family
    fault: Fault
    length: int  # of the prefix and what was delivered
    has_begun: bool = False
    discarded: int = 0


@dataclass(slots=True)
class _Monitored:
    """The K best of all monitored tokens of one step, row after row, and the deltas that lack them."""

    deltas: list[Delta]
    ids: list[Seq[int]]
    logprobs: list[Seq[float]]

    def add(self, delta: Delta, flat: Any) -> None:
        """`flat` (vLLM's FlatLogprobs) holds for each token the sampled one first and then the K best in order."""
        for start, end in zip(flat.start_indices, flat.end_indices, strict=True):
            self.ids.append(flat.token_ids[start + 1 : min(end, start + 1 + ENTROPY_TOP_K)])
            self.logprobs.append(flat.logprobs[start + 1 : min(end, start + 1 + ENTROPY_TOP_K)])
        self.deltas.append(delta)

    def fill(self) -> None:
        """Give every delta its rows; those of all are worked on at once."""
        if not self.deltas:
            return
        ids, logprobs = np.array(self.ids), np.array(self.logprobs)
        entropies: list[float] = top_k_entropy(logprobs).tolist()
        # Logits in 16 bits are often equal, and vLLM leaves open which of them comes first: the smaller id does.
        order = np.lexsort((ids, -logprobs))
        best_ids: list[list[int]] = np.take_along_axis(ids, order, axis=1).tolist()
        best_logprobs: list[list[float]] = np.take_along_axis(logprobs, order, axis=1).tolist()
        rows = zip(entropies, best_ids, best_logprobs, strict=True)
        for delta in self.deltas:
            delta.tokens = [Token(token.id, *next(rows)) for token in delta.tokens]


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
        fault = Fault()
        error = self._add(request_id, request.token_ids, self._new_params(request, fault))
        if error:
            self._refusals.add(seq_id, error)
            return
        family = self._room.join(seq_id, family, n_prefix)
        is_continued = request.parent is not None
        sequence = _Sequence(seq_id, request_id, n_prefix, is_continued, request.monitor, family, fault, n_prefix)
        self._open[seq_id] = self._by_id[request_id] = sequence

    def close(self, seq_id: int) -> None:
        self._refusals.forget(seq_id)
        sequence = self._open.get(seq_id)
        if sequence is not None:
            self._forget(sequence)
            self._llm.abort_request([sequence.request_id])

    def forget_all(self) -> int:
        """vLLM broke: it is asked nothing more about what was open. Returns how many sequences that were."""
        n_open = len(self._open)
        for sequence in list(self._open.values()):
            self._forget(sequence)
        self._refusals.take()
        return n_open

    def unmonitor(self, seq_id: int) -> None:
        if seq_id in self._open:
            self._open[seq_id].monitor = False

    def step(self) -> list[Delta]:
        self._mend()
        self._is_whole = False
        self._room.settle()
        outputs = self._llm.step() if self._open else ()
        deltas = self._refusals.take()
        monitored = _Monitored([], [], [])
        begun: list[tuple[_Sequence, Delta]] = []
        for output in outputs:
            sequence = self._by_id.get(output.request_id)
            if sequence is None:
                self._discard(output)
                continue
            delta = self._delta(sequence, output)
            begun.append((sequence, delta))
            if sequence.monitor and output.outputs[0].logprobs is not None:
                monitored.add(delta, output.outputs[0].logprobs)
            deltas.append(delta)
        monitored.fill()
        for sequence, delta in begun:
            self._end_at_fault(sequence, delta)
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
        delta = Delta(sequence.seq_id, [Token(token_id) for token_id in completion.token_ids])
        if not sequence.has_begun:
            sequence.has_begun = True
            if sequence.is_continued:
                # Of a continued sequence the last token is new; the rest has been through the model before.
                delta.recomputed = max(0, sequence.prefix_length - 1 - (output.num_cached_tokens or 0))
        delta.discarded, sequence.discarded = sequence.discarded, 0
        sequence.family.n_tokens += len(completion.token_ids)
        if completion.finish_reason is not None:
            self._end(sequence, delta, completion.finish_reason)
        return delta

    def _end(self, sequence: _Sequence, delta: Delta, reason: str) -> None:
        finish = _FINISH.get(reason, "error")
        delta.finish_reason = finish
        if finish == "error":
            delta.error = f"vLLM ended the sequence after {sequence.prefix_length} tokens with '{reason}'"
        self._forget(sequence)

    def _end_at_fault(self, sequence: _Sequence, delta: Delta) -> None:
        """Where no distribution was left to draw from, the sequence ends before what vLLM took for a token."""
        fault, start = sequence.fault.position, sequence.length
        sequence.length += len(delta.tokens)
        for i, token in enumerate(delta.tokens):
            is_nan = token.entropy != token.entropy  # None where not monitored
            if is_nan or (fault is not None and start + i >= fault):
                delta.tokens = delta.tokens[:i]
                delta.finish_reason, delta.error = "error", failed(start + i, NO_DISTRIBUTION)
                if self._by_id.get(sequence.request_id) is sequence:
                    self.close(sequence.seq_id)
                return

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
