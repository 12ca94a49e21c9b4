"""OpenAI's forms of an answer: one object, or chunks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence as Seq
from typing import Any

from eager.chat.news import News, Piece, Scored, Spent
from eager.chat.request import Asked

_UNLIKELY = -9999.0
"""OpenAI's word for a log-probability that is not told because it is very low."""

_OBJECTS = {
    "chat": ("chatcmpl", "chat.completion", "chat.completion.chunk"),
    "completion": ("cmpl", "text_completion", "text_completion"),
}


class Form:
    """The answer to one request; `name` tells it from all others, `created` is the moment in seconds since 1970.

    Beside what OpenAI has, answers of trees have `eager`: of a choice, which sequence it is and how the vote went; of
    the whole, what the tree took.
    """

    def __init__(self, asked: Asked, name: str, created: int) -> None:
        self._asked = asked
        self._is_chat = asked.operation == "chat"
        prefix, self._whole_name, self._chunk_name = _OBJECTS[asked.operation]
        self._head: dict[str, Any] = {"id": f"{prefix}-{name}", "created": created, "model": asked.model}
        self._n_characters: defaultdict[int, int] = defaultdict(int)  # told in chunks, by choice
        self._begun: set[int] = set()

    # -- one object ---------------------------------------------------------------------------------------------------

    def whole(self, news: Iterable[News]) -> dict[str, Any]:
        """The answer, of all that came."""
        pieces: defaultdict[int, list[Piece]] = defaultdict(list)
        spent = Spent()
        for item in news:
            if isinstance(item, Piece):
                pieces[item.index].append(item)
            elif isinstance(item, Spent):
                spent = item
        choices = [self._choice(index, pieces[index]) for index in sorted(pieces)]
        return {**self._head, "object": self._whole_name, "choices": choices, **self._cost(spent)}

    def _choice(self, index: int, pieces: Seq[Piece]) -> dict[str, Any]:
        text, last = "".join(piece.text for piece in pieces), pieces[-1]
        scored = [token for piece in pieces for token in piece.scored]
        said: dict[str, Any] = {"text": text}
        if self._is_chat:
            said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": index, **said, **self._rest(last, scored, 0)}

    # -- chunks -------------------------------------------------------------------------------------------------------

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks that tell the piece."""
        offset = self._n_characters[piece.index]
        self._n_characters[piece.index] += len(piece.text)
        rest = self._rest(piece, piece.scored, offset)
        if not self._is_chat:
            return [self._chunk({"index": piece.index, "text": piece.text, **rest})]
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        found = []
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            first = {"role": "assistant", "content": ""}
            found.append(self._chunk({"index": piece.index, "delta": first, "logprobs": None, "finish_reason": None}))
        return [*found, self._chunk({"index": piece.index, "delta": delta, **rest})]

    def last_chunks(self, spent: Spent) -> list[dict[str, Any]]:
        """After the last piece: what it took, where that was asked for; others look for a choice in every chunk."""
        if not self._asked.include_usage:
            return []
        return [{**self._head, "object": self._chunk_name, "choices": [], **self._cost(spent)}]

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        usage = {"usage": None} if self._asked.include_usage else {}
        return {**self._head, "object": self._chunk_name, "choices": [choice], **usage}

    # -- parts of both ------------------------------------------------------------------------------------------------

    def _rest(self, last: Piece, scored: Seq[Scored], offset: int) -> dict[str, Any]:
        logprobs = None
        if self._asked.n_top is not None:
            logprobs = _chat_logprobs(scored) if self._is_chat else _completion_logprobs(scored, offset)
        eager = {} if last.eager is None else {"eager": dict(last.eager)}
        return {"logprobs": logprobs, "finish_reason": last.finish_reason, **eager}

    def _cost(self, spent: Spent) -> dict[str, Any]:
        total = spent.n_prompt + spent.n_tokens
        usage = {"prompt_tokens": spent.n_prompt, "completion_tokens": spent.n_tokens, "total_tokens": total}
        if self._asked.tree is None:
            return {"usage": usage}
        return {
            "usage": usage,
            "eager": {
                "sequences": spent.n_sequences,
                "extra_sequences": spent.n_extra,
                "branches": spent.n_branches,
                "tokens": spent.n_tokens,
                "tokens_without_sharing": spent.n_tokens_naive,
                "recomputed": spent.recomputed,
                "discarded": spent.discarded,
            },
        }


def _chat_logprobs(scored: Seq[Scored]) -> dict[str, Any]:
    content = [
        {**_token(token.text, token.logprob), "top_logprobs": [_token(*other) for other in token.top]}
        for token in scored
    ]
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    bytes_of = None if "\ufffd" in text else list(text.encode())  # a part of a character has no text
    return {"token": text, "logprob": _finite(logprob), "bytes": bytes_of}


def _completion_logprobs(scored: Seq[Scored], offset: int) -> dict[str, Any]:
    offsets = []
    for token in scored:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in scored],
        "token_logprobs": [_finite(token.logprob) for token in scored],
        "top_logprobs": [{text: _finite(logprob) for text, logprob in token.top} for token in scored],
        "text_offset": offsets,
    }


def _finite(logprob: float | None) -> float:
    return _UNLIKELY if logprob is None else max(logprob, _UNLIKELY)
