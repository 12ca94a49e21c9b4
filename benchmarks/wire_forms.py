"""The two forms in which vLLM's server streams tokens with log-probabilities: bytes, what is in them, time to parse.

    python benchmarks/wire_forms.py --base_url http://127.0.0.1:8000 --model_name NAME [--tokens 200] [--requests 4]

The server is started with `--enable-scale-out`, without which it answers /inference/v1/generate with 403. Both forms
are asked for the same: the same prompt, seeds and sampling, 20 log-probabilities. Parsed is what came, in memory, by
msgspec with types, up to the ids and log-probabilities of the K best as lists of numbers. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.engines._openai_wire import TokenNames, _read_chunk  # only now can it be found without installing
from eager.types import ENTROPY_TOP_K

PROMPT = list(range(300, 340))
_DONE = b"[DONE]"
_N_VOCAB = 1 << 24
_TURNS = 5


class Top(msgspec.Struct, gc=False):
    token_id: int
    logprob: float | None = None


class Content(msgspec.Struct, gc=False):
    token_id: int
    rank: int | None = None
    top_logprobs: list[Top] = []


class Logprobs(msgspec.Struct, gc=False):
    content: list[Content] = []


class Choice(msgspec.Struct, gc=False):
    token_ids: list[int] = []
    logprobs: Logprobs | None = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] = []


class Row(NamedTuple):
    """A token: the ids that came with it and their log-probabilities, and whether it is none of the K best."""

    ids: list[int]
    logprobs: list[float | None]
    is_beyond: bool

    @property
    def has_k_best(self) -> bool:
        return len(self.ids) - self.is_beyond >= ENTROPY_TOP_K


_read_generate = msgspec.json.Decoder(Chunk).decode


def rows_of_generate(events: list[bytes]) -> list[Row]:
    chunks = (_read_generate(event) for event in events)
    contents = (
        content for chunk in chunks for choice in chunk.choices for content in (choice.logprobs or Logprobs()).content
    )
    return [
        Row([t.token_id for t in c.top_logprobs], [t.logprob for t in c.top_logprobs], (c.rank or 0) > ENTROPY_TOP_K)
        for c in contents
    ]


def rows_of_completion(events: list[bytes], names: TokenNames) -> list[Row]:
    """As engine openai reads them, without its checks."""
    chunks = (_read_chunk(event) for event in events)
    tops = (
        top or {}
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs
        for top in choice.logprobs.top_logprobs
    )
    return [Row([names[name] for name in top], list(top.values()), len(top) > ENTROPY_TOP_K) for top in tops]


def completion(model: str, seed: int, n_tokens: int, n_best: int | None) -> tuple[str, dict[str, Any]]:
    watched = {} if n_best is None else {"logprobs": n_best, "return_tokens_as_token_ids": True}
    body = {"model": model, "prompt": PROMPT, "max_tokens": n_tokens, "temperature": 1.5, "seed": seed, **watched}
    return "/v1/completions", {**body, "stream": True, "ignore_eos": True, "return_token_ids": True}


def generate(model: str, seed: int, n_tokens: int, n_best: int | None) -> tuple[str, dict[str, Any]]:
    sampling = {"max_tokens": n_tokens, "temperature": 1.5, "seed": seed, "ignore_eos": True, "detokenize": False}
    sampling |= {} if n_best is None else {"logprobs": n_best}
    return "/inference/v1/generate", {"model": model, "token_ids": PROMPT, "stream": True, "sampling_params": sampling}


def events_of(url: str, asked: tuple[str, dict[str, Any]]) -> list[bytes]:
    path, body = asked
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        lines = [line[5:].strip() for line in answer if line.startswith(b"data:")]
    return [line for line in lines if line != _DONE]


class Form(NamedTuple):
    name: str
    ask: Callable[[str, int, int, int | None], tuple[str, dict[str, Any]]]
    rows: Callable[[list[bytes]], list[Row]]


def microseconds(rows: Callable[[list[bytes]], list[Row]], answers: list[list[bytes]]) -> float:
    """Of processor time a token."""
    found = []
    for _ in range(_TURNS):
        start = time.process_time()
        n = sum(len(rows(events)) for events in answers)
        found.append((time.process_time() - start) / n * 1e6)
    return statistics.median(found)


def show(form: Form, given: argparse.Namespace) -> None:
    watched = [form.ask(given.model_name, seed, given.tokens, ENTROPY_TOP_K) for seed in range(given.requests)]
    answers = [events_of(given.base_url, asked) for asked in watched]
    plain = events_of(given.base_url, form.ask(given.model_name, 0, given.tokens, None))
    rows = [row for events in answers for row in form.rows(events)]
    sizes = sum(len(event) for events in answers for event in events) / len(rows), sum(map(len, plain)) / given.tokens
    beyond = [row for row in rows if row.is_beyond]
    cells = [f"{sizes[0]:,.0f}", f"{sizes[1]:,.0f}", f"{microseconds(form.rows, answers):.1f}"]
    whole = f"{sum(row.has_k_best for row in beyond)} of {len(beyond)} tokens"
    print(f"| `{form.name}` | {' | '.join(cells)} | {whole} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_url", required=True)
    parser.add_argument("--model_name", required=True)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--requests", type=int, default=4)
    given = parser.parse_args()
    names = TokenNames(_N_VOCAB)
    forms = [
        Form("/v1/completions", completion, lambda events: rows_of_completion(events, names)),
        Form("/inference/v1/generate", generate, rows_of_generate),
    ]
    print("| form | bytes a token | without log-probabilities | µs to parse | K best, where another was drawn |")
    print("|---|---:|---:|---:|---:|")
    for form in forms:
        show(form, given)


if __name__ == "__main__":
    main()
