"""Sequences as vLLM requests, on a stand-in for vLLM: no model, no vLLM needed."""

import math
from types import SimpleNamespace

import pytest
from fake_vllm import N_VOCAB, FakeLLM, K, best

from eager.engines._refusals import Refusals
from eager.engines._vllm_requests import Requests
from eager.engines._vllm_room import Room
from eager.entropy import top_k_entropy
from eager.types import MAX_ENTROPY, Request, SamplingParams, Token

STOP = 2


def new_params(request, watch):
    n_allowed = request.max_length - len(request.token_ids)
    logprobs = K if watch.is_on else None
    return SimpleNamespace(max_tokens=n_allowed, stop_token_ids=[STOP], logprobs=logprobs, watch=watch)


def requests_on(llm, max_model_len=1000, capacity=100):
    return Requests(llm, new_params, refusals=Refusals(N_VOCAB, max_model_len), room=Room(10_000), capacity=capacity)


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
    assert [token[1:] for token in deltas[1].tokens] == [(None, (), (), None)] * 3


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
    """Prompt and generated tokens together reach max_length, which may be all of the context."""
    requests = requests_on(FakeLLM(always(5, best(5))), max_model_len=11)
    open_one(requests, max_length=11)
    deltas = [delta for _ in range(5) for delta in requests.step()]
    assert [d.finish_reason for d in deltas] == [None, None, "length"]


def test_what_cannot_be_decoded_never_reaches_vllm():
    """Beyond the context or the model's vocabulary, where vLLM might take it and break."""
    llm = FakeLLM(always(5, best(5)))
    requests = requests_on(llm, max_model_len=50)
    open_one(requests, 0, max_length=51)
    open_one(requests, 1, [1, N_VOCAB], max_length=9)
    assert not llm.requests
    assert [delta.finish_reason for delta in requests.step()] == ["error", "error"]


@pytest.mark.parametrize("error", [ValueError, LookupError])
def test_a_sequence_that_vllm_refuses_is_an_error_record(error):
    """One sentence for that sequence, whatever vLLM raises of a request; the others go on."""
    llm = FakeLLM(
        always(5, best(5)), refuses=lambda ids: error("too odd (by half)\nand more lines") if 9 in ids else None
    )
    refusals = Refusals(N_VOCAB, 1000)
    requests = Requests(llm, new_params, refusals=refusals, room=Room(10_000), capacity=9, errors_of_requests=(error,))
    open_one(requests, 0, [9, 4])
    open_one(requests, 1)
    failed, good = requests.step()
    assert (failed.seq_id, failed.finish_reason) == (0, "error")
    assert failed.error == "vLLM refuses a sequence of 2 tokens: too odd (by half)"
    assert ids_of(good) == [5]


def test_what_came_of_logits_that_are_none_is_not_delivered():
    """From the position that the draws noted on; the request is aborted, and what still comes for it dropped."""
    llm = FakeLLM(always(5, best(5)), tokens_per_step=3)
    requests = requests_on(llm)
    open_one(requests, 0, [1] * 4, monitor=False)
    open_one(requests, 1, [1] * 4)
    assert len(requests.step()) == 2
    llm.requests["0-1"].params.watch.fault = 3 + 1
    failed, good = requests.step()
    assert (ids_of(failed), failed.finish_reason) == ([5], "error")
    assert failed.error.startswith("the sequence failed after 8 tokens: the model's logits are not numbers")
    assert len(ids_of(good)) == 3
    assert list(llm.requests) == ["1-2"]
    assert [delta.seq_id for delta in requests.step()] == [1]


def test_an_end_that_was_drawn_from_nothing_is_an_error():
    """A stop id, or the last token allowed: not "stop", not "length"."""
    llm = FakeLLM(always(STOP, best(STOP)))
    requests = requests_on(llm)
    open_one(requests, 0, monitor=False)
    llm.requests["0-1"].params.watch.fault = 0
    (delta,) = requests.step()
    assert (delta.tokens, delta.finish_reason) == ([], "error")
    assert len(requests) == 0


