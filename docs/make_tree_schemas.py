"""Writes the schemas of docs/tree-requests.md from the tables in `eager.wire`; a test fails when the page is stale."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from eager.wire import schemas

PAGE = Path(__file__).with_name("tree-requests.md")
_WIDTH = 120


def page(text: str) -> str:
    """The page, with each schema in the block below its name."""
    for name, schema in schemas().items():
        lines = textwrap.fill(json.dumps(schema), _WIDTH, break_long_words=False, break_on_hyphens=False)
        block = rf"(### Schema: {name}\n\n```json\n).*?```"
        text = re.sub(block, lambda found, new=lines: f"{found[1]}{new}\n```", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.name}")
