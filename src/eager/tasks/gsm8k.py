"""GSM8K: 1,319 grade-school word problems (test split); the answer is the integer after "####".

Cobbe, Kosaraju, Bavarian, Chen, Jun, Kaiser, Plappert, Tworek, Hilton, Nakano, Hesse, Schulman: Training Verifiers to
Solve Math Word Problems, 2021. Dataset: https://huggingface.co/datasets/openai/gsm8k
"""

from eager.tasks.base import BOXED_INSTRUCTION, HubSource, Problem, Row, Task, TaskError
from eager.tasks.cells import required


def _to_problem(row: Row, index: int) -> Problem:
    _, mark, final = required(row, "answer", index).rpartition("####")
    target = final.strip().replace(",", "")
    if not mark or not target:
        raise TaskError(f"row {index + 1} has no '#### <number>' at the end of its answer: add it")
    return Problem(index, required(row, "question", index), target, {})


GSM8K = Task(
    name="openai/gsm8k",
    title="GSM8K (test)",
    citation="Cobbe et al., Training Verifiers to Solve Math Word Problems, arXiv 2110.14168, 2021",
    instruction=BOXED_INSTRUCTION,
    answer_kind="math",
    columns=("question", "answer"),
    to_problem=_to_problem,
    hub=HubSource("openai/gsm8k", ("main",), "test"),
    fallback="hashes",
)
