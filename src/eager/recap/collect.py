"""One pass over folders: every file streamed once, measured, and shown to whoever else wants to see its prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from pathlib import Path

from eager.grading import MathGrader
from eager.recap.compare import Comparison, compare
from eager.recap.grades import Regrader
from eager.recap.measure import Measures, PromptKeys
from eager.recap.prompt import ReadPrompt
from eager.recap.reading import Findings, RecapError, ResultFile, open_folder
from eager.words import one_line

OnPrompt = Callable[[Measures, int, ReadPrompt], None]


def recap(folders: Seq[Path], on_prompt: OnPrompt | None = None) -> Comparison:
    """Compare every experiment in the folders. `on_prompt` sees each prompt once, with its key across experiments.

    Raises RecapError where no folder holds a result.
    """
    findings, keys, experiments = Findings(), PromptKeys(), list[Measures]()
    labels = folder_labels(folders)
    with MathGrader() as grader:
        regrader = Regrader(grader)
        for folder, label in zip(folders, labels, strict=True):
            for file in _files(folder, findings, is_only=len(folders) == 1):
                name = file.experiment.name
                measures = Measures(f"{label}/{name}" if label else name, label, file.experiment)
                for prompt in file.prompts(regrader):
                    key = measures.add(prompt, keys)
                    if on_prompt is not None:
                        on_prompt(measures, key, prompt)
                if measures.prompts:
                    experiments.append(measures)
                else:
                    findings.notice(f"'{file.path}' holds no finished prompt: left out")
    if regrader.fallback is not None:
        findings.notice(f"{regrader.fallback}; answers were compared as normalised strings meanwhile")
    if not experiments:
        raise RecapError("; ".join([*findings.problems, *findings.notices]))
    return compare(_unique(experiments), findings)


def _files(folder: Path, findings: Findings, is_only: bool) -> list[ResultFile]:
    """The folder's files; one folder of several may be empty, that is a problem and not the end."""
    try:
        return open_folder(folder, findings)
    except RecapError as error:
        if is_only:
            raise
        findings.problem(str(error))
        return []


def _unique(experiments: list[Measures]) -> list[Measures]:
    """Two files of one experiment in a folder (an old name and a new one) get different labels."""
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
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(p[-depth:]) for p in parts]
        if len(set(labels)) == len(labels):
            break
    else:  # the same folder given twice
        labels = [f"{label} [{number}]" for number, label in enumerate(labels, start=1)]
    return [one_line(label, 120) for label in labels]
