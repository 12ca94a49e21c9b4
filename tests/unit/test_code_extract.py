"""From a generated text to the program in it."""

import pytest

from eager.code_eval.extract import defines, extract_program, own_words

PROMPT = 'def add(a, b):\n    """Add."""\n'
CODE = "def add(a, b):\n    return a + b\n"


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```"


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        fenced(CODE),
        fenced(CODE, ""),
        fenced(CODE, "Python"),
        f"Sure!\n\n{fenced(CODE)}\n\nThis adds.",
        f"~~~py\n{CODE}~~~",
        f"{fenced(CODE)}\nUse it so:\n{fenced('print(add(1, 2))')}",
        f"First try:\n{fenced('def add(a, b): return a')}\nBetter:\n{fenced(CODE)}",
        f"<think>{fenced('def add(a, b): return 0')}</think>\n{fenced(CODE)}",
        f"<|channel|>analysis<|message|>{fenced('x = 1')}<|channel|>final<|message|>{fenced(CODE)}<|return|>",
        f"{fenced(CODE)}<|im_end|>",
        f"run it\n{fenced('python add.py', 'bash')}\n{fenced(CODE)}\n{fenced('3', 'text')}",
        f"1. So:\n   ```python\n{''.join('   ' + line for line in CODE.splitlines(True))}   ```",
        f"```python\n{CODE}",  # cut off before the fence closes
        f"\n```\n<|im_start|>\n{fenced(CODE)}",  # the fence of the instruction closes where the text begins
    ],
)
def test_the_program_is_found(text):
    """The last block that defines the function, after the thinking section; else the whole text."""
    assert extract_program(text, "add", PROMPT).strip() == CODE.strip()


@pytest.mark.parametrize("text", ["", "  \n", "<think>hm</think>", "<think>x</think>\n```python\n```"])
def test_no_program(text):
    """Nothing after the thinking section is no program."""
    assert extract_program(text, "add", PROMPT) is None


@pytest.mark.parametrize("body", ["    return a + b\n", "\n    return a + b\n"])
@pytest.mark.parametrize("wrap", [str, fenced])
def test_a_mere_body_goes_on_where_the_prompt_ends(body, wrap):
    """What begins indented is the rest of the function, as a base model writes it."""
    program = extract_program(wrap(body), "add", PROMPT)
    space: dict = {}
    exec(program, space)
    assert space["add"](1, 2) == 3


def test_defines_means_at_the_top_level():
    """A method, a comparison or a longer name is no definition."""
    assert defines("import x\nasync def add(): ...", "add")
    assert defines("add = lambda a, b: a + b", "add")
    assert not defines("class A:\n    def add(self): ...", "add")
    assert not defines("def address(): ...\nadd == 1", "add")


def test_own_words_leave_the_prompt_out():
    """With the template around it, as the published files have it."""
    text = f"<|im_start|>user\nDo:\n```\n{PROMPT}```\n<|im_end|>\n<|im_start|>assistant\n{CODE}"
    assert own_words(text, PROMPT).strip() == CODE.strip()
    assert own_words(CODE, "elsewhere") == CODE
    assert own_words(PROMPT + "    return 1", PROMPT).strip() == "return 1"


def test_extraction_takes_linear_time():
    """A text of nothing but fences is read at once."""
    for text in ("```\n" * 100_000 + CODE, "`" * 1_000_000, "```python\n" * 100_000, "</think>" * 100_000):
        extract_program(text, "add", PROMPT)
