"""Grades the code in result files that have no journal beside them, as those of the published code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Seq
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eager.cli.code_folder import Grading, Outcome, Texts, Verdicts, answer, finish, is_correct, keep_original
from eager.code_eval import CodeEvalError, own_words
from eager.metrics import GradedPrompt, Summary, summarise
from eager.recap.json_stream import PairedSurrogates
from eager.recap.reading import Findings, RecapError, ResultFile, open_folder
from eager.store import write_result_file


def grade_published(folder: Path, wanted: Seq[str], grading: Grading) -> list[Outcome]:
    """Grade the folder's result files; `wanted` names files (without .json) or experiments, all if empty."""
    findings = Findings()
    try:
        files = open_folder(folder, findings)
    except RecapError as error:
        raise CodeEvalError(str(error)) from None
    chosen = [file for file in files if not wanted or {file.path.stem, file.experiment.name} & set(wanted)]
    if not chosen:
        names = ", ".join(file.path.stem for file in files)
        raise CodeEvalError(f"'{folder}' has no experiment '{wanted[0]}': choose from {names}")
    outcomes = [_grade_file(file, findings, grading) for file in chosen]
    grading.problems.extend(findings.problems)
    found = [outcome for outcome in outcomes if outcome is not None]
    if not found:
        raise CodeEvalError(f"'{folder}' holds no whole file of HumanEval+ prompts: {'; '.join(grading.problems)}")
    return found


def _grade_file(file: ResultFile, findings: Findings, grading: Grading) -> Outcome | None:
    """Read once to grade and once to write, an entry at a time. None, and nothing written, where none can be graded."""
    n_problems = len(findings.problems)
    graded: list[tuple[str | None, Verdicts]] = []

    tasks: list[str | None] = []

    def texts(item: tuple[int, Any]) -> Texts:
        number, entry = item
        fields = entry if isinstance(entry, dict) else {}
        place = f"'{file.path}', prompt {number}"
        problem = grading.find(place, fields.get("meta"), str(fields.get("prompt", "")))
        tasks.append(None if problem is None else problem.task_id)
        return problem, _own_texts(fields)

    total = file.experiment.n_prompts or 0
    for (number, _), verdicts in grading.each(file.path.stem, total, enumerate(file.raw_prompts()), texts):
        graded.append((tasks[number], verdicts))
    if len(findings.problems) > n_problems or not any(task for task, _ in graded):
        return None  # a damaged file stays as it is
    scores = summarise([_graded_prompt(verdicts) for _, verdicts in graded])
    head = _head(file, scores)
    keep_original(file.path)
    write_result_file(file.path, head, file.list_key, _entries(file, graded))
    lines = [(index, task, verdicts) for index, (task, verdicts) in enumerate(graded) if task is not None]
    return finish(file.path, scores, lines)


def _own_texts(entry: dict[str, Any]) -> list[str | None]:
    """What each sequence says beyond its prompt; None where it failed."""
    texts = entry.get("generations")
    if not isinstance(texts, list):
        return []
    start, reasons = entry.get("prompt_characters"), entry.get("finish_reasons")
    own: list[str | None] = []
    for number, text in enumerate(texts):
        if not isinstance(text, str) or (isinstance(reasons, list) and reasons[number : number + 1] == ["error"]):
            own.append(None)
        else:
            own.append(text[start:] if type(start) is int else own_words(text, str(entry.get("prompt", ""))))
    return own


def _graded_prompt(verdicts: Verdicts) -> GradedPrompt:
    numbers: dict[str, int] = {}
    answers = [answer(verdict) for verdict in verdicts]
    groups = [numbers.setdefault(text, len(numbers)) if text else None for text in answers]
    return GradedPrompt(tuple(is_correct(verdict) for verdict in verdicts), tuple(groups))


def _head(file: ResultFile, scores: Summary) -> dict[str, Any]:
    """All of the file but the list, wherever it stands, with the scores computed anew."""
    import ijson

    builder = ijson.ObjectBuilder()
    inside = file.list_key
    with file.path.open("rb") as stream:
        for prefix, event, value in ijson.parse(PairedSurrogates(stream), use_float=True):
            is_in_list = prefix == inside or prefix.startswith(inside + ".")
            if not is_in_list and not (prefix == "" and event == "map_key" and value == inside):
                builder.event(event, value)
    head: dict[str, Any] = builder.value
    old = head.get("results")
    head["results"] = {
        **(old if isinstance(old, dict) else {}),
        "avg_acc": scores.pass_rate.value,
        "pass_at_1": scores.pass_at_k.value,
        "cons_at_max": scores.cons_at_k.value,
        "details": asdict(scores),
    }
    return head


def _entries(file: ResultFile, graded: Seq[tuple[str | None, Verdicts]]) -> Iterator[Any]:
    for entry, (task, verdicts) in zip(file.raw_prompts(), graded, strict=True):
        if task is None:
            yield entry
        else:
            prompt = _graded_prompt(verdicts)
            grades = {"correct": list(prompt.correct), "answer_groups": list(prompt.groups)}
            yield {**entry, "extracted_answers": repr([answer(verdict) for verdict in verdicts]), **grades}
