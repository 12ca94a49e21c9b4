"""A running server, or several: `vllm serve` on one machine or a cluster, over HTTP.

Sequences of all trees are streamed completions over token ids, hundreds at a time. A fork is a request whose prompt is
the prefix, sent to the server that has it cached; the parent's own stream is closed where it goes on with another
token. What comes is read in a thread of its own (`_openai_streams`), and through faults; `step` takes what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from eager.engines._hf_model import files_that_count
from eager.engines._model_files import fingerprint, local
from eager.engines._openai_late import Latecomers
from eager.engines._openai_replicas import Family
from eager.engines._openai_start import connect
from eager.engines._openai_streams import Inbox, News, Sequence, Streams
from eager.engines._openai_text import text_of
from eager.engines._openai_tokens import tokens_of
from eager.engines._openai_trees import WholeTrees, abouts
from eager.engines._openai_wire import Wanted
from eager.engines._refusals import Refusals, check_ids, failed
from eager.engines.base import Engine, EngineError
from eager.engines.options_openai import OpenAIOptions
from eager.types import Delta, Request, Token

_MOST_REMEMBERED = 1 << 16  # sequences, for the trees that they are of
_HEARTBEAT = 0.2  # seconds after which a step that has nothing to tell returns, so that others have their turn


class OpenAIEngine(Engine):
    """See `Engine`; the options are those of `OpenAIOptions`."""

    name = "openai"
    whole_trees: WholeTrees | None = None

    def __init__(self, model_name: str, **given: Any) -> None:
        options = OpenAIOptions.of(given)
        self.model_name = model_name
        self.capacity = options.n_at_once
        self._connection, self._facts, self.notices = connect(model_name, options)
        with ExitStack() as on_failure:
            on_failure.callback(self._connection.close)
            self._text = text_of(model_name, options, self._facts, self._connection.ask)
            on_failure.pop_all()
        self.max_model_len = self._facts.max_model_len
        self.stops = self._text.stops
        self._stop_ids = sorted(self.stops.stop_ids)
        self._loop = self._connection.thread.loop
        self._inbox = Inbox(self._loop)
        self._streams = Streams(
            self._connection.client,
            self._connection.replicas,
            self._inbox,
            wanted=self._wanted,
            n_vocab=self._facts.n_vocab,
            n_at_once=self.capacity,
            max_retries=options.max_retries,
        )
        if options.whole_trees:
            self._find_whole_trees(options.max_retries)
        self.news: list[str] = []
        self._loop.call_soon_threadsafe(self._connection.replicas.expect, self._latecomers(options).is_settled)
        self._refusals = Refusals(self._facts.n_vocab, self.max_model_len)
        self._open: dict[int, Sequence] = {}
        self._families: dict[int, Family] = {}  # of the sequences opened last, by their ids
        self._n_families, self._run = 0, uuid4().hex
        self._is_whole = True

    def open(self, request: Request) -> None:
        self._refuse_if_shut()
        self._mend()
        family = self._family_of(request.parent)
        n_discarded = self._close(request.seq_id)
        if self._refusals.refuses(request):
            return
        sequence = Sequence(
            request, family, list(request.token_ids), request.monitor, request.parent is not None, n_discarded
        )
        self._open[request.seq_id] = sequence
        self._remember(request.seq_id, family)
        self._loop.call_soon_threadsafe(self._streams.start, sequence)

    def close(self, seq_id: int) -> None:
        if not self.is_shut:
            self._close(seq_id)

    def unmonitor(self, seq_id: int) -> None:
        # The request goes on with its log-probabilities, which are read no more: to open it again costs a prefix.
        if seq_id in self._open:
            self._open[seq_id].is_watched = False

    @property
    def has_room(self) -> bool:
        return not self.is_shut and len(self._open) < self.capacity

    @property
    def waiting(self) -> str | None:
        """What the engine waits for while no server answers, with the seconds that it will; None otherwise."""
        seconds = self._connection.replicas.seconds_left
        return None if seconds is None else f"no server answers, waiting {seconds:.0f} s more"

    def step(self) -> list[Delta]:
        self._refuse_if_shut()
        self._mend()
        deltas = self._refusals.take()
        if not self._open:
            return deltas
        self._is_whole = False
        deltas += self._deltas(self._take(0.0 if deltas else _HEARTBEAT))
        self._is_whole = True
        return deltas

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        self._refuse_if_shut()
        return self._text.encode_chat(messages)

    def encode(self, text: str) -> list[int]:
        self._refuse_if_shut()
        return self._text.encode(text)

    def decode(self, token_ids: Seq[int]) -> str:
        self._refuse_if_shut()
        check_ids(token_ids, self._facts.n_vocab)
        return self._text.decode(token_ids)

    def versions(self) -> dict[str, str]:
        return {"server": self._facts.version or "unknown", "aiohttp": version("aiohttp")}

    def identity(self) -> dict[str, Any]:
        folder = local(self._facts.root) if self._facts.root else None
        files = files_that_count(folder) if folder is not None and folder.is_dir() else []
        return {
            **({"model_files": fingerprint(files)} if files else {}),
            "max_model_len": self.max_model_len,
            "draws": self._facts.draws,
            "stop_token_ids": self._stop_ids,
            **self._text.identity(),
        }

    def shutdown(self) -> None:
        if self.is_shut:
            return
        super().shutdown()
        self._open.clear()
        self._connection.thread.run(self._streams.close())
        if self.whole_trees is not None:
            self._connection.thread.run(self.whole_trees.shut())
        self._connection.close()

    def _find_whole_trees(self, max_retries: int) -> None:
        """Where every server has EAGer's plugin, whole trees can be had."""
        connection = self._connection
        found, notices = connection.thread.run(abouts(connection.client, connection.replicas))
        self.notices = [*self.notices, *notices]
        if found:
            self.max_model_len = min(self.max_model_len, *(about.max_model_len for about in found))
            self.whole_trees = WholeTrees(
                self._loop, connection.client, connection.replicas, self.stops, max_retries=max_retries
            )

    def _latecomers(self, options: OpenAIOptions) -> Latecomers:
        return Latecomers(
            self._connection.client,
            self._connection.replicas,
            self.model_name,
            options,
            replace(self._facts, max_model_len=self.max_model_len),
            with_trees=self.whole_trees is not None,
            tell=self.news.append,
        )

    def _wanted(self, sequence: Sequence) -> Wanted:
        """What is asked of a server: the rest of the sequence, from where it stands."""
        request = sequence.request
        return Wanted(
            self.model_name,
            tuple(sequence.ids),
            request.max_length,
            request.sampling,
            request.seed,
            self._stop_ids,
            sequence.is_watched,
            self._facts.draws,
        )

    def _family_of(self, parent: int | None) -> Family:
        """The parent's, whose tree this sequence is of; else a new one.

        The parent may have ended long ago: servers run ahead of where a tree has been looked at.
        """
        if parent in self._families:
            return self._families[parent]
        self._n_families += 1
        return Family(f"eager-{self._run}-{self._n_families}")

    def _remember(self, seq_id: int, family: Family) -> None:
        self._families.pop(seq_id, None)  # so that it goes to the end
        self._families[seq_id] = family
        if len(self._families) > _MOST_REMEMBERED:
            del self._families[next(iter(self._families))]

    def _close(self, seq_id: int) -> int:
        """Close it if it is open; how many of its tokens had come for nothing."""
        self._refusals.forget(seq_id)
        sequence = self._open.pop(seq_id, None)
        if sequence is None:
            return 0
        n_discarded = self._inbox.drop(sequence)
        self._loop.call_soon_threadsafe(self._streams.stop, sequence)
        return n_discarded

    def _take(self, seconds: float) -> list[tuple[Sequence, News]]:
        try:
            return self._inbox.take(seconds)
        except EngineError:
            for seq_id in list(self._open):
                self._close(seq_id)
            raise

    def _deltas(self, taken: Seq[tuple[Sequence, News]]) -> list[Delta]:
        tokens = tokens_of([news.tokens for _, news in taken])
        return [self._delta(sequence, news, its) for (sequence, news), its in zip(taken, tokens, strict=True)]

    def _delta(self, sequence: Sequence, news: News, tokens: list[Token]) -> Delta:
        seq_id = sequence.request.seq_id
        discarded, sequence.discarded = sequence.discarded + news.discarded, 0
        if news.finish is not None:
            del self._open[seq_id]
        return Delta(seq_id, tokens, news.finish, news.error, news.recomputed, discarded)

    def _mend(self) -> None:
        """After a step that was broken off: what is open fails, since nobody knows what of it was delivered."""
        if self._is_whole:
            return
        for seq_id, sequence in list(self._open.items()):
            self._close(seq_id)
            self._refusals.add(seq_id, failed(sequence.length, "the step that delivers it was broken off"))
        self._is_whole = True
