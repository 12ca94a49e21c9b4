"""From a generated text to the answer in it, and to the program in that."""

import time

import pytest

from eager.code_eval.extract import answer_in, own_words, with_open_thought
from eager.code_eval.program import find_program

PROMPT = 'def add(a, b):\n    """Add."""\n'
CODE = "def add(a, b):\n    return a + b\n"
DOCSTRING = (
    'def add(a, b):\n    """Add.\n\n    ```python\n    >>> add(1, 2)\n    3\n    ```\n    """\n    return a + b\n'
)
IN_TRY = "try:\n    import operator as o\nexcept ImportError:\n    o = None\n\ndef add(a, b):\n    return o.add(a, b)\n"
HELPER, HELPED = "def plus(a, b):\n    return a + b\n", "def add(a, b):\n    return plus(a, b)\n"
TESTS = "import unittest\nfrom solution import add\n\nassert add(1, 2) == 3\n"


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```"


def indented(text: str, by: str) -> str:
    return "".join(by + line for line in text.splitlines(True))


def run(text: str, prompt: str = PROMPT) -> object:
    """What `add(1, 2)` gives when the cells of the program in `text` have run."""
    space: dict = {}
    for cell in find_program(answer_in(text), "add", prompt).cells:
        exec(compile(cell, "<program>", "exec", dont_inherit=True), space)
    return space["add"](1, 2)


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        fenced(CODE),
        fenced(CODE, ""),
        fenced(CODE, "Python"),
        fenced(CODE, "python3.11"),
        fenced(CODE, "{.python}"),
        f"Sure!\n\n{fenced(CODE)}\n\nThis adds.",
        f"~~~py\n{CODE}~~~",
        f"{fenced(CODE)}\nUse it so:\n{fenced('print(add(1, 2))')}",
        f"{fenced(CODE)}\nAnd its tests:\n{fenced(TESTS)}",
        f"First try:\n{fenced('def add(a, b): return a')}\nBetter:\n{fenced(CODE)}",
        f"{fenced(CODE)}\nFaster still:\n```python\ndef add(a, b):\n    for i in ran",  # the last that is whole
        f"<think>{fenced('def add(a, b): return 0')}</think>\n{fenced(CODE)}",
        f"<|channel|>analysis<|message|>{fenced('x = 1')}<|channel|>final<|message|>{fenced(CODE)}<|return|>",
        f"{fenced(CODE)}<|im_end|>",
        f"run it\n{fenced('python add.py', 'bash')}\n{fenced(CODE)}\n{fenced('3', 'text')}",
        f"1. So:\n   ```python\n{indented(CODE, '   ')}   ```",
        f"- ```python\n{indented(CODE, '  ')}  ```\n- It adds.",
        f"1. ```python\n{CODE}```",
        f"```python\n{CODE}",  # cut off before the fence closes
        f"```python\n{CODE}\n# tries\nassert add(1, 2) == 3\nassert add(1,",  # cut off after the function
        f"{fenced('def add(a, b): return 0')}\nBetter:\n```python\n{CODE}\nassert add(1,",
        f"\n```\n<|im_start|>\n{fenced(CODE)}",  # the fence of the instruction closes where the text begins
        f"{CODE}```\nThis adds a and b.",  # the prompt opened the block
        f"{CODE}```\nUse it:\n{fenced('print(add(1, 2))')}\nDone.",
        f"The code:```python\n{CODE.rstrip()}```\nis short.",
        f"```python {CODE}```",
        f"\ufeff```python\n\ufeff{CODE}```",
        f"\ufeff{CODE}",
        f"Here it is:\n\n{CODE}\nThis adds.",  # no fence at all
        DOCSTRING,
        fenced(DOCSTRING),
        f"So:\n{fenced(DOCSTRING)}\nor not",
        f"Draft:\n{fenced('def add(a, b): return 0')}\nAt last:\n{fenced(DOCSTRING)}",
        fenced(f"if True:\n{indented(CODE, '    ')}"),
        fenced("import functools\n\n@functools.cache\ndef add(a, b):\n    return a + b\n"),
        fenced(f"x, y = 1, 2\nfor i in range(3):\n    x += i\n{CODE}"),
        fenced(IN_TRY),
        fenced("from operator import add\n"),
        fenced("add = lambda a, b: a + b\n"),
        fenced("from __future__ import annotations\n" + CODE),
        f"{fenced(HELPER)}\nNow\n{fenced(HELPED)}",
        f"{fenced(HELPED)}\nwith\n{fenced(HELPER)}",
        f"{fenced('import operator')}\n{fenced('plus = operator.add')}\n{fenced(HELPED)}",
    ],
)
def test_the_program_is_found(text):
    """The last that is whole and defines the function, after the thinking section, with the blocks that it needs."""
    assert run(text) == 3


