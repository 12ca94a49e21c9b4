"""Answers to HumanEval/0 as models write them, and what each is worth: run as a whole, and sanitized by EvalPlus."""

from dataclasses import dataclass
from textwrap import indent

from hostile_code import RIGHT

CLOSE = RIGHT.strip() + "\n"
HEAD = "def has_close_elements(numbers, threshold):\n"
BODY = CLOSE.removeprefix(HEAD)


@dataclass(frozen=True)
class Answer:
    """`reason`: why it fails as a whole, None where it passes."""

    name: str
    text: str
    reason: str | None
    passes_evalplus: bool


def _fenced(code: str) -> str:
    return f"So:\n```python\n{code}```\nThat is all."


def _using(definition: str, call: str = "close(numbers, threshold)") -> str:
    return f"{definition}\n{HEAD}    return {call}\n"


_HELPER = CLOSE.replace("has_close_elements", "close")
_DECORATOR = "def same(function):\n    return function\n\n@same\n"
_TABLE = "LESS = {}\nfor name in ('a', 'b'):\n    LESS[name] = lambda a, b: a < b\n"
_TYPED = CLOSE.replace("(numbers, threshold)", "(numbers: List[float], threshold: float) -> bool")
_DOCUMENTED = f'{HEAD}    """Whether two are close.\n\n    ```\n    >>> f([1], 2)\n    ```\n    """\n{BODY}'
_HINTS = "from typing import List, get_type_hints\n" + _TYPED.replace(
    BODY, f"    assert get_type_hints(has_close_elements)['threshold'] is float\n{BODY}"
)
_READS = _TYPED.replace("List[float]", "list").replace(
    BODY, f"    assert has_close_elements.__annotations__['threshold'] is float\n{BODY}"
)

ANSWERS = (
    Answer("plain", _fenced(CLOSE), None, True),
    Answer("decorated function", _fenced(f"import math\n\n{_DECORATOR}{CLOSE}"), None, False),
    Answer("decorated helper", _fenced(_using(_DECORATOR + _HELPER)), None, False),
    Answer(
        "tuple assignment",
        _fenced(_using("LESS, MORE = True, False\n" + _HELPER, "close(numbers, threshold) is LESS or MORE")),
        None,
        False,
    ),
    Answer(
        "table filled in a loop",
        _fenced(_TABLE + CLOSE.replace("b - a < threshold", "LESS['a'](b - a, threshold)")),
        None,
        False,
    ),
    Answer(
        "import in try",
        _fenced(
            _using(
                "try:\n    import nothing as n\nexcept ImportError:\n    import operator as n\n" + _HELPER,
                "n.truth(close(numbers, threshold))",
            )
        ),
        None,
        False,
    ),
    Answer("helper in a block before", _fenced(_HELPER) + _fenced(_using("")), None, False),
    Answer("helper in a block after", _fenced(_using("")) + _fenced(_HELPER), None, False),
    Answer(
        "helper without return",
        _fenced(
            _using("SEEN = []\ndef note(x):\n    SEEN.append(x)\n" + _HELPER, "note(1) or close(numbers, threshold)")
        ),
        None,
        False,
    ),
    Answer("function inside if", _fenced(f"if True:\n{indent(CLOSE, '    ')}"), None, True),
    Answer("fence in its docstring", _fenced(_DOCUMENTED), None, True),
    Answer("fence in its docstring, no block", _DOCUMENTED, None, True),
    Answer("block in a list", f"- ```python\n{indent(CLOSE, '  ')}  ```\n- It sorts.", None, True),
    Answer("fences glued to text", f"So:```python\n{CLOSE.rstrip()}```\nThat is all.", None, True),
    Answer("byte-order mark", f"\ufeff```python\n\ufeff{CLOSE}```", None, True),
    Answer("block opened by the prompt", f"{CLOSE}```\nThis sorts the numbers first.", None, True),
    Answer("body", BODY, None, True),
    Answer("body without its first indent", f"{BODY.strip()}\n```\nThis sorts.", None, True),
    Answer(
        "tests in the next block", _fenced(CLOSE) + _fenced("from solution import has_close_elements\n"), None, True
    ),
    Answer("cut off in its example", f"```python\n{CLOSE}\nprint(has_close_elements([1.0, 2.0], ", None, True),
    Answer("no block", f"This sorts first.\n\n{CLOSE}\nIt takes O(n log n).", None, True),
    Answer("example that fails", _fenced(f"{CLOSE}\nassert has_close_elements([1.0], 2.0)\n"), None, True),
    Answer(
        "example that reads input", _fenced(f"{CLOSE}\nprint(has_close_elements([float(input())], 1))\n"), None, True
    ),
    Answer(
        "example that exits", _fenced(f"{CLOSE}\nimport sys\nsys.exit(has_close_elements([1.0], 2.0))\n"), None, True
    ),
    Answer("main block", _fenced(f"{CLOSE}\nif __name__ == '__main__':\n    while True:\n        pass\n"), None, True),
    Answer("reads its annotations", _fenced(_READS), None, True),
    Answer("resolves its annotations", _fenced(_HINTS), None, True),
    Answer(
        "name used before it is there", _fenced(f"print(has_close_elements([1.0], 2.0))\n{CLOSE}"), "NameError", True
    ),
    Answer("no import of List", _fenced(_TYPED), "NameError", False),
    Answer("wrong after right", _fenced(CLOSE) + _fenced(f"{HEAD}    return False\n"), "wrong output", False),
    Answer("redefined in a loop", _fenced(f"{CLOSE}\nfor has_close_elements in [max]:\n    pass\n"), "TypeError", True),
    Answer("another name", _fenced(_HELPER), "no code", False),
    Answer("prose", "I cannot do that.", "no code", False),
    Answer("nothing", "<think>hm</think>", "no code", False),
    Answer("unfinished thought", f"<think>perhaps\n{_fenced(CLOSE)}", "unfinished thought", False),
    Answer("cut off in the function", f"```python\n{HEAD}    return any(", "SyntaxError", False),
)
