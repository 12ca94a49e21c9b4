"""The command line: options to dataclasses, one call, and what is printed. Each command is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from eager import __version__
from eager.cli.ending import Command

_COMMANDS = {
    "run": ("eager.cli.run", "Answer a set of problems four ways and see what each cost."),
    "calibrate": ("eager.cli.calibrate", "Say what entropy thresholds would cost, and which to take."),
    "serve": ("eager.cli.serve", "Serve a model over OpenAI's interface, with trees for who asks for them."),
    "recap": ("eager.cli.recap", "Tables over the results in one or more folders."),
    "report": ("eager.cli.report", "One HTML page and plots over the results in one or more folders."),
    "replay": ("eager.cli.replay", "What fewer sequences or a higher threshold would have cost and scored."),
    "eval-code": ("eager.cli.eval_code", "Grade generated code by running it in a sandbox."),
    "tasks": ("eager.cli.lists", "List the tasks, whose work they are, and what is missing to use them."),
    "engines": ("eager.cli.lists", "List the engines, and what is missing to use them."),
}


def normalise_option(token: str) -> str:
    """Hyphens work for underscores: --max-sequences is --max_sequences."""
    return token.replace("-", "_")


CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "show_default": True,
    "token_normalize_func": normalise_option,
}


class LazyGroup(Command, click.Group):
    """Knows its commands by name; imports one when it is run, so that `eager --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("_", "-")
        if name not in _COMMANDS:
            return None
        module = import_module(_COMMANDS[name][0])
        command: click.Command = module.COMMANDS[name] if hasattr(module, "COMMANDS") else module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None:
            ctx.fail(f"no such command '{args[0]}': choose from {', '.join(_COMMANDS)}")
        return command.name, command, args[1:]


@click.group(cls=LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="eager")
def main() -> None:
    """EAGer: language models that think harder only where they are uncertain."""
