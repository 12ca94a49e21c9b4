"""Result folders for tests: small runs as `eager run` writes them, and files as the published code wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from eager.grading import MathGrader
from eager.results.experiment import Experiment
from eager.results.findings import Findings
from eager.results.published import list_key, prompt_entry
from eager.results.result_file import ResultFile, write_result_file
from eager.results.scores import Regrader
from eager.store.journal import Journal
from eager.store.records import PromptRecord, SequenceRecord, merged
from eager.types import Branch

TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
WORDS = (" so", " we", " add", " the", " numbers", " and", " check", " again", ",", " then", " halve", " it")


def sequence(
    text: str,
    answer: str | None,
    correct: bool | None,
    *,
    n_tokens: int = 12,
    parent: int | None = None,
    fork: int = 0,
    entropies: Seq[float | None] | None = None,
) -> SequenceRecord:
    """A finished sequence with `n_tokens` tokens of its own."""
    own = tuple(entropies) if entropies is not None else tuple(0.1 * (i % 7) for i in range(n_tokens))
    return SequenceRecord(tuple(range(len(own))), own, text, "stop", parent, fork, answer, correct)


def record(
    experiment: str,
    index: int,
    sequences: Seq[SequenceRecord],
    branches: Seq[Branch] = (),
    prompt: str | None = None,
    target: str | None = "42",
) -> PromptRecord:
    """A finished prompt."""
    prompt = prompt if prompt is not None else f"Problem {index}: what is 6 times 7?"
    return PromptRecord(experiment, index, prompt, TEMPLATE.format(prompt), target, tuple(sequences), tuple(branches))


def write_experiment_file(
    folder: Path,
    kind: str,
    records: Seq[PromptRecord],
    threshold: float = 2.2,
    *,
    model: str = "demo/model",
    n_prompts: int | None = None,
    max_sequences: int = 4,
    is_complete: bool = True,
) -> Path:
    """A result file as `eager run` writes it; answers are grouped by their text."""
    experiment = Experiment(kind, None if kind == "parallel" else threshold)
    folder.mkdir(parents=True, exist_ok=True)
    total = len(records) if n_prompts is None else n_prompts
    head = {
        "model_name": model,
        "temperature": 0.6,
        "entropy_threshold": experiment.threshold,
        "max_sequences": max_sequences,
        "seed": 55,
        "status": {
            "state": "COMPLETED" if is_complete else "IN_PROGRESS",
            "completed_sequences": len(records),
            "total_sequences": total,
            "progress": "",
        },
        "extra": {
            "notes": "",
            "generation_time_so_far (s)": 12.5,
            "experiment": kind,
            "data_name": "demo",
            "engine": "scripted",
            "versions": {"eager-gen": "0.1.0"},
        },
        "results": {"avg_acc": None, "pass_at_1": None, "cons_at_max": None, "details": {}},
    }
    path = folder / f"{experiment.name}.json"
    write_result_file(path, head, list_key(experiment), (prompt_entry(grouped(item)) for item in records))
    return path


def write_journal(folder: Path, records: Seq[PromptRecord], **settings: Any) -> Path:
    """A journal with these records; their `experiment` is its name, threshold included."""
    known = {"model_name": "demo/model", "data_name": "demo", "engine": "scripted", "seed": 55, "temperature": 0.6}
    with closing(Journal(folder, {**known, "max_sequences": 4, "n_prompts": len(records), **settings})) as journal:
        for item in records:
            journal.append(item)
    return folder


def grouped(item: PromptRecord) -> PromptRecord:
    """The record with classes of equal answers."""
    numbers: dict[str, int] = {}
    groups = [None if s.answer is None else numbers.setdefault(s.answer, len(numbers)) for s in item.sequences]
    sequences = (replace(s, group=group) for s, group in zip(item.sequences, groups, strict=True))
    return replace(item, sequences=tuple(sequences))


def demo_folder(folder: Path, n_prompts: int = 8, max_sequences: int = 8, n_tokens: int = 60, seed: int = 1) -> Path:
    """All four experiments, with trees that really branch; the harder the prompt, the more sequences and mistakes."""
    random = Random(seed)
    difficulty = [index / max(1, n_prompts - 1) for index in range(n_prompts)]
    parallel = [_parallel(i, d, max_sequences, n_tokens, random) for i, d in enumerate(difficulty)]
    write_experiment_file(folder, "parallel", parallel, max_sequences=max_sequences)
    inits = []
    for index, hard in enumerate(difficulty):
        inits.append(_tree("eager_init", index, hard, 1 + round(hard * (max_sequences - 1)), n_tokens, random))
    write_experiment_file(folder, "eager_init", inits, max_sequences=max_sequences)
    for kind, wants in (("eager_adapt", lambda r: len(r.sequences) == max_sequences), ("eager", _is_unsolved)):
        records = []
        for init in inits:
            n_extra = max_sequences // 2 if wants(init) else 0
            extra = _tree(kind, init.prompt_index, 0.5, n_extra, n_tokens, random, first=len(init.sequences))
            records.append(merged(init, extra))
        write_experiment_file(folder, kind, records, max_sequences=max_sequences)
    return folder


def _is_unsolved(item: PromptRecord) -> bool:
    return not any(s.correct for s in item.sequences)


def _answer(hard: float, random: Random) -> tuple[str | None, bool]:
    if random.random() > hard * 0.85 + 0.05:
        return "42", True
    return random.choice(["41", "48", None]), False


def _text(random: Random, n_tokens: int) -> str:
    return "".join(random.choice(WORDS) for _ in range(n_tokens))


def _ending(answer: str | None) -> str:
    return "" if answer is None else f" The answer is \\boxed{{{answer}}}."


def _parallel(index: int, hard: float, n: int, n_tokens: int, random: Random) -> PromptRecord:
    sequences = []
    for _ in range(n):
        answer, correct = _answer(hard, random)
        length = random.randint(n_tokens // 2, n_tokens)
        text = _text(random, length) + _ending(answer)
        sequences.append(sequence(text, answer, correct, entropies=[None] * length))
    return record("parallel", index, sequences)


def _tree(kind: str, index: int, hard: float, n: int, n_tokens: int, random: Random, first: int = 0) -> PromptRecord:
    """A tree of n sequences over words as tokens, numbered from `first`."""
    words: list[list[str]] = []
    shape: list[tuple[int | None, int]] = []
    branches = []
    for seq in range(n):
        length = random.randint(n_tokens // 2, n_tokens)
        if seq == 0:
            words.append([random.choice(WORDS) for _ in range(length)])
            shape.append((None, 0))
            continue
        parent = random.randrange(seq)
        low = shape[parent][1]
        position = random.randrange(low, max(low + 1, len(words[parent]) - 1))
        kept = words[parent][position]
        new = random.choice([word for word in WORDS if word != kept])
        before = words[parent][:position]
        words.append([*before, new, *(random.choice(WORDS) for _ in range(length - position))])
        shape.append((parent + first, position))
        branches.append(
            Branch(
                parent + first,
                position,
                2.2 + random.random() * 0.7,
                2.2,
                seq + first,
                sampled_token=kept,
                kept_token=kept,
                new_token=new,
                text_before="".join(before[-12:]),
            )
        )
    sequences = []
    for tokens, (parent_seq, fork) in zip(words, shape, strict=True):
        answer, correct = _answer(hard, random)
        entropies = [round(random.expovariate(2.0 - hard), 4) for _ in tokens[fork:]]
        text = "".join(tokens) + _ending(answer)
        sequences.append(sequence(text, answer, correct, parent=parent_seq, fork=fork, entropies=entropies))
    item = record(kind, index, sequences, branches)
    return replace(item, n_recomputed=3 * len(branches), n_discarded=len(branches))


def write_published(
    folder: Path,
    suffix: str,
    prompts: Seq[dict[str, Any]],
    *,
    data_name: str = "opencompass/AIME2025",
    threshold: float = 2.5,
) -> Path:
    """A file as the published code wrote it: its settings nested, no grades, the timestamp in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    key = "default-generations" if suffix.startswith("default") else "entropy-aware-generations"
    n = len(prompts)
    content = {
        "experiment_name": folder.name,
        "params": {
            "model_name": "Qwen/Qwen3-4B",
            "temperature": 0.6,
            "entropy_threshold": threshold,
            "max_sequences": 32,
            "seed": 55,
        },
        "data": {"data_name": data_name, "num_prompts": n, "targets": [prompt["target"] for prompt in prompts]},
        "status": {"state": "COMPLETED", "completed_sequences": n, "total_sequences": n, "progress": f"{n}/{n}"},
        "extra": {"notes": "", "generation_time_so_far (s)": 33938.98},
        "results": {"avg_acc": 0.5, "pass_at_1": 0.5, "cons_at_max": 0.5},
        key: list(prompts),
    }
    path = folder / f"{folder.name}_{suffix}.json"
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False), encoding="utf-8")
    return path


def published_prompt(
    prompt: str,
    target: Any,
    answers: Seq[str | None],
    generations: Seq[str],
    entropies: Seq[Seq[float]],
    branches: Seq[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A prompt in the published form."""
    entry: dict[str, Any] = {
        "prompt": prompt,
        "generated_sequences": len(generations),
        "target": target,
        "extracted_answers": str(list(answers)),
        "generations": list(generations),
        "entropies": [str(list(row)) for row in entropies],
    }
    if branches is not None:
        entry["recorded_branches"] = [str(branch) for branch in branches]
    return entry


def read(path: Path, findings: Findings | None = None) -> list[PromptRecord]:
    """The records of a result file; what carries no grades is graded."""
    with MathGrader() as grader:
        return list(ResultFile(path, findings or Findings(), Regrader(grader)).records())


def column(item: PromptRecord, name: str) -> list:
    """One field of every sequence."""
    return [getattr(sequence, name) for sequence in item.sequences]
