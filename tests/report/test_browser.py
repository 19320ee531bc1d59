"""The report in a real browser: its script runs under its own policy, tables sort by keyboard, nothing overflows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privface.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.long]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is not installed (Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: Any, audit: dict[str, Any], tmp_path: Path) -> Any:
    audit["leakage"][1].update(measurable=False, reason="AUC 0.84 on originals")
    audit["leakage"] += [{**audit["leakage"][3], "kind": "retrained", "probe": name} for name in ("a", "b")]
    audit["leakage"][-1] = {**audit["leakage"][-1], "leakage": {"value": 0.61, "low": 0.6, "high": 0.7}}
    browser.get(write_report(audit, tmp_path / "report.html").as_uri())
    yield browser
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def column(page: Any) -> list[str]:
    """Probes of the first group of the leakage table, in the order shown."""
    return page.execute_script(
        "return [...document.querySelector('[aria-label=\"Leakage table\"] tbody').rows]"
        ".map(r => r.cells[0].firstChild.textContent.trim())"
    )


def test_a_table_sorts_by_keyboard_and_says_so(page: Any) -> None:
    button = page.find_element("css selector", '[aria-label="Leakage table"] thead th:nth-child(2) .sort')
    assert button.accessible_name.startswith("Sort by Leakage protected")
    before = column(page)
    states = []
    orders = []
    for _ in range(3):
        button.send_keys("\ue007")  # Enter
        states.append(page.execute_script("return arguments[0].closest('th').ariaSort", button))
        orders.append(column(page))
    assert states == ["ascending", "descending", "none"]
    group = before[0]
    assert orders == [
        [group, "b", "a", "rbf-svm", "cnn"],  # cnn is not measurable: last, either way
        [group, "rbf-svm", "a", "b", "cnn"],
        before,
    ]


def test_words_sort_as_words_and_counts_as_numbers(page: Any) -> None:
    script = (
        "const t = document.querySelector('[aria-label=\"Leakage table\"] table');"
        "t.querySelector('thead th .sort').click();"
    )
    page.execute_script(script)
    assert column(page)[1:] == ["a", "b", "cnn", "rbf-svm"]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(page: Any, width: int, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    ink, ground = page.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    assert contrast(ink, ground) > 7


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two CSS colours (WCAG 2)."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_term_leads_to_its_meaning(page: Any) -> None:
    link = page.find_element("css selector", "#worst a.word")
    assert "0.5 is" in link.get_attribute("title")
    link.send_keys("\ue007")
    assert page.execute_script("return document.querySelector(':target').textContent") == "Leakage"
