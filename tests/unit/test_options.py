"""Options arrive or are refused: names, ranges, what a folder is bound to, and how the command line reads them."""

import json
import math

import click
import needs
import pytest
from click.testing import CliRunner

from eager.cli.options import given_to_engine, run_options
from eager.engines import ENGINES, EngineError, engine_options, load_engine
from eager.engines.options import EngineOptions, digest
from eager.engines.options_llama_cpp import LlamaCppOptions
from eager.engines.options_openai import OpenAIOptions
from eager.engines.options_scripted import ScriptedOptions
from eager.engines.options_vllm import VLLMOptions

CLASSES = (LlamaCppOptions, VLLMOptions, OpenAIOptions, ScriptedOptions)
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def refusal(make):
    """The one sentence that it ends in."""
    with pytest.raises(EngineError) as raised:
        make()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def option_names(options_class):
    return set(options_class.names())


# -- names ------------------------------------------------------------------------------------------------------


def test_an_option_given_from_python_arrives():
    """`load_engine` passes on what it is given: the capacity is the engine's."""
    assert load_engine("scripted", "chain", capacity=64).capacity == 64


def test_an_unknown_option_names_the_nearest_and_all():
    """A typo is never dropped."""
    sentence = refusal(lambda: load_engine("scripted", "chain", capcity=64))
    assert "engine scripted has no option capcity (did you mean capacity?)" in sentence
    assert all(name in sentence for name in ScriptedOptions.names())


def test_a_constructor_refuses_what_load_engine_refuses():
    """The engine's own class takes the same options."""
    from eager.engines.scripted import ScriptedEngine

    assert refusal(lambda: ScriptedEngine(capcity=1)) == refusal(lambda: load_engine("scripted", "chain", capcity=1))


@pytest.mark.parametrize(
    ("name", "nearest"), [("n_gpu_layer", "n_gpu_layers"), ("n_thread", "n_threads"), ("flash_atn", "flash_attn")]
)
def test_a_typo_gets_the_nearest_names_of_the_library(name, nearest):
    """llama.cpp's own parameters are among those looked through."""
    needs.package("llama_cpp", "llama-cpp")
    assert nearest in refusal(lambda: LlamaCppOptions.of({name: 1})).split("?")[0]


@pytest.mark.parametrize(
    ("options_class", "name", "reason"),
    [(options_class, *item) for options_class in CLASSES for item in options_class.refused.items()],
)
def test_what_breaks_the_contract_is_refused_with_its_reason(options_class, name, reason):
    """Every name of the table, whatever its value, before the library is even imported."""
    assert (
        refusal(lambda: options_class.of({name: 1})) == f"engine {options_class.engine} does not take {name}: {reason}"
    )


def test_the_tables_name_what_llama_cpp_has():
    """Nothing is refused or called harmless that does not exist, or that the engine takes as its own."""
    llama_cpp = needs.package("llama_cpp", "llama-cpp")
    structs = (llama_cpp.llama_context_params, llama_cpp.llama_model_params)
    existing = {name for struct in structs for name, _ in struct._fields_}
    refused, harmless = LlamaCppOptions.refused.keys(), LlamaCppOptions.harmless
    assert refused | harmless <= existing
    assert not (refused | harmless) & set(LlamaCppOptions.names())
    assert not refused & harmless


def test_every_engine_has_its_options_class():
    """The table of engines names the class whose sentences name the engine."""
    assert {name: info.options.engine for name, info in ENGINES.items()} == {name: name for name in ENGINES}


# -- ranges -----------------------------------------------------------------------------------------------------

