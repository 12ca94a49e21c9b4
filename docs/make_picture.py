"""Draws docs/demo.svg, the README's picture, from the folder that `make demo` wrote; demo.txt is the same for PyPI.

python docs/make_picture.py outputs/demo/demo/TIMESTAMP
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from eager.recap import print_comparison, recap

PICTURE = Path(__file__).with_name("demo.svg")
TEXT = PICTURE.with_suffix(".txt")


def main() -> None:
    console = Console(record=True, width=140, file=io.StringIO(), highlight=False)
    print_comparison(recap([Path(sys.argv[1])], is_brief=True), console, is_brief=True)
    lines = console.export_text(clear=False).strip().splitlines()
    TEXT.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
    # The picture names web fonts; a page that shows it should fetch nothing.
    picture = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="make demo"), flags=re.DOTALL)
    PICTURE.write_text(picture, encoding="utf-8")
    print(f"wrote {PICTURE.name} and {TEXT.name}")


if __name__ == "__main__":
    main()
