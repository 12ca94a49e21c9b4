"""Result files, ours and the published code's, read prompt by prompt.

What cannot be read costs its own prompt, or what follows it in its file, and is said in one sentence with its place;
the rest is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eager.errors import EagerError
from eager.recap.entries import EntryReader, NotAPromptError
from eager.recap.grades import Regrader
from eager.recap.json_stream import NotJsonError, items, read_head
from eager.recap.naming import LIST_KEYS, is_candidate, kind_and_threshold, setting
from eager.recap.prompt import ReadExperiment, ReadPrompt
from eager.results import experiment_name
from eager.words import count, one_line

_MOST = 1e15  # of what a setting or a number of seconds can be


class RecapError(EagerError):
    """There is nothing to report; the message names the folder, the reason and the remedy."""


class Findings:
    """What a reader should know beside the numbers: `problems` are losses, `notices` are not."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []

    def problem(self, sentence: str) -> None:
        """Something could not be read and is missing from the numbers."""
        if sentence not in self.problems:
            self.problems.append(sentence)

    def notice(self, sentence: str) -> None:
        """Everything is there, but means something else than one would think."""
        if sentence not in self.notices:
            self.notices.append(sentence)


class ResultFile:
    """One experiment's results. Opening reads its head; `prompts` streams the rest, as often as it is called."""

    def __init__(self, path: Path, findings: Findings) -> None:
        """Raises RecapError where the file holds no list of prompts."""
        self.path = path
        self._findings = findings
        self._is_broken = False
        try:
            head, list_key = read_head(path, LIST_KEYS)
        except NotJsonError as error:
            raise RecapError(f"'{path}' is not JSON (it breaks at {error}): left out") from None
        except OSError as error:
            raise RecapError(f"'{path}' cannot be read ({error.strerror}): left out") from None
        if list_key is None:
            keys = f"'{LIST_KEYS[0]}' nor '{LIST_KEYS[1]}'"
            raise RecapError(f"'{path}' holds neither {keys}: not a result file, left out")
        self.list_key = list_key
        self.experiment = _experiment(path, head, list_key)

    def raw_prompts(self) -> Iterator[Any]:
        """The prompts as the file has them. Where the file breaks they end, and a problem is noted."""
        n_read = 0
        try:
            for item in items(self.path, f"{self.list_key}.item"):
                yield item
                n_read += 1
        except NotJsonError as error:
            self._is_broken = True
            how = "is cut short" if error.place.at_end else "is damaged"
            self._findings.problem(
                f"'{self.path}' {how} at {error}, after {count(n_read, 'whole prompt')}: only those are reported"
            )

    def prompts(self, regrader: Regrader) -> Iterator[ReadPrompt]:
        """The readable prompts, one at a time; `regrader` grades those of files that carry no grades."""
        reader = EntryReader(self.experiment, regrader)
        for number, item in enumerate(self.raw_prompts()):
            try:
                yield reader.read(item, number)
            except NotAPromptError as error:  # noqa: PERF203 - one bad prompt must not cost the others
                self._findings.problem(f"'{self.path}', prompt {number}: {error}; this prompt is left out")
        for notice in reader.notices:
            self._findings.notice(f"'{self.path}': {notice}")
        self._check_number(reader.n_read)

    def _check_number(self, n_read: int) -> None:
        expected = self.experiment.n_prompts
        if expected is not None and n_read < expected and not self._is_broken:
            prompts = count(expected, "prompt")
            self._findings.notice(f"'{self.path}' holds {n_read:,} of {prompts}: the run is not finished")


def open_folder(folder: Path, findings: Findings) -> list[ResultFile]:
    """The folder's result files: parallel first, then by kind and threshold. Raises RecapError where there is none."""
    if not folder.is_dir():
        raise RecapError(f"'{folder}' is not a folder: give one that eager run has written")
    files = []
    for path in sorted(folder.iterdir()):
        if is_candidate(path.name) and path.is_file():
            try:
                files.append(ResultFile(path, findings))
            except RecapError as error:
                findings.problem(str(error))
    if not files:
        why = f" ({findings.problems[-1]})" if findings.problems else ""
        raise RecapError(f"'{folder}' holds no results{why}: give a folder that eager run has written")
    return sorted(files, key=_order)


def _order(file: ResultFile) -> tuple[int, float]:
    kinds = ("parallel", "eager_init", "eager_adapt", "eager")
    return kinds.index(file.experiment.kind), file.experiment.threshold or 0.0


def _experiment(path: Path, head: dict[str, Any], list_key: str) -> ReadExperiment:
    kind, threshold = kind_and_threshold(path.stem, head, list_key)
    status = head.get("status")
    status = status if isinstance(status, dict) else {}
    extra = head.get("extra")
    seconds = extra.get("generation_time_so_far (s)") if isinstance(extra, dict) else None
    return ReadExperiment(
        name=experiment_name(kind, threshold),
        kind=kind,
        threshold=threshold,
        model_name=_text(setting(head, "model_name")),
        data_name=_text(setting(head, "data_name")),
        temperature=_float(setting(head, "temperature")),
        max_sequences=_int(setting(head, "max_sequences")),
        seed=_int(setting(head, "seed")),
        engine=_text(setting(head, "engine")),
        seconds=_float(seconds),
        n_prompts=_int(status.get("total_sequences")),
        is_complete=status.get("state") == "COMPLETED",
        is_published=setting(head, "versions") is None,
    )


def _text(value: Any) -> str | None:
    return one_line(value) if isinstance(value, str) else None


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _MOST else None
