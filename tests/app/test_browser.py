"""The page in a real browser: protect, audit, trade-off, download; keyboard, narrow screens; nothing stays on disk.

PRIVFACE_SHOTS names a folder for screenshots.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"
    ),
]

SCRIPT_NAME = "<img src=x onerror=document.title='run'>${document.title='run'}{{x}}.png"


PRESS_CAMERA = """
const found = [...document.querySelectorAll('#pf-camera button, #pf-camera [role=button]')];
const named = b => `${b.title} ${b.ariaLabel} ${b.innerText}`.toLowerCase();
const next = found.find(b => named(b).includes('capture')) || found.find(b => named(b).includes('access'));
if (next) next.click();
"""


class Browser:
    """Headless Chromium on the page."""

    def __init__(self, address: str, downloads: Path, *, width: int, dark: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.add_argument("--use-fake-device-for-media-stream")
        options.add_argument("--use-fake-ui-for-media-stream")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        command = self.driver.execute_cdp_cmd
        command("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        command("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        command("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.width, self.dark = width, dark
        self.driver.get(address)
        self.wait("#pf-go")
        self.wait("#pf-photos input[type=file]")

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def wait(self, selector: str, text: str = "", *, seconds: float = 60) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for element in self.all(selector):
                if text in (element.text or ""):
                    return element
            time.sleep(0.2)
        raise AssertionError(f"{selector} {text!r}: {[e.text for e in self.all(selector)]}")

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

    def shot(self, name: str) -> None:
        if folder := os.environ.get("PRIVFACE_SHOTS"):
            time.sleep(0.5)
            height = int(self.driver.execute_script("return document.documentElement.scrollHeight"))
            whole = {"x": 0, "y": 0, "width": self.width, "height": min(height, 4000), "scale": 1}
            answer = self.driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": whole}
            )
            import base64

            path = Path(folder) / f"{name}_{self.width}{'_dark' if self.dark else ''}.png"
            path.write_bytes(base64.b64decode(answer["data"]))

    def strangers(self) -> list[str]:
        """Addresses other than ours that the page asked for."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [
            u for u in urls if not u.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome:", "about:"))
        ]


@pytest.fixture
def browse(server, tmp_path):
    opened: list[Browser] = []

    def begin(**options: Any) -> Browser:
        opened.append(Browser(server.address, tmp_path, **options))
        return opened[-1]

    yield begin
    for one in opened:
        one.driver.quit()


@pytest.fixture(scope="session")
def archives(kit, tmp_path_factory):
    """Originals with their labels, and what the kit's model made of them, as zips."""
    from privface.models import Protector
    from privface.protect import protect_folder

    root = tmp_path_factory.mktemp("archives")
    protect_folder(kit.faces, root / "out", Protector.load(kit.run))
    for name, folder in (("originals", kit.faces), ("protected", root / "out")):
        shutil.make_archive(str(root / name), "zip", folder)
    return root / "originals.zip", root / "protected.zip"


def arrived(folder: Path, name: str) -> Path:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = [p for p in folder.glob(name) if p.stat().st_size and p.suffix != ".crdownload"]
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"{name} was not downloaded: {list(folder.iterdir())}")


@pytest.mark.parametrize("width", [1280, 390])
def test_protect_show_download_clear(server, kit, browse, tmp_path, width):
    page = browse(width=width)
    page.shot("start")
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
    until = time.monotonic() + 20
    while not page.driver.execute_script(loaded) and time.monotonic() < until:
        time.sleep(0.2)
    assert page.driver.execute_script(loaded)
    assert "similarity" in cards[0].text
    assert "male" in cards[0].text
    page.shot("protected")
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
    assert [p for p in server.files() if p.suffix in {".png", ".jpg", ".zip"}] == []

    page.click(page.wait("#pf-clear"))
    page.wait("#pf-result", "Nothing of yours is held any more.")


