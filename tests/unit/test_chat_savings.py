"""The budget of all requests: what easy ones leave, hard ones may spend, and nobody more than there is."""

import pytest
from hypothesis import given, strategies as st

from eager.chat import Savings

REQUEST = st.tuples(st.integers(1, 40), st.integers(0, 40))  # how many it may have; how many its tree comes to


@given(per_request=st.integers(1, 8), requests=st.lists(REQUEST, max_size=30), order=st.randoms())
def test_granted_is_never_more_than_what_was_brought(per_request, requests, order):
    """Whatever requests come, in whatever order they end, each has its own share and the sum stays in the budget."""
    savings, open_requests = Savings(per_request), []

    def check():
        assert 0 <= savings.n_granted <= per_request * savings.n_requests
        assert savings.balance >= 0

    def end(n_most, n_grown, share):
        if n_grown < share:
            savings.give_back(share - n_grown)
        else:
            before = savings.balance
            extra = savings.draw(n_most - share)
            assert extra == min(n_most - share, before)
        check()

    for n_most, n_grown in requests:
        share = savings.begin(n_most)
        assert share == min(n_most, per_request)  # whatever the others did
        check()
        open_requests.append((n_most, n_grown, share))
        if order.random() < 0.5:
            end(*open_requests.pop(order.randrange(len(open_requests))))
    for request in open_requests:
        end(*request)


def test_savings_are_spent_by_who_wants_more():
    """Three easy requests leave nine of twelve; a hard one may have up to what it asked for."""
    savings = Savings(4)
    for _ in range(3):
        savings.give_back(savings.begin(16) - 1)
    assert savings.begin(16) == 4
    assert savings.balance == 9
    assert savings.draw(16 - 4) == 9
    assert savings.draw(1) == 0


def test_a_request_brings_something():
    """A budget of nothing would answer nobody."""
    with pytest.raises(ValueError, match="at least 1"):
        Savings(0)
