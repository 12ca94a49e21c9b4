"""`eager run` as a user types it, on the scripted engine: results, going on, and bad input."""

import ast
import json
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from children import EAGER, run_eager, start

from eager.store.journal import Journal

THRESHOLD = ["--entropy_threshold", "1.5"]
FIXED = ["--threshold_percentile", "none"]
BASE = ["--engine", "scripted", "--model_name", "chain", "--max_sequences", "6", *FIXED, *THRESHOLD]
NAMES = ["parallel", "eager_init_th1.5", "eager_adapt_th1.5", "eager_th1.5"]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """A local file of 12 problems; the scripted model answers 1, 2 or 3."""
    path = tmp_path / "problems.csv"
    rows = [f"how many {'y ' * (i % 7)}?,{1 + i % 3}" for i in range(12)]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n")
    return ["--data_name", "mine", "--data_path", str(path), "--prompt_field", "question", "--target_field", "answer"]


def run(*arguments, **options):
    return run_eager("run", *arguments, **options)


def wait_for(path: Path, process: subprocess.Popen):
    """Until the file is there, or the process that should write it has ended."""
    while process.poll() is None and not path.exists():
        time.sleep(0.02)


def without_times(path: Path):
    content = json.loads(path.read_text())
    del content["extra"]["generation_time_so_far (s)"]
    return content


def test_all_four_experiments(tmp_path, data):
    """One command gives four result files in the documented form, a table, and the folder's name."""
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", "--notes", "first try")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*NAMES, "Pass@k", "Cons@k", "saved", str(tmp_path / "out")))
    results = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in NAMES}
    for name, result in results.items():
        assert result["status"] == {
            "state": "COMPLETED",
            "completed_sequences": 12,
            "total_sequences": 12,
            "progress": "12/12",
        }
        assert result["extra"]["notes"] == "first try"
        entries = result["default-generations" if name == "parallel" else "entropy-aware-generations"]
        assert [entry["prompt_index"] for entry in entries] == list(range(12))
        for entry in entries:
            n = entry["generated_sequences"]
            answers = ast.literal_eval(entry["extracted_answers"])
            assert n == len(answers) == len(entry["generations"]) == len(entry["entropies"]) == len(entry["correct"])
            for branch in map(ast.literal_eval, entry["recorded_branches"]):
                entropies = ast.literal_eval(entry["entropies"][branch["new_seq_idx"]])
                assert entropies[: branch["gen_step"]] == [-1] * branch["gen_step"]
                assert entropies[branch["gen_step"]] == pytest.approx(branch["entropy"], abs=1e-4)
                assert len(branch["last_generated_chars"]) == 50
                assert branch["last_generated_chars"] in entry["generations"][branch["new_seq_idx"]]
            if name == "parallel":
                assert all(0 <= entropy < 3 for text in entry["entropies"] for entropy in ast.literal_eval(text))
    total = {name: result["extra"]["sequences"] for name, result in results.items()}
    assert total["parallel"] == 72
    assert total["eager_init_th1.5"] < min(total["eager_adapt_th1.5"], total["eager_th1.5"]) <= 72
    assert total["eager_adapt_th1.5"] <= 72
    unsolved = [True not in e["correct"] for e in results["eager_init_th1.5"]["entropy-aware-generations"]]
    for index, entry in enumerate(results["eager_th1.5"]["entropy-aware-generations"]):
        first = results["eager_init_th1.5"]["entropy-aware-generations"][index]
        assert entry["generations"][: first["generated_sequences"]] == first["generations"]
        assert unsolved[index] or entry["generated_sequences"] == first["generated_sequences"]


def test_a_torn_last_line_is_cut(tmp_path, data):
    """What a crash left half written is dropped; the run goes on and the file is whole again."""
    run(*BASE, *data, "--output_dir", tmp_path / "out", "--experiments", "parallel")
    journal = tmp_path / "out" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-200])
    assert run(*BASE, *data, "--output_dir", tmp_path / "out", "--experiments", "parallel").returncode == 0
    assert len(Journal(tmp_path / "out").prompts("parallel")) == 12


@pytest.mark.parametrize("thresholds", ["1.5,2.0", "[1.5, 2.0]"])
def test_several_thresholds_in_one_command(tmp_path, data, thresholds):
    """Each threshold makes its own experiments; a list as the published code takes it is one, too."""
    done = run(
        *BASE[:-2],
        *data,
        "--entropy-threshold",
        thresholds,
        "--experiments",
        "eager_init,eager_adapt",
        "--output-dir",
        tmp_path / "o",
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "o").glob("*.json")}
    assert names == {f"{kind}_th{th}.json" for kind in ("eager_init", "eager_adapt") for th in ("1.5", "2")}


