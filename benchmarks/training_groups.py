"""The number that pays in training: groups whose rewards differ, per 1,000 generated tokens. On GSM8K, untrained.

    python benchmarks/training_groups.py run --model FOLDER --data gsm8k_train200.jsonl --out LINES.jsonl
    python benchmarks/training_groups.py table --out LINES.jsonl

Plain groups of n samples (`parallel`) against trees with the labelled second stage, by the rules `sample` and `top2`;
problems come in batches that share a budget, as in a training step. `run` goes on where it stopped, a line a batch;
with --minutes it stops by itself. `table` has what each way of handing a group over comes to, fewer plain samples
among them, and how the pass rate of trees compares with that of samples. Intervals are of 95 %, by bootstrap over
problems, paired.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence as Seq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import eager  # only now can it be found without installing
from eager.grading import MathGrader
from eager.integrations.groups import Draw, chosen, draw_parallel, draw_trees, filled_up, shares
from eager.metrics import Score, interval, mean_score, paired_differences, resampled_sums
from eager.randomness import sequence_seed
from eager.tasks import LoadedTask, Problem, load
from eager.types import BranchConfig, SamplingParams

ARMS = ("parallel", "sample", "top2")


@dataclass(frozen=True)
class Setting:
    """What a file of lines was made with; one that was made with another is refused."""

    model: str
    limit: int | None
    batch: int
    threshold: float
    n: int
    max_tokens: int
    temperature: float
    seed: int

    def draw(self, arm: str, number: int) -> Draw:
        """How this arm draws its batch of this number."""
        rules = BranchConfig(self.n, self.threshold, "top2" if arm == "top2" else "sample")
        seed = sequence_seed(self.seed, number, ARMS.index(arm))
        return Draw(rules, SamplingParams(self.temperature), self.max_tokens, seed)


# -- run ---------------------------------------------------------------------------------------------------------------


def run(setting: Setting, arms: Seq[str], engine: eager.Engine, task: LoadedTask, out: Path, end: float) -> None:
    """Draw the batches that the file lacks, until the time is over; arms take turns, so that they stay comparable."""
    done = {(line["arm"], line["batch"]) for line in opened(out, setting)}
    starts = range(0, len(task.problems), setting.batch)
    left = [(arm, number) for number in range(len(starts)) for arm in arms if (arm, number) not in done]
    with MathGrader() as grader, out.open("a", encoding="utf-8") as file:
        for place, (arm, number) in enumerate(left):
            if time.monotonic() > end:
                print(f"{len(left) - place} of {len(starts) * len(arms)} batches left: the same command goes on")
                return
            problems = task.problems[starts[number] : starts[number] + setting.batch]
            rows = drawn(setting.draw(arm, number), arm, engine, task, problems, grader)
            file.write(json.dumps({"arm": arm, "batch": number, "prompts": rows}) + "\n")
            file.flush()
            print(
                f"{arm}, batch {number + 1}/{len(starts)}: {sum(sum(row['tokens']) for row in rows)} tokens", flush=True
            )


def drawn(
    draw: Draw, arm: str, engine: eager.Engine, task: LoadedTask, problems: Seq[Problem], grader: MathGrader
) -> list[dict[str, Any]]:
    """A row a problem: of all its sequences the grade, their own tokens and the share, and where each stage ended."""
    prompts = [task.messages(problem) for problem in problems]

    def is_right(tree: eager.Tree, sequence: eager.Sequence) -> bool | None:
        return task.grade(sequence.text, problems[tree.prompt_index], grader).correct

    if arm == "parallel":
        grown = whole = [group.tree for group in draw_parallel(prompts, draw, engine)]
    else:
        grown = draw_trees(prompts, draw, engine, is_right)
        whole = filled_up(grown, draw.rules.max_sequences, engine)
    return [
        {
            "prompt": problem.index,
            "right": [is_right(tree, sequence) is True for sequence in tree.sequences],
            "tokens": [len(sequence.own_ids) for sequence in tree.sequences],
            "shares": shares(tree),
            "n_init": tree.n_init,
            "n_trees": len(before.sequences),
            "discarded": tree.discarded,
        }
        for problem, before, tree in zip(problems, grown, whole, strict=True)
    ]


def opened(out: Path, setting: Setting) -> list[dict[str, Any]]:
    """The file's whole lines; it is made where there is none, and a line that was cut short is taken off it."""
    if not out.exists():
        out.write_text(json.dumps(asdict(setting)) + "\n", encoding="utf-8")
    head, *lines = whole_lines(out)
    if head != asdict(setting):
        sys.exit(f"'{out}' was made with {head}: give another file")
    text = "".join(json.dumps(line) + "\n" for line in (head, *lines))
    out.write_text(text, encoding="utf-8")
    return lines


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """What was written to its end."""
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


# -- table -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One way to hand a group over: which rows' sequences it has, and which it paid for."""

    title: str
    arm: str
    members: Callable[[dict[str, Any], int], Seq[int]]
    paid: Callable[[dict[str, Any]], int]


