"""Settings of a training run: YAML in, checked and frozen, a fingerprint out; docs/training.md says what each means."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from privface.errors import ConfigError
from privface.options import Alignment

SettingsT = TypeVar("SettingsT", bound="Settings")

OWN_METHOD = "san"
"""The method that a configuration means when it names none."""


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MadeSettings(Settings):
    """Settings that are made in Python and not read from a file: a fault is an error of ours at once."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refused(error, where=type(self).__name__) from error

    def changed(self, **changes: Any) -> Self:
        """The same with some of them changed."""
        return type(self)(**{**dict(self), **changes})


class DataSettings(Settings):
    """One labelled face set."""

    source: str
    labels: str | None = None
    split: str | None = None
    faces: Alignment = "auto"
    minimum_age: float | None = Field(None, ge=0)


class ClassifierSettings(Settings):
    """A frozen gender classifier: one trained here, or one given by ``spec``."""

    spec: str | None = None
    size: int = Field(80, ge=16, le=448)
    crop: Literal["frame", "box"] = "frame"
    width: int = Field(24, ge=8, le=256)
    stages: int = Field(4, ge=1, le=6)
    separable: bool = False
    epochs: int = Field(3, ge=1)
    epoch_images: int | None = Field(None, ge=64)


class AdversarySettings(Settings):
    """A gender classifier that keeps learning on protected images during training."""

    size: int = Field(80, ge=16, le=448)
    crop: Literal["frame", "box"] = "frame"
    width: int = Field(24, ge=8, le=256)
    stages: int = Field(4, ge=1, le=6)
    separable: bool = False
    warm_start: bool = True


class AutoencoderSettings(Settings):
    """The network that is trained; all but ``variant`` and ``options`` describe the network ``san``."""

    variant: str = "san"
    options: dict[str, Any] = {}
    width: int = Field(32, ge=4, le=512)
    depth: int = Field(3, ge=1, le=6)
    blocks: int = Field(2, ge=1, le=8)
    skips: bool = True
    stem: Literal["unshuffle", "full"] = "unshuffle"
    output: Literal["residual", "direct"] = "residual"
    colour: Literal["free", "kept", "dropped"] = "free"

    @model_validator(mode="after")
    def _options_have_a_reader(self) -> AutoencoderSettings:
        if self.variant == "san" and self.options:
            raise ValueError(
                f"options {sorted(self.options)} are those of a variant; name it, as variant san has none"
            )
        return self


class LossWeights(Settings):
    """How much each term of semi-adversarial training counts; 0 leaves it out, and its networks unused.

    Matchers cost most of a step, and a random half of a batch gives the same gradient on average. What holds under views holds
    better for matchers that were not met, the reverse side of what Xie et al. (CVPR 2019) found for attacks.
    """

    reconstruction: float = Field(1.0, ge=0)
    matching: float = Field(1.0, ge=0)
    frozen: float = Field(0.5, ge=0)
    adversary: float = Field(0.5, ge=0)
    embedding: float = Field(0.0, ge=0)
    alignment: float = Field(0.0, ge=0)
    code: float = Field(0.0, ge=0)
    matching_share: float = Field(1.0, gt=0, le=1)
    matching_views: bool = False


class LossSettings(LossWeights):
    """The terms' weights, and what they ask for."""

    l1: float = Field(1.0, ge=0)
    l2: float = Field(0.0, ge=0)
    ssim: float = Field(0.2, ge=0)
    tone: float = Field(4.0, ge=0)
    margin: float = Field(1.0, gt=-1, le=1)
    objective: Literal["flip", "uninformative", "align"] = "uninformative"

    @model_validator(mode="after")
    def _something_counts(self) -> LossSettings:
        terms = ("reconstruction", "matching", "frozen", "adversary", "embedding", "alignment", "code")
        if not any(getattr(self, name) for name in terms):
            raise ValueError("all loss weights are 0, so there is nothing to learn")
        if self.reconstruction and not self.l1 + self.l2 + self.ssim + self.tone:
            raise ValueError("l1, l2, ssim and tone are all 0, but reconstruction counts")
        return self


class LoopOptions(Settings):
    """How training is scheduled."""

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=2, multiple_of=2)
    learning_rate: float = Field(5e-4, gt=0)
    adversary_rate: float = Field(5e-4, gt=0)
    # a residual network starts as the identity, and full-sized first steps throw it far off
    warmup_steps: int = Field(100, ge=0)
    clip: float = Field(1.0, gt=0)
    ema: float = Field(0.99, ge=0, lt=1)
    epoch_images: int | None = Field(None, ge=2)
    refresh_epochs: int = Field(0, ge=0)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)


