"""Which program an answer holds. Stands alone, as `guest` does, and runs with it in the sandbox: parsing may crash.

An answer is cut at its fences into pieces, without a guess which of them are code and which are prose: what parses and
defines the function is. Everything is bounded by counts, not by the clock, so that a slow machine finds the same.
"""

from __future__ import annotations

import builtins
import re
import symtable
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_PYTHON = re.compile(r"(?:i?py[\w.]*|)", re.IGNORECASE)  # no language may be Python
_MARKS = r"(?:`{3,}|~{3,})"
# "- ```python", "  1. ```": a fence may stand in a list or a quotation.
_FENCE = re.compile(rf"[ \t]*(?:(?:[-*+>]|\d{{1,3}}[.)])[ \t]+)*{_MARKS}[ \t]*(?P<language>[\w+#.-]*)(?P<info>[^`]*)")
_CODE_AFTER = r"(?=(?:def|class|from|import|async|@)\b|@)"
_GLUED_CODE = re.compile(rf"(```[ \t]*(?:i?py[\w.]*))[ \t]+{_CODE_AFTER}", re.IGNORECASE)
_GLUED_FENCE = re.compile(r"(?P<text>(?:(?!```).)*\S)[ \t]*(?P<fence>```[\w+#.-]*)[ \t]*")
# What no editor shows and no Python reads, where a line begins.
_INVISIBLE = re.compile(r"^[\ufeff\u200b\u2060]+", re.MULTILINE)
_BEGINS_CODE = re.compile(r"@|(?:async|def|class|import|from|if|try|for|while|with)\b|[A-Za-z_][\w, ]*(?::[^\n=]*)?=")
_RETURNS = re.compile(r"\b(?:return|yield)\b")
_MOST_PIECES, _MOST_MERGED, _MOST_TRIES = 60, 12, 200


@dataclass(frozen=True, slots=True)
class Program:
    """`main` defines the function; `cells` are what to run one after the other in one namespace, `main` among them."""

    main: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """What stands between two fences, with the line of the fence before it."""

    fence: str
    language: str
    code: str


@dataclass(frozen=True, slots=True)
class _Names:
    """Of a program's outermost level: what it defines or assigns to, what it imports, what it needs from elsewhere."""

    defined: frozenset[str]
    imported: frozenset[str]
    needed: frozenset[str]


def find_program(answer: str, entry_point: str, prompt: str) -> Program:
    """The program in `answer`: all of it if that parses and defines `entry_point`, else the last piece that does.

    Else the longest part of one, where prose stands around it or its end is missing; else the rest of the function
    that `prompt` begins. Where nothing parses, the piece that looks like it; nothing where none so much as names the
    function. Other pieces that the program needs go with it.
    """
    text = _INVISIBLE.sub("", answer)
    if _defines(text, entry_point):
        return Program(text, (text,))
    pieces = _pieces(text)
    python = [n for n, piece in enumerate(pieces) if _PYTHON.fullmatch(piece.language)] or [*range(len(pieces))]
    python = python[-_MOST_PIECES:]
    last = python[-1:]  # it may be cut off, and is the last word all the same
    for find, numbers in ((_whole, last), (_part, last), (_whole, python), (_part, python), (_completed, python)):
        for number in reversed(numbers):
            main = find(pieces, number, entry_point, prompt)
            if main is not None:
                others = [(n, pieces[n].code) for n in python if n != number]
                return Program(main, _with_helpers(number, main, others))
    main = _looks_like([pieces[n].code for n in python], entry_point)
    return Program(main, (main,))


def _pieces(text: str) -> list[_Piece]:
    """`text` cut at every line that is a fence, whichever way it faces."""
    pieces = []
    fence, language, lines = "", "", list[str]()
    for line in _lines(text):
        match = _FENCE.fullmatch(line.rstrip())
        if match is None:
            lines.append(line)
        else:
            pieces.append(_Piece(fence, language, "\n".join(lines) + "\n"))
            fence, language, lines = line, match["language"], []
    return [*pieces, _Piece(fence, language, "\n".join(lines) + "\n")]


def _lines(text: str) -> Iterator[str]:
    """With every fence on a line of its own: `so:```python` and `return x```` are two lines each."""
    for line in _GLUED_CODE.sub(r"\1\n", text).split("\n"):
        glued = _GLUED_FENCE.fullmatch(line) if line.count("```") == 1 and not _FENCE.fullmatch(line.rstrip()) else None
        yield from (line,) if glued is None else (glued["text"], glued["fence"])


