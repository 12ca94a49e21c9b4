"""EAGer-vote against EAGer-adapt at the same budget, on a made-up model: Cons@k, and its cost in tokens.

python benchmarks/scripted_votes.py [--prompts 100] [--seeds 5] [--max_sequences 16]

The model thinks 30 tokens and answers. Each prompt has a difficulty: the harder, the more of its places are torn
between 12 words, the less often the answer is right, and the more often it is one and the same wrong one. What was said
at the torn places moves the chance of being right, so that sequences with a common prefix err together, as a real
model's do. It shows how the policies spend a budget, not how a model answers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence as Seq
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.engines.scripted import ScriptedEngine  # only now can it be found without installing
from eager.experiments import Run, RunPlan, settings_of
from eager.grading import MathGrader
from eager.randomness import sequence_seed, uniform
from eager.results.scores import ExperimentResult
from eager.store.journal import Journal
from eager.tasks import LoadedTask, load
from eager.types import BranchConfig, SamplingParams

KINDS = ("parallel", "eager_init", "eager_adapt", "eager_vote")
FIRST_PROMPT_ID = 1000
N_THOUGHTS, N_WORDS, N_ANSWERS = 30, 12, 6
FIRST_ANSWER = 1 + N_WORDS
VOCABULARY = ("<end>", *(f"word{i} " for i in range(N_WORDS)), *(f"\\boxed{{{i + 1}}}" for i in range(N_ANSWERS)))


def script(token_ids: Seq[int]) -> Mapping[int, float]:
    """Thoughts, then one of the answers 1 (right), 2 (the usual mistake) and others, then the end."""
    n_prompt = next((i for i, token in enumerate(token_ids) if token < FIRST_PROMPT_ID), len(token_ids))
    prompt = 0
    for token in token_ids[:n_prompt]:
        prompt = sequence_seed(prompt, token, 0)
    thoughts, difficulty = token_ids[n_prompt:], uniform(prompt, 0)
    if len(thoughts) > N_THOUGHTS:
        return {0: 1.0}
    if len(thoughts) == N_THOUGHTS:
        return answers(
            difficulty, prompt, [word for at, word in enumerate(thoughts) if is_torn(prompt, at, difficulty)]
        )
    if is_torn(prompt, len(thoughts), difficulty):
        return dict.fromkeys(range(1, FIRST_ANSWER), 1 / N_WORDS)
    sure = 1 + int(N_WORDS * uniform(prompt, 100 + len(thoughts)))
    return {sure: 0.95, 1 + sure % N_WORDS: 0.05}


def is_torn(prompt: int, at: int, difficulty: float) -> bool:
    return uniform(prompt, 1 + at) < 0.25 * difficulty


def answers(difficulty: float, prompt: int, said: Seq[int]) -> dict[int, float]:
    way = prompt
    for word in said:
        way = sequence_seed(way, word, 1)
    right = min(0.99, max(0.02, 1 - 0.75 * difficulty + 0.3 * difficulty * (2 * uniform(way, 0) - 1)))
    others = N_ANSWERS - 2
    return dict(
        enumerate((right, 0.6 * (1 - right), *[0.4 * (1 - right) / others] * others), start=FIRST_ANSWER),
    )


@dataclass
class Total:
    """Sums over seeds."""

    n_sequences: int = 0
    n_tokens: int = 0
    passed: list[float] = field(default_factory=list)
    consensus: list[float] = field(default_factory=list)

    def add(self, result: ExperimentResult) -> None:
        self.n_sequences += result.n_sequences
        self.n_tokens += result.n_tokens
        self.passed.append(result.scores.pass_at_k.value or 0.0)
        self.consensus.append(result.scores.cons_at_k.value or 0.0)


def problems(folder: Path, n: int) -> LoadedTask:
    path = folder / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"{chr(97 + i // 20)} {chr(97 + i % 20)},1\n" for i in range(n)))
    return load("mine", data_path=path, prompt_field="question", target_field="answer")


def measure(n_prompts: int, seeds: range, rules: BranchConfig) -> dict[str, Total]:
    totals = {kind: Total() for kind in KINDS}
    with tempfile.TemporaryDirectory() as name, MathGrader() as grader:
        task = problems(Path(name), n_prompts)
        for seed in seeds:
            plan = RunPlan(KINDS, (rules,), SamplingParams(temperature=1.0), seed)
            engine = ScriptedEngine(script=script, vocabulary=VOCABULARY, capacity=10_000)
            settings = settings_of(plan, task, {"model_name": "scripted", "engine": "scripted"})
            with closing(Journal(Path(name) / str(seed), settings)) as journal:
                for result in Run(plan, engine, task, journal, grader).run():
                    totals[result.experiment.kind].add(result)
    return totals


def mean(values: Seq[float]) -> float:
    return 100 * sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max_sequences", type=int, default=16)
    parser.add_argument("--entropy_threshold", type=float, default=1.5)
    parser.add_argument("--branch_rule", default="top2")
    asked = parser.parse_args()
    rules = BranchConfig(asked.max_sequences, asked.entropy_threshold, branch_rule=asked.branch_rule)
    totals = measure(asked.prompts, range(asked.seeds), rules)
    n = asked.prompts * asked.seeds
    first = totals["eager_init"]
    print("| experiment | sequences a prompt | tokens a prompt | Pass@k | Cons@k | gain on EAGer-init a 100 tokens |")
    print("|---|---|---|---|---|---|")
    for kind, total in totals.items():
        extra = (total.n_tokens - first.n_tokens) / n
        gain = (mean(total.consensus) - mean(first.consensus)) / extra * 100 if extra else 0.0
        numbers = (total.n_sequences / n, total.n_tokens / n, mean(total.passed), mean(total.consensus), gain)
        print(f"| {kind} | " + " | ".join(f"{number:.1f}" for number in numbers[:-1]) + f" | {numbers[-1]:+.2f} |")


if __name__ == "__main__":
    main()
