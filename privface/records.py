"""Frozen records that all rooms share: labelled faces, input specifications, measured figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.errors import DataError

Gender: TypeAlias = Literal["female", "male"]
"""The data set's annotation: perceived and binary. ``female`` is coded 0 and ``male`` 1."""

GENDERS: tuple[Gender, Gender] = ("female", "male")

NO_GENDER = "the set has no gender labels"
"""Why a figure of gender is undefined where only other attributes are labelled."""

Scores: TypeAlias = NDArray[np.float64]
"""Similarity scores, float64, 1-D; higher is more alike."""

Embeddings: TypeAlias = NDArray[np.float32]
"""Face embeddings, float32, shape ``(N, D)``; rows of NaN mark images that failed to enrol."""

Landmarks: TypeAlias = tuple[
    tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]
]
"""Five points (x, y) in pixels: left eye, right eye, nose, left and right mouth corner (image left/right)."""

Box: TypeAlias = tuple[float, float, float, float]
"""A face box (x1, y1, x2, y2) in pixels of the file; it may reach outside the image."""


@dataclass(frozen=True)
class FaceRecord:
    """One labelled face photo; the image itself stays on disk.

    Attributes:
        file: Key of the photo: POSIX path relative to the set's root. Joins labels, manifests and outputs.
        path: Where the photo lies.
        identity: Person, or ``None`` where the set does not label people.
        gender: Annotation, or ``None`` where unlabelled.
        cohorts: Further labels by column name, such as ``{"race": "asian", "age": "31"}``.
        split: Split named by the set itself, or ``None``.
        box: Reference face box, or ``None``.
        landmarks: Reference landmarks, or ``None``.
    """

    file: str
    path: Path
    identity: str | None = None
    gender: Gender | None = None
    cohorts: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    box: Box | None = None
    landmarks: Landmarks | None = None


@dataclass(frozen=True)
class Reject:
    """A row or file that a source left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class FaceTable(Sequence[FaceRecord]):
    """An immutable list of labelled faces with column views.

    Attributes:
        records: The faces, in a stable order.
        rejects: Rows and files that were left out, with reasons; never silently dropped.
        name: Short name used in logs and reports.
    """

    records: tuple[FaceRecord, ...]
    rejects: tuple[Reject, ...] = ()
    name: str = "faces"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's overloads add nothing here
        return self.records[index]

    @property
    def files(self) -> list[str]:
        """Keys of the photos, in order."""
        return [record.file for record in self.records]

    @property
    def identities(self) -> NDArray[np.str_]:
        """People, shape ``(N,)``; an unlabelled photo counts as a person of its own (its file key)."""
        return np.array([r.identity if r.identity is not None else f"file:{r.file}" for r in self.records])

    @property
    def genders(self) -> NDArray[np.int64]:
        """Genders coded 0 (female) and 1 (male), shape ``(N,)``; -1 throughout where no photo has one.

        Raises:
            DataError: If some photos have a gender label and others have none.
        """
        if not self.gendered:
            return np.full(len(self), -1, np.int64)
        missing = [r.file for r in self.records if r.gender is None]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self)} photos have no gender label, the first is {missing[0]!r}.",
                hint="Add a gender column, or drop these rows with FaceTable.labelled().",
            )
        return np.array([GENDERS.index(r.gender) for r in self.records if r.gender is not None], np.int64)

    @property
    def gendered(self) -> bool:
        """Whether any photo has a gender label; a set may label other attributes alone."""
        return any(r.gender is not None for r in self.records)

    def take(self, index: Iterable[int] | NDArray[np.bool_]) -> FaceTable:
        """The rows at ``index`` (positions, or a boolean mask of shape ``(N,)``), rejects kept."""
        array = np.asarray(list(index) if not isinstance(index, np.ndarray) else index)
        positions = np.flatnonzero(array) if array.dtype == bool else array.astype(np.int64)
        return FaceTable(tuple(self.records[int(i)] for i in positions), self.rejects, self.name)

    def labelled(self) -> FaceTable:
        """The rows with a gender label; the others become rejects."""
        kept = tuple(r for r in self.records if r.gender is not None)
        lost = tuple(Reject(r.file, "no gender label") for r in self.records if r.gender is None)
        return FaceTable(kept, self.rejects + lost, self.name)

    def where_split(self, split: str) -> FaceTable:
        """The rows whose source put them into ``split``."""
        return self.take(np.array([r.split == split for r in self.records], dtype=bool))


ARCFACE_TEMPLATE: Landmarks = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Five-point template of the 112 x 112 frame (ArcFace, Deng et al., CVPR 2019). privface's common frame."""

FRAME = 112
"""Side of the common frame in which ``InputSpec.crop`` is written."""


@dataclass(frozen=True)
class InputSpec:
    """What a model eats, and so how it converts privface's aligned images by itself.

    An aligned image shows the face in the ArcFace frame at any resolution. A model cuts ``crop`` out of
    it (frame units, may reach outside: borders are replicated), resizes to ``size`` and maps [0, 1] to
    ``value_range``, then applies ``(x - mean) / std`` per channel.

    Attributes:
        size: (height, width) in pixels.
        value_range: What 0 and 1 become before ``mean`` and ``std``.
        mean: Per-channel mean in the units of ``value_range``.
        std: Per-channel divisor.
        channels: Channel order the model was trained on; ``"GRAY"`` is ITU-R BT.601 luma in one channel.
        crop: (x1, y1, x2, y2) in the 112 x 112 ArcFace frame.
    """

    size: tuple[int, int] = (FRAME, FRAME)
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channels: Literal["RGB", "BGR", "GRAY"] = "RGB"
    crop: Box = (0.0, 0.0, float(FRAME), float(FRAME))


@dataclass(frozen=True)
class Measured:
    """A measured figure with its 95 % interval.

    Attributes:
        value: Point estimate; NaN where it could not be measured.
        low: Lower end of the interval; NaN where undefined.
        high: Upper end.
        n: How many pairs, images or people the figure rests on.
        reason: Why ``value`` is NaN, else ``None``.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    reason: str | None = None

    @classmethod
    def undefined(cls, reason: str, *, n: int = 0) -> Measured:
        """A figure that could not be measured, with the reason."""
        return cls(math.nan, math.nan, math.nan, n, reason)