def test_audit_report_and_trade_off(server, browse, archives, tmp_path):
    page = browse(width=1280)
    page.tab("Audit")
    page.give("#pf-originals", archives[0])
    page.give("#pf-protected", archives[1])
    page.wait("#pf-originals", ".zip")
    page.wait("#pf-protected", ".zip")
    page.choose("#pf-audit-faces", "Face crops")
    page.click(page.wait("#pf-audit"))
    page.wait("#pf-audit-result .pf-progress")
    page.shot("audit-running")
    page.wait("#pf-audit-result .pf-summary", "report.html", seconds=300)
    frame = page.wait("#pf-audit-result iframe")
    assert frame.get_attribute("sandbox") is not None
    page.shot("audit")
    page.driver.switch_to.frame(frame)
    page.wait("h1")
    page.driver.switch_to.default_content()
    for name in ("report.html", "audit.json"):
        page.click(page.wait("#pf-audit-result a", name))
        arrived(tmp_path, name)
    assert [p for p in server.files() if p.suffix in {".png", ".zip", ".html", ".json"}] == []

    for width, dark in ((1280, False), (390, True)):
        page = browse(width=width, dark=dark)
        page.tab("Trade-off")
        page.give("#pf-audits", tmp_path / "audit.json")
        frame = page.wait("#pf-trade-off iframe")
        assert frame.get_attribute("sandbox") is not None
        page.shot("trade-off")
        page.driver.switch_to.frame(frame)
        page.wait("th", "audit")
        page.driver.switch_to.default_content()


def test_an_audit_is_stopped(server, browse, archives):
    page = browse(width=390)
    page.tab("Audit")
    page.shot("audit-start")
    page.give("#pf-originals", archives[0])
    page.give("#pf-protected", archives[1])
    page.wait("#pf-originals", ".zip")
    page.wait("#pf-protected", ".zip")
    page.choose("#pf-audit-faces", "Face crops")
    page.click(page.wait("#pf-audit"))
    page.wait("#pf-audit-result .pf-progress")
    page.click(page.wait("#pf-stop"))
    page.wait("#pf-audit-result .pf-notice", "Stopped.")
    page.shot("audit-stopped")
    assert [p for p in server.files() if p.suffix in {".png", ".zip", ".html", ".json"}] == []


def test_refused_uploads_say_why_on_the_page(browse, tmp_path):
    page = browse(width=390, dark=True)
    large = tmp_path / "<b>large.png"
    large.write_bytes(b"\0" * 60_000_000)
    page.give("#pf-photos", large)
    told = page.wait("[data-testid=toast-text]", "60 MB; the limit is 50 MB a file")
    until = time.monotonic() + 5
    while "HTTP" in told.text and time.monotonic() < until:
        time.sleep(0.1)
    assert told.text.startswith("<b>large.png: 60 MB"), "words alone, no status, no markup"
    page.shot("refused")


def test_keyboard_reaches_everything(kit, browse):
    from selenium.webdriver.common.keys import Keys

    page = browse(width=1280)
    page.choose("#pf-faces", "Face crops")
    page.give("#pf-photos", min(kit.faces.rglob("*.png")))
    page.wait("#pf-result .pf-summary", "1 face protected.")
    page.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached: list[str] = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        active = page.driver.switch_to.active_element
        reached.append(
            f"{active.tag_name} {active.get_attribute('role')} {active.text} {active.get_attribute('type')} {active.get_attribute('aria-label')}"
        )
    told = "\n".join(reached)
    for part in ("Protect", "Clear all", "radio", "range", "Download p0"):
        assert part in told, told


def test_camera_picture_is_protected(browse):
    page = browse(width=1280)
    page.click(page.wait("button", "Take one with the camera"))
    until = time.monotonic() + 60
    while not page.all("#pf-result .pf-card") and time.monotonic() < until:
        page.driver.execute_script(PRESS_CAMERA)  # asks for the camera first, then takes the picture
        time.sleep(2)
    assert "no face was found" in page.wait("#pf-result .pf-card").text, "Chromium's test picture shows none"
