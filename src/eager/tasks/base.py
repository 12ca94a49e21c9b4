"""What a task is: problems, how to ask them, how to grade them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from eager.errors import EagerError
from eager.grading import AnswerKind, Fallback, Graded, MathGrader, grade

Row: TypeAlias = Mapping[str, Any]
PromptStyle = Literal["instructed", "published"]

BOXED_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
PROBLEM_MARK = "{problem}"


class TaskError(EagerError):
    """The problems cannot be loaded; the message is one sentence that names the culprit and the remedy."""


@dataclass(frozen=True)
class Problem:
    """`prompt` is the problem alone, without instruction; `target` None where nobody can grade it (yet)."""

    index: int
    prompt: str
    target: str | None
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class HubSource:
    """Where a dataset lies on the Hugging Face hub; the rows of its configs follow one another."""

    path: str
    configs: tuple[str | None, ...]
    split: str


@dataclass(frozen=True)
class Task:
    """One benchmark. `to_problem` makes a Problem of a row (that has `columns`) and its index, or raises TaskError.

    `instruction` comes after the problem, or around it where it contains {problem}. `published_instruction` is what
    the paper's code asks with in its place: nothing, mostly; None where it does not know the task. `examples` are
    (problem, answer) turns that come first in the chat.
    """

    name: str
    title: str
    citation: str
    instruction: str
    answer_kind: AnswerKind
    columns: tuple[str, ...]
    to_problem: Callable[[Row, int], Problem]
    published_instruction: str | None = ""
    hub: HubSource | None = None
    fallback: Fallback = "none"
    examples: tuple[tuple[str, str], ...] = ()

    def instruction_in(self, style: PromptStyle) -> str:
        """How the task asks in this style; one that the published code does not know has only its own."""
        is_published = style == "published" and self.published_instruction is not None
        return (self.published_instruction or "") if is_published else self.instruction


@dataclass(frozen=True)
class LoadedTask:
    """A task with its problems in hand. `system_prompt` comes first in every chat; None leaves it to the template."""

    task: Task
    problems: tuple[Problem, ...]
    instruction: str
    system_prompt: str | None = None

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The chat that asks `problem`: {"role": ..., "content": ...} a turn, the last one the user's."""
        turns = [] if self.system_prompt is None else [{"role": "system", "content": self.system_prompt}]
        for asked, answered in self.task.examples:
            turns.append({"role": "user", "content": self.ask(asked)})
            turns.append({"role": "assistant", "content": answered})
        return [*turns, {"role": "user", "content": self.ask(problem.prompt)}]

    def ask(self, prompt: str) -> str:
        """The user's turn: `prompt` with the instruction in its place."""
        if PROBLEM_MARK in self.instruction:
            return self.instruction.replace(PROBLEM_MARK, prompt)
        return f"{prompt}\n\n{self.instruction}" if self.instruction else prompt

    def grade(self, text: str, problem: Problem, grader: MathGrader) -> Graded:
        """`text` (what the model wrote, without the prompt) against the problem's target."""
        return grade(text, problem.target, self.task.answer_kind, grader, self.task.fallback)
