"""The running server: bad uploads, many visitors at once, and what is left behind."""

from __future__ import annotations

import html
import io
import json
import re
import stat
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privface.app.methods import baselines
from privface.app.protecting import PhotoDesk
from privface.app.uploads import File
from tests.app.conftest import zipped
from tests.e2e.bad_inputs import png_header

pytestmark = pytest.mark.slow

LARGEST_MEMORY = 3_000_000_000
"""Of the server over all bad uploads: libraries and models take 0.7 GB, one photo of 98 megapixels the rest."""


def plain_png(side: int) -> bytes:
    """A real PNG of one bit a pixel, half white, half black."""
    buffer = io.BytesIO()
    pixels = Image.new("1", (side, side))
    pixels.paste(1, (0, 0, side // 2, side))  # a model may leave plain black as it is, which is refused
    pixels.save(buffer, "PNG")
    return buffer.getvalue()


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((32, 32, 3), k * 80, np.uint8)) for k in range(3)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def encrypted(data: bytes) -> bytes:
    """The same archive with the bit that says "encrypted" set everywhere."""
    found = bytearray(data)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = found.find(signature)
        found[place + offset] |= 1
    return bytes(found)


def lying(data: bytes, *, real: int, said: int) -> bytes:
    """An archive whose headers understate a size."""
    return data.replace(struct.pack("<I", real), struct.pack("<I", said))


Case = Callable[[Any, bytes], str]


def photos(*files: tuple[str, bytes], **options: Any) -> Case:
    """Upload and protect; the first refusal, or what the page shows."""

    def run(client: Any, good: bytes) -> str:
        response = client.upload(*((name, data or good) for name, data in files))
        if response.status_code != 200:
            assert response.status_code in {400, 413}
            return str(response.text)
        return str(client.protect(response.json(), **options))

    return run


def audited(original: bytes, labels: bytes | None = None) -> Case:
    def run(client: Any, good: bytes) -> str:
        files = [("originals.zip", original), ("protected.zip", zipped(("p1/a.png", good)))]
        if labels is not None:
            files.append(("labels.csv", labels))
        return str(client.audit(*client.paths(*files)))

    return run


def audits(*files: tuple[str, bytes]) -> Case:
    return lambda client, _good: str(client.trade_off(*client.paths(*files)))


def raw(body: bytes, content_type: str) -> Case:
    def run(client: Any, _good: bytes) -> str:
        headers = {"content-type": content_type}
        response = client.http.post("/gradio_api/upload", content=body, headers=headers)
        assert response.status_code == 400
        return str(response.text)

    return run


def forged(path: str) -> Case:
    return lambda client, _good: str(client.protect([path]))


def long_message(client: Any, _good: bytes) -> str:
    return str(client.ask("protect", ["x" * 2_000_000]))


def strange_host(client: Any, _good: bytes) -> str:
    response = client.http.get("/config", headers={"host": "evil.example"})
    assert response.status_code == 421
    return str(response.text)


def sent_by_another_page(client: Any, good: bytes) -> str:
    headers = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    response = client.http.post("/gradio_api/upload", files={"files": ("a.png", good)}, headers=headers)
    assert response.status_code == 403
    return str(response.text)


GOOD = b""  # stands for a good picture
SCRIPT = "<img src=x onerror=alert(1)>.png"
MB = 1_000_000

CASES: dict[str, tuple[Case, str]] = {
    "text": (photos(("a.jpg", b"hello")), "not an image that can be read"),
    "markup that calls itself png": (photos(("a.png", b"<html><script>1</script>")), "not an image that can be read"),
    "svg with a script": (photos(("a.svg", b"<svg onload='alert(1)'/>")), "not an image that can be read"),
    "PostScript": (photos(("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n")), "not an image that can be read"),
    "damaged jpeg": (photos(("a.jpg", b"\xff\xd8\xff\xe0" + b"\0" * 500)), "not an image that can be decoded"),
    "30,000 x 30,000, real": (photos(("a.png", plain_png(30_000))), "(900000000 pixels) exceeds limit"),
    "12,000 x 9,000": (photos(("a.png", png_header(12_000, 9_000))), "108,000,000 pixels, above the limit of 100,000,000. Scale"),
    "nothing behind a header": (photos(("a.png", png_header(64, 64))), "damaged image"),
    "animation": (photos(("a.gif", animation())), "an animation or stack of 3 frames"),
    "four pixels": (photos(("a.png", plain_png(4))), "below the shortest side of 16"),
    "200 MB": (photos(("a.png", b"\0" * (200 * MB))), "200 MB at once; the limit is 100 MB"),
    "three times 40 MB": (photos(*[(f"{k}.png", b"\0" * (40 * MB)) for k in range(3)]), "120 MB at once; the limit is 100 MB"),
    "101 files": (photos(*[(f"{k}.png", b"x") for k in range(101)]), "Too many files; the limit is 100"),
    "markup as a name": (photos((SCRIPT, GOOD)), "&lt;img src=x onerror=alert(1)&gt;.png"),
    "markup as a name of what is refused": (photos((SCRIPT, b"\0" * (60 * MB))), "&lt;img src=x onerror=alert(1)&gt;.png: 60 MB; the limit is 50 MB a file"),
    "template as a name": (photos(("${alert(1)}{{constructor}}.png", GOOD)), "1 face protected"),
    "name that leads elsewhere": (photos(("../../../etc/passwd.png", GOOD)), "<h3>passwd.png</h3>"),
    "name of 5,000 letters": (photos(("a" * 5000 + ".png", GOOD)), "The upload cannot be read"),
    "name of 250 letters": (photos(("a" * 250 + ".png", GOOD)), "1 face protected"),
    "name of control characters": (photos(("a\u202egnp.exe\x07.png", GOOD)), "1 face protected"),
    "98 megapixels": (photos(("a.png", plain_png(9_900))), "1 face protected"),
    "no form": (raw(b"x" * 100, "text/plain"), "cannot be read"),
    "form without boundary": (raw(b"x" * 100, "multipart/form-data"), "cannot be read"),
    "garbled form": (raw(b"x" * 100, "multipart/form-data; boundary=zzz"), "cannot be read"),
    "path of the machine": (forged("/etc/passwd"), "This is no upload of this server"),
    "address on the network": (forged("http://169.254.169.254/latest/meta-data"), "This is no upload of this server"),
    "unknown method": (photos(("a.png", GOOD), method="Magic"), "Magic"),
    "strength of a thousand": (photos(("a.png", GOOD), strength=1000.0), "1000"),
    "message of 2 MB": (long_message, "is not taken"),
    "another host's name": (strange_host, "on this machine only"),
    "a form of another page": (sent_by_another_page, "Other pages may not use this server"),
    "no zip": (audited(b"hello"), "is not a zip archive that can be read"),
    "half a zip": (audited(zipped(("p1/a.png", b"x" * 5000))[:100]), "is not a zip archive that can be read"),
    "zip bomb, announced": (audited(zipped(*[(f"p1/{k}.png", b"\0" * (45 * MB)) for k in range(12)])), "unpacks to 540 MB"),
    "zip bomb, one member": (audited(zipped(("p1/a.png", b"\0" * (60 * MB)))), "unpacks to more than 50 MB"),
    "zip bomb, lying": (audited(lying(zipped(("p1/a.png", b"\0" * (60 * MB))), real=60 * MB, said=100)), "is not a zip archive that can be read"),
    "zip with a password": (audited(encrypted(zipped(("p1/a.png", b"x")))), "encrypted; unpack it yourself"),
    "zip of 20,000 files": (audited(zipped(*[(f"{k}", b"") for k in range(20_000)])), "20,000 entries; the limit is 10,000"),
    "zip in a zip": (audited(zipped(("a.zip", zipped(("p1/a.png", b"x"))))), "holds no photo"),
    "zip that names a file twice as a folder": (audited(zipped(("p1/a.png", b"x"), ("p1/a.png/b.png", b"x"))), "cannot be unpacked"),
    "labels that are no table": (audited(zipped(("p1/a.png", b"x"), ("p2/a.png", b"x")), labels=b"\0\xff\0"), "labels.csv"),
    "no labels": (audited(zipped(("p1/a.png", b"x"), ("p2/a.png", b"x"))), "no photo with a gender label"),
    "no audit": (audits(("a.json", b"hello")), "cannot be read as an audit"),
    "audit of another kind": (audits(("a.json", b'{"schema": "x"}')), "schema"),
    "audit with nothing in it": (audits(("a.json", b'{"schema": "privface.audit/2"}')), "incomplete"),
    "audit nested a million times": (audits(("a.json", b"[" * MB)), "cannot be read as an audit"),
    "audit of 20 MB": (audits(("a.json", b'"' + b"x" * (20 * MB) + b'"')), "the limit is 10 MB an audit"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_upload_is_answered_in_words(server, client, make_png, name):
    case, says = CASES[name]
    shown = case(client, make_png(1))
    assert says in shown or says in html.unescape(shown)
    assert "Traceback" not in shown
    assert str(server.temporary) not in shown
    assert SCRIPT not in shown
    assert server.process.poll() is None


def test_after_all_of_them_it_works_and_its_memory_is_bounded(server, client, make_png):
    assert "1 face protected" in client.protect(client.paths(("a.png", make_png(1))))
    assert [p for p in server.files() if p.suffix in {".png", ".jpg", ".zip", ".csv"}] == []
    sys.stdout.write(f"peak resident memory: {server.peak_memory() / 1e6:.0f} MB\n")  # pytest -s shows it
    assert server.peak_memory() < LARGEST_MEMORY


def test_fifty_visitors_at_once_each_get_their_own_answer(server, make_png):
    """All upload under one name, two and two the same photo; each answer is the photo's own, bit for bit."""
    uploads = [make_png(k // 2) for k in range(50)]
    blur = next(method for method in baselines() if method.name.startswith("Blur"))
    expected = PhotoDesk().protect([File("photo.png", data) for data in uploads], blur, faces="aligned")

    def visit(data: bytes) -> bytes:
        client = server.client()
        try:
            shown = client.protect(client.paths(("photo.png", data)))
            address = re.search(r'href="(kept/[0-9a-f]{32}/photo\.png)"', shown)
            assert address is not None, shown
            response = client.http.get("/" + address[1])
            assert response.status_code == 200
            return bytes(response.content)
        finally:
            client.http.close()

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(visit, uploads))
    assert answers == [outcome.data for outcome in expected]
    assert len(set(answers)) == 25


def test_what_is_served_is_not_kept_by_browsers_and_runs_nothing(client, make_png):
    path = client.paths(("a.html", b"<script>alert(1)</script>"))[0]
    response = client.http.get(f"/gradio_api/file={path}")
    assert response.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    picture = client.http.get(f"/gradio_api/file={client.paths(('a.html', make_png(1)))[0]}")
    assert picture.headers["content-type"] == "image/png"
    assert client.http.get("/gradio_api/file=/etc/passwd").status_code == 404
    assert client.http.get("/kept/" + "0" * 32 + "/a.png").status_code == 404
    page = client.http.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"https?://", page.text), "the page loads nothing from elsewhere"


def test_audit_of_two_archives_gives_a_report(server, client, archives):
    paths = client.paths(*((path.name, path.read_bytes()) for path in archives))
    shown = client.audit(*paths)
    found = {a.rsplit("/", 1)[1]: client.http.get("/" + a) for a in re.findall(r'href="(kept/[^"]+)"', shown)}
    assert b"<html" in found["report.html"].content
    assert json.loads(found["audit.json"].content)["schema"] == "privface.audit/2"
    assert [p for p in server.files() if p.suffix in {".png", ".html", ".json"}] == []
    same = found["audit.json"].content
    shown = client.trade_off(*client.paths(("one.json", same), ("one.json", same)))
    page = client.http.get("/" + re.findall(r'src="(kept/[^"]+)"', shown)[0])
    assert "sandbox" in page.headers["content-security-policy"]
    assert {"one", "one-2"} <= set(re.findall(r'<th scope="row">([^<]+?) *<', page.text))


def test_sigterm_ends_it_and_wipes_its_folder(start, make_png):
    server = start()
    client = server.client()
    folder = next(server.temporary.glob("privface-app-*"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "1 face protected" in client.protect(client.paths(("a.png", make_png(1))))
    client.http.close()
    assert server.stop() in {0, -15, 143}
    assert list(server.temporary.iterdir()) == []
