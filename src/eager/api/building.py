"""From the driver's finished trees to those of the Python API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import replace

from eager.api.trees import Sequence, Tree
from eager.engines import Engine
from eager.texts import shifted, text_of, with_text
from eager.types import Branch, BranchRule, Generation, SequenceResult, TreeJob


def tree_of(engine: Engine, job: TreeJob, generation: Generation, before: Tree | None = None) -> Tree:
    """The prompt's tree, from the driver's; with `before`, that one and behind it the new sequences."""
    prompt_text = engine.decode(job.prompt_ids) if before is None else before.prompt_text
    offset = job.first_sequence
    born = zip(generation.branches, generation.children, strict=True)
    branches = tuple(with_text(engine, branch, child, offset, prompt_text) for branch, child in born)
    forced = forced_positions(generation.branches, job.config.branch_rule)
    sequences: list[Sequence] = []
    for number, result in enumerate(generation.sequences):
        sequence = sequence_of(engine, number, result, offset, forced[number])
        sequences.append(sequence if result.parent is None else _with_parents(sequence, sequences[result.parent]))
    if before is not None:
        return replace(
            before,
            sequences=(*before.sequences, *sequences),
            branches=(*before.branches, *branches),
            recomputed=before.recomputed + generation.recomputed,
            discarded=before.discarded + generation.discarded,
        )
    return Tree(
        prompt_index=job.prompt_index,
        prompt_ids=job.prompt_ids,
        prompt_text=prompt_text,
        sequences=tuple(sequences),
        branches=branches,
        branching=job.config,
        sampling=job.sampling,
        seed=job.seed,
        max_length=job.max_length,
        n_init=len(sequences),
        recomputed=generation.recomputed,
        discarded=generation.discarded,
    )


def sequence_of(engine: Engine, number: int, result: SequenceResult, offset: int, forced: set[int]) -> Sequence:
    """The sequence with this number in its tree; what is said of its shared tokens stays with the parent."""
    n_tokens = len(result.token_ids)
    return Sequence(
        index=number + offset,
        token_ids=result.token_ids,
        entropies=result.entropies or (None,) * n_tokens,
        logprobs=result.logprobs or (None,) * n_tokens,
        forced=tuple(position in forced for position in range(n_tokens)),
        text=text_of(engine, result),
        finish_reason=result.finish_reason,
        parent=shifted(result.parent, offset),
        fork=result.fork,
        error=result.error,
    )


def forced_positions(branches: Seq[Branch], rule: BranchRule) -> defaultdict[int | None, set[int]]:
    """By sequence, where it has a token that was not drawn for it, its parents' positions included."""
    forced: defaultdict[int | None, set[int]] = defaultdict(set)
    for branch in branches:  # in the order of their positions
        at = branch.position
        forced[branch.new_seq] = {position for position in forced[branch.seq] if position < at}
        if rule != "sample":
            forced[branch.new_seq].add(at)
        if branch.kept_id != branch.sampled_id:
            forced[branch.seq].add(at)
    return forced


def _with_parents(sequence: Sequence, parent: Sequence) -> Sequence:
    fork = sequence.fork
    return replace(
        sequence,
        entropies=parent.entropies[:fork] + sequence.entropies[fork:],
        logprobs=parent.logprobs[:fork] + sequence.logprobs[fork:],
    )