@pytest.mark.parametrize(
    "body", ["    return a + b\n", "\n    return a + b\n", "    c = a\n\n    c += b\n    return c\n"]
)
@pytest.mark.parametrize("wrap", [str, fenced, str.lstrip, "{}```\nThis adds.".format, "{}\n\nThis adds.".format])
def test_a_mere_body_goes_on_where_the_prompt_ends(body, wrap):
    """As a base model writes it, in the block that the prompt opened or not, whatever became of its first indent."""
    assert run(wrap(body)) == 3


def test_a_body_may_have_lost_all_its_indent():
    """The prompt says how deep it was."""
    assert run("c = a\nfor _ in range(b):\n    c += 1\nreturn c\n") == 3


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        (CODE + "# no more\n", [CODE + "# no more\n"]),  # all of it, as it is
        (f"{fenced('add = 0')}\n{fenced(CODE)}\n{fenced('print(add)')}", [CODE]),  # what is not needed is not run
        (fenced("class A:\n    def add(self): ...\n"), ["class A:\n    def add(self): ...\n"]),
        (fenced("def address(): return 1\n"), ["def address(): return 1\n"]),
        ("I will not return it.", [""]),
        (f"{fenced('def add(a, b:')}\n{fenced('print(add(1, 2))')}", ["def add(a, b:\n"]),
        (f"```python\n{PROMPT}    return a +", [f"{PROMPT}    return a +\n"]),  # cut off inside the function
    ],
)
def test_what_is_run(text, cells):
    """No more than the program and what it needs; a method or a longer name is no definition, prose no program."""
    assert [*find_program(text, "add", PROMPT).cells] == cells


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"<think>maybe {fenced(CODE)}", None),
        (f"<|channel|>analysis<|message|>{fenced(CODE)}", None),
        ("  \n<think>hm", None),
        ("<think>hm</think>", ""),
        ("<think>hm</think>42<|im_end|>", "42"),
        ("hm</think>42", "42"),  # the prompt opened it
        ("<think>hm</think>42\n<think>or is it", "42\n"),
        (CODE, CODE),
        ("", ""),
    ],
)
def test_the_answer_is_after_the_end_of_thinking(text, answer):
    """An unfinished thought holds none; a model that does not think says nothing else."""
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    ("opening", "is_open"),
    [
        ("<｜User｜>Add.<｜Assistant｜><think>\n", True),  # noqa: RUF001
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("Write your thoughts after <think>.<|im_start|>assistant\n", False),
        ("", False),
        ("<|start|>assistant<|channel|>analysis<|message|>", True),
    ],
)
def test_a_thought_that_the_template_opened_is_one(opening, is_open):
    """Its mark is in the prompt, not in the model's words."""
    assert (answer_in(with_open_thought(CODE, opening)) is None) == is_open
    assert answer_in(with_open_thought(f"hm</think>{CODE}", opening)) == CODE


def test_own_words_leave_the_prompt_out():
    """With the template around it, as the published files have it."""
    text = f"<|im_start|>user\nDo:\n```\n{PROMPT}```\n<|im_end|>\n<|im_start|>assistant\n{CODE}"
    assert own_words(text, PROMPT).strip() == CODE.strip()
    assert own_words(CODE, "elsewhere") == CODE
    assert own_words(PROMPT + "    return 1", PROMPT).strip() == "return 1"


def test_finding_a_program_is_bounded():
    """A text of nothing but fences, or of what nearly parses, is read at once."""
    fences = ("```\n" * 100_000 + CODE, "`" * 1_000_000, "```python\n" * 100_000, "</think>" * 100_000, "- " * 300_000)
    nearly = ("def add(\n" * 5_000, "return add\n" * 10_000, fenced("def add(:\n") * 2_000, "x" * 300_000 + " ```")
    began = time.process_time()
    for text in (*fences, *nearly):
        find_program(answer_in(text), "add", PROMPT)
    assert time.process_time() - began < 30  # two, where nothing is quadratic
