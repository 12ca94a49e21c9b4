"""Trees as they grow: branches as they happen, sequences as they end, without holding up an asyncio program.

    python examples/stream_events.py [ENGINE MODEL]

By default the scripted engine, which needs no model.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import eager


async def main(engine_name: str = "scripted", model_name: str = "chain") -> None:
    engine = eager.load_engine(engine_name, model_name)
    rules = eager.BranchingParams(max_sequences=6, entropy_threshold=1.5)
    prompts = ["Which sum is larger?", "What comes next, and why?"]

    events = eager.astream(prompts, engine=engine, branching=rules, seed=55, max_tokens=60)
    async with aclosing(events):  # left in the middle, by break or by an error, it drops the rest at once
        async for event in events:
            tell(event)
    engine.shutdown()


def tell(event: eager.Event) -> None:
    match event:
        case eager.Branched(prompt, branch):
            print(f"prompt {prompt}: {branch.seq} forks at token {branch.position}, entropy {branch.entropy:.2f}")
        case eager.Ended(prompt, sequence):
            print(f"prompt {prompt}: {sequence.index} ends ({sequence.finish_reason}): {sequence.text!r}")
        case eager.Finished(prompt, tree):
            print(f"prompt {prompt}: whole, {len(tree.sequences)} sequences for {tree.n_tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
