"""`eager run --engine openai` as a user types it: through faults, over a stop, and without a word of the key."""

import json
import os
import signal
import time

import needs
import pytest
from children import EAGER, run_eager, start

needs.package("stamina", "openai")

from fake_openai import KEY, MODEL, running  # noqa: E402

NAMES = ["parallel", "eager_init_th1.5", "eager_adapt_th1.5", "eager_th1.5"]
N_PROMPTS = 12
N_OF_PROBE = 40  # requests with which a server is tried at the start, at most


@pytest.fixture
def command(tmp_path):
    """The arguments of a run into `out`, without the address."""
    path = tmp_path / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"{chr(97 + i)}?,1\n" for i in range(N_PROMPTS)))
    data = ["--data_name", "mine", "--data_path", path, "--prompt_field", "question", "--target_field", "answer"]
    rules = ["--max_sequences", 4, "--entropy_threshold", 1.5, "--threshold_percentile", "none", "--max_tokens", 24]
    engine = ["--engine", "openai", "--model_name", MODEL, "--engine_option", "stop_token_ids=[2]"]
    waits = ["--engine_option", "chunk_timeout=0.5", "--engine_option", "first_chunk_timeout=2", "--give_up_after", 1]
    return ["run", *engine, *waits, *data, *rules, "--output_dir", tmp_path / "out", "--base_url"]


def run(command, url):
    return run_eager(*command, url, environment={"EAGER_API_KEY": KEY})


def generations(folder):
    """Of each experiment the texts of each prompt."""
    found = {}
    for name in NAMES:
        result = json.loads((folder / f"{name}.json").read_text())
        assert result["status"]["state"] == "COMPLETED"
        key = "default-generations" if name == "parallel" else "entropy-aware-generations"
        found[name] = [(item["prompt"], item["generations"]) for item in result[key]]
        assert len({prompt for prompt, _ in found[name]}) == len(found[name]) == N_PROMPTS
    return found


def test_a_run_through_faults_gives_what_one_without_gives(tmp_path, command):
    """All experiments, every prompt once, the same texts; and no file and no output holds the key."""
    with running(key=KEY) as one, running(key=KEY) as other:
        done = run(command, f"{one.url},{other.url}")
        assert done.returncode == 0, done.stderr
        expected = generations(tmp_path / "out")
        (tmp_path / "out").rename(tmp_path / "before")
        kinds = ["reset", "hang", "truncated", "garbled", "no finish", 500, 503, "broken engine"]
        for server in (one, other):
            server.faults += [(None, 0)] * N_OF_PROBE + [(kind, i % 7) for i in range(3) for kind in kinds]
        done = run(command, f"{one.url},{other.url}")
        assert done.returncode == 0, done.stderr
        assert not one.faults
    assert generations(tmp_path / "out") == expected
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written
    assert KEY not in done.stdout + done.stderr


def test_a_run_without_its_server_stops_and_goes_on_later(tmp_path, command):
    """Exit code 1, with a sentence that says how to go on; the same command then ends it as if nothing had been."""
    with running(key=KEY) as server:
        assert run(command, server.url).returncode == 0
        expected = generations(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "before")
    leaving = running(key=KEY, seconds_per_token=0.01)
    server = leaving.__enter__()
    child = start([*EAGER, *map(str, [*command, server.url])], env={**os.environ, "EAGER_API_KEY": KEY})
    journal = tmp_path / "out" / "journal.jsonl"
    while not journal.exists() or journal.read_text().count("\n") < 4:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    leaving.__exit__(None, None, None)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1, said
    assert "no server has answered for 1 seconds" in said
    assert KEY not in said
    with running(key=KEY, port=server.port):
        done = run(command, server.url)
        assert done.returncode == 0, done.stderr
    assert generations(tmp_path / "out") == expected


def test_ctrl_c_ends_a_run_whose_server_hangs(tmp_path, command):
    """Within seconds, however long the server is silent, as any other run."""
    with running(key=KEY) as server:
        command[command.index("chunk_timeout=0.5")] = "chunk_timeout=60"
        command[command.index("first_chunk_timeout=2")] = "first_chunk_timeout=60"
        server.faults += [(None, 0)] * N_OF_PROBE + [("hang", 1)] * 500
        child = start([*EAGER, *map(str, [*command, server.url])], env={**os.environ, "EAGER_API_KEY": KEY})
        while len(server.bodies) < N_OF_PROBE + 10:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        begun = time.monotonic()
        child.communicate(timeout=30)
    assert child.returncode == 130
    assert time.monotonic() - begun < 10
