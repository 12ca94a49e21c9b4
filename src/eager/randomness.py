"""Draws that depend on (seed, prompt, sequence, position) and on nothing else.

A counter-based generator: each draw hashes its coordinates, so no state is carried and neither the batch nor
the order of decoding can change a draw. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def sequence_seed(seed: int, prompt_index: int, sequence: int) -> int:
    """The 64-bit seed of one sequence, given its number among all sequences of its prompt."""
    return _mix(_mix(_mix(seed & _MASK) ^ prompt_index) ^ sequence)


def uniform(seed: int, position: int) -> float:
    """A draw from [0, 1) for the token at absolute `position` (prompt included) of the sequence seeded `seed`."""
    return (_mix(seed ^ _mix(position)) >> 11) * 2.0**-53
