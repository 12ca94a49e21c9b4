"""Draws docs/demo.svg, the README's picture, from the folder that `make demo` wrote.

python docs/make_picture.py outputs/demo/demo/TIMESTAMP
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from eager.cli.display import result_table
from eager.grading import MathGrader
from eager.results import experiment_result
from eager.store import Journal

PICTURE = Path(__file__).with_name("demo.svg")


def main() -> None:
    journal = Journal(Path(sys.argv[1]))
    with MathGrader() as grader:
        results = [experiment_result(journal, name, grader) for name in journal.experiments()]
    console = Console(record=True, width=122, file=io.StringIO())
    console.print(result_table(results))
    # The picture names web fonts; a page that shows it should fetch nothing.
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"wrote {PICTURE.name}")


if __name__ == "__main__":
    main()