def test_log_probabilities_that_are_no_numbers_fail_their_sequence():
    """Where vLLM draws by itself nothing is noted, but what it returns of a monitored sequence tells."""
    broken = [(token, math.nan) for token, _ in best(5)]
    requests = requests_on(FakeLLM(lambda ids: (5, broken if len(ids) == 6 else best(5))))
    open_one(requests, 0, [1] * 4)
    open_one(requests, 1, [1] * 8)
    deltas = [{delta.seq_id: delta for delta in requests.step()} for _ in range(3)]
    assert (deltas[2][0].tokens, deltas[2][0].finish_reason) == ([], "error")
    assert all(ids_of(step[1]) == [5] for step in deltas)


def test_after_a_broken_step_what_was_open_fails_and_no_prefix_is_trusted():
    """Nobody knows what was decoded for it; what is opened afterwards is decoded as ever."""
    llm = FakeLLM(always(5, best(5)))
    requests = requests_on(llm)
    open_one(requests, 0)
    open_one(requests, 1)
    requests.step()
    step, llm.step = llm.step, lambda: step() and (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        requests.step()
    llm.step = step
    requests.close(1)
    open_one(requests, 2)
    failed, good = requests.step()
    assert (failed.seq_id, failed.finish_reason, llm.n_resets) == (0, "error", 1)
    assert failed.error == "the sequence failed after 9 tokens: the step that decoded it was broken off"
    assert (good.seq_id, ids_of(good)) == (2, [5])


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
    assert requests.forget_all() == ["0-1", "1-2"]
    requests.close(0)
    assert len(requests) == 0


def decoded(requests):
    return [delta.seq_id for delta in requests.step()]


def test_the_oldest_families_that_fit_are_decoded_whole():
    """A family that outgrows the room makes the youngest wait with all its sequences; none of it runs ahead."""
    requests = requests_on(FakeLLM(lambda ids: (len(ids), best(len(ids)))), capacity=4)
    for root in (0, 10, 20):
        open_one(requests, root, [1] * (root + 4), max_length=root + 9)
    assert decoded(requests) == [0, 10, 20]
    open_one(requests, 21, [1] * 25, parent=20, max_length=29)
    assert decoded(requests) == [0, 10, 20, 21]
    open_one(requests, 11, [1] * 15, parent=10, max_length=19)
    assert decoded(requests) == [0, 10, 11]
    assert decoded(requests) == [0, 10, 11]
    assert decoded(requests) == [0, 10, 11]  # the first has all its tokens
    after = [requests.step() for _ in range(3)]
    assert [[(delta.seq_id, ids_of(delta)) for delta in step] for step in after] == [
        [(11, [18]), (20, [26]), (21, [26])],
        [(20, [27]), (21, [27])],
        [(20, [28]), (21, [28])],
    ]


def test_who_waited_goes_on_where_it_was():
    """From the tokens it had, watched as before; only what has been through the model counts as recomputed."""
    llm = FakeLLM(lambda ids: (len(ids), best(len(ids))))
    requests = requests_on(llm, capacity=2)
    open_one(requests, 0, [1] * 4, max_length=7)
    open_one(requests, 10, [1] * 20)
    open_one(requests, 20, [1] * 20)
    assert decoded(requests) == [0, 10]
    requests.unmonitor(10)
    open_one(requests, 1, [1] * 4, parent=0, max_length=7)
    assert decoded(requests) == [0, 1]
    requests.close(1)
    deltas = requests.step()
    assert [(d.seq_id, ids_of(d), d.recomputed, d.tokens[0].entropy is None) for d in deltas] == [
        (0, [6], 0, False),
        (10, [21], 20 - 16, True),
    ]
    assert [(d.seq_id, ids_of(d), d.recomputed) for d in requests.step()] == [(10, [22], 0), (20, [20], 0)]


def test_a_family_larger_than_the_room_is_decoded_all_the_same():
    """vLLM queues what is too much of it; and a sequence that waits can be closed, and is delivered no more."""
    requests = requests_on(FakeLLM(always(5, best(5))), capacity=2)
    for seq_id in range(4):
        open_one(requests, seq_id, [1] * 4, parent=0 if seq_id else None)
    open_one(requests, 9, [1] * 4)
    assert decoded(requests) == [0, 1, 2, 3]
    requests.close(9)
    for seq_id in range(4):
        requests.close(seq_id)
    assert decoded(requests) == []


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


def test_room_is_given_back_where_an_id_is_used_again():
    """At once, for another prompt: what held it before is gone."""
    room = Room(1000)
    for _ in range(50):
        room.join(0, None, 900)
        room.leave(0)
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
