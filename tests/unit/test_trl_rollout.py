"""The rollout function for TRL's GRPOTrainer, on a trainer that is only looked at; test_grpo.py has a real one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import eager
from eager.engines.scripted import ScriptedEngine
from eager.integrations.errors import IntegrationError
from eager.integrations.trl import EagerRollout, grouped

CHATS = [[{"role": "user", "content": text}] for text in ("How many are left?", "Why?", "How many come?")]


class Encoder:
    """The scripted engine's tokenizer as transformers' would look."""

    def __init__(self, engine: eager.Engine) -> None:
        self._engine = engine

    def __call__(self, text):
        return {"input_ids": [self._engine.encode_chat([{"role": "user", "content": item}]) for item in text]}

    def apply_chat_template(self, chat, *, chat_template, **_):
        return self._engine.encode_chat([*chat, *([{"role": "x", "content": chat_template}] if chat_template else [])])

    def decode(self, ids, *, skip_special_tokens):
        return self._engine.decode([i for i in ids if i not in self._engine.stops.stop_ids])


def trainer_over(engine: eager.Engine, **changed):
    found = {
        "model": SimpleNamespace(training=True), "num_generations": 4, "num_generations_eval": 2, "temperature": 1.0,
        "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "max_completion_length": 30,
        "args": SimpleNamespace(seed=3), "state": SimpleNamespace(global_step=7), "use_vllm": False, "tools": None,
        "environment_factories": None, "accelerator": SimpleNamespace(process_index=0), "chat_template": None,
        "chat_template_kwargs": {}, "processing_class": Encoder(engine), "is_fsdp_enabled": False,
    }  # fmt: skip
    return SimpleNamespace(**{**found, **changed})


def rollout_on(engine: eager.Engine, **options) -> EagerRollout:
    return EagerRollout(1.5, engine=engine, refresh=lambda *_: None, **options)


def repeated(prompts, n: int):
    return [prompt for prompt in prompts for _ in range(n)]


def test_as_many_completions_as_prompts_in_their_order():
    """Each with its own prompt's ids and a log-probability for every token; nothing else is said under `sample`."""
    engine = ScriptedEngine()
    found = rollout_on(engine)(repeated(CHATS, 4), trainer_over(engine))
    assert set(found) == {"prompt_ids", "completion_ids", "logprobs"}
    assert found["prompt_ids"] == repeated(list(map(engine.encode_chat, CHATS)), 4)
    assert [len(ids) for ids in found["completion_ids"]] == [len(row) for row in found["logprobs"]]
    assert all(logprob <= 0 for row in found["logprobs"] for logprob in row)
    assert all(found["completion_ids"])


def test_texts_are_encoded_as_they_are():
    """A data set of plain prompts is not put into a chat."""
    engine = ScriptedEngine()
    trainer = trainer_over(engine, chat_template="of training")
    texts = [chat[0]["content"] for chat in CHATS]
    assert rollout_on(engine)(repeated(texts, 4), trainer)["prompt_ids"][0] == engine.encode_chat(CHATS[0])
    assert rollout_on(engine)(repeated(CHATS, 4), trainer)["prompt_ids"][0] != engine.encode_chat(CHATS[0])


def test_every_call_and_every_process_draws_anew():
    """The same prompts at the same step give other completions; the same call of the same run gives the same."""
    engine = ScriptedEngine()
    draws = {}
    for name, index in (("a", 0), ("again", 0), ("other process", 1)):
        rollout = rollout_on(engine)
        trainer = trainer_over(engine, accelerator=SimpleNamespace(process_index=index))
        draws[name] = [rollout(repeated(CHATS, 4), trainer)["completion_ids"] for _ in range(2)]
    assert draws["a"] == draws["again"]
    assert draws["a"][0] != draws["a"][1] != draws["other process"][1] != draws["other process"][0]


