"""Servers that were away at the start: tried when they come, and used where they can what the others can."""

from __future__ import annotations

from collections.abc import Callable

from eager.engines._openai_faults import FaultError
from eager.engines._openai_http import Client
from eager.engines._openai_probe import Facts, n_engines, probe
from eager.engines._openai_replicas import Replica, Replicas
from eager.engines._openai_trees import about_of
from eager.engines.base import EngineError
from eager.engines.options_openai import OpenAIOptions


class Latecomers:
    """Lets a server in among the others, or leaves it out for good and says why. Lives on the engine's event loop."""

    def __init__(
        self,
        client: Client,
        replicas: Replicas,
        model: str,
        options: OpenAIOptions,
        needed: Facts,
        *,
        with_trees: bool,
        tell: Callable[[str], None],
    ) -> None:
        """`needed` is what the run relies on by now, `with_trees` whether it relies on whole trees."""
        self._client = client
        self._replicas = replicas
        self._model = model
        self._options = options
        self._needed = needed
        self._with_trees = with_trees
        self._tell = tell

    async def is_settled(self, replica: Replica) -> bool:
        """Whether it has come: then it is used, or left out. False where it is not there, or not ready yet."""
        if not await self._client.is_alive(replica.url):
            return False
        try:
            why_not = await self._why_not(replica.url)
            n_in_it = await n_engines(self._client, replica.url)
        except FaultError:
            return False
        replica.is_tried = True
        if why_not is None:
            self._replicas.split(replica, n_in_it)
            self._replicas.put_up(replica)
        else:
            replica.fault = why_not
            self._tell(f"{replica.url} has come and is left out: {why_not}")
        return True

    async def _why_not(self, url: str) -> str | None:
        try:
            facts = await probe(self._client, url, self._model, self._options)
        except EngineError as error:
            return str(error)
        return self._misfit(facts) or (await self._misfit_for_trees(url) if self._with_trees else None)

    def _misfit(self, facts: Facts) -> str | None:
        needed = self._needed
        if facts.max_model_len < needed.max_model_len:
            return _shorter(facts.max_model_len, needed.max_model_len)
        if facts.n_vocab < needed.n_vocab:
            return f"it knows {facts.n_vocab} token ids, the others {needed.n_vocab}: it serves another model"
        if needed.draws not in ("opening", facts.draws):  # where requests have seeds of their own, every server will do
            return f"it draws by '{facts.draws}', the others by '{needed.draws}': start it with their options"
        return None

    async def _misfit_for_trees(self, url: str) -> str | None:
        about = await about_of(self._client, url)
        if about is None or about.missing:
            return "it grows no whole trees, as the others do: start it with VLLM_PLUGINS=eager and their options"
        needed = self._needed.max_model_len
        return _shorter(about.max_model_len, needed) if about.max_model_len < needed else None


def _shorter(its: int, needed: int) -> str:
    return f"its context is {its} tokens and the run's {needed}: start it with a longer --max-model-len"
