"""The budget of all requests to a server: what easy ones leave, hard ones may spend."""

from __future__ import annotations


class Savings:
    """Every request for a tree brings `per_request` sequences. Pure counting: all calls come from one thread.

    A request `begin`s with its own share, whatever others did; one that used it up and wants more may `draw` what is
    left of others'. What has been granted is never more than `per_request` times the requests so far.
    """

    def __init__(self, per_request: int) -> None:
        if per_request < 1:
            raise ValueError(f"a request must bring at least 1 sequence, got {per_request}")
        self.per_request = per_request
        self.n_requests = 0
        self.n_granted = 0

    @property
    def balance(self) -> int:
        """Sequences that were brought and are granted to nobody."""
        return self.per_request * self.n_requests - self.n_granted

    def begin(self, wanted: int) -> int:
        """A request comes that wants so many at most: how many it has of its own."""
        share = min(wanted, self.per_request)
        self.n_requests += 1
        self.n_granted += share
        return share

    def draw(self, wanted: int) -> int:
        """How many of `wanted` further ones a request is granted; 0 where nothing is left."""
        extra = min(wanted, self.balance)
        self.n_granted += extra
        return extra

    def give_back(self, n_unused: int) -> None:
        """Of what was granted to a request so many sequences were not grown, and will not be."""
        self.n_granted -= n_unused
