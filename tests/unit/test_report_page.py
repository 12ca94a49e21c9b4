"""The report without a browser: what is written, that it stands alone, and that nothing a model says is markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import tracemalloc
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import needs
import pytest
from children import run_eager
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
from rich.console import Console

for module in ("ijson", "jinja2", "matplotlib"):
    needs.package(module, "report")

from eager.cli.report import command  # noqa: E402
from eager.recap import Comparison, print_comparison, recap  # noqa: E402
from eager.report.collected import Collected, fork_character  # noqa: E402
from eager.report.page import environment, facts, write_page  # noqa: E402
from eager.report.plots import where_branches  # noqa: E402
from eager.types import Branch  # noqa: E402
from eager.words import visible  # noqa: E402

PLOTS = ("tradeoff", "pass_at_j", "branches", "sequences", "entropy")


class Page(HTMLParser):
    """Which elements a page has, what it would load, and the text in each (`said`: tag, text)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.blocks: dict[str, str] = {}
        self.said: list[tuple[str, str]] = []
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
        if self.tags:
            self.said.append((self.tags[-1], data))
        if self._block is not None:
            self.blocks[self._block] = self.blocks.get(self._block, "") + data

    def detail(self, key: int, experiment: int) -> Any:
        return json.loads(zlib.decompress(base64.b64decode(self.blocks[f"detail-{key}-{experiment}"])))


