"""The report without a browser: what is written, that it stands alone, and that nothing a model says is markup."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from hostile import HOSTILE, hostile_folder
from result_builder import (
    demo_folder,
    published_prompt,
    record,
    sequence,
    write_experiment_file,
    write_published,
)

from eager.cli.report import command
from eager.recap import recap
from eager.report.collected import Collected
from eager.report.detail import fork_character
from eager.report.page import data_json

for module in ("ijson", "matplotlib"):
    pytest.importorskip(module, reason="the report needs the extra 'report'")

PLOTS = ("tradeoff", "pass_at_j", "branches", "sequences", "entropy")


class Page(HTMLParser):
    """Which elements a page has, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.blocks: dict[str, str] = {}
        self._block: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._block = dict(attrs).get("id") if tag == "script" else None
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and not (value or "").startswith(
                ("#", "data:,")
            ):
                self.loads.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        if self._block is not None:
            self.blocks[self._block] = self.blocks.get(self._block, "") + data

    def detail(self, key: int, experiment: int) -> Any:
        return json.loads(zlib.decompress(base64.b64decode(self.blocks[f"detail-{key}-{experiment}"])))


def write(folder: Path, output: Path) -> str:
    result = CliRunner().invoke(command, [str(folder), "--output", str(output)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return output.read_text(encoding="utf-8")


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    """It opens offline: no address in an element, a style or the script."""
    text = write(demo_folder(tmp_path / "run"), tmp_path / "report.html")
    page = Page(text)
    assert page.loads == []
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", text)


def test_every_plot_is_there_as_png_and_svg(tmp_path: Path) -> None:
    """Every plot lies beside the page in two forms that other programs can read."""
    write(demo_folder(tmp_path / "run"), tmp_path / "report.html")
    for name in PLOTS:
        assert (tmp_path / "report_plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(tmp_path / "report_plots" / f"{name}.svg")


def test_every_prompt_of_every_experiment_has_its_detail(tmp_path: Path) -> None:
    """Whatever is opened on the page has its tree, with both continuations of each fork."""
    page = Page(write(demo_folder(tmp_path / "run", n_prompts=3, max_sequences=4), tmp_path / "report.html"))
    data = json.loads(page.blocks["data"])
    assert [experiment["kind"] for experiment in data["experiments"]] == [
        "parallel",
        "eager_init",
        "eager_adapt",
        "eager",
    ]
    assert len(data["prompts"]) == 3
    detail = page.detail(2, 1)
    assert len(detail["sequences"]) == 4
    assert [fork["child"] for fork in detail["forks"]] == [1, 2, 3]
    assert all(fork["afterKept"] != fork["afterNew"] for fork in detail["forks"])


def test_hostile_texts_add_no_element_and_no_handler(tmp_path: Path) -> None:
    """Whatever a model writes stays text: the page has the elements of a calm one."""
    calm = Page(write(demo_folder(tmp_path / "calm", n_prompts=1), tmp_path / "calm.html"))
    text = write(hostile_folder(tmp_path / "run"), tmp_path / "report.html")
    page = Page(text)
    assert page.handlers == []
    assert page.loads == []
    assert page.tags.count("script") == 2 + 2  # the list and the program, a detail an experiment
    assert page.tags.count("img") == page.tags.count("b") == calm.tags.count("b") == 0
    assert page.tags.count("style") == calm.tags.count("style")
    assert not re.search("[\x00\x1b\x9b\ud800-\udfff\u202e\u200f]", text)


def test_hostile_texts_are_still_there_to_read(tmp_path: Path) -> None:
    """Made safe does not mean left out: what cannot be seen is shown as a sign."""
    page = Page(write(hostile_folder(tmp_path / "run"), tmp_path / "report.html"))
    detail = page.detail(0, 1)
    assert "<script>window.pwned=1</script>" in detail["prompt"]
    assert "\u241b[31mred" in detail["prompt"]
    assert "\u27e6U+202E\u27e7esrever" in detail["prompt"]
    assert "\u2400null" in detail["prompt"]
    assert detail["sequences"][0]["answer"].startswith("</script>")


def test_json_in_the_page_cannot_end_its_element() -> None:
    """Data in a script element holds nothing that could close it, and is the same data."""
    text = data_json({"text": HOSTILE})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"text": HOSTILE}


def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    """The content security policy allows one script, by its hash."""
    text = write(hostile_folder(tmp_path / "run"), tmp_path / "report.html")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]+';", policy)


def test_a_fork_is_found_though_both_tokens_begin_alike() -> None:
    """The text before a branch decides where two texts part, not their longest common start."""
    parent, child, before = "P: so it is fav 1", "P: so it is favour 2", "so it is"
    assert fork_character(parent, child, before, 3) == len("P: so it is")
    assert fork_character(parent, child, "", 3) == 3


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    """Nothing of the time or place of writing is in it."""
    folder = demo_folder(tmp_path / "run", n_prompts=3)
    assert write(folder, tmp_path / "a" / "report.html") == write(folder, tmp_path / "b" / "report.html")


def test_a_run_without_targets_and_branches_is_reported(tmp_path: Path) -> None:
    """Ungraded is shown as ungraded."""
    records = [record("parallel", 0, [sequence("a", None, None)], target=None)]
    write_experiment_file(tmp_path / "run", "parallel", records)
    page = Page(write(tmp_path / "run", tmp_path / "report.html"))
    assert page.detail(0, 0)["sequences"][0]["correct"] is None


def test_what_is_missing_is_said_on_the_page(tmp_path: Path) -> None:
    """What could not be read is said on the page and by the exit code."""
    folder = demo_folder(tmp_path / "run", n_prompts=2)
    (folder / "eager_th2.2.json").write_text("{", encoding="utf-8")
    result = CliRunner().invoke(command, [str(folder), "--output", str(tmp_path / "report.html")])
    assert result.exit_code == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Missing from this page" in text
    assert "eager_th2.2.json" in text


def test_a_folder_without_results_writes_no_page(tmp_path: Path) -> None:
    """No page about nothing."""
    result = CliRunner().invoke(command, [str(tmp_path), "--output", str(tmp_path / "report.html")])
    assert result.exit_code == 1
    assert not (tmp_path / "report.html").exists()


def test_a_branch_whose_sequences_are_unknown_still_counts_in_the_plots(tmp_path: Path) -> None:
    """A published branch that fits no text is in the plots and not in the tree."""
    branch = {
        "seq_idx": 0, "gen_step": 9, "auto_selected_token": " x", "entropy": 2.6, "entropy_threshold": 2.5,
        "man_token_original": " x", "man_token_branch": " y", "new_seq_idx": 1, "last_generated_chars": "elsewhere",
    }  # fmt: skip
    write_published(
        tmp_path / "t", "aware_results__th2.5", [published_prompt("Q?", 1, ["1"], ["Q? 1"], [[0.1]], [branch])]
    )
    collected = Collected()
    recap([tmp_path / "t"], collected.see)
    assert collected.branches["eager_init_th2.5"].pairs == {(" x", " y"): 1}
    assert Page(write(tmp_path / "t", tmp_path / "report.html")).detail(0, 0)["forks"] == []


def test_the_page_lies_in_the_folder_it_is_about(tmp_path: Path) -> None:
    """Without --output the page of one folder is written into it, where it is found again."""
    demo_folder(tmp_path / "run", n_prompts=2)
    result = CliRunner().invoke(command, [str(tmp_path / "run")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "report_plots").is_dir()
