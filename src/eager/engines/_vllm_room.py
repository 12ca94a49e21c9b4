"""An estimate of the KV cache in use, from outside vLLM.

vLLM queues what it has no room for, and when decoding sequences outgrow the cache it drops the cache of some and
computes it again. Both lose nothing but time, so new trees are started only while there seems to be room. Sequences
forked from one another are a family: their prefix is held once.
"""

from __future__ import annotations

from dataclasses import dataclass

_TOKENS_KEPT_FREE = 32  # a sequence: it will grow


@dataclass(slots=True, eq=False)
class Family:
    """Sequences that share a prefix; `n_tokens` counts it once, and what ended members have left too.

    `number`: the older, the smaller.
    """

    number: int
    n_open: int = 0
    n_tokens: int = 0


class Room:
    """Who holds how much of a cache of `n_cells` tokens."""

    def __init__(self, n_cells: int) -> None:
        self._n_cells = n_cells
        self._families: set[Family] = set()
        self._members: dict[int, Family] = {}
        self._n_made = 0
        self._left: set[int] = set()  # since the last step: they may still become parents

    def family_of(self, seq_id: int | None) -> Family | None:
        return None if seq_id is None else self._members.get(seq_id)

    def join(self, seq_id: int, family: Family | None, n_tokens: int) -> Family:
        """`seq_id` begins with `n_tokens` tokens, all but one of them shared with its family."""
        if family is None:
            self._n_made += 1
            family = Family(self._n_made, 0, n_tokens)
            self._families.add(family)
        else:
            family.n_tokens += 1
        family.n_open += 1
        before = self._members.get(seq_id)
        if before is not None and before.n_open == 0:  # the id was used since the last step, for something else
            self._families.discard(before)
        self._left.discard(seq_id)
        self._members[seq_id] = family
        return family

    def leave(self, seq_id: int) -> None:
        self._members[seq_id].n_open -= 1
        self._left.add(seq_id)

    def settle(self) -> None:
        """A step begins: families that nobody has joined again are gone."""
        for seq_id in self._left:
            family = self._members.pop(seq_id)
            if family.n_open == 0:
                self._families.discard(family)
        self._left.clear()

    def has_room_for_one_more(self, n_open: int) -> bool:
        n_held = sum(family.n_tokens for family in self._families)
        return n_held + _TOKENS_KEPT_FREE * (n_open + 1) < self._n_cells
