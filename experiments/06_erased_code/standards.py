"""Irreversibility and unlinkability (ISO/IEC 24745, 30136) of methods of experiments 02, 03 and 06, each protecting LFW `val` twice.

The networks of experiment 03 are those that came with the package until 0543240; for each file of both folders:
`git show 0543240^:privface/models/weights/san/FILE > runs/03/san/FILE`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from methods import kept_pixels, lfw_faces
from numpy.typing import NDArray

from privface.audit import PixelProbe
from privface.audit.result import to_json_data
from privface.data import LoadedFaces
from privface.images import write_atomic
from privface.models import Protector, load_matcher
from privface.options import AuditOptions
from privface.pipeline import audit_data, build_auditor
from privface.protect import GaussianNoise

Method = Callable[[NDArray[np.float32], slice], NDArray[np.float32]]

PAIRS: dict[str, tuple[str, str, str]] = {
    "noise": ("noise-0", "noise-1", "two draws"),
    "san": ("runs/03/san", "runs/03/san-grey", "two models"),
    "bundled": ("bundled:erased", "runs/06/half-0", "two models"),
    "five-0": ("runs/06/five-0", "runs/06/half-0", "two models"),
}
"""Name in the table, the first protection, the second one, and what differs."""


def standards(path: Path, *, progress: Any) -> None:
    """Add what `path` does not have yet: rows of both parts for each of :data:`PAIRS`, by matchers *a* and *b*."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    faces = lfw_faces("val", progress=progress)
    folder = os.environ["PRIVFACE_MODELS"]
    matchers = [load_matcher(f"onnx:{folder}/matcher_mobilefacenet_{letter}.onnx") for letter in "ab"]
    # neither part looks at what reads gender; an audit wants one attacker of each kind
    auditor = replace(
        build_auditor(AuditOptions(effort="full"), matchers=matchers, progress=progress),
        image_probes=[PixelProbe()],
        embedding_probes=["logistic"],
        label_budgets=(),
        set_sizes=(),
    )
    for name, (first, second, differ) in PAIRS.items():
        if name in rows:
            continue
        after, again = (protected(which, faces, progress) for which in (first, second))
        data = replace(audit_data(faces, after), second=(again, np.ones(len(again), bool)))
        document = auditor.run(data).document
        parts = {part: document[part] for part in ("irreversibility", "unlinkability")}
        rows[name] = {"first": first, "second": second, "differ": differ, **to_json_data(parts)}
        write_atomic(path, (json.dumps(rows, indent=1, sort_keys=True) + "\n").encode())
        print(f"{name}: done", flush=True)


def protected(which: str, faces: LoadedFaces, progress: Any) -> NDArray[np.uint8]:
    """The photos after one protection, kept in runs/06/pixels (biometric data)."""
    method, fingerprint = method_of(which)
    digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
    file = Path(f"runs/06/pixels/standards-{digest}.npy")
    return kept_pixels(file, method, faces.pixels, title=which, progress=progress)


def method_of(which: str) -> tuple[Method, str]:
    """A protection by its run folder, a bundled model, or a draw of noise; and its fingerprint."""
    if which.startswith("noise"):
        noise = GaussianNoise(sigma=0.2, seed=int(which.partition("-")[2]))
        return lambda images, _: noise(images), noise.fingerprint
    protector = Protector.load(which)
    return lambda images, _: protector(images), protector.fingerprint
