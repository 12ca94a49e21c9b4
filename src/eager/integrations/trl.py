"""A rollout function for TRL's GRPOTrainer: its groups drawn as EAGer trees, by the policy as it is now.

    trainer = GRPOTrainer(..., rollout_func=EagerRollout(entropy_threshold=1.6, grader=is_right))

Read in TRL 1.16.0: it is called with the prompts of this process as they stand in the data set, each `num_generations`
times in a row (`num_generations_eval` in evaluation), and groups the answers by their places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence as Seq
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

from eager.api import Sequence, Tree
from eager.engines import Engine
from eager.integrations.errors import IntegrationError, require
from eager.integrations.groups import Draw, Fill, Group, draw_groups, draw_parallel, not_drawn
from eager.randomness import sequence_seed
from eager.types import BranchConfig, BranchRule, SamplingParams

TextGrader: TypeAlias = Callable[[Any, str], bool | None]
"""Whether a completion's text is right for a prompt, which is as in the data set; None where that cannot be told."""

Refresh: TypeAlias = Callable[[Engine, Any], None]
"""Brings the engine's weights up to the trainer's."""


class EagerRollout:
    """`rollout_func` of a GRPOTrainer: as many completions as prompts came in, in their order.

    With a `grader` the full policy: what easy prompts save goes to those without a right completion; without one all
    groups are completed by fresh samples. `fill` says what completes a short group (`eager.integrations.groups`). Under
    `sample` every token is a draw of the policy; under the other rules those that are none are kept out of the loss by
    TRL's `env_mask`, and `eager_forced` flags the forced ones, one list a completion, for reward functions. Evaluation
    draws independent samples: their mean reward is the policy's.

    It decodes with the trainer's own model, `capacity` sequences at once; with an `engine`, that one, after `refresh`.
    `n_tokens` and `n_sequences` count what was generated for training so far. Raises IntegrationError in a sentence.
    """

    def __init__(
        self,
        entropy_threshold: float,
        *,
        branch_rule: BranchRule = "sample",
        threshold_percentile: float | None = None,
        grader: TextGrader | None = None,
        fill: Fill = "fresh",
        capacity: int = 64,
        engine: Engine | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        if (engine is None) != (refresh is None):
            raise IntegrationError(
                "an engine needs refresh, which brings its weights up to the trainer's: give both or neither"
            )
        self.n_tokens = self.n_sequences = 0
        self._rules = BranchConfig(1, entropy_threshold, branch_rule, threshold_percentile)
        self._grader = grader
        self._fill: Fill = fill
        self._capacity = capacity
        self._engine = engine
        self._refresh = refresh
        self._n_calls = 0

    def __call__(self, prompts: Seq[Any], trainer: Any) -> dict[str, Any]:
        """`prompt_ids`, `completion_ids` and `logprobs` of every prompt, and what reward functions may want to know."""
        is_training = bool(trainer.model.training)
        n = trainer.num_generations if is_training else trainer.num_generations_eval
        distinct = grouped(prompts, n)
        draw = self._draw(trainer, n)
        ids = prompt_ids(distinct, trainer)
        with self._policy(trainer) as engine:
            if is_training:
                groups = draw_groups(ids, draw, engine, self._tree_grader(distinct, trainer), self._fill)
                self.n_tokens += sum(group.tree.n_tokens for group in groups)
                self.n_sequences += sum(len(group.tree.sequences) for group in groups)
            else:
                groups = draw_parallel(ids, draw, engine)
        return answer(groups)

    def _draw(self, trainer: Any, n: int) -> Draw:
        _check(trainer)
        # Every call draws anew, in every process and after a resumption, too.
        self._n_calls += 1
        seed = sequence_seed(trainer.args.seed, trainer.state.global_step, self._n_calls)
        return Draw(
            replace(self._rules, max_sequences=n),
            SamplingParams(trainer.temperature, trainer.top_p, trainer.top_k or 0, trainer.min_p or 0.0),
            trainer.max_completion_length,
            sequence_seed(seed, trainer.accelerator.process_index, 0),
        )

    def _tree_grader(self, prompts: Seq[Any], trainer: Any) -> Callable[[Tree, Sequence], bool | None] | None:
        grader = self._grader
        if grader is None:
            return None
        decode = trainer.processing_class.decode
        return lambda tree, sequence: grader(
            prompts[tree.prompt_index], decode(list(sequence.token_ids), skip_special_tokens=True)
        )

    @contextmanager
    def _policy(self, trainer: Any) -> Iterator[Engine]:
        """An engine with the trainer's present weights."""
        if self._engine is not None and self._refresh is not None:
            self._refresh(self._engine, trainer)
            yield self._engine
            return
        if trainer.is_fsdp_enabled:
            raise IntegrationError(
                "under FSDP no process has the whole model to draw from: use DDP, or give engine and refresh"
            )
        require("trl", "trl")
        from trl.models.utils import unwrap_model_for_generation

        from eager.engines.transformers import TransformersEngine

        gather = trainer.args.ds3_gather_for_generation
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, gather) as model:
            was_training = model.training
            model.eval()  # without dropout
            try:
                yield TransformersEngine(model, _tokenizer(trainer), capacity=self._capacity)
            finally:
                model.train(was_training)


