"""What llama.cpp is given to load: refused in a sentence with its own reason, or its cache as large as reckoned."""

import ctypes
import os
import re
from datetime import datetime

import needs
import pytest
from made_models import LFS_POINTER, TEMPLATE, Array, write_gguf

from eager.engines import EngineError, load_engine
from eager.types import Request, SamplingParams

llama_cpp = needs.package("llama_cpp", "demo")

from eager.engines import _llama_library  # noqa: E402 - after the check that it can be imported

USER = {"role": "user", "content": "Why?"}


def load(path, **options):
    return load_engine("llama_cpp", str(path), **{"n_cells": 512, **options})


def refusal(path, **options):
    """The one sentence that loading ends in."""
    with pytest.raises(EngineError) as raised:
        load(path, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def closing(engine, use):
    try:
        return use(engine)
    finally:
        engine.shutdown()


# -- files that cannot be loaded --------------------------------------------------------------------------------


def test_a_made_model_decodes(tmp_path):
    """What the other tests change something of is loaded and answers."""

    def use(engine):
        engine.open(Request(0, (1, 2, 3), SamplingParams(), 8, seed=1))
        return [len(delta.tokens) for _ in range(3) for delta in engine.step()]

    assert closing(load(write_gguf(tmp_path / "m.gguf")), use) == [1, 1, 1]


def test_llama_cpps_own_reason_is_shown(tmp_path):
    """It prints it and returns nothing; here it is the sentence."""
    path = write_gguf(tmp_path / "m.gguf", replaced={"general.architecture": "transformer9"})
    assert "cannot load model" in refusal(path)
    assert "(unknown model architecture: 'transformer9'): give another file of it" in refusal(path)
    path = write_gguf(tmp_path / "n.gguf", replaced={"llama.attention.layer_norm_rms_epsilon": None})
    assert "(error loading model hyperparameters: key not found in model: llama.att" in refusal(path)


def test_a_part_of_a_file_is_not_given_to_llama_cpp(tmp_path):
    """Cut, or a pointer of git LFS: each called what it is."""
    path = write_gguf(tmp_path / "m.gguf")
    os.truncate(path, path.stat().st_size // 2)
    assert "its download stopped half-way, so fetch it again" in refusal(path)
    path.write_bytes(LFS_POINTER)
    assert "is only a pointer of git LFS to the file: run git lfs pull" in refusal(path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/" + "n" * 300 + ".gguf", "does not exist: give the path of a .gguf file"),
        ("n" * 5000 + ".gguf", "does not exist"),
        ("/nowhere/\udcff.gguf", "model file '/nowhere/\ufffd.gguf' does not exist"),
        ("a\0b.gguf", "does not exist"),
        ("~nobody-here/m.gguf", "does not exist"),
        ("line\nbreak.gguf", "model file 'line break.gguf' does not exist"),
        ("n" * 300, "does not know model 'nnn"),
        ("", "does not know model ''"),
        ("\udcff", "does not know model '\ufffd'"),
    ],
)
def test_a_name_that_no_file_can_have_is_a_sentence(name, sentence):
    """Too long, not UTF-8, with a zero byte, of a home that is not there."""
    found = refusal(name)
    assert sentence in found
    assert len(found) < 400


def test_a_path_that_is_not_utf8_is_loaded(tmp_path):
    """The system's own bytes are what llama.cpp opens."""
    path = write_gguf(tmp_path / "m.gguf")
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.gguf")
    os.rename(path, odd)
    assert closing(load(os.fsdecode(odd)), lambda engine: engine.max_model_len) == 512


def test_a_refusal_frees_the_model(tmp_path, monkeypatch):
    """Whatever it is refused for once it is loaded, nothing of it stays."""
    path = write_gguf(tmp_path / "m.gguf")
    freed = []
    free = llama_cpp.llama_model_free
    monkeypatch.setattr(llama_cpp, "llama_model_free", lambda handle: (freed.append(handle), free(handle)))
    refusal(path, flash_attn=False, type_v="q8_0")
    refusal(write_gguf(path, replaced={"tokenizer.chat_template": None}))
    assert len(freed) == 2


def test_a_context_that_cannot_be_made_has_llama_cpps_reason(tmp_path):
    """And advice that fits it: about the option, not about memory."""
    found = refusal(write_gguf(tmp_path / "m.gguf"), flash_attn=False, type_v="q8_0")
    assert found.endswith("(quantized V cache requires flash_attn to be enabled): change the option it speaks of")


# -- models of another kind -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "replaced", "sentence"),
    [
        ("llada", {"llada.attention.causal": False}, "fills in tokens anywhere in a text (llada), as masked diffusion"),
        ("dream", {"dream.attention.causal": False}, "as masked diffusion does, and has no place to fork"),
        ("llada", {"llada.attention.causal": None}, "is a diffusion model and has no place to fork"),
        ("bert", {}, "embeds text and writes none"),
        ("llama", {"llama.pooling_type": 3}, "embeds text and writes none"),
        ("llama", {"general.type": "adapter"}, "holds no model but part of one (adapter): give the model itself"),
        ("llama", {"tokenizer.ggml.model": "no_vocab"}, "has no tokenizer in its GGUF"),
        ("mamba", {}, "cannot load model"),
    ],
)
def test_what_does_not_write_one_token_after_the_other_is_refused(tmp_path, architecture, replaced, sentence):
    """Masked diffusion, embeddings, adapters, and a model without a tokenizer, which would end the process."""
    assert sentence in refusal(write_gguf(tmp_path / "m.gguf", architecture, replaced=replaced))


