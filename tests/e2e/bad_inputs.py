"""Table of bad (and merely odd) inputs: what is typed, how it ends, what is said.

The test beside it runs every row; ``experiments/bad_inputs.py`` writes the same rows to docs/bad-inputs.md.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image

from privface.data import generate_faces, write_faces
from privface.models import CompactResNet, SemiAdversarialAutoencoder, save_network

SIZE = 32


@dataclass(frozen=True)
class Case:
    """One row."""

    name: str  # the input in words
    make: Callable[
        [Path], Sequence[object]
    ]  # prepares files in a private folder with the kit; the command line after `privface`
    code: int  # with which it ends
    says: str  # a part of what is printed or written into the manifest


@dataclass(frozen=True)
class Outcome:
    """How a row ended; ``said`` has no machine path."""

    code: int
    said: str


class NaNMatcher(torch.nn.Module):
    """A matcher that is broken."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * float("nan")


def build_kit(root: Path) -> None:
    """Good inputs, made once; a case copies or spoils what it needs in its own folder."""
    torch.manual_seed(0)
    (root / "empty").mkdir(parents=True)
    write_faces(generate_faces(people=12, photos_per_person=2, seed=1), root / "faces")
    network = SemiAdversarialAutoencoder(width=4, depth=1, blocks=1)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    save_network(root / "run", network, kind="semi-adversarial-autoencoder", meta={"size": SIZE})
    crop = {"input_size": 16, "crop": [0.0, 0.0, 112.0, 112.0]}
    save_network(root / "matcher", CompactResNet(outputs=4, width=8, stages=1), kind="matcher", meta=crop)
    settings = {
        "data": {"source": str(root / "faces"), "faces": "aligned"},
        "matchers": [f"mini:{root / 'matcher'}"],
        "size": SIZE,
        "validation_share": 0,
        "autoencoder": {"width": 4, "depth": 1, "blocks": 1},
        "loop": {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "32-true"},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(settings))


def run_case(case: Case, kit: Path, work: Path) -> Outcome:
    """Run one row through the real entry point, in this process."""
    from privface.cli.main import main

    work.mkdir(parents=True)
    (work / "kit").symlink_to(kit)
    out, err = io.StringIO(), io.StringIO()
    arguments = ["privface", *map(str, case.make(work))]
    stages = mock.patch("privface.cli.show.StageLines", return_value=lambda *_: None)  # times differ
    with mock.patch.object(sys, "argv", arguments), stages, redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code: Any = 0
        except SystemExit as stop:
            code = stop.code or 0
    said = err.getvalue().strip() or _failures(work / "out") or out.getvalue().strip()
    return Outcome(int(code), _tidy(said, kit, work))


def _failures(folder: Path) -> str:
    """Reasons of a protected folder's manifest."""
    from privface.protect.manifest import MANIFEST_NAME, read_manifest

    path = folder / MANIFEST_NAME
    rows = read_manifest(path) if path.is_file() else []
    return "; ".join(f"manifest: {row.status}: {row.reason}" for row in rows if row.status != "ok")


def _tidy(text: str, kit: Path, work: Path) -> str:
    for path, name in ((work / "kit", "KIT"), (kit, "KIT"), (work, "DIR")):
        text = text.replace(str(path.resolve()) if path == kit else str(path), name)
    return " ".join(text.split())


# --- command lines ------------------------------------------------------------------------------------


def _protect(
    work: Path, *more: object, source: Path | None = None, out: Path | None = None, model: Path | None = None
) -> list[object]:
    """Protect a folder, by default one with a good photo."""
    return [
        "protect",
        source or _good(work),
        out or work / "out",
        "--model",
        model or work / "kit/run",
        *more,
    ]