class TrainSettings(Settings):
    """Everything that ``privface train`` needs."""

    method: str = OWN_METHOD
    method_options: dict[str, Any] = {}
    data: DataSettings
    gender_data: tuple[DataSettings, ...] = ()
    validation_share: float = Field(0.1, ge=0, lt=0.5)
    size: int = Field(112, ge=32, le=448)
    matchers: tuple[str, ...] = Field(..., min_length=1)
    classifiers: tuple[ClassifierSettings, ...] = (ClassifierSettings(),)
    adversaries: tuple[AdversarySettings, ...] = (AdversarySettings(),)
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    start: str | None = None
    losses: LossSettings = LossSettings()
    loop: LoopOptions = LoopOptions()
    seed: int = Field(0, ge=0)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _size_fits(self) -> TrainSettings:
        if self.autoencoder.variant != "san":  # the family says itself which sizes it takes
            return self
        multiple = 2 ** (self.autoencoder.depth - (self.autoencoder.stem == "full"))
        if self.size % multiple:
            raise ValueError(
                f"size {self.size} is not divisible by {multiple}, which this autoencoder's depth needs"
            )
        return self

    def fingerprint(self) -> str:
        """Short SHA-256 of all settings, stable across machines and key order."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_settings(path: Path, overrides: Sequence[str] = ()) -> TrainSettings:
    """Read settings from YAML, apply ``a.b=value`` overrides, expand ``${VARIABLES}``, check everything.

    Args:
        path: YAML file.
        overrides: Such as ``loop.epochs=3``; the value is read as YAML, and ``1e-3`` as the number it is.

    Raises:
        ConfigError: If the file is missing or malformed, a key unknown, a value out of range or a variable unset.
    """
    content = read_mapping(path, page="docs/training.md", least="`data` and `matchers`")
    for override in overrides:
        put_value(content, *_assignment(override, example="loop.epochs=3"), shown=f"--set {override!r}")
    return parse_settings(content, where=str(path))


def read_mapping(path: Path, *, page: str, least: str) -> dict[str, Any]:
    """A YAML file of settings as plain data, unchecked; errors name the ``page`` that describes it and what it must hold at ``least``."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a safe one
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}.", hint=f"Give a YAML file; {page} shows one."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not readable YAML: {' '.join(str(error).split())[:160]}.",
            hint="Check indentation and quotes.",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings.", hint=f"It must be a mapping with at least {least}.")
    return content


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping; YAML takes the last one and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} is given twice, keep one", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return node


def parse_settings(content: dict[str, Any], *, where: str = "settings") -> TrainSettings:
    """Check a nested mapping and freeze it; errors as for :func:`load_settings`."""
    return check_settings(TrainSettings, expand(content), where=where)


def check_settings(kind: type[SettingsT], content: dict[str, Any], *, where: str) -> SettingsT:
    """Check plain values against one class of settings.

    Raises:
        ConfigError: If a key is unknown or a value out of range; every faulty key is named.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise refused(error, where=where) from error


def refused(error: ValidationError, *, where: str) -> ConfigError:
    """The same as an error of ours, which names every faulty key."""
    return ConfigError(
        f"{where}: " + "; ".join(_fault(e) for e in error.errors()) + ".",
        hint="Correct these keys; unknown ones are refused.",
    )


def _fault(fault: ErrorDetails) -> str:
    """A sentence that names the setting and the value met."""
    # a whole section says nothing about which of its values is wrong
    value = fault["input"]
    got = "" if isinstance(value, dict | BaseModel) else f" (got {str(value)[:60]!r})"
    said = "there is no such setting" if fault["type"] == "extra_forbidden" else fault["msg"]
    return f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {said.removeprefix('Value error, ')}{got}"


def put_value(content: dict[str, Any], key: str, value: Any, *, shown: str) -> None:
    """Put a value where a dotted key such as ``loop.epochs`` or ``classifiers.0.size`` points; messages call the change ``shown``.

    The plain data in ``content`` are changed in place; sections that are missing are made, positions of a list are not.
    """
    *parents, last = key.split(".")
    place: Any = content
    for name in parents:
        if isinstance(place, dict):
            place = place.setdefault(name, {})
        else:
            place = place[int(name)] if name.isdecimal() and int(name) < len(place) else None
        if not isinstance(place, dict | list):
            raise ConfigError(
                f"{shown}: {name!r} holds no further settings.", hint="Name a key of the YAML file."
            )
    if isinstance(place, dict):
        place[last] = value
    elif last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    else:
        raise ConfigError(
            f"{shown}: {last!r} is no position of a list of {len(place)}.", hint="Positions start at 0."
        )


def parse_values(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts of ``--set`` as a mapping; values are read as YAML, and as :func:`expand` reads them.

    Raises:
        ConfigError: If a text has no ``=`` or no key, a value is no YAML, or a variable is not set.
    """
    return {name: expand(value) for name, value in (_assignment(text, example="code=128") for text in texts)}


def _assignment(text: str, *, example: str) -> tuple[str, Any]:
    """Key and value, read as YAML, of a ``--set``."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r} has no key=value form.", hint=f"Example: --set {example}")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {text!r}: the value is not readable YAML.", hint="Quote it, or close its brackets."
        ) from error


def expand(value: Any) -> Any:
    """Replace ``${NAME}`` by environment variables in all texts of nested data, and read ``1e-3`` as a number."""
    if isinstance(value, dict):
        return {str(k): expand(v) for k, v in value.items()}
    if isinstance(value, list):
        return [expand(v) for v in value]
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):  # YAML 1.1 reads 1e-3 as text
        return float(value)
    missing = [name for name in re.findall(r"\$\{(\w+)\}", value) if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{value!r} needs the environment variable {missing[0]}, which is not set.",
            hint=f"export {missing[0]}=...",
        )
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ[match[1]], value)
