"""`eager eval-code` as a user types it: on a run's folder, and on result files of the published code."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import needs
import pytest
from children import patched, run_eager, start
from code_checker import CACHE, PROBLEMS, make_checker

from eager.code_eval import Limits, ProblemSet
from eager.store.journal import Journal
from eager.store.records import PromptRecord, SequenceRecord

needs.package("ijson", "report")

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"model_name": "m", "temperature": 0.6, "max_sequences": 4, "seed": 1, "n_prompts": 2}
SETTINGS |= {"data_name": "evalplus/humanevalplus", "engine": "scripted"}


@pytest.fixture(scope="module")
def problems():
    """The first problems; skips where code cannot be graded on this machine."""
    with make_checker(Limits()) as checker:
        return list(checker.problems.problems.values())[:2]


def eval_code(*arguments: object) -> subprocess.CompletedProcess[str]:
    options = ["--problems", PROBLEMS, "--cache_dir", CACHE, "--workers", "2"]
    return run_eager("eval-code", *arguments, *options, environment={"PYTHONPATH": str(ROOT / "src")})


def right(problem) -> str:
    return f"<think>hm</think>\n```python\n{problem.prompt}{problem.canonical_solution}```"


def wrong(problem) -> str:
    return f"```python\n{problem.prompt}    return None\n```"


def record(experiment: str, index: int, problem, *texts: str | None) -> PromptRecord:
    """A finished prompt; None is a sequence that failed."""
    sequences = tuple(
        SequenceRecord(
            (1,), (0.5,), text or "", "stop" if text is not None else "error", error=None if text else "gone"
        )
        for text in texts
    )
    meta = {"task_id": problem.task_id, "entry_point": problem.entry_point}
    return PromptRecord(experiment, index, problem.prompt, "TEMPLATE", None, sequences, meta=meta)


@pytest.fixture
def run_folder(tmp_path, problems) -> Path:
    journal = Journal(tmp_path, SETTINGS)
    first, second = problems
    journal.append(record("eager_init_th2", 0, first, right(first), wrong(first), None))
    journal.append(record("eager_init_th2", 1, second, "I cannot do that."))
    journal.append(record("eager_th2", 1, second, right(second)))
    journal.append(record("eager_th2", 0, first))
    journal.close()
    (tmp_path / "eager_th2.json").write_text('{"as it": "was"}')
    return tmp_path


def test_a_file_that_cannot_be_written_is_a_sentence(run_folder):
    """After minutes of grading, too: the place is named, nothing is shown as a traceback."""
    (run_folder / "eager_th2.code.jsonl").mkdir()
    done = eval_code(run_folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: cannot write '{run_folder / 'eager_th2.code.jsonl'}'")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_waits_for_no_program_and_grades_nothing_in_part(tmp_path, problems, number, code):
    """A program may take a minute: it is ended. The experiment stays as it was, and the sentence says so."""
    first, _ = problems
    endless = f"```python\n{first.prompt}{first.canonical_solution}\nwhile True: pass\n```"
    journal = Journal(tmp_path, {**SETTINGS, "n_prompts": 1})
    journal.append(record("eager_init_th2", 0, first, right(first), endless))
    journal.close()
    before = (tmp_path / "journal.jsonl").read_bytes()
    telling = (
        "import eager.code_eval.sandbox as sandbox\n"
        "run = sandbox.Sandbox.run\n"
        "def tell(self, job, seconds):\n"
        "    if 'while True' in job.text: print('at work', flush=True)\n"
        "    return run(self, job, seconds)\n"
        "sandbox.Sandbox.run = tell"
    )
    process = start(patched(telling, "eval-code", tmp_path, "--problems", PROBLEMS, "--cache_dir", CACHE))
    assert process.stdout.readline() == "at work\n"
    time.sleep(0.5)  # so that it is being run
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert stderr.splitlines()[-1].startswith("stopped; no experiment is graded in part")
    assert "Traceback" not in stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"journal.jsonl": before, ".lock": b""}


def test_stopped_while_it_writes_it_writes_to_the_end(tmp_path, problems):
    """The grades of an experiment are many lines and two files: they are all there, or none is."""
    first, second = problems
    journal = Journal(tmp_path, SETTINGS)
    journal.append(record("eager_init_th2", 0, first, right(first), wrong(first)))
    journal.append(record("eager_init_th2", 1, second, right(second)))
    journal.close()
    slowly = (
        "import time, eager.store.journal as journal\n"
        "append = journal.Journal.append_grades\n"
        "def slow(*arguments):\n"
        "    append(*arguments); print('writing', flush=True); time.sleep(0.5)\n"
        "journal.Journal.append_grades = slow"
    )
    process = start(patched(slowly, "eval-code", tmp_path, "--problems", PROBLEMS, "--cache_dir", CACHE))
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    records = list(Journal(tmp_path).records("eager_init_th2"))
    assert [[s.correct for s in record.sequences] for record in records] == [[True, False], [True]]
    assert (tmp_path / "eager_init_th2.code.jsonl").is_file()


def test_what_is_kept_once_is_made_anew_where_part_of_it_is_gone(tmp_path, problems):
    """A cache that somebody tidied: without the expected answers every program would seem to fail."""
    first, _ = problems
    with make_checker(Limits()) as checker:
        problem_set = ProblemSet(PROBLEMS, tmp_path)
        expected = problem_set.expected(first, checker._sandbox)
        expected.key.unlink()
        assert problem_set.expected(first, checker._sandbox).key.is_file()
        times = expected.key.with_name(expected.key.name.replace(".key.json.gz", ".times.json"))
        times.write_text("{}")
        assert problem_set.expected(first, checker._sandbox).seconds.keys() == {"base", "plus"}


def test_a_thought_that_the_prompt_began_and_nobody_ended_holds_no_answer(tmp_path, problems):
    """Templates of reasoning models end in <think>: code before </think> is a draft, code after it the answer."""
    first, _ = problems
    code = f"```python\n{first.prompt}{first.canonical_solution}```"
    journal = Journal(tmp_path, {**SETTINGS, "n_prompts": 1})
    item = record("parallel", 0, first, code, f"hm</think>{code}")
    journal.append(replace(item, prompt_text="<|im_start|>assistant\n<think>\n"))
    journal.close()
    assert eval_code(tmp_path).returncode == 0
    assert [s.correct for s in Journal(tmp_path).read("parallel", 0).sequences] == [False, True]


def test_a_run_is_graded_in_its_journal_and_its_files(run_folder):
    """Labels for a later run, scores in the result files, why in the sidecar, the original kept once."""
    done = eval_code(run_folder)
    assert done.returncode == 0, done.stderr
    journal = Journal(run_folder)
    assert [s.correct for s in journal.read("eager_init_th2", 0).sequences] == [True, False, None]
    assert [s.answer for s in journal.read("eager_th2", 1).sequences] == ["1"]
    result = json.loads((run_folder / "eager_th2.json").read_text())
    assert result["results"]["pass_at_1"] == 1.0
    assert [p["extracted_answers"] for p in result["entropy-aware-generations"]] == ["['1', '0', '']", "['0', '1']"]
    samples = [json.loads(line) for line in (run_folder / "eager_th2.code.jsonl").read_text().splitlines()]
    assert [(s["task"], s["sequence"], s["plus"], s["reason"]) for s in samples] == [
        ("HumanEval/0", 0, True, None),
        ("HumanEval/0", 1, False, "wrong output"),
        ("HumanEval/1", 0, False, "no code"),
        ("HumanEval/1", 1, True, None),
    ]
    assert [(s["evalplus_base"], s["evalplus_plus"]) for s in samples] == [(s["base"], s["plus"]) for s in samples]
    assert "EvalPlus" in done.stdout
    assert eval_code(run_folder).returncode == 0
    assert (run_folder / "eager_th2.json.before-eval").read_text() == '{"as it": "was"}'


def test_one_experiment_brings_what_it_builds_on(run_folder):
    """`eager` without grades for its `eager_init` sequences would be half graded."""
    assert eval_code(run_folder, "--experiment", "eager_th2").returncode == 0
    assert Journal(run_folder).read("eager_init_th2", 0).sequences[0].correct is True
    unknown = eval_code(run_folder, "--experiment", "parallel")
    assert unknown.returncode == 1
    assert "no experiment 'parallel': choose from eager_init_th2, eager_th2" in unknown.stderr


def test_an_experiment_that_lists_graded_sequences_follows_them(run_folder):
    """`eager` was not asked for: its own sequences stay ungraded, those of its `eager_init` have their grades."""
    assert eval_code(run_folder, "--experiment", "eager_init_th2").returncode == 0
    prompts = json.loads((run_folder / "eager_th2.json").read_text())["entropy-aware-generations"]
    assert [prompt["correct"] for prompt in prompts] == [[True, False, None], [False, None]]
    assert (run_folder / "eager_th2.json.before-eval").read_text() == '{"as it": "was"}'
    assert not (run_folder / "eager_th2.code.jsonl").exists()


def test_published_files_are_matched_by_their_prompts(tmp_path, problems):
    """Keys before and after the list, template and prompt in the generations; what is no problem stays ungraded."""
    first, _ = problems
    template = f"<|im_start|>user\n{first.prompt}<|im_end|>\n<|im_start|>assistant\n"
    texts = [template + right(first), template + wrong(first)]
    entry = {"prompt": first.prompt, "generated_sequences": 2, "target": "1", "extracted_answers": "['', '']"}
    entry |= {"generations": texts, "entropies": ["[0.1]", "[0.1]"], "recorded_branches": []}
    other = {**entry, "prompt": "1 + 1?", "generations": ["2", "3"]}
    head = {"params": {"model_name": "m", "entropy_threshold": 2.5, "data_name": "evalplus/humanevalplus"}}
    data = {**head, "entropy-aware-generations": [entry, other], "results": {"avg_acc": 0.0, "kept": 7}}
    path = tmp_path / "m_aware_results__th2.5.json"
    path.write_text(json.dumps(data))
    done = eval_code(tmp_path)
    assert done.returncode == 1
    assert f"'{path}', prompt 1 is none of the problems: left ungraded" in done.stderr
    graded = json.loads(path.read_text())
    assert graded["params"] == data["params"]
    assert graded["results"]["avg_acc"] == 0.5
    assert graded["results"]["kept"] == 7
    assert graded["entropy-aware-generations"][0]["extracted_answers"] == "['1', '0']"
    assert graded["entropy-aware-generations"][0]["generations"] == texts
    assert graded["entropy-aware-generations"][1] == other
    assert json.loads(path.with_name(path.name + ".before-eval").read_text()) == data


def test_a_folder_that_cannot_be_graded_is_one_sentence(tmp_path, problems):
    """Empty, cut short, or of another benchmark; what is there stays as it was."""
    assert "holds no results" in eval_code(tmp_path).stderr
    path = tmp_path / "parallel.json"
    path.write_text('{"default-generations": [{"prompt": "1 + 1?", "generations": ["2"]}')
    done = eval_code(tmp_path)
    assert done.returncode == 1
    assert "cut short" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.before-eval"))
    Journal(tmp_path, SETTINGS).close()
    assert "holds no HumanEval+ prompt" in eval_code(tmp_path).stderr


def test_a_damaged_journal_line_does_not_keep_the_rest_from_being_graded(run_folder):
    """It is set aside and said; everything that is whole is graded."""
    path = run_folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"hm", b"ha", 1), *lines[2:]]))
    done = eval_code(run_folder)
    assert done.returncode == 1
    assert "line 2: damaged, moved to journal.damaged; eager run" in done.stderr
    assert "wrote" in done.stdout
    assert [s.correct for s in Journal(run_folder).read("eager_th2", 1).sequences] == [True]
    again = eval_code(run_folder)
    assert "damaged" not in again.stderr


def test_one_folder_does_not_keep_the_others_from_being_graded(tmp_path, run_folder):
    """Rows of several folders say whose they are; what is wrong with one is said at the end."""
    foreign = run_folder.parent / "foreign"
    foreign.mkdir()
    (foreign / "journal.jsonl").write_text("a diary\nwithout an end")
    done = eval_code(foreign, run_folder)
    assert done.returncode == 1
    assert f"{run_folder.name}/eager_init_th2" in done.stdout
    assert "not how a journal of eager begins" in done.stderr
    assert "moved out of the folder, it leaves the result files to be graded" in done.stderr
    assert (foreign / "journal.jsonl").read_text() == "a diary\nwithout an end"
