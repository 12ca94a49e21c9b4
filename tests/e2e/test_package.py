"""The wheel, the source distribution, and the page that PyPI makes of them."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import needs
import pytest

needs.package("hatch_fancy_pypi_readme", "dev")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    return email.message_from_bytes(wheel.read(name))


@pytest.fixture(scope="module")
def page(metadata: email.message.Message) -> str:
    """What PyPI shows."""
    return bytes(metadata.get_payload(decode=True)).decode("utf-8")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every file under src/eager, templates and the mark of a typed package included; no test."""
    there = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "src" / "eager").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert there == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {"eager/py.typed", "eager/report/assets/page.html", "eager/report/assets/report.js"} <= there
    assert {"eager/report/assets/report.css", "eager/tasks/demo.jsonl"} <= there


def test_the_source_distribution_holds_what_the_page_sends_its_readers_to(built: Path, page: str) -> None:
    """Pages, tests and their data, the Makefile: `make test` works in it."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(re.findall(r"`(docs/[\w-]+\.md|CONTRIBUTING\.md)`", page)) <= names
    assert {"README.md", "LICENSE", "Makefile", "src/eager/py.typed", "tests/data/first_results/problems.csv"} <= names
    assert not any(name.startswith((".venv", "outputs", ".git/")) or "__pycache__" in name for name in names)


def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    """PyPI has no file beside it: links and pictures are absolute, or not there."""
    assert all(re.match(r"https://", target) for target in re.findall(r"\]\(([^)]+)\)", page))
    assert not re.search(r"<img|!\[", page)
    assert "`docs/method.md`: the method" in page


def test_the_page_shows_the_demos_table(page: str) -> None:
    """As text, in the picture's place, and all the rest of the README around it."""
    before, _, after = (ROOT / "README.md").read_text(encoding="utf-8").partition("![The table")
    assert page.startswith(before + "```text\ndemo · demo")
    assert "What it cost\n" in page
    assert "eager_adapt_th2" in page
    assert page.count("```") == before.count("```") + after.count("```") + 2


def test_the_text_is_that_of_the_picture() -> None:
    """docs/make_picture.py writes both; whoever changes one of them alone is told."""
    picture = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    drawn = set(re.findall(r"[\d.,]*\d", re.sub(r"<[^>]+>", " ", picture.partition("</defs>")[2])))
    text = (ROOT / "docs" / "demo.txt").read_text(encoding="utf-8")
    written = {number.lstrip("_th") for number in re.findall(r"[\d.,]*\d", text)}
    assert written == drawn


def test_the_project_says_where_to_read_on(metadata: email.message.Message) -> None:
    """It has addresses, and says that it is typed."""
    assert "Paper, https://arxiv.org/abs/2510.11170" in metadata.get_all("Project-URL")
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
