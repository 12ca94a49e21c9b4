"""Small models made for a test: a GGUF that llama.cpp loads, and folders as Hugging Face lays them out."""

import json
import struct
from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1000\n"
CONTROL = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
_WIDTH = 64


def _byte_characters():
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


class Array(list):
    """A GGUF array of texts or of whole numbers."""


def _text(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value):
    """(kind, bytes)."""
    if isinstance(value, Array):
        if isinstance(value[0], int):
            return 9, struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
        return 9, struct.pack("<IQ", 8, len(value)) + b"".join(map(_text, value))
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    return (4, struct.pack("<I", value)) if isinstance(value, int) else (8, _text(value))


def tokenizer_facts():
    """A tokenizer of single bytes and two control tokens, and a chat template."""
    tokens = [*_byte_characters(), "ab", *CONTROL]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": Array(tokens),
        "tokenizer.ggml.token_type": Array([1] * 257 + [3] * len(CONTROL)),
        "tokenizer.ggml.merges": Array(["a b"]),
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def write_gguf(path, architecture="llama", *, layers=2, heads=2, kv_heads=1, head_size=None, replaced=None):
    """A model of zeros whose numbers can be chosen; `replaced` are facts by their names, None takes one away."""
    size = head_size or _WIDTH // heads
    found = {
        "general.architecture": architecture,
        f"{architecture}.context_length": 512,
        f"{architecture}.embedding_length": _WIDTH,
        f"{architecture}.block_count": layers,
        f"{architecture}.feed_forward_length": _WIDTH,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
        **tokenizer_facts(),
    }
    if head_size:
        found |= {f"{architecture}.attention.{part}_length": head_size for part in ("key", "value")}
        found[f"{architecture}.rope.dimension_count"] = head_size
    found = {name: value for name, value in {**found, **(replaced or {})}.items() if value is not None}
    n_vocab = 257 + len(CONTROL)
    tensors = {
        "token_embd.weight": (_WIDTH, n_vocab),
        "output_norm.weight": (_WIDTH,),
        "output.weight": (_WIDTH, n_vocab),
    }
    for layer in range(layers):
        n_kv = kv_heads[layer] if isinstance(kv_heads, Array) else kv_heads
        shapes = {"attn_norm": (_WIDTH,), "ffn_norm": (_WIDTH,), "attn_q": (_WIDTH, heads * size)}
        shapes |= {
            "attn_k": (_WIDTH, n_kv * size),
            "attn_v": (_WIDTH, n_kv * size),
            "attn_output": (heads * size, _WIDTH),
        }
        shapes |= dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), (_WIDTH, _WIDTH))
        if architecture == "qwen3":
            shapes |= {"attn_q_norm": (size,), "attn_k_norm": (size,)}
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    _write(path, found, tensors)
    return path


def _write(path, facts, tensors):
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(facts))
    for name, value in facts.items():
        kind, raw = _value(value)
        header += _text(name) + struct.pack("<I", kind) + raw
    offset = 0
    for name, shape in tensors.items():
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        n_weights = shape[0] * (shape[1] if len(shape) > 1 else 1)
        offset += -(-n_weights * 4 // 32) * 32
    header += bytes(-len(header) % 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + offset)


def write_safetensors(path: Path, n_bytes=400):
    header = json.dumps({"weight": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(n_bytes))


def write_folder(folder: Path, **config):
    """A folder that looks whole from outside."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    write_safetensors(folder / "model.safetensors")
    return folder
