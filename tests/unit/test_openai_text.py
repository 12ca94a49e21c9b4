"""Text by a server's tokenizer: the template's arguments arrive, stop ids are found or asked for."""

import json

import needs
import pytest

needs.package("stamina", "openai")

from eager.engines import EngineError  # noqa: E402
from eager.engines._openai_faults import RefusalError  # noqa: E402
from eager.engines._openai_probe import Facts  # noqa: E402
from eager.engines._openai_text import ServerText  # noqa: E402
from eager.engines.options_openai import OpenAIOptions  # noqa: E402

CHAT = [{"role": "user", "content": "hello"}]
VOCABULARY = {"<end>": [7], "<eot>": [9], "</think>": [8]}


class Server:
    """Answers as vLLM's does; `asked` is what came."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def __call__(self, path, body):
        self.asked.append((path, body))
        answer = self.answers.get(path.strip("/"))
        if isinstance(answer, Exception):
            raise answer
        if path == "/tokenize" and answer is None:
            return {"tokens": VOCABULARY.get(body.get("prompt"), [1, 2, 3])}
        return answer


def text(server, root="", **options):
    facts = Facts("http://h", 100, 50, "server", True, root)
    return ServerText("m", OpenAIOptions(base_url="http://h", **options), facts, server)


def test_the_template_gets_what_the_options_say():
    """Its variables, and one of the user's own in its place."""
    server = Server()
    made = text(server, stop_token_ids=[2], chat_template_kwargs={"enable_thinking": False}, chat_template="{{ 1 }}")
    assert made.encode_chat(CHAT) == [1, 2, 3]
    path, body = server.asked[-1]
    assert path == "/tokenize"
    assert body["messages"] == CHAT
    assert (body["model"], body["add_generation_prompt"]) == ("m", True)
    assert (body["chat_template_kwargs"], body["chat_template"]) == ({"enable_thinking": False}, "{{ 1 }}")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (RefusalError("answers 400 (System role not supported)"), r"refuses the messages .*System role not supported"),
        (RefusalError("but --trust-request-chat-template is not set"), "start it with --trust-request-chat-template"),
        ({"tokens": []}, "makes an empty prompt"),
        ({"tokens": ["a"]}, "no token ids: give --tokenizer"),
        ({}, "no token ids: give --tokenizer"),
        ([], "no token ids: give --tokenizer"),
    ],
)
def test_a_chat_that_the_server_does_not_encode_is_a_sentence(answer, sentence):
    """Whose template it is, and what to do."""
    server = Server()
    made = text(server, stop_token_ids=[2])
    server.answers["tokenize"] = answer
    with pytest.raises(EngineError, match=sentence):
        made.encode_chat(CHAT)


@pytest.mark.parametrize("answer", [RefusalError("answers 400"), {}, [], {"prompt": 5}])
def test_ids_without_a_text_are_a_sentence(answer):
    """Never an empty text."""
    with pytest.raises(EngineError, match="give --tokenizer FOLDER"):
        text(Server(detokenize=answer), stop_token_ids=[2]).decode([1])


def test_the_end_of_thinking_is_asked_of_the_tokenizer():
    """One token, read as a control token."""
    server = Server()
    assert text(server, stop_token_ids=[2]).stops.thinking_end == (8,)
    assert {"model": "m", "prompt": "</think>", "add_special_tokens": False} in [body for _, body in server.asked]


def test_stop_ids_are_those_that_are_given_or_told():
    """The option; the model's files where they lie here; the server's own word. Nothing is guessed."""
    told = {"tokenizer_config": 1, "eos_token": {"content": "<end>"}}
    assert text(Server(tokenizer_info=told), stop_token_ids=[2, 3]).stops.stop_ids == {2, 3}
    assert text(Server(tokenizer_info=told), root="owner/name").stops.stop_ids == {7}
    for silent in (None, {}, {"eos_token": 5}, {"eos_token": "no such token"}, RefusalError("answers 404")):
        with pytest.raises(EngineError, match=r"does not say what ends a sequence: .*stop_token_ids=\[…\]"):
            text(Server(tokenizer_info=silent))


def test_stop_ids_of_files_are_the_tokenizer_s_and_the_generation_config_s(tmp_path):
    """As engine vllm takes them; a model's config where there is no generation config."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 7]}))
    assert text(Server(), root=str(tmp_path)).stops.stop_ids == {4, 7}
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert text(Server(), root=str(tmp_path)).stops.stop_ids == {5, 7}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EngineError, match="cannot be read as JSON"):
        text(Server(), root=str(tmp_path))
