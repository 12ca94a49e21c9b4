"""What eager_init has saved, shared out: over the prompts of one folder, or over those of all shards of a task.

Shards lie beside one another. The first one that shares something out looks into the journals of all, and writes down
who may have how many; the others go by that. So whatever happens later, they never have more than M a prompt together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence as Seq
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from eager.atomic import made_once, replacing
from eager.budget import SETTLED, adapt_shares, label_shares, vote_allowances
from eager.errors import EagerError
from eager.results.experiment import Experiment, shortest
from eager.results.scores import Regrader
from eager.results.shards import Shard, common_settings
from eager.store.journal import JOURNAL_NAME, Journal, StoreError
from eager.store.records import PromptRecord

SHARES = ".shares.json"


class RunError(EagerError):
    """The run cannot start or go on; the message names the culprit and the remedy."""


@dataclass(frozen=True, slots=True)
class Shares:
    """By prompt index: how many sequences eager_init `used`, and how many `extra` ones there may be."""

    used: dict[int, int]
    extra: dict[int, int]


class Sharing:
    """Shares out what a finished eager_init has saved; `n_prompts` are those of the whole task."""

    def __init__(
        self, journal: Journal, n_prompts: int, shard: Shard | None, max_sequences: int, settled: float | None
    ) -> None:
        self._journal = journal
        self._n_prompts = n_prompts
        self._shard = shard
        self._max_sequences = max_sequences
        self._settled = SETTLED if settled is None else settled

    def shares(self, kind: str, threshold: float, regrader: Regrader) -> Shares:
        """Of all prompts, for the shards as one of them has written it down. Raises RunError or StoreError."""
        init = Experiment("eager_init", threshold).name
        if self._shard is None:
            return self._shared_out(kind, init, regrader)
        self._check_finished(kind, init, {self._shard: self._journal})
        path = self._journal.folder.parent / f"{Experiment(kind, threshold).name}{SHARES}"
        try:
            made_once(path, partial(self._write, kind, init, regrader))
            shares = self._read(path)
        except OSError as error:
            raise StoreError(
                f"cannot share out what {init} saved in '{path}' ({error.strerror}): make room, or make it writable,"
                " and run the same command again"
            ) from None
        self._check_used(shares, init, path)
        return shares

    def most_votes(self, threshold: float, indices: Iterable[int], regrader: Regrader) -> int:
        """How many sequences the run's prompts may have after eager_vote. Raises RunError or StoreError."""
        if self._shard is None:
            self._check_finished("eager_vote", Experiment("eager_init", threshold).name, {None: self._journal})
            return self._max_sequences * self._n_prompts
        shares = self.shares("eager_vote", threshold, regrader)
        return sum(shares.used[index] + shares.extra.get(index, 0) for index in indices)

    def _shared_out(self, kind: str, init: str, regrader: Regrader) -> Shares:
        journals = self._journals(init)
        self._check_finished(kind, init, journals)
        records = {shard: [_Grades.of(r, regrader) for r in j.records(init)] for shard, j in journals.items()}
        if kind == "eager":
            _check_graded(records, init)
        prompts = {grades.index: grades for of_shard in records.values() for grades in of_shard}
        in_order = [prompts[index] for index in range(self._n_prompts)]
        used = [len(grades.correct) for grades in in_order]
        if kind == "eager_adapt":
            extra = adapt_shares(used, self._max_sequences)
        elif kind == "eager":
            extra = label_shares(used, [grades.is_solved for grades in in_order], self._max_sequences)
        else:
            extra = vote_allowances([grades.groups for grades in in_order], self._max_sequences, self._settled)
        return Shares(dict(enumerate(used)), extra)

    # -- shards -------------------------------------------------------------------------------------------------

    def _journals(self, init: str) -> dict[Shard | None, Journal]:
        """Of all shards; only one's own where there are none. Raises RunError where one is missing, or is another's."""
        if self._shard is None:
            return {None: self._journal}
        journals: dict[Shard | None, Journal] = {}
        for shard in self._shard.siblings:
            folder = self._journal.folder.with_name(shard.folder_name)
            if shard == self._shard:
                journals[shard] = self._journal
            elif (folder / JOURNAL_NAME).exists():
                journals[shard] = self._checked(Journal(folder))
            else:
                raise RunError(
                    f"'{folder}' is not there: run {init.partition('_th')[0]} with --shard {shard} and the same"
                    f" --output_dir first, or bring its folder here, then run the same command again"
                )
        return journals

    def _checked(self, journal: Journal) -> Journal:
        mine, theirs = common_settings(self._journal.settings), common_settings(journal.settings)
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise RunError(
                    f"'{journal.folder}' was begun with {name}={theirs.get(name)!r}, this shard with"
                    f" {mine.get(name)!r}: shards of one task have all settings alike; use another --output_dir"
                )
        return journal

    def _check_finished(self, kind: str, init: str, journals: Mapping[Shard | None, Journal]) -> None:
        for shard, journal in journals.items():
            n_prompts = self._n_prompts if shard is None else len(shard.indices(self._n_prompts))
            if journal.count(init) >= n_prompts:
                continue
            there = _finished_inits(journal, n_prompts)
            if shard in (None, self._shard):
                remedy = "run --experiments eager_init into the same folder first"
            else:
                remedy = "run the same command again when that shard has one"
            raise RunError(
                f"{kind} shares out what {init} saved, and '{journal.folder}' has no finished {init} ({there}):"
                f" {remedy}"
            )

    def _write(self, kind: str, init: str, regrader: Regrader, path: Path) -> None:
        shares = self._shared_out(kind, init, regrader)
        with replacing(path) as file:
            json.dump({"settings": common_settings(self._journal.settings), **asdict(shares)}, file)

    def _read(self, path: Path) -> Shares:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            settings = content["settings"]
            used, extra = ({int(i): int(n) for i, n in content[name].items()} for name in ("used", "extra"))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise StoreError(f"'{path}' does not say who may have how many sequences: put it back as it was") from None
        if settings != json.loads(json.dumps(common_settings(self._journal.settings))):
            raise self._other_shares(path)
        return Shares(used, extra)

    def _check_used(self, shares: Shares, init: str, path: Path) -> None:
        """An eager_init that was generated anew may have other sequences than were counted."""
        if any(shares.used.get(record.prompt_index) != len(record.sequences) for record in self._journal.records(init)):
            raise self._other_shares(path)

    def _other_shares(self, path: Path) -> RunError:
        kind = path.name.removesuffix(SHARES)
        return RunError(
            f"'{path}' shares out what another eager_init saved than the one in '{self._journal.folder}': put that"
            f" back, or begin anew with all shards in another --output_dir; removing the file lets {kind} spend more"
            " than was saved"
        )


