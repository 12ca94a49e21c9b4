"""The messages as frozen dataclasses, and each to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from eager.types import Branch, BranchConfig, Generation, SamplingParams, SequenceResult, Stops, TreeJob
from eager.wire.kinds import VERSION, WireError, read, shown
from eager.wire.tables import ABOUT, ANSWER, BRANCH, ENDED, EVENTS, REQUEST, RULES, SAMPLING, SEQUENCE, TREE

_PLACES = 6  # of an entropy, in nats: more than 32 bits hold


@dataclass(frozen=True, slots=True)
class TreeRequest:
    """One tree to grow. With `stream` the answer is events, else one object when the tree is finished."""

    job: TreeJob
    stops: Stops
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A server has been asked for the tree, perhaps not the first: what was told of it before is void. Not sent."""


@dataclass(frozen=True, slots=True)
class Branched:
    """At `position` sequence `seq` has branched, and `new_seq` was born; its entropy comes with the finished tree."""

    seq: int
    position: int
    new_seq: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Sequence `seq` has all its tokens, which travel with those of its parent; its entropies come with the tree."""

    seq: int
    sequence: SequenceResult


@dataclass(frozen=True, slots=True)
class Alive:
    """Nothing else to tell: so many tokens are decoded of requests that are over."""

    n_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a tree."""

    tree: Generation


@dataclass(frozen=True, slots=True)
class Failed:
    """The last event of a tree that the server could not finish; asked again, it may."""

    message: str


Event = Begun | Branched | Ended | Alive | Finished | Failed


@dataclass(frozen=True, slots=True)
class About:
    """What a server says of itself. While anything is `missing`, each a sentence, it grows no trees."""

    missing: tuple[str, ...]
    model: str = ""
    max_model_len: int = 0
    branch_rules: tuple[str, ...] = ()
    pause_id: int | None = None
    runner: int | None = None


# -- requests ---------------------------------------------------------------------------------------------------------


def request_json(request: TreeRequest) -> dict[str, Any]:
    """The request as it travels."""
    job, stops = request.job, request.stops
    return {
        "version": VERSION,
        "prompt": list(job.prompt_ids),
        "max_length": job.max_length,
        "sampling": asdict(job.sampling),
        "rules": asdict(job.config),
        "seed": job.seed,
        "prompt_index": job.prompt_index,
        "first_sequence": job.first_sequence,
        "n_roots": job.n_roots,
        "record_entropies": job.record_entropies,
        "stop_ids": sorted(stops.stop_ids),
        "thinking_end": list(stops.thinking_end),
        "stream": request.stream,
    }


def read_request(data: Any) -> TreeRequest:
    """The request that came. Raises WireError, in a sentence, where it is none."""
    given = read(data, REQUEST, "the request", is_open=False)
    sampling = read(given["sampling"], SAMPLING, "sampling", is_open=False)
    rules = read(given["rules"], RULES, "rules", is_open=False)
    try:
        job = TreeJob(
            prompt_ids=tuple(given["prompt"]),
            config=BranchConfig(**rules),
            sampling=SamplingParams(**sampling),
            **{name: given[name] for name in _OF_JOB},
        )
    except ValueError as error:
        raise WireError(str(error)) from None
    return TreeRequest(job, Stops(frozenset(given["stop_ids"]), tuple(given["thinking_end"])), given["stream"])


_OF_JOB = ("prompt_index", "max_length", "seed", "n_roots", "first_sequence", "record_entropies")


# -- trees ------------------------------------------------------------------------------------------------------------


def answer_json(tree: Generation) -> dict[str, Any]:
    """The finished tree as it travels: of a sequence only what it does not share with its parent."""
    return {
        "version": VERSION,
        "tree": {
            "sequences": list(map(_sequence_json, tree.sequences)),
            "branches": [
                {**{name: getattr(branch, name) for name in BRANCH}, **_rounded(branch)} for branch in tree.branches
            ],
            "recomputed": tree.recomputed,
            "discarded": tree.discarded,
        },
    }


def _rounded(branch: Branch) -> dict[str, float]:
    return {"entropy": round(branch.entropy, _PLACES), "threshold": round(branch.threshold, _PLACES)}


def _sequence_json(sequence: SequenceResult) -> dict[str, Any]:
    own = list(sequence.entropies[sequence.fork :])
    while own and own[-1] is None:
        own.pop()
    return {
        "token_ids": list(sequence.token_ids[sequence.fork :]),
        "entropies": [None if entropy is None else round(entropy, _PLACES) for entropy in own],
        "finish_reason": sequence.finish_reason,
        "parent": sequence.parent,
        "fork": sequence.fork,
        "error": sequence.error,
    }


