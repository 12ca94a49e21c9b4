"""Samples for training: every token a draw of the model, with its log-probability; one JSON line a tree.

    python examples/export_for_training.py OUTPUT.jsonl [ENGINE MODEL]

By default the scripted engine, which needs no model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import eager


def main(output: str, engine_name: str = "scripted", model_name: str = "chain") -> None:
    engine = eager.load_engine(engine_name, model_name)
    # `sample` forks before the token and lets both draw: no token is forced, so that every sequence is on-policy.
    rules = eager.BranchingParams(max_sequences=8, entropy_threshold=1.5, branch_rule="sample")
    # At temperature 1 and without truncation the recorded log-probabilities are those it was drawn with.
    sampling = eager.SamplingParams(temperature=1.0)
    prompts = ["How many are left?", "How many were there?", "How many come?"]
    trees = eager.generate(prompts, engine=engine, branching=rules, sampling=sampling, max_tokens=60, record_all=True)
    engine.shutdown()

    with Path(output).open("w", encoding="utf-8") as file:
        for tree in trees:
            file.write(eager.to_json(tree) + "\n")

    # What a trainer reads.
    for line in Path(output).read_text(encoding="utf-8").splitlines():
        tree = eager.from_json(line)
        for sequence in tree.sequences:
            known = [logprob for logprob in sequence.logprobs if logprob is not None]
            print(f"{tree.prompt_index}/{sequence.index}: {len(sequence.token_ids)} tokens, log p = {sum(known):.2f}")
        print(f"{tree.n_tokens} tokens generated, {tree.n_tokens_naive} without shared prefixes")


if __name__ == "__main__":
    main(*sys.argv[1:])
