"""A few steps of GRPO on a CPU: TRL's own trainer, a small model with random weights, EAGer's rollout function."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from pathlib import Path
from typing import Any

import needs
import pytest
import tiny_transformer

needs.package("trl", "trl")

import datasets  # noqa: E402 - these come with trl
import torch  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from eager.integrations.trl import EagerRollout  # noqa: E402

TEXTS = ("ab", "what?", "and so", "no")
CHATS = [[{"role": "user", "content": text}] for text in TEXTS]
pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func'")


def vowels(completions: Seq[Any], **_: Any) -> list[float]:
    """The share of them in a text: what a model with random weights can be taught in a few steps."""
    texts = [item if isinstance(item, str) else item[0]["content"] for item in completions]
    return [sum(text.count(vowel) for vowel in "aeiou") / max(1, len(text)) for text in texts]


def trained(
    folder: Path, rollout: Callable[..., dict[str, Any]], prompts: Seq[Any], **changed: Any
) -> tuple[GRPOTrainer, list[dict[str, Any]]]:
    """The trainer after its run, and what it logged."""
    options: dict[str, Any] = {
        "num_generations": 4, "per_device_train_batch_size": 8, "max_steps": 3, "max_completion_length": 16,
        "learning_rate": 1e-3, "temperature": 1.0, "beta": 0.0, "logging_steps": 1, "report_to": [], "bf16": False,
        "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "seed": 5, **changed,
    }  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    trainer = GRPOTrainer(
        model=tiny_transformer.model(sharpness=0.5),
        reward_funcs=vowels,
        args=GRPOConfig(output_dir=str(folder), **options),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tiny_transformer.tokenizer(),
        rollout_func=rollout,
    )
    trainer.train()
    return trainer, trainer.state.log_history


class Watched(EagerRollout):
    """Keeps what it answered, and how far its log-probabilities are from those of the model at that moment."""

    def __call__(self, prompts: Seq[Any], trainer: Any) -> dict[str, Any]:
        found = super().__call__(prompts, trainer)
        self.answers = [*getattr(self, "answers", []), found]
        self.errors = [*getattr(self, "errors", []), _error(found, trainer.model)]
        self.prompts = prompts
        return found


def _error(found: dict[str, Any], model: Any) -> float:
    worst = 0.0
    for prompt, completion, logprobs in zip(
        *(found[k] for k in ("prompt_ids", "completion_ids", "logprobs")), strict=True
    ):
        with torch.no_grad():
            rows = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        own = [rows[len(prompt) - 1 + i, token].item() for i, token in enumerate(completion)]
        worst = max(worst, *(abs(a - b) for a, b in zip(own, logprobs, strict=True)))
    return worst


def test_a_run_trains_on_samples_of_the_present_policy(tmp_path):
    """Log-probabilities are those of the weights at each step, which move; groups stand in their places."""
    rollout = Watched(2.5, grader=lambda prompt, text: "a" in text)
    trainer, log = trained(tmp_path, rollout, CHATS)
    assert len(rollout.answers) == 3
    assert max(rollout.errors) < 1e-3
    assert rollout.n_sequences <= 3 * 8
    assert _error(rollout.answers[0], trainer.model) > 1e-2  # the weights moved, and the next draws with them
    steps = [entry for entry in log if "reward" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    assert all(entry["grad_norm"] > 0 for entry in steps)
    for found in rollout.answers:
        assert len(found["completion_ids"]) == 8
        assert all(len({tuple(ids) for ids in found["prompt_ids"][i : i + 4]}) == 1 for i in (0, 4))


def test_forced_tokens_are_no_part_of_the_loss(tmp_path):
    """`top2` on plain texts: TRL takes the mask, and trains."""
    rollout = EagerRollout(2.5, branch_rule="top2")
    _, log = trained(tmp_path, rollout, TEXTS, max_steps=1)
    (step,) = [entry for entry in log if "reward" in entry]
    assert step["grad_norm"] > 0
    assert step["completions/max_length"] <= 16


def test_evaluation_has_its_own_number_of_samples(tmp_path):
    """`num_generations_eval`, in batches of whole groups."""
    rollout = Watched(2.5)
    trainer, _ = trained(tmp_path, rollout, CHATS, max_steps=1, num_generations_eval=2, per_device_eval_batch_size=4)
    before = rollout.n_tokens
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_reward"] <= 1
    assert rollout.n_tokens == before
    assert [len(found["completion_ids"]) for found in rollout.answers] == [8, 4, 4]