def test_parallel_is_not_monitored_without_entropies(tmp_path, data):
    """--no-entropies leaves parallel's out and changes nothing else of what it generates."""
    found = []
    for entropies in ("--entropies", "--no-entropies"):
        folder = tmp_path / entropies
        run(*BASE, *data, "--output_dir", folder, "--experiments", "parallel", entropies)
        found.append(json.loads((folder / "parallel.json").read_text())["default-generations"])
    assert [entry["generations"] for entry in found[0]] == [entry["generations"] for entry in found[1]]
    assert {e for entry in found[1] for text in entry["entropies"] for e in ast.literal_eval(text)} == {-2.0}


def test_the_threshold_rises_unless_told_otherwise(tmp_path, data):
    """By default the threshold is a floor under the tree's 99th percentile: no branch lacks it, some exceed it."""
    done = run(*BASE[:-4], *THRESHOLD, *data, "--output_dir", tmp_path / "out", "--experiments", "eager_init")
    assert done.returncode == 0, done.stderr
    records = list(Journal(tmp_path / "out").records("eager_init_th1.5"))
    thresholds = [branch.threshold for record in records for branch in record.branches]
    assert min(thresholds) == 1.5 < max(thresholds)


def test_progress_is_plain_lines_without_a_terminal(tmp_path, data):
    """No control characters reach a file or a pipe."""
    done = run(*BASE, *data, "--output_dir", tmp_path / "out")
    assert "\x1b" not in done.stdout + done.stderr


# -- bad input: one sentence, the right code, no traceback, nothing lost --------------------------------------------


