"""The report in a real browser: Debian's chromium and chromium-driver, driven by the Python package selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from click.testing import CliRunner
from hostile import hostile_folder
from result_builder import demo_folder, record, sequence, write_experiment_file

from eager.cli.report import command

webdriver = needs.package("selenium.webdriver", "browser")
for module in ("ijson", "jinja2", "matplotlib"):
    needs.package(module, "report")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="chromium is missing: apt-get install chromium chromium-driver",
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--window-size=1280,1100",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.implicitly_wait(3)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    ungraded = [record("parallel", 0, [sequence("a", None, None)], target=None)]
    write_experiment_file(folder / "ungraded", "parallel", ungraded)
    sources = {
        "demo": demo_folder(folder / "demo", n_prompts=12),
        "hostile": hostile_folder(folder / "hostile"),
        "ungraded": folder / "ungraded",
    }
    for name, source in sources.items():
        CliRunner().invoke(command, [str(source), "--output", str(folder / f"{name}.html")], catch_exceptions=False)
    return {name: folder / f"{name}.html" for name in sources}


def visit(browser: Any, page: Path, fragment: str = "") -> None:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.as_uri() + fragment)


def found(browser: Any, selector: str) -> list[Any]:
    elements: list[Any] = browser.find_elements("css selector", selector)
    return elements


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def keys() -> Any:
    from selenium.webdriver.common.keys import Keys

    return Keys


def note(browser: Any) -> str:
    return str(found(browser, ".note")[0].text)


@pytest.mark.parametrize("name", ["demo", "hostile", "ungraded"])
def test_no_console_message_and_no_request(browser: Any, pages: dict[str, Path], name: str) -> None:
    """The page runs without an error and asks for nothing, whatever it is about."""
    visit(browser, pages[name])
    found(browser, ".row")[0].click()
    assert found(browser, "svg.tree")
    assert browser.get_log("browser") == []
    requests = [entry for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert all(pages[name].as_uri() in entry["message"] or "data:" in entry["message"] for entry in requests)


def test_a_tree_has_a_line_a_sequence_and_a_knot_a_fork(browser: Any, pages: dict[str, Path]) -> None:
    """What was recorded is what is drawn, a shared prefix once."""
    visit(browser, pages["demo"])
    found(browser, ".row")[11].click()
    assert len(found(browser, ".item.sequence")) == 8
    assert len(found(browser, ".item.fork")) == 7
    # A shared prefix is drawn once: every child starts with a drop from its parent's line.
    assert len(found(browser, ".item.sequence .drop")) == 7


def test_lengths_are_to_scale(browser: Any, pages: dict[str, Path]) -> None:
    """Lines are as long as their sequences have tokens."""
    visit(browser, pages["demo"])
    found(browser, ".row")[0].click()
    browser.find_element("xpath", "//button[@role='tab'][contains(., 'Parallel')]").click()
    browser.find_element("xpath", "//button[@role='tab'][@aria-selected='true'][contains(., 'Parallel')]")
    script = """return [...document.querySelectorAll('.item.sequence')].map(group => [
        Number(/(\\d+) tokens?$/.exec(group.getAttribute('aria-label'))[1]),
        Number(group.querySelector('.label').getAttribute('x'))])"""
    ends = browser.execute_script(script)
    (n1, x1), (n2, x2) = min(ends), max(ends)
    scale = (x2 - x1) / (n2 - n1)
    assert all(abs(x1 + scale * (n - n1) - x) < 0.5 for n, x in ends)


def test_hovering_a_fork_shows_its_text_tokens_entropy_and_threshold(browser: Any, pages: dict[str, Path]) -> None:
    """All that was recorded of a branch can be read where it is."""
    visit(browser, pages["demo"])
    found(browser, ".row")[11].click()
    fork = found(browser, ".item.fork")[0]
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('mouseenter'))", fork)
    assert "Fork at token" in note(browser)
    assert "entropy 2." in note(browser)
    assert "threshold 2.200" in note(browser)
    assert len(found(browser, ".note mark")) == 2


def test_search_narrows_the_list(browser: Any, pages: dict[str, Path]) -> None:
    """Typing leaves the prompts that hold it, and says how many they are."""
    visit(browser, pages["demo"])
    browser.find_element("id", "search").send_keys("problem 11")
    assert [row.find_element("class name", "index").text for row in found(browser, ".row")] == ["11"]
    assert browser.find_element("id", "count").text == "1 of 12 prompts"
    browser.find_element("id", "search").clear()
    browser.find_element("id", "search").send_keys("nothing like it")
    browser.implicitly_wait(0)
    assert found(browser, ".row") == []
    browser.implicitly_wait(3)


def test_the_keyboard_alone_opens_a_prompt_and_walks_its_tree(browser: Any, pages: dict[str, Path]) -> None:
    """Nothing needs a mouse."""
    visit(browser, pages["demo"])
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "search"
    press(browser, "problem 1", keys().ARROW_DOWN)
    press(browser, keys().ARROW_DOWN, keys().ARROW_DOWN)
    assert browser.switch_to.active_element.get_attribute("id") == "prompt-11"
    press(browser, keys().ENTER)
    assert found(browser, "svg.tree")
    press(browser, keys().TAB)
    assert browser.switch_to.active_element.get_attribute("role") == "tab"
    press(browser, keys().TAB)
    assert "Fork at token" in browser.switch_to.active_element.get_attribute("aria-label")
    assert "Fork at token" in note(browser)
    press(browser, keys().END)
    assert "Sequence" in note(browser)
    press(browser, keys().ESCAPE)
    assert browser.switch_to.active_element.get_attribute("aria-expanded") == "false"


def test_arrow_keys_change_the_experiment(browser: Any, pages: dict[str, Path]) -> None:
    """Experiments are tabs and behave like tabs: arrows select, the focus follows."""
    visit(browser, pages["demo"], "#prompt-3")
    tab = found(browser, "[role=tab][aria-selected=true]")[0]
    assert "EAGer-init" in tab.text
    browser.execute_script("arguments[0].focus()", tab)
    press(browser, keys().ARROW_RIGHT)
    selected = "//button[@role='tab'][@aria-selected='true'][contains(., 'EAGer-adapt')]"
    assert browser.find_element("xpath", selected) == browser.switch_to.active_element


def test_hostile_texts_do_not_run_and_are_shown_as_text(browser: Any, pages: dict[str, Path]) -> None:
    """Nothing that a model wrote runs in the browser or becomes an element; it can be read."""
    visit(browser, pages["hostile"])
    found(browser, ".row")[0].click()
    for item in found(browser, ".item"):
        browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('mouseenter'))", item)
    assert browser.execute_script("return window.pwned") is None
    assert "<script>window.pwned=1</script>" in found(browser, ".problem-text")[0].text
    browser.implicitly_wait(0)
    assert found(browser, "img") == found(browser, "b") == []
    browser.implicitly_wait(3)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(browser: Any, pages: dict[str, Path], scheme: str) -> None:
    """Every colour of text has a contrast of 4 on both grounds, in both schemes."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    visit(browser, pages["demo"])
    names = ("ink", "muted", "right", "wrong", "ungraded", "eager-init", "eager-adapt", "eager", "parallel")
    colours = browser.execute_script(
        "const s = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(arguments[0].map(n => [n, s.getPropertyValue('--' + n).trim()]))",
        ["paper", "raised", *names],
    )
    for ground in ("paper", "raised"):
        for name in names:
            assert contrast(colours[name], colours[ground]) >= 4.0, (scheme, name, ground)


def contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio."""
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_narrow_screen_does_not_scroll_sideways(browser: Any, pages: dict[str, Path]) -> None:
    """On a telephone's screen the page itself does not scroll sideways."""
    visit(browser, pages["demo"])
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    overflow = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert overflow <= 0
