from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import pandas as pd
import pytest
import torch
from PIL import Image

from privface.audit import AuditResult, PixelProbe
from privface.audit.result import check_gate
from privface.config import DataSettings
from privface.data import LoadedFaces
from privface.device import Device
from privface.errors import AuditError, CheckpointError, ConfigError, DataError, OutputError
from privface.faces import Detection, align_face, as_aligned
from privface.images import decode_image, to_unit
from privface.models import Autoencoder, CompactResNet, Protector, load_matcher, save_network, variant
from privface.pipeline import AuditOptions, audit, audit_protector, battery, embed, load_aligned, open_data
from privface.pipeline.battery import image_probes
from privface.pipeline.inspect import AttackerSet, _code_name, _load_coder, load_protected
from privface.protect import GaussianBlur, ProtectOptions, protect_folder
from privface.protect.templates import template_maker
from privface.records import FaceRecord, FaceTable

QUICK = AuditOptions(resamples=20, effort="quick", size=32, faces="aligned")


@pytest.fixture(scope="module")
def models(world, tmp_path_factory) -> list[str]:
    """The run's matcher under another path, and one that it has not met."""
    root = tmp_path_factory.mktemp("models")
    shutil.copytree(world.matcher, root / "copy")
    torch.manual_seed(1)
    meta = {"input_size": 32, "crop": [0.0, 0.0, 112.0, 112.0]}
    save_network(root / "fresh", CompactResNet(outputs=16, width=8, stages=1), kind="matcher", meta=meta)
    return [f"mini:{root / 'copy'}", f"mini:{root / 'fresh'}"]


@pytest.fixture
def one_image_probe(monkeypatch):
    """Attackers on pictures take most of an audit's time; where they are not the point, the quickest does."""
    monkeypatch.setattr(battery, "image_probes", lambda *_, **__: [PixelProbe()])


@pytest.fixture(scope="module")
def faces(world) -> LoadedFaces:
    """The audited people in memory."""
    return load_aligned(open_data(DataSettings(source=str(world.audited))), mode="aligned", size=32)


@pytest.fixture(scope="module")
def first(world, protected, models, tmp_path_factory) -> Path:
    """A finished audit of the run."""
    out = tmp_path_factory.mktemp("audit")
    asked = {"matchers": models, "probes": [f"mini:{world.run / 'classifiers' / '0'}"], "model": world.run}
    audit(world.audited, protected, **asked, out=out, options=QUICK, images=True)
    return out


def test_seen_is_marked_by_weights_not_by_path_and_the_report_shows_photos(first):
    document = json.loads((first / "audit.json").read_text())
    seen = {row["matcher"]: row["seen"] for row in document["matching"]}
    assert seen == {"mini:copy": True, "mini:fresh": False}
    frozen = [row for row in document["leakage"] if row["kind"] == "frozen"]
    assert [(row["probe"], row["seen"]) for row in frozen] == [("mini:0", True)]
    html = (first / "report.html").read_text()
    assert "data:image/jpeg" in html
    assert "mini:fresh" in html


THUMBNAILS = """
<ir_version: 9, opset_import: ["": 17]>
thumbnails (float[N, 3, 32, 32] rgb) => (float[N, 48] out) {
    small = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (rgb)
    out = Flatten (small)
}
"""


def test_a_corrected_sidecar_is_not_answered_from_the_cache(world, protected, tmp_path, one_image_probe):
    onnx.save(onnx.parser.parse_model(THUMBNAILS), tmp_path / "m.onnx")
    matcher = f"onnx:{tmp_path / 'm.onnx'}"

    def audited(name: str, cache: Path | None) -> bytes:
        options = dataclasses.replace(QUICK, effort="demo", cache=cache)
        audit(world.audited, protected, matchers=[matcher], out=tmp_path / name, options=options)
        return (tmp_path / name / "audit.json").read_bytes()

    def made_from_it() -> list[str]:
        model = load_matcher(matcher)
        ours, tuned = image_probes(dataclasses.replace(QUICK, effort="full"), [model], [])[-2:]
        assert ours.name == "fine-tuned:bundled:gender"
        return [template_maker(matcher).fingerprint, tuned.fingerprint]

    (tmp_path / "m.yaml").write_text("size: [32, 32]\ncrop: [0, 0, 20, 20]\n")
    wrong, names = audited("wrong", tmp_path / "cache"), made_from_it()
    assert audited("again", tmp_path / "cache") == wrong
    (tmp_path / "m.yaml").write_text("size: [32, 32]\n")
    assert audited("cached", tmp_path / "cache") == audited("plain", None) != wrong
    assert not set(made_from_it()) & set(names)


