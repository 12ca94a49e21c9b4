"""What `eager calibrate` foresees against what trees take on other prompts: the table of docs/calibration.md.

    python benchmarks/calibration_check.py measure RESULTS.jsonl --model demo --task openai/gsm8k --data FILE
    python benchmarks/calibration_check.py table RESULTS.jsonl

`measure` calibrates on the first problems, grows trees on the next ones at the recommended threshold, and adds a line
to the file; `table` prints all lines. A model is anything that engine llama_cpp takes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.calibrate.calibration import calibrated, chosen  # only now can it be found without installing
from eager.calibrate.target import Target
from eager.engines import Engine, load_engine
from eager.experiments import RunPlan, encoded_prompts
from eager.generator import Generator
from eager.metrics import mean_score
from eager.tasks import LoadedTask, load
from eager.types import BranchConfig, Generation, SamplingParams, TreeJob


def main() -> None:
    """Measure one line, or print the table."""
    options = parsed()
    if options.what == "table":
        print_table([json.loads(line) for line in options.results.read_text().splitlines()])
        return
    task = load(options.task, data_path=options.data, limit=2 * options.prompts)
    seen, others = (replace(task, problems=task.problems[half]) for half in halves(options.prompts))
    percentile = None if options.percentile == "none" else float(options.percentile)
    rules = BranchConfig(options.max_sequences, 1.0, threshold_percentile=percentile)
    plan = RunPlan(("eager_init",), (rules,), SamplingParams(), seed=55, max_tokens=options.max_tokens)
    engine = load_engine("llama_cpp", options.model, n_threads=options.threads)
    try:
        line = {"model": Path(options.model).stem, "task": options.task, "percentile": percentile}
        line |= measured(engine, seen, others, plan, Target.parse(options.target))
    finally:
        engine.shutdown()
    with options.results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print_table([line])


def halves(n: int) -> tuple[slice, slice]:
    """The problems to calibrate on, and as many others."""
    return slice(0, n), slice(n, 2 * n)


def measured(engine: Engine, seen: LoadedTask, others: LoadedTask, plan: RunPlan, target: Target) -> dict[str, object]:
    """What was foreseen and what came, a prompt."""
    calibration = calibrated(engine, seen, plan, {"max_tokens": plan.max_tokens})
    choice = chosen(calibration, plan.rules[0], target)
    trees = grown(engine, others, plan, replace(plan.rules[0], entropy_threshold=choice.threshold))
    foreseen = choice.estimate
    actual = {
        "n_sequences": mean_score(float(len(tree.sequences)) for tree in trees),
        "n_tokens": mean_score(float(tree.n_tokens) for tree in trees),
    }
    return {
        "target": str(target),
        "threshold": choice.threshold,
        "n_prompts": len(trees),
        "cost": calibration.n_tokens,
        **{name: [number(getattr(foreseen, name)), number(score)] for name, score in actual.items()},
    }


def number(score: object) -> list[float]:
    """Value, low, high."""
    return [score.value, score.low, score.high]  # type: ignore[attr-defined]


def grown(engine: Engine, task: LoadedTask, plan: RunPlan, rules: BranchConfig) -> list[Generation]:
    """A tree for each problem."""
    generator = Generator(engine)
    for index, prompt in enumerate(encoded_prompts(engine, task)):
        # Numbers of their own, so that they draw otherwise than the prompts that were seen.
        job_index = 1000 + index
        generator.add(TreeJob(job_index, prompt, rules, plan.sampling, plan.max_length(len(prompt), engine), plan.seed))
    return [tree for _, tree in generator.run()]


def print_table(lines: list[dict]) -> None:
    """In Markdown: sequences and then tokens a prompt, foreseen and actual; and foreseen / actual - 1."""
    columns = ("model", "task", "percentile", "threshold", "prompts", *2 * ("foreseen", "actual"), "off by")
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for line in lines:
        percentile = "none" if line["percentile"] is None else f"{line['percentile']:g}"
        cells = [line["model"], line["task"], percentile, line["threshold"], line["n_prompts"]]
        off = []
        for name, places in (("n_sequences", 1), ("n_tokens", 0)):
            cells += [f"{v:.{places}f} [{low:.{places}f}, {high:.{places}f}]" for v, low, high in line[name]]
            off.append(f"{100 * (line[name][0][0] / line[name][1][0] - 1):+.0f} %")
        print("| " + " | ".join(map(str, [*cells, ", ".join(off)])) + " |")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--task", default="openai/gsm8k")
    parser.add_argument("--data", type=Path, help="a local copy of the task's data")
    parser.add_argument("--prompts", type=int, default=16, help="to calibrate on, and as many others")
    parser.add_argument("--max_sequences", type=int, default=8)
    parser.add_argument("--max_tokens", type=int, default=200)
    parser.add_argument("--percentile", default="99")
    parser.add_argument("--target", default="")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
