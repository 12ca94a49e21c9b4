"""A stand-in for vLLM's LLMEngine that plays a script: what vLLM would return, without a model."""

from types import SimpleNamespace

K = 20
N_VOCAB = 1000


def flat_logprobs(rows):
    """As vLLM's FlatLogprobs: for each token the sampled one first, then the K best, flattened."""
    flat = SimpleNamespace(start_indices=[], end_indices=[], token_ids=[], logprobs=[])
    for sampled, best in rows:
        flat.start_indices.append(len(flat.token_ids))
        logprob = dict(best).get(sampled, -30.0)
        for token, value in [(sampled, logprob), *best]:
            flat.token_ids.append(token)
            flat.logprobs.append(value)
        flat.end_indices.append(len(flat.token_ids))
    return flat


def best(*first, spread=0.0):
    """The K best: the given ids, then others; equally likely, or the first ones more so."""
    ids = [*first, *(i for i in range(100, 100 + K) if i not in first)][:K]
    return [(token, -3.0 - spread * rank) for rank, token in enumerate(ids)]


class FakeLLM:
    """`script(ids)` -> (sampled, best) for the next token; `tokens_per_step` come at once.

    Aborted requests deliver one more output where `is_late`, as an engine in another process may. `refuses(ids)` is the
    error that adding such a request raises.
    """

    def __init__(self, script, *, tokens_per_step=1, n_cached=None, is_late=False, refuses=lambda ids: None):
        self._script, self._tokens_per_step, self._n_cached, self._is_late = script, tokens_per_step, n_cached, is_late
        self._refuses = refuses
        self.requests, self.late = {}, []
        self.vllm_config = self.engine_core = SimpleNamespace(shutdown=lambda: None)
        self.model_config = SimpleNamespace(get_vocab_size=lambda: N_VOCAB)
        self.n_resets = 0

    def add_request(self, request_id, prompt, params):
        error = self._refuses(prompt["prompt_token_ids"])
        if error is not None:
            raise error
        ids = list(prompt["prompt_token_ids"])
        self.requests[request_id] = SimpleNamespace(ids=ids, n_prompt=len(ids), params=params)

    def abort_request(self, request_ids):
        for request_id in request_ids:
            request = self.requests.pop(request_id, None)
            if request is not None and self._is_late:
                self.late.append(self._output(request_id, request))

    def reset_prefix_cache(self):
        self.n_resets += 1

    def has_unfinished_requests(self):
        return bool(self.requests)

    def step(self):
        outputs, self.late = self.late, []
        for request_id, request in list(self.requests.items()):
            outputs.append(self._output(request_id, request))
            if outputs[-1].outputs[0].finish_reason:
                del self.requests[request_id]
        return outputs

    def _output(self, request_id, request):
        rows, finish = [], None
        while len(rows) < self._tokens_per_step and finish is None:
            rows.append(self._script(request.ids))
            request.ids.append(rows[-1][0])
            if rows[-1][0] in request.params.stop_token_ids:
                finish = "stop"
            elif len(request.ids) - request.n_prompt >= request.params.max_tokens:
                finish = "length"
        completion = SimpleNamespace(
            token_ids=[sampled for sampled, _ in rows],
            logprobs=flat_logprobs(rows) if request.params.logprobs is not None else None,
            finish_reason=finish,
        )
        n_cached = request.n_prompt // 16 * 16 if self._n_cached is None else self._n_cached
        return SimpleNamespace(request_id=request_id, outputs=[completion], num_cached_tokens=n_cached)
