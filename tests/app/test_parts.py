"""The page's parts that need neither Gradio nor a server."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from privface.app import auditing, markup, protecting, uploads
from privface.app.auditing import AuditBench
from privface.app.folder import PREFIX, private_folder, remove_leftovers
from privface.app.gate import upload_token
from privface.app.methods import STRONGEST, WEAKEST, baselines, model_methods
from privface.app.protecting import Outcome, PhotoDesk
from privface.app.server import Settings, build_service, serve
from privface.app.shelf import Shelf
from privface.app.uploads import (
    File,
    Limits,
    UploadError,
    check_sizes,
    image_suffix,
    safe_stem,
    unpack_photos,
)
from privface.device import Device
from privface.errors import ConfigError, DataError
from privface.faces import Detection, align_face
from privface.images import decode_image, encode_image
from privface.models import Protector
from privface.models.bundled import DEFAULT_PROTECTOR
from privface.options import Computing
from privface.protect import check_images
from privface.records import ARCFACE_TEMPLATE
from tests.app.conftest import zipped


def test_only_the_page_imports_gradio():
    root = Path(protecting.__file__).parents[1]
    imports = re.compile(r"^\s*(import|from) gradio", re.MULTILINE)
    assert [p for p in root.rglob("*.py") if imports.search(p.read_text())] == [root / "app" / "page.py"]


def test_unpacking_keeps_photos_and_labels_and_leaves_the_common_folder_out(tmp_path):
    data = zipped(
        ("set/p1/a.png", b"1"),
        ("set/p2/b.JPG", b"2"),
        ("set/labels.csv", b"3"),
        ("set/manifest.parquet", b"4"),
        ("set/p1/.hidden.png", b"5"),
        ("__MACOSX/set/p1/._a.png", b"6"),
    )
    out = tmp_path / "out"
    unpack_photos(data, out, name="x.zip")
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert found == {"labels.csv", "p1/a.png", "p2/b.JPG"}
    assert stat.S_IMODE((out / "p1").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "c:/a.png", "a\\b.png", "a//b.png"])
def test_names_that_lead_elsewhere_refuse_the_archive(tmp_path, name):
    with pytest.raises(UploadError, match="entry"):
        unpack_photos(zipped(("ok/a.png", b"1"), (name, b"2")), tmp_path / "out", name="x.zip")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_sizes_name_file_value_limit_and_cure(monkeypatch):
    monkeypatch.setattr(uploads, "LIMITS", Limits(file_bytes=10, request_bytes=15, files=2))
    check_sizes(["a", "b"], [10, 5])
    with pytest.raises(UploadError, match=r"3 files; the limit is 2 at once\. Send"):
        check_sizes(["a", "b", "c"], [1, 1, 1])
    with pytest.raises(UploadError, match=r"b: .* the limit is .* a file\. Make it smaller"):
        check_sizes(["a", "b"], [1, 11])
    with pytest.raises(UploadError, match=r"together; the limit is .* Send them in parts"):
        check_sizes(["a", "b"], [8, 8])


def test_formats_are_told_by_content():
    pixels = np.zeros((16, 16, 3), np.uint8)
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tif"):
        assert image_suffix(encode_image(pixels, suffix)) == suffix


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd.png", "passwd.jpg"),
        ("<b>x</b>.png", "b_.jpg"),
        ("a\u202eb.png", "a_b.jpg"),
        ("..png", "photo.jpg"),
        ("C:\\x\\Zoë 1.png", "Zoë 1.jpg"),
    ],
)
def test_download_names_are_plain(name, safe):
    assert safe_stem(name) + ".jpg" == safe


def test_shelf_forgets_by_time_and_owner_and_pushes_nobody_out():
    now = [0.0]
    shelf = Shelf(capacity=10, seconds=5, clock=lambda: now[0])
    (mine,) = shelf.put(File("a", b"1234"), owner=("me", "photos"))
    (other,) = shelf.put(File("b", b"1234"), owner=("you", "photos"))
    with pytest.raises(UploadError, match="would pass its limit"):
        shelf.put(File("c", b"123"))
    now[0] = 4
    assert shelf.get(mine) == File("a", b"1234")
    now[0] = 6
    assert shelf.get(other) is None
    assert shelf.get(mine) is not None
    shelf.drop("me", "protected")
    assert shelf.size == 4
    shelf.drop("me")
    assert shelf.size == 0


def test_only_paths_of_the_gate_are_uploads(tmp_path):
    token = "0" * 32
    assert upload_token(f"{tmp_path}/{token}/a.png", tmp_path) == token
    for path in (f"{tmp_path}/x/a.png", f"/etc/{token}/a", "http://x/y", str(tmp_path), ""):
        assert upload_token(path, tmp_path) == ""


def test_private_folder_is_private_and_gone_and_leftovers_go_with_the_next(tmp_path):
    dead = tmp_path / f"{PREFIX}dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "photo.png").touch()
    with private_folder(tmp_path) as folder:
        assert not dead.exists()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        remove_leftovers(tmp_path)
        assert folder.is_dir(), "a running server's folder stays"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", baselines(), ids=lambda method: method.name)
def test_every_baseline_works_over_the_slider_and_says_what_it_is_worth(method, make_png):
    images = np.random.default_rng(0).random((1, 3, 112, 112), np.float32)
    assert "does not hide gender" in method.note
    for strength in (WEAKEST, 1.0, STRONGEST):
        out = method.make(strength)(images)
        check_images(out, size=112)
        assert not np.array_equal(out, images)


class TwoFaces:
    """A detector that finds a face in the middle of each photo, and one aside."""

    def detect(self, images):
        points = [tuple((x + shift, y + 44.0) for x, y in ARCFACE_TEMPLATE) for shift in (44.0, 80.0)]
        boxes = (44.0, 44.0, 156.0, 156.0), (80.0, 44.0, 192.0, 156.0)
        return [[Detection(box, 1.0, p) for box, p in zip(boxes, points, strict=True)] for _ in images]


def test_every_face_of_a_photo_is_shown_alone(kit):
    models = {"matchers": [f"mini:{kit.matcher}"], "probes": [f"mini:{kit.probe}"]}
    service = build_service(Settings(model=kit.run, **models), Path())
    desk = PhotoDesk(matchers=service.desk.matchers, probes=service.desk.probes, detector=TwoFaces())
    photo = encode_image(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8), ".png")
    told: list[tuple[int, int]] = []
    outcomes = desk.protect(
        [File("a.png", photo), File("A.FACE2.png", photo), File("x.png", b"x")],
        service.methods[0],
        progress=lambda *done_and_total: told.append(done_and_total),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [(o.name, o.output) for o in outcomes] == [
        ("a.png, face 1 of 2", "a.png"),
        ("a.png, face 2 of 2", "a.face2.png"),
        ("A.FACE2.png, face 1 of 2", "A.FACE2-2.png"),
        ("A.FACE2.png, face 2 of 2", "A.FACE2-2.face2.png"),
        ("x.png", ""),
    ]
    assert "not an image" in (outcomes[4].reason or "")
    for outcome, left in zip(outcomes[:2], (44.0, 80.0), strict=True):
        points = tuple((x + left, y + 44.0) for x, y in ARCFACE_TEMPLATE)
        after = decode_image(outcome.data or b"")
        before = align_face(decode_image(photo), points, size=len(after))
        shown = decode_image(outcome.pictures[0])
        assert after.shape == before.shape == shown.shape
        assert np.abs(after.astype(int) - before).max() > 2
        assert np.abs(shown.astype(int) - before).mean() < 25, "this face, but for JPEG"
        ((_, similarity),), ((_, *chances),) = outcome.matches, outcome.genders
        assert -1 <= similarity <= 1
        assert all(0 <= chance <= 1 for chance in chances)
    said = markup.part("outcomes", [*outcomes, Outcome("<b>", reason="<i>")], None, lambda *_: "")
    assert "4 faces protected. 2 photos not protected." in said
    assert "<h3>&lt;b&gt;</h3>" in said
    assert "<i>" not in said


def test_strength_changes_the_model(kit, make_png):
    (method,) = model_methods(kit.run)
    photo, original = File("a.png", make_png(3)), decode_image(make_png(3)).astype(int)

    def change(strength: float) -> float:
        (shown,) = PhotoDesk().protect([photo], method, strength=strength, faces="aligned")
        return np.abs(decode_image(shown.data) - original).mean()

    assert 0 < change(0.2) < change(2.0)


def test_a_face_drawn_from_a_code_has_one_strength():
    (method,) = model_methods(Path(DEFAULT_PROTECTOR))
    assert not method.adjustable
    assert method.make(0.5) is method.make(1.0)


def test_audit_errors_name_no_path_and_leave_nothing(tmp_path, kit):
    bench = AuditBench(tmp_path, matchers=[f"mini:{kit.matcher}"])
    photo = zipped(("p1/a.png", b"x"), ("p2/a.png", b"x"))
    first, second = File("a.zip", photo), File("b.zip", photo)
    with pytest.raises(DataError) as caught:
        bench.audit(first, second, None)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(UploadError, match="without a face matcher"):
        AuditBench(tmp_path).audit(first, second, None)
    with pytest.raises(UploadError, match=r"people\.parquet is a Parquet table.* Save it as CSV"):
        bench.audit(first, second, File("people.parquet", b"PAR1"))
    assert list(tmp_path.iterdir()) == []


def test_models_compute_where_the_command_line_says(tmp_path, kit):
    where = Computing(device="cpu", precision="bf16")
    service = build_service(Settings(model=kit.run, matchers=[f"mini:{kit.matcher}"], where=where), tmp_path)
    assert [matcher.device for matcher in service.desk.matchers] == [Device("cpu", "bf16")]
    made = service.methods[0].make(1.0)
    assert isinstance(made, Protector)
    assert made.device == Device("cpu", "bf16")
    assert service.bench.device == "cpu"


def test_a_stopped_audit_says_so_and_leaves_nothing(tmp_path, kit, make_png, monkeypatch):
    def endless(*_: object, progress, **__: object) -> None:
        while True:
            progress("embed", 1, 2)
            time.sleep(0.01)

    monkeypatch.setattr(auditing, "audit", endless)
    service = build_service(Settings(matchers=[f"mini:{kit.matcher}"]), tmp_path)
    photos = zipped(("p1/a.png", make_png(1)))
    paths = [f"{tmp_path}/{name}/x.zip" for name in service.shelf.put(*[File("x.zip", photos)] * 2)]
    shown = service.audit("me", *paths, None, effort="quick", aligned=True, ours=False)
    service.stop("me", "audited")  # nothing runs yet: nothing is stopped
    next(shown)
    service.clear("me")  # lets photos go, and leaves the audit alone
    assert "Stopped." not in next(shown)
    service.stop("me", "audited")
    last = list(shown)[-1]
    assert "Stopped." in last, last
    assert "Nothing of it was kept." in last
    assert list(tmp_path.iterdir()) == []


def test_ports_are_checked_first():
    import socket

    with pytest.raises(ConfigError, match=r"70000 is outside 0\.\.65535"):
        serve(Settings(port=70_000))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            serve(Settings(port=taken.getsockname()[1]))


def test_a_stopped_or_failed_request_is_told_in_words(tmp_path, make_png, monkeypatch):
    service = build_service(Settings(), tmp_path)
    assert service.methods[0].name == "Model bundled:erased", "the model that comes along is preselected"
    (token,) = service.shelf.put(File("a.png", make_png(1)))
    path = f"{tmp_path}/{token}/a.png"
    options = {"method": "Blur (baseline)", "strength": 1.0, "faces": "aligned"}
    assert "1 face protected" in list(service.protect("me", [path], **options))[-1]
    assert "is no longer held" in list(service.protect("me", [path.replace(token, "0" * 32)], **options))[-1]

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.desk, "protect", broken)
    last = list(service.protect("me", [path], **options))[-1]
    assert "Something went wrong" in last
    assert "secret" not in last
    service.leave("me")
    assert service.shelf.size == 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208