def _audit(
    work: Path, *more: object, protected: Path | None = None, matcher: str | None = None
) -> list[object]:
    faces = work / "kit/faces"
    return [
        "audit", "--original", faces, "--protected", protected or faces, "--faces", "aligned", "--effort", "quick",
        "--resamples", 10, "--matcher", matcher or f"mini:{work / 'kit/matcher'}", "--out", work / "audit", *more,
    ]  # fmt: skip


def _train(work: Path, *more: object, config: Path | None = None, out: Path | None = None) -> list[object]:
    return ["train", "--config", config or work / "kit/config.yaml", "--out", out or work / "out", *more]


def _text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _photo(work: Path, name: str, data: bytes) -> list[object]:
    """Protect a folder that holds one file."""
    return _protect(work, source=_text(work / "in" / name, data).parent)


def _pixels(side: int = 112) -> np.ndarray:
    ramp = np.linspace(40, 200, side)
    colours = np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, -ramp) / 2 + 128, np.full((side, side), 90)
    return np.stack(colours, 2).astype(np.uint8)


def _encoded(form: str, mode: str = "RGB", side: int = 112, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels(side)).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def _png16() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels()[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _animation(form: str) -> bytes:
    return _encoded(form, save_all=True, append_images=[Image.fromarray(255 - _pixels())])


def _labels(work: Path, change: Callable[[list[str]], list[str]]) -> list[object]:
    lines = (work / "kit/faces/labels.csv").read_text().splitlines()
    return ["--labels", _text(work / "labels.csv", "\n".join(change(lines)))]


def _onnx(work: Path, sidecar: str) -> str:
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("GlobalAveragePool", ["rgb"], ["p"]),
        helper.make_node("Flatten", ["p"], ["out"]),
    ]
    rgb = helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, 16, 16])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "tiny", [rgb], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(work / "m.onnx"))
    _text(work / "m.yaml", sidecar)
    return f"onnx:{work / 'm.onnx'}"


def _spoiled_run(work: Path, change: Callable[[Path], object]) -> list[object]:
    run = work / "run"
    for name in ("model.safetensors", "model.yaml"):
        _text(run / name, (work / "kit/run" / name).read_bytes())
    change(run)
    return _protect(work, model=run)


def _good(work: Path) -> Path:
    return _text(work / "in/a.png", _encoded("PNG")).parent


def _provenance(work: Path) -> list[object]:
    from privface.pipeline.provenance import PROVENANCE_FILE, person_digest

    people = [person_digest(f"p{k:05d}") for k in range(3)]
    _text(work / "met" / PROVENANCE_FILE, json.dumps({"people": people}))
    return ["--model", work / "met"]


def _used(work: Path) -> Path:
    return _text(work / "out/notes.txt", "mine").parent


