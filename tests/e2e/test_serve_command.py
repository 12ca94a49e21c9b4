"""The command `eager serve`: how it begins and how it ends."""

import os
import re
import signal
import socket
import threading

import needs
import pytest
from children import EAGER, start
from click.testing import CliRunner

uvicorn = needs.package("uvicorn", "serve")
needs.package("starlette", "serve")
needs.package("prometheus_client", "serve")
openai = needs.package("openai", "dev")

from eager.chat import Defaults, TreeAsked  # noqa: E402
from eager.cli import main  # noqa: E402
from eager.cli.serve import _settings, command  # noqa: E402
from eager.server.gateway import Settings  # noqa: E402
from eager.types import BranchConfig, SamplingParams  # noqa: E402

SCRIPTED = ("serve", "--engine", "scripted", "--model_name", "chain", "--port", "0")
MESSAGES = [{"role": "user", "content": "how many apples?"}]


def started(*arguments: str):
    """The process, and a client of it, once it serves."""
    process = start([*EAGER, *SCRIPTED, *arguments])
    for line in process.stderr:
        found = re.search(r"serving \S+ at (http://\S+/v1)", line)
        if found:
            return process, openai.OpenAI(base_url=found[1], api_key="any", max_retries=0)
    raise AssertionError(f"it ended with {process.wait()}")


def said_by(*arguments: str):
    return CliRunner().invoke(main, [*SCRIPTED, *arguments])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_open_is_answered_before_the_end(number, code):
    """Then it ends as every command does that a signal ends."""
    process, client = started("--engine_option", "seconds_per_step=0.03")
    stream = client.chat.completions.create(model="chain", messages=MESSAGES, seed=1, stream=True)
    next(iter(stream))
    process.send_signal(number)
    rest = list(stream)
    assert rest[-1].choices[0].finish_reason == "stop"
    assert process.wait(20) == code
    assert process.stderr.read().strip() == "stopped; the same command serves again"


def test_an_answer_that_takes_too_long_is_not_waited_for():
    """Nor by a second Ctrl-C."""
    process, client = started("--drain_seconds", "0.2", "--engine_option", "seconds_per_step=0.1")
    failures = []

    def ask():
        try:
            client.chat.completions.create(model="chain", messages=MESSAGES, n=100, extra_body={"min_p": 0.0})
        except openai.APIError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while b"requests_in_flight 1" not in _get(client, "/metrics"):
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    asking.join()
    assert failures


def _get(client, path):
    import urllib.request

    url = str(client.base_url).replace("/v1/", path)
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def test_a_port_that_is_taken_is_a_sentence():
    """Before a model is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = said_by("--port", str(taken.getsockname()[1]))
    assert result.exit_code == 1
    assert "give another --host or --port" in result.output
    assert "loading" not in result.output


@pytest.mark.parametrize(
    ("host", "key", "is_warned"), [("0.0.0.0", "", True), ("0.0.0.0", "k", False), ("127.0.0.2", "", False)]
)
def test_an_open_server_without_a_key_is_warned_of(monkeypatch, host, key, is_warned):
    """Loopback is nobody else's."""
    monkeypatch.setenv("EAGER_SERVER_KEY", key)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    result = said_by("--host", host)
    assert result.exit_code == 0
    assert ("whoever reaches this machine" in result.output) == is_warned


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--max_sequences", "500"), "above --most_sequences"),
        (("--entropy_threshold", "4"), "entropy_threshold must be in"),
        (("--settle", "0.2"), "settle must be above"),
        (("--engine", "nothing"), "unknown engine"),
        (("--engine_option", "api_key=k"), "EAGER_API_KEY"),
    ],
)
def test_what_is_out_of_range_is_said_before_anything_starts(arguments, sentence):
    """In one sentence, as a wrong use."""
    result = said_by(*arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_the_options_are_what_requests_get_that_do_not_say_otherwise(monkeypatch):
    """Rules, selection and sampling; with --select plain a block that says nothing of it has the majority's answer."""
    monkeypatch.setenv("EAGER_SERVER_KEY", "k")
    rules = ["--max_sequences", "4", "--entropy_threshold", "1.5", "--threshold_percentile", "none"]
    others = ["--select", "all", "--vote", "choice", "--settle", "0.9", "--temperature", "0.7", "--top_p", "0.9"]
    bounds = ["--budget_sequences_per_request", "2", "--most_sequences", "16", "--most_requests", "9"]
    given = command.make_context("serve", [*SCRIPTED[1:], *rules, *others, *bounds]).params
    tree = TreeAsked(BranchConfig(4, 1.5), "all", "choice", 0.9)
    defaults = Defaults(tree, is_plain=False, sampling=SamplingParams(0.7, 0.9), most_sequences=16)
    assert _settings(given) == Settings(defaults, sequences_per_request=2, most_requests=9, api_key="k")
    plain = _settings(command.make_context("serve", [*SCRIPTED[1:]]).params).defaults
    assert (plain.is_plain, plain.tree.select, plain.sampling.temperature) == (True, "majority", 1.0)


def test_the_servers_key_is_in_no_list_of_processes():
    """It comes by a variable, and the command has no option for it."""
    assert "EAGER_SERVER_KEY" in said_by("--help").output
    assert said_by("--api_key", "k").exit_code == 2
    assert "EAGER_SERVER_KEY" not in os.environ
