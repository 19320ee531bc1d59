"""The report in a real browser: its script runs under its own policy, tables sort by keyboard, nothing overflows."""

from __future__ import annotations

from typing import Any

import pytest

from privface.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.long]


@pytest.fixture
def page(chromium, audit, tmp_path):
    audit["leakage"][1].update(measurable=False, reason="AUC 0.84 on originals")
    audit["leakage"] += [{**audit["leakage"][3], "kind": "retrained", "probe": name} for name in ("a", "b")]
    audit["leakage"][-1] |= {"leakage": {"value": 0.61, "low": 0.6, "high": 0.7}}
    browser = chromium()
    browser.implicitly_wait(20)  # a browser that has just started may say too early that a page is there
    browser.get(write_report(audit, tmp_path / "report.html").as_uri())
    yield browser
    said = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    browser.quit()
    assert said == []


def column(page: Any) -> list[str]:
    """Probes of the first group of the leakage table, in the order shown."""
    return page.execute_script(
        "return [...document.querySelector('[aria-label=\"Leakage table\"] tbody').rows]"
        ".map(r => r.cells[0].firstChild.textContent.trim())"
    )


def test_a_table_sorts_by_keyboard_words_as_words_and_says_so(page):
    words, numbers, *_ = page.find_elements("css selector", '[aria-label="Leakage table"] thead .sort')
    assert numbers.accessible_name.startswith("Sort by Leakage protected")
    before = column(page)
    states, orders = [], []
    for _ in range(3):
        numbers.send_keys("\ue007")  # Enter
        states.append(page.execute_script("return arguments[0].closest('th').ariaSort", numbers))
        orders.append(column(page))
    assert states == ["ascending", "descending", "none"]
    group = before[0]
    assert orders == [
        [group, "b", "a", "rbf-svm", "cnn"],  # cnn is not measurable: last, either way
        [group, "rbf-svm", "a", "b", "cnn"],
        before,
    ]
    words.send_keys("\ue007")
    assert column(page)[1:] == ["a", "b", "cnn", "rbf-svm"]


def test_the_page_fits_and_can_be_read(page):
    for width in (390, 1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    for value in ("light", "dark"):
        scheme = {"name": "prefers-color-scheme", "value": value}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        low, high = sorted(map(luminance, page.execute_script(script)))
        assert (high + 0.05) / (low + 0.05) > 7, "contrast of WCAG 2"


def luminance(colour: str) -> float:
    """Of a CSS colour, as WCAG 2 has it."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