def assert_sentence(done, code, *fragments):
    """It ended as bad input must."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    text = " ".join(done.stderr.split())
    for fragment in fragments:
        assert fragment in text, text


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["--engine", "vlm"], ["unknown engine 'vlm'", "choose from"]),
        (["--experiments", "eager_max"], ["eager_max", "eager_init"]),
        (["--colour", "red"], ["--colour"]),
        (["--temperature", "0"], ["temperature must be in [1e-05, 100000], got 0.0"]),
        (["--max_sequences", "0"], ["0", "max_sequences"]),
        (["--entropy_threshold", "3.0"], ["must be in (0, ln 20", "3"]),
        (["--entropy_threshold", "0"], ["must be in (0, ln 20"]),
        (["--entropy_threshold", "much"], ["much"]),
        (["--top_p", "1.5"], ["top_p must be in (0, 1]"]),
        (["--threshold_percentile", "101"], ["threshold_percentile"]),
        (["--threshold_percentile", "most"], ["threshold_percentile", "most"]),
        (["--prompt_field", "problem"], ["'problem'", "question"]),
        (["--quantization", "fp8"], ["engine scripted has no option quantization", "it has max_model_len, capacity"]),
        (["--engine_option", "capcity=4"], ["engine scripted has no option capcity (did you mean capacity?)"]),
        (["--capacity", "0"], ["capacity must be a whole number from 1 to 65536, got 0"]),
        (["--temperature", "nan"], ["'nan' is not a finite number"]),
        (["--chat_template_kwargs", "{}"], ["engine scripted has no option chat_template_kwargs"]),
        (["--chat_template", "/nowhere"], ["'/nowhere' cannot be read"]),
        (["--limit", "0"], ["limit"]),
    ],
)
def test_bad_usage(tmp_path, data, arguments, fragments):
    """Names the culprit and the remedy, with exit code 2, and leaves no folder behind."""
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", *arguments)
    assert_sentence(done, 2, *fragments)
    assert not (tmp_path / "out").exists()


def test_unknown_data():
    """An unknown task is answered with the one that was probably meant."""
    assert_sentence(run(*BASE, "--data_name", "openai/gsm9k"), 2, "'openai/gsm9k'", "did you mean openai/gsm8k?")


def test_math_verify_is_missed_before_the_model_is_loaded(tmp_path, data):
    """A run that could not compare its answers later says so at once."""
    blocker = tmp_path / "blocked"
    blocker.mkdir()
    (blocker / "math_verify.py").write_text("raise ImportError('No module named math_verify')")
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", environment={"PYTHONPATH": str(blocker)})
    assert_sentence(done, 1, "Math-Verify does not run here", "pip install 'eager-gen[math]'")
    assert "loading" not in done.stderr


def test_unknown_model(tmp_path, data):
    """The engine says which models it knows."""
    done = run(*BASE, *data, "--model_name", "chian", "--output_dir", tmp_path / "out")
    assert_sentence(done, 1, "does not know model 'chian'", "choose from chain")


@pytest.mark.parametrize("kind", ["eager_adapt", "eager"])
def test_extra_experiments_need_an_init(tmp_path, data, kind):
    """They say which experiment to run first."""
    done = run(*BASE, *data, "--experiments", kind, "--output_dir", tmp_path / "out")
    assert_sentence(done, 1, "run --experiments eager_init into the same folder first")


def test_an_init_at_another_threshold_is_listed(tmp_path, data):
    """Who asks for a threshold that the folder lacks is told which it has."""
    out = ["--output_dir", tmp_path / "out"]
    done = run(*BASE[:-2], "--entropy_threshold", "1.5,2.1234561,2.1234562", *data, *out, "--experiments", "eager_init")
    assert done.returncode == 0, done.stderr
    done = run(*BASE[:-2], "--entropy_threshold", "2", *data, *out, "--experiments", "eager")
    assert_sentence(done, 1, "has no finished eager_init_th2 (it has those of threshold 1.5, 2.1234561, 2.1234562)")


def test_eager_needs_grades(tmp_path, data):
    """Without targets, the experiment with labels says what to do, and what was finished before is kept."""
    done = run(*BASE, *data[:-2], "--output_dir", tmp_path / "out")
    assert_sentence(done, 1, "nothing in eager_init_th1.5 is graded", "eager_adapt")
    assert (tmp_path / "out" / "eager_adapt_th1.5.json").exists()
    assert "eager_adapt_th1.5" in done.stdout
    assert "ungraded" in done.stdout


def test_a_prompt_without_a_target_gets_nothing_of_the_saved_budget(tmp_path, data):
    """Ungraded is not unsolved: with labels the budget goes to prompts that are known to lack a correct answer."""
    path = Path(data[3])
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], rows[1].rsplit(",", 1)[0] + ",", *rows[2:]]) + "\n")
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", "--experiments", "eager_init,eager")
    assert done.returncode == 0, done.stderr
    extra = {record.prompt_index: len(record.sequences) for record in Journal(tmp_path / "out").records("eager_th1.5")}
    assert extra[0] == 0 < sum(extra.values())


def test_other_settings_are_refused(tmp_path, data):
    """A folder is continued only under its own settings; the first that differs is named."""
    run(*BASE, *data, "--output_dir", tmp_path / "out", "--experiments", "parallel")
    before = (tmp_path / "out" / "journal.jsonl").read_bytes()
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", "--seed", "56")
    assert_sentence(done, 1, "was begun with seed=55, now it is 56", "another --output_dir")
    done = run(*BASE, *data, "--limit", "11", "--output_dir", tmp_path / "out")
    assert_sentence(done, 1, "was begun with 12 prompts, now there are 11: give the --limit")
    assert (tmp_path / "out" / "journal.jsonl").read_bytes() == before


def test_a_folder_is_bound_to_the_system_prompt(tmp_path, data):
    """It changes the prompts, so another is refused; it is in the settings that the result file shows."""
    out = ["--output_dir", tmp_path / "out", "--experiments", "parallel"]
    assert run(*BASE, *data, *out, "--system_prompt", "Be brief.").returncode == 0
    settings = json.loads((tmp_path / "out" / "parallel.json").read_text())["extra"]["settings"]
    assert settings["system_prompt"] == "Be brief."
    done = run(*BASE, *data, *out)
    assert_sentence(done, 1, "was begun with system_prompt='Be brief.', now it is its default")


def test_harmless_options_may_change_between_runs(tmp_path, data):
    """They are noted beside the versions, the last run's count."""
    out = ["--output_dir", tmp_path / "out"]
    assert run(*BASE, *data, *out, "--experiments", "parallel", "--capacity", "7").returncode == 0
    done = run(*BASE, *data, *out, "--experiments", "eager_init", "--engine_option", "tokens_per_step=2")
    assert done.returncode == 0, done.stderr
    assert Journal(tmp_path / "out").about["engine_options"] == {"tokens_per_step": 2}


