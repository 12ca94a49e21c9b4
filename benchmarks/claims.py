"""The evidence for docs/claims.md: real small models on real problems, by lines that go on where they stopped.

    python benchmarks/claims.py convert qwen2.5-coder-0.5b --models MODELS
    python benchmarks/claims.py run gsm8k_m8 --models MODELS --data DATA --out RUNS [--minutes 55]
    python benchmarks/claims.py pack gsm8k_m8 --out RUNS
    python benchmarks/claims.py table [--write]

MODELS holds NAME.gguf; `convert` writes it out in bfloat16, as vLLM takes it, into NAME-bf16 beside it. DATA holds the
problems by the names in LINES. `run` works for a slice of time and says what is left; `pack` puts what is complete into
benchmarks/results; `table` prints the tables of docs/claims.md and docs/choosing.md from there, and with --write puts
them into the pages.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from claims_results import RESULTS, is_graded, pack, packed_lines  # only now can eager be found without installing
from claims_table import claims, example, with_tables

from eager.calibrate.calibration import CALIBRATION_NAME
from eager.results.experiment import Experiment
from eager.results.findings import Findings, ResultsError
from eager.results.folder import open_folder
from eager.store.journal import JOURNAL_NAME
from eager.store.records import PromptRecord

SOURCES = sys.path[0]
DOCS = Path(SOURCES).parent / "docs"
MATH, GSM8K, CODE = "HuggingFaceH4/MATH-500", "openai/gsm8k", "evalplus/humanevalplus"
QWEN, SMOL = "qwen2.5-coder-0.5b", "smollm2-135m"
FOUR = "eager_init,eager_adapt,eager,eager_vote"
RULES_LIMIT = 40  # problems for each of the other rules: enough to see a loss of a third
# What all lines share.
COMMON = ("--engine", "vllm", "--temperature", "0.6", "--seed", "55", "--capacity", "128", "--max_model_len", "2048")


@dataclass(frozen=True)
class Line:
    """A folder of evidence. `passes` are (thresholds, experiments), run in this order.

    `base` is the line whose `parallel` it is compared with, where it has none of its own: on the same first problems.
    `most_level` keeps the problems up to this level of the data's column.
    """

    model: str
    task: str
    data: str
    max_sequences: int
    passes: tuple[tuple[str, str], ...]
    max_tokens: int = 300
    options: tuple[str, ...] = ()
    percentile: str = "none"
    limit: int | None = None
    base: str | None = None
    most_level: int | None = None

    @property
    def experiments(self) -> list[list[str]]:
        """The names of each pass's experiments."""
        return [_names(kinds.split(","), thresholds.split(",")) for thresholds, kinds in self.passes]


def _names(kinds: list[str], thresholds: list[str]) -> list[str]:
    names = ["parallel"] if "parallel" in kinds else []
    return names + [Experiment(k, float(t)).name for k in kinds if k != "parallel" for t in thresholds]


def _rule(
    *options: str,
    thresholds: str = "1.6",
    kinds: str = "eager_init",
    percentile: str = "none",
    limit: int = RULES_LIMIT,
) -> Line:
    """GSM8K's first problems under another rule."""
    return Line(
        QWEN, GSM8K, "gsm8k_train200.jsonl", 8, ((thresholds, kinds),), options=options, percentile=percentile,
        limit=limit, base="gsm8k_m8",
    )  # fmt: skip


LINES = {
    "gsm8k_m8": Line(QWEN, GSM8K, "gsm8k_train200.jsonl", 8, (("1.6", f"parallel,{FOUR}"), ("1.8,2.0", "eager_init"))),
    "gsm8k_m16": Line(QWEN, GSM8K, "gsm8k_train200.jsonl", 16, (("1.6", f"parallel,{FOUR}"),), limit=24),
    "math_m8": Line(
        SMOL, MATH, "math500_first100.jsonl", 8, (("2.2", f"parallel,{FOUR}"), ("1.8,2.5", "eager_init")), most_level=2
    ),
    "math_qwen_m8": Line(QWEN, MATH, "math500_first100.jsonl", 8, (("1.6", f"parallel,{FOUR}"),), most_level=2),
    "humaneval_m8": Line(
        QWEN,
        CODE,
        "humanevalplus_hf.jsonl.gz",
        8,
        (("1.6", "parallel,eager_init,eager_adapt"), ("1.6", "eager")),
        limit=64,
    ),
    "gsm8k_percentile": _rule(thresholds="1.0,1.6", kinds="eager_init,eager_adapt", percentile="99", limit=64),
    "gsm8k_distinct": _rule("--branch_rule", "distinct"),
    "gsm8k_sample": _rule("--branch_rule", "sample"),
    "gsm8k_stop4": _rule("--stop_after", "4"),
    "gsm8k_settle": _rule("--settle", "0.95", kinds="eager_init,eager_vote"),
    "gsm8k_varentropy": _rule("--varentropy_threshold", "1.5", thresholds="2.9957"),
}
"""Every line there is; those in benchmarks/results were run."""


# -- run ---------------------------------------------------------------------------------------------------------------


def commands(line: Line, model: Path, data: Path, folder: Path) -> list[list[str]]:
    """What `eager` is called with, a pass a command."""
    start = ["run", *_settings(line, model, data), "--output_dir", str(folder)]
    return [[*start, "--entropy_threshold", t, "--experiments", kinds, *line.options] for t, kinds in line.passes]


def calibrate_command(line: Line, model: Path, data: Path, folder: Path) -> list[str]:
    """The calibration whose estimates are held against the run."""
    settings = _settings(line, model, data)
    if line.limit is not None:
        cut = settings.index("--limit")
        settings = settings[:cut] + settings[cut + 2 :]
    return ["calibrate", *settings, "--output_dir", str(folder)]


