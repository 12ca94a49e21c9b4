"""Groups for training: of every prompt exactly n completions, drawn as trees with one budget for all prompts.

N prompts have n * N sequences to draw in all, and never more. First a tree a prompt, of n sequences at most. Then,
where a grader says what is right, what that saved goes to the prompts without a right one (`eager.allocate`). Then what
is left fills the groups that are still short with fresh samples, the shortest first. What remains short is filled with
its own sequences again, which costs nothing; what has become too long keeps its youngest. docs/training.md says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from eager.api import Grader, Prompt, Sequence, Tree, allocate, generate
from eager.api.building import tree_of
from eager.api.progress import OnProgress
from eager.engines import Engine
from eager.generator import Generator
from eager.integrations.errors import IntegrationError
from eager.types import BranchConfig, SamplingParams, TreeJob

Fill: TypeAlias = Literal["fresh", "repeat"]
"""What completes a short group: fresh samples while the budget lasts, or its own sequences again."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How completions are drawn. `rules` hold the number of a group's completions as `max_sequences`."""

    rules: BranchConfig
    sampling: SamplingParams
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if self.rules.stop_after is not None:
            raise IntegrationError("stop_after leaves sequences without an end, which teach nothing: leave it out")


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt's completions: which of its tree's sequences, in their order; some more than once where it was short."""

    tree: Tree
    chosen: tuple[int, ...]

    @property
    def sequences(self) -> list[Sequence]:
        """The completions."""
        return [self.tree.sequences[index] for index in self.chosen]


def draw_groups(
    prompts: Seq[Prompt], draw: Draw, engine: Engine, grader: Grader | None = None, fill: Fill = "fresh"
) -> list[Group]:
    """One group a prompt, in the order of the prompts. Raises EagerError, also where a sequence failed."""
    trees = draw_trees(prompts, draw, engine, grader)
    if fill == "fresh":
        trees = filled_up(trees, draw.rules.max_sequences, engine)
    return [Group(tree, chosen(len(tree.sequences), draw.rules.max_sequences)) for tree in trees]


def draw_trees(
    prompts: Seq[Prompt],
    draw: Draw,
    engine: Engine,
    grader: Grader | None = None,
    progress: bool | OnProgress = False,
) -> list[Tree]:
    """The trees alone, of as many sequences as they have come to."""
    trees = _grown(prompts, draw, engine, progress)
    if grader is None:
        return trees
    return _sound(allocate(trees, engine=engine, grader=grader, record_all=True, progress=progress))


def draw_parallel(prompts: Seq[Prompt], draw: Draw, engine: Engine) -> list[Group]:
    """The baseline: groups of independent samples."""
    trees = _grown(prompts, draw, engine, parallel=True)
    return [Group(tree, tuple(range(len(tree.sequences)))) for tree in trees]


def _grown(
    prompts: Seq[Prompt], draw: Draw, engine: Engine, progress: bool | OnProgress = False, parallel: bool = False
) -> list[Tree]:
    trees = generate(
        prompts,
        engine=engine,
        branching=draw.rules,
        sampling=draw.sampling,
        seed=draw.seed,
        max_tokens=draw.max_tokens,
        parallel=parallel,
        record_all=True,
        progress=progress,
    )
    return _sound(trees)


def shortages(used: Seq[int], n: int) -> dict[int, int]:
    """How many fresh samples each group is given, by its place: one each to the shortest, while there are any.

    `used` are the sequences that groups of `n` have so far.
    """
    have = list(used)
    for _ in range(n * len(have) - sum(have)):
        shortest = min(range(len(have)), key=have.__getitem__)
        if have[shortest] >= n:
            break
        have[shortest] += 1
    return {place: now - before for place, (now, before) in enumerate(zip(have, used, strict=True)) if now > before}


def chosen(n_sequences: int, n: int) -> tuple[int, ...]:
    """Which of a prompt's sequences are its n completions: the last by birth; of too few, each as often as it takes.

    No reward is looked at.
    """
    first = max(0, n_sequences - n)
    return tuple(sorted(first + i % (n_sequences - first) for i in range(n)))


def filled_up(trees: Seq[Tree], n_group: int, engine: Engine) -> list[Tree]:
    """The trees with fresh samples behind their sequences, as `shortages` shares them out."""
    generator = Generator(engine)
    for place, n in shortages([len(tree.sequences) for tree in trees], n_group).items():
        tree = trees[place]
        rules = replace(tree.branching, max_sequences=n)
        generator.add(
            TreeJob(
                place,
                tree.prompt_ids,
                rules,
                tree.sampling,
                tree.max_length,
                tree.seed,
                n_roots=n,
                first_sequence=len(tree.sequences),
                record_entropies=True,
            )
        )
    grown = {job.prompt_index: tree_of(engine, job, made, trees[job.prompt_index]) for job, made in generator.run()}
    return _sound([grown.get(place, tree) for place, tree in enumerate(trees)])


def _sound(trees: list[Tree]) -> list[Tree]:
    """The trees; IntegrationError where a sequence failed: to train without it would be to train on another group."""
    failed = next((s for tree in trees for s in tree.sequences if s.finish_reason == "error"), None)
    if failed is not None:
        raise IntegrationError(f"a completion cannot be trained on: {failed.error}")
    return trees


def shares(tree: Tree) -> tuple[float, ...]:
    """What each sequence weighs: 1 a root, halved with its parent at every branch.

    Under `sample` the weighted mean over a tree is an unbiased estimate of the model's own, whatever is averaged.
    """
    weights = [1.0] * len(tree.sequences)
    for branch in tree.branches:
        if branch.seq is not None and branch.new_seq is not None:
            weights[branch.seq] = weights[branch.new_seq] = weights[branch.seq] / 2
    return tuple(weights)


def not_drawn(tree: Tree) -> list[set[int]]:
    """By sequence, the positions on its way whose token was no free draw; under `top2` the parent's is none either."""
    taken: defaultdict[int | None, set[int]] = defaultdict(set)
    rule = tree.branching.branch_rule
    for branch in tree.branches if rule != "sample" else ():  # in the order of their positions
        at = branch.position
        taken[branch.new_seq] = {position for position in taken[branch.seq] if position < at} | {at}
        if rule == "top2":
            taken[branch.seq].add(at)
    return [taken[index] for index in range(len(tree.sequences))]