def test_a_folder_of_the_version_before_goes_on(tmp_path, data):
    """Its settings name none of the options that came later, all of which are at their default."""
    out = ["--output_dir", tmp_path / "out"]
    assert run(*BASE, *data, *out, "--experiments", "parallel").returncode == 0
    settings = Journal(tmp_path / "out").settings
    assert settings.keys() == {
        "model_name", "engine", "dtype", "max_model_len", "data_name", "data_digest", "n_prompts", "instruction",
        "temperature", "top_p", "top_k", "min_p", "max_sequences", "branch_rule", "threshold_percentile",
        "max_tokens_without_branch", "max_tokens", "seed",
    }  # fmt: skip
    assert (settings["dtype"], settings["max_model_len"]) == ("bfloat16", 32768)


def test_a_folder_in_use_is_refused(tmp_path, data):
    """A second process stops at once; the first is not disturbed."""
    slow = {**os.environ, "EAGER_SCRIPTED_SECONDS_PER_STEP": "0.05"}
    command = [*EAGER, "run", *BASE, *data, "--output_dir", str(tmp_path / "out"), "--experiments", "parallel"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=slow)
    wait_for(tmp_path / "out" / "journal.jsonl", first)
    assert_sentence(run(*BASE, *data, "--output_dir", tmp_path / "out"), 1, "is in use by another run")
    first.communicate()
    assert first.returncode == 0


def test_a_folder_that_cannot_be_written(tmp_path, data):
    """A file in the folder's place is named, with the remedy."""
    (tmp_path / "file").write_text("")
    done = run(*BASE, *data, "--output_dir", tmp_path / "file" / "out")
    assert_sentence(done, 1, "cannot write to", "another --output_dir")


def test_a_full_disk_loses_nothing(tmp_path, data):
    """When the disk is full (here: a file-size limit) what is finished stays, and the run goes on later."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))  # noqa: E731 - needed as a callable
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", preexec_fn=limit)
    assert_sentence(done, 1, "cannot write to", "make room and run the same command again")
    n_kept = len(Journal(tmp_path / "out").prompts("parallel"))
    assert n_kept > 0
    assert run(*BASE, *data, "--output_dir", tmp_path / "out").returncode == 0
    assert run(*BASE, *data, "--output_dir", tmp_path / "whole").returncode == 0
    assert without_times(tmp_path / "out" / "parallel.json") == without_times(tmp_path / "whole" / "parallel.json")


def test_an_empty_prompt(tmp_path):
    """The row is named."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"q": "one?"}\n{"q": ""}\n')
    done = run(
        *BASE, "--data_name", "mine", "--data_path", path, "--prompt_field", "q", "--output_dir", tmp_path / "out"
    )
    assert_sentence(done, 2, "row 2", "'q'")


def test_a_prompt_longer_than_the_context(tmp_path):
    """The problem is named with its length, before anything is generated."""
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"q": "short?"}) + "\n" + json.dumps({"q": "word " * 300}) + "\n")
    done = run(
        *BASE, "--data_name", "mine", "--data_path", path, "--prompt_field", "q", "--max_model_len", "200",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert_sentence(done, 1, "problem 1 has 3", "raise --max_model_len")


def test_a_damaged_journal_line_costs_its_prompt_and_no_more(tmp_path, data):
    """It is named and set aside, its prompt is generated anew, and the results are those of an undamaged run."""
    out = ["--output_dir", tmp_path / "out"]
    assert run(*BASE, *data, *out).returncode == 0
    whole = {name: without_times(tmp_path / "out" / f"{name}.json") for name in NAMES}
    journal = tmp_path / "out" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if b'"eager_init_th1.5","prompt_index":3,' in line)
    lines[number] = lines[number].replace(b'"text":"', b'"text":"!', 1)
    journal.write_bytes(b"".join(lines))
    reader = run_eager("recap", tmp_path / "out")
    assert_sentence(reader, 1, f"line {number + 1}: damaged, left out; eager run")
    done = run(*BASE, *data, *out)
    assert done.returncode == 0, done.stderr
    assert f"line {number + 1}: damaged, moved to journal.damaged" in " ".join(done.stderr.split())
    assert (tmp_path / "out" / "journal.damaged").read_bytes() == lines[number]
    assert {name: without_times(tmp_path / "out" / f"{name}.json") for name in NAMES} == whole
    assert run_eager("recap", tmp_path / "out").returncode == 0