def read_answer(data: Any, job: TreeJob) -> Generation:
    """The tree that answers `job`. Raises WireError where it is none, or not one that this job could have grown."""
    tree = read(read(data, ANSWER, "the answer")["tree"], TREE, "the tree")
    branches = [Branch(**read(item, BRANCH, "a branch")) for item in tree["branches"]]
    _require(
        len(tree["sequences"]) == job.n_roots + len(branches) <= job.config.max_sequences,
        f"{len(tree['sequences'])} sequences and {len(branches)} branches",
    )
    sequences: list[SequenceResult] = []
    for index, item in enumerate(tree["sequences"]):
        sequence = _read_sequence(item, sequences, job)
        if index >= job.n_roots:
            branch = branches[index - job.n_roots]
            born = (branch.new_seq, branch.seq, branch.position)
            _require(born == (index, sequence.parent, sequence.fork), f"sequence {index} and its branch {born}")
        else:
            _require(sequence.parent is None, f"root {index} with a parent")
        sequences.append(sequence)
    return Generation(tuple(sequences), tuple(branches), tree["recomputed"], tree["discarded"])


def _read_sequence(data: Any, earlier: list[SequenceResult], job: TreeJob) -> SequenceResult:
    item = read(data, SEQUENCE, "a sequence")
    parent, fork, own, entropies = item["parent"], item["fork"], item["token_ids"], item["entropies"]
    _require(len(job.prompt_ids) + fork + len(own) <= job.max_length, "a sequence longer than was asked for")
    _require(len(entropies) <= len(own), "more entropies than tokens")
    _require(parent is not None or fork == 0, "a fork without a parent")
    _require(parent is None or parent < len(earlier), f"a sequence before its parent {parent}")
    shared = () if parent is None else earlier[parent].token_ids[:fork]
    _require(len(shared) == fork, f"a fork at {fork}, beyond its parent's end")
    return SequenceResult(
        token_ids=(*shared, *own),
        entropies=(*[None] * fork, *entropies, *[None] * (len(own) - len(entropies))),
        finish_reason=item["finish_reason"],
        parent=parent,
        fork=fork,
        error=item["error"],
    )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WireError(f"the answer is no tree that was asked for: it has {what}")


# -- events -----------------------------------------------------------------------------------------------------------


def event_json(event: Event) -> dict[str, Any]:
    """The event as it travels."""
    if isinstance(event, Branched):
        return {"event": "branch", **asdict(event)}
    if isinstance(event, Ended):
        return {"event": "ended", "seq": event.seq, **{name: getattr(event.sequence, name) for name in ENDED}}
    if isinstance(event, Alive):
        return {"event": "alive", **asdict(event)}
    if isinstance(event, Finished):
        return {"event": "finished", **answer_json(event.tree)}
    if isinstance(event, Failed):
        return {"event": "error", **asdict(event)}
    raise ValueError(f"{event} is not sent")


def read_event(data: Any, job: TreeJob) -> Event:
    """One event of the tree that answers `job`. Raises WireError where it is none."""
    name = data.get("event") if isinstance(data, dict) else None
    if name == "finished":
        return Finished(read_answer(data, job))
    if not isinstance(name, str) or name not in EVENTS:
        raise WireError(f"an event must be one of {', '.join(EVENTS)}, got {shown(name)}")
    given = read(data, EVENTS[name], f"event {name}")
    if name == "branch":
        return Branched(**given)
    if name == "alive":
        return Alive(**given)
    if name == "error":
        return Failed(**given)
    return Ended(given["seq"], _whole_sequence(given, job))


def _whole_sequence(given: Mapping[str, Any], job: TreeJob) -> SequenceResult:
    tokens = given["token_ids"]
    _require(len(job.prompt_ids) + len(tokens) <= job.max_length, "a sequence longer than was asked for")
    unknown = (None,) * len(tokens)
    return SequenceResult(tuple(tokens), unknown, *(given[n] for n in ("finish_reason", "parent", "fork", "error")))


# -- what a server says of itself -------------------------------------------------------------------------------------


def about_json(about: About) -> dict[str, Any]:
    """What `GET` of `ABOUT_PATH` answers."""
    return {"version": VERSION, **asdict(about)}


def read_about(data: Any) -> About:
    """What a server said of itself. Raises WireError where it is none, or of another version."""
    given = read(data, ABOUT, "the server's description")
    return About(**{field.name: _frozen(given[field.name]) for field in fields(About)})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
