"""`generate` and its other forms: one tree a prompt, all of them grown at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator as Gen, Iterable, Mapping, Sequence as Seq
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, TypedDict

from eager.api.building import tree_of
from eager.api.engine import driver_of, running
from eager.api.errors import ApiError
from eager.api.events import Event, Finished, events
from eager.api.progress import OnProgress, shown
from eager.api.prompts import Prompt, encoded_prompts
from eager.api.thread import in_thread
from eager.api.trees import Tree
from eager.engines import Engine
from eager.types import BranchConfig, SamplingParams, TreeJob

if TYPE_CHECKING:
    from typing_extensions import Unpack

BranchingParams = BranchConfig
"""When and how a tree branches: the name of `BranchConfig` in the Python API."""

_SAMPLING = SamplingParams()


class _Needed(TypedDict):
    engine: Engine | str
    branching: BranchConfig


class GenerateOptions(_Needed, total=False):
    """The keywords of `generate`, which its other forms take, too."""

    model_name: str | None
    engine_options: Mapping[str, Any] | None
    sampling: SamplingParams
    seed: int
    max_tokens: int | None
    parallel: bool
    record_all: bool
    progress: bool | OnProgress


def generate(
    prompts: Seq[Prompt],
    *,
    engine: Engine | str,
    model_name: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    branching: BranchConfig,
    sampling: SamplingParams = _SAMPLING,
    seed: int = 0,
    max_tokens: int | None = None,
    parallel: bool = False,
    record_all: bool = False,
    progress: bool | OnProgress = False,
) -> list[Tree]:
    """One finished tree a prompt, in the order of the prompts.

    `engine` is an Engine (`load_engine`), which must not be at work for anybody else, or the name of one: then it is
    loaded with `model_name` and `engine_options` for this call alone. What is drawn depends on `seed`, on the prompt
    and its place among `prompts`, and on nothing else. `max_tokens` bounds the generated tokens of a sequence, None
    leaves it to the context. `parallel` draws `branching.max_sequences` independent samples a prompt in place of a
    tree. `record_all` has entropies and log-probabilities of all tokens, also where nothing can branch any more.
    `progress` shows a bar, or is called with a `Progress` after every step.

    Raises ApiError or EngineError. A sequence that fails has finish_reason "error"; the others go on.
    """
    batches = grown(
        prompts,
        engine=engine,
        model_name=model_name,
        engine_options=engine_options,
        branching=branching,
        sampling=sampling,
        seed=seed,
        max_tokens=max_tokens,
        parallel=parallel,
        record_all=record_all,
        progress=progress,
        trees_only=True,
    )
    with closing(batches):
        return in_order(event for batch in batches for event in batch)


def stream(prompts: Seq[Prompt], **options: Unpack[GenerateOptions]) -> Gen[Event, None, None]:
    """`generate` as it happens: a Branched for every branch, an Ended for every sequence, a Finished for every tree.

    Nothing is decoded while nobody asks for the next event. Left in the middle, it drops what is unfinished. Where
    `stop_after` ends a tree early, there may have been told branches and sequences that the finished tree lacks.
    """
    with closing(grown(prompts, **options)) as batches:
        for batch in batches:
            yield from batch


async def agenerate(prompts: Seq[Prompt], **options: Unpack[GenerateOptions]) -> list[Tree]:
    """`generate` in a thread of its own. Cancelled, it drops everything before it ends."""
    async with aclosing(in_thread(lambda: grown(prompts, **options, trees_only=True))) as batches:
        return in_order([event async for batch in batches for event in batch])


async def astream(prompts: Seq[Prompt], **options: Unpack[GenerateOptions]) -> AsyncGenerator[Event, None]:
    """`stream` in a thread of its own: the loop stays free while the engine works."""
    async with aclosing(in_thread(lambda: grown(prompts, **options))) as batches:
        async for batch in batches:
            for event in batch:
                yield event


def grown(
    prompts: Seq[Prompt],
    *,
    engine: Engine | str,
    model_name: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    branching: BranchConfig,
    sampling: SamplingParams = _SAMPLING,
    seed: int = 0,
    max_tokens: int | None = None,
    parallel: bool = False,
    record_all: bool = False,
    progress: bool | OnProgress = False,
    trees_only: bool = False,
) -> Gen[list[Event], None, None]:
    """The events of every step; the keywords are those of `generate`."""
    if max_tokens is not None and max_tokens < 1:
        raise ApiError(f"max_tokens must be at least 1, got {max_tokens}")
    with running(engine, model_name, engine_options) as working:
        encoded = encoded_prompts(working, prompts)
        generator = driver_of(working, branching, trees_only=trees_only, record_all=record_all)
        for index, ids in enumerate(encoded):
            most = working.max_model_len
            max_length = most if max_tokens is None else min(most, len(ids) + max_tokens)
            n_roots = branching.max_sequences if parallel else 1
            generator.add(
                TreeJob(index, ids, branching, sampling, max_length, seed, n_roots, record_entropies=record_all)
            )
        with shown(progress, len(encoded)) as show:
            yield from events(
                generator, working, lambda job, tree: tree_of(working, job, tree), show, trees_only=trees_only
            )


def in_order(found: Iterable[Event]) -> list[Tree]:
    """The finished trees by prompt."""
    return sorted((event.tree for event in found if isinstance(event, Finished)), key=lambda tree: tree.prompt_index)
