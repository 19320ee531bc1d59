"""Generated faces: drawn people with a known identity cue and a known gender cue, for tests and demos.

Every person is a vector of about forty traits (bone structure, features, colours, hair) that all photos of
that person share. Gender moves the mean of many traits a little, so it can be learnt but no single trait
gives it away. Every photo adds its own pose, light, expression, background, blur and noise. The drawings lie
in the ArcFace frame (``records.ARCFACE_TEMPLATE``), so they pass as aligned faces.

Nothing here shows a real person, and no photo was used to make it.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.errors import DataError
from privface.images import encode_image, write_atomic
from privface.records import ARCFACE_TEMPLATE, FRAME, GENDERS, FaceRecord, FaceTable

Points: TypeAlias = NDArray[np.float64]
Canvas: TypeAlias = NDArray[np.uint8]
Contour: TypeAlias = NDArray[np.int32]
Row: TypeAlias = Sequence[float | Points] | Points
Contours: TypeAlias = dict[str, Contour]
Colour: TypeAlias = NDArray[np.float64] | tuple[float, float, float]
Traits: TypeAlias = Mapping[str, float]
Nuisance: TypeAlias = Mapping[str, NDArray[np.float64]]

SUPERSAMPLING = 2
_SHIFT_BITS = 4  # OpenCV draws at 1/16 pixel
_SIDES = (("left", -1.0), ("right", 1.0))
_LEFT_EYE, _RIGHT_EYE, _NOSE, _LEFT_MOUTH, _RIGHT_MOUTH = ARCFACE_TEMPLATE
_CX = (_LEFT_EYE[0] + _RIGHT_EYE[0]) / 2
_EYE_Y = (_LEFT_EYE[1] + _RIGHT_EYE[1]) / 2
_EYE_HALF = (_RIGHT_EYE[0] - _LEFT_EYE[0]) / 2
_MOUTH_Y = (_LEFT_MOUTH[1] + _RIGHT_MOUTH[1]) / 2
_MOUTH_HALF = (_RIGHT_MOUTH[0] - _LEFT_MOUTH[0]) / 2
_PIVOT_Y = 70.0
_Z_LIMIT = 2.3

# A trait is mean + deviation * (z +- male), where z is standard normal: ``male`` is half the distance between
# the two gender means, in standard deviations.
# Lengths in pixels of the 112 x 112 frame. With the shifts below the traits together separate the genders by
# d' = 2 * sqrt(sum of male^2), about 4.7, while no single one exceeds d' = 1.9.
_TRAITS: dict[str, tuple[float, float, float]] = {
    "face_width": (38.0, 2.1, 0.15),
    "forehead_width": (0.92, 0.03, 0.0),
    "jaw_width": (29.5, 2.3, 0.60),
    "chin_width": (12.0, 2.4, 0.40),
    "chin_y": (107.5, 2.4, 0.20),
    "cheek_y": (60.0, 3.5, 0.0),
    "hairline_y": (21.0, 3.2, -0.05),
    "neck_width": (25.0, 1.8, 0.40),
    "ear_size": (1.0, 0.16, 0.15),
    "eye_spacing": (0.0, 1.2, 0.0),
    "eye_y": (0.0, 0.8, 0.0),
    "eye_width": (8.6, 0.85, -0.15),
    "eye_height": (3.7, 0.55, -0.35),
    "eye_tilt": (0.4, 0.9, -0.15),
    "iris": (4.0, 0.25, 0.0),
    "lashes": (0.95, 0.40, -0.65),
    "eye_shadow": (0.15, 0.17, -0.50),
    "brow_height": (8.6, 1.25, -0.40),
    "brow_thickness": (2.9, 0.75, 0.70),
    "brow_arch": (1.7, 0.9, -0.45),
    "brow_angle": (0.0, 1.1, 0.0),
    "brow_length": (10.6, 0.8, 0.0),
    "brow_gap": (7.6, 1.2, 0.0),
    "nose_length": (0.0, 1.7, 0.15),
    "nose_width": (7.2, 1.1, 0.45),
    "nose_bridge": (3.4, 0.6, 0.0),
    "mouth_y": (0.0, 1.2, 0.0),
    "mouth_width": (0.0, 1.7, 0.0),
    "upper_lip": (2.7, 0.7, -0.40),
    "lower_lip": (3.9, 0.8, -0.55),
    "cupid": (0.9, 0.4, 0.0),
    "lip_red": (0.46, 0.18, -0.75),
    "blush": (0.22, 0.11, -0.30),
    "skin_red": (0.0, 6.0, 0.0),
    "skin_yellow": (0.0, 6.0, 0.0),
    "hair_length": (0.0, 1.0, -0.85),
    "hair_volume": (6.0, 2.0, -0.10),
    "hair_curl": (-0.2, 1.0, 0.0),
    "hair_light": (1.0, 0.14, 0.0),
    "beard": (-0.55, 1.0, 0.95),
}

# Per photo, uniform between the two values.
_NUISANCE: dict[str, tuple[float, float]] = {
    "yaw": (-0.9, 0.9),
    "roll": (-3.5, 3.5),
    "shift_x": (-1.0, 1.0),
    "shift_y": (-1.0, 1.0),
    "scale": (0.97, 1.03),
    "light_x": (-1.0, 1.0),
    "light_y": (-0.6, 1.0),
    "exposure": (0.80, 1.02),
    "warmth": (-0.8, 0.8),
    "contrast": (0.6, 1.3),
    "smile": (-0.3, 1.1),
    "mouth_open": (-0.6, 0.7),
    "brow_raise": (-0.8, 1.4),
    "lid": (-0.22, 0.12),
    "gaze_x": (-1.3, 1.3),
    "gaze_y": (-0.5, 0.5),
    "back_red": (50.0, 225.0),
    "back_green": (50.0, 225.0),
    "back_blue": (50.0, 225.0),
    "back_fall": (-45.0, 45.0),
    "shirt_red": (20.0, 235.0),
    "shirt_green": (20.0, 235.0),
    "shirt_blue": (20.0, 235.0),
    "lock": (-1.0, 1.0),
    "blur": (0.0, 0.8),
    "noise": (0.8, 4.5),
}

_SKINS = (
    (252, 226, 207), (243, 208, 182), (231, 187, 154), (208, 158, 122),
    (174, 121, 86), (134, 90, 63), (98, 66, 49),
)  # fmt: skip
_HAIRS = (
    (30, 26, 28), (58, 41, 32), (92, 62, 42), (124, 78, 48),
    (146, 70, 38), (166, 126, 82), (216, 178, 116), (170, 167, 165),
)  # fmt: skip
_HAIR_ODDS_LIGHT = (0.12, 0.18, 0.18, 0.14, 0.10, 0.11, 0.11, 0.06)
_HAIR_ODDS_DARK = (0.58, 0.24, 0.08, 0.02, 0.0, 0.0, 0.0, 0.08)
_EYES = ((72, 46, 30), (106, 70, 38), (122, 104, 52), (86, 118, 70), (78, 122, 164), (118, 134, 146))
_EYE_ODDS_LIGHT = (0.18, 0.22, 0.14, 0.14, 0.20, 0.12)
_EYE_ODDS_DARK = (0.65, 0.27, 0.08, 0.0, 0.0, 0.0)
_LIP_RED = (178.0, 44.0, 66.0)
_PARTINGS = ("left", "right", "centre", "fringe", "back", "swept")


@dataclass(frozen=True)
class _Person:
    """What all photos of one person share: traits, choices and colours."""

    traits: Traits
    parting: str
    beard_style: str
    glasses: bool
    mole: tuple[float, float] | None
    skin: Points
    hair: Points
    eyes: Points

    @property
    def hair_level(self) -> int:
        """0 shaven, 1 short, 2 to the chin, 3 long."""
        return int(np.searchsorted((-1.45, -0.05, 0.65), self.traits["hair_length"]))


@dataclass(frozen=True, eq=False)
class GeneratedFaces:
    """Drawn face photos with their labels.

    Attributes:
        pixels: uint8 RGB in the ArcFace frame, shape ``(N, 112, 112, 3)``.
        identities: Number of the person in each photo, shape ``(N,)``.
        genders: 0 female, 1 male, shape ``(N,)``.
    """

    pixels: NDArray[np.uint8]
    identities: NDArray[np.int64]
    genders: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def table(self, folder: Path = Path()) -> FaceTable:
        """The labels as a table; keys are ``p00012/p00012_0003.png``, ``path`` is that in ``folder``."""
        seen: Counter[int] = Counter()
        records = []
        for person, gender in zip(self.identities.tolist(), self.genders.tolist(), strict=True):
            name = f"p{person:05d}"
            key = f"{name}/{name}_{seen[person]:04d}.png"
            records.append(FaceRecord(key, folder / key, identity=name, gender=GENDERS[gender]))
            seen[person] += 1
        return FaceTable(tuple(records), name="generated")


def generate_faces(
    *,
    people: int,
    photos_per_person: int,
    seed: int,
    first_person: int = 0,
    gender_cue: float = 1.0,
    nuisance: float = 1.0,
) -> GeneratedFaces:
    """Draw photos of people who do not exist, person by person.

    A person is seeded by ``(seed, person number)`` and so looks the same, to the byte, whatever ``people``,
    ``photos_per_person`` and ``first_person`` are. People ``2k`` and ``2k + 1`` are one woman
    and one man, in random order.

    Args:
        people: How many people, at least 1.
        photos_per_person: Photos of each, at least 1.
        seed: Root of all randomness, at least 0.
        first_person: Number of the first person; disjoint ranges give disjoint people.
        gender_cue: Strength of the gender cue. 1 is the default, 0 leaves no information about gender in
            the pixels while everything else stays drawn from the same distribution.
        nuisance: How far photos of a person differ in pose, light, expression, background, blur and noise, 0 to 1. 1 is the default;
            at 0 they differ by the pattern of the noise alone.

    Returns:
        ``people * photos_per_person`` photos, ordered by person, then photo.

    Raises:
        DataError: If an argument is out of range.
    """
    limits = [("people", people, 1), ("photos_per_person", photos_per_person, 1), ("seed", seed, 0)]
    for name, value, least in [*limits, ("first_person", first_person, 0)]:
        if value < least:
            raise DataError(
                f"{name} is {value}, below the limit of {least}.", hint=f"Give {name} >= {least}."
            )
    if not 0 <= gender_cue < math.inf:
        raise DataError(
            f"gender_cue is {gender_cue}; it must be a number of at least 0.",
            hint="Use 0 for no cue, 1 for the default.",
        )
    if not 0 <= nuisance <= 1:
        raise DataError(f"nuisance is {nuisance}, outside 0 to 1.", hint="Use 1 for the default.")
    numbers = np.arange(first_person, first_person + people)
    genders = np.array([_gender_of(int(person), seed=seed) for person in numbers], np.int64)
    pixels = np.empty((people, photos_per_person, FRAME, FRAME, 3), np.uint8)
    for row, number in enumerate(numbers):
        sign = gender_cue * (1.0 if genders[row] else -1.0)
        _draw_person(pixels[row], seed=seed, number=int(number), cue=sign, nuisance=nuisance)
    return GeneratedFaces(
        pixels.reshape(-1, FRAME, FRAME, 3),
        np.repeat(numbers.astype(np.int64), photos_per_person),
        np.repeat(genders, photos_per_person),
    )


def write_faces(faces: GeneratedFaces, folder: Path) -> FaceTable:
    """Write a folder per person of PNG files and ``labels.csv`` (file, identity, gender) beside them; gives their table, with real paths.

    Raises:
        OutputError: If the folder cannot be written.
    """
    table = faces.table(folder)

    def write(record: FaceRecord, pixels: NDArray[np.uint8]) -> None:
        write_atomic(record.path, encode_image(pixels, ".png"))

    with ThreadPoolExecutor(4) as pool:  # each waits for the disk in turn
        list(pool.map(write, table, faces.pixels))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "identity", "gender"))
    writer.writerows((record.file, record.identity, record.gender) for record in table)
    write_atomic(folder / "labels.csv", text.getvalue().encode())  # last: its presence says the set is whole
    return table


# --- who ---


def _gender_of(person: int, *, seed: int) -> int:
    """0 or 1; each pair of neighbours holds one of each, so the number alone tells nothing."""
    first = int(np.random.default_rng([seed, 0, person // 2]).integers(2))
    return first ^ (person % 2)


def _draw_person(out: NDArray[np.uint8], *, seed: int, number: int, cue: float, nuisance: float) -> None:
    """Fill ``out`` of shape ``(P, 112, 112, 3)`` with P photos of one person."""
    person = _sample_person(np.random.default_rng([seed, 1, number]), cue=cue)
    # one row of numbers a photo, so that the first photos stay the same when more are asked for
    uniform = np.random.default_rng([seed, 2, number]).random((len(out), len(_NUISANCE)))
    uniform = 0.5 + nuisance * (uniform - 0.5)  # exact for 1
    photos = {
        name: low + (high - low) * uniform[:, k] for k, (name, (low, high)) in enumerate(_NUISANCE.items())
    }
    shape = (len(out), 2, FRAME, FRAME, 3)
    noise = np.random.default_rng([seed, 3, number]).bytes(math.prod(shape))
    grain = np.frombuffer(noise, np.uint8).reshape(shape)
    contours = _contours(person, photos)
    for j in range(len(out)):
        photo = {name: float(values[j]) for name, values in photos.items()}
        shapes = {name: values[j] for name, values in contours.items()}
        out[j] = _develop(_paint(person, photo, shapes), person, photo, shapes, grain[j])


def _sample_person(rng: np.random.Generator, *, cue: float) -> _Person:
    z = rng.standard_normal(len(_TRAITS))
    u = rng.random(12)
    traits = {
        # only here does gender enter
        name: mean + deviation * min(max(value + cue * male, -_Z_LIMIT), _Z_LIMIT)
        for value, (name, (mean, deviation, male)) in zip(z.tolist(), _TRAITS.items(), strict=True)
    }
    traits["crown_y"] = 1.0 + 6.0 * float(u[0])
    traits["asymmetry"] = 2.0 * float(u[1]) - 1.0
    tone = float(u[2]) ** 1.2 * (len(_SKINS) - 1)
    dark = tone > 3.0
    lighter = min(int(tone), len(_SKINS) - 2)
    skin = _mix(_SKINS[lighter], _SKINS[lighter + 1], tone - lighter)
    skin += [traits["skin_red"], 0.5 * traits["skin_yellow"], -traits["skin_yellow"]]
    hair = _choose(_HAIRS, _HAIR_ODDS_DARK if dark else _HAIR_ODDS_LIGHT, float(u[3]))
    # on a cheek, clear of nose and mouth
    mole = (math.copysign(13.0 + 12.0 * float(u[7]), u[11] - 0.5), 69.0 + 19.0 * float(u[8]))
    return _Person(
        traits=traits,
        parting=_PARTINGS[int(u[4] * len(_PARTINGS))],
        beard_style=("full", "full", "goatee", "moustache")[int(u[5] * 4)],
        glasses=bool(u[6] < 0.14),
        mole=mole if u[10] < 0.3 else None,
        skin=_scale(skin, 1.0),
        hair=_scale(hair, traits["hair_light"]),
        eyes=_choose(_EYES, _EYE_ODDS_DARK if dark else _EYE_ODDS_LIGHT, float(u[9])),
    )


def _choose(colours: Sequence[tuple[int, int, int]], odds: Sequence[float], u: float) -> Points:
    index = int(np.searchsorted(np.cumsum(odds), u))
    return np.array(colours[min(index, len(colours) - 1)], np.float64)


def _mix(a: Colour, b: Colour, share: float) -> Points:
    """``a`` with ``share`` of ``b``."""
    return (1.0 - share) * np.asarray(a, np.float64) + share * np.asarray(b, np.float64)


def _scale(colour: Points, gain: float) -> Points:
    return np.asarray(np.minimum(colour * gain, 255.0))


# --- where: control points, splines, pose ---


@cache
def _spline(knots: int, *, closed: bool, steps: int = 4) -> Points:
    """Catmull-Rom weights: ``weights @ control points`` runs smoothly through all of them."""
    spans = knots if closed else knots - 1
    s = np.arange(steps) / steps
    basis = 0.5 * np.stack(
        [-s + 2 * s**2 - s**3, 2 - 5 * s**2 + 3 * s**3, s + 4 * s**2 - 3 * s**3, s**3 - s**2], axis=1
    )
    weights = np.zeros((spans * steps + (not closed), knots))
    for span, k in np.ndindex(spans, 4):
        knot = (span + k - 1) % knots if closed else min(max(span + k - 1, 0), knots - 1)
        weights[span * steps : (span + 1) * steps, knot] += basis[:, k]
    if not closed:
        weights[-1, -1] = 1.0
    return weights


def _mirrored(half: Points, *, closed: bool = True) -> Points:
    """Add to a right half (x from the middle line, top to bottom) its mirror image; an open line ends on the middle line once."""
    left = half[:, -2 : (0 if closed else None) : -1] * [-1.0, 1.0]
    return np.concatenate([half, left], axis=1)


class _Camera:
    """Collects face points (x from the middle line) and turns them into posed, fixed-point contours."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._shapes: dict[str, Points] = {}
        self._depths: dict[str, float] = {}

    def points(self, xs: Row, ys: Row) -> Points:
        """Control points of shape ``(P, K, 2)`` from their x and their y, each a number or a ``(P,)`` array."""
        out = np.empty((self.count, len(xs), 2))
        for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
            out[:, k, 0] = x
            out[:, k, 1] = y
        return out

    def add(self, name: str, points: Points, *, depth: float = 0.0) -> None:
        """Take points, ``(P, K, 2)`` or ``(K, 2)``; ``depth`` is how far they stand out, in pixels at full yaw."""
        self._shapes[name] = np.broadcast_to(points, (self.count, *points.shape[-2:]))
        self._depths[name] = depth

    def add_curve(self, name: str, control: Points, *, closed: bool = True, depth: float = 0.0) -> None:
        """Take the spline through control points of shape ``(P, K, 2)``."""
        self.add(name, _spline(control.shape[-2], closed=closed) @ control, depth=depth)

    def add_mirrored(self, name: str, xs: Row, ys: Row, *, closed: bool = True, depth: float = 0.0) -> None:
        """Take the spline through a right half, ``K`` control points, and its mirror image."""
        self.add_curve(name, _mirrored(self.points(xs, ys), closed=closed), closed=closed, depth=depth)

    def shoot(self, photos: Nuisance) -> Contours:
        """Pose everything at once: yaw as parallax on a cylinder, then roll, scale and shift."""
        ends = np.cumsum([points.shape[1] for points in self._shapes.values()])
        depth = np.repeat(list(self._depths.values()), np.diff(ends, prepend=0))
        points = np.concatenate(list(self._shapes.values()), axis=1)
        x, y = points[..., 0], points[..., 1] - _PIVOT_Y
        # alignment holds the eyes in place, so under yaw the silhouette moves and the middle does not
        x = x + photos["yaw"][:, None] * (depth - 0.0026 * np.minimum(x * x, 2000.0))
        angle = np.deg2rad(photos["roll"])
        cos, sin = ((photos["scale"] * part)[:, None] for part in (np.cos(angle), np.sin(angle)))
        out = np.empty_like(points)
        out[..., 0] = (_CX + photos["shift_x"])[:, None] + cos * x - sin * y
        out[..., 1] = (_PIVOT_Y + photos["shift_y"])[:, None] + sin * x + cos * y
        # a pixel centre at c lies at s * c + (s - 1) / 2 on the finer grid
        fine = SUPERSAMPLING * out + (SUPERSAMPLING - 1) / 2
        fixed = np.rint(fine * (1 << _SHIFT_BITS)).astype(np.int32)
        return dict(zip(self._shapes, np.split(fixed, ends[:-1], axis=1), strict=True))


