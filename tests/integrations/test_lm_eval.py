"""lm-evaluation-harness runs a task of its own making with EAGer as the model, on local data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import needs
import pytest

needs.package("lm_eval", "lm-eval")

import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

import eager  # noqa: E402
from eager.engines.scripted import ScriptedEngine  # noqa: E402
from eager.errors import EagerError  # noqa: E402
from eager.integrations.lm_eval import EagerLM  # noqa: E402

TASK = """
task: local_sums
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["<|im_end|>"]
  max_gen_toks: 40
filter_list:
  - name: boxed
    filter:
      - function: regex
        regex_pattern: "boxed{{([0-9]+)}}"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
QUESTIONS = ("How many are left?", "Why?", "How many come?", "Which is larger?")


def evaluated(folder: Path, **options: Any) -> dict[str, Any]:
    """The result of lm-eval's own loop over its own kind of task; the second answer is right."""
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": q, "answer": "2"}) + "\n" for q in QUESTIONS))
    (folder / "local_sums.yaml").write_text(TASK.format(data=data))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    given = {"engine": "scripted", "model_name": "chain", "entropy_threshold": 1.5, "temperature": 1.0, **options}
    return lm_eval.simple_evaluate(
        model="eager", model_args=given, tasks=["local_sums"], task_manager=manager,
        apply_chat_template=True, bootstrap_iters=0,
    )  # fmt: skip


def test_a_task_is_answered_by_majority(tmp_path, monkeypatch):
    """The figure is that of the votes of `import eager` on the same prompts."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    found = evaluated(tmp_path)
    rules = eager.BranchingParams(8, 1.5)
    sampling = eager.SamplingParams(temperature=1.0)
    engine = ScriptedEngine()
    trees = eager.generate(QUESTIONS, engine=engine, branching=rules, sampling=sampling, max_tokens=40)
    votes = [eager.vote(tree).answer for tree in eager.allocate(trees, engine=engine)]
    assert found["results"]["local_sums"]["exact_match,boxed"] == sum(v == "2" for v in votes) / len(votes)
    assert len(found["samples"]["local_sums"]) == len(QUESTIONS)


def request(context: str, **kwargs: Any) -> SimpleNamespace:
    return SimpleNamespace(args=(context, kwargs))


def model(**options: Any) -> EagerLM:
    return EagerLM(ScriptedEngine(), entropy_threshold=1.5, temperature=1.0, **options)


def test_answers_stand_in_the_order_of_the_requests():
    """Also where these allow different numbers of tokens."""
    requests = [request(text, max_gen_toks=n) for text, n in zip(QUESTIONS, (30, 3, 30, 3), strict=True)]
    answers = model().generate_until(requests, disable_tqdm=True)
    lengths = [len(answer) for answer in answers]
    assert min(lengths[0], lengths[2]) > max(lengths[1], lengths[3]) > 0


def test_an_answer_ends_before_the_first_stop():
    """`until`, a text or a list of them."""
    for until in ("is", ["then", "is"]):
        (answer,) = model(select="first").generate_until([request(QUESTIONS[0], until=until)], disable_tqdm=True)
        assert "is" not in answer


def test_the_first_answer_is_that_of_the_trees_first_sequence():
    """What a plain sample would have been under `sample`."""
    asked = [request(text) for text in QUESTIONS]
    plain = EagerLM(ScriptedEngine(), max_sequences=1, temperature=1.0, select="first", adapt=False)
    tree = model(select="first", branch_rule="sample")
    assert tree.generate_until(asked, disable_tqdm=True) == plain.generate_until(asked, disable_tqdm=True)


def test_a_chat_comes_through_as_it_is():
    """The engine's own template is applied, not a text of it that is encoded again."""
    found = model()
    chat = [{"role": "user", "content": "Why “so”?"}, {"role": "assistant", "content": "x"}]
    answer = found.generate_until([request(found.apply_chat_template(chat))], disable_tqdm=True)
    rules, sampling = eager.BranchingParams(8, 1.5), eager.SamplingParams(temperature=1.0)
    (tree,) = eager.generate([chat], engine=ScriptedEngine(), branching=rules, sampling=sampling, max_tokens=512)
    assert answer[0] in {sequence.text for sequence in tree.sequences}


@pytest.mark.parametrize("what", ["loglikelihood", "loglikelihood_rolling", "prefix", "select"])
def test_what_it_cannot_do_is_refused(what):
    """In a sentence."""
    uses = {
        "loglikelihood": (lambda: model().loglikelihood([]), "choose tasks with output_type generate_until"),
        "loglikelihood_rolling": (lambda: model().loglikelihood_rolling([]), "has no log-likelihoods"),
        "prefix": (lambda: model().apply_chat_template([], add_generation_prompt=False), "begins the answer itself"),
        "select": (lambda: model(select="best"), "majority or first, not 'best'"),
    }
    use, sentence = uses[what]
    with pytest.raises(EagerError, match=sentence):
        use()
