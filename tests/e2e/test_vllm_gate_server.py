"""Trees inside a real vLLM server that has the gate: over HTTP, as anyone would ask."""

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace

import pytest
from vllm_server import shared, started

from eager.branching import Brancher
from eager.engines.gated_tree import Decoded, GatedTree
from eager.entropy import top_k_entropy
from eager.randomness import sequence_seed
from eager.types import BranchConfig, Close, Delta, Open, SamplingParams, Stops, Token, TreeJob

PAUSE = 3  # a token of SmolLM2 that is reserved and never comes
STOPS = Stops(frozenset({2}))
SAMPLING = SamplingParams(temperature=0.8)
MAX_LENGTH = 100


@pytest.fixture(scope="module")
def server():
    return shared()


@pytest.fixture(scope="module")
def prompt(server):
    status, answer = server.post(
        "/tokenize", {"messages": [{"role": "user", "content": "Name three rivers and say where they flow."}]}
    )
    assert status == 200
    return answer["tokens"]


def drawn(seed, sampling=SAMPLING):
    return {"eager_draw": [seed, sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p]}


def job_of(prompt, **rules):
    return TreeJob(0, tuple(prompt), BranchConfig(**rules), SAMPLING, MAX_LENGTH, seed=7)


class Tree:
    """One tree over HTTP: each request goes on until its sequence ends or pauses."""

    def __init__(self, server, name, job, sampling=None):
        self.server, self.job = server, job
        self.sampling = sampling  # vLLM's own; the gate draws where there is none
        self.gated, self.n_decoded = GatedTree(job, STOPS, name=name, pause_id=PAUSE), 0

    def grow(self):
        """The finished tree, which the gate has forgotten with that."""
        with ThreadPoolExecutor(16) as threads:
            running = {threads.submit(self.decode, asked) for asked in self.gated.start()}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for request, decoded in (future.result() for future in done):
                    running |= {threads.submit(self.decode, asked) for asked in self.gated.take(request, decoded)}
        self.record = self.server.ask_worker("eager_take", self.gated.name)
        return self.gated.result(self.record)

    def decode(self, asked):
        choice = self.server.complete(**self.body(asked))
        self.n_decoded += choice["usage"]["completion_tokens"]
        return asked, Decoded(choice["token_ids"], choice["finish_reason"])

    def body(self, asked=None, **changes):
        asked = asked or self.gated.start()[0]
        draws = {} if self.sampling else drawn(asked.seed)
        return {
            "prompt": list(asked.token_ids),
            "max_tokens": asked.max_tokens,
            "temperature": 0,
            "stop_token_ids": list(asked.stop_ids),
            "ignore_eos": True,
            "vllm_xargs": {**asked.rule.args, **draws, **changes},
            **(self.sampling or {}),
        }


def entropies_of(server, ids, n_prompt):
    """By the server's own log-probabilities, of all tokens after the prompt."""
    choice = server.complete(prompt=ids, max_tokens=1, temperature=0, prompt_logprobs=20)
    places = choice["prompt_logprobs"][n_prompt:]
    return [float(top_k_entropy([best["logprob"] for best in place.values()])) for place in places]


def test_requests_stop_exactly_where_the_entropy_exceeds_the_threshold(server, prompt):
    """By the server's own log-probabilities: every pause is above, every other token of the growing tree is not."""
    job = job_of(prompt, max_sequences=6, entropy_threshold=1.8)
    grower = Tree(server, "exact", job)
    tree = grower.grow()
    assert len(tree.sequences) == job.config.max_sequences
    assert sorted((seq, position) for seq, position, *_ in grower.record["branches"]) == sorted(
        (branch.seq, branch.position) for branch in tree.branches
    )
    for index, sequence in enumerate(tree.sequences):
        start, kept = grower.record["entropies"].get(str(index), [0, []])
        own = entropies_of(server, [*prompt, *sequence.token_ids], len(prompt))
        assert own[start : start + len(kept)] == pytest.approx(kept, abs=2e-3)
        forks = {branch.position for branch in tree.branches if index in (branch.seq, branch.new_seq)}
        for position, entropy in enumerate(kept[: len(kept) - 1], start=start):
            # An entropy taken while the last places were given away is kept, and did not branch.
            assert (entropy > job.config.entropy_threshold) == (position in forks) or len(kept) - position < 3


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "min_p": 0.01}])
def test_nothing_is_decoded_past_a_branch(server, prompt, sampling):
    """Tokens that the server decoded are those of the tree and one pause a branch, whoever draws them."""
    grower = Tree(server, "overrun", job_of(prompt, max_sequences=6, entropy_threshold=1.8), sampling)
    tree = grower.grow()
    assert tree.branches
    assert grower.n_decoded == tree.n_tokens + len(tree.branches)


@pytest.mark.parametrize("percentile", [None, 90])
def test_the_first_branch_is_the_brancher_s(server, prompt, percentile):
    """Up to it there is one sequence, so nobody runs ahead: the very tree that `eager.branching` grows."""
    rules = {"max_sequences": 2, "entropy_threshold": 1.2, "threshold_percentile": percentile}
    job = job_of(prompt, **rules)
    expected = as_published(server, job)
    tree = Tree(server, f"first {percentile}", job).grow()
    (found,), (branch,) = tree.branches, expected.branches
    assert replace(found, entropy=0, threshold=0) == replace(branch, entropy=0, threshold=0, sampled_id=None)
    assert (found.entropy, found.threshold) == pytest.approx((branch.entropy, branch.threshold), abs=1e-3)
    assert [s.token_ids for s in tree.sequences] == [s.token_ids for s in expected.sequences]