def _contours(person: _Person, photos: Nuisance) -> Contours:
    """All outlines of P photos of a person: name to int32 points, shape ``(P, K, 2)``."""
    camera = _Camera(len(photos["yaw"]))
    _add_head(camera, person.traits, photos)
    _add_eyes(camera, person.traits, photos)
    _add_brows(camera, person.traits, photos)
    _add_nose(camera, person.traits)
    _add_mouth(camera, person.traits, photos)
    _add_beard(camera, person, photos)
    _add_hair(camera, person, photos)
    _add_marks(camera, person)
    return camera.shoot(photos)


def _add_head(camera: _Camera, traits: Traits, photos: Nuisance) -> None:
    wide, jaw, below = traits["face_width"], traits["jaw_width"], traits["chin_width"]
    drop = 3.0 * np.maximum(photos["mouth_open"], 0.0)  # the chin sinks as the mouth opens
    top, cheek, temple = traits["crown_y"] + 4.0, traits["cheek_y"], traits["forehead_width"] * wide
    chin = [traits["chin_y"] - above + drop for above in (8.0, 1.6, 0.0)]
    sides = (wide, 0.5 * (wide + jaw) + 2.8, jaw, 0.45 * (jaw + below), 0.72 * below)
    x: Row = (0.0, 0.6 * wide, temple, *sides, 0.0)
    y: Row = (top, top + 4.5, 28.0, cheek - 10.0, cheek + 14.0, 89.5 + 0.5 * drop, *chin)
    face = _mirrored(camera.points(x, y))
    camera.add_curve("face", face)
    light = np.stack([photos["light_x"] * 5.0, np.full(camera.count, -1.0)], axis=1)[:, None]
    middle = np.array([0.0, 58.0])
    camera.add_curve("face_lit", (face - middle) * [0.74, 0.80] + middle + light)
    ear, angle = traits["ear_size"], np.linspace(0.0, 2 * np.pi, 14, endpoint=False)
    for name, side in _SIDES:
        ear_y = 60.0 + 0.8 * traits["asymmetry"] * side
        ring = np.stack(
            [side * (wide + 0.6) + 4.6 * ear * np.cos(angle), ear_y + 9.5 * ear * np.sin(angle)], axis=1
        )
        camera.add(f"ear_{name}", ring)
        inner = (ring - [side * wide, ear_y]) * [0.55, 0.6] + [side * (wide + 1.2), ear_y - 0.5]
        camera.add(f"ear_in_{name}", inner)
    neck = traits["neck_width"]
    x = (0.0, neck, neck + 0.6, neck + 3.0, neck + 4.0, 0.0)
    camera.add_mirrored("neck", x, (84.0, 84.0, 100.0, 112.0, 132.0, 132.0))
    x = (0.0, neck - 4.0, neck + 3.0, neck + 14.0, 70.0, 70.0, 0.0)
    camera.add_mirrored("shirt", x, (124.0, 112.0, 106.0, 105.0, 112.0, 140.0, 140.0))


