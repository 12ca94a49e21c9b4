"""An engine whose sequences end at texts, too."""

import pytest

from eager.engines.scripted import ScriptedEngine
from eager.engines.text_stops import TextStops
from eager.generator import Generator
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams, Stops, TreeJob

VOCABULARY = ("<end>", "a", "b", "c", "ab")
SURE = BranchConfig(1, MAX_ENTROPY)


def engine(script, **options) -> TextStops:
    given = {"stops": Stops(frozenset({0})), "vocabulary": VOCABULARY, "max_model_len": 64, **options}
    return TextStops(ScriptedEngine(script=script, **given))


def saying(*ids):
    """A script that says these tokens and ends."""
    return lambda tokens: {(*ids, 0)[len(tokens) - 1]: 1.0}


def grown(on: TextStops, rules=SURE, n_roots=1, **fields):
    generator = Generator(on)
    generator.add(TreeJob(0, (9,), rules, SamplingParams(), 40, seed=1, n_roots=n_roots, **fields))
    ((_, tree),) = generator.run()
    return tree


@pytest.mark.parametrize("tokens_per_step", [1, 3])
@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (("bc",), [1, 2, 3]),
        (("c", "b"), [1, 2]),
        (("abc",), [1, 2, 3]),
        (("x",), [1, 2, 3, 4, 0]),
        ((), [1, 2, 3, 4, 0]),
    ],
)
def test_a_sequence_ends_with_the_token_that_completes_a_stop_text(stops, expected, tokens_per_step):
    """However many tokens it is made of, and however many come at once."""
    tree = grown(engine(saying(1, 2, 3, 4), tokens_per_step=tokens_per_step), stop_texts=stops)
    assert list(tree.sequences[0].token_ids) == expected
    assert tree.sequences[0].finish_reason == "stop"


def test_others_go_on():
    """Those that do not say it, and those of requests without stop texts."""
    on = engine(lambda tokens: {1: 0.5, 2: 0.5} if len(tokens) < 4 else {0: 1.0})
    tree = grown(on, BranchConfig(8, MAX_ENTROPY), n_roots=8, stop_texts=("b",))
    texts = {on.decode(sequence.token_ids) for sequence in tree.sequences}
    assert all("b" not in text[:-1] for text in texts)
    assert "aaa<end>" in texts or any(text.endswith("b") for text in texts)
    assert on.has_room
    assert len(grown(on).sequences[0].token_ids) == 4


def test_a_tree_does_not_branch_beyond_a_stop_text():
    """Every one of its sequences ends there."""
    on = engine(lambda tokens: dict.fromkeys((1, 2, 3), 1 / 3))
    tree = grown(on, BranchConfig(6, 0.5), stop_texts=("bb",))
    assert len(tree.sequences) == 6
    for sequence in tree.sequences:
        text = on.decode(sequence.token_ids)
        assert sequence.finish_reason == "length" or text.endswith("bb")
        # A token that a branch put there completes the text unseen; the next one is then not taken.
        assert text.count("bb") <= 1


def test_the_engine_beneath_is_left_as_it_was():
    """Nothing is watched or driven any more when all is over."""
    on = engine(saying(1, 2, 3))
    grown(on, stop_texts=("b",))
    assert on.driver is None
    assert not on._watched
    assert grown(on).sequences[0].token_ids == (1, 2, 3, 0)