OUTSIDE = [
    ("max_model_len", (0, -1, 1.5, True, "long", None, 2**31, 10**400, math.inf)),
    ("capacity", (0, -1, 2.0, True, "many", math.nan, 65537, 10**400, math.inf)),
    ("device", ("gpu", 0)),
    ("dtype", ("", 16)),
    ("gpu_memory_utilization", (0, 1.01, math.nan, math.inf, -math.inf, "0.5", True)),
    ("kv_cache_gib", (0, -1, math.nan, math.inf, "4", True, 2**20 + 1, 1e300, 10**400)),
    ("tensor_parallel_size", (0, 1.5, "2", 1025)),
    ("pipeline_parallel_size", (0, 1025)),
    ("data_parallel_size", (0, 1025)),
    ("quantization", ("", 8)),
    ("trust_remote_code", (1, "yes")),
    ("enforce_eager", (0, "no")),
    ("block_size", (0, "big", 65537, math.inf)),
    ("max_num_batched_tokens", (0, 2**20 + 1, math.nan)),
    ("seed", (1.5, "x", math.nan, 2**63, -(2**63) - 1, 10**400)),
    ("n_cells", (0, 10.5, 2**31, 10**400, math.inf)),
    ("n_threads", (0, -2, "two", 513)),
    ("flash_attn", (1, "on")),
    ("type_k", ("q9", 8, "Q8_0")),
    ("type_v", ("q9", None)),
    ("chat_template", ("", 5)),
    ("chat_template_kwargs", ([], "x", {1: 2}, {"messages": []}, {"tokenize": False}, {"bos_token": ""})),
    ("chat_date", ("", "tomorrow", "2026-02-30", 20260101)),
    ("base_url", ("", 5, "localhost:8000", "ftp://host", "http://", "http://h:99999")),
    ("api_key", ("", 5, "a\nb", "schlüssel", "x" * 8192)),
    ("max_in_flight", (0, -1, 1.5, 65537, math.inf, None)),
    ("give_up_after", (-1, math.nan, math.inf, "long", 86401)),
    ("chunk_timeout", (0, -1, math.nan, math.inf, 86401)),
    ("first_chunk_timeout", (0, -1, math.nan, math.inf, 86401)),
    ("max_retries", (-1, 1.5, 1001, math.inf)),
    ("tokenizer", ("", 5)),
    ("stop_token_ids", ([], 5, [-1], [2**31], [True], ["a"], {2}, [1] * 4097)),
    ("draws", ("", "dice", None)),
    ("insecure", (1, "no")),
    ("whole_trees", (1, "no")),
    ("tokens_per_step", (0, "two", 2**31)),
    ("seconds_per_step", (-1, math.nan, math.inf, "slow", 86401, 1e300)),
    ("fail_after", (-1, 1.5, 2**31)),
    ("script", ("chain", 5)),
    ("stops", ({0},)),
    ("vocabulary", ("words", 5)),
    ("failing_positions", ([1], 1)),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OUTSIDE for value in values])
def test_a_value_outside_its_range_is_refused(name, value):
    """In every engine that has the option; the sentence tells the range and the value."""
    for options_class in (c for c in CLASSES if name in c.names()):
        sentence = refusal(lambda c=options_class: c.of({name: value}))
        assert sentence.startswith(f"{name} must be ")
        assert len(sentence) < 250


def test_every_option_has_its_range():
    """None is missing from the table above."""
    assert {name for name, _ in OUTSIDE} == set.union(*map(option_names, CLASSES))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("n_gpu_layers", "all", "a whole number that fits 32 bits"),
        ("n_gpu_layers", 1 << 40, "a whole number that fits 32 bits"),
        ("yarn_orig_ctx", -1, "a whole number of at least 0 that fits 32 bits"),
        ("rope_freq_base", "10", "a number"),
        ("rope_freq_base", 1e300, "a number"),
        ("no_perf", 1, "true or false"),
        ("load_mode", 99, "one of -1, 0, 1, 2, 3, 4"),
        ("split_mode", -2, "one of 0, 1, 2, 3"),
    ],
)
def test_a_value_that_llama_cpp_cannot_hold_is_refused(name, value, wanted):
    """ctypes would wrap a number that is too large without a word, and a mode without a name ends the process."""
    needs.package("llama_cpp", "llama-cpp")
    assert refusal(lambda: LlamaCppOptions.of({name: value})) == f"{name} must be {wanted}, got {value!r}"


def test_a_number_too_long_to_be_shown_is_refused():
    """Python itself writes out no more than 4300 digits."""
    assert refusal(lambda: LlamaCppOptions(capacity=10**5000)).endswith(", got a longer number")


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**30, {"a": [1, {"b": -math.inf}]}, [2**63]])
def test_numbers_for_a_library_are_finite_and_fit(monkeypatch, value):
    """However deep they lie; vLLM's checks let nan into any range."""
    monkeypatch.setattr(VLLMOptions, "library_names", classmethod(lambda cls: frozenset({"cpu_offload_gb"})))
    sentence = refusal(lambda: VLLMOptions.of({"cpu_offload_gb": value}))
    assert sentence.startswith("cpu_offload_gb must have finite numbers of at most 64 bits, got ")


