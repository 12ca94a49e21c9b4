"""A run's folder: one of its own where none is given, and nothing left of it where the run has finished nothing."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from eager.cli.ending import refusal
from eager.store.journal import JOURNAL_NAME, Journal, StoreError

_LOCK_NAME = ".lock"
_LONGEST_NAME = 60  # characters, whatever their bytes: a folder's name has 255 of those


@contextmanager
def open_journal(given: Path | None, default: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of the folder `given`, or of a new one named as `default`.

    What was made for it is removed where no prompt has been finished by the end. Raises StoreError.
    """
    wanted = default if given is None else given
    made = [folder for folder in (wanted, *wanted.parents) if not os.path.lexists(folder)]
    try:
        if given is None:
            wanted = new_folder(default)
            made = [wanted, *made[1:]]
        had_journal = os.path.lexists(wanted / JOURNAL_NAME)
        with closing(_journal(wanted, settings)) as journal:
            try:
                yield journal
            finally:
                if not had_journal and not has_finished_prompts(wanted):
                    for name in (JOURNAL_NAME, _LOCK_NAME):
                        (wanted / name).unlink(missing_ok=True)
    finally:
        for folder in made:
            with suppress(OSError):  # there is something in it, or it has gone
                folder.rmdir()


def default_folder(model_name: str, data_name: str) -> Path:
    """outputs/{model}/{data}/{timestamp}."""
    model = _last_name(model_name).replace(":", "_")[:_LONGEST_NAME]
    return Path("outputs", model, _last_name(data_name), _timestamp())


def new_folder(wanted: Path) -> Path:
    """`wanted`, made now, or with a number at its end where others have that: no two runs get one. StoreError."""
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise StoreError(f"no folder for the results: {refusal(error)}; or give --output_dir") from None
    return folder


def has_finished_prompts(folder: Path) -> bool:
    """As its journal says now, whatever the one that wrote it has come to know; True where it cannot be asked."""
    try:
        return bool(Journal(folder).experiments())
    except (StoreError, OSError):
        return True


def how_to_go_on(folder: Path, given: Path | None = None) -> str:
    """After an end before the end, as a part of a sentence; `given` is the --output_dir, where there was one."""
    again = f"the same command with --output_dir {shlex.quote(str(given or folder))} goes on from here"
    return again if has_finished_prompts(folder) else f"{again}, with the first prompt: none was finished"


def _journal(folder: Path, settings: Mapping[str, Any]) -> Journal:
    """Raises StoreError; one that names the option where the number of prompts has changed."""
    try:
        return Journal(folder, settings)
    except StoreError:
        number, before = settings["n_prompts"], _number_before(folder)
        if before in (None, number):
            raise
        raise StoreError(
            f"'{folder}' was begun with {before} prompts, now there are {number}: give the --limit and the data that it"
            " was begun with, or another --output_dir; a folder keeps their number, as they share the budget"
        ) from None


def _number_before(folder: Path) -> Any:
    """How many prompts the folder was begun with; None where nothing says so."""
    with suppress(StoreError, OSError):
        return Journal(folder).settings.get("n_prompts")
    return None


def _last_name(text: str) -> str:
    """The last component, as --model_name . has it, too."""
    name = Path(os.path.expanduser(text)).name
    return name if name not in ("", "..") else Path(text).resolve().name or "root"


def _timestamp() -> str:
    return time.strftime("%Y-%m-%d_%H-%M-%S")
