"""`eager report`: one HTML page and plots over result folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command
from eager.cli.recap import FOLDER, finish, require
from eager.cli.values import UserPath


@click.command("report", cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--output",
    type=UserPath(dir_okay=False),
    show_default="report.html in the folder; here, if there are several",
    help="The page to write; the plots go into a folder beside it, named like it. /dev/stdout gets the page alone.",
)
def command(folders: tuple[Path, ...], output: Path | None) -> None:
    """One HTML page that opens offline, and its plots as PNG and SVG, over the experiments in the FOLDERs.

    Exits with 1 where something could not be read; the rest is reported all the same, and the page says so.
    """
    require("jinja2", "matplotlib")
    from eager.errors import EagerError

    with _elsewhere():
        from eager.report import write_report

    home = folders[0] if len(folders) == 1 else Path()
    try:
        report = write_report(folders, output or home / "report.html")
    except EagerError as error:
        raise click.ClickException(str(error)) from None
    if report.plots:  # else the page may be what standard output holds
        size = report.page.stat().st_size
        click.echo(f"wrote {report.page} ({size / 2**20:.1f} MB)")
        click.echo(f"wrote {len(report.plots)} plots in {report.plots[0].parent}")
    finish(report.comparison.findings.problems)


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Out of the current folder meanwhile: matplotlib, when it is imported, reads a matplotlibrc that lies there."""
    here = os.open(os.curdir, getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(os.sep)
        yield
    finally:
        os.fchdir(here)
        os.close(here)
