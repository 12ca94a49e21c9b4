"""Records golden traces from the real embedded model: what it delivered, and the tree that came of it.

    python tests/golden/record_traces.py [CASE …]

Run it when the trees are meant to change, for the cases that are; the diff of the traces shows how.
"""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import asdict
from pathlib import Path

from eager.engines.llama_cpp import LlamaCppEngine
from eager.generator import Generator
from eager.types import BranchConfig, Delta, Request, SamplingParams, TreeJob

FOLDER = Path(__file__).parent
CASES = {
    "top2": {"question": "What is 12 + 9?", "config": {"max_sequences": 4, "entropy_threshold": 1.2}},
    "distinct": {
        "question": "Name a colour and say why you like it.",
        "config": {"max_sequences": 5, "entropy_threshold": 2.0, "branch_rule": "distinct"},
    },
    "sample": {
        "question": "Tom has 3 apples and buys 2 more. How many has he?",
        "config": {"max_sequences": 4, "entropy_threshold": 1.8, "branch_rule": "sample"},
    },
    "percentile": {
        "question": "Why is the sky blue?",
        "config": {"max_sequences": 6, "entropy_threshold": 1.0, "threshold_percentile": 90.0},
    },
    "varentropy": {
        "question": "Why is the sky blue?",
        "config": {
            "max_sequences": 6,
            "entropy_threshold": 2.9,
            "varentropy_threshold": 1.6,
            "varentropy_max_entropy": 1.5,
        },
    },
    "stop_after": {
        "question": "What is 7 + 5?",
        "config": {"max_sequences": 6, "entropy_threshold": 1.0, "stop_after": 1},
    },
}
N_TOKENS = 40


class RecordingEngine(LlamaCppEngine):
    """Notes for every prefix what the model said of the next token, and what was drawn."""

    def __init__(self) -> None:
        super().__init__("demo", n_cells=4096, max_model_len=1024)
        self.trace: list[dict[str, object]] = []
        self._prefixes: dict[int, list[int]] = {}

    def open(self, request: Request) -> None:
        self._prefixes[request.seq_id] = list(request.token_ids)
        super().open(request)

    def step(self) -> list[Delta]:
        deltas = super().step()
        for delta in deltas:
            prefix, (token,) = self._prefixes[delta.seq_id], delta.tokens
            line: dict[str, object] = {"seq": delta.seq_id, "at": len(prefix), "token": token.id}
            if token.entropy is not None:
                line["best"] = token.best_ids
                line["logprobs"] = [round(logprob, 6) for logprob in token.best_logprobs]
                line["entropy"] = token.entropy
            line["finish"] = delta.finish_reason
            self.trace.append(line)
            prefix.append(token.id)
        return deltas


def main() -> None:
    engine = RecordingEngine()
    for name in sys.argv[1:] or CASES:
        case = CASES[name]
        engine.trace.clear()
        ids = tuple(engine.encode_chat([{"role": "user", "content": case["question"]}]))
        job = TreeJob(0, ids, BranchConfig(**case["config"]), SamplingParams(), len(ids) + N_TOKENS, seed=55)
        generator = Generator(engine)
        generator.add(job)
        ((_, tree),) = generator.run()
        golden = {
            "job": {"prompt_ids": ids, "seed": 55, "config": {**case["config"], "max_length": len(ids) + N_TOKENS}},
            "stops": {"stop_ids": sorted(engine.stops.stop_ids), "thinking_end": engine.stops.thinking_end},
            "trace": engine.trace,
            "tree": asdict(tree),
        }
        data = json.dumps(golden, separators=(",", ":")).encode()
        (FOLDER / f"{name}.json.gz").write_bytes(gzip.compress(data, mtime=0))
        print(f"{name}: {len(tree.sequences)} sequences, {len(engine.trace)} tokens")
    engine.shutdown()


if __name__ == "__main__":
    main()
