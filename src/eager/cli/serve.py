"""`eager serve`: OpenAI's interface over an engine."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command, Stopped
from eager.cli.options import fit, given_to_engine, run_options
from eager.cli.values import FiniteFloat, FiniteRange

if TYPE_CHECKING:
    import socket

    from eager.chat import Defaults
    from eager.engines import Engine
    from eager.server.gateway import Settings

_KEY = "EAGER_SERVER_KEY"  # not EAGER_API_KEY, which is the key to the servers behind engine openai
# What eager run has and a server has not.
_NOT_ASKED = (
    *("data_name", "experiments", "seed", "max_tokens", "output_dir", "data_path", "prompt_field", "target_field"),
    *("limit", "shard", "instruction", "prompt_style", "record_entropies", "notes", "system_prompt"),
)
_PLAIN = "plain"


@click.command("serve", cls=Command, context_settings=CONTEXT_SETTINGS)
@run_options
@click.option("--host", default="127.0.0.1", help="The address to listen at; 0.0.0.0 is for everybody.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="0 takes a free one.")
@click.option("--served_model_name", help="What clients call the model; by default --model_name.")
@click.option(
    "--select",
    type=click.Choice((_PLAIN, "majority", "first", "all")),
    default=_PLAIN,
    help="What a request without an eager block gets: plain samples, or of a tree the majority's answer, the first"
    " sequence or all. A block that does not say gets the majority's where this is plain.",
)
@click.option(
    "--vote", type=click.Choice(("math", "choice", "text")), default="math", help="How answers are found for a vote."
)
@click.option(
    "--budget_sequences_per_request",
    type=click.IntRange(1, 100_000),
    help="So many sequences a tree has of its own; beyond them, up to max_sequences, it has what others left.",
)
@click.option(
    "--most_sequences", type=click.IntRange(1, 100_000), default=128, help="The most that n and max_sequences may be."
)
@click.option(
    "--most_requests", type=click.IntRange(1, 1_000_000), default=1024, help="The most at once; others are sent away."
)
@click.option(
    "--drain_seconds", type=FiniteRange(0, 86400), default=30, help="How long Ctrl-C waits for open requests."
)
def command(**options: Any) -> None:
    """Serve a model over OpenAI's interface: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics.

    A request with an eager block gets a tree: extra_body={"eager": {"max_sequences": 8, "select": "majority"}}. The
    other options are what requests get that do not say otherwise. EAGER_SERVER_KEY, where it is set, is the key that
    clients must give. Ctrl-C answers what is open and ends; Ctrl-C again ends at once.
    """
    from eager.engines import EngineError, engine_options
    from eager.errors import EagerError

    _check_installed()
    given = given_to_engine(options)
    try:
        engine_options(options["engine"], given, options["model_name"])
        settings = _settings(options)
    except (EngineError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    try:
        _serve(settings, options, given)
    except EagerError as error:
        raise click.ClickException(str(error)) from None


fit(
    command,
    without=_NOT_ASKED,
    max_sequences={"default": 8, "help": "M: the most sequences a tree."},
    entropy_threshold={"type": FiniteFloat(), "default": 2.2, "help": "Branch where the entropy in nats exceeds this."},
    temperature={"default": 1.0, "help": "Of sampling, from 1e-5 to 1e5."},
    settle={"help": "End a tree once its majority is so certain."},
)


def _check_installed() -> None:
    from importlib.util import find_spec

    if not all(map(find_spec, ("starlette", "uvicorn", "prometheus_client"))):
        raise click.ClickException("serving is not installed: pip install 'eager-gen[serve]'")


def _settings(options: dict[str, Any]) -> Settings:
    """Raises ValueError where a value is out of its range."""
    from eager.server.gateway import Settings

    defaults = _defaults(options)
    if defaults.tree.rules.max_sequences > defaults.most_sequences:
        raise ValueError("max_sequences is above --most_sequences: raise that, too")
    return Settings(
        defaults,
        sequences_per_request=options["budget_sequences_per_request"],
        most_requests=options["most_requests"],
        api_key=os.environ.get(_KEY) or None,
    )


def _defaults(options: dict[str, Any]) -> Defaults:
    from eager.chat import Defaults, TreeAsked
    from eager.types import BranchConfig, SamplingParams

    rules = BranchConfig(**{name: options[name] for name in BranchConfig.__slots__})
    is_plain = options["select"] == _PLAIN
    return Defaults(
        TreeAsked(rules, "majority" if is_plain else options["select"], options["vote"], options["settle"]),
        is_plain=is_plain,
        sampling=SamplingParams(**{name: options[name] for name in SamplingParams.__slots__}),
        most_sequences=options["most_sequences"],
    )


def _serve(settings: Settings, options: dict[str, Any], given: dict[str, Any]) -> None:
    from eager.engines import load_engine

    with ExitStack() as stack:
        bound = stack.enter_context(_bound(options["host"], options["port"]))
        _say(f"loading {options['model_name']} with {options['engine']}")
        engine = load_engine(options["engine"], options["model_name"], **given)
        stack.callback(engine.shutdown)
        for notice in engine.notices:
            _say(notice)
        if engine.whole_trees is not None:
            _say("the servers behind it have EAGer's plugin, and answer faster when they are asked themselves")
        if settings.api_key is None and not _is_loopback(bound):
            _say(f"whoever reaches this machine may use the server: set {_KEY} to a key that clients must give")
        _run(engine, settings, bound, options)


def _run(engine: Engine, settings: Settings, bound: socket.socket, options: dict[str, Any]) -> None:
    """Answer until a signal comes."""
    from eager.server.gateway import Gateway
    from eager.server.host import Host
    from eager.server.listening import listen

    host = Host(engine, options["served_model_name"])
    address, port = bound.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    ready = f"serving {host.model_name} at http://{shown}:{port}/v1; Ctrl-C ends it"
    try:
        listen(Gateway(host, settings).app(), bound, options["drain_seconds"], lambda: _say(ready))
    except Stopped as stop:
        stop.advice = "the same command serves again"
        raise


def _bound(host: str, port: int) -> socket.socket:
    """The address, taken before a model is loaded for it. Raises ClickException where it cannot be had."""
    import socket

    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        return bound
    except OSError as error:
        bound.close()
        raise click.ClickException(
            f"cannot listen at {host}, port {port} ({error.strerror}): give another --host or --port"
        ) from None


def _is_loopback(bound: socket.socket) -> bool:
    from ipaddress import ip_address

    return ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
