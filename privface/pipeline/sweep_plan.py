"""What a sweep is asked to do: settings from YAML, the points that they make, and what of each point is done."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from privface.audit import AuditResult
from privface.config import (
    Settings,
    TrainSettings,
    check_settings,
    expand,
    load_settings,
    parse_settings,
    put_value,
    read_mapping,
)
from privface.errors import AuditError, ConfigError
from privface.images import write_atomic
from privface.options import AuditOptions, ProtectOptions
from privface.protect import load_baseline
from privface.protect.baselines import Baseline
from privface.records import FRAME

ORIGINALS, TRAINED, K_SAME = "originals", "trained", "k-same"
MOST_POINTS = 1000
FAILED_FILE = "failed.json"

_FREE = {"device", "devices", "checkpoint_minutes"}
"""Settings of the loop that say where and how visibly a run computes, not what."""


class PointSettings(Settings):
    """One trained point by its own changes to the base."""

    name: str | None = Field(None, min_length=1, max_length=60)
    settings: dict[str, Any] = Field({})


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SweepAudit(AuditOptions):
    """The audit that every point gets: the options of ``privface audit``, and what is audited with what."""

    original: Path
    labels: Path | None = None
    split: str | None = None
    matchers: Annotated[tuple[str, ...], Field(min_length=1)]
    probes: tuple[str, ...] = ()
    # limits that would else show only after the training
    seed: Annotated[int, Field(ge=0)] = 0
    cnn_epochs: Annotated[int, Field(ge=1)] = 16
    size: Annotated[int, Field(ge=16, le=448)] = FRAME


class SweepProtect(Settings):
    """How photos are protected: into ``files``, a folder a point, or in ``memory``, aligned as ``audit.faces`` says."""

    store: Literal["files", "memory"] = "files"
    faces: Literal["aligned", "detect"] = "aligned"
    quality: int = ProtectOptions.quality
    batch_size: int = ProtectOptions.batch_size

    @property
    def options(self) -> ProtectOptions:
        """As ``protect_folder`` takes them."""
        return ProtectOptions(faces=self.faces, quality=self.quality, batch_size=self.batch_size)

    @model_validator(mode="after")
    def _fits(self) -> SweepProtect:
        try:
            _ = self.options  # which checks them
        except ConfigError as error:
            raise ValueError(error.message) from error
        return self


class ChooseSettings(Settings):
    """Trained points that lose more TMR than this against the originals cannot win."""

    max_tmr_loss: float = Field(0.10, ge=0, le=1)


class SweepSettings(Settings):
    """Everything that ``privface sweep`` needs; docs/sweep.md explains each setting."""

    base: TrainSettings
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({})
    points: tuple[PointSettings, ...] = ()
    audit: SweepAudit
    protect: SweepProtect = SweepProtect()
    baselines: tuple[str, ...] = ()
    select: str | None = None
    report: str | None = None
    choose: ChooseSettings = ChooseSettings()

    @model_validator(mode="after")
    def _fits(self) -> SweepSettings:
        count = math.prod(map(len, self.grid.values())) * bool(self.grid) + len(self.points)
        if not 1 <= count <= MOST_POINTS:
            raise ValueError(f"grid and points make {count:,} points; it must be 1 to {MOST_POINTS:,}")
        if (self.select is None) != (self.report is None):
            raise ValueError("select and report go together: two splits of different people")
        if self.select is not None and self.select == self.report:
            raise ValueError(
                f"select and report are both {self.select!r}; to choose there is to tune on them"
            )
        if self.select is not None and self.audit.split is not None:
            raise ValueError("audit.split and select exclude each other; select is the split that is audited")
        if self.protect.store == "memory" and self.protect.faces != "aligned":
            raise ValueError("protect.store memory aligns as audit.faces says; leave protect.faces out")
        if self.protect.store == "memory" and self.base.size != self.audit.size:
            raise ValueError(
                f"protect.store memory needs one size; audit.size is {self.audit.size}, base.size {self.base.size}"
            )
        return self

    @property
    def compared_on(self) -> str | None:
        """The split on which all points are audited."""
        return self.audit.split if self.select is None else self.select


@dataclass(frozen=True)
class Point:
    """One point of the trade-off, and what of its work lies in its folder."""

    settings: SweepSettings
    name: str  # as it is shown
    method: str  # originals, trained, or a baseline's name
    changes: Mapping[str, Any]  # what differs from the base (trained), or the baseline's settings
    path: Path  # its folder below ``points``; named by what the point is, not by its name
    training: TrainSettings | None = None  # of a trained point
    baseline: Baseline | None = None  # None for k-same, too, which needs a gallery first

    def place(self, what: Literal["audit", "protected"], split: str | None) -> Path:
        """Folder of the audit, or of the protected photos, of a split; another one where other settings count."""
        chosen = asdict(self.settings.audit)
        used = {"original", "labels"} if what == "protected" else chosen.keys() - {"cache", "split"}
        protect = self.settings.protect.model_dump(exclude={"batch_size"})
        word = "".join(c if c.isascii() and c.isalnum() else "-" for c in split or "all")
        counts = [split, protect, {key: chosen[key] for key in used}]
        return self.path / f"{what}-{word[:24]}-{_digest(counts)}"

    def result(self, split: str | None) -> AuditResult | None:
        """The finished audit on a split; a damaged one, or one of another version, counts as missing."""
        folder = self.place("audit", split)
        if (folder / "report.html").is_file():  # written last
            with suppress(AuditError):
                return AuditResult.load(folder / "audit.json")
        return None

    def fail(self, stage: str, reason: str) -> None:
        """Note why the point could not be finished."""
        note = json.dumps({"stage": stage, "reason": " ".join(reason.split())}, indent=1)
        write_atomic(self.path / FAILED_FILE, note.encode())

    @property
    def failure(self) -> dict[str, str] | None:
        """Stage and reason, where the last attempt failed."""
        file = self.path / FAILED_FILE
        note: dict[str, str] | None = json.loads(file.read_bytes()) if file.is_file() else None
        return note


def load_sweep(path: Path) -> SweepSettings:
    """Read the settings of a sweep; a ``base`` that is a path is read relative to the file's own folder.

    Raises:
        ConfigError: If a file is missing or malformed, a key unknown or given twice, a value out of range or a
            variable unset; every faulty setting is named.
    """
    least = "`base`, `grid` or `points`, and `audit`"
    content = expand(read_mapping(path, page="docs/sweep.md", least=least))
    if isinstance(content.get("base"), str):
        content["base"] = load_settings(path.parent / content["base"]).model_dump(mode="json")
    settings = check_settings(SweepSettings, content, where=str(path))
    plan(settings, path)  # a faulty point is a fault of the file
    return settings


def plan(settings: SweepSettings, out: Path) -> list[Point]:
    """The points in order: the originals, the baselines, the trained ones; the folder ``out`` need not exist."""
    home = out / "points"
    points = [Point(settings, ORIGINALS, ORIGINALS, {}, home / ORIGINALS)]
    points += [_baseline(spec, settings, home) for spec in settings.baselines]
    points += _trained(settings, home)
    for one, other in itertools.combinations(points, 2):
        if one.name == other.name:
            raise ConfigError(f"Two points are called {one.name!r}.", hint="Name them apart.")
        if one.path == other.path:
            raise ConfigError(
                f"Two points are the same in all settings that count: {one.name!r}, {other.name!r}.",
                hint="Leave one of them out.",
            )
    return points


def _digest(content: Any) -> str:
    """Short hash of plain data, stable across machines and key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _name(changes: Mapping[str, Any]) -> str:
    """The changes as text, each setting by its last word where that is enough to tell them apart."""
    words = [key.rpartition(".")[2] for key in changes]
    if len(set(words)) < len(words):
        words = list(changes)
    shown = (value if isinstance(value, str) else json.dumps(value) for value in changes.values())
    return ", ".join(f"{word}={value}" for word, value in zip(words, shown, strict=True)) or "base"