def test_audit_through_folders_equals_audit_in_memory_and_repeats(world, faces, first, models):
    """Same photos, same seed, two ways and two times: the same bytes (PNG keeps every pixel)."""
    asked = {"matchers": models, "probes": [f"mini:{world.run / 'classifiers' / '0'}"], "model": world.run}
    result, after = audit_protector(faces, Protector.load(world.run), **asked, options=QUICK)
    assert after.shape == (256, 32, 32, 3)
    through_folders = json.loads((first / "audit.json").read_text())
    for side in ("bytes_original", "bytes_protected"):  # only files have a size
        assert through_folders["quality"].pop(side)["value"] > 100
    assert result.to_dict() == through_folders


def test_draws_of_a_randomised_protector_are_averaged_in_memory_and_from_folders(
    world, faces, models, tmp_path, one_image_probe
):
    torch.manual_seed(2)
    network = Autoencoder(variant("variational", shape=(3, 32, 32), code=24, width=4, depth=2))
    save_network(tmp_path / "run", network, kind="autoencoder", meta={"size": 32})
    protector = Protector.load(tmp_path / "run", draw=5)
    common = {"matchers": models[1:], "probes": [], "model": None, "options": QUICK}
    in_memory = audit_protector(faces, protector, **common)[0].to_dict()["averaging"]
    assert {row["draws"] for row in in_memory} == {1, 2, 4, 8}
    assert {row["input"] for row in in_memory} == {"image", "embedding:mini:fresh"}
    plain, _ = audit_protector(faces, Protector.load(tmp_path / "run"), **common)
    assert "averaging" not in plain.document
    for number in (0, 1):
        protect_folder(world.audited, tmp_path / str(number), protector.redrawn(number))
    where = {"draws": [tmp_path / "1"], "out": tmp_path / "audit"}
    found = audit(world.audited, tmp_path / "0", **where, **common).to_dict()["averaging"]
    assert found == [row for row in in_memory if row["draws"] <= 2]
    assert 'id="averaging"' in (tmp_path / "audit" / "report.html").read_text()


class Coder:
    """Stands for a protector that draws faces from a code; its code is 8 x 8 pixels, its eraser forgets half of them."""

    has_code, size, draw = True, 32, None

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def __call__(self, images):
        return np.full_like(images, 0.5)

    def codes(self, images):
        assert images.dtype == np.float32
        assert images.shape[1:] == (3, self.size, self.size)
        side = self.size // 8
        code = images.mean(axis=1).reshape(len(images), 8, side, 8, side).mean(axis=(2, 4)).reshape(-1, 64)
        erased = code.copy()
        erased[:, 32:] = 0.5
        return code, erased


def test_the_code_of_a_model_is_attacked_in_memory_and_from_folders(
    world, faces, models, tmp_path, monkeypatch, one_image_probe
):
    common = {"matchers": models[1:], "probes": [], "model": None, "options": QUICK}
    in_memory = audit_protector(faces, Coder(), **common)[0].to_dict()
    rows = [row for row in in_memory["leakage"] if row.get("white_box")]
    assert {row["input"] for row in rows} == {"white-box:code"}
    protect_folder(world.audited, tmp_path / "out", Protector.load(world.run))
    found = {}
    for size in (32, 64):  # a model that looks at larger faces gets larger ones
        monkeypatch.setattr("privface.pipeline.inspect._load_coder", lambda *_, size=size: Coder(size))
        found[size] = audit(world.audited, tmp_path / "out", out=tmp_path / str(size), **common).to_dict()
    assert [row for row in found[32]["leakage"] if row.get("white_box")] == rows
    assert found[32]["worst_white_box"] == in_memory["worst_white_box"]
    assert "worst_white_box" in found[64]
    assert 'id="white-box"' in (tmp_path / "32" / "report.html").read_text()


