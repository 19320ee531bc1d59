"""Templates (face embeddings) that a job writes beside its protected photos."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privface.device import Device
from privface.errors import ConfigError
from privface.images import atomic_file
from privface.lazy import has_parquet
from privface.models.onnx_models import load_template_matcher

if TYPE_CHECKING:
    from privface.erasers import SavedEraser
    from privface.models import Matcher
    from privface.models.onnx_models import OnnxMatcher

TEMPLATES_NAMES = ("embeddings.parquet", "embeddings.npz")
"""What templates may be written to."""

_ROWS_AT_ONCE = 4096


class MatcherTemplates:
    """Templates of a matcher: of the protected face, or of the original face with gender erased.

    An eraser is fitted on embeddings of originals, so it is given embeddings of originals; what it gives is stored, the
    embedding itself never is. Without an eraser, only the protected face is embedded. A template depends on nothing but its
    own face.

    Args:
        matcher: Gives the embeddings.
        eraser: Erases them.

    Attributes:
        fingerprint: Names models and settings; two makers with equal fingerprints act alike.
        of_original: Whether it looks at the original face and not at the protected one.
    """

    def __init__(self, matcher: Matcher | OnnxMatcher, eraser: SavedEraser | None = None) -> None:
        self._matcher, self._eraser = matcher, eraser
        self.of_original = eraser is not None
        self.fingerprint = matcher.fingerprint
        if eraser is not None:
            state = eraser.eraser.state()
            digest = hashlib.sha256(repr(eraser.eraser).encode())
            for name in sorted(state):
                digest.update(name.encode() + np.ascontiguousarray(state[name]).tobytes())
            self.fingerprint += "+" + digest.hexdigest()[:16]

    def __call__(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Templates ``(N, D)``, rows of NaN where the matcher gave nothing.

        Raises:
            ConfigError: If the eraser was fitted on embeddings of another size.
        """
        rows = np.asarray(self._matcher.embed(faces), np.float32)
        if self._eraser is None:
            return rows
        eraser = self._eraser.eraser
        if rows.shape[1] != eraser.n_features_in_:
            raise ConfigError(
                f"The eraser was fitted on embeddings of {eraser.n_features_in_} values, {self._matcher.name} gives {rows.shape[1]}.",
                hint="Fit an eraser on this matcher's embeddings.",
            )
        good = np.isfinite(rows).all(axis=1)
        if not good.any():
            return np.full_like(rows, np.nan)
        erased = np.asarray(eraser.transform(rows[good]), np.float32)
        out = np.full((len(rows), erased.shape[1]), np.nan, np.float32)
        out[good] = erased
        return out


def template_maker(spec: str, device: Device = Device()) -> MatcherTemplates:  # noqa: B008 - frozen
    """What ``protect --embeddings MATCHER[:ERASER]`` names; the last colon counts only before an eraser's folder.

    Args:
        spec: That.
        device: Where the matcher computes.

    Raises:
        PrivfaceError: If matcher or eraser cannot be loaded, or the eraser was fitted on another matcher.
    """
    matcher, _, folder = spec.rpartition(":")
    # a matcher's name has a colon of its own: "bundled:matcher" is no eraser in a folder "matcher"
    if ":" not in matcher or not (Path(folder) / "eraser.yaml").is_file():
        return MatcherTemplates(load_template_matcher(spec, device))
    from privface.erasers import load_eraser  # noqa: PLC0415 - heavy

    saved, model = load_eraser(Path(folder)), load_template_matcher(matcher, device)
    fitted = saved.meta.get("matcher")
    if fitted and fitted != model.name:
        raise ConfigError(
            f"{folder} was fitted on {fitted!r}, not on {model.name!r}.",
            hint="Fit one on this matcher's embeddings.",
        )
    return MatcherTemplates(model, saved)


def pack(template: NDArray[np.float32]) -> str:
    """A template as text, exactly; empty if it is not finite."""
    return base64.b64encode(template.astype("<f4").tobytes()).decode() if np.isfinite(template).all() else ""


def unpack(text: str) -> NDArray[np.float32]:
    """What :func:`pack` packed."""
    return np.frombuffer(base64.b64decode(text), "<f4")


def templates_name() -> str:
    """What templates are written to here: the second of the names where pyarrow is not installed."""
    return TEMPLATES_NAMES[0 if has_parquet() else 1]


def write_templates(root: Path, templates: Iterable[tuple[str, str]], *, maker: MatcherTemplates) -> Path:
    """Write ``embeddings.parquet`` at an output root: ``file`` (the manifest's input key) and ``embedding``.

    Where pyarrow is not installed, the arrays ``files`` and ``embeddings`` are written to ``embeddings.npz``, and are all in memory.

    Args:
        root: Output root.
        templates: Keys and packed templates, sorted by key; an empty one gives an empty row.
        maker: For the file's metadata.

    Returns:
        Its path. Same templates, same bytes; only its owner may read it.

    Raises:
        OutputError: If it cannot be written.
    """
    path = root / templates_name()
    if path.suffix == ".npz":
        return _write_arrays(path, list(templates), made_by=maker.fingerprint)
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = pa.schema(
        [("file", pa.string()), ("embedding", pa.list_(pa.float32()))],
        metadata={"privface.templates": maker.fingerprint},
    )
    waiting = iter(templates)
    with atomic_file(path, mode=0o600) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while part := list(islice(waiting, _ROWS_AT_ONCE)):
            vectors = [unpack(text) if text else None for _, text in part]
            writer.write_table(
                pa.table({"file": [key for key, _ in part], "embedding": vectors}, schema=schema)
            )
    return path


def _write_arrays(path: Path, templates: Sequence[tuple[str, str]], *, made_by: str) -> Path:
    rows = [unpack(text) for _, text in templates]
    vectors = np.full((len(rows), max((row.size for row in rows), default=0)), np.nan, np.float32)
    for place, row in enumerate(rows):
        if row.size:
            vectors[place] = row
    with atomic_file(path, mode=0o600) as file:
        files = np.array([key for key, _ in templates], str)
        np.savez(file, files=files, embeddings=vectors, made_by=made_by)
    return path
