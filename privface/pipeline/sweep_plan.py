"""What a sweep is asked to do: settings from YAML, and the points that they make."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privface.config import (
    FaceMode,
    TrainSettings,
    expand,
    faults,
    load_settings,
    parse_settings,
    put_value,
    read_mapping,
)
from privface.errors import ConfigError, PrivfaceError
from privface.pipeline.battery import AuditOptions, Effort

PAGE = "docs/sweep.md"
ORIGINALS = "originals"
TRAINED = "trained"
MOST_POINTS = 1000

_LONGEST_NAME = 60
_FREE = {"device", "devices", "checkpoint_minutes"}
"""Settings of the loop that say where and how visibly a run computes, not what."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PointSettings(_Settings):
    """One trained point by its own changes to the base."""

    name: str | None = Field(None, description="By default the changes themselves.")
    settings: dict[str, Any] = Field({}, description="Dotted setting to value; none is the base itself.")


class SweepAudit(_Settings):
    """The audit that every point gets; as the options of ``privface audit``."""

    original: str = Field(description="Original photos: a path, or kind:path.")
    labels: str | None = Field(None, description="CSV or Parquet with file, identity, gender, split.")
    split: str | None = Field(None, description="Take only rows of this split.")
    matchers: tuple[str, ...] = Field(..., min_length=1)
    probes: tuple[str, ...] = Field((), description="Frozen gender classifiers.")
    effort: Effort = "standard"
    faces: FaceMode = "auto"
    size: int = Field(112, ge=16, le=448, description="Side of the aligned images.")
    seed: int = Field(
        0, ge=0, description="The same for all points, so that they share people and attackers."
    )
    resamples: int = Field(1000, ge=2)
    cnn_epochs: int = Field(16, ge=1)
    recoverer: str | None = None
    cache: str | None = Field(None, description="Folder that all points share; biometric data.")


class SweepProtect(_Settings):
    """How photos are protected before they are audited."""

    store: Literal["files", "memory"] = Field(
        "files",
        description="files: a folder a point, as `privface protect`; memory: no protected photo is kept.",
    )
    faces: Literal["aligned", "detect"] = "aligned"
    quality: int = Field(95, ge=1, le=100)
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> SweepProtect:
        if self.store == "memory" and self.faces != "aligned":
            raise ValueError("store: memory aligns as audit.faces says; leave protect.faces out")
        return self


class _Baseline(_Settings):
    name: str | None = Field(None, description="By default the method and its settings.")


class BlurSettings(_Baseline):
    """Gaussian blur."""

    method: Literal["blur"]
    sigma: float = Field(gt=0)


class PixelationSettings(_Baseline):
    """Mosaic."""

    method: Literal["pixelation"]
    cells: int = Field(ge=1)


class NoiseSettings(_Baseline):
    """Gaussian noise."""

    method: Literal["noise"]
    sigma: float = Field(gt=0)
    seed: int = Field(0, ge=0)


class JPEGSettings(_Baseline):
    """JPEG compression."""

    method: Literal["jpeg"]
    quality: int = Field(ge=1, le=100)


class DownUpSettings(_Baseline):
    """Resolution thrown away."""

    method: Literal["down-up"]
    side: int = Field(ge=1)


class KSameSettings(_Baseline):
    """Mean of k faces; the others are of the base's training people."""

    method: Literal["k-same"]
    k: int = Field(ge=2)


BaselineSettings: TypeAlias = Annotated[
    BlurSettings | PixelationSettings | NoiseSettings | JPEGSettings | DownUpSettings | KSameSettings,
    Field(discriminator="method"),
]


class ChooseSettings(_Settings):
    """How the winner is chosen among the trained points."""

    max_tmr_loss: float = Field(
        0.10, ge=0, le=1, description="Points that lose more TMR than this against the originals cannot win."
    )


