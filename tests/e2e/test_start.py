"""How a run finds its folder: a new one for each, none left by a start that fails, and nowhere by accident."""

import shutil
import subprocess

import pytest
from children import patched, run_eager, scripted_run
from click.testing import CliRunner

from eager.cli import main, place
from eager.store.journal import Journal


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of a run over 5 problems on the scripted engine, without --output_dir."""
    return scripted_run(tmp_path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("output", [[], ["--output_dir", "a/b"]])
def test_a_start_that_fails_leaves_nothing(here, arguments, output):
    """No empty folder, which `eager recap outputs/M/D/*` would meet; folders that were there stay."""
    done = run_eager(*arguments, "--model_name", "no such", *output)
    assert done.returncode == 1
    assert list(here.iterdir()) == []
    (here / "a" / "b").mkdir(parents=True)
    run_eager(*arguments, "--model_name", "no such", *output)
    assert [path.name for path in here.rglob("*")] == ["a", "b"]


def test_a_start_that_fails_leaves_what_was_there(here, arguments):
    """The journal of a run that finished something is none of what a failed start has made."""
    assert run_eager(*arguments, "--output_dir", "out").returncode == 0
    before = (here / "out" / "journal.jsonl").read_bytes()
    (here / "out" / "parallel.json").unlink()
    assert run_eager(*arguments, "--output_dir", "out", "--experiments", "eager_adapt").returncode == 1
    assert (here / "out" / "journal.jsonl").read_bytes().startswith(before)


def test_runs_that_start_in_one_second_have_a_folder_each(here, arguments):
    """Three at once, with the clock held: all of them finish, none in another's folder."""
    clock = "import eager.cli.place\neager.cli.place._timestamp = lambda: 'now'"
    runs = [subprocess.Popen(patched(clock, *arguments), stdout=subprocess.PIPE) for _ in range(3)]
    said = [run.communicate(timeout=60)[0].decode().splitlines()[-1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    folders = [f"outputs/chain/mine/{name}" for name in ("now", "now_2", "now_3")]
    assert sorted(said) == [f"results in {folder}" for folder in folders]
    assert all(Journal(here / folder).count("parallel") == 5 for folder in folders)


def test_an_error_in_a_folder_of_its_own_names_the_folder(here, arguments):
    """The same command alone would begin anew, in another one."""
    done = run_eager(*arguments, "--capacity", "2", environment={"EAGER_SCRIPTED_FAIL_AFTER": "100"})
    (folder,) = (here / "outputs" / "chain" / "mine").iterdir()
    assert done.returncode == 1
    place = folder.relative_to(here)
    assert done.stderr.splitlines()[-1].endswith(f"; the same command with --output_dir {place} goes on from here")
    assert run_eager(*arguments, "--output_dir", place).returncode == 0


def test_many_runs_never_share_a_new_folder(tmp_path):
    """The folder is made in the same act in which it is claimed."""
    names = [place.new_folder(tmp_path / "a" / "then").name for _ in range(4)]
    assert names == ["then", "then_2", "then_3", "then_4"]


@pytest.mark.parametrize(
    ("model", "data", "folder"),
    [
        ("Qwen/Qwen3-4B", "opencompass/AIME2025", "Qwen3-4B/AIME2025"),
        ("owner/repo:Q4", "mine", "repo_Q4/mine"),
        ("..", "a/..", "{parent}/{here}"),
        (".", ".", "{here}/{here}"),
    ],
)
def test_the_default_folder_is_below_outputs(here, model, data, folder):
    """Whatever the names are: the last components, and never one that leads upwards."""
    expected = folder.format(here=here.name, parent=here.parent.name)
    assert str(place.default_folder(model, data).parent) == f"outputs/{expected}"


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        ("", "it is empty, as an unset variable is: give one, or leave the option out"),
        (
            "~no-such-user/out",
            "no home folder is known for '~no-such-user': write the path out, or ./~no-such-user/out",
        ),
        ("a\0b", "holds a NUL character"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["run", "--model_name", "chain", "--data_name", "demo", "--output_dir"],
        ["run", "--model_name", "chain", "--data_name", "demo", "--data_path"],
        ["run", "--model_name", "chain", "--data_name", "demo", "--chat_template"],
        ["run", "--data_name", "demo", "--model_name"],
        ["recap"],
        ["report"],
        ["report", ".", "--output"],
        ["eval-code"],
        ["eval-code", ".", "--problems"],
        ["eval-code", ".", "--cache_dir"],
        ["eval-code", ".", "--evalplus_python"],
    ],
)
def test_a_path_that_can_be_none_is_bad_usage(here, command, given, fragment):
    """In every command and option that takes one: a sentence, exit code 2, and nothing made."""
    done = CliRunner().invoke(main, [*command, given])
    assert done.exit_code == 2, done.output
    assert fragment in " ".join(done.stderr.split())
    assert list(here.iterdir()) == []


def test_a_home_folder_is_found_where_shells_leave_it(here, arguments, monkeypatch):
    """--output_dir=~/out is below the home folder, not below a folder called ~; --data_path=~/… is read from there."""
    data = arguments[arguments.index("--data_path") + 1]
    shutil.move(data, here / "p.csv")
    options = ["--output_dir=~/out", "--data_path=~/p.csv"]
    done = run_eager(*arguments, *options, environment={"HOME": str(here)})
    assert done.returncode == 0, done.stderr
    assert (here / "out" / "parallel.json").is_file()
    assert not (here / "~").exists()
    assert run_eager("recap", "~/out", environment={"HOME": str(here)}).returncode == 0


def test_the_number_of_problems_stays(here, arguments):
    """Another --limit is refused by its name, and costs nothing; the same one goes on."""
    out = ["--output_dir", "out"]
    assert run_eager(*arguments, *out, "--limit", "3").returncode == 0
    before = (here / "out" / "journal.jsonl").read_bytes()
    for limit, number in (["--limit", "4"], 4), ([], 5), (["--limit", "2"], 2):
        done = run_eager(*arguments, *out, *limit)
        assert done.returncode == 1
        assert f"'out' was begun with 3 prompts, now there are {number}: give the --limit" in done.stderr
    assert (here / "out" / "journal.jsonl").read_bytes() == before
    assert run_eager(*arguments, *out, "--limit", "3").returncode == 0


def test_a_larger_limit_elsewhere_answers_the_first_problems_alike(here, arguments):
    """Draws come from (seed, prompt, sequence, position): another folder loses no comparability."""
    for limit, folder in (("2", "small"), ("5", "large")):
        assert run_eager(*arguments, "--output_dir", folder, "--limit", limit).returncode == 0
    small, large = (list(Journal(here / folder).records("parallel")) for folder in ("small", "large"))
    assert [record.sequences for record in small] == [record.sequences for record in large[:2]]


def test_recap_over_a_glob_passes_over_empty_folders(here, arguments):
    """What a run that was killed at its start left is noticed, not a failure; alone it is one."""
    assert run_eager(*arguments, "--output_dir", "whole").returncode == 0
    (here / "empty").mkdir()
    assert run_eager(*arguments, "--output_dir", "begun").returncode == 0
    journal = here / "begun" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    (here / "begun" / "parallel.json").unlink()
    done = run_eager("recap", "begun", "empty", "whole")
    assert (done.returncode, done.stderr) == (0, "")
    assert "'empty' holds no results: left out" in done.stdout
    assert "'begun' holds no results: left out" in done.stdout
    assert run_eager("recap", "empty").returncode == 1
    (here / "empty" / "parallel.json").write_text("no JSON")
    assert run_eager("recap", "empty", "whole").returncode == 1
