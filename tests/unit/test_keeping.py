"""How often a result file is rewritten while a run is at work: on a clock of the test's own."""

import pytest

from eager.keeping import Pace


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def rewritten(n_prompts: int, *, seconds_each: float, writing_each: float, n_before: int = 0):
    """How many seconds each rewriting took, and how many all of it, of a run that finishes a prompt now and then."""
    clock = Clock()
    pace, began, writes = Pace(clock), clock.seconds, []
    for n in range(n_before + 1, n_before + n_prompts + 1):
        clock.seconds += seconds_each
        if pace.is_due(n):
            with pace.writing(n):
                clock.seconds += writing_each * n
            writes.append(writing_each * n)
    return writes, clock.seconds - began


@pytest.mark.parametrize("writing_each", [1e-5, 1e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("seconds_each", [0.05, 1.0, 30.0])
def test_rewriting_takes_a_fiftieth_of_the_time_at_most(seconds_each, writing_each):
    """Whatever a prompt takes and its part of the file does; the first rewriting aside, of which nothing is known."""
    writes, seconds = rewritten(20_000, seconds_each=seconds_each, writing_each=writing_each)
    assert sum(writes[1:]) <= seconds / 50
    assert len(writes) >= 1


def test_a_cheap_file_is_rewritten_every_half_minute():
    """Not at every prompt: it is for a human who looks at it."""
    writes, seconds = rewritten(2_000, seconds_each=1.0, writing_each=1e-6)
    assert len(writes) == pytest.approx(seconds / 30, rel=0.05)


def test_a_dear_file_is_written_once_and_then_not_until_it_has_paid():
    """A run that goes on with 20,000 prompts behind it, of which a rewriting takes a minute: next after 50 minutes."""
    writes, _ = rewritten(2_900, seconds_each=1.0, writing_each=0.003, n_before=20_000)
    assert len(writes) == 1
    writes, _ = rewritten(8_000, seconds_each=1.0, writing_each=0.003, n_before=20_000)
    assert len(writes) == 2