def forms() -> Iterator[Form]:
    """All there are; the first is what the others are compared with."""
    yield Form("n samples", "parallel", lambda row, n: range(n), lambda row: len(row["tokens"]))
    yield Form("half as many", "parallel", lambda row, n: range(n // 2), lambda row: len(row["tokens"]) // 2)
    yield Form("a quarter as many", "parallel", lambda row, n: range(n // 4), lambda row: len(row["tokens"]) // 4)
    for rule in ("sample", "top2"):
        yield Form(f"`{rule}`, trees alone", rule, lambda row, n: range(row["n_init"]), lambda row: row["n_init"])
        yield Form(
            f"`{rule}`, second stage, as they are",
            rule,
            lambda row, n: range(row["n_trees"]),
            lambda row: row["n_trees"],
        )
        yield Form(
            f"`{rule}`, second stage, n by repeating", rule,
            lambda row, n: chosen(row["n_trees"], n), lambda row: row["n_trees"],
        )  # fmt: skip
        yield Form(
            f"`{rule}`, second stage, n by fresh samples", rule,
            lambda row, n: chosen(len(row["tokens"]), n), lambda row: len(row["tokens"]),
        )  # fmt: skip


def table(out: Path) -> str:
    """Both tables, over the problems that all arms have."""
    head, *lines = whole_lines(out)
    rows: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for line in lines:
        rows[line["arm"]] |= {row["prompt"]: row for row in line["prompts"]}
    common = sorted(set.intersection(*(set(found) for found in rows.values() if found)))
    by_arm = {arm: [found[index] for index in common] for arm, found in rows.items() if found}
    return "\n".join([*group_table(by_arm, head["n"]), "", *pass_rate_table(by_arm)])


def group_table(by_arm: dict[str, list[dict[str, Any]]], n: int) -> Iterator[str]:
    """Groups that differ by form."""
    yield "| groups | sequences | generated tokens | rewards differ | per 1,000 tokens | of the first |"
    yield "|---|---|---|---|---|---|"
    columns: list[np.ndarray[Any, Any]] = []
    for form in forms():
        if form.arm not in by_arm:
            continue
        rows = by_arm[form.arm]
        differ = [len({row["right"][i] for i in form.members(row, n)}) > 1 for row in rows]
        tokens = [sum(row["tokens"][: form.paid(row)]) for row in rows]
        columns.append(np.array([differ, tokens], dtype=float).T)
        sequences = sum(map(form.paid, rows))
        rate, ratio = rates(columns[-1], columns[0])
        cells = (f"{sequences:,}", f"{sum(tokens):,}", f"{sum(differ)} of {len(rows)}", shown(rate, 3), shown(ratio, 2))
        yield f"| {form.title} | {' | '.join(cells)} |"


def rates(form: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> tuple[Score, Score]:
    """Differing groups per 1,000 tokens, and that as a multiple of the first form's, over the same resamples."""
    (drawn_form, drawn_first), n = resampled_sums([form, first]), len(form)
    own, its = (1000 * sums[..., 0] / sums[..., 1] for sums in (drawn_form, drawn_first))
    found, reference = (1000 * rows[:, 0].sum() / rows[:, 1].sum() for rows in (form, first))
    low, high = interval(own)
    rate = Score(float(found), float(low), float(high), n)
    if reference == 0 or (its == 0).any():
        return rate, Score(None, None, None, n)
    low, high = interval(own / its)
    return rate, Score(float(found / reference), float(low), float(high), n)


def pass_rate_table(by_arm: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The trees alone against independent samples; by shares a tree of `sample` estimates the same."""
    yield "| pass rate | mean | against n samples |"
    yield "|---|---|---|"
    plain = {row["prompt"]: float(np.mean(row["right"])) for row in by_arm["parallel"]}
    yield f"| n samples | {shown(mean_score(plain.values()), 3)} | |"
    for arm in ("sample", "top2"):
        for title, is_weighted in (("sequences alike", False), ("by shares", True)):
            found = {row["prompt"]: init_rate(row, is_weighted) for row in by_arm.get(arm, ())}
            if found:
                (difference,) = paired_differences([(found, plain)])
                yield f"| `{arm}`, {title} | {shown(mean_score(found.values()), 3)} | {shown(difference, 3)} |"


def init_rate(row: dict[str, Any], is_weighted: bool) -> float:
    """The pass rate among the sequences of the first tree, whose shares sum to 1."""
    n = row["n_init"]
    return float(np.average(row["right"][:n], weights=row["shares"][:n] if is_weighted else None))


def shown(score: Score, places: int) -> str:
    """Its value and interval."""
    if score.value is None or score.low is None or score.high is None:
        return "none"
    return f"{score.value:.{places}f} [{score.low:.{places}f}, {score.high:.{places}f}]"


# -- the command line --------------------------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    parser_of = {name: what.add_parser(name) for name in ("run", "table")}
    for found in parser_of.values():
        found.add_argument("--out", type=Path, required=True)
    options = parser_of["run"]
    options.add_argument("--model", required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--engine", default="vllm")
    options.add_argument("--arms", default=",".join(ARMS))
    options.add_argument("--limit", type=int)
    options.add_argument("--batch", type=int, default=16, help="problems that share a budget")
    options.add_argument("--threshold", type=float, default=1.6)
    options.add_argument("--n", type=int, default=8)
    options.add_argument("--max_tokens", type=int, default=300)
    options.add_argument("--temperature", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=55)
    options.add_argument("--minutes", type=float, default=float("inf"))
    return parser.parse_args()


def main() -> None:
    """Do what was asked."""
    options = parsed()
    if options.what == "table":
        print(table(options.out))
        return
    end = time.monotonic() + 60 * options.minutes
    setting = Setting(
        Path(options.model).name, options.limit, options.batch, options.threshold, options.n, options.max_tokens,
        options.temperature, options.seed,
    )  # fmt: skip
    task = load("openai/gsm8k", data_path=options.data, limit=options.limit)
    more = {"max_model_len": 2048, "capacity": 128} if options.engine == "vllm" else {}
    engine = eager.load_engine(options.engine, options.model, **more)
    run(setting, options.arms.split(","), engine, task, options.out, end)
    engine.shutdown()


if __name__ == "__main__":
    main()