def _whole(pieces: list[_Piece], number: int, entry_point: str, prompt: str) -> str | None:
    """The piece, or it and those after it: a docstring may hold fences."""
    code = pieces[number].code
    for after in (None, *pieces[number + 1 : number + _MOST_MERGED]):
        if after is not None:
            code += f"{after.fence}\n{after.code}"
        for program in dict.fromkeys((code, _dedented(code))):
            if _defines(program, entry_point):
                return program
    return None


def _dedented(code: str) -> str:
    """Without the indent of its first line; `textwrap.dedent` would change blank lines inside texts as well."""
    first = code.lstrip("\n")
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    return re.sub(rf"^{margin}", "", code, flags=re.MULTILINE)


def _part(pieces: list[_Piece], number: int, entry_point: str, prompt: str) -> str | None:
    """From a line that may begin a program to the last one before which it is whole."""
    code = _dedented(pieces[number].code)
    return next((part for part in _parts(code, 0) if _defines(part, entry_point)), None)


def _parts(code: str, first_end: int) -> Iterator[str]:
    """What may be left of `code` without prose before it, and without prose, or what is cut off, at its end."""
    lines = code.split("\n")
    tops = [n for n, line in enumerate(lines) if line[:1].strip() not in ("", "#", ")", "]", "}")]
    starts = [n for n in tops if _BEGINS_CODE.match(lines[n])]
    ends = [len(lines), *reversed(tops)]
    parts = ("\n".join(lines[start:end]) for start in starts for end in ends if end > max(start, first_end))
    return islice(parts, _MOST_TRIES)


def _completed(pieces: list[_Piece], number: int, entry_point: str, prompt: str) -> str | None:
    """The head of the function from the prompt, and the piece as its body; its first line may have lost its indent."""
    code = pieces[number].code
    if not _RETURNS.search(code) or _names(code) is not None:
        return None
    head = prompt.rstrip()
    last_line = head.rpartition("\n")[2]
    indent = last_line[: len(last_line) - len(last_line.lstrip())]
    bodies = (code, indent + code.lstrip(), textwrap.indent(_dedented(code), indent))
    n_head = head.count("\n") + 1
    whole = [f"{head}\n{body}" for body in bodies]
    cut = [part for program in whole for part in _parts(program, n_head) if part.startswith(head)]
    return next((program for program in (*whole, *cut) if _defines(program, entry_point)), None)


def _looks_like(codes: list[str], entry_point: str) -> str:
    """The last that says `def entry_point`, else the last that names it; empty without one."""
    definition = re.compile(rf"\bdef[ \t]+{re.escape(entry_point)}\b")
    naming = [code for code in codes if entry_point in code]
    return ([code for code in naming if definition.search(code)] or naming or [""])[-1]


def _with_helpers(number: int, main: str, others: list[tuple[int, str]]) -> tuple[str, ...]:
    """`main`, and of the `others` those that bind what is needed, the nearest before it first; all in their order."""
    chosen = {number: main}
    names = _names(main)
    needed = set(names.needed if names is not None else ())
    before = [other for other in reversed(others) if other[0] < number]
    after = [other for other in others if other[0] > number]
    for place, code in (*before, *after):
        names = _names(code)
        if names is not None and (bound := names.defined | names.imported) & needed:
            chosen[place] = code
            needed = (needed - bound) | names.needed
    return tuple(chosen[place] for place in sorted(chosen))


def _defines(code: str, name: str) -> bool:
    """Whether `code` is Python that defines `name` at its outermost level, inside an `if` or `try` too.

    An import does not: so begin the tests that models write after the program.
    """
    if name not in code:
        return False
    names = _names(code)
    return names is not None and name in names.defined


def _names(code: str) -> _Names | None:
    """None for what is no Python."""
    try:
        compile(code, "<program>", "exec", dont_inherit=True)
        top = symtable.symtable(code, "<program>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    defined = frozenset(symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned())
    imported = frozenset(symbol.get_name() for symbol in top.get_symbols() if symbol.is_imported())
    used = {
        symbol.get_name()
        for table in _tables(top)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (table is top or symbol.is_global())
    }
    return _Names(defined, imported, frozenset(used - defined - imported - set(dir(builtins))))


def _tables(top: symtable.SymbolTable) -> list[symtable.SymbolTable]:
    """`top` and every scope inside it."""
    tables = [top]
    for table in tables:  # grows meanwhile
        tables.extend(table.get_children())
    return tables