def test_other_values_for_a_library_pass(monkeypatch):
    """Texts, switches, nothing, and numbers in lists."""
    monkeypatch.setattr(VLLMOptions, "library_names", classmethod(lambda cls: frozenset({"hf_overrides"})))
    for value in ("a", True, None, -(2**62), 0.5, {"a": [1, None, "b", False]}):
        assert VLLMOptions.of({"hf_overrides": value}).library == {"hf_overrides": value}


def test_the_size_of_the_cache_is_given_once():
    """In tokens or in GiB."""
    assert "give one of them" in refusal(lambda: LlamaCppOptions(n_cells=5, kv_cache_gib=1))


# -- what a folder is bound to ----------------------------------------------------------------------------------


def settings_and_about(options_class, **given):
    options = options_class(library=given.pop("library", {}), **given)
    return options.settings(), options.about()


def test_options_at_their_default_are_no_settings():
    """A folder that was begun before an option existed goes on."""
    for options_class in (LlamaCppOptions, VLLMOptions, ScriptedOptions):
        assert settings_and_about(options_class) == ({}, {})
    assert settings_and_about(OpenAIOptions, base_url="http://h") == ({}, {"base_url": "http://h"})
    assert settings_and_about(LlamaCppOptions, flash_attn=True, chat_template_kwargs={}) == ({}, {})


@pytest.mark.parametrize(
    ("options_class", "given", "settings", "about"),
    [
        (VLLMOptions, {"dtype": "float16"}, ["dtype"], []),
        (VLLMOptions, {"quantization": "fp8", "enforce_eager": True}, ["quantization", "enforce_eager"], []),
        (VLLMOptions, {"capacity": 8, "kv_cache_gib": 2.0}, [], ["capacity", "kv_cache_gib"]),
        (VLLMOptions, {"gpu_memory_utilization": 0.5, "device": "cpu"}, [], ["gpu_memory_utilization", "device"]),
        (VLLMOptions, {"tensor_parallel_size": 2, "block_size": 16}, [], ["tensor_parallel_size", "block_size"]),
        (VLLMOptions, {"library": {"kv_cache_dtype": "fp8"}}, ["kv_cache_dtype"], []),
        (VLLMOptions, {"library": {"distributed_executor_backend": "ray"}}, [], ["distributed_executor_backend"]),
        (VLLMOptions, {"library": {"something_new": 1}}, ["something_new"], []),
        (LlamaCppOptions, {"flash_attn": False, "type_k": "q8_0"}, ["flash_attn", "type_k"], []),
        (LlamaCppOptions, {"n_threads": 3, "n_cells": 100, "capacity": 4}, [], ["n_threads", "n_cells", "capacity"]),
        (LlamaCppOptions, {"library": {"n_gpu_layers": 4, "rope_freq_base": 1}}, ["rope_freq_base"], ["n_gpu_layers"]),
        (
            OpenAIOptions,
            {"base_url": "http://h", "max_in_flight": 9, "api_key": "k"},
            [],
            ["base_url", "max_in_flight"],
        ),
        (OpenAIOptions, {"base_url": "http://h", "insecure": True, "api_key": "k"}, [], ["base_url", "insecure"]),
        (OpenAIOptions, {"base_url": "http://h", "stop_token_ids": [2]}, ["stop_token_ids"], ["base_url"]),
        (OpenAIOptions, {"base_url": "http://h", "draws": "gate"}, ["draws"], ["base_url"]),
        (ScriptedOptions, {"seconds_per_step": 0.1, "fail_after": 3}, [], ["seconds_per_step", "fail_after"]),
    ],
)
def test_what_can_change_the_results_is_a_setting(options_class, given, settings, about):
    """The rest is noted in `about`; what nobody has looked at counts as able to."""
    found_settings, found_about = settings_and_about(options_class, **given)
    assert sorted(found_settings) == sorted(settings)
    assert sorted(found_about) == sorted(about)


def test_a_template_is_bound_by_a_digest_and_kept_as_text():
    """The kwargs as they are."""
    settings, about = settings_and_about(LlamaCppOptions, chat_template=TEMPLATE, chat_template_kwargs={"a": 1})
    assert settings == {"chat_template": digest(TEMPLATE), "chat_template_kwargs": {"a": 1}}
    assert about == {"chat_template": TEMPLATE}
    assert digest(TEMPLATE) != digest(TEMPLATE + " ")


# -- the command line -------------------------------------------------------------------------------------------


@click.command()
@run_options
def show(**options):
    click.echo(json.dumps(given_to_engine(options)))


