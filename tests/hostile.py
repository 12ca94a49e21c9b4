"""A run whose texts try everything a model's text could do to a page or a terminal."""

from __future__ import annotations

from pathlib import Path

from result_builder import record, sequence, write_experiment_file

from eager.types import Branch

HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2> <b>bold</b> {{style}} {{details}} "
    "]]> <!-- --> <!--<script> &lt;i&gt; ' \" ` ${1+1} \x1b[31mred\x1b[0m \x1b]8;;http://127.0.0.1/\x07link "
    "\u202eesrever\u202c \u200fmark \ud800 \udfff \x00null \x9b31m \u2028line $x^2$ \\frac{1}{2} \U000e0041tag"
)


def hostile_folder(folder: Path) -> Path:
    """Two experiments; every field that takes a text is hostile."""
    before = "start " + HOSTILE
    entropies = [0.5] * 3
    sequences = [
        sequence(before + HOSTILE + " went on", HOSTILE, True, entropies=entropies),
        sequence(before + " other " + HOSTILE, "41" + HOSTILE, False, parent=0, fork=1, entropies=entropies),
    ]
    branch = Branch(0, 1, 2.5, 2.2, 1, 7, 7, 8, HOSTILE, HOSTILE, HOSTILE, before[-50:])
    for kind in ("parallel", "eager_init"):
        records = [record(kind, 0, sequences, [branch], prompt=HOSTILE, target=HOSTILE)]
        write_experiment_file(folder, kind, records, model=HOSTILE)
    return folder