@dataclass(frozen=True, slots=True)
class _Grades:
    """What sharing out needs to know of a prompt."""

    index: int
    correct: tuple[bool | None, ...]
    groups: tuple[int | None, ...]

    @classmethod
    def of(cls, record: PromptRecord, regrader: Regrader) -> _Grades:
        sequences = regrader.grouped(record).sequences
        return cls(record.prompt_index, tuple(s.correct for s in sequences), tuple(s.group for s in sequences))

    @property
    def is_solved(self) -> bool:
        """A prompt that nobody could grade is not unsolved: nothing says that it needs any."""
        return True in self.correct or False not in self.correct


def _check_graded(records: Mapping[Shard | None, Seq[_Grades]], init: str) -> None:
    """Of shards each one: what is graded later would have been given nothing."""
    for shard, prompts in records.items():
        if all(grade is None for grades in prompts for grade in grades.correct):
            where = init if shard is None else f"{init} of shard {shard}"
            raise RunError(
                f"eager gives the saved budget to unsolved prompts, but nothing in {where} is graded:"
                " give targets, grade code with eager eval-code first, or run eager_adapt, which needs none"
            )


def _finished_inits(journal: Journal, n_prompts: int) -> str:
    """At which thresholds the folder holds a whole eager_init."""
    names = [name for name in journal.experiments() if name.startswith("eager_init_th")]
    finished = [
        shortest(init.threshold)
        for init in sorted(map(Experiment.parse, names))
        if init.threshold is not None and journal.count(init.name) == n_prompts
    ]
    return f"it has those of threshold {', '.join(finished)}" if finished else "nor one of another threshold"
