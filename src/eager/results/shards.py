"""A task shared out over several runs: which prompts are whose, and the results of all of them as those of one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence as Seq
from dataclasses import dataclass, replace
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from eager.results.experiment import Experiment
from eager.results.findings import Findings
from eager.results.folder import JournalResults, Results
from eager.store.records import PromptRecord
from eager.words import count

_SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Shard:
    """Every `of`-th prompt of a task; `number` counts from 1. Prompts keep their indices, and with them their draws."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no shard {self.number} of {self.of}: write 1/4, 2/4, 3/4 and 4/4 for four")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `str` wrote so. Raises ValueError."""
        match = _SHARD.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"'{text}' is no shard: write 1/4, 2/4, 3/4 and 4/4 for four")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def folder_name(self) -> str:
        """Where it lies in the folder of all shards."""
        return f"shard-{self.number}-of-{self.of}"

    @property
    def siblings(self) -> tuple[Shard, ...]:
        """All shards of the task, itself included."""
        return tuple(Shard(number, self.of) for number in range(1, self.of + 1))

    def indices(self, n_prompts: int) -> range:
        """Those of its prompts, of a task that has so many."""
        return range(self.number - 1, n_prompts, self.of)


def common_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What all shards of a task are bound to alike."""
    return {name: value for name, value in settings.items() if name not in ("shard", "n_prompts")}


class ShardedResults:
    """One experiment of all shards, to be used like one folder's: its prompts are in the order of the task."""

    def __init__(self, folder: Path, parts: Mapping[Shard, JournalResults], findings: Findings) -> None:
        (first, *_), (a_shard, *_) = parts.values(), parts
        self.experiment: Experiment = first.experiment
        self.path = folder / first.path.name
        missing = [shard for shard in a_shard.siblings if shard not in parts]
        numbers = [part.facts.n_prompts for part in parts.values()]
        self.facts = replace(
            first.facts,
            n_prompts=None if None in numbers else sum(filter(None, numbers)),
            is_complete=not missing and all(part.facts.is_complete for part in parts.values()),
        )
        self._parts = list(parts.values())
        if missing:
            findings.notice(
                f"'{folder}', {self.experiment.name}: {count(len(missing), 'shard')} of {a_shard.of} missing"
                f" ({', '.join(str(shard.number) for shard in missing)}): the numbers are over the others"
            )

    def records(self) -> Iterator[PromptRecord]:
        """The finished prompts by their indices, one of each shard in memory."""
        return merge(*(part.records() for part in self._parts), key=lambda record: record.prompt_index)


AnyResults: TypeAlias = Results | ShardedResults


def gathered(folders: Seq[tuple[Path, Seq[Results]]], findings: Findings) -> list[tuple[Path, list[AnyResults]]]:
    """Folders with what they hold; shards of one task are one folder, their parent, in the place of the first."""
    groups: dict[Any, tuple[Path, list[Results]]] = {}
    for number, (folder, everything) in enumerate(folders):
        runs = [_run_of(results) for results in everything if isinstance(results, JournalResults)]
        is_shard = any(runs)
        key = (folder.resolve().parent, runs[0]) if is_shard else number
        groups.setdefault(key, (folder.parent if is_shard else folder, []))[1].extend(everything)
    return [
        (folder, list(everything) if isinstance(key, int) else _joined(folder, everything, findings))
        for key, (folder, everything) in groups.items()
    ]


def _run_of(results: JournalResults) -> str | None:
    """What tells one sharded run from another; None for a whole one."""
    shard = _shard_of(results)
    return None if shard is None else json.dumps([shard.of, common_settings(results.settings)], sort_keys=True)


def _shard_of(results: JournalResults) -> Shard | None:
    """None, too, where the folder's settings name none that there is."""
    try:
        return Shard.parse(str(results.settings["shard"]))
    except (KeyError, ValueError):
        return None


def _joined(folder: Path, everything: Seq[Results], findings: Findings) -> list[AnyResults]:
    """The shards of each experiment as one; what is no shard's journal stays as it is."""
    others: list[AnyResults] = []
    experiments: dict[Experiment, dict[Shard, JournalResults]] = {}
    for results in everything:
        shard = _shard_of(results) if isinstance(results, JournalResults) else None
        if not isinstance(results, JournalResults) or shard is None:
            others.append(results)
            continue
        parts = experiments.setdefault(results.experiment, {})
        if shard in parts:
            findings.problem(f"'{results.path.parent}' is shard {shard} a second time: left out")
        else:
            parts[shard] = results
    joined = [ShardedResults(folder, parts, findings) for _, parts in sorted(experiments.items(), key=itemgetter(0))]
    return [*joined, *others]