def test_a_foreign_journal_is_refused_and_not_touched(tmp_path, data):
    """Its last line has no newline: nothing is cut before it is known whose file it is."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "journal.jsonl").write_text("Dear diary,\ntoday")
    done = run(*BASE, *data, "--output_dir", out)
    assert_sentence(done, 1, "line 1: not how a journal of eager begins", "it stays as it is", "another folder")
    assert (out / "journal.jsonl").read_text() == "Dear diary,\ntoday"


def test_an_old_result_file_is_kept(tmp_path, data):
    """Where the journal did not make it, a copy of it stays, and that is said."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "parallel.json").write_text("an old result")
    done = run(*BASE, *data, "--output_dir", out, "--experiments", "parallel")
    assert done.returncode == 0, done.stderr
    assert (out / "parallel.json.before-run").read_text() == "an old result"
    assert "kept as parallel.json.before-run" in " ".join(done.stderr.split())
    assert run(*BASE, *data, "--output_dir", out, "--experiments", "parallel").returncode == 0
    assert sorted(path.name for path in out.glob("*before*")) == ["parallel.json.before-run"]


def test_recap_reads_a_journal_alone(tmp_path, data):
    """Of a run that was killed before it wrote any result file what is finished is reported."""
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", environment={"EAGER_SCRIPTED_FAIL_AFTER": "16"})
    assert done.returncode == 1
    for path in (tmp_path / "out").glob("*.json"):
        path.unlink()
    recap = run_eager("recap", tmp_path / "out", "--csv")
    assert recap.returncode == 0, recap.stderr
    n_kept = len(Journal(tmp_path / "out").prompts("parallel"))
    assert f"parallel,,n_prompts,{n_kept},,,{n_kept}" in recap.stdout.splitlines()


def test_an_engine_that_breaks_keeps_what_is_finished(tmp_path, data):
    """The sentence of the engine, exit code 1, and the journal holds the finished prompts."""
    done = run(*BASE, *data, "--output_dir", tmp_path / "out", environment={"EAGER_SCRIPTED_FAIL_AFTER": "16"})
    assert_sentence(done, 1, "the scripted engine broke")
    kept = len(Journal(tmp_path / "out").prompts("parallel"))
    assert 0 < kept < 12
    assert run(*BASE, *data, "--output_dir", tmp_path / "out").returncode == 0


def test_interrupted(tmp_path, data):
    """Ctrl-C says how to go on."""
    slow = {**os.environ, "EAGER_SCRIPTED_SECONDS_PER_STEP": "0.2"}
    command = [*EAGER, "run", *BASE, *data, "--output_dir", str(tmp_path / "out")]
    process = start(command, env=slow)
    wait_for(tmp_path / "out" / "journal.jsonl", process)
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert re.search(r"stopped; the same command with --output_dir \S+ goes on from here", stderr)
    assert "Traceback" not in stderr


def test_two_shards_and_their_recap(tmp_path, data):
    """Each shard in its folder; the second step when all have finished the first; one table over both."""
    shared = [*BASE, *data, "--output_dir", tmp_path / "out"]
    for shard in ("1/2", "2/2"):
        done = run(*shared, "--experiments", "parallel,eager_init", "--shard", shard)
        assert done.returncode == 0, done.stderr
    early = run(*shared, "--experiments", "eager", "--shard", "1/3")
    assert early.returncode == 1
    assert "has no finished eager_init_th1.5" in early.stderr
    for shard in ("1/2", "2/2"):
        done = run(*shared, "--experiments", "eager_adapt,eager", "--shard", shard)
        assert done.returncode == 0, done.stderr
    folders = [tmp_path / "out" / f"shard-{number}-of-2" for number in (1, 2)]
    joined = run_eager("recap", *folders, "--json")
    assert joined.returncode == 0, joined.stderr
    whole = run(*BASE, *data, "--output_dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    alone = json.loads(run_eager("recap", tmp_path / "whole", "--json").stdout)
    tables = [json.loads(joined.stdout), alone]
    for table in tables:
        assert [row.pop("seconds") > 0 for row in table["experiments"]] == [True] * 4
    assert tables[0] == tables[1]


def test_a_shard_that_is_stopped_says_how_it_goes_on(tmp_path, data):
    """With the folder of all shards, as it was given."""
    out = tmp_path / "out"
    done = run(*BASE, *data, "--output_dir", out, "--shard", "1/2", "--experiments", "eager_init", "--limit", "9")
    assert done.returncode == 0, done.stderr
    other = run(*BASE, *data, "--output_dir", out, "--shard", "1/2", "--experiments", "eager_init", "--limit", "5")
    assert other.returncode == 1
    assert "begun with 5 prompts, now there are 3" in other.stderr