def _add_eyes(camera: _Camera, traits: Traits, photos: Nuisance) -> None:
    wide = traits["eye_width"]
    opening = traits["eye_height"] * (1.0 + photos["lid"] - 0.12 * np.maximum(photos["smile"], 0.0))
    eye_x, eye_y = _EYE_HALF + traits["eye_spacing"], _EYE_Y + traits["eye_y"]
    xs = np.array([-1.0, -0.62, 0.0, 0.58, 1.0]) * wide
    rise = np.array([0.0, 0.76, 1.0, 0.80, 0.0])
    slope = -traits["eye_tilt"] * xs / wide
    upper = camera.points(xs, (slope - opening[:, None] * rise).T)
    lower = camera.points(xs, (slope + 0.72 * opening[:, None] * rise + [0.0, 0.0, 0.1, 0.1, 0.0]).T)
    fold = upper * [1.06, 1.0] - [0.0, 2.1] - np.array([0.0, 0.9, 1.0, 0.9, 0.0])[:, None] * [0.0, 1.0]
    bag = lower * [1.04, 1.0] + [0.0, 2.6]
    weights = _spline(5, closed=False)
    upper, lower, fold, bag = (weights @ line for line in (upper, lower, fold, bag))
    for name, side in _SIDES:
        flip, place = np.array([side, 1.0]), np.array([side * eye_x, eye_y])
        up, low, high, deep = (line * flip + place for line in (upper, lower, fold, bag))
        camera.add(f"white_{name}", np.concatenate([up, low[:, ::-1]], axis=1))
        camera.add(f"lid_{name}", np.concatenate([up, high[:, ::-1]], axis=1))
        camera.add(f"under_{name}", np.concatenate([low, deep[:, ::-1]], axis=1))
        camera.add(f"lash_{name}", up)
        camera.add(f"fold_{name}", high[:, 2:-2])
        camera.add(f"low_{name}", low[:, 3:])
        iris = camera.points((side * eye_x + photos["gaze_x"],), (eye_y - 0.5 + photos["gaze_y"],))
        camera.add(f"iris_{name}", iris)


