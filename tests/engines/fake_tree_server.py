"""The server of `fake_openai` with EAGer's plugin: one request is one tree, and breaks where it is told to."""

import asyncio
from contextlib import contextmanager

from fake_openai import N_VOCAB, STOP_ID, FakeServer, continuation

from eager.randomness import sequence_seed
from eager.types import Branch, Generation, SequenceResult
from eager.wire import (
    About,
    Alive,
    Branched,
    Ended,
    Failed,
    Finished,
    WireError,
    about_json,
    event_json,
    read_request,
)


def tree_of(job):
    """The tree that a job gets, whatever happens to the server: its roots, and one child of the first."""
    seeds = [sequence_seed(job.seed, job.prompt_index, job.first_sequence + i) for i in range(job.n_roots + 1)]
    n_tokens = job.max_length - len(job.prompt_ids)
    roots = [continuation(job.prompt_ids, seed, job.sampling, n_tokens) for seed in seeds[:-1]]
    sequences = [SequenceResult(tuple(root), (1.5,) + (None,) * (len(root) - 1), _why(root)) for root in roots]
    if job.n_roots == job.config.max_sequences:
        return Generation(tuple(sequences))
    child = [roots[0][0], *continuation((*job.prompt_ids, roots[0][0]), seeds[-1], job.sampling, n_tokens - 1)]
    sequences.append(SequenceResult(tuple(child), (None,) * len(child), _why(child), parent=0, fork=1))
    branch = Branch(0, 1, 2.0, job.config.entropy_threshold, job.n_roots, None, roots[0][1], child[1])
    return Generation(tuple(sequences), (branch,), recomputed=2, discarded=1)


def _why(tokens):
    return "stop" if tokens[-1] == STOP_ID else "length"


def events_of(tree):
    yield Alive(0)
    yield from (Branched(branch.seq, branch.position, branch.new_seq) for branch in tree.branches)
    for index, sequence in enumerate(tree.sequences):
        yield Ended(index, sequence)
    yield Alive(tree.n_tokens + tree.discarded)
    yield Finished(tree)


class FakeTreeServer(FakeServer):
    """`tree_faults` are popped by one tree each: (kind, after so many events). `missing` is what the plugin lacks."""

    def __init__(self, *, missing=(), **how):
        super().__init__(**how)
        self.missing, self.tree_faults, self.trees = missing, [], []

    async def _eager(self, request, body, web):
        return web.json_response(about_json(About(tuple(self.missing), "fake", self.max_model_len, ("top2", "sample"))))

    async def _eager_trees(self, request, body, web):
        self.trees.append(body)
        kind, after = self.tree_faults.pop(0) if self.tree_faults else (None, 0)
        if isinstance(kind, int):
            return web.json_response({"error": {"message": "as it was told"}}, status=kind)
        try:
            asked = read_request(body)
        except WireError as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        if max(asked.job.prompt_ids) >= N_VOCAB:
            return web.json_response({"error": {"message": "outside the vocabulary"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.n_open += 1
        try:
            await self._tell(asked.job, request, response, kind, after)
        finally:
            self.n_open -= 1
        return response

    async def _tell(self, job, request, response, kind, after):
        for number, event in enumerate(events_of(tree_of(job))):
            if kind is not None and number >= after:
                if kind == "failed":
                    await response.write(_line(Failed("the engine is dead")))
                    return
                if kind == "many events":
                    for _ in range(1000):
                        await response.write(_line(Branched(0, 1, 1)))
                if await self._fail(kind, request, response):
                    return
            if self.seconds_per_token:
                await asyncio.sleep(self.seconds_per_token)
            await response.write(_line(event))


def _line(event):
    import json

    return b"data: " + json.dumps(event_json(event)).encode() + b"\n\n"


@contextmanager
def trees_running(**how):
    """A server that is up meanwhile."""
    server = FakeTreeServer(**how).start()
    try:
        yield server
    finally:
        server.stop()