def parse(*arguments):
    context = {"token_normalize_func": lambda token: token.replace("-", "_")}
    return CliRunner().invoke(show, ["--model_name", "m", "--data_name", "d", *arguments], **context)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {}),
        (["--capacity", "8", "--kv_cache_gib", "1.5"], {"capacity": 8, "kv_cache_gib": 1.5}),
        (["--enforce_eager"], {"enforce_eager": True}),
        (["--no-enforce_eager"], {"enforce_eager": False}),
        (["--no_enforce_eager"], {"enforce_eager": False}),
        (["--trust-remote-code", "--dtype", "float16"], {"trust_remote_code": True, "dtype": "float16"}),
        (["--engine_option", "kv_cache_dtype=fp8"], {"kv_cache_dtype": "fp8"}),
        (
            ["--engine-option", "n-threads=2", "--engine_option", "flash_attn=false"],
            {"n_threads": 2, "flash_attn": False},
        ),
        (["--engine_option", 'hf_overrides={"a": [1, null]}'], {"hf_overrides": {"a": [1, None]}}),
        (["--engine_option", 'revision="12"'], {"revision": "12"}),
        (["--engine_option", "revision=a=b"], {"revision": "a=b"}),
        (["--engine_option", "revision="], {"revision": ""}),
        (
            ["--chat_template_kwargs", '{"enable_thinking": false}'],
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
    ],
)
def test_only_what_is_given_is_passed_on(arguments, given):
    """Values of --engine_option are JSON, bare words texts; hyphens work for underscores."""
    done = parse(*arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == given


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine_option", "capacity"], "'capacity' is not NAME=VALUE"),
        (["--engine_option", "=5"], "'=5' is not NAME=VALUE"),
        (["--engine_option", "hf_overrides={a: 1}"], "is not JSON"),
        (["--engine_option", "a={\"b\": NaN}"], "NaN is not a finite number"),
        (["--engine_option", "a=[1e999]"], "1e999 is not a finite number"),
        (["--capacity", "4", "--engine_option", "capacity=5"], "capacity is given twice"),
        (["--engine_option", "a=4", "--engine_option", "a=4"], "a is given twice"),
        (["--chat_template_kwargs", "[1]"], "is no JSON object"),
        (["--chat_template_kwargs", "enable_thinking=false"], "is not JSON"),
        (["--chat_template", "/nowhere/x.jinja"], "'/nowhere/x.jinja' cannot be read (No such file or directory)"),
        (["--chat_template", "/"], "cannot be read (Is a directory)"),
        (["--capacity", "nan"], "not a valid integer"),
        *[([f"--{name}", value], "is not a finite number") for name in (
            "temperature", "top_p", "min_p", "entropy_threshold", "threshold_percentile", "gpu_memory_utilization",
            "kv_cache_gib", "seconds_per_step",
        ) for value in ("nan", "inf", "-inf")],
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_usage_error(arguments, sentence):
    """One sentence, exit code 2."""
    done = parse(*arguments)
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.split())


@pytest.mark.parametrize(("content", "sentence"), [(b"\xff\xfe", "is not UTF-8"), (b" \n", "is empty")])
def test_a_template_file_must_hold_text(tmp_path, content, sentence):
    """The file is read before anything is loaded."""
    path = tmp_path / "template.jinja"
    path.write_bytes(content)
    assert sentence in " ".join(parse("--chat_template", str(path)).output.split())


def test_a_template_file_is_read(tmp_path):
    """The engine gets its text."""
    path = tmp_path / "template.jinja"
    path.write_text(TEMPLATE, encoding="utf-8")
    assert json.loads(parse("--chat_template", str(path)).output) == {"chat_template": TEMPLATE}


def test_the_help_tells_the_engines_own_defaults():
    """Said once, in the options classes."""
    text = " ".join(CliRunner().invoke(show, ["--help"], terminal_width=10_000).output.split())
    for name in ("max_model_len", "device", "dtype", "gpu_memory_utilization", "tensor_parallel_size"):
        default = getattr(VLLMOptions(), name)
        assert f"[default: ({default})]" in text.split(f"--{name} ")[1].split(" --")[0]


def test_an_engine_that_is_not_there_is_named():
    """Unknown, or not installed: each with the remedy."""
    assert "choose from llama_cpp" in refusal(lambda: engine_options("vlm", {}))


def test_the_base_class_takes_no_library_options():
    """An engine without a library has its own options only."""
    assert EngineOptions.library_names() == frozenset()
