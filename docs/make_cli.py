"""Writes docs/cli.md from the command line's own help; a test fails when the page is stale."""

from __future__ import annotations

from pathlib import Path

import click

from eager.cli import main

PAGE = Path(__file__).with_name("cli.md")
_WIDTH = 100


def page() -> str:
    """The whole page."""
    parts = ["# The command line\n\nMade by `make docs` from the program's own help; do not edit.\n"]
    root = click.Context(main, info_name="eager", terminal_width=_WIDTH, **main.context_settings)
    parts.append(_section("eager", main, root))
    for name in main.list_commands(root):
        command = main.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, terminal_width=_WIDTH, **command.context_settings)
        parts.append(_section(f"eager {name}", command, context))
    return "\n".join(parts)


def _section(title: str, command: click.Command, context: click.Context) -> str:
    return f"## {title}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.name}")
