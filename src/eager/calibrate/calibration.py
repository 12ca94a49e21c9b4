"""The streams of a few prompts: drawn with an engine, and kept in the output folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence as Seq
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eager.atomic import replacing
from eager.calibrate.exposure import Estimate, Exposure, Stream
from eager.calibrate.target import Target, recommended
from eager.engines import Engine
from eager.errors import EagerError
from eager.experiments import RunPlan, encoded_prompts
from eager.generator import Progress
from eager.tasks import LoadedTask
from eager.types import MAX_ENTROPY, BranchConfig, SequenceResult, Stops, TreeJob
from eager.whole_trees import grower

CALIBRATION_NAME = "calibration.json"
FORMAT_VERSION = 1
# What the table shows, in nats.
THRESHOLDS = tuple(step / 5 for step in range(1, 15))
_ENTROPY_PLACES = 4


class CalibrationError(EagerError):
    """There is no calibration to go by; the message names the place, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The streams, one a prompt, and under which settings they were drawn."""

    settings: Mapping[str, Any]
    streams: tuple[Stream, ...]

    @property
    def n_tokens(self) -> int:
        """What it cost."""
        return sum(len(stream.entropies) for stream in self.streams)

    def exposure(self, rules: BranchConfig) -> Exposure:
        """The model over these streams, under the run's rules."""
        return Exposure(self.streams, rules, self.settings["max_tokens"])


def calibrated(
    engine: Engine,
    task: LoadedTask,
    plan: RunPlan,
    settings: Mapping[str, Any],
    on_progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Draw one sequence of each problem, monitored to its end: the same that `parallel` draws first.

    Raises CalibrationError where none of them could be drawn.
    """
    alone = BranchConfig(max_sequences=1, entropy_threshold=MAX_ENTROPY)
    generator = grower(engine, alone, on_progress)
    for index, prompt in encoded_prompts(engine, task.problems, task).items():
        length = plan.max_length(len(prompt), engine)
        generator.add(TreeJob(index, prompt, alone, plan.sampling, length, plan.seed, record_entropies=True))
    drawn = {job.prompt_index: tree.sequences[0] for job, tree in generator.run()}
    streams = tuple(_stream(drawn[index], engine.stops) for index in sorted(drawn) if drawn[index].error is None)
    if not streams:
        raise CalibrationError(f"no sequence could be drawn ({drawn[0].error}): see to the engine first")
    return Calibration(dict(settings), streams)


def _stream(sequence: SequenceResult, stops: Stops) -> Stream:
    entropies = tuple(round(entropy or 0.0, _ENTROPY_PLACES) for entropy in sequence.entropies)
    return Stream(entropies, sequence.finish_reason == "stop", _n_thinking(sequence.token_ids, stops.thinking_end))


def _n_thinking(token_ids: Seq[int], marker: tuple[int, ...]) -> int | None:
    """How many tokens there are up to the end of the first end-of-thinking marker."""
    n = len(marker)
    ends = (end for end in range(n, len(token_ids) + 1) if tuple(token_ids[end - n : end]) == marker)
    return next(ends, None) if n else None


def settings_of_streams(settings: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """What streams depend on: a run's settings but its rules of branching and its other problems; and the very model.

    The date that a template may put into its prompts is not among it.
    """
    others = {*BranchConfig.__dataclass_fields__, "data_digest", "n_prompts", "record_entropies", "settle", "chat_date"}
    return {name: value for name, value in {**settings, **engine.identity()}.items() if name not in others}


# -- the file, as docs/calibration.md has it --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold chosen for a target, with what it is estimated to take under the rules."""

    target: Target
    rules: BranchConfig
    estimate: Estimate

    @property
    def threshold(self) -> float:
        return self.estimate.threshold


def chosen(calibration: Calibration, rules: BranchConfig, target: Target) -> Choice:
    """The threshold for this target under these rules, their own threshold aside. Raises CalibrationError."""
    exposure = calibration.exposure(rules)
    try:
        return Choice(target, rules, exposure.at(recommended(exposure, target)))
    except ValueError as error:
        raise CalibrationError(str(error)) from None


def write_calibration(folder: Path, calibration: Calibration, choice: Choice, estimates: Seq[Estimate]) -> Path:
    """Write the streams, and what was made of them, atomically. Raises CalibrationError."""
    path = folder / CALIBRATION_NAME
    data = {
        "format": FORMAT_VERSION,
        "settings": dict(calibration.settings),
        "n_prompts": len(calibration.streams),
        "n_tokens": calibration.n_tokens,
        "rules": {name: value for name, value in asdict(choice.rules).items() if name != "entropy_threshold"},
        "target": str(choice.target),
        "recommended": asdict(choice.estimate),
        "estimates": [asdict(estimate) for estimate in estimates],
        "streams": [asdict(stream) for stream in calibration.streams],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            json.dump(data, file)
            file.write("\n")
    except OSError as error:
        raise CalibrationError(f"cannot write '{path}' ({error.strerror}): give another --output_dir") from None
    return path


def read_calibration(folder: Path, settings: Mapping[str, Any]) -> Calibration | None:
    """The folder's calibration; None where there is none. Raises CalibrationError where it is not of these settings."""
    path = folder / CALIBRATION_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"'{path}' cannot be read ({error}): remove it to calibrate anew") from None
    try:
        data = json.loads(text)
        streams = tuple(_stream_of(item) for item in data["streams"])
        found = dict(data["settings"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CalibrationError(f"'{path}' is no calibration of this version: remove it to calibrate anew") from None
    asked = json.loads(json.dumps(settings))
    for name in {**found, **asked}:
        if found.get(name) != asked.get(name):
            raise CalibrationError(
                f"'{path}' was made with {name}={found.get(name)!r}, now it is {asked.get(name)!r}:"
                " remove it to calibrate anew, or use another --output_dir"
            )
    return Calibration(found, streams)


def _stream_of(item: Mapping[str, Any]) -> Stream:
    """Raises KeyError, TypeError or ValueError where it is none."""
    n_thinking = item["n_thinking"]
    stream = Stream(tuple(map(float, item["entropies"])), bool(item["has_stopped"]), n_thinking)
    if not stream.entropies or not (n_thinking is None or 1 <= n_thinking <= len(stream.entropies)):
        raise ValueError("not a stream")
    return stream
