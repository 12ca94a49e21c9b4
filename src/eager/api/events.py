"""From the driver's steps to what is told of them: branches and sequences as they come, trees when they are whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator as Gen, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from eager.api.building import forced_positions, sequence_of
from eager.api.trees import Sequence, Tree
from eager.engines import Engine
from eager.generator import Generator, Progress, Step
from eager.texts import with_tokens
from eager.types import Branch, Generation, TreeJob
from eager.whole_trees import TreeGenerator


@dataclass(frozen=True, slots=True)
class Branched:
    """A sequence of prompt `prompt_index` has forked; its `text_before` comes with the tree."""

    prompt_index: int
    branch: Branch


@dataclass(frozen=True, slots=True)
class Ended:
    """A sequence has all its tokens, though its tree may go on.

    Its `entropies` and `logprobs` of the tokens shared with its parent are None: they come with the tree.
    """

    prompt_index: int
    sequence: Sequence


@dataclass(frozen=True, slots=True)
class Finished:
    """A prompt has all its sequences."""

    prompt_index: int
    tree: Tree


Event: TypeAlias = Branched | Ended | Finished

Finish: TypeAlias = Callable[[TreeJob, Generation], Tree | None]
"""Takes a finished job; the prompt's tree, or None where another job of the prompt has been added."""


def events(
    generator: Generator | TreeGenerator,
    engine: Engine,
    finish: Finish,
    show: Callable[[Progress], None],
    *,
    trees_only: bool = False,
) -> Gen[list[Event], None, None]:
    """What each step brought, where it brought anything, until no job is left. Left in the middle, it drops the rest.

    `trees_only` saves the making of what nobody looks at. Raises EngineError.
    """
    telling = None if trees_only else _Telling(engine)
    with closing(generator):
        while generator.has_work:
            step = generator.step()
            show(generator.progress)
            found: list[Event] = [] if telling is None else list(telling.events(step))
            for job, generation in step.finished:
                tree = finish(job, generation)
                if tree is not None:
                    found.append(Finished(job.prompt_index, tree))
            if found:
                yield found


class _Telling:
    """Knows the branches of the trees that grow, since a sequence's forced tokens follow from them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._branches: defaultdict[int, list[Branch]] = defaultdict(list)  # by prompt: it has one tree at a time

    def events(self, step: Step) -> Iterator[Event]:
        for job, branch in step.branches:
            self._branches[job.prompt_index].append(branch)
            yield Branched(job.prompt_index, with_tokens(self._engine, branch, job.first_sequence))
        for job, number, result in step.ended:
            forced = forced_positions(self._branches[job.prompt_index], job.config.branch_rule)[number]
            yield Ended(job.prompt_index, sequence_of(self._engine, number, result, job.first_sequence, forced))
        for job, _ in step.finished:
            self._branches.pop(job.prompt_index, None)
