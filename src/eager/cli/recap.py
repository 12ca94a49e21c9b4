"""`eager recap`: tables over result folders."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command
from eager.cli.streams import width
from eager.cli.values import UserPath

if TYPE_CHECKING:
    from rich.console import Console

FOLDER = UserPath(exists=True, file_okay=False)


@click.command("recap", cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=FOLDER)
@click.option("--json", "form", flag_value="json", help="Print everything as JSON, for machines.")
@click.option("--csv", "form", flag_value="csv", help="Print a line a number as CSV, for machines.")
@click.option("--large", is_flag=True, help="Also write .large beside every result file: its list, strings parsed.")
def command(folders: tuple[Path, ...], form: str | None, large: bool) -> None:
    """What every experiment in the FOLDERs cost and reached, with intervals, and how they differ.

    Reads what eager run writes, and what the published code wrote. Several folders make one comparison.
    Exits with 1 where something could not be read; the rest is reported all the same.
    """
    from eager.errors import EagerError
    from eager.recap import as_csv, as_json, print_comparison, recap
    from eager.results.large import write_large

    try:
        comparison = recap(folders)
        written = write_large(folders, comparison.findings) if large else []
    except EagerError as error:
        raise click.ClickException(str(error)) from None
    if form is None:
        print_comparison(comparison, wide_console())
    else:
        click.echo((as_json if form == "json" else as_csv)(comparison).rstrip("\n"))
    for path in written:
        click.echo(f"wrote {path}", err=True)
    finish(comparison.findings.problems)


def wide_console() -> Console:
    """Standard output, as wide as it is; wide enough for a table where nobody says."""
    from rich.console import Console

    # With a height, too: without one rich takes any dumb terminal for 80 columns wide.
    return Console(highlight=False, width=width(), height=25)


def require(*modules: str) -> None:
    """Stop with a sentence where a module of the extra `report` is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise click.ClickException(f"this needs {' and '.join(missing)}: pip install 'eager-gen[report]'")


def finish(problems: list[str]) -> None:
    """Say what could not be read, and exit with 1 if there was anything."""
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        raise click.exceptions.Exit(1)
