"""How long recap (and report) take on a large run, and how much memory: a synthetic run at two sizes.

python benchmarks/large_run.py [--prompts 200] [--sequences 32] [--tokens 4000] [--source journal] [--report] [--once]

The run is written into a temporary folder, as a journal or as result files only: `parallel` (not monitored) and
`eager_init` (every token monitored, the worst case). The second size has twice the prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.results.experiment import Experiment  # only now can it be found without installing
from eager.results.published import list_key, prompt_entry
from eager.results.result_file import write_result_file
from eager.store.journal import Journal
from eager.store.records import PromptRecord, SequenceRecord
from eager.types import Branch

SOURCES = sys.path[0]

WORDS = (
    "so",
    "we",
    "add",
    "the",
    "numbers",
    "and",
    "check",
    "again",
    "then",
    "halve",
    "it",
    "wait",
    "maybe",
    "\\frac{1}{2}",
)
# Prints the peak memory of the command that it runs, children's aside, as its last line.
MEASURE = """
import json, resource, sys, time
from eager.cli import main
start = time.perf_counter()
try:
    main(json.loads(sys.argv[1]))
except SystemExit as end:
    code = end.code
seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([code, seconds, peak]), file=sys.stderr)
"""


def write_run(folder: Path, source: str, names: list[str], n_prompts: int, n_sequences: int, n_tokens: int) -> int:
    """Write the experiments; returns their size in bytes."""
    settings = {"model_name": "synthetic", "temperature": 0.6, "max_sequences": n_sequences, "seed": 0}
    journal = Journal(folder, {**settings, "n_prompts": n_prompts, "engine": "none"}) if source == "journal" else None
    for name in names:
        experiment = Experiment(name, None if name == "parallel" else 2.2)
        records = _records(experiment.name, n_prompts, n_sequences, n_tokens)
        if journal is not None:
            for record in records:
                journal.append(record)
        else:
            status = {"state": "COMPLETED", "completed_sequences": n_prompts, "total_sequences": n_prompts}
            head = {**settings, "status": status, "extra": {"versions": {}, "engine": "none"}, "results": {}}
            path = folder / f"{experiment.name}.json"
            write_result_file(path, head, list_key(experiment), map(prompt_entry, records))
    if journal is not None:
        journal.close()
    return sum(path.stat().st_size for path in folder.iterdir())


def _records(experiment: str, n_prompts: int, n_sequences: int, n_tokens: int) -> Iterator[PromptRecord]:
    random = np.random.default_rng(0)
    return (_record(experiment, index, n_sequences, n_tokens, random) for index in range(n_prompts))


def _record(experiment: str, index: int, n_sequences: int, n_tokens: int, random: np.random.Generator) -> PromptRecord:
    sequences: list[SequenceRecord] = []
    branches = []
    texts: list[list[str]] = []
    for seq in range(n_sequences):
        parent, fork = None, 0
        if seq and experiment != "parallel":
            parent = int(random.integers(seq))
            fork = int(random.integers(sequences[parent].fork, n_tokens // 4 + sequences[parent].fork // 2 + 1))
        words = [*(texts[parent][:fork] if parent is not None else []), *random.choice(WORDS, n_tokens - fork).tolist()]
        texts.append(words)
        correct = bool(random.random() < 0.6)
        entropies = np.minimum(random.exponential(0.4, n_tokens - fork), 2.9957).tolist()
        sequences.append(
            SequenceRecord(
                token_ids=(0,) * (n_tokens - fork),
                entropies=tuple([None] * (n_tokens - fork) if experiment == "parallel" else entropies),
                text=" ".join(words) + (" \\boxed{42}" if correct else " \\boxed{41}"),
                finish_reason="stop",
                parent=parent,
                fork=fork,
                answer="42" if correct else "41",
                correct=correct,
                group=0 if correct else 1,
            )
        )
        if parent is not None:
            before = " ".join(words[max(0, fork - 12) : fork]) + " "
            kept, new = texts[parent][fork], words[fork]
            branches.append(Branch(parent, fork, 2.5, 2.2, seq, 0, 0, 0, kept, kept, new, before))
    prompt = f"Problem {index}: what is 6 times 7?"
    return PromptRecord(experiment, index, prompt, f"User: {prompt}\n", "42", tuple(sequences), tuple(branches))


def measure(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak GiB of `eager` with these arguments, in a process of its own."""

    environment = {**os.environ, "PYTHONPATH": SOURCES}
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    code, seconds, kilobytes = json.loads(process.stderr.splitlines()[-1])
    if code:
        sys.exit(f"eager {' '.join(arguments)} ended with {code}:\n{process.stderr}")
    return seconds, kilobytes / 2**20


def main() -> None:
    """Print a table with a line a size and command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 200), ("sequences", 32), ("tokens", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--report", action="store_true", help="measure eager report too, and the size of its page")
    parser.add_argument("--once", action="store_true", help="measure the first size only")
    parser.add_argument("--experiments", default="parallel,eager_init")
    parser.add_argument("--source", choices=("journal", "json"), default="json", help="what there is to read")
    options = parser.parse_args()
    experiments = options.experiments.split(",")
    print(
        f"{'prompts':>8} {'sequences':>10} {'tokens':>12} {'files':>8}  {'command':8} {'seconds':>8} {'peak':>9}  page"
    )
    for n_prompts in (options.prompts,) if options.once else (options.prompts, 2 * options.prompts):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "run")
            folder.mkdir()
            size = write_run(folder, options.source, experiments, n_prompts, options.sequences, options.tokens)
            n_sequences = len(experiments) * n_prompts * options.sequences
            n_tokens = n_sequences * options.tokens
            start = f"{n_prompts:8,} {n_sequences:10,} {n_tokens:12,} {size / 2**20:5,.0f} MB"
            seconds, peak = measure(["recap", str(folder), "--json"])
            print(f"{start}  {'recap':8} {seconds:8.1f} {peak:6.2f} GB", flush=True)
            if options.report:
                page = Path(name, "report.html")
                seconds, peak = measure(["report", str(folder), "--output", str(page)])
                print(
                    f"{start}  {'report':8} {seconds:8.1f} {peak:6.2f} GB  {page.stat().st_size / 2**20:.1f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"({time.perf_counter() - started:.0f} s in all)")