def test_only_a_model_that_draws_from_a_code_is_loaded_for_it(world, tmp_path, monkeypatch):
    assert _load_coder(None, (), Device()) is None
    assert _load_coder(tmp_path, (), Device()) is None  # such as a folder with nothing but provenance
    monkeypatch.setattr(
        Protector, "load", lambda run, *, code_size, hide, device: ("loaded", run, code_size, hide)
    )
    assert _load_coder(world.run, (), Device()) is None
    erased = Path("bundled:erased")
    assert _load_coder(erased, (), Device()) == ("loaded", erased, None, None)
    assert _load_coder(erased, {"", "0a+code:32", "0a+code:64"}, Device()) == ("loaded", erased, 64, None)
    loaded = _load_coder(erased, {"0a+hide:age,race+code:32@cpu-bf16"}, Device())
    assert loaded == ("loaded", erased, 32, ["age", "race"])
    with pytest.raises(AuditError, match="2 choices"):
        _load_coder(erased, {"0a+hide:age+code:32", "0a+hide:race+code:32"}, Device())


def test_a_code_that_nothing_tells_of_is_named_by_the_choice_that_is_assumed():
    coder = SimpleNamespace(fingerprint="0a+hide:gender,race+code:32")
    assert _code_name(coder, [""]) == "code assumed to hide gender,race"
    assert _code_name(coder, ["0b+hide:race+code:32"]) == "code"
    assert _code_name(SimpleNamespace(fingerprint="0a+code:32"), []) == "code"


def test_every_figure_of_an_audit_can_be_gated_before_it(first):
    result = AuditResult.load(first / "audit.json")
    for name in result.figures:
        for part in ("", ".low", ".high"):
            check_gate(f"{name}{part}>0.5")
            result.gate(f"{name}{part}>0.5")
    for wrong in ("leak>0.5", "leakage>x", "leakage", "tmr_p_p_0.5<1", "eer_x_x>0"):
        with pytest.raises(ConfigError):
            check_gate(wrong)
        with pytest.raises(ConfigError):
            result.gate(wrong)


def test_wrong_models_and_outputs_show_before_the_work(world, tmp_path):
    calls: list[str] = []
    (tmp_path / "file").write_text("x")
    usual = {"matchers": [f"mini:{world.matcher}"], "out": tmp_path / "a", "options": QUICK}
    for changes, error, words in (
        ({"out": tmp_path / "file"}, OutputError, "Cannot write to"),
        ({"matchers": []}, AuditError, "without a matcher"),
        ({"model": tmp_path}, CheckpointError, r"no readable provenance\.json"),
    ):
        told = {**usual, **changes, "progress": lambda stage, *_: calls.append(stage)}
        with pytest.raises(error, match=words):
            audit(world.audited, world.audited, **told)
    assert calls == []