def _settings(line: Line, model: Path, data: Path) -> list[str]:
    settings = [*COMMON, "--model_name", str(model), "--data_name", line.task, "--data_path", str(data)]
    settings += ["--max_sequences", str(line.max_sequences), "--max_tokens", str(line.max_tokens)]
    settings += ["--threshold_percentile", line.percentile]
    return settings if line.limit is None else [*settings, "--limit", str(line.limit)]


def data_file(name: str, line: Line, data: Path, out: Path) -> Path:
    """The line's problems; where only the easier ones are wanted, a file of these in `out`."""
    if line.most_level is None:
        return data / line.data
    rows = (data / line.data).read_text(encoding="utf-8").splitlines()
    path = out / f"{name}.problems.jsonl"
    path.write_text("".join(row + "\n" for row in easiest(rows, line.most_level)), encoding="utf-8")
    return path


def easiest(rows: list[str], most_level: int) -> list[str]:
    """The rows up to this level, in their order."""
    return [row for row in rows if int(json.loads(row)["level"]) <= most_level]


def run(name: str, models: Path, data: Path, out: Path, minutes: float) -> None:
    """Work on the line for a slice of time, and say what is left."""
    line, folder = LINES[name], out / name
    out.mkdir(parents=True, exist_ok=True)
    model, problems = models / f"{line.model}-bf16", data_file(name, line, data, out)
    end = time.monotonic() + 60 * minutes
    if line.base is None and not any((folder / file).exists() for file in (CALIBRATION_NAME, JOURNAL_NAME)):
        call_until(calibrate_command(line, model, problems, folder), end)
    grading = ["eval-code", str(folder), "--problems", str(data / "HumanEvalPlus.jsonl.gz")]
    for command, names in zip(commands(line, model, problems, folder), line.experiments, strict=True):
        if set(names) - complete(folder):
            call_until(command, end)
        if line.task == CODE and set(names) <= complete(folder) and not all(map(is_graded, records(folder))):
            call_until(grading, end)
    left = [experiment for names in line.experiments for experiment in names if experiment not in complete(folder)]
    print(f"{name}: {'left: ' + ', '.join(left) if left else 'complete'}")


def complete(folder: Path) -> set[str]:
    """The experiments that have all their prompts."""
    try:
        return {found.experiment.name for found in open_folder(folder, Findings()) if found.facts.is_complete}
    except ResultsError:
        return set()


def records(folder: Path) -> Iterator[PromptRecord]:
    """All prompts of all experiments."""
    return (record for found in open_folder(folder, Findings()) for record in found.records())


def call_until(arguments: list[str], end: float) -> None:
    """`eager` with these arguments, ended when the time is over, upon which it saves. Exits where it failed."""
    left = end - time.monotonic()
    if left <= 0:
        return
    print("eager", *arguments, flush=True)
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    # In a session of its own: Ctrl-C reaches it once, from here. A second signal would end it before it has saved.
    child = subprocess.Popen([sys.executable, "-m", "eager", *arguments], env=environment, start_new_session=True)
    try:
        code = child.wait(left)
    except subprocess.TimeoutExpired:
        end_saving(child)
        return
    except KeyboardInterrupt:
        end_saving(child)
        raise
    if code:
        sys.exit(f"eager ended with {code}: see above; the same command goes on")


def end_saving(child: subprocess.Popen[bytes]) -> None:
    """End a run as Ctrl-C would. Not by SIGINT: a shell's & makes its children deaf to that."""
    child.send_signal(signal.SIGTERM)
    child.wait()


# -- convert -----------------------------------------------------------------------------------------------------------


def convert(name: str, models: Path) -> Path:
    """Write MODELS/NAME.gguf out in bfloat16, weights and tokenizer, into MODELS/NAME-bf16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(models), "gguf_file": f"{name}.gguf"}
    config = GgufConfig(dequantize=True)
    folder = models / f"{name}-bf16"
    AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=config).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder


# -- table -------------------------------------------------------------------------------------------------------------


def print_tables(texts: dict[str, str], is_written: bool) -> None:
    """Print the tables, or put them into their pages."""
    for name, text in texts.items():
        page = DOCS / name
        if is_written:
            page.write_text(with_tables(page.read_text(encoding="utf-8"), text), encoding="utf-8")
        else:
            print(text)


# -- the command line --------------------------------------------------------------------------------------------------


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    parser_of = {name: what.add_parser(name) for name in ("run", "convert", "pack", "table")}
    for name in ("run", "pack"):
        parser_of[name].add_argument("line", choices=LINES)
        parser_of[name].add_argument("--out", type=Path, required=True, help="the runs' folders, a line each")
    parser_of["convert"].add_argument("model")
    for name in ("run", "convert"):
        parser_of[name].add_argument("--models", type=Path, required=True)
    parser_of["run"].add_argument("--data", type=Path, required=True)
    parser_of["run"].add_argument("--minutes", type=float, default=55)
    parser_of["pack"].add_argument("--calibration", type=Path, help="where it is not in the line's folder")
    parser_of["table"].add_argument("--write", action="store_true", help="into the pages in docs")
    return parser.parse_args()


def main() -> None:
    """Do what was asked."""
    options = parsed()
    if options.what == "run":
        run(options.line, options.models, options.data, options.out, options.minutes)
    elif options.what == "convert":
        print(convert(options.model, options.models))
    elif options.what == "pack":
        print("\n".join(map(str, pack(options.line, options.out / options.line, options.calibration))))
    else:
        packed = packed_lines(RESULTS)
        print_tables({"claims.md": claims(packed, LINES), "choosing.md": example(packed)}, options.write)


if __name__ == "__main__":
    main()
