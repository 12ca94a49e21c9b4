"""Sequences as vLLM requests, on a stand-in for vLLM: no model, no vLLM needed."""

from types import SimpleNamespace

import pytest
from fake_vllm import FakeLLM, K, best

from eager.engines._vllm_requests import Requests
from eager.engines._vllm_room import Room
from eager.entropy import top_k_entropy
from eager.types import MAX_ENTROPY, Request, SamplingParams, Token

STOP = 2


def new_params(request, n_allowed, watch):
    return SimpleNamespace(max_tokens=n_allowed, stop_token_ids=[STOP], logprobs=None if watch is None else K)


def requests_on(llm, max_model_len=1000):
    return Requests(llm, new_params, max_model_len=max_model_len, room=Room(10_000))


def open_one(requests, seq_id=0, ids=(1,) * 8, *, max_length=100, parent=None, monitor=True):
    requests.open(Request(seq_id, list(ids), SamplingParams(), max_length, 7, parent, monitor))


def ids_of(delta):
    return [token.id for token in delta.tokens]


def always(sampled, best_ids):
    return lambda ids: (sampled, best_ids)


def test_the_sampled_token_is_cut_from_the_k_best():
    """vLLM puts the sampled token first and returns K+1: the K best alone are delivered, in order, in either case."""
    for sampled in (5, 999):  # among the best, and outside
        requests = requests_on(FakeLLM(always(sampled, best(7, 5, spread=0.1))))
        open_one(requests)
        (delta,) = requests.step()
        (token,) = delta.tokens
        assert token.id == sampled
        assert token.best_ids[:2] == [7, 5]
        assert len(token.best_ids) == len(token.best_logprobs) == K
        assert token.entropy == pytest.approx(float(top_k_entropy(token.best_logprobs)))


def test_equally_likely_tokens_are_ordered_by_id():
    """Whatever order vLLM returns them in; so a branch takes the same two in every run."""
    requests = requests_on(FakeLLM(always(5, [(9, -1.0), (4, -1.0), *((100 + i, -2.0 - i) for i in range(K - 2))])))
    open_one(requests)
    (delta,) = requests.step()
    assert delta.tokens[0].best_ids[:3] == [4, 9, 100]


def test_several_tokens_in_one_delta_keep_their_rows():
    """Ids, entropies and best ids of a delta of several tokens run parallel, also beside other sequences."""
    requests = requests_on(FakeLLM(lambda ids: (len(ids), best(len(ids), spread=0.0)), tokens_per_step=3))
    open_one(requests, 0, [1] * 4)
    open_one(requests, 1, [1] * 6, monitor=False)
    open_one(requests, 2, [1] * 9)
    deltas = {delta.seq_id: delta for delta in requests.step()}
    assert ids_of(deltas[0]) == [4, 5, 6]
    assert ids_of(deltas[2]) == [token.best_ids[0] for token in deltas[2].tokens] == [9, 10, 11]
    assert [token.entropy for token in deltas[2].tokens] == pytest.approx([MAX_ENTROPY] * 3)
    assert [token[1:] for token in deltas[1].tokens] == [(None, (), ())] * 3


def test_stale_tokens_are_dropped_and_counted():
    """What still comes for a replaced request is no token of the new one, whose delta says how many there were."""
    requests = requests_on(FakeLLM(lambda ids: (len(ids), best(3)), is_late=True))
    open_one(requests, 0, [1] * 4)
    requests.step()
    open_one(requests, 0, [9] * 20, parent=0)
    (delta,) = requests.step()
    assert (ids_of(delta), delta.discarded) == ([20], 1)
    requests.close(0)
    assert requests.step() == []


def test_recomputed_is_what_the_prefix_cache_lacked():
    """Of a fork's prefix all but the last token has been through the model; a fresh sequence recomputes nothing."""
    requests = requests_on(FakeLLM(lambda ids: (5, best(5))))
    open_one(requests, 0, [1] * 40)
    open_one(requests, 1, [1] * 40, parent=0)
    open_one(requests, 2, [1] * 33, parent=0)
    assert {d.seq_id: d.recomputed for d in requests.step()} == {0: 0, 1: 7, 2: 0}
    assert all(d.recomputed == 0 for d in requests.step())