class SweepSettings(_Settings):
    """Everything that ``privface sweep`` needs."""

    base: TrainSettings
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="Dotted setting to its values; every combination is a point."
    )
    points: tuple[PointSettings, ...] = Field((), description="Further points, by their changes to the base.")
    audit: SweepAudit
    protect: SweepProtect = SweepProtect()
    baselines: tuple[BaselineSettings, ...] = ()
    select: str | None = Field(
        None, description="Split on whose people points are compared and one is chosen."
    )
    report: str | None = Field(None, description="Split whose people only the chosen point is reported on.")
    choose: ChooseSettings = ChooseSettings()

    @model_validator(mode="after")
    def _fits(self) -> SweepSettings:
        if not self.grid and not self.points:
            raise ValueError("grid and points are both empty, so there is nothing to train")
        count = math.prod(map(len, self.grid.values())) * bool(self.grid) + len(self.points)
        if count > MOST_POINTS:
            raise ValueError(f"grid and points make {count:,} points, the limit is {MOST_POINTS:,}")
        if (self.select is None) != (self.report is None):
            raise ValueError(
                "select and report go together: people to choose on, and other people to report on"
            )
        if self.select is not None and self.select == self.report:
            raise ValueError(
                f"select and report are both {self.select!r}; choosing would then be tuning on them"
            )
        if self.select is not None and self.audit.split is not None:
            raise ValueError("audit.split and select exclude each other; select is the split that is audited")
        return self

    @property
    def compared_on(self) -> str | None:
        """The split on which all points are audited."""
        return self.audit.split if self.select is None else self.select

    def options(self) -> AuditOptions:
        """The audit's options, the same for every point."""
        a = self.audit
        return AuditOptions(
            seed=a.seed,
            resamples=a.resamples,
            effort=a.effort,
            cnn_epochs=a.cnn_epochs,
            size=a.size,
            faces=a.faces,
            protected_faces="aligned",
            cache=None if a.cache is None else Path(a.cache),
            recoverer=a.recoverer,
        )


@dataclass(frozen=True)
class Point:
    """One point of the trade-off.

    Attributes:
        name: As it is shown.
        method: ``originals``, ``trained``, or a baseline's method.
        changes: What differs from the base (trained), or the baseline's settings.
        folder: Its folder below ``points``; follows from what the point is, not from its name.
        training: Settings of a trained point.
        baseline: Settings of a baseline.
    """

    name: str
    method: str
    changes: Mapping[str, Any]
    folder: str
    training: TrainSettings | None = None
    baseline: BaselineSettings | None = None