def test_evaluation_draws_independent_samples():
    """As many as it wants there; they are no trees, are not graded, and do not count as training's."""
    engine, graded = ScriptedEngine(), []
    rollout = rollout_on(engine, grader=lambda prompt, text: graded.append(prompt))
    trainer = trainer_over(engine, model=SimpleNamespace(training=False))
    found = rollout(repeated(CHATS, 2), trainer)
    assert len(found["completion_ids"]) == 6
    assert (rollout.n_tokens, rollout.n_sequences, graded) == (0, 0, [])


def test_the_grader_sees_prompts_of_the_data_set_and_plain_texts():
    """Without the stop token; what it says decides who gets the saved budget."""
    engine, seen = ScriptedEngine(), []

    def grade(prompt, text):
        seen.append((prompt, text))
        return prompt is not CHATS[1]

    rollout = rollout_on(engine, grader=grade)
    rollout(repeated(CHATS, 4), trainer_over(engine))
    assert {id(prompt) for prompt, _ in seen} == set(map(id, CHATS))
    assert not any("<end>" in text for _, text in seen)
    assert rollout.n_sequences <= 12
    assert rollout.n_tokens > 0


def test_forced_tokens_are_flagged_and_kept_out_of_the_loss():
    """`top2`: whatever is forced is masked, and all that is masked stands at a branch."""
    engine = ScriptedEngine()
    found = rollout_on(engine, branch_rule="top2")(repeated(CHATS, 4), trainer_over(engine))
    flags = [list(zip(*pair, strict=True)) for pair in zip(found["eager_forced"], found["env_mask"], strict=True)]
    assert [len(row) for row in flags] == [len(ids) for ids in found["completion_ids"]]
    assert {pair for row in flags for pair in row} == {(False, 1), (True, 0), (False, 0)}


def test_at_another_temperature_there_are_no_log_probabilities():
    """What was drawn from is then not the distribution that they are of, and TRL goes without them."""
    engine = ScriptedEngine()
    for changed in ({"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}):
        assert rollout_on(engine)(repeated(CHATS, 4), trainer_over(engine, **changed))["logprobs"] is None


def test_the_weights_are_brought_up_to_date_before_every_call():
    """An engine that does not follow the training would train on another model's samples."""
    engine, calls = ScriptedEngine(), []
    rollout = EagerRollout(1.5, engine=engine, refresh=lambda *given: calls.append(given))
    trainer = trainer_over(engine)
    for _ in range(2):
        rollout(repeated(CHATS, 4), trainer)
    assert calls == [(engine, trainer)] * 2
    with pytest.raises(IntegrationError, match="give both or neither"):
        EagerRollout(1.5, engine=engine)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"use_vllm": True}, "set use_vllm=False"),
        ({"tools": [print]}, "leave out tools"),
        ({"environment_factories": {None: print}}, "environment_factory"),
        ({"repetition_penalty": 1.1}, "leave it at 1.0"),
    ],
)
def test_what_trees_cannot_do_is_refused(changed, sentence):
    """In a sentence with the remedy."""
    engine = ScriptedEngine()
    with pytest.raises(IntegrationError, match=sentence):
        rollout_on(engine)(repeated(CHATS, 4), trainer_over(engine, **changed))


def test_a_prompt_with_a_picture_is_refused():
    """EAGer's engines take tokens."""
    engine = ScriptedEngine()
    picture = [[{"role": "user", "content": [{"type": "image"}]}]]
    with pytest.raises(IntegrationError, match="text prompts only"):
        rollout_on(engine)(repeated(picture, 4), trainer_over(engine))


@pytest.mark.parametrize("prompts", ["aaabbb", "aabb", "abab"])
def test_groups_that_are_spread_over_processes_are_refused(prompts):
    """Where a process has a part of a group only, its tree would know a part of its budget."""
    with pytest.raises(IntegrationError, match="multiples of the number of generations"):
        grouped(list(prompts), 4)
    assert grouped(list("aaaabbbbaaaa"), 4) == ["a", "b", "a"]
