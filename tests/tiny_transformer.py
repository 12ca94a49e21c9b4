"""A small causal language model of transformers with random weights, and a tokenizer of single bytes."""

from typing import Any

from made_models import CONTROL, TEMPLATE, _byte_characters


def tokenizer() -> Any:
    """GPT-2's bytes, and two control tokens; the second ends a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {text: number for number, text in enumerate([*_byte_characters(), "ab"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(CONTROL))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=CONTROL[1], pad_token=CONTROL[0])
    wrapped.chat_template = TEMPLATE
    return wrapped


def model(*, seed: int = 0, sharpness: float = 1.0) -> Any:
    """A Llama of 2 layers; `sharpness` multiplies its logits, so that some tokens are likely."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=257 + len(CONTROL), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.3,
        bos_token_id=None, eos_token_id=258, pad_token_id=257,
    )  # fmt: skip
    made = LlamaForCausalLM(config)
    with torch.no_grad():
        made.lm_head.weight.mul_(sharpness)
    return made.eval()
