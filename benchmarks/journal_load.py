"""The journal under load: whether its ten-thousandth line costs what its first did, and how long it takes to open.

    python benchmarks/journal_load.py [--prompts 20000] [--sequences 8] [--tokens 100] [--folder FOLDER]

Appends made-up prompts one by one, as a run does, to a journal in a new folder within FOLDER (the disk that counts; by
default the system's place for temporary files), opens it, and has the result file made of it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from statistics import mean, median

from eager.grading import MathGrader
from eager.results.experiment import Experiment
from eager.results.folder import write_experiment
from eager.results.scores import Regrader
from eager.store.journal import Journal
from eager.store.records import PromptRecord, SequenceRecord

N_AT_EACH_END = 1000


def record(index: int, n_sequences: int, n_tokens: int, random: Random) -> PromptRecord:
    """A prompt whose sequences share nothing, every token monitored."""
    entropies = [random.random() * 3 for _ in range(n_tokens)]
    ids = [random.randrange(150_000) for _ in range(n_tokens)]
    answers = [str(random.randrange(4)) for _ in range(n_sequences)]
    sequences = tuple(
        SequenceRecord(
            tuple(ids), tuple(entropies), "four letters" * (n_tokens // 3), "stop", None, 0, answer, True, group=0
        )
        for answer in answers
    )
    return PromptRecord("parallel", index, f"problem {index}", f"<user>problem {index}", "1", sequences)


def append_all(journal: Journal, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each append, and of its fsync alone."""
    random, appends, syncs = Random(1), [], []
    sync, os.fsync = os.fsync, timed(os.fsync, syncs)
    try:
        append = timed(journal.append, appends)
        for index in range(arguments.prompts):
            append(record(index, arguments.sequences, arguments.tokens, random))
    finally:
        os.fsync = sync
    return appends, syncs


def timed(work: Callable[..., object], seconds: list[float]) -> Callable[..., None]:
    """The same, and how long it took each time."""

    def timed_work(*arguments: object) -> None:
        start = time.perf_counter()
        work(*arguments)
        seconds.append(time.perf_counter() - start)

    return timed_work


def show(name: str, seconds: list[float]) -> None:
    first, last = seconds[:N_AT_EACH_END], seconds[-N_AT_EACH_END:]
    figures = [1e3 * figure for part in (first, last) for figure in (median(part), mean(part))]
    print(f"{name:24}" + "".join(f"{figure:10.3f}" for figure in figures))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("prompts", 20_000), ("sequences", 8), ("tokens", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    settings = {"model_name": "m", "data_name": "d", "engine": "scripted", "temperature": 0.6, "seed": 1}
    settings |= {"max_sequences": arguments.sequences, "n_prompts": arguments.prompts}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with closing(Journal(folder, settings)) as journal:
            appends, syncs = append_all(journal, arguments)
        size = (folder / "journal.jsonl").stat().st_size
        print(f"{arguments.prompts:,} prompts, {size / 1e6:,.0f} MB, {size / arguments.prompts / 1e3:.1f} kB a line")
        print(f"{'milliseconds':24}" + "".join(f"{head:>10}" for head in ("first", "mean", "last", "mean")))
        show("append", appends)
        show("of it fsync", syncs[-len(appends) :])
        for what in ("opened", "opened for writing"):
            start = time.perf_counter()
            journal = Journal(folder, settings if "writing" in what else None)
            journal.close()
            print(f"{what} in {time.perf_counter() - start:.2f} s")
        with MathGrader() as grader:
            start = time.perf_counter()
            write_experiment(journal, Experiment("parallel", None), Regrader(grader))
            print(f"result file made in {time.perf_counter() - start:.1f} s")
        print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
