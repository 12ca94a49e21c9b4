"""A transformers model that its owner holds and goes on changing: a trainer's policy, decoded as it is now.

It is no engine by name: nothing is loaded. For speed there are the others; this one needs no copy of the weights.

Sequences lie flush right in one batch of keys and values, so that all of them go on with one token a step; a fork takes
its parent's places. Whatever breaks a step off leaves no keys behind, and what is open is computed from its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, __version__ as transformers_version

from eager.engines._advance import advanced
from eager.engines._chat import hf_chat_ids, hf_text, read_stops
from eager.engines._draw import NoDistributionError, best_k, draw
from eager.engines._refusals import Refusals
from eager.engines.base import Engine, EngineError
from eager.entropy import top_k_entropy
from eager.prefix import common_prefix
from eager.randomness import uniform
from eager.types import Delta, Request, Token

_ATTENTION = {"full_attention", "sliding_attention"}  # what keys and values are all that there is to keep of


@dataclass(slots=True, eq=False)
class _Sequence:
    request: Request
    tokens: list[int]
    monitor: bool
    recomputed: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """The keys and values of sequences that were decoded together.

    Those of a layer are of shape (rows, heads, places, width); row i fills the last `lengths[i]` places.
    """

    owners: list[_Sequence]
    lengths: list[int]
    cache: DynamicCache

    def taken(self, owners: list[_Sequence], places: Seq[tuple[int, int]]) -> _Rows:
        """For each owner the first `n` places of a row, as (row, n)."""
        if owners == self.owners and list(places) == list(enumerate(self.lengths)):
            return self
        width, n_most = max(self.lengths), max(n for _, n in places)
        first = [width - self.lengths[row] + n - n_most for row, n in places]
        device = self.cache.layers[0].keys.device
        rows = torch.tensor([row for row, _ in places], device=device)[:, None]
        # Places before a row's first hold whatever is there: they are masked.
        columns = (torch.tensor(first, device=device)[:, None] + torch.arange(n_most, device=device)).clamp(min=0)
        layers = [
            (_gathered(layer.keys, rows, columns), _gathered(layer.values, rows, columns))
            for layer in self.cache.layers
        ]
        return _Rows(owners, [n for _, n in places], DynamicCache(layers))

    def with_rows(self, other: _Rows) -> _Rows:
        """Both, these first."""
        n_most = max(*self.lengths, *other.lengths)
        layers = [
            (_stacked(a.keys, b.keys, n_most), _stacked(a.values, b.values, n_most))
            for a, b in zip(self.cache.layers, other.cache.layers, strict=True)
        ]
        return _Rows(self.owners + other.owners, self.lengths + other.lengths, DynamicCache(layers))


def _gathered(states: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return states.transpose(1, 2)[rows, columns].transpose(1, 2)


def _stacked(first: torch.Tensor, second: torch.Tensor, n_places: int) -> torch.Tensor:
    pad = torch.nn.functional.pad
    return torch.cat([pad(states, (0, 0, n_places - states.shape[2], 0)) for states in (first, second)])


class TransformersEngine(Engine):
    """Decodes with `model`, a causal language model of transformers, as it is at each step.

    Its weights may change whenever no sequence is open. Whether it is in evaluation mode is its owner's matter. Raises
    EngineError where the model keeps another state than keys and values.
    """

    name = "transformers"

    def __init__(self, model: Any, tokenizer: Any, *, capacity: int = 64) -> None:
        config = model.config.get_text_config()
        if getattr(model, "_is_stateful", False) or set(getattr(config, "layer_types", None) or ()) - _ATTENTION:
            raise EngineError(f"a {config.model_type} keeps a state that cannot be forked: use a model with attention")
        self.model_name = config.name_or_path or config.model_type
        self.capacity = capacity
        self.max_model_len = int(config.max_position_embeddings)
        self.stops = read_stops(tokenizer, model.generation_config.to_dict())
        self._model = model
        self._tokenizer = tokenizer
        self._n_vocab = int(config.vocab_size)
        self._refusals = Refusals(self._n_vocab, self.max_model_len)
        self._open: dict[int, _Sequence] = {}  # the first `capacity` are decoded
        self._rows: _Rows | None = None  # of the last step

    def open(self, request: Request) -> None:
        self._refuse_if_shut()
        self._refusals.forget(request.seq_id)
        if self._refusals.refuses(request):
            self._open.pop(request.seq_id, None)
        else:
            self._open[request.seq_id] = _Sequence(request, list(request.token_ids), request.monitor)

    def close(self, seq_id: int) -> None:
        self._refusals.forget(seq_id)
        self._open.pop(seq_id, None)

    def unmonitor(self, seq_id: int) -> None:
        if seq_id in self._open:
            self._open[seq_id].monitor = False

    @property
    def has_room(self) -> bool:
        return len(self._open) < self.capacity and not self.is_shut

    def step(self) -> list[Delta]:
        self._refuse_if_shut()
        before, self._rows = self._rows, None  # until the step has succeeded
        decoded: list[Delta] = []
        rows = None
        if sequences := list(islice(self._open.values(), self.capacity)):
            with self._as_engine_error():
                logits, rows = self._decoded(sequences, before)
            drawn = [_drawn(sequence, row) for sequence, row in zip(rows.owners, logits, strict=True)]
            decoded = [self._advance(sequence, token) for sequence, token in zip(rows.owners, drawn, strict=True)]
        self._rows = rows
        return self._refusals.take() + decoded

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        self._refuse_if_shut()
        return hf_chat_ids(self._tokenizer, messages, {})

    def encode(self, text: str) -> list[int]:
        self._refuse_if_shut()
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def decode(self, token_ids: Seq[int]) -> str:
        self._refuse_if_shut()
        return hf_text(self._tokenizer, token_ids, self._n_vocab)

    def versions(self) -> dict[str, str]:
        return {"torch": str(torch.__version__), "transformers": transformers_version}

    def shutdown(self) -> None:
        super().shutdown()
        self._open.clear()
        self._rows = None

    # -- decoding -----------------------------------------------------------------------------------------------

    def _decoded(self, sequences: list[_Sequence], before: _Rows | None) -> tuple[np.ndarray[Any, Any], _Rows]:
        """The logits (n, vocabulary) that follow the sequences, in the order of the rows' owners, and the rows."""
        found = {sequence: _place(sequence, before) for sequence in sequences}
        going_on = {sequence: place for sequence, place in found.items() if place is not None}
        fresh = [sequence for sequence, place in found.items() if place is None]
        if before is None or not going_on:
            return self._begun(fresh)
        past = before.taken(list(going_on), list(going_on.values()))
        logits, rows = self._forward(past.owners, [sequence.tokens[-1:] for sequence in going_on], past)
        if not fresh:
            return logits, rows
        more_logits, more_rows = self._begun(fresh)
        return np.concatenate([logits, more_logits]), rows.with_rows(more_rows)

    def _begun(self, sequences: list[_Sequence]) -> tuple[np.ndarray[Any, Any], _Rows]:
        """All that has to be computed from its first token; the same tokens once."""
        by_tokens = {tuple(sequence.tokens): sequence for sequence in sequences}
        numbers = {tokens: number for number, tokens in enumerate(by_tokens)}
        logits, rows = self._forward(list(by_tokens.values()), list(map(list, by_tokens)), None)
        wanted = [numbers[tuple(sequence.tokens)] for sequence in sequences]
        for sequence in sequences:
            is_again = sequence.request.parent is not None or len(sequence.tokens) > len(sequence.request.token_ids)
            sequence.recomputed += len(sequence.tokens) - 1 if is_again else 0
        return logits[wanted], rows.taken(sequences, [(row, rows.lengths[row]) for row in wanted])

    def _forward(
        self, owners: list[_Sequence], tokens: list[list[int]], past: _Rows | None
    ) -> tuple[np.ndarray[Any, Any], _Rows]:
        """Feed these tokens of each row, all of them or one behind its past, whose cache goes on with them."""
        device = self._model.device
        cache = DynamicCache() if past is None else past.cache
        lengths = [0] * len(tokens) if past is None else past.lengths
        n_new, n_past = max(map(len, tokens)), max(lengths)
        pads = [n_new - len(row) for row in tokens]
        ids = [[0] * pad + row for pad, row in zip(pads, tokens, strict=True)]
        mask = [
            [0] * (n_past - length) + [1] * length + [0] * pad + [1] * (n_new - pad)
            for length, pad in zip(lengths, pads, strict=True)
        ]
        positions = [
            [max(0, length + place - pad) for place in range(n_new)] for length, pad in zip(lengths, pads, strict=True)
        ]
        with torch.no_grad():  # not inference_mode: what the model caches must stay fit for training
            answer = self._model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                position_ids=torch.tensor(positions, device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: np.ndarray[Any, Any] = answer.logits[:, -1].float().cpu().numpy()
        return logits, _Rows(owners, [n + len(row) for n, row in zip(lengths, tokens, strict=True)], cache)

    def _advance(self, sequence: _Sequence, token: Token | None) -> Delta:
        delta = advanced(sequence, token, self.stops.stop_ids)
        if delta.finish_reason:
            del self._open[sequence.request.seq_id]
        return delta

    @contextmanager
    def _as_engine_error(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, torch.OutOfMemoryError) as error:
            raise EngineError(
                f"the model failed with {len(self._open)} sequences open ({str(error).splitlines()[0]}):"
                " lower the capacity if the memory ran out"
            ) from error


def _place(sequence: _Sequence, rows: _Rows | None) -> tuple[int, int] | None:
    """Where all of the sequence but its last token is kept, as (row, n); None where it is not."""
    if rows is None:
        return None
    n_wanted = len(sequence.tokens) - 1
    if sequence in rows.owners:
        return rows.owners.index(sequence), n_wanted
    for row, owner in enumerate(rows.owners):
        if owner.request.seq_id == sequence.request.parent:
            n_shared = common_prefix(owner.tokens[: rows.lengths[row]], sequence.tokens)
            if 0 < n_wanted <= n_shared:
                sequence.recomputed += n_shared - n_wanted
                return row, n_wanted
    return None


def _drawn(sequence: _Sequence, row: np.ndarray[Any, Any]) -> Token | None:
    """The next token, where monitored with its entropy; None where nothing can be drawn."""
    request = sequence.request
    try:
        token_id = draw(row, request.sampling, uniform(request.seed, len(sequence.tokens)))
    except NoDistributionError:
        return None
    if not sequence.monitor:
        return Token(token_id)
    ids, logprobs = best_k([row])
    best_ids, best = ids[0].tolist(), logprobs[0].tolist()
    logprob = best[0] + float(row[token_id]) - float(row[best_ids[0]])
    return Token(token_id, float(top_k_entropy(best)), best_ids, best, logprob)