def test_a_stop_id_is_delivered_with_stop():
    """The last token is the stop id itself."""
    requests = requests_on(FakeLLM(always(STOP, best(STOP))))
    open_one(requests)
    (delta,) = requests.step()
    assert (ids_of(delta), delta.finish_reason) == ([STOP], "stop")
    assert requests.step() == []


def test_max_length_counts_the_prefix():
    """Prompt and generated tokens together reach max_length, or max_model_len where that is less."""
    for max_length, max_model_len in ((11, 1000), (1000, 11)):
        requests = requests_on(FakeLLM(always(5, best(5))), max_model_len)
        open_one(requests, max_length=max_length)
        deltas = [delta for _ in range(5) for delta in requests.step()]
        assert [d.finish_reason for d in deltas] == [None, None, "length"]


def test_a_fork_that_fills_the_context_ends_without_a_token():
    """max_model_len reached by the prefix itself: "length", and vLLM is not asked."""
    llm = FakeLLM(always(5, best(5)))
    requests = requests_on(llm, max_model_len=8)
    open_one(requests, parent=3)
    assert not llm.requests
    (delta,) = requests.step()
    assert (ids_of(delta), delta.finish_reason) == ([], "length")


def test_a_refused_sequence_is_an_error_record():
    """One sentence for that sequence; the others go on."""
    requests = requests_on(FakeLLM(always(5, best(5))))
    open_one(requests, 0, [-1, 4])
    open_one(requests, 1)
    failed, good = requests.step()
    assert (failed.seq_id, failed.finish_reason) == (0, "error")
    assert "out of vocabulary" in failed.error
    assert "\n" not in failed.error
    assert ids_of(good) == [5]


def test_a_sequence_closed_before_its_record_is_sent_says_nothing():
    """Nothing arrives after close, records of failure included."""
    requests = requests_on(FakeLLM(always(5, best(5))))
    open_one(requests, 0, [-1])
    requests.close(0)
    assert requests.step() == []


def test_unmonitored_sequences_deliver_no_entropies():
    """From unmonitor on, though vLLM still returns log-probabilities."""
    requests = requests_on(FakeLLM(always(5, best(5))))
    open_one(requests)
    assert requests.step()[0].tokens[0].entropy is not None
    requests.unmonitor(0)
    assert requests.step()[0].tokens == [Token(5)]


def test_a_broken_vllm_is_asked_nothing_more():
    """What was open is forgotten; closing it reaches vLLM no more, which would fail again."""
    llm = FakeLLM(always(5, best(5)))
    requests = requests_on(llm)
    open_one(requests, 0)
    open_one(requests, 1)
    llm.abort_request = None
    assert requests.forget_all() == 2
    requests.close(0)
    assert len(requests) == 0


def test_room_counts_a_shared_prefix_once():
    """A fork takes one token more, and gives back its family's tokens when the last member has left."""
    room = Room(830)
    family = room.join(0, None, 500)
    for seq_id in range(1, 5):
        assert room.join(seq_id, room.family_of(0), 501) is family
    assert room.has_room_for_one_more(5)
    family.n_tokens += 310
    assert not room.has_room_for_one_more(5)
    for seq_id in range(5):
        room.leave(seq_id)
    assert not room.has_room_for_one_more(0), "members that left may still become parents before the next step"
    room.settle()
    assert room.has_room_for_one_more(0)


def test_room_keeps_the_family_of_a_parent_that_ended():
    """Re-opened before the next step, a sequence is still of its family."""
    room = Room(1000)
    room.join(0, None, 940)
    room.leave(0)
    room.join(1, room.family_of(0), 941)
    room.settle()
    assert not room.has_room_for_one_more(1)
    assert room.family_of(0) is None