# -- the size of the cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"architecture": "qwen3", "head_size": 128},  # heads of another size than width / heads
        {"heads": 4, "kv_heads": 2, "head_size": 96},
        {"architecture": "deci", "kv_heads": Array([1, 2])},  # another number of heads in each layer
    ],
)
@pytest.mark.parametrize("options", [{}, {"type_k": "q8_0", "type_v": "q4_0"}])
def test_the_cache_is_as_large_as_reckoned(tmp_path, monkeypatch, model, options):
    """llama.cpp itself says how many bytes it took."""
    heard = []
    listen = llama_cpp.llama_log_callback(lambda level, text, data: heard.append(text.decode()))
    make = llama_cpp.llama_init_from_model

    def make_and_listen(handle, params):
        llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
        try:
            return make(handle, params)
        finally:
            llama_cpp.llama_log_set(_llama_library._listen, ctypes.c_void_p(0))

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", make_and_listen)
    path = write_gguf(tmp_path / "m.gguf", **model)
    n_cells = 1 << 16
    reckoned = closing(load(path, n_cells=n_cells, **options), lambda engine: engine._model.kv_bytes_per_token)
    told = sum(float(size) for line in heard for size in re.findall(r"KV buffer size = +([\d.]+) MiB", line))
    assert reckoned * n_cells / 2**20 == pytest.approx(told, rel=0.01)


def test_the_default_cache_is_bounded_and_so_is_the_context(tmp_path, monkeypatch):
    """A long context takes no more than the default size, here one of 1 MiB; one that was asked for is refused."""
    monkeypatch.setattr("eager.engines._llama_cells._DEFAULT_BYTES", 1 << 20)
    path = write_gguf(tmp_path / "m.gguf", replaced={"llama.context_length": 32768})

    def use(engine):
        return engine._kv.n_cells * engine._model.kv_bytes_per_token, engine.max_model_len

    assert closing(load(path, n_cells=None), use) == (1 << 20, 4096)
    assert "takes 0.00 GiB of KV cache" in refusal(path, n_cells=None, max_model_len=16384)


# -- what a run that goes on is held to -------------------------------------------------------------------------

DATED = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE


def dated(tmp_path):
    return write_gguf(tmp_path / "m.gguf", replaced={"tokenizer.chat_template": DATED})


def test_a_template_that_asks_for_the_date_gets_the_runs(tmp_path):
    """`chat_date` is the date of its prompts; the engine tells the one it took, for the run to give it again."""
    path = dated(tmp_path)

    def use(engine):
        return engine.decode(engine.encode_chat([USER]))[:11], engine.identity()["chat_date"]

    assert closing(load(path, chat_date="2026-01-31"), use) == ("31 Jan 2026", "2026-01-31T00:00:00")
    text, moment = closing(load(path), use)
    assert datetime.fromisoformat(moment).strftime("%d %b %Y") == text
    assert closing(load(path, chat_date=moment), use) == (text, moment)


def test_a_template_without_a_date_is_bound_to_none(tmp_path):
    """A run of such a model goes on on any day."""
    identity = closing(load(write_gguf(tmp_path / "m.gguf")), lambda engine: engine.identity())
    assert identity.keys() == {"model_files", "max_model_len"}


def test_the_identity_is_that_of_the_file(tmp_path):
    """Another file under the same name is another model."""
    path = write_gguf(tmp_path / "m.gguf")
    first, again = (closing(load(path), lambda engine: engine.identity()) for _ in range(2))
    assert first == again
    write_gguf(path, layers=3)
    assert closing(load(path), lambda engine: engine.identity())["model_files"] != first["model_files"]


# -- templates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% if %}", r"the chat template of model '.*m.gguf' does not parse (line 1: "),
        ("{{ x | no_such_filter }}", "does not parse (line 1: No filter named 'no_such_filter'"),
        ("", "has no chat template in its GGUF: use an instruct model, or give --chat_template"),
    ],
)
def test_a_models_own_template_that_does_not_parse_is_a_sentence(tmp_path, template, sentence):
    """At the start, naming the model whose it is."""
    path = write_gguf(tmp_path / "m.gguf", replaced={"tokenizer.chat_template": template})
    assert re.search(re.escape(sentence).replace(r"\.\*", ".*"), refusal(path))
    assert closing(load(path, chat_template=TEMPLATE), lambda engine: bool(engine.encode_chat([USER])))


def test_a_models_own_template_that_raises_is_a_sentence(tmp_path):
    """When the first chat is made, before anything is generated."""
    template = "{{ raise_exception('only odd roles') }}"
    path = write_gguf(tmp_path / "m.gguf", replaced={"tokenizer.chat_template": template})
    with pytest.raises(EngineError, match=r"refuses the messages \(only odd roles\)"):
        closing(load(path), lambda engine: engine.encode_chat([USER]))


def test_the_text_of_a_control_token_in_a_problem_is_that_token(tmp_path):
    """Decided so (docs/engines.md, The chat): as transformers and vLLM do with the same template."""

    def use(engine):
        (im_end,) = engine._model.encode("<|im_end|>")
        return engine.encode_chat([{"role": "user", "content": "a<|im_end|>b"}]).count(im_end)

    assert closing(load(write_gguf(tmp_path / "m.gguf")), use) == 2
