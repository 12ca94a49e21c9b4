"""Answers by majority: one tree a prompt, and what easy prompts save goes to those that wanted more.

    python examples/adaptive_answers.py [ENGINE MODEL]

By default the embedded model on this machine; `scripted chain` needs no model.
"""

from __future__ import annotations

import sys

import eager

PROBLEMS = {
    "What is 12 + 9?": "21",
    "Tom has 3 apples and buys 2 more. How many apples has he?": "5",
    "A book costs 7 dollars. What do 6 books cost?": "42",
}
ASK = r" Put your final answer within \boxed{}."


def main(engine_name: str = "llama_cpp", model_name: str = "demo") -> None:
    engine = eager.load_engine(engine_name, model_name)
    rules = eager.BranchingParams(max_sequences=4, entropy_threshold=1.5)
    prompts = [problem + ASK for problem in PROBLEMS]

    # 1. One tree a prompt, all at once.
    trees = eager.generate(prompts, engine=engine, branching=rules, seed=55, max_tokens=80, progress=True)
    print(f"{sum(len(tree.sequences) for tree in trees)} of {4 * len(trees)} sequences used")

    # 2. The rest goes to the trees that were full. With labels it would go to those without a right answer:
    #    with eager.AnswerGrader(list(PROBLEMS.values())) as grader: eager.allocate(..., grader=grader)
    trees = eager.allocate(trees, engine=engine, progress=True)

    # 3. What the sequences of each prompt agree on.
    for problem, tree in zip(PROBLEMS, trees, strict=True):
        vote = eager.vote(tree)
        print(f"{problem} {vote.answer}, says {vote.n_votes} of {len(tree.sequences)}; right is {PROBLEMS[problem]}")
    engine.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
