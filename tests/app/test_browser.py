"""The page in a real browser: protect, audit, trade-off, download; keyboard, narrow screens; nothing stays on disk."""

from __future__ import annotations

import io
import json
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.long]

SCRIPT_NAME = "<img src=x onerror=document.title='run'>${document.title='run'}{{x}}.png"


PRESS_CAMERA = """
const found = [...document.querySelectorAll('#pf-camera button, #pf-camera [role=button]')];
const named = b => `${b.title} ${b.ariaLabel} ${b.innerText}`.toLowerCase();
const next = found.find(b => named(b).includes('capture')) || found.find(b => named(b).includes('access'));
if (next) next.click();
"""


class Browser:
    """Headless Chromium on the page."""

    def __init__(self, driver: Any, address: str, downloads: Path, *, width: int, dark: bool = False) -> None:
        self.driver = driver
        command = driver.execute_cdp_cmd
        command("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        command("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        command("Emulation.setEmulatedMedia", {"features": [scheme]})
        driver.get(address)
        self.wait("#pf-go")
        self.wait("#pf-photos input[type=file]")

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def wait(self, selector: str, text: str = "", *, seconds: float = 60) -> Any:
        """The first element that holds a text, as soon as there is one."""

        def found() -> Any:
            return next((element for element in self.all(selector) if text in (element.text or "")), None)

        return until(found, seconds, lambda: f"{selector} {text!r}: {[e.text for e in self.all(selector)]}")

    def give(self, selector: str, *paths: Path) -> None:
        """Choose files; the input is hidden, as drop zones have it."""
        self.driver.find_element("css selector", f"{selector} input[type=file]").send_keys(
            "\n".join(map(str, paths))
        )

    def click(self, element: Any) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        time.sleep(0.1)
        element.click()

    def choose(self, selector: str, text: str) -> None:
        self.click(next(label for label in self.all(f"{selector} label") if text in label.text))

    def tab(self, name: str) -> None:
        self.click(next(b for b in self.all("button[role=tab]") if b.text == name and b.is_displayed()))

    def framed(self, selector: str, text: str = "") -> None:
        """A page stands in a frame that runs no script, and an element of it holds a text."""
        frame = self.wait(f"{selector} iframe")
        assert frame.get_attribute("sandbox") is not None
        self.driver.switch_to.frame(frame)
        self.wait("h1, th", text)
        self.driver.switch_to.default_content()

    def strangers(self) -> list[str]:
        """Addresses other than ours that the page asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [
            u for u in urls if not u.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome:", "about:"))
        ]


def until(look: Callable[[], Any], seconds: float, said: Callable[[], str]) -> Any:
    """What a look gives as soon as it gives anything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(said())


@pytest.fixture
def browse(chromium, server, tmp_path):
    drivers: list[Any] = []

    def begin(**options: Any) -> Browser:
        camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
        preferences = {"download.default_directory": str(tmp_path)}
        drivers.append(chromium(*camera, preferences=preferences, logs=("performance",)))
        return Browser(drivers[-1], server.address, tmp_path, **options)

    yield begin
    for driver in drivers:
        driver.quit()


def arrived(folder: Path, name: str) -> Path:
    def found() -> Any:
        there = (p for p in folder.glob(name) if p.stat().st_size and p.suffix != ".crdownload")
        return next(there, None)

    return until(found, 30, lambda: f"{name} was not downloaded: {list(folder.iterdir())}")


def kept(server: Any) -> list[Path]:
    """Files of users on the server's disk."""
    return [p for p in server.files() if p.suffix in {".png", ".jpg", ".zip", ".html", ".json"}]


@pytest.mark.parametrize("width", [1280, 390])
def test_protect_show_download_clear(server, kit, browse, tmp_path, width):
    page = browse(width=width)
    photos = sorted(kit.faces.rglob("*.png"))[:2]
    odd = tmp_path / "in" / SCRIPT_NAME
    odd.parent.mkdir()
    shutil.copy(photos[0], odd)
    page.choose("#pf-faces", "Face crops")
    page.give("#pf-photos", *photos, odd)
    page.wait("#pf-result .pf-summary", "3 faces protected.")
    cards = page.all("#pf-result .pf-card")
    assert [len(card.find_elements("css selector", "img")) for card in cards] == [3, 3, 3]
    loaded = (
        "return [...document.querySelectorAll('.pf-card img')].every(i => i.complete && i.naturalWidth > 0)"
    )
    until(lambda: page.driver.execute_script(loaded), 20, lambda: "pictures are missing")
    assert "similarity" in cards[0].text
    assert "male" in cards[0].text
    overflow = page.driver.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow <= 0, "nothing is wider than the screen"
    assert page.driver.title == "privface", "a file name was run"
    assert page.strangers() == []

    page.click(page.wait("#pf-result .pf-summary a", "Download all"))
    with zipfile.ZipFile(io.BytesIO(arrived(tmp_path, "protected.zip").read_bytes())) as archive:
        assert len(archive.namelist()) == 3
        assert archive.testzip() is None
    page.click(page.wait("#pf-result .pf-card a[aria-label^='Download p0']"))
    single = arrived(tmp_path, "p0*.png").read_bytes()
    assert single not in [p.read_bytes() for p in photos]
    assert kept(server) == []

    page.click(page.wait("#pf-clear"))
    page.wait("#pf-result", "Nothing of yours is held any more.")


def test_audit_stop_report_and_trade_off(server, browse, archives, tmp_path):
    page = browse(width=1280)
    page.tab("Audit")
    for selector, archive in zip(("#pf-originals", "#pf-protected"), archives, strict=True):
        page.give(selector, archive)
        page.wait(selector, ".zip")
    page.choose("#pf-audit-faces", "Face crops")
    page.click(page.wait("#pf-audit"))
    page.wait("#pf-audit-result .pf-progress")
    page.click(page.wait("#pf-stop"))
    page.wait("#pf-audit-result .pf-notice", "Stopped.")
    assert kept(server) == []

    page.click(page.wait("#pf-audit"))
    page.wait("#pf-audit-result .pf-summary", "report.html", seconds=300)
    page.framed("#pf-audit-result")
    for name in ("report.html", "audit.json"):
        page.click(page.wait("#pf-audit-result a", name))
        arrived(tmp_path, name)
    assert kept(server) == []

    for width, dark in ((1280, False), (390, True)):
        page = browse(width=width, dark=dark)
        page.tab("Trade-off")
        page.give("#pf-audits", tmp_path / "audit.json")
        page.framed("#pf-trade-off", "audit")


def test_refused_uploads_say_why_on_the_page(browse, tmp_path):
    page = browse(width=390, dark=True)
    large = tmp_path / "<b>large.png"
    large.write_bytes(b"\0" * 60_000_000)
    page.give("#pf-photos", large)
    told = page.wait("[data-testid=toast-text]", "60 MB; the limit is 50 MB a file")
    until(lambda: "HTTP" not in told.text, 5, lambda: told.text)
    assert told.text.startswith("<b>large.png: 60 MB"), "words alone, no status, no markup"


def test_keyboard_reaches_everything(kit, browse):
    from selenium.webdriver.common.keys import Keys

    page = browse(width=1280)
    page.choose("#pf-faces", "Face crops")
    page.give("#pf-photos", min(kit.faces.rglob("*.png")))
    page.wait("#pf-result .pf-summary", "1 face protected.")
    page.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached: list[str | None] = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        active = page.driver.switch_to.active_element
        reached += [active.text, *map(active.get_attribute, ("type", "aria-label"))]
    told = "\n".join(map(str, reached))
    for part in ("Protect", "Clear all", "radio", "range", "Download p0"):
        assert part in told, told


def test_camera_picture_is_protected(browse):
    page = browse(width=1280)
    page.click(page.wait("button", "Take one with the camera"))

    def shown() -> Any:
        page.driver.execute_script(PRESS_CAMERA)  # asks for the camera first, then takes the picture
        time.sleep(2)
        return page.all("#pf-result .pf-card")

    card, *_ = until(shown, 60, lambda: "no picture")
    assert "no face was found" in card.text, "Chromium's test picture shows none"
