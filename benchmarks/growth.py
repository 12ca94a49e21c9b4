"""What a run costs its driver, and how that grows with the number of prompts: processor seconds and memory.

    python benchmarks/growth.py [--prompts 100,1000,10000] [--sequences 32]

The scripted engine plays short sequences, so that everything a prompt costs shows; its own time is told apart, as that
is not the driver's. A child for each size runs `eager_init` into a temporary folder; others then open its journal and
make recap's tables. All seconds are of the processor, as a busy machine would change any others.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.engines.scripted import ScriptedEngine  # only now can it be found without installing
from eager.experiments import Run, RunPlan, settings_of
from eager.grading import MathGrader
from eager.recap import recap
from eager.recording import Recorder
from eager.results import folder as results_folder
from eager.store.journal import Journal
from eager.tasks import load
from eager.types import BranchConfig, SamplingParams

THRESHOLD = 0.2
_WORDS_IN_A_PROMPT = 100


class Watch:
    """Processor seconds by part; what a part spends in another that is watched, too, counts there only."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inner = [0.0]

    def on(self, owner: Any, name: str, part: str) -> None:
        """Time every call of this method or function."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*args, **options)
            finally:
                spent = time.process_time() - start
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        setattr(owner, name, timed)


def write_problems(path: Path, n_prompts: int) -> None:
    """As many different problems, each some hundred words long."""
    words = " ".join(["word"] * _WORDS_IN_A_PROMPT)
    with path.open("w") as file:
        for index in range(n_prompts):
            file.write(json.dumps({"question": f"{words} {index}", "answer": "1"}) + "\n")


def run(place: Path, n_prompts: int, n_sequences: int) -> dict[str, Any]:
    """A run of eager_init, in this process; what it took."""
    task = load("mine", data_path=place / "problems.jsonl", prompt_field="question", target_field="answer")
    rules = BranchConfig(n_sequences, THRESHOLD, branch_rule="sample", threshold_percentile=None)
    plan = RunPlan(("eager_init",), (rules,), SamplingParams(temperature=1.0), seed=1)
    watch = Watch()
    for owner, name, part in (
        (ScriptedEngine, "step", "engine"),
        (ScriptedEngine, "encode_chat", "engine"),
        (Journal, "append", "journal"),
        (Recorder, "record", "texts and grades"),
        (results_folder, "write_result_file", "result file"),
        (results_folder, "experiment_result", "scores"),
    ):
        watch.on(owner, name, part)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    settings = settings_of(plan, task, {"model_name": "chain", "engine": "scripted"})
    with closing(Journal(place / "run", settings)) as journal, MathGrader() as grader:
        (result,) = Run(plan, ScriptedEngine("chain", capacity=256), task, journal, grader).run()
    seconds = dict(watch.seconds)
    seconds["trees"] = time.process_time() - start - sum(seconds.values())
    return {
        "seconds": seconds,
        "began": began,
        "n_sequences": result.n_sequences,
        "n_tokens": result.n_tokens,
        "bytes": (place / "run" / "journal.jsonl").stat().st_size,
    }


PARTS: dict[str, Callable[..., Any]] = {
    "run": run,
    "open": lambda place, *_: {"n": Journal(place / "run").count(f"eager_init_th{THRESHOLD}")},
    "recap": lambda place, *_: {"n": len(recap([place / "run"]).rows)},
}


def child(part: str, place: str, n_prompts: str, n_sequences: str) -> None:
    """One part in this process; prints what it took as JSON."""
    start = time.process_time()
    found = PARTS[part](Path(place), int(n_prompts), int(n_sequences))
    own = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({**found, "own": own, "peak": peak, "children": children.ru_utime + children.ru_stime}))


def measured(part: str, place: Path, n_prompts: int, n_sequences: int) -> dict[str, Any]:
    """The part in a process of its own."""
    command = [sys.executable, __file__, "--child", part, str(place), str(n_prompts), str(n_sequences)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a table with a line a size, and what a prompt and a token cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="100,1000,10000")
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    for n_prompts in map(int, options.prompts.split(",")):
        with tempfile.TemporaryDirectory() as name:
            write_problems(Path(name, "problems.jsonl"), n_prompts)
            found = {part: measured(part, Path(name), n_prompts, options.sequences) for part in PARTS}
        show(n_prompts, found)


def show(n_prompts: int, found: dict[str, dict[str, Any]]) -> None:
    """What one size took."""
    ran, n_tokens = found["run"], found["run"]["n_tokens"]
    size = f"{ran['bytes'] / 1e6:,.1f} MB"
    print(f"{n_prompts:,} prompts, {ran['n_sequences']:,} sequences, {n_tokens:,} tokens, a journal of {size}")
    seconds = {**ran["seconds"], "grading, in another process": ran["children"]}
    seconds |= {f"then: {part}": found[part]["own"] for part in ("open", "recap")}
    for part, spent in seconds.items():
        a_prompt, a_token = 1e3 * spent / n_prompts, 1e6 * spent / n_tokens
        print(f"  {part:28} {spent:9.2f} s {a_prompt:9.2f} ms a prompt {a_token:8.2f} us a token")
    peaks = ", ".join(f"{part} {found[part]['peak'] / 1024:,.0f}" for part in PARTS)
    grown = (ran["peak"] - ran["began"]) / n_prompts
    print(f"  peak memory in MB: {peaks}; a run's over what it began with: {grown:.1f} kB a prompt", flush=True)


if __name__ == "__main__":
    main()