def write(folder: Path, output: Path) -> str:
    result = CliRunner().invoke(command, [str(folder), "--output", str(output)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return output.read_text(encoding="utf-8")


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    """No element, style or script of the page asks for anything outside it."""
    text = write(demo_folder(tmp_path / "run"), tmp_path / "report.html")
    page = Page(text)
    assert page.loads == []
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", text)


def test_every_plot_is_there_as_png_and_svg(tmp_path: Path) -> None:
    """Beside the page lies every plot, as a PNG and as an SVG that parses."""
    write(demo_folder(tmp_path / "run"), tmp_path / "report.html")
    for name in PLOTS:
        assert (tmp_path / "report_plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        ElementTree.parse(tmp_path / "report_plots" / f"{name}.svg")


def test_every_prompt_of_every_experiment_has_its_detail(tmp_path: Path) -> None:
    """The list names all experiments and prompts, and each prompt unpacks to its sequences and forks."""
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
    """Whatever a model or a file says, the page has the elements of a calm one, and no invisible character."""
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
    """Nothing of a hostile text is dropped: markup is kept as text, what is invisible gets a sign."""
    page = Page(write(hostile_folder(tmp_path / "run"), tmp_path / "report.html"))
    detail = page.detail(0, 1)
    assert "<script>window.pwned=1</script>" in detail["prompt"]
    assert "\u241b[31mred" in detail["prompt"]
    assert "\u27e6U+202E\u27e7esrever" in detail["prompt"]
    assert "\u2400null" in detail["prompt"]
    assert detail["sequences"][0]["answer"].startswith("</script>")


def test_json_in_the_page_cannot_end_its_element() -> None:
    """JSON holds no character of markup, neither `</script>` nor `<!--`, and is the same data when parsed."""
    text = environment().from_string("{{ data | tojson }}").render(data={"text": HOSTILE})
    assert not set("<>&'\u2028") & set(text)
    assert json.loads(text) == {"text": HOSTILE}


def test_the_list_of_prompts_stands_in_such_json(tmp_path: Path) -> None:
    """The page's own data block goes through that filter: markup in a prompt is data there."""
    block = Page(write(hostile_folder(tmp_path / "run"), tmp_path / "report.html")).blocks["data"]
    assert not set("<>&'\u2028") & set(block)
    (prompt,) = json.loads(block)["prompts"]
    assert prompt["text"].startswith("</script><script>window.pwned=1</script><img src=x onerror")
    assert prompt["target"].startswith("</script><script>window.pwned=1</script><img src=x onerror")


# A file's or a folder's name cannot hold a slash.
NASTY = "<img src=x onerror=pwn> <script><!-- &lt; \" ' {{ style }} {% raw %} \x1b[31m \u202e"


@pytest.fixture(scope="module")
def nasty_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Two folders whose names and files are hostile, one of them ungraded, with a damaged file of a hostile name."""
    home = tmp_path_factory.mktemp("nasty")
    folders = [home / f"{NASTY} {i}" for i in (1, 2)]
    for folder, correct in zip(folders, (True, None), strict=True):
        for kind in ("parallel", "eager_init"):
            path = write_experiment_file(folder, kind, [record(kind, 0, [sequence("a", "42", correct)])])
            head = json.loads(path.read_text(encoding="utf-8"))
            head["model_name"] = head["extra"]["data_name"] = head["extra"]["engine"] = NASTY
            path.write_text(json.dumps(head), encoding="utf-8")
    (folders[0] / f"{NASTY}_aware_results__th2.5.json").write_text("{", encoding="utf-8")
    CliRunner().invoke(command, [*map(str, folders), "--output", str(home / "report.html")])
    return Page((home / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("tag", "pattern", "times"),
    [
        ("title", "EAGer report: {0} on {0}", 1),
        ("h1", "{0} on {0}", 1),
        ("li", "{0}", 1),  # the engine, among the facts
        ("li", "'.*{0} 1/{0}_aware_results__th2.5.json' is cut short or damaged before .*", 1),  # a problem
        ("li", ".*{0} 2.*: 1 of 1 sequence are ungraded", 2),  # a notice an experiment
        ("span", "{0} 1", 1 + 2 + 2 * 3 + 4),  # a card, two rows of results, three pairs each; parallel at same tokens
    ],
    ids=["title", "heading", "fact", "problem", "notice", "folder"],
)
def test_every_place_shows_a_hostile_text_as_text(nasty_page: Page, tag: str, pattern: str, times: int) -> None:
    """Names of models, data, engines, files and folders are read as they are: escaped, and visible."""
    expected = re.compile(pattern.format(re.escape(visible(NASTY))))
    said = [text for found, text in nasty_page.said if found == tag and expected.fullmatch(text.strip())]
    assert len(said) == times


def test_hostile_names_add_no_element_and_no_handler(nasty_page: Page) -> None:
    """The page of hostile names has the scripts of a page and no image, no handler, no load."""
    assert nasty_page.tags.count("script") == 2 + 4  # the list and the program, a detail an experiment
    assert "img" not in nasty_page.tags
    assert nasty_page.handlers == nasty_page.loads == []


def test_the_page_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """Sixty details of 1 MB are written one by one: the page's 60 MB take less than 10 MB."""
    collected = Collected()
    comparison = recap([demo_folder(tmp_path / "run", n_prompts=2)], collected.see)
    collected.details = {(key, comparison.rows[0].measures.label): "A" * 2**20 for key in range(60)}
    tracemalloc.start()
    with (tmp_path / "report.html").open("w", encoding="utf-8") as file:
        write_page(file, comparison, collected, dict.fromkeys(PLOTS, "<svg></svg>"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "report.html").stat().st_size > 60 * 2**20
    assert peak < 10e6


def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    """The policy allows one script, by the hash of the page's own, and nothing else by default."""
    text = write(hostile_folder(tmp_path / "run"), tmp_path / "report.html")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_a_fork_is_found_though_both_tokens_begin_alike() -> None:
    """The text before the fork decides where two sequences part, not the first letter that differs."""
    parent, child, before = "P: so it is fav 1", "P: so it is favour 2", "so it is"
    assert fork_character(parent, child, before, 3) == len("P: so it is")
    assert fork_character(parent, child, "", 3) == 3


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    """Two reports of one folder are the same to the last byte."""
    folder = demo_folder(tmp_path / "run", n_prompts=3)
    assert write(folder, tmp_path / "a" / "report.html") == write(folder, tmp_path / "b" / "report.html")


@pytest.mark.parametrize(
    "rc", [b"axes.facecolor: red\nsavefig.facecolor: red\n", b"no such key: 1\n", b"\xff\xfe", None]
)
def test_nothing_in_the_current_folder_changes_the_plots(tmp_path: Path, rc: bytes | None) -> None:
    """A matplotlibrc there is not read, whatever it says; a pipe of that name is not waited for."""
    folder = demo_folder(tmp_path / "run", n_prompts=3)
    here = tmp_path / "here"
    here.mkdir()
    assert run_eager("report", folder, "--output", tmp_path / "plain.html", cwd=tmp_path).returncode == 0
    if rc is None:
        os.mkfifo(here / "matplotlibrc")
    else:
        (here / "matplotlibrc").write_bytes(rc)
    done = run_eager("report", folder, "--output", "page.html", cwd=here, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for plot in (tmp_path / "plain_plots").iterdir():
        assert (here / "page_plots" / plot.name).read_bytes() == plot.read_bytes()


def test_a_matplotlibrc_of_the_users_own_changes_nothing_either(tmp_path: Path) -> None:
    """The same results give the same plots on every machine."""
    folder = demo_folder(tmp_path / "run", n_prompts=3)
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\nsavefig.bbox: tight\n")
    for name, variables in (("plain", {}), ("styled", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "page.html"
        assert run_eager("report", folder, "--output", output, environment=variables).returncode == 0
    for plot in (tmp_path / "plain" / "page_plots").iterdir():
        assert (tmp_path / "styled" / "page_plots" / plot.name).read_bytes() == plot.read_bytes()


def test_a_run_without_targets_and_branches_is_reported(tmp_path: Path) -> None:
    """A single ungraded experiment without a tree gives a page, and is called ungraded in it."""
    records = [record("parallel", 0, [sequence("a", None, None)], target=None)]
    write_experiment_file(tmp_path / "run", "parallel", records)
    page = Page(write(tmp_path / "run", tmp_path / "report.html"))
    assert page.detail(0, 0)["sequences"][0]["correct"] is None


def test_a_card_says_more_where_nothing_was_saved_and_ungraded_where_nothing_is_graded(tmp_path: Path) -> None:
    """Trees that cost three times as much as the baseline are not sold as a saving, nor ungraded ones as a score."""
    for kind, n_tokens in (("parallel", 3), ("eager_init", 9)):
        records = [record(kind, 0, [sequence("a", None, None, n_tokens=n_tokens)], target=None)]
        write_experiment_file(tmp_path / "run", kind, records)
    said = [text.strip() for _, text in Page(write(tmp_path / "run", tmp_path / "report.html")).said]
    start = said.index("200.0 %")
    assert [text for text in said[start:] if text][:3] == [
        "200.0 %",
        "more tokens than Full Parallel",
        "ungraded from 1 sequence",
    ]


def test_what_is_missing_is_said_on_the_page(tmp_path: Path) -> None:
    """A damaged file is named on the page and by the exit code; the rest is reported."""
    folder = demo_folder(tmp_path / "run", n_prompts=2)
    (folder / "eager_th2.2.json").write_text("{", encoding="utf-8")
    result = CliRunner().invoke(command, [str(folder), "--output", str(tmp_path / "report.html")])
    assert result.exit_code == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Missing from this page" in text
    assert "eager_th2.2.json" in text


def test_settings_are_shown_with_all_their_digits(tmp_path: Path) -> None:
    """A seed of seven digits is that number and no power of ten; a temperature is the one that was given."""
    comparison = recap([demo_folder(tmp_path, n_prompts=2)])
    row = comparison.rows[0]
    row.measures.facts = replace(row.measures.facts, seed=12345678, temperature=0.1234567)
    said = facts(Comparison((row,), (), comparison.findings))
    assert {"seed 12345678", "temperature 0.1234567"} <= set(said)
    text = io.StringIO()
    print_comparison(Comparison((row,), (), comparison.findings), Console(file=text, width=200))
    assert "temperature 0.1234567" in text.getvalue()


def test_a_folder_without_results_writes_no_page(tmp_path: Path) -> None:
    """Where there is nothing to report, no empty page is left behind."""
    result = CliRunner().invoke(command, [str(tmp_path), "--output", str(tmp_path / "report.html")])
    assert result.exit_code == 1
    assert not (tmp_path / "report.html").exists()


def test_a_branch_whose_sequences_are_unknown_still_counts_in_the_plots(tmp_path: Path) -> None:
    """A published branch that fits no two texts is counted, and shown in no tree."""
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


def test_a_page_for_standard_output_is_all_that_goes_there(tmp_path: Path) -> None:
    """Piped on or redirected, the page is whole; no folder of plots lies beside a device, nothing else is said."""
    folder = demo_folder(tmp_path / "run", n_prompts=2)
    done = run_eager("report", folder, "--output", "/dev/stdout")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<!doctype html>")
    assert done.stdout.rstrip().endswith("</html>")
    assert not Path("/dev/stdout_plots").exists()


def test_the_entropy_plot_marks_the_thresholds_that_were_asked_for(tmp_path: Path) -> None:
    """At a branch a threshold was raised by its tree's percentile, or lowered by a round: these are not marked."""
    raised = [Branch(0, i, 2.5, 1.5 + 0.1 * i, i + 1, " a", " a", " b", "") for i in range(8)]
    tree = [sequence("one", "42", True)] + [sequence("one", "42", True, parent=0, fork=i) for i in range(8)]
    for threshold in (1.5, 2.2):
        write_experiment_file(tmp_path, "eager_init", [record("eager_init", 0, tree, raised)], threshold)
    collected = Collected()
    comparison = recap([tmp_path], collected.see)
    axis = where_branches(comparison, collected.branches).axes[1]
    assert [line.get_xdata()[0] for line in axis.lines] == [1.5, 2.2]
