"""The token that stands for a branch is one that no text needs, or none."""

import pytest

from eager.engines._pause_token import pause_token

CHAT = {"<|im_start|>": 90, "<|im_end|>": 91, "</think>": 92}


@pytest.mark.parametrize(
    ("n_vocab", "added", "used", "found"),
    [
        (128, CHAT, [], 127),  # a row that no text becomes
        (100, {**CHAT, "<|fim_pad|>": 95, "<|repo_name|>": 94}, [], 94),
        (100, {**CHAT, "<|reserved_special_token_7|>": 97}, [], 97),
        (100, {**CHAT, "<pad>": 93, "<unused3>": 94}, [93], 94),
        (128, {**CHAT, "<unused3>": 94}, [127], 94),
        (100, CHAT, [], None),
    ],
)
def test_the_token_that_stands_for_a_branch(n_vocab, added, used, found):
    """Padding before reserved names before none; never one that ends a sequence, or that chats have."""
    assert pause_token(n_vocab, 100, added, used) == found
