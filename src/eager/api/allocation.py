"""The second stage: what the first trees saved of the budget goes to the prompts that need it (paper, 3.3 and 3.4).

The policies are `eager.budget`'s, the same that `eager run` goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Generator as Gen, Mapping, Sequence as Seq
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from eager.api.building import tree_of
from eager.api.engine import driver_of, running
from eager.api.errors import ApiError
from eager.api.events import Event, events
from eager.api.generation import in_order
from eager.api.progress import OnProgress, shown
from eager.api.thread import in_thread
from eager.api.trees import Sequence, Tree
from eager.budget import ExtraRounds, adapt_shares, is_solved, label_shares
from eager.engines import Engine
from eager.generator import Generator
from eager.types import Generation, TreeJob
from eager.whole_trees import TreeGenerator

if TYPE_CHECKING:
    from typing_extensions import Unpack

Grader: TypeAlias = Callable[[Tree, Sequence], bool | None]
"""Whether a prompt's sequence is correct; None where that cannot be told."""


class _Needed(TypedDict):
    engine: Engine | str


class AllocateOptions(_Needed, total=False):
    """The keywords of `allocate`, which its other form takes, too."""

    model_name: str | None
    engine_options: Mapping[str, Any] | None
    grader: Grader | None
    record_all: bool
    progress: bool | OnProgress


def allocate(
    trees: Seq[Tree],
    *,
    engine: Engine | str,
    model_name: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    grader: Grader | None = None,
    record_all: bool = False,
    progress: bool | OnProgress = False,
) -> list[Tree]:
    """The trees of `generate` with the extra sequences that their saved budget pays for, in the same order.

    Without a grader EAGer-adapt: the prompts that reached `max_sequences` share it. With one EAGer: those without a
    correct sequence do. `grader` is asked once for every sequence that came to an end of its own. All sequences
    together are never more than `max_sequences` times the number of trees. A tree that is given nothing is returned as
    it is; extra sequences are numbered on, and the first of every extra tree has no parent.

    The other keywords are those of `generate`. Raises ApiError or EngineError.
    """
    batches = _allocated(
        trees,
        engine=engine,
        model_name=model_name,
        engine_options=engine_options,
        grader=grader,
        record_all=record_all,
        progress=progress,
    )
    with closing(batches):
        return _put_in_place(trees, in_order(event for batch in batches for event in batch))


async def aallocate(trees: Seq[Tree], **options: Unpack[AllocateOptions]) -> list[Tree]:
    """`allocate` in a thread of its own, the grader too. Cancelled, it drops everything before it ends."""
    async with aclosing(in_thread(lambda: _allocated(trees, **options))) as batches:
        return _put_in_place(trees, in_order([event async for batch in batches for event in batch]))


def _put_in_place(trees: Seq[Tree], grown: Seq[Tree]) -> list[Tree]:
    by_prompt = {tree.prompt_index: tree for tree in grown}
    return [by_prompt.get(tree.prompt_index, tree) for tree in trees]


def _allocated(
    trees: Seq[Tree],
    *,
    engine: Engine | str,
    model_name: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    grader: Grader | None = None,
    record_all: bool = False,
    progress: bool | OnProgress = False,
) -> Gen[list[Event], None, None]:
    _check(trees)
    shares = _shares(trees, grader)
    if not shares:
        return
    with running(engine, model_name, engine_options) as working:
        generator = driver_of(working, trees[0].branching, trees_only=True, record_all=record_all)
        extra = _Extra(working, generator, record_all=record_all)
        for place, share in shares.items():
            extra.begin(trees[place], share)
        with shown(progress, len(shares)) as show:
            yield from events(generator, working, extra.finish, show, trees_only=True)


class _Extra:
    """The prompts that are given something: what of it is still to come, and what they have so far."""

    def __init__(self, engine: Engine, generator: Generator | TreeGenerator, *, record_all: bool) -> None:
        self._engine = engine
        self._generator = generator
        self._record_all = record_all
        self._rounds: dict[int, ExtraRounds] = {}
        self._trees: dict[int, Tree] = {}

    def begin(self, tree: Tree, share: int) -> None:
        rounds = ExtraRounds.of(share, len(tree.sequences), tree.branching)
        self._rounds[tree.prompt_index], self._trees[tree.prompt_index] = rounds, tree
        self._add(tree, rounds)

    def finish(self, job: TreeJob, generation: Generation) -> Tree | None:
        """The prompt's tree once it has its share; before that the next round is added."""
        index = job.prompt_index
        rounds = self._rounds[index]
        tree = self._trees[index] = tree_of(self._engine, job, generation, self._trees[index])
        rounds.finish_round(len(generation.sequences))
        if rounds.is_done:
            return tree
        self._add(tree, rounds)
        return None

    def _add(self, tree: Tree, rounds: ExtraRounds) -> None:
        self._generator.add(
            TreeJob(
                tree.prompt_index,
                tree.prompt_ids,
                rounds.next_rules(tree.branching),
                tree.sampling,
                tree.max_length,
                tree.seed,
                first_sequence=len(tree.sequences),
                record_entropies=self._record_all,
            )
        )


def _check(trees: Seq[Tree]) -> None:
    """Raises ApiError where they are not what one call of `generate` gave."""
    if not trees:
        raise ApiError("there are no trees to share anything out to: give those that generate returned")
    if len({tree.prompt_index for tree in trees}) < len(trees):
        raise ApiError("two of the trees are of one prompt: give all that one call of generate returned, each once")
    if len({tree.branching for tree in trees}) > 1:
        raise ApiError("the trees were grown by different rules: give those that one call of generate returned")
    if any(len(tree.sequences) > tree.n_init for tree in trees):
        raise ApiError("some trees have their share already: give them as generate returned them")


def _shares(trees: Seq[Tree], grader: Grader | None) -> dict[int, int]:
    """Extra sequences by place among the trees. Raises ApiError where nothing could be graded."""
    used, most = [len(tree.sequences) for tree in trees], trees[0].branching.max_sequences
    if grader is None:
        return adapt_shares(used, most)
    grades = [[_grade(grader, tree, sequence) for sequence in tree.sequences] for tree in trees]
    if all(grade is None for prompt in grades for grade in prompt):
        raise ApiError("the grader could grade no sequence: mend it, or leave it out to share without labels")
    return label_shares(used, list(map(is_solved, grades)), most)


def _grade(grader: Grader, tree: Tree, sequence: Sequence) -> bool | None:
    """What failed or was cut answers nothing."""
    return None if sequence.finish_reason in ("error", "cut") else grader(tree, sequence)
