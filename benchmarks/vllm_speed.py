"""What engine vllm costs over vLLM itself: watching a sequence, drawing its tokens, growing trees. Run by hand:

    python benchmarks/vllm_speed.py --data_path gsm8k.jsonl
    python benchmarks/vllm_speed.py --data_path gsm8k.jsonl --few 0 --many 20 --capacity 32 --max_tokens 192

The second fills the batch at all times: trees wait for those before them. Everything runs on one engine in one
process, on the same prompts, in rounds whose parts change their order. Ratios are taken within a round; a figure is the
median of the rounds' ratios, with the lowest and the highest. Stop tokens are switched off, so that every sequence has
as many tokens as it is allowed and no figure depends on where texts end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eager.engines import _vllm_draw
from eager.engines.vllm import VLLMEngine
from eager.entropy import top_k_entropy
from eager.generator import Generator
from eager.types import BranchConfig, Generation, Request, SamplingParams, Stops, TreeJob

Prompt = tuple[int, ...]
_SAMPLING = SamplingParams(temperature=0.6)
_SIZES = (1, 8, 32, 64, 128)


def spread(ratios: Iterable[float]) -> str:
    """Median, lowest and highest."""
    found = sorted(ratios)
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"


def rotated(items: list[Any], by: int) -> list[Any]:
    return items[by % len(items) :] + items[: by % len(items)]


# -- watching and drawing: so many sequences decoded side by side -----------------------------------------------------


def own_sampling(engine: VLLMEngine) -> Callable[..., Any]:
    """Parameters with which vLLM draws for itself."""

    def params(request: Request, watch: Any) -> Any:
        made = type(engine)._new_params(engine, request, watch)
        made.temperature, made.extra_args = request.sampling.temperature, None
        return made

    return params


@contextmanager
def way(engine: VLLMEngine, name: str) -> Iterator[bool]:
    """Decode in one of `WAYS`; whether sequences are watched."""
    requests, is_in_process = engine._requests, engine._is_in_process
    if name == "vLLM's own":
        requests._new_params = own_sampling(engine)
    engine._is_in_process = is_in_process and name != "20 logprobs"
    try:
        yield name in ("entropies", "20 logprobs")
    finally:
        requests._new_params, engine._is_in_process = engine._new_params, is_in_process


WAYS = ["vLLM's own", "drawn", "entropies", "20 logprobs"]


def decoding_rate(engine: VLLMEngine, prompts: list[Prompt], n: int, n_tokens: int, name: str) -> float:
    """Tokens a second of n open sequences."""
    with way(engine, name) as monitor:
        start, n_open, n_decoded = time.perf_counter(), n, 0
        for i in range(n):
            ids = prompts[i % len(prompts)]
            engine.open(Request(i, ids, _SAMPLING, len(ids) + n_tokens, seed=i, monitor=monitor))
        while n_open:
            for delta in engine.step():
                n_decoded += len(delta.tokens)
                n_open -= delta.finish_reason is not None
        return n_decoded / (time.perf_counter() - start)


def decoding_table(engine: VLLMEngine, prompts: list[Prompt], rounds: int) -> dict[int, float]:
    """Prints the table; returns the seconds of a step of so many unwatched sequences."""
    heads = ("drawn / vLLM's own", "entropies / drawn", "entropies / vLLM's own", "20 logprobs / drawn")
    print("\nopen   drawn, t/s   " + "  ".join(f"{head:<23}" for head in heads), flush=True)
    seconds = {}
    for n in (size for size in _SIZES if size <= engine.capacity):
        n_tokens = 64 if n < 32 else 32
        found = [
            {name: decoding_rate(engine, prompts, n, n_tokens, name) for name in rotated(WAYS, i)}
            for i in range(rounds)
        ]
        seconds[n] = n / statistics.median(rates["drawn"] for rates in found)
        ratios = [
            spread(rates[above] / rates[below] for rates in found)
            for above, below in (head.split(" / ") for head in heads)
        ]
        print(f"{n:>4}{n / seconds[n]:>13.1f}   " + "  ".join(f"{ratio:<23}" for ratio in ratios), flush=True)
    return seconds


def reopening(engine: VLLMEngine, prompts: list[Prompt], rounds: int) -> None:
    """What it costs to open a sequence again on its own tokens, as a parent is that did not sample what is kept."""
    n, n_tokens, found = min(32, engine.capacity), 64, []
    for i in range(rounds):
        seconds = {each: reopened(engine, prompts, n, n_tokens, each) for each in rotated([n_tokens, 8], i)}
        n_reopened = n * (n_tokens // 8 - 1)
        found.append((seconds[8] - seconds[n_tokens]) / n_reopened / (seconds[n_tokens] / (n * n_tokens)))
    print(f"\nopening a sequence again costs as much time as so many tokens ({n} open): {spread(found)}", flush=True)


def reopened(engine: VLLMEngine, prompts: list[Prompt], n: int, n_tokens: int, each: int) -> float:
    """Seconds of n sequences of so many tokens, each opened again after every `each` tokens."""
    texts = {i: list(prompts[i % len(prompts)]) for i in range(n)}
    ends = {i: len(ids) + n_tokens for i, ids in texts.items()}
    start = time.perf_counter()
    for i, ids in texts.items():
        engine.open(Request(i, ids, _SAMPLING, ends[i], seed=i))
    while texts:
        for delta in engine.step():
            ids = texts[delta.seq_id]
            ids += [token.id for token in delta.tokens]
            n_left = ends[delta.seq_id] - len(ids)
            if not n_left:
                del texts[delta.seq_id]
            elif n_left % each == 0:
                engine.open(Request(delta.seq_id, ids, _SAMPLING, ends[delta.seq_id], delta.seq_id, delta.seq_id))
    return time.perf_counter() - start


# -- trees ------------------------------------------------------------------------------------------------------------


@dataclass
class Timed:
    """vLLM with a clock: `inside` is the time spent in it, `n_decoded` the sequences of each step."""

    llm: Any
    inside: float = 0.0
    n_decoded: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.llm, name)

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = method(*args)
            self.inside += time.perf_counter() - start
            if name == "step":
                self.n_decoded.append(len(result))
            return result

        return timed


@dataclass
class Row:
    """One run over all prompts. `watching`: seconds in which logits were looked at."""

    name: str
    n_tokens: int
    seconds: float
    host_us: float = 0.0
    n_opened: int = 0
    recomputed: int = 0
    discarded: int = 0
    watching: float = 0.0
    n_decoded: list[int] = field(default_factory=list)

    @property
    def per_token(self) -> float:
        return self.seconds / self.n_tokens

    def __str__(self) -> str:
        per_fork = [f"{n / self.n_opened:.1f}" if self.n_opened else "" for n in (self.recomputed, self.discarded)]
        return (
            f"{self.name:<20}{1 / self.per_token:>10.1f}{self.seconds:>9.1f}{self.n_tokens:>8}{self.n_opened or '':>8}"
            f"{per_fork[0]:>12}{per_fork[1]:>10}{self.host_us:>10.1f}{self.watching / self.seconds:>10.1%}"
        )


HEADER = (
    f"{'':<20}{'tokens/s':>10}{'seconds':>9}{'tokens':>8}{'opened':>8}{'recomputed':>12}{'thrown':>10}{'host us/':>10}"
    f"{'watching':>10}\n{'':<20}{'':>10}{'':>9}{'':>8}{'by fork':>8}{'/opened':>12}{'/opened':>10}{'token':>10}"
)


@contextmanager
def clock_on_watching() -> Iterator[list[float]]:
    """Seconds of every look at the logits."""
    real, seconds = _vllm_draw.watch_logits, []

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        note = real(*args)
        seconds.append(time.perf_counter() - start)
        return note

    _vllm_draw.watch_logits = timed
    try:
        yield seconds
    finally:
        _vllm_draw.watch_logits = real


def trees(engine: VLLMEngine, prompts: list[Prompt], job: Callable[[int, Prompt], TreeJob], name: str) -> Row:
    """All prompts through the generator, as a run does it."""
    timed = engine._requests._llm = Timed(engine._llm)
    generator = Generator(engine)
    with clock_on_watching() as watching:
        start = time.perf_counter()
        for i, ids in enumerate(prompts):
            generator.add(job(i, ids))
        generations: list[Generation] = [generation for _, generation in generator.run()]
        seconds = time.perf_counter() - start
    engine._requests._llm = engine._llm
    n_tokens = sum(generation.n_tokens for generation in generations)
    branches = [branch for generation in generations for branch in generation.branches]
    return Row(
        name,
        n_tokens,
        seconds,
        host_us=(seconds - timed.inside) / n_tokens * 1e6,
        n_opened=sum(1 + (branch.kept_id != branch.sampled_id) for branch in branches),
        recomputed=sum(generation.recomputed for generation in generations),
        discarded=sum(generation.discarded for generation in generations),
        watching=sum(watching),
        n_decoded=timed.n_decoded,
    )


def plain_n(engine: VLLMEngine, prompts: list[Prompt], n: int, max_tokens: int) -> Row:
    """vLLM's own sampling of n sequences a prompt, all prompts at once."""
    from vllm import SamplingParams as VLLMSamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    params = VLLMSamplingParams(
        n=n,
        temperature=_SAMPLING.temperature,
        max_tokens=max_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    llm, start, n_tokens = engine._llm, time.perf_counter(), 0
    for i, ids in enumerate(prompts):
        llm.add_request(f"plain-{i}", tokens_input(list(ids)), params)
    while llm.has_unfinished_requests():
        for output in llm.step():
            n_tokens += sum(len(completion.token_ids) for completion in output.outputs)
    return Row("vLLM n=M", n_tokens, time.perf_counter() - start)


def tree_table(
    engine: VLLMEngine, prompts: list[Prompt], args: argparse.Namespace, step_seconds: dict[int, float]
) -> None:
    """`parallel` and `eager_init` (and vLLM's n=M) over these prompts, and what the second's extra time went into."""
    m, tokens = args.max_sequences, args.max_tokens
    rules = BranchConfig(m, args.entropy_threshold)

    def job(n_roots: int) -> Callable[[int, Prompt], TreeJob]:
        return lambda i, ids: TreeJob(i, ids, rules, _SAMPLING, len(ids) + tokens, seed=55, n_roots=n_roots)

    parts = [
        lambda: plain_n(engine, prompts, m, tokens),
        lambda: trees(engine, prompts, job(m), "parallel"),
        lambda: trees(engine, prompts, job(1), "eager_init"),
    ]
    print(f"\n{len(prompts)} prompts, M = {m}, {tokens} tokens, {engine.capacity} at once\n{HEADER}", flush=True)
    found = [{row.name: row for row in (show(part()) for part in rotated(parts, i))} for i in range(args.rounds)]
    excess = [rows["eager_init"].per_token / rows["parallel"].per_token for rows in found]
    print(f"parallel / vLLM n=M, tokens/s: {spread(r['vLLM n=M'].per_token / r['parallel'].per_token for r in found)}")
    print(f"eager_init / parallel, wall over tokens: {spread(excess)}")
    print(
        f"  of eager_init's time, watching: {spread(r['eager_init'].watching / r['eager_init'].seconds for r in found)}"
    )
    if step_seconds:
        ramp = [emptiness(r["eager_init"], step_seconds) / emptiness(r["parallel"], step_seconds) for r in found]
        print(f"  wall over tokens expected of the batch's filling alone: {spread(ramp)}")


def emptiness(row: Row, step_seconds: dict[int, float]) -> float:
    """Seconds a token that the run's steps should have taken for the number of sequences in each."""
    sizes = np.array([0, *step_seconds])
    seconds = np.array([0.0, *step_seconds.values()])
    return float(np.interp(row.n_decoded, sizes, seconds).sum()) / row.n_tokens


# -- the published strategy -------------------------------------------------------------------------------------------


def stepping(engine: VLLMEngine, prompts: list[Prompt], n: int, threshold: float, max_tokens: int) -> Row:
    """Every step re-submits the text of each sequence for one token, a prompt at a time."""
    start, n_tokens = time.perf_counter(), 0
    for number, ids in enumerate(prompts):
        texts = [engine.decode(ids)]
        for step in range(max_tokens):
            steps = _step_all(engine, texts, f"step-{number}-{step}")
            n_tokens += len(texts)
            for i, (text, entropy, best) in enumerate(steps):
                branches = entropy > threshold and len(texts) < n
                if branches:
                    texts.append(texts[i] + best[1])
                texts[i] += best[0] if branches else text
    return Row("published stepping", n_tokens, time.perf_counter() - start)


def _step_all(engine: VLLMEngine, texts: list[str], name: str) -> list[tuple[str, float, list[str]]]:
    """One token of each text: (text, entropy, texts of the two best)."""
    from vllm import SamplingParams as VLLMSamplingParams

    params = VLLMSamplingParams(temperature=_SAMPLING.temperature, max_tokens=1, logprobs=20, ignore_eos=True)
    for i, text in enumerate(texts):
        engine._llm.add_request(f"{name}-{i}", text, params)
    found: dict[int, tuple[str, float, list[str]]] = {}
    while engine._llm.has_unfinished_requests():
        for output in engine._llm.step():
            completion = output.outputs[0]
            ranked = sorted(completion.logprobs[0].items(), key=lambda item: -item[1].logprob)
            entropy = float(top_k_entropy([entry.logprob for _, entry in ranked[:20]]))
            best = [engine.decode([token]) for token, _ in ranked[:2]]
            found[int(output.request_id.rsplit("-", 1)[1])] = (completion.text, entropy, best)
    return [found[i] for i in range(len(texts))]


# -- the script -------------------------------------------------------------------------------------------------------


def read_prompts(engine: VLLMEngine, path: Path, n: int) -> list[Prompt]:
    lines = path.read_text(encoding="utf-8").splitlines()[:n]
    questions = [json.loads(line)["question"] for line in lines]
    return [tuple(engine.encode_chat([{"role": "user", "content": question}])) for question in questions]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(". Run")[0])
    parser.add_argument("--data_path", type=Path, required=True, help="GSM8K as .jsonl, with a column `question`")
    parser.add_argument("--model_name", default="demo")
    parser.add_argument("--max_sequences", type=int, default=8)
    parser.add_argument("--max_tokens", type=int, default=128)
    parser.add_argument("--entropy_threshold", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5, help="of each part")
    parser.add_argument("--few", type=int, default=8, help="prompts that are all decoded at once; 0 leaves them out")
    parser.add_argument("--many", type=int, default=0, help="more prompts than are decoded at once")
    parser.add_argument("--capacity", type=int, help="sequences that vLLM decodes at once")
    parser.add_argument("--no_table", action="store_true", help="leave out all but trees")
    parser.add_argument("--stepping_prompts", type=int, default=0, help="of the published strategy, prompt by prompt")
    parser.add_argument("--block_size", type=int)
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model")
    return parser.parse_args()


