"""The pages name things that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_difference_is_pinned_by_a_test_that_is_there():
    """docs/differences.md names a test a line; a test that was renamed or deleted is missed here."""
    page = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "published" not in line.split("|")[2]]
    named = [re.search(r"`(test_\w+)::(test_\w+)`", row) for row in rows]
    assert len(named) > 30
    assert all(named)
    for match in named:
        (path,) = (ROOT / "tests").rglob(f"{match[1]}.py")
        assert f"def {match[2]}(" in path.read_text(encoding="utf-8"), match[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    """Every relative link is a file of the project."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