def grouped(prompts: Seq[Any], n: int) -> list[Any]:
    """Each group's prompt. Raises IntegrationError where the prompts are no whole groups of n."""
    groups = [prompts[start : start + n] for start in range(0, len(prompts), n)]
    if any(len(group) != n or any(prompt != group[0] for prompt in group) for group in groups):
        raise IntegrationError(
            f"a group of {n} completions is spread over several processes: make per_device_train_batch_size times"
            " steps_per_generation, and per_device_eval_batch_size, multiples of the number of generations"
        )
    return [group[0] for group in groups]


def prompt_ids(prompts: Seq[Any], trainer: Any) -> list[list[int]]:
    """As the trainer encodes them: a chat by its template, a text as it is."""
    encoder = trainer.processing_class
    if isinstance(prompts[0], str):
        return [list(ids) for ids in encoder(text=list(prompts))["input_ids"]]
    if any(not isinstance(message.get("content"), str) for prompt in prompts for message in prompt):
        raise IntegrationError("a prompt holds something else than text: EAGer draws from text prompts only")
    return [
        list(
            encoder.apply_chat_template(
                prompt,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                chat_template=trainer.chat_template,
                **trainer.chat_template_kwargs,
            )
        )
        for prompt in prompts
    ]


def answer(groups: Seq[Group]) -> dict[str, Any]:
    """What TRL takes, one entry a completion, groups in their order.

    `logprobs` are of the distribution that was drawn from, None where that was not the model's own: TRL then goes
    without them, as it does with its own transformers generation.
    """
    pairs = [(group.tree, index) for group in groups for index in group.chosen]
    sequences = [tree.sequences[index] for tree, index in pairs]
    found: dict[str, Any] = {
        "prompt_ids": [list(tree.prompt_ids) for tree, _ in pairs],
        "completion_ids": [list(sequence.token_ids) for sequence in sequences],
        "logprobs": None,
    }
    if all(is_raw(tree.sampling) for tree, _ in pairs):
        found["logprobs"] = [list(sequence.logprobs) for sequence in sequences]
    if any(tree.branching.branch_rule != "sample" for tree, _ in pairs):
        found["eager_forced"] = [list(sequence.forced) for sequence in sequences]
        found["env_mask"] = [_mask(tree, index) for tree, index in pairs]
    return found


def is_raw(sampling: SamplingParams) -> bool:
    """Whether tokens are drawn from the very distribution that their log-probabilities are of."""
    return sampling == SamplingParams(temperature=1.0)


def _mask(tree: Tree, index: int) -> list[int]:
    taken = not_drawn(tree)[index]
    return [int(position not in taken) for position in range(len(tree.sequences[index].token_ids))]


def _check(trainer: Any) -> None:
    """Raises IntegrationError where the trainer wants what trees cannot be drawn with."""
    if trainer.use_vllm:
        raise IntegrationError("EAGer draws by its own engine, not by TRL's vLLM: set use_vllm=False")
    if trainer.tools or trainer.environment_factories:
        raise IntegrationError("a tree is one answer to one prompt: leave out tools and environment_factory")
    if trainer.repetition_penalty not in (None, 1.0):
        raise IntegrationError("repetition_penalty changes the distribution that trees branch by: leave it at 1.0")


def _tokenizer(trainer: Any) -> Any:
    return getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
