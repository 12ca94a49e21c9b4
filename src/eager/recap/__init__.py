"""Tables over the results in folders, ours and the published code's.

One pass: every experiment streamed once, measured, and shown to whoever else wants its prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from pathlib import Path

from eager.grading import MathGrader
from eager.recap.compare import Comparison, compare
from eager.recap.export import as_csv, as_json
from eager.recap.measure import Measures, PromptKeys
from eager.recap.tables import print_comparison
from eager.results.findings import Findings, ResultsError
from eager.results.folder import Results, open_folder
from eager.results.scores import Regrader
from eager.results.shards import AnyResults, gathered
from eager.store.records import PromptRecord
from eager.words import one_line

__all__ = ["Comparison", "as_csv", "as_json", "print_comparison", "recap"]

OnPrompt = Callable[[Measures, int, PromptRecord], None]


def recap(folders: Seq[Path], on_prompt: OnPrompt | None = None, *, is_brief: bool = False) -> Comparison:
    """Compare every experiment in the folders. `on_prompt` sees each prompt once, with its key across experiments.

    Of several folders, those that are shards of one task count as one. `is_brief` leaves out experiments that are not
    complete, and correlations. Raises ResultsError where no folder holds a result.
    """
    findings, keys, experiments = Findings(), PromptKeys(), list[Measures]()
    with MathGrader() as grader:
        regrader = Regrader(grader)
        is_only = len(folders) == 1
        opened = [(folder, _experiments(folder, findings, regrader, is_only=is_only)) for folder in folders]
        whole = (
            [(folder, list[AnyResults](found)) for folder, found in opened] if is_only else gathered(opened, findings)
        )
        labels = folder_labels([folder for folder, _ in whole])
        for (_, everything), label in zip(whole, labels, strict=True):
            for results in everything:
                if is_brief and not results.facts.is_complete:
                    continue
                measures = _measured(results, label, keys, on_prompt)
                if measures.prompts:
                    experiments.append(measures)
                else:
                    findings.notice(f"'{results.path}' holds no finished prompt: left out")
    if regrader.fallback is not None:
        findings.notice(f"{regrader.fallback}; answers were compared as normalised strings meanwhile")
    if not experiments:
        raise ResultsError("; ".join([*findings.problems, *findings.notices]))
    return compare(_unique(experiments), findings, with_correlations=not is_brief)


def _measured(results: AnyResults, folder: str, keys: PromptKeys, on_prompt: OnPrompt | None) -> Measures:
    name = results.experiment.name
    measures = Measures(f"{folder}/{name}" if folder else name, folder, results.experiment, results.facts)
    for record in results.records():
        key = measures.add(record, keys)
        if on_prompt is not None:
            on_prompt(measures, key, record)
    return measures


def _experiments(folder: Path, findings: Findings, regrader: Regrader, is_only: bool) -> list[Results]:
    """The folder's experiments. One of several may hold none: noticed where it is empty, else a problem; not the end.

    A run that was killed at its start leaves an empty folder, and a shell's * names it, too.
    """
    n_problems = len(findings.problems)
    try:
        return open_folder(folder, findings, regrader)
    except ResultsError as error:
        if is_only:
            raise
        if len(findings.problems) == n_problems:
            findings.notice(f"'{folder}' holds no results: left out")
        else:
            findings.problem(str(error))
    except OSError as error:
        if is_only:
            raise
        findings.problem(f"'{error.filename or folder}' cannot be read ({error.strerror}): left out")
    return []


def _unique(experiments: list[Measures]) -> list[Measures]:
    """One experiment twice in a folder (under an old name and a new one) gets different labels."""
    seen: dict[str, int] = {}
    for measures in experiments:
        seen[measures.label] = seen.get(measures.label, 0) + 1
        if seen[measures.label] > 1:
            measures.label += f" ({seen[measures.label]})"
    return experiments


def folder_labels(folders: Seq[Path]) -> list[str]:
    """What tells the folders apart: nothing for one; else as many last path components as are needed."""
    if len(folders) == 1:
        return [""]
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = {path: str(Path(*path.parts[-depth:])) for path in paths}
        if len(set(names.values())) == len(names):
            break
    labels = [one_line(names[path], 120) for path in paths]
    # The same folder given twice, or two whose names look alike.
    return [
        label if labels.count(label) == 1 else f"{label} [{labels[: index + 1].count(label)}]"
        for index, label in enumerate(labels)
    ]
