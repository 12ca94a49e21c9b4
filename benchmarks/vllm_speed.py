"""What engine vllm costs over vLLM itself, and gains over stepping it one token at a time. Run by hand:

    python benchmarks/vllm_speed.py --data_path gsm8k.jsonl --prompts 8

Everything runs on one engine in one process, on the same prompts. Stop tokens are switched off, so that every sequence
has `--max_tokens` tokens and no figure depends on where sampled texts happen to end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eager.engines.vllm import VLLMEngine
from eager.entropy import top_k_entropy
from eager.generate import Generator
from eager.types import BranchConfig, Generation, Request, SamplingParams, Stops, TreeJob

Prompt = tuple[int, ...]
_SAMPLING = SamplingParams(temperature=0.6)


@dataclass
class Timed:
    """vLLM with a clock: `inside` is the time spent in it."""

    llm: Any
    inside: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.llm, name)

        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            result = method(*args)
            self.inside += time.perf_counter() - start
            self.calls[name] = self.calls.get(name, 0) + 1
            return result

        return timed


@dataclass
class Row:
    """One line of the table."""

    name: str
    n_tokens: int
    seconds: float
    host_us: float | None = None
    n_opened: int = 0
    recomputed: int = 0
    discarded: int = 0

    @property
    def rate(self) -> float:
        return self.n_tokens / self.seconds

    def __str__(self) -> str:
        host = "" if self.host_us is None else f"{self.host_us:.1f}"
        per_fork = [f"{n / self.n_opened:.1f}" if self.n_opened else "" for n in (self.recomputed, self.discarded)]
        return (
            f"{self.name:<24}{self.rate:>10.1f}{self.seconds:>10.1f}{self.n_tokens:>10}{self.n_opened or '':>8}"
            f"{per_fork[0]:>14}{per_fork[1]:>14}{host:>12}"
        )


HEADER = (
    f"{'':<24}{'tokens/s':>10}{'seconds':>10}{'tokens':>10}{'opened':>8}"
    f"{'recomputed/':>14}{'thrown away/':>14}{'host us/':>12}\n"
    f"{'':<24}{'':>10}{'':>10}{'':>10}{'by fork':>8}{'opened':>14}{'opened':>14}{'token':>12}"
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


def trees(engine: VLLMEngine, prompts: list[Prompt], job: Callable[[int, Prompt], TreeJob], name: str) -> Row:
    """All prompts through the generator, as a run does it."""
    timed = Timed(engine._llm)
    engine._requests._llm = timed
    generator = Generator(engine)
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
    )


def stepping(engine: VLLMEngine, prompts: list[Prompt], n: int, threshold: float, max_tokens: int) -> Row:
    """The published strategy: every step re-submits the text of each sequence for one token, a prompt at a time."""
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


def decoding_rate(engine: VLLMEngine, prompts: list[Prompt], n: int, monitor: bool, n_tokens: int) -> float:
    """Tokens a second of n open sequences."""
    start, n_open, n_decoded = time.perf_counter(), n, 0
    for i in range(n):
        ids = prompts[i % len(prompts)]
        engine.open(Request(i, ids, _SAMPLING, len(ids) + n_tokens, seed=i, monitor=monitor))
    while n_open:
        for delta in engine.step():
            n_decoded += len(delta.tokens)
            n_open -= delta.finish_reason is not None
    return n_decoded / (time.perf_counter() - start)


def monitored_table(engine: VLLMEngine, prompts: list[Prompt], repeats: int) -> None:
    print("\nopen sequences   unmonitored t/s   monitored t/s   ratio   (best of repeats, taken in turn)")
    for n in (1, 8, 32):
        best = {True: 0.0, False: 0.0}
        for _ in range(repeats):
            for monitor in (False, True):
                best[monitor] = max(best[monitor], decoding_rate(engine, prompts, n, monitor, 64))
        print(f"{n:>14}{best[False]:>18.1f}{best[True]:>16.1f}{best[True] / best[False]:>8.3f}")


def read_prompts(engine: VLLMEngine, path: Path, n: int) -> list[Prompt]:
    lines = path.read_text(encoding="utf-8").splitlines()[:n]
    questions = [json.loads(line)["question"] for line in lines]
    return [tuple(engine.encode_chat([{"role": "user", "content": question}])) for question in questions]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--data_path", type=Path, required=True, help="GSM8K as .jsonl, with a column `question`")
    parser.add_argument("--model_name", default="demo")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max_sequences", type=int, default=8)
    parser.add_argument("--max_tokens", type=int, default=256)
    parser.add_argument("--entropy_threshold", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2, help="of the first three rows, taken in turn; the best count")
    parser.add_argument("--block_size", type=int)
    parser.add_argument("--repeats", type=int, default=3, help="of the monitored table; 0 leaves it out")
    parser.add_argument("--stepping_prompts", type=int, default=1, help="it goes prompt by prompt; 0 leaves it out")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model")
    return parser.parse_args()


def main() -> None:
    args = options()
    start = time.perf_counter()
    engine = VLLMEngine(
        args.model_name,
        max_model_len=2048,
        block_size=args.block_size,
        enforce_eager=not args.compile,
    )
    print(f"started in {time.perf_counter() - start:.0f} s; {engine.versions()}; capacity {engine.capacity}")
    engine.stops = Stops(frozenset())
    prompts = read_prompts(engine, args.data_path, args.prompts)
    m, tokens = args.max_sequences, args.max_tokens

    def job(n_roots: int) -> Callable[[int, Prompt], TreeJob]:
        rules = BranchConfig(m, args.entropy_threshold)
        return lambda i, ids: TreeJob(i, ids, rules, _SAMPLING, len(ids) + tokens, seed=55, n_roots=n_roots)

    plain_n(engine, prompts[:2], 2, 8)  # warm
    warm = BranchConfig(2, 0.1)
    trees(engine, prompts[:2], lambda i, ids: TreeJob(i, ids, warm, _SAMPLING, len(ids) + 8, seed=55), "warm")
    print(
        f"{len(prompts)} prompts, M = {m}, {tokens} tokens, threshold {args.entropy_threshold}\n\n{HEADER}", flush=True
    )
    rounds = [
        (
            show(plain_n(engine, prompts, m, tokens)),
            show(trees(engine, prompts, job(m), "parallel")),
            show(trees(engine, prompts, job(1), "eager_init")),
        )
        for _ in range(args.rounds)
    ]
    plain, parallel, init = (max(rows, key=lambda row: row.rate) for rows in zip(*rounds, strict=True))
    print(f"\nparallel / vLLM n=M, tokens/s: {parallel.rate / plain.rate:.3f}")
    ratio = (init.seconds / parallel.seconds) / (init.n_tokens / parallel.n_tokens)
    print(f"eager_init / parallel, wall over tokens: {ratio:.3f}")
    if args.stepping_prompts:
        steps = show(stepping(engine, prompts[: args.stepping_prompts], m, args.entropy_threshold, tokens))
        print(f"eager_init / published stepping, tokens/s: {init.rate / steps.rate:.1f}")
    if args.repeats:
        monitored_table(engine, prompts, args.repeats)
    engine.shutdown()


def show(row: Row) -> Row:
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