def main() -> None:
    args = options()
    start = time.perf_counter()
    engine = VLLMEngine(
        args.model_name,
        max_model_len=2048,
        block_size=args.block_size,
        capacity=args.capacity,
        enforce_eager=not args.compile,
    )
    print(f"started in {time.perf_counter() - start:.0f} s; {engine.versions()}; capacity {engine.capacity}")
    engine.stops = Stops(frozenset())
    prompts = read_prompts(engine, args.data_path, max(args.few, args.many, 16))
    plain_n(engine, prompts, 2, 8)  # warm
    warm = BranchConfig(2, 0.1)
    trees(engine, prompts, lambda i, ids: TreeJob(i, ids, warm, _SAMPLING, len(ids) + 8, seed=55), "warm")
    step_seconds: dict[int, float] = {}
    if not args.no_table:
        step_seconds = decoding_table(engine, prompts[:16], args.rounds)
        reopening(engine, prompts[:16], args.rounds)
    if args.few:
        tree_table(engine, prompts[: args.few], args, step_seconds)
    if args.many:
        tree_table(engine, prompts[: args.many], args, step_seconds)
    if args.stepping_prompts:
        few = prompts[: args.stepping_prompts]
        show(stepping(engine, few, args.max_sequences, args.entropy_threshold, args.max_tokens))
    engine.shutdown()


def show(row: Row) -> Row:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