def as_published(server, job):
    """The tree that `Brancher` grows over one-token requests with the server's log-probabilities."""
    brancher = Brancher(job, STOPS)
    opened, actions = {}, brancher.start()
    while True:
        for action in actions:
            if isinstance(action, Open):
                opened[action.seq] = list(action.token_ids)
            elif isinstance(action, Close):
                del opened[action.seq]
        if brancher.is_done:
            return brancher.result()
        actions = brancher.observe([(seq, next_token(server, job, opened, seq)) for seq in list(opened)])


def next_token(server, job, opened, seq):
    tokens = opened[seq]
    choice = server.complete(
        prompt=tokens,
        max_tokens=1,
        temperature=0,
        logprobs=20,
        return_tokens_as_token_ids=True,
        vllm_xargs=drawn(sequence_seed(job.seed, 0, seq)),
    )
    best = {int(name.split(":")[1]): value for name, value in choice["logprobs"]["top_logprobs"][0].items()}
    best = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:20]
    ids, logprobs = zip(*best, strict=True)
    tokens.append(choice["token_ids"][0])
    finish = "stop" if tokens[-1] in STOPS.stop_ids else "length" if len(tokens) == job.max_length else None
    if finish:
        del opened[seq]
    return Delta(seq, [Token(tokens[-1], float(top_k_entropy(logprobs)), ids, logprobs)], finish)


def test_bad_arguments_are_refused_and_the_server_lives(server, prompt):
    """Each with a 400 that names the argument; the next request is answered."""
    tree = Tree(server, "bad", job_of(prompt, max_sequences=3, entropy_threshold=2.0))
    for name, value in [
        ("eager_threshold", 3.5),
        ("eager_threshold", "high"),
        ("eager_tree", ""),
        ("eager_sequence", -1),
        ("eager_pause_id", 4),
        ("eager_pause_id", 10**9),
        ("eager_first", "third"),
        ("eager_percentile", 101),
        ("eager_thinking_end", [1, "x"]),
        ("eager_max_branches", 2**40),
        ("eager_draw", [1, 0.0, 1, 0, 0]),
        ("eager_draw", [-1, 1.0, 1, 0, 0]),
        ("eager_depth", 3),
    ]:
        status, answer = server.post("/v1/completions", {"model": "demo", **tree.body(**{name: value})})
        assert status == 400, (name, value)
        assert name in answer["error"]["message"]
    for change in ({"n": 2}, {"repetition_penalty": 1.3}, {"logit_bias": {"5": 1.0}}, {"min_tokens": 4}):
        status, answer = server.post("/v1/completions", {"model": "demo", **tree.body(), **change})
        assert status == 400, change
    assert len(server.complete(prompt=prompt, max_tokens=3, temperature=0)["token_ids"]) == 3


def test_requests_of_others_are_not_touched(server, prompt):
    """The same tokens alone and beside a tree; the reserved token may come to whoever asks for it."""
    body = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    alone = server.complete(**body)["token_ids"]
    with ThreadPoolExecutor(1) as threads:
        tree = threads.submit(Tree(server, "beside", job_of(prompt, max_sequences=6, entropy_threshold=1.5)).grow)
        beside = server.complete(**body)["token_ids"]
        assert len(tree.result().sequences) == 6
    assert beside == alone
    assert server.complete(**{**body, "max_tokens": 1, "allowed_token_ids": [PAUSE]})["token_ids"] == [PAUSE]


def test_a_client_may_leave_in_the_middle_of_a_tree(server, prompt):
    """What it left is ended by the server, taken, and forgotten; the same name then begins a tree anew."""
    job = job_of(prompt, max_sequences=3, entropy_threshold=2.5)
    for _ in range(3):
        connection, response = server.stream(**Tree(server, "left", job).body())
        response.read(40)
        connection.close()
    time.sleep(0.5)
    server.ask_worker("eager_take", "left")
    assert server.ask_worker("eager_take", "left") is None
    fresh = Tree(server, "fresh", job).grow()
    anew = Tree(server, "left", job).grow()
    assert anew.branches[:1] == fresh.branches[:1]
    assert server.ask_worker("eager_gate")["runner"] == 1


@pytest.mark.slow
def test_a_server_without_the_gate_answers_others_the_same(tmp_path, prompt, server):
    """Greedy, drawn with a seed and with penalties: the same tokens and log-probabilities."""
    bodies = [
        {"temperature": 0, "logprobs": 3},
        {"temperature": 0.9, "seed": 5, "top_p": 0.9},
        {"temperature": 0.7, "seed": 6, "repetition_penalty": 1.2, "n": 2},
    ]

    def answers(asked):
        return [asked.complete(prompt=prompt, max_tokens=30, ignore_eos=True, **body) for body in bodies]

    with started(tmp_path / "log.txt") as plain:
        expected = answers(plain)
    for one, other in zip(answers(server), expected, strict=True):
        assert one["token_ids"] == other["token_ids"]
        assert one["logprobs"] == other["logprobs"]