def _add_brows(camera: _Camera, traits: Traits, photos: Nuisance) -> None:
    base = _EYE_Y + traits["eye_y"] - traits["brow_height"] - 1.6 * photos["brow_raise"]
    reach = traits["brow_gap"] + np.array([0.0, 0.55, 1.25, 2.0, 1.25, 0.55, 0.0]) * traits["brow_length"]
    # the seven points of the outline, from the inner end along the upper edge and back along the lower one
    turn = np.array([1.0, 0.0, 0.0, -0.2, 0.0, 0.0, 1.0]) * traits["brow_angle"]
    arch = np.array([0.0, 0.6, 1.4, 0.0, 1.4, 0.6, 0.0]) * traits["brow_arch"]
    edge = np.array([-0.35, -0.55, -0.5, 0.0, 0.35, 0.5, 0.6]) * traits["brow_thickness"]
    for name, side in _SIDES:
        middle = base + 0.5 * traits["asymmetry"] * side
        y = middle[:, None] + turn - arch + edge + [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
        camera.add_curve(f"brow_{name}", camera.points(side * reach, y.T))


def _add_nose(camera: _Camera, traits: Traits) -> None:
    wide, bridge = traits["nose_width"], traits["nose_bridge"]
    tip = _NOSE[1] + traits["nose_length"]
    base = tip + 4.6
    x: Row = (0.86 * wide, wide, 0.92 * wide, 0.45 * wide, 0.0)
    y: Row = (tip - 0.3, base - 2.6, base - 0.4, base + 0.3, base + 1.2)
    camera.add_mirrored("nose_line", x, y, closed=False, depth=2.0)
    x, y = (0.0, 0.48 * wide, 0.40 * wide, 0.0), (tip - 4.5, tip - 1.6, tip + 1.6, tip + 2.6)
    camera.add_mirrored("nose_tip", x, y, depth=2.6)
    hole = np.array([0.22, 0.45, 0.68, 0.50]) * wide
    flank = np.array([bridge, bridge + 0.6, 0.80 * wide, 0.80 * wide + 2.6, bridge + 3.2, bridge + 4.5])
    for name, side in _SIDES:
        rim = camera.points(side * hole, (base - 0.3, base - 1.3, base - 0.9, base + 0.1))
        camera.add_curve(f"nostril_{name}", rim, depth=2.2)
        shade = camera.points(side * flank, (46.0, 58.0, tip - 0.5, tip + 1.0, 58.0, 46.0))
        camera.add_curve(f"flank_{name}", shade, depth=1.4)
    x, y = (0.0, 0.62 * bridge, 0.55 * bridge, 0.6 * bridge, 0.0), (42.0, 46.0, 60.0, tip - 3.0, tip - 1.0)
    camera.add_mirrored("ridge", x, y, depth=2.0)


def _add_mouth(camera: _Camera, traits: Traits, photos: Nuisance) -> None:
    """Lips and what they show; the gloss on them, the shadow below, and the cheeks."""
    smile, gape = photos["smile"], np.maximum(photos["mouth_open"], 0.0)
    half = _MOUTH_HALF + traits["mouth_width"] + 1.5 * smile - 1.2 * gape
    y = _MOUTH_Y + traits["mouth_y"] + 0.4 * smile
    corner = y - 1.5 * smile + 0.4
    up, low, cupid = traits["upper_lip"], traits["lower_lip"], traits["cupid"]
    top, bottom = y - 1.1 * gape, y + 5.2 * gape + 0.5 * smile
    x = (0.0, 0.20 * half, 0.62 * half, half, 0.66 * half, 0.30 * half, 0.0)
    upper = (top - up + cupid, top - up, 0.45 * corner + 0.55 * top - 0.60 * up, corner)
    lower = (0.42 * corner + 0.58 * bottom + 0.62 * low, bottom + low, bottom + 1.05 * low)
    camera.add_mirrored("lips", x, (*upper, *lower), depth=0.8)
    x = (0.0, 0.22 * half, 0.62 * half, 0.95 * half, 0.62 * half, 0.24 * half, 0.0)
    upper = (top + 0.5, top + 0.1, 0.4 * corner + 0.6 * top + 0.2, corner)
    lower = (0.4 * corner + 0.6 * bottom + 0.3, bottom + 0.3, bottom + 0.4)
    camera.add_mirrored("gap", x, (*upper, *lower), depth=0.8)
    camera.add_mirrored("seam", (half + 0.4, *x[2::-1]), (corner, *upper[2::-1]), closed=False, depth=0.8)
    teeth = top + np.minimum(2.6, 4.0 * gape)
    row: Row = (top + 0.4, top + 0.5, top + 0.9, teeth, teeth + 0.3)
    camera.add_mirrored("teeth", (0.0, 0.5 * half, 0.66 * half, 0.5 * half, 0.0), row, depth=0.6)
    row = (bottom + low + 1.2, bottom + low + 0.6, bottom + low + 3.6, bottom + low + 4.2)
    camera.add_mirrored("lip_shade", (0.0, 0.45 * half, 0.30 * half, 0.0), row, depth=0.8)
    row = (bottom + 0.38 * low, bottom + 0.38 * low, bottom + 0.62 * low, bottom + 0.66 * low)
    camera.add_mirrored("gloss", (0.0, 0.26 * half, 0.2 * half, 0.0), row, depth=0.8)
    cheek = np.array([(12.5, 74.0), (20.0, 67.5), (29.0, 69.0), (29.0, 78.0), (20.0, 81.0)])
    for name, side in _SIDES:
        camera.add_curve(f"cheek_{name}", cheek * [side, 1.0])


def _add_beard(camera: _Camera, person: _Person, photos: Nuisance) -> None:
    traits = person.traits
    drop = 3.0 * np.maximum(photos["mouth_open"], 0.0)
    y, half = _MOUTH_Y + traits["mouth_y"], _MOUTH_HALF + traits["mouth_width"]
    jaw, chin = traits["jaw_width"], traits["chin_y"] + drop
    wide, below = traits["face_width"], 0.8 * traits["chin_width"] + 2.0
    if person.beard_style == "full":
        xs: Row = (0.0, 0.6 * half, half + 3.0, jaw - 3.5, wide - 2.5, wide + 1.0, jaw + 1.0, below, 0.0)
        lower = (64.0, 68.0, 90.0 + 0.5 * drop, chin + 0.6, chin + 2.0)
        ys: Row = (y - 9.0, y - 8.6, y - 3.0, y - 11.0, *lower)
    elif person.beard_style == "goatee":
        xs = (0.0, 0.6 * half, half + 1.6, half + 0.6, 0.5 * half, 0.0)
        ys = (y - 8.6, y - 8.2, y - 2.0, y + 8.0, chin + 0.5, chin + 1.6)
    else:
        xs = (0.0, 0.6 * half, half + 1.6, half + 0.2, 0.5 * half, 0.0)
        ys = (y - 8.6, y - 7.8, y - 1.0, y + 1.2, y - 1.8, y - 2.4)
    camera.add_mirrored("beard", xs, ys)


def _add_hair(camera: _Camera, person: _Person, photos: Nuisance) -> None:
    """Front hair between an outer line over the crown and an inner line along brow and cheeks."""
    traits, level = person.traits, person.hair_level
    wide, volume = traits["face_width"], traits["hair_volume"] if level else 1.4
    end = (50.0, 55.0, 84.0 + 6.0 * traits["asymmetry"], 128.0)[level]
    side = (0.6, 0.7 + 0.15 * volume, 3.0 + 0.75 * volume, 3.0 + 0.8 * volume)[level]
    crown = traits["crown_y"] + 3.0 - 0.75 * volume
    sway = 1.5 * photos["lock"] * (level >= 2)
    edge = wide + side
    lowest = edge + (1.5 if level == 3 else -0.8) + sway
    x = (0.0, 0.36 * wide, 0.70 * wide + 0.5 * side, 0.95 * wide + side, edge + 0.6, lowest)
    right = camera.points(x, (crown, crown + 1.0, crown + 6.5, 26.0, 0.5 * (30.0 + end), end))
    left = right * [-1.0, 1.0]
    left[:, -1, 0] += 2.0 * sway  # long hair swings to one side
    outer = np.concatenate([left[:, :0:-1], right], axis=1)  # left end, over the crown, right end
    inner = camera.points(*_inner_hairline(person, end=end))
    outer, inner = (_spline(line.shape[1], closed=False, steps=6) @ line for line in (outer, inner))
    outer = _curled(outer, traits["hair_curl"], level)
    camera.add("hair", np.concatenate([outer, inner[:, ::-1]], axis=1))
    for k, share in enumerate((0.22, 0.42, 0.62, 0.82)):
        camera.add(f"strand_{k}", ((1.0 - share) * outer + share * inner)[:, ::2])
    if level == 3:
        camera.add("back_hair", outer)
    elif level == 2:
        camera.add("back_hair", outer[:, 8:-8])


def _inner_hairline(person: _Person, *, end: float) -> tuple[Row, Row]:
    """Inner line from the left end over the forehead to the right end: x and y of 11 control points."""
    traits, level = person.traits, person.hair_level
    wide, line = traits["face_width"], traits["hairline_y"]
    temple = traits["forehead_width"] * wide
    cover = (-0.3, 0.2, 2.2, 3.2)[level]  # how far side hair reaches over the cheek
    part = {"left": -14.0, "right": 14.0}.get(person.parting, 0.0)
    forehead = {
        "left": (9.0, 1.0, -6.0, 1.0, 9.0),
        "right": (9.0, 1.0, -6.0, 1.0, 9.0),
        "centre": (11.0, 3.0, -6.0, 3.0, 11.0),
        "fringe": (13.0, 13.5, 14.0, 13.5, 13.0),
        "back": (6.0, -1.5, -2.5, -1.5, 6.0),
        "swept": (2.0, 0.0, 3.5, 8.5, 13.0),
    }[person.parting]
    if level == 0:
        forehead = (5.0, -1.0, 0.0, -1.0, 5.0)
    left = (-(wide - cover + 1.0), -(wide - cover), -(temple - 1.0 - 0.5 * cover))
    middle = (-0.66 * temple, 0.5 * (part - 0.66 * temple), part, 0.5 * (part + 0.66 * temple), 0.66 * temple)
    side = (end, 0.5 * (end + 40.0), 36.0)
    brow = [min(line + y, 40.0) for y in forehead]
    return (*left, *middle, *(-x for x in left[::-1])), (*side, *brow, *side[::-1])


def _curled(line: Points, curl: float, level: int) -> Points:
    """Ripple the outer hair line; straight hair (``curl <= 0``) stays as it is."""
    if curl <= 0 or level == 0:
        return line
    wave = np.abs(np.sin(np.arange(line.shape[1]) * (np.pi / 4.0))) - 0.5
    away = line - np.array([0.0, 55.0])
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    rippled: Points = line + away * (wave * min(2.2 * curl, 3.2))[:, None]
    return rippled


def _add_marks(camera: _Camera, person: _Person) -> None:
    if person.mole is not None:
        camera.add("mole", np.array([person.mole]), depth=0.5)
    if not person.glasses:
        return
    x = _EYE_HALF + person.traits["eye_spacing"]
    angle = np.linspace(0.0, 2 * np.pi, 20, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # a rounded rectangle: superellipse of order 3
    ring = np.sign(circle) * np.abs(circle) ** 0.66 * [12.6, 9.2] + [0.0, _EYE_Y + 2.0]
    for name, side in _SIDES:
        camera.add(f"lens_{name}", ring + np.array([side * x, 0.0]), depth=1.0)
        ends = (side * (x + 12.4), side * (person.traits["face_width"] + 1.0))
        camera.add(f"arm_{name}", camera.points(ends, (_EYE_Y, _EYE_Y - 1.0)))
    bridge = camera.points((-(x - 12.4), 0.0, x - 12.4), (_EYE_Y, _EYE_Y - 1.6, _EYE_Y))
    camera.add_curve("bridge", bridge, closed=False, depth=1.6)


# --- what it looks like: paint, shade, develop ---


def _fill(canvas: Canvas, contour: Contour, colour: Colour) -> None:
    cv2.fillPoly(canvas, [contour], tuple(colour), cv2.LINE_AA, _SHIFT_BITS)


def _line(canvas: Canvas, contour: Contour, colour: Colour, width: float, *, closed: bool = False) -> None:
    """A line ``width`` frame pixels wide."""
    thickness = max(1, round(width * SUPERSAMPLING))
    cv2.polylines(canvas, [contour], closed, tuple(colour), thickness, cv2.LINE_AA, _SHIFT_BITS)


def _disc(canvas: Canvas, centre: Contour, radius: float, colour: Colour) -> None:
    fixed = round(radius * SUPERSAMPLING * (1 << _SHIFT_BITS))
    cv2.circle(canvas, (int(centre[0]), int(centre[1])), fixed, tuple(colour), -1, cv2.LINE_AA, _SHIFT_BITS)


def _paint(person: _Person, photo: Traits, shapes: Contours) -> Canvas:
    """Flat colours and lines at ``SUPERSAMPLING`` times the frame, back to front."""
    side = FRAME * SUPERSAMPLING
    back = np.array([photo["back_red"], photo["back_green"], photo["back_blue"]])
    row = np.clip(back + np.linspace(-0.5, 0.5, side)[:, None] * photo["back_fall"], 0.0, 255.0)
    canvas = np.empty((side, side, 3), np.uint8)
    # whole rows: ten times faster than pixel by pixel
    canvas.reshape(side, -1)[:] = row.astype(np.uint8).ravel()
    skin, hair = person.skin, person.hair
    shaded = _scale(skin, 0.80)
    if "back_hair" in shapes:
        _fill(canvas, shapes["back_hair"], _scale(hair, 0.62))
    _fill(canvas, shapes["neck"], shaded)
    _fill(canvas, shapes["shirt"], (photo["shirt_red"], photo["shirt_green"], photo["shirt_blue"]))
    for name in ("left", "right"):
        _fill(canvas, shapes[f"ear_{name}"], _scale(skin, 0.93))
        _fill(canvas, shapes[f"ear_in_{name}"], shaded)
    _fill(canvas, shapes["face"], skin)
    _paint_eyes(canvas, person, shapes)
    _paint_nose_and_mouth(canvas, person, photo, shapes)
    for name in ("left", "right"):
        _fill(canvas, shapes[f"brow_{name}"], _mix(_scale(hair, 0.72), skin, 0.08))
    if "mole" in shapes:
        _disc(canvas, shapes["mole"][0], 0.9, _scale(skin, 0.45))
    _paint_hair(canvas, person, shapes)
    if "bridge" in shapes:
        frame = (38.0, 34.0, 40.0)
        for name in ("left", "right"):
            _line(canvas, shapes[f"lens_{name}"], frame, 1.3, closed=True)
            _line(canvas, shapes[f"arm_{name}"], frame, 1.3)
        _line(canvas, shapes["bridge"], frame, 1.3)
    return canvas


def _paint_eyes(canvas: Canvas, person: _Person, shapes: Contours) -> None:
    traits, skin = person.traits, person.skin
    lid = _mix(_scale(skin, 0.92), (110.0, 78.0, 104.0), max(traits["eye_shadow"], 0.0))
    ink = _mix((24.0, 18.0, 20.0), skin, 0.10)
    radius = traits["iris"]
    for name in ("left", "right"):
        iris = shapes[f"iris_{name}"][0]
        _fill(canvas, shapes[f"white_{name}"], (240.0, 238.0, 236.0))
        _disc(canvas, iris, radius, _scale(person.eyes, 0.55))
        _disc(canvas, iris, radius - 0.7, person.eyes)
        _disc(canvas, iris, 0.45 * radius, (14.0, 12.0, 14.0))
        _disc(canvas, iris + np.array([22, -26], np.int32), 0.85, (250.0, 250.0, 250.0))
        # the lids cover what the iris has beyond the opening, so no mask is needed
        _fill(canvas, shapes[f"under_{name}"], _scale(skin, 0.965))
        _fill(canvas, shapes[f"lid_{name}"], lid)
        _line(canvas, shapes[f"fold_{name}"], _scale(skin, 0.68), 0.5)
        _line(canvas, shapes[f"low_{name}"], _scale(skin, 0.62), 0.5)
        _line(canvas, shapes[f"lash_{name}"], ink, max(0.5, traits["lashes"] * 1.25))


def _paint_nose_and_mouth(canvas: Canvas, person: _Person, photo: Traits, shapes: Contours) -> None:
    traits, skin = person.traits, person.skin
    _line(canvas, shapes["nose_line"], _scale(skin, 0.78), 0.6)
    for name in ("left", "right"):
        _fill(canvas, shapes[f"nostril_{name}"], _scale(skin, 0.42))
    natural = _mix(_scale(skin, 0.84), (196.0, 92.0, 92.0), 0.30)
    lips = _mix(natural, _LIP_RED, min(max(traits["lip_red"], 0.0), 0.9) * 0.85)
    _fill(canvas, shapes["lips"], lips)
    _fill(canvas, shapes["gloss"], _mix(lips, (255.0, 235.0, 230.0), 0.18))
    if photo["mouth_open"] > 0.08:
        _fill(canvas, shapes["gap"], (70.0, 26.0, 30.0))
        if photo["mouth_open"] > 0.2:
            _fill(canvas, shapes["teeth"], (238.0, 234.0, 226.0))
    else:
        _line(canvas, shapes["seam"], _scale(lips, 0.55), 0.7)


def _paint_hair(canvas: Canvas, person: _Person, shapes: Contours) -> None:
    hair = person.hair
    if person.hair_level == 0:
        _fill(canvas, shapes["hair"], _mix(person.skin, hair, 0.45))  # stubble on the scalp
        return
    _fill(canvas, shapes["hair"], hair)
    for k, tone in enumerate((1.22, 0.78, 1.12, 0.80)):
        shade = _scale(_mix(hair, (255.0, 255.0, 255.0), 0.05) if tone > 1 else hair, tone)
        _line(canvas, shapes[f"strand_{k}"], shade, 0.8 if tone > 1 else 0.6)


def _soft(
    fills: Sequence[tuple[Contour, int]], sigma: float, *, ground: int, shrink: int
) -> NDArray[np.float32]:
    """Grey shapes on a grey ground, blurred; shape ``(112, 112)``.

    Drawn ``shrink`` (a power of two) times smaller than the frame, for what is blurred away needs no pixels.
    """
    side = FRAME // shrink
    mask = np.full((side, side), ground, np.uint8)
    shift = _SHIFT_BITS + (SUPERSAMPLING * shrink).bit_length() - 1  # each halving is one more bit of shift
    for contour, grey in fills:
        cv2.fillPoly(mask, [contour], (grey,), cv2.LINE_AA, shift)
    # float: OpenCV's 8-bit blur is bit-exact at twenty times the price
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma / shrink)
    if shrink > 1:
        soft = cv2.resize(soft, (FRAME, FRAME), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft, np.float32)


def _shading(person: _Person, photo: Traits, shapes: Contours) -> NDArray[np.float32]:
    """Gain of light at each pixel, shape ``(112, 112)``: round head, nose, sockets, lamp."""
    depth = photo["contrast"]
    lamp = photo["light_x"]

    def grey(change: float) -> int:
        return round(128 + depth * change)

    head = _soft([(shapes["face"], grey(-20)), (shapes["face_lit"], grey(9))], 6.0, ground=128, shrink=4)
    fills = [(shapes[f"flank_{name}"], grey(-17 - 15 * side * lamp)) for name, side in _SIDES]
    fills += [(shapes["ridge"], grey(13)), (shapes["nose_tip"], grey(15)), (shapes["lip_shade"], grey(-26))]
    fine = _soft(fills, 1.5, ground=128, shrink=2)
    rows, columns = np.ogrid[0:FRAME, 0:FRAME]  # x and y over the frame are about -1 to 1
    x, y = ((at.astype(np.float32) - np.float32(c)) / 56 for at, c in ((columns, _CX), (rows, 60)))
    lit = np.float32(0.17 * depth * lamp) * x - np.float32(0.10 * depth * photo["light_y"]) * y
    lit = lit - np.float32(0.05) * (x * x + y * y)
    gain = head * fine * (np.float32(photo["exposure"] / 128**2) * (np.float32(1.03) + lit))
    return np.asarray(gain, np.float32)


def _develop(canvas: Canvas, person: _Person, photo: Traits, shapes: Contours, grain: Canvas) -> Canvas:
    """Scale down, add what is soft (beard, blush, light), then lens blur and sensor noise."""
    small = cv2.resize(canvas, (FRAME, FRAME), interpolation=cv2.INTER_AREA)
    image: NDArray[np.float32] = small.astype(np.float32)
    strength = _beard_strength(person.traits["beard"])
    if strength > 0:
        fills = [(shapes["beard"], 255), (shapes["lips"], 0)]
        cover = _soft(fills, 1.6 if strength < 0.5 else 1.0, ground=0, shrink=1) * np.float32(strength / 255)
        colour = _mix(_scale(person.hair, 0.85), person.skin, 0.1)
        image *= cv2.merge([1 - cover] * 3)
        image += cv2.merge([cover * np.float32(c) for c in colour])
    cheeks = [(shapes["cheek_left"], 255), (shapes["cheek_right"], 255)]
    blush = _soft(cheeks, 4.0, ground=0, shrink=4) * np.float32(max(person.traits["blush"], 0.0) / 255)
    light = _shading(person, photo, shapes)
    tint = (1.0 + 0.05 * photo["warmth"], 1.0, 1.0 - 0.06 * photo["warmth"])
    # planes first, one merge at the end: NumPy broadcasts slowly over three channels
    gains = [
        light * ((1 + np.float32(b) * blush) * np.float32(t))
        for b, t in zip((0.04, -0.35, -0.26), tint, strict=True)
    ]
    image *= cv2.merge(gains)
    if photo["blur"] > 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (5, 5), photo["blur"]), np.float32)
    noise = photo["noise"] / math.sqrt((256**2 - 1) / 6)  # the difference of two random bytes is near normal
    image += cv2.addWeighted(grain[0], noise, grain[1], -noise, 0.0, dtype=cv2.CV_32F)
    return np.rint(np.clip(image, 0.0, 255.0)).astype(np.uint8)


def _beard_strength(latent: float) -> float:
    """0 without, up to 0.35 for stubble, above that a beard."""
    if latent <= 0:
        return 0.0
    return 0.10 + 0.32 * latent if latent < 0.9 else min(0.62 + 0.2 * (latent - 0.9), 0.85)