def load_sweep(path: Path) -> SweepSettings:
    """Read the settings of a sweep; a ``base`` that is a path is read relative to the file's own folder.

    Raises:
        ConfigError: If a file is missing or malformed, a key unknown or given twice, a value out of range or a
            variable unset; every faulty setting is named, with its line.
    """
    content = read_mapping(path, page=PAGE, least="`base`, `grid` or `points`, and `audit`")
    lines = _lines(path)
    content = expand(content)
    if isinstance(content.get("base"), str):
        content["base"] = load_settings(path.parent / content["base"]).model_dump(mode="json")
    try:
        settings = SweepSettings.model_validate(content)
    except ValidationError as error:
        told = [f"{_line(lines, place)}{fault}" for place, fault in faults(error)]
        raise ConfigError(
            f"{path}: " + "; ".join(told) + ".",
            hint=f"Correct these keys; unknown ones are refused. {PAGE} lists them all.",
        ) from error
    try:
        plan(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error
    return settings


def plan(settings: SweepSettings) -> tuple[Point, ...]:
    """The points in order: the originals, the baselines, the trained ones.

    Raises:
        ConfigError: If the settings of a point are not valid, or two points have a name or all settings in common.
    """
    points = [Point(ORIGINALS, ORIGINALS, {}, ORIGINALS)]
    points += [_baseline_point(baseline, settings) for baseline in settings.baselines]
    content = settings.base.model_dump(mode="json")
    points += [_trained_point(name, changes, content, settings) for name, changes in _trained(settings)]
    for what, cure in (("name", "Name them apart."), ("folder", "Leave one of them out.")):
        seen: dict[str, str] = {}
        for point in points:
            value = getattr(point, what)
            if value in seen:
                same = f"called {value!r}" if what == "name" else "the same in all settings that count"
                raise ConfigError(f"Two points are {same}: {seen[value]!r}, {point.name!r}.", hint=cure)
            seen[value] = point.name
    return tuple(points)


def digest(content: Any) -> str:
    """Short SHA-256 of plain data, stable across machines and key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _trained(settings: SweepSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    if settings.grid:
        for values in itertools.product(*settings.grid.values()):
            changes = dict(zip(settings.grid, values, strict=True))
            yield _name(changes, settings.grid), changes
    for point in settings.points:
        yield point.name or _name(point.settings, tuple(point.settings)), point.settings


def _name(changes: Mapping[str, Any], keys: Sequence[str] | Mapping[str, Any]) -> str:
    """The changes as text, each setting by its last word where that is enough to tell them apart."""
    if not changes:
        return "base"
    last = [key.rpartition(".")[2] for key in keys]
    words = dict(zip(keys, last if len(set(last)) == len(last) else keys, strict=True))
    shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in changes.items()}
    return ", ".join(f"{words[key]}={shown[key]}" for key in changes)


def _trained_point(
    name: str, changes: Mapping[str, Any], base: Mapping[str, Any], settings: SweepSettings
) -> Point:
    _check_name(name)
    content = json.loads(json.dumps(base))
    for key, value in changes.items():
        put_value(content, key, value, shown=f"point {name!r}, {key}")
    found = parse_settings(content, where=f"point {name!r}")
    if settings.protect.store == "memory" and found.size != settings.audit.size:
        raise ConfigError(
            f"point {name!r} has size {found.size}, audit.size is {settings.audit.size}: photos that are protected in memory have one size.",
            hint="Set audit.size to the size of all points, or protect.store to files.",
        )
    counts = found.model_dump(mode="json", exclude={"tensorboard": True, "loop": _FREE})
    return Point(name, TRAINED, dict(changes), f"{TRAINED}-{digest(counts)}", training=found)


def _baseline_point(baseline: BaselineSettings, settings: SweepSettings) -> Point:
    own = baseline.model_dump(mode="json", exclude={"name", "method"})
    words = " ".join(f"{key}={value:g}" for key, value in own.items() if key != "seed" or value)
    name = baseline.name or f"{baseline.method} {words}"
    _check_name(name)
    for key in ("cells", "side"):
        if own.get(key, 0) >= settings.base.size:
            raise ConfigError(
                f"baseline {name!r}: {key} is {own[key]}, photos have a side of {settings.base.size} pixels (base.size).",
                hint=f"Give a smaller {key}; at {settings.base.size} the original would remain.",
            )
    counts: dict[str, Any] = {"size": settings.base.size, **own}
    if baseline.method == "k-same":
        counts["gallery"] = settings.base.data.model_dump(mode="json")
    return Point(name, baseline.method, own, f"{baseline.method}-{digest(counts)}", baseline=baseline)


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"The point's name {name[:80]!r} has {len(name)} characters; it must have 1 to {_LONGEST_NAME}, all printable.",
            hint="Name the point yourself: points: [{name: ..., settings: {...}}].",
        )


# lines ----------------------------------------------------------------------------------------------------


def _lines(path: Path) -> dict[tuple[str, ...], int]:
    """Line of each setting in a YAML file.

    Raises:
        ConfigError: If a key stands twice in one mapping; YAML would silently take the last one.
    """
    found: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node, place: tuple[str, ...]) -> None:
        found.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                walk(item, (*place, str(number)))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                if inner in found:
                    raise ConfigError(
                        f"{path}: line {key.start_mark.line + 1}: {'.'.join(inner)} is given twice, first in line {found[inner]}.",
                        hint="Keep one of them.",
                    )
                found[inner] = key.start_mark.line + 1
                walk(value, inner)

    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError) as error:  # it was readable a moment ago
        raise PrivfaceError(
            f"{path} cannot be read again ({error}).", hint="Run the command again."
        ) from error
    if root is not None:
        walk(root, ())
    return found


def _line(lines: Mapping[tuple[str, ...], int], place: Sequence[int | str]) -> str:
    """The line of a setting, or of the section in which it is missing."""
    known: tuple[str, ...] = ()
    for part in map(str, place):
        if (*known, part) in lines:  # pydantic also names the kind of a baseline, which is no key
            known = (*known, part)
    return f"line {lines[known]}: " if known else ""