def _not_utf8(work: Path) -> list[object]:
    folder = os.fsencode(work) + b"/in"
    os.mkdir(folder)  # noqa: PTH102 - pathlib takes no bytes
    with open(folder + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(_encoded("PNG"))
    return _protect(work, source=work / "in")


def _table(path: Path, columns: dict[str, Any] | None = None, *, people: int = 40) -> Path:
    """Embeddings of drawn people; ``columns`` replaces or, with ``None``, removes columns."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(people), 2)
    frame: dict[str, Any] = {
        "file": [f"{k}.png" for k in range(person.size)],
        "identity": [f"p{k}" for k in person],
        "gender": ["female" if k % 2 else "male" for k in person],
        "embedding": list(rng.normal(size=(person.size, 4)).astype(np.float32)),
    }
    frame.update(columns or {})
    pd.DataFrame({k: v for k, v in frame.items() if v is not None}).to_parquet(path)
    return path


def _fit(work: Path, columns: dict[str, Any], *more: object, out: Path | None = None) -> list[object]:
    if not (work / "before.parquet").exists() or columns:
        _table(work / "before.parquet", columns)
    method = () if "--method" in more else ("--method", "leace")
    return ["erase", "fit", work / "before.parquet", "--out", out or work / "out", *method, *more]


def _empty(work: Path, *more: object) -> list[object]:
    command = _fit(work, {"plan": ["gold", "tin"] * 40}, *more)
    table = pq.read_table(work / "before.parquet", use_threads=False)
    pq.write_table(table.slice(0, 0), work / "before.parquet")
    return command


def _fitted(work: Path) -> Path:
    """An eraser fitted on the very people of the tables."""
    from privface.pipeline.erase import EraserSource, fit_eraser

    table = _table(work / "before.parquet", {"matcher": ["mine"] * 80})
    fit_eraser(EraserSource(table), work / "eraser", method="leace")
    _table(work / "before.parquet")
    return work / "eraser"


def _apply(work: Path, columns: dict[str, Any], *, out: Path | None = None) -> list[object]:
    eraser = _fitted(work)
    table = _table(work / "before.parquet", columns)
    return ["erase", "apply", eraser, table, out or work / "erased.parquet"]


def _tables(
    work: Path,
    *more: object,
    original: Path | dict[str, Any] | None = None,
    protected: Path | dict[str, Any] | None = None,
) -> list[object]:
    sides = []
    for name, side in (("before", original), ("after", protected)):
        sides.append(side if isinstance(side, Path) else _table(work / f"{name}.parquet", side))
    parts = ["audit", "--original", sides[0], "--protected", sides[1], "--effort", "quick", "--resamples", 10]
    return [*parts, "--out", work / "audit", *more]


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, embeddings=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def _audited(work: Path, **changes: Any) -> Path:
    data = {"original_fingerprint": "x", "fingerprint": "y"}
    content = {"schema": "privface.audit/2", "data": data, **changes}
    return _text(work / f"{len(changes)}.json", json.dumps(content))


CASES: tuple[Case, ...] = (
    # labels and people
    Case("label table without a file or identity column", lambda w: _audit(w, "--labels", _text(w / "l.csv", "photo,gender\na,male\n")), 2, "file"),
    Case("the same file twice with different genders", lambda w: _audit(w, *_labels(w, lambda r: [*r, r[1].replace(",male", ",x").replace(",female", ",male").replace(",x", ",female")])), 2, "different"),
    Case("gender values that are all unknown", lambda w: _audit(w, *_labels(w, lambda r: [r[0], *(x.rsplit(",", 1)[0] + ",unsure" for x in r[1:])])), 2, "unsure"),
    Case("one gender only, audit", lambda w: _audit(w, *_labels(w, lambda r: [r[0], *(x for x in r if x.endswith(",male"))])), 2, "both genders"),
    Case("one gender only, training", lambda w: _train(w, "--set", f"data.source=table:{w / 'kit/faces'}", "--set", f"data.labels={_labels(w, lambda r: [r[0], *(x for x in r if x.endswith(',male'))])[1]}"), 2, "female"),
    Case("label table that is not UTF-8", lambda w: _audit(w, "--labels", _text(w / "l.csv", "file,identity,gender\nJosé.png,José,male\n".encode("latin-1"))), 2, "UTF-8"),
    Case("label table that does not exist", lambda w: _audit(w, "--labels", w / "none.csv"), 2, "none.csv"),
    Case("audited people who trained the protector", lambda w: _audit(w, *_provenance(w)), 2, "3 audited people trained the protector"),
    Case("too few people to hold some out for validation", lambda w: _train(w, "--set", "validation_share=0.1"), 2, "validation part is too small"),
    Case("too few people to audit", lambda w: _audit(w, *_labels(w, lambda rows: rows[:7])), 2, "needs two of each gender"),
    Case("split that no row has", lambda w: _audit(w, "--split", "test"), 2, "is in the split 'test'; the labels have no split column"),
    # tables of embeddings
    Case("table of embeddings that does not exist", lambda w: _tables(w, protected=w / "none.parquet"), 2, "does not exist"),
    Case("Parquet file that is text", lambda w: _tables(w, original=_text(w / "t.parquet", "hello")), 2, "not a readable Parquet file"),
    Case("NPZ file that holds pickled objects", lambda w: _tables(w, original=_text(w / "t.npz", _pickled())), 2, "plain arrays"),
    Case("table without embeddings", lambda w: _tables(w, original={"embedding": None}), 2, "has no embeddings; its columns are file, identity, gender"),
    Case("embeddings of two lengths", lambda w: _tables(w, original={"embedding": [[1.0, 2.0], [1.0, 2.0, 3.0]] * 40}), 2, "lengths [2, 3]"),
    Case("table without genders", lambda w: _tables(w, original={"gender": None}), 2, "no 'gender' column"),
    Case("table with an unknown gender", lambda w: _tables(w, original={"gender": ["unsure"] * 80}), 2, "has the gender 'unsure'"),
    Case("table with one gender only", lambda w: _tables(w, original={"gender": ["male"] * 80}), 2, "both genders"),
    Case("protected table with other keys", lambda w: _tables(w, protected={"file": [f"x{k}" for k in range(80)]}), 2, "looked for '0.png'"),
    Case("table that lists a photo twice", lambda w: _tables(w, original={"file": ["a.png"] * 80}), 2, "79 rows whose file occurs before"),
    Case("protected table of NaN only", lambda w: _tables(w, protected={"embedding": [[np.nan] * 4] * 80}), 2, "no protected row holds an embedding"),
    Case("labels that know none of the table's files", lambda w: _tables(w, "--labels", _text(w / "l.csv", "file,gender\nz,male\n")), 2, "None of the 80 files"),
    Case("attackers whose table has no protected version", lambda w: _tables(w, "--attackers", _table(w / "more.parquet", {"identity": [f"q{k // 2}" for k in range(80)]})), 2, "no protected version"),
    Case("attackers' table of the audited people", lambda w: _tables(w, "--attackers", _table(w / "more.parquet"), "--attackers-protected", w / "more.parquet"), 2, "40 audited people are among the attackers' people"),
    Case("a matcher for a table of embeddings", lambda w: _tables(w, "--matcher", "mini:m"), 2, "a table of embeddings holds no images"),
    Case("eraser: table with one gender only", lambda w: _fit(w, {"gender": ["male"] * 80}), 2, "is 'female' (gender); every class is needed"),
    Case("eraser: table without labels", lambda w: _fit(w, {"gender": None}), 2, "no 'gender' column"),
    Case("eraser: table of NaN and zero vectors", lambda w: _fit(w, {"embedding": [[np.nan] * 4, [0.0] * 4] * 40}), 2, "80 without an embedding"),
    Case("eraser: labels that know none of the files", lambda w: _fit(w, {}, "--labels", _text(w / "l.csv", "file,gender\nz,male\n")), 2, "80 without a label (gender)"),
    Case("eraser: split that no row has", lambda w: _fit(w, {"split": ["train"] * 80}, "--split", "test"), 2, "split 'test'"),
    Case("eraser: attribute that is no column", lambda w: _fit(w, {}, "--attribute", "race"), 2, "no column 'race'"),
    Case("eraser: attribute of one class", lambda w: _fit(w, {"plan": ["gold"] * 80}, "--attribute", "plan"), 2, "has 1 classes"),
    Case("eraser: class with two rows", lambda w: _fit(w, {"plan": ["gold"] * 78 + ["tin"] * 2}, "--attribute", "plan"), 2, "'tin' of 'plan' has 2 photos"),
    Case("eraser: a combination with two rows", lambda w: _fit(w, {"plan": (["gold"] * 38 + ["tin"] * 2) + ["gold", "tin"] * 20, "gender": ["male"] * 40 + ["female"] * 40}, "--attribute", "gender", "--attribute", "plan"), 2, "the rarest, 'male and tin', has 2 rows"),
    Case("eraser: several attributes, of gender one class", lambda w: _fit(w, {"plan": ["gold", "tin"] * 40, "gender": ["male"] * 80}, "--attribute", "gender", "--attribute", "plan"), 2, "No row of the class 'female' of 'gender'"),
    Case("eraser: several attributes, no gender", lambda w: _fit(w, {"plan": ["gold", "tin"] * 40, "gender": None}, "--attribute", "gender", "--attribute", "plan"), 2, "Give --labels with file, identity and gender"),
    Case("eraser: empty table, another attribute", lambda w: _empty(w, "--attribute", "plan"), 2, "has no rows"),
    Case("eraser: attribute named twice", lambda w: _fit(w, {}, "--attribute", "gender", "--attribute", "gender"), 2, "'gender' is named twice"),
    Case("eraser: bands that overlap", lambda w: _fit(w, {}, "--attribute", "age=30,16"), 2, "must begin above the one before"),
    Case("eraser: bands for words", lambda w: _fit(w, {"age": ["old"] * 80}, "--attribute", "age=16,30"), 2, "a label is no number: 'old'"),
    Case("eraser: three classes for a method of two", lambda w: _fit(w, {"plan": ["a", "b", "c", "c"] * 20}, "--attribute", "plan", "--method", "inlp"), 2, "These take more: leace"),
    Case("training on an attribute that is no column", lambda w: _train(w, "--set", "method=erased-code", "--set", "method_options.attributes=[race]"), 2, "no column 'race'"),
    Case("attribute named twice", lambda w: _train(w, "--set", "method=erased-code", "--set", "method_options.attributes=[gender,gender]"), 2, "named twice"),
    Case("hiding what the model never learnt", lambda w: _protect(w, "--hide", "gender,race", model=Path("bundled:erased")), 2, "this model hides gender"),
    Case("audit of an attribute that is no column", lambda w: _audit(w, "--attribute", "race"), 2, "no column 'race'"),
    Case("eraser: method that does not exist", lambda w: _fit(w, {}, "--method", "magic"), 2, "Choose one of leace"),
    Case("eraser: setting that does not exist", lambda w: _fit(w, {}, "--set", "power=3"), 2, "no setting 'power'"),
    Case("eraser: setting of the wrong kind", lambda w: _fit(w, {}, "--set", "tolerance=high"), 2, "is no float"),
    Case("eraser: setting out of range", lambda w: _fit(w, {}, "--method", "inlp", "--set", "stop=0.2"), 2, "stop lies in [0.5, 1]"),
    Case("eraser: further set for a method that takes none", lambda w: _fit(w, {}, "--more", str(w / "before.parquet")), 2, "These can: pfrnet"),
    Case("eraser: folder that holds one already", lambda w: _fit(w, {}, out=_fitted(w)), 2, "--overwrite"),
    Case("erase: some rows without an embedding", lambda w: _apply(w, {"embedding": [[1.0, 2.0, 3.0, 4.0], [0.0] * 4] * 40}), 1, "40 rows without one"),
    Case("erase: wrong dimension", lambda w: _apply(w, {"embedding": [[1.0, 2.0]] * 80}), 2, "2 values, the eraser was fitted on 4"),
    Case("erase: another matcher's table", lambda w: _apply(w, {"matcher": ["other"] * 80}), 2, "fitted on 'mine'"),
    Case("erase: output over the input", lambda w: _apply(w, {}, out=w / "before.parquet"), 2, "is the input"),
    Case("erase: output that is no Parquet", lambda w: _apply(w, {}, out=w / "x.csv"), 2, "Erased tables are Parquet"),
    Case("erase: eraser that is a pickle", lambda w: ["erase", "apply", _text(w / "e.pkl", "x"), _table(w / "before.parquet"), w / "o.parquet"], 2, "Pickles are never loaded"),
    Case("audited people who fitted the eraser", lambda w: _tables(w, "--eraser", _fitted(w)), 2, "none may"),
    Case("an eraser for an audit of photos", lambda w: ["audit", "--original", w / "kit/faces", "--protected", w / "kit/faces", "--eraser", w], 2, "belongs to tables of embeddings"),
    # earlier audits
    Case("baseline that is no audit", lambda w: _tables(w, "--baseline", _text(w / "b.json", "[]")), 2, "not an audit"),
    Case("baseline of another version", lambda w: _tables(w, "--baseline", _audited(w, schema="privface.audit/1")), 2, "privface.audit/1"),
    Case("comparison of one audit", lambda w: ["compare", str(_audited(w))], 2, "two"),
    Case("comparison with a file that does not exist", lambda w: ["compare", str(w / "a.json"), str(w / "b.json")], 2, "cannot be read as an audit"),
    Case("cache that is a file", lambda w: _tables(w, "--cache", _text(w / "c", "x")), 2, "is a file"),
    Case("audit of nothing", lambda w: ["audit"], 2, "--self-test"),
    # folders
    Case("folder that does not exist", lambda w: _protect(w, source=w / "nowhere"), 2, "nowhere does not exist"),
    Case("empty folder", lambda w: _protect(w, source=w / "kit/empty"), 2, "holds no image"),
    Case("output inside the input", lambda w: _protect(w, out=w / "in/out"), 2, "overlaps the input"),
    Case("output that is a file", lambda w: _protect(w, out=_text(w / "file", "x")), 2, "Cannot write to"),
    Case("output below a regular file", lambda w: _protect(w, out=_text(w / "file", "x") / "out"), 2, "Cannot write to"),
    Case("output folder that holds something else", lambda w: _protect(w, out=_used(w)), 2, "not written by privface"),
    Case("audit output that is a file", lambda w: _audit(w, "--out", _text(w / "file", "x")), 2, "Cannot write to"),
    Case("training output that is not empty", lambda w: _train(w, out=_used(w)), 2, "is not an empty folder"),
    Case("training output below a regular file", lambda w: _train(w, out=_text(w / "file", "x") / "run"), 2, "Cannot write to"),
    Case("protected folder with no matching file", lambda w: _audit(w, protected=_text(w / "other/x/y.png", _encoded("PNG")).parents[1]), 2, "has a protected photo of the same relative path"),
    # images: a bad file is a row in the manifest, not the end of the job
    Case("JPEG cut in half", lambda w: _photo(w, "a.jpg", _encoded("JPEG")[:400]), 1, "damaged image"),
    Case("file of zero bytes", lambda w: _photo(w, "a.jpg", b""), 1, "the file is empty (0 bytes)"),
    Case("text file named .jpg", lambda w: _photo(w, "a.jpg", b"hello"), 1, "not an image that can be decoded"),
    Case("image of 1 x 1", lambda w: _photo(w, "a.png", _encoded("PNG", side=1)), 1, "1 x 1"),
    Case("PNG that announces 20,000 x 20,000 pixels", lambda w: _photo(w, "a.png", png_header(20000, 20000)), 1, "too_large"),
    Case("PNG with a header and no pixels", lambda w: _photo(w, "a.png", png_header(64, 64)), 1, "damaged image"),
    Case("animated GIF", lambda w: _photo(w, "a.gif", _animation("GIF")), 1, ".gif images are not written"),
    Case("animated PNG", lambda w: _photo(w, "a.png", _animation("PNG")), 1, "2 frames"),
    Case("16-bit PNG", lambda w: _photo(w, "a.png", _png16()), 0, "1 ok"),
    Case("CMYK JPEG", lambda w: _photo(w, "a.jpg", _encoded("JPEG", "CMYK")), 0, "1 ok"),
    Case("palette PNG", lambda w: _photo(w, "a.png", _encoded("PNG", "P")), 0, "1 ok"),
    Case("file name that is not UTF-8", _not_utf8, 0, "1 ok"),
    # models
    Case("model that is a pickle", lambda w: _protect(w, model=_text(w / "model.pkl", b"\x80\x04")), 2, "never loaded"),
    Case("baseline that does not exist", lambda w: _protect(w, model=Path("baseline:smear")), 2, "There is no baseline 'smear'"),
    Case("baseline without its setting", lambda w: _protect(w, model=Path("baseline:blur")), 2, "lacks sigma"),
    Case("baseline with a strength", lambda w: _protect(w, "--strength", 2, model=Path("baseline:blur,sigma=3")), 2, "these are for trained models"),
    Case("run folder without weights", lambda w: _spoiled_run(w, lambda run: (run / "model.safetensors").unlink()), 2, "has no model.safetensors"),
    Case("damaged safetensors", lambda w: _spoiled_run(w, lambda run: _text(run / "model.safetensors", b"12345678")), 2, "not a safetensors file"),
    Case("damaged model.yaml", lambda w: _spoiled_run(w, lambda run: _text(run / "model.yaml", "kind: [")), 2, "is damaged"),
    Case("weights of another architecture", lambda w: _spoiled_run(w, lambda run: _text(run / "model.yaml", (run / "model.yaml").read_text().replace("width: 4", "width: 8"))), 2, "do not fit the architecture"),
    Case("a matcher's folder given as the protector", lambda w: _protect(w, model=w / "kit/matcher"), 2, "holds a 'matcher'"),
    Case("the protector's folder given as a matcher", lambda w: _audit(w, matcher=f"mini:{w / 'kit/run'}"), 2, "a 'matcher' is needed"),
    Case("ONNX file that does not exist", lambda w: _audit(w, matcher="onnx:none.onnx"), 2, "there is no such file"),
    Case("ONNX file that is text", lambda w: _audit(w, matcher=f"onnx:{_text(w / 'm.onnx', 'hello')}"), 2, "cannot be opened as an ONNX model"),
    Case("pickle given as ONNX", lambda w: _audit(w, matcher=f"onnx:{_text(w / 'm.pt', 'hello')}"), 2, "m.pt is not an .onnx file"),
    Case("sidecar with an unknown field", lambda w: _audit(w, matcher=_onnx(w, "colour: red\n")), 2, "colour: there is no such setting"),
    Case("sidecar with a size that the graph refuses", lambda w: _audit(w, matcher=_onnx(w, "size: [20, 20]\n")), 2, "refused a batch of shape"),
    Case("model form that does not exist", lambda w: _audit(w, matcher="vgg:face"), 2, "'vgg:face' is not a model specification"),
    Case("matcher whose embeddings are NaN", lambda w: _audit(w, matcher="module:tests.e2e.bad_inputs.NaNMatcher"), 2, "no finite embedding"),
    Case("own matcher that cannot be imported", lambda w: _audit(w, matcher="module:no.such.place"), 2, "cannot be imported"),
    Case("audit without a matcher", lambda w: [a for a in _audit(w) if a != "--matcher" and not str(a).startswith("mini:")], 2, "Give at least one --matcher"),
    # settings
    Case("--set with an unknown key", lambda w: _train(w, "--set", "loop.epoch=3"), 2, "loop.epoch: there is no such setting"),
    Case("--set with a value out of range", lambda w: _train(w, "--set", "loop.learning_rate=-1"), 2, "greater than 0 (got '-1')"),
    Case("--set without a value", lambda w: _train(w, "--set", "loop.epochs"), 2, "no key=value form"),
    Case("odd batch size", lambda w: _train(w, "--set", "loop.batch_size=7"), 2, "multiple of 2 (got '7')"),
    Case("batch size larger than the set", lambda w: _train(w, "--set", "loop.batch_size=1000"), 2, "do not fill one batch of 1000"),
    Case("settings that are no YAML", lambda w: _train(w, config=_text(w / "c.yaml", "data: [")), 2, "is not readable YAML"),
    Case("settings without matchers", lambda w: _train(w, config=_text(w / "c.yaml", "data: {source: x}\n")), 2, "matchers: Field required"),
    Case("settings with an unset variable", lambda w: _train(w, config=_text(w / "c.yaml", "data: {source: '${PRIVFACE_NOT_SET}'}\nmatchers: [mini:m]\n")), 2, "PRIVFACE_NOT_SET, which is not set"),
    Case("settings file that does not exist", lambda w: _train(w, config=w / "none.yaml"), 2, "No such file"),
    Case("--resume without a run", lambda w: _train(w, "--resume"), 2, "no config.yaml to resume"),
    Case("strength 5", lambda w: _protect(w, "--strength", "5"), 2, "strength=5.0 is outside 0..2"),
    Case("draw of a model with nothing random", lambda w: _protect(w, "--draw", "1"), 2, "draw=1: this network (semi-adversarial-autoencoder) has nothing random"),
    Case("JPEG quality 500", lambda w: _protect(w, "--quality", "500"), 2, "quality is 500; it must be from 1 to 100"),
    Case("no worker", lambda w: _protect(w, "--workers", "0"), 2, "workers is 0"),
    Case("no room in a shard", lambda w: _protect(w, "--to", "parquet", "--shard-size", "0"), 2, "shard_size is 0; it must be at least 1"),
    Case("a limit of faces for aligned faces", lambda w: _protect(w, "--faces", "aligned", "--max-faces", "1"), 2, "need a detector"),
    Case("videos without --paste", lambda w: _protect(w, "--video"), 2, "A video needs its faces"),
    Case("search of nothing", lambda w: ["match", _good(w), "--templates", f"mini:{w / 'kit/matcher'}"], 2, "Missing option '--gallery'"),
    Case("input at a URL of no known kind", lambda w: ["protect", "nosuch://b/x", str(w / "out"), "--model", str(w / "kit/run")], 2, "nosuch://b/x cannot be opened"),
    Case("input through a cache on this disk", lambda w: ["protect", "simplecache::memory://b", str(w / "out"), "--model", str(w / "kit/run")], 2, "chains file systems"),
    Case("output at a URL", lambda w: ["protect", str(_good(w)), "s3://b/out", "--model", str(w / "kit/run")], 2, "outputs are local folders"),
    Case("a cluster of no actors", lambda w: _protect(w, "--engine", "ray", "--actors", "0"), 2, "actors is 0; it must be at least 1"),
    Case("torch asked to run an ONNX file", lambda w: _protect(w, "--runtime", "torch", model=w / "m.onnx"), 2, "runs in ONNX Runtime only"),
    Case("a device that does not exist", lambda w: _protect(w, "--device", "gpu"), 2, "device is 'gpu'"),
    Case("fp16 on a CPU", lambda w: _protect(w, "--device", "cpu", "--precision", "fp16"), 2, "which CPUs compute slowly"),
    Case("bf16 asked of an ONNX file", lambda w: _protect(w, "--precision", "bf16", model=w / "m.onnx"), 2, "computes on the CPU in fp32"),
    Case("attackers whose photos have no protected version", lambda w: _audit(w, "--attackers", str(w / "kit/faces")), 2, "no protected version"),
    Case("labels of attackers who are not given", lambda w: _audit(w, "--attackers-split", "train"), 2, "need --attackers"),
    Case("gate on a figure that does not exist", lambda w: _audit(w, "--fail-if", "privacy>1"), 2, "no figure 'privacy'"),
    Case("gate that is no comparison", lambda w: _audit(w, "--fail-if", "leakage"), 2, "is no gate"),
    Case("no resamples", lambda w: _audit(w, "--resamples", "0"), 2, "resamples"),
    Case("option that does not exist", lambda w: _protect(w, "--fast"), 2, "No such option"),
    Case("number that is none", lambda w: _audit(w, "--seed", "many"), 2, "valid integer"),
    Case("command that does not exist", lambda _: ["anonymise"], 2, "No such command"),
)  # fmt: skip
