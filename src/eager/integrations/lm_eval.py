"""EAGer as a model of lm-evaluation-harness: the majority's answer, or the first one, to tasks that let a model write.

    import eager.integrations.lm_eval  # registers model "eager"
    lm_eval.simple_evaluate(model="eager", model_args={"engine": "llama_cpp", "model_name": "demo"}, tasks=["gsm8k"])

Read in lm-eval 0.4.13.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any, Literal

from eager.api import Prompt, Tree, allocate, generate, vote
from eager.engines import Engine, load_engine
from eager.integrations.errors import IntegrationError, require
from eager.types import BranchConfig, BranchRule, SamplingParams

require("lm_eval", "lm-eval")

from lm_eval.api.model import LM  # noqa: E402 - after the sentence that says how to get it
from lm_eval.api.registry import register_model  # noqa: E402

_NO_LIKELIHOODS = (
    "EAGer writes answers and has no log-likelihoods of given texts: choose tasks with output_type generate_until"
)


@register_model("eager")
class EagerLM(LM):  # type: ignore[misc] # lm-eval is not followed by the type checker
    """One tree a request, all at once; with `adapt` what easy requests save goes to those whose trees were full.

    `select` is "majority", the first sequence that gives the answer of most, or "first", the tree's first sequence.
    EAGer samples: of a task's generation_kwargs `until` and `max_gen_toks` count, its temperature does not. A context
    without a chat template is what a user says.
    """

    def __init__(
        self,
        engine: Engine | str = "llama_cpp",
        model_name: str = "demo",
        *,
        max_sequences: int = 8,
        entropy_threshold: float = 2.0,
        branch_rule: BranchRule = "top2",
        threshold_percentile: float | None = None,
        temperature: float = 0.6,
        adapt: bool = True,
        select: Literal["majority", "first"] = "majority",
        max_gen_toks: int = 512,
        seed: int = 0,
        batch_size: Any = None,  # lm-eval gives these two to every model
        device: Any = None,
        **engine_options: Any,
    ) -> None:
        super().__init__()
        if select not in ("majority", "first"):
            raise IntegrationError(f"select must be majority or first, not '{select}'")
        self._engine = engine if isinstance(engine, Engine) else load_engine(engine, model_name, **engine_options)
        self._rules = BranchConfig(max_sequences, entropy_threshold, branch_rule, threshold_percentile)
        self._sampling = SamplingParams(temperature)
        self._adapt = adapt
        self._select = select
        self._max_gen_toks = max_gen_toks
        self._seed = seed

    def generate_until(self, requests: Seq[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers, in the order of the requests."""
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            by_length[int(request.args[1].get("max_gen_toks", self._max_gen_toks))].append(index)
        answers = [""] * len(requests)
        for max_tokens, indices in by_length.items():
            trees = self._grown([_prompt(requests[index].args[0]) for index in indices], max_tokens, not disable_tqdm)
            for index, tree in zip(indices, trees, strict=True):
                request = requests[index]
                answers[index] = self._answer(tree, request.args[1].get("until") or ())
                self.cache_hook.add_partial("generate_until", request.args, answers[index])
        return answers

    def _grown(self, prompts: Seq[Prompt], max_tokens: int, progress: bool) -> list[Tree]:
        trees = generate(
            prompts,
            engine=self._engine,
            branching=self._rules,
            sampling=self._sampling,
            seed=self._seed,
            max_tokens=max_tokens,
            progress=progress,
        )
        return allocate(trees, engine=self._engine, progress=progress) if self._adapt else trees

    def _answer(self, tree: Tree, until: str | Seq[str]) -> str:
        stops = [until] if isinstance(until, str) else list(until)
        sequences = tuple(replace(item, text=_until(item.text, stops)) for item in tree.sequences)
        if sequences[0].error is not None and all(sequence.error is not None for sequence in sequences):
            raise IntegrationError(f"a request could not be answered: {sequences[0].error}")
        leading = vote(replace(tree, sequences=sequences)).sequence if self._select == "majority" else 0
        return sequences[leading or 0].text

    def apply_chat_template(self, chat_history: Seq[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as JSON: the engine puts it into the model's own template, as token ids."""
        if not add_generation_prompt:
            raise IntegrationError("this task begins the answer itself (gen_prefix), which EAGer's engines do not take")
        return _CHAT + json.dumps(list(chat_history))

    @property
    def tokenizer_name(self) -> str:
        """For lm-eval's cache of requests."""
        return f"{self._engine.name}:{self._engine.model_name}".replace("/", "__")

    def loglikelihood(self, requests: Seq[Any]) -> list[tuple[float, bool]]:
        """Refused."""
        raise IntegrationError(_NO_LIKELIHOODS)

    def loglikelihood_rolling(self, requests: Seq[Any]) -> list[float]:
        """Refused."""
        raise IntegrationError(_NO_LIKELIHOODS)


_CHAT = "eager chat: "  # what marks a context that `apply_chat_template` made


def _prompt(context: str) -> Prompt:
    return json.loads(context.removeprefix(_CHAT)) if context.startswith(_CHAT) else context


def _until(text: str, stops: Seq[str]) -> str:
    """The text before the first of its stops."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]
