"""What a short GRPO run learns for the tokens that it generates: EAGer's samples against plain ones, on sums.

    python benchmarks/grpo_reward.py run --model FOLDER --out LINES.jsonl [--arms plain,eager,...] [--seeds 0,1,2]
    python benchmarks/grpo_reward.py table --out LINES.jsonl

The reward is 1 where the last number of a completion is the sum asked for. All arms train with the same problems in
the same order and the same number of steps; what they are worth is measured on other problems, by independent samples,
before, between and after. `run` leaves out what the file has.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.integrations.trl import EagerRollout  # only now can it be found without installing
from eager.types import MAX_ENTROPY

ARMS = ("plain", "eager", "eager_repeat")
# A model this small does what it is shown.
_EXAMPLES = (("What is 4 + 5?", "4 + 5 = 9"), ("What is 12 + 7?", "12 + 7 = 19"))
_ROLES = ("user", "assistant")
_N_EVAL = 32


def problems(n: int, seed: int, most: int) -> list[dict[str, Any]]:
    """Sums of two numbers, asked for as a chat, behind two that are answered."""
    draw = random.Random(seed)
    shown = [{"role": role, "content": text} for turn in _EXAMPLES for role, text in zip(_ROLES, turn, strict=True)]
    pairs = [(draw.randint(1, most), draw.randint(1, most)) for _ in range(n)]
    return [
        {"prompt": [*shown, {"role": "user", "content": f"What is {a} + {b}?"}], "target": str(a + b)} for a, b in pairs
    ]


def is_right(text: str, target: str) -> bool:
    """Whether the last number is the target."""
    numbers = re.findall(r"\d+", text.replace(",", ""))
    return bool(numbers) and numbers[-1] == target


def reward(completions: Seq[Any], target: Seq[str], **_: Any) -> list[float]:
    """TRL's reward function."""
    return [float(is_right(item[0]["content"], goal)) for item, goal in zip(completions, target, strict=True)]


def rollout_of(arm: str, rows: Seq[dict[str, Any]], threshold: float) -> EagerRollout:
    """`plain` never branches, and so draws independent samples by the same engine."""
    if arm == "plain":
        return EagerRollout(MAX_ENTROPY)
    targets = {row["prompt"][-1]["content"]: row["target"] for row in rows}
    return EagerRollout(
        threshold,
        grader=lambda prompt, text: is_right(text, targets[prompt[-1]["content"]]),
        fill="repeat" if arm == "eager_repeat" else "fresh",
    )


def run(options: argparse.Namespace) -> None:
    """Train each arm with each seed, and write a line a measurement."""
    done = {(line["arm"], line["seed"]) for line in lines_of(options.out) if line["step"] == options.steps}
    for seed in map(int, options.seeds.split(",")):
        for arm in options.arms.split(","):
            if (arm, seed) not in done:
                found = trained(arm, seed, options)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps({"arm": arm, "seed": seed, **line}) + "\n" for line in found))


def trained(arm: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The reward on the other problems, and what had been generated for training by then, step by step."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    n_groups = options.prompts
    rows = problems(n_groups * options.steps, 1000 + seed, options.most)
    rollout = rollout_of(arm, rows, options.threshold)
    found: list[dict[str, Any]] = []
    taught = 0.0

    class Noting(TrainerCallback):
        """Keeps every measurement, and how many groups had rewards that differ by then."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            nonlocal taught
            seen = logs or {}
            if "frac_reward_zero_std" in seen:
                taught += n_groups * (1 - seen["frac_reward_zero_std"])
            if "eval_reward" in seen:
                counts = {"step": state.global_step, "tokens": rollout.n_tokens, "taught": round(taught)}
                found.append({**counts, "reward": seen["eval_reward"]})
                print(arm, seed, found[-1], flush=True)

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, seed=seed, max_steps=options.steps, learning_rate=options.learning_rate, beta=0.0,
            num_generations=options.n, per_device_train_batch_size=options.n * n_groups, shuffle_dataset=False,
            num_generations_eval=2, per_device_eval_batch_size=_N_EVAL, eval_strategy="steps",
            eval_steps=options.eval_steps, max_completion_length=options.max_tokens, temperature=1.0,
            lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
            disable_tqdm=True, log_level="error",
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
            reward_funcs=reward,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            eval_dataset=datasets.Dataset.from_list(problems(options.eval_problems, 7, options.most)),
            processing_class=AutoTokenizer.from_pretrained(options.model),
            rollout_func=rollout,
            callbacks=[Noting()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.evaluate()
        trainer.train()
    return found


# -- table -------------------------------------------------------------------------------------------------------------


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The file's measurements."""
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def table(out: Path) -> str:
    """By arm, the means over seeds; the reward after as many tokens as the cheapest run took, by interpolation."""
    runs: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in lines_of(out):
        runs[line["arm"], line["seed"]].append(line)
    common = min(found[-1]["tokens"] for found in runs.values())
    shown = [
        f"| samples | runs | groups that differ | tokens | reward before | after | gained per 1,000 tokens |"
        f" after {common:,} tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        own = [found for (name, _), found in runs.items() if name == arm]
        if own:
            shown.append(f"| `{arm}` | {len(own)} | {' | '.join(_cells(own, common))} |")
    return "\n".join(shown)


def _cells(runs: Seq[Seq[dict[str, Any]]], common: int) -> list[str]:
    first, last = ([found[place]["reward"] for found in runs] for place in (0, -1))
    tokens = [found[-1]["tokens"] for found in runs]
    gained = [1000 * (b - a) / n for a, b, n in zip(first, last, tokens, strict=True)]
    at = [np.interp(common, [p["tokens"] for p in found], [p["reward"] for p in found]) for found in runs]
    taught = f"{np.mean([found[-1]['taught'] for found in runs]):,.0f}"
    return [taught, f"{np.mean(tokens):,.0f}", _mean(first), _mean(last), _mean(gained, 4), _mean(at)]


def _mean(values: Seq[float], places: int = 3) -> str:
    """The mean over seeds, and the least and the greatest."""
    return f"{np.mean(values):.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})"


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    parser_of = {name: what.add_parser(name) for name in ("run", "table")}
    for found in parser_of.values():
        found.add_argument("--out", type=Path, required=True)
    add = parser_of["run"].add_argument
    add("--model", required=True)
    add("--arms", default=",".join(ARMS))
    add("--seeds", default="0,1,2")
    add("--steps", type=int, default=30)
    add("--eval_steps", type=int, default=5)
    add("--eval_problems", type=int, default=64)
    add("--prompts", type=int, default=4, help="a step")
    add("--n", type=int, default=8, help="completions a prompt")
    add("--most", type=int, default=20, help="the largest number in a sum")
    add("--max_tokens", type=int, default=16)
    add("--threshold", type=float, default=0.5)
    add("--learning_rate", type=float, default=1e-5)
    options = parser.parse_args()
    if options.what == "run":
        run(options)
    else:
        print(table(options.out))


if __name__ == "__main__":
    main()