def _trained(settings: SweepSettings, home: Path) -> Iterator[Point]:
    """The grid's points, then the further ones."""
    combined = itertools.product(*settings.grid.values()) if settings.grid else ()
    wanted = [(None, dict(zip(settings.grid, values, strict=True))) for values in combined]
    for given, changes in [*wanted, *((point.name, point.settings) for point in settings.points)]:
        name = given or _name(changes)
        content = settings.base.model_dump(mode="json")
        for key, value in changes.items():
            put_value(content, key, value, shown=f"point {name!r}, {key}")
        training = parse_settings(content, where=f"point {name!r}")
        if settings.protect.store == "memory" and training.size != settings.audit.size:
            raise ConfigError(
                f"point {name!r}: size is {training.size}, audit.size {settings.audit.size}; protect.store memory needs one size.",
                hint="Give one size, or protect.store files.",
            )
        counts = training.model_dump(mode="json", exclude={"tensorboard": True, "loop": _FREE})
        path = home / f"{TRAINED}-{_digest(counts)}"
        yield Point(settings, name, TRAINED, changes, path, training=training)


def _baseline(spec: str, settings: SweepSettings, home: Path) -> Point:
    name, base = spec.removeprefix("baseline:"), settings.base
    method = name.partition(",")[0]
    if method == K_SAME:
        k = re.fullmatch(r"k-same,k=(\d{1,6})", name)
        if k is None or int(k[1]) < 2:
            raise ConfigError(
                f"{spec!r}: k-same has one setting, k, which is 2 or more.", hint="baseline:k-same,k=4"
            )
        folder = f"{K_SAME}-{_digest([name, base.size, base.data.model_dump()])}"
        return Point(settings, name, K_SAME, {"k": int(k[1])}, home / folder)
    try:
        made = load_baseline(spec, size=base.size)
    except ConfigError as error:
        raise ConfigError(
            f"baselines: {error.message}", hint=f"{error.hint} A sweep has baseline:k-same,k=INT, too."
        ) from error
    folder = f"{method}-{_digest(made.fingerprint)}"
    return Point(settings, name, method, asdict(made), home / folder, baseline=made)