def test_photos_without_a_protected_version_count_as_failures(world, protected, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(protected, part)
    for path in sorted(part.rglob("*.png"))[:64:4]:
        path.unlink()
    options = dataclasses.replace(QUICK, resamples=2)
    matchers = [f"mini:{world.matcher}"]
    result = audit(world.audited, part, matchers=matchers, out=tmp_path / "a", options=options)
    rows = [row for row in result.to_dict()["matching"] if row["impostors"] == "all"]
    failed = {row["mode"]: row["fte"]["value"] for row in rows}
    assert failed["P-P"] == pytest.approx(16 / 256)
    assert failed["O-O"] == 0.0


POINTS = ((42.0, 40.0), (58.0, 40.0), (50.0, 49.0), (43.0, 57.0), (57.0, 57.0))


class TwoFaces:
    """The central face, and one aside."""

    def detect(self, images):
        aside = Detection((64.0, 28.0, 96.0, 68.0), 0.9, tuple((x + 30.0, y) for x, y in POINTS))
        return [[aside, Detection((34.0, 28.0, 66.0, 68.0), 0.9, POINTS)] for _ in images]


@pytest.mark.parametrize("paste", [False, True])
@pytest.mark.parametrize("side", [32, 100])
def test_a_pasted_photo_is_aligned_like_its_original_and_a_face_alone_is_not(tmp_path, paste, side):
    """`privface protect PHOTOS OUT` and then `privface audit`, which reads from the manifest what lies there."""
    photo = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(photo).save(tmp_path / "in" / "a.png")
    blur = GaussianBlur(sigma=2.0, size=side)  # a face alone may be as large as its photo
    asked = ProtectOptions(faces="detect", paste=paste)
    protect_folder(tmp_path / "in", tmp_path / "out", blur, asked, detector=TwoFaces())
    table = FaceTable((FaceRecord("a.png", tmp_path / "in" / "a.png", landmarks=POINTS),))
    options = dataclasses.replace(QUICK, faces="landmarks", size=side)
    faces, found, paths = load_protected(table, tmp_path / "out", options, None)
    assert found.all()
    assert paths == [tmp_path / "out" / "a.png"], "the central face's row counts"
    written = decode_image(tmp_path / "out" / "a.png")
    expected = align_face(written, POINTS, size=side) if paste else written
    np.testing.assert_array_equal(faces[0], expected)


def test_embeddings_have_a_row_for_every_photo(world, tmp_path):
    photos = tmp_path / "photos"
    for person in ("p00100", "p00101"):
        shutil.copytree(world.audited / person, photos / person)
    (photos / "p00100" / "broken.png").write_bytes(b"\x89PNG\r\n")
    (photos / "labels.csv").write_text("identity,gender\np00100,female\np00101,male\n")
    out = tmp_path / "deep" / "e.parquet"
    frame = embed(Path(f"folder:{photos}"), out, matcher=f"mini:{world.matcher}", faces="aligned")
    stored = pd.read_parquet(out)
    assert len(frame) == len(stored) == 9
    failed = stored[stored["embedding"].isna()]
    assert failed["file"].tolist() == ["p00100/broken.png"]
    assert "broken.png" in failed["reason"].iloc[0]
    good = stored[stored["embedding"].notna()]
    assert sorted(good["gender"].unique()) == ["female", "male"]
    row = good[good["file"] == "p00101/p00101_0002.png"].iloc[0]
    pixels = as_aligned(decode_image(photos / row["file"]), size=112)
    expected = load_matcher(f"mini:{world.matcher}").embed(to_unit(pixels[None]))[0]
    np.testing.assert_allclose(row["embedding"], expected, atol=1e-5)


def test_sets_that_cannot_be_used_are_refused(world, monkeypatch):
    with pytest.raises(DataError, match="none is left after the filters"):
        open_data(DataSettings(source=str(world.audited), minimum_age=18))
    table = open_data(DataSettings(source=str(world.audited)))
    with pytest.raises(DataError, match="no landmarks in the labels"):
        load_aligned(table, mode="landmarks", size=32)
    monkeypatch.setattr("privface.pipeline.faces.MEMORY_LIMIT", 100_000)
    with pytest.raises(DataError, match=r"need .* GB of memory, the limit is"):
        load_aligned(table, mode="aligned", size=32)


def test_attackers_learn_from_other_people_of_a_folder_or_of_a_model(world, protected, models, tmp_path):
    table = pd.read_csv(world.audited / "labels.csv")
    people = sorted(table["identity"].unique())
    table["split"] = np.where(table["identity"].isin(people[: len(people) // 2]), "victims", "known")
    labels = tmp_path / "labels.csv"
    table.to_csv(labels, index=False)
    options = dataclasses.replace(QUICK, device="cpu", precision="fp32")
    asked = {
        "labels": labels,
        "split": "victims",
        "matchers": models[:1],
        "model": world.run,
        "options": options,
    }
    by_folder, by_model = (
        audit(
            world.audited,
            protected,
            attackers=AttackerSet(world.audited, folder, labels, "known"),
            out=tmp_path / "out",
            **asked,
        ).to_dict()
        for folder in (protected, None)
    )
    assert by_folder["leakage"] == by_model["leakage"]
    assert by_folder["data"]["attacker_people"]["test"] == len(people) // 2
