"""What an audit found: a frozen document, its file, and gates for a build pipeline."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from privface.errors import AuditError, ConfigError
from privface.images import write_atomic
from privface.records import Measured

SCHEMA = "privface.audit/2"

_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GATE = re.compile(r"\s*([A-Za-z][\w.\-]*)\s*(>=|<=|>|<)\s*([0-9.eE+\-]+)\s*")
_MODES = "(o_o|p_p|p_o)"
_ONE_DRAW = "this audit had one draw of the protection, or no gender labels"
_SOMETIMES: Final[Mapping[str, str]] = {
    "averaging": _ONE_DRAW,
    "averaging_gain": _ONE_DRAW,
    "worst_white_box": "this audit saw no code of a model",
    "unlinkability": "this audit saw no second protection",
}
"""Figures that not every audit has, and why one may lack them."""

_PLAIN: Final = (
    "leakage, worst_retrained, worst_image, worst_embedding, worst_white_box, balanced_accuracy, bits, worst_frozen, "
    "worst_frozen_seen, worst_frozen_unseen, illusion_gap, illusion_gap_seen, illusion_gap_unseen, recovery_gain, "
    "set_attack, averaging, averaging_gain, unlinkability, fnmr_ratio, tmr, fte, psnr, ssim"
)
_FIGURE = re.compile(
    rf"{_PLAIN.replace(', ', '|')}|fte_{_MODES}|((eer|auc|d_prime)_{_MODES}|tmr_{_MODES}_0\.(01|001|0001))(_same_gender)?"
)


def check_gate(expression: str, attributes: Collection[str] = ()) -> None:
    """Refuse a malformed gate before an audit has cost an hour; see :meth:`AuditResult.gate`.

    Args:
        expression: The gate.
        attributes: Names of the further attributes that are audited.

    Raises:
        ConfigError: If the expression is malformed or names no figure that an audit gives.
    """
    name, _, _ = _parts(expression, hint="For example leakage>0.60 or tmr_p_p_0.01.low<0.9.")
    plain = re.sub(r"\.(low|high|value)$", "", name)
    if plain not in {f"leakage.{attribute}" for attribute in attributes} and not _FIGURE.fullmatch(plain):
        raise ConfigError(
            f"An audit has no figure {name!r}.",
            hint=f"Figures: {_PLAIN}, leakage.NAME of each --attribute, and eer_, auc_, d_prime_, tmr_ with"
            " a mode, such as eer_p_p or tmr_p_o_0.001.",
        )


def _parts(expression: str, *, hint: str) -> tuple[str, str, float]:
    """Figure, comparison and limit of a gate."""
    if match := _GATE.fullmatch(expression):
        with contextlib.suppress(ValueError):
            if math.isfinite(limit := float(match.group(3))):
                return match.group(1), match.group(2), limit
    raise ConfigError(
        f"{expression!r} is no gate; a gate is FIGURE, one of > >= < <=, and a number.", hint=hint
    )


@dataclass(frozen=True)
class GateOutcome:
    """Whether a build should fail.

    Attributes:
        expression: The condition for failure, such as ``"leakage>0.60"``.
        failed: True if the condition holds, or if the figure could not be measured.
        value: The figure; NaN where it could not be measured.
        reason: One sentence for a log.
    """

    expression: str
    failed: bool
    value: float
    reason: str


@dataclass(frozen=True)
class AuditResult:
    """Everything an audit measured.

    The document is plain JSON data, see the keys in :meth:`to_dict`. A measured figure is
    ``{"value", "low", "high", "n"}`` and, where it could not be measured, a null value and a ``"reason"``.

    Attributes:
        document: The content; do not change it.
    """

    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.document.get("schema") != SCHEMA:
            raise AuditError(
                f"The audit has schema {self.document.get('schema')!r}, this version reads {SCHEMA!r}.",
                hint="Run the audit again with this version of privface.",
            )
        object.__setattr__(self, "document", to_json_data(self.document))

    def to_dict(self) -> dict[str, Any]:
        """A copy as JSON data.

        Keys: ``schema``, ``mode`` (images or embeddings), ``verdict``, ``data``, ``provenance``,
        ``matching``, ``pairs_protocol``, ``leakage`` (one row a probe), ``worst_retrained``,
        ``worst_upper``, ``worst_frozen``, ``illusion_gap``, ``frozen_gaps``, ``recovery``, ``set_attack``,
        ``label_budget``, ``learning_curve``, ``battery`` (the self-test), ``quality``, ``cohorts`` and ``curves``; where further draws of a
        randomised protection were given, ``averaging`` (one row for each attacker, way to average and number of draws); where the
        attributes were asked for, ``attributes`` and ``attribute_readings``; where the model's codes were, ``worst_white_box``, and ``"white_box": true`` on rows that read a code; where something was recovered,
        ``irreversibility``; where a second protection was given, ``unlinkability`` (both one row a matcher). NaN is ``None``;
        numbers have six significant digits.
        """
        return copy.deepcopy(dict(self.document))

    def to_bytes(self) -> bytes:
        """The file's bytes: UTF-8 JSON with sorted keys; equal audits give equal bytes."""
        text = json.dumps(self.document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()

    def save(self, path: Path) -> Path:
        """Write ``audit.json`` so that a reader sees all of it or none.

        Raises:
            OutputError: If it cannot be written.
        """
        write_atomic(path, self.to_bytes())
        return path

    @classmethod
    def load(cls, path: Path) -> AuditResult:
        """Read a saved audit.

        Raises:
            AuditError: If the file is missing, no JSON or of another schema.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        return cls.parse(content, name=str(path))

    @classmethod
    def parse(cls, content: bytes, *, name: str) -> AuditResult:
        """Read an audit from the bytes of its file; ``name`` is for messages.

        Raises:
            AuditError: If it is no JSON or of another schema.
        """
        try:
            document = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _unreadable(name, error) from error
        if not isinstance(document, dict):
            raise AuditError(
                f"{name} holds a {type(document).__name__}, not an audit.",
                hint="Give an audit.json that privface wrote.",
            )
        return cls(document)

    @property
    def figures(self) -> dict[str, Measured]:
        """All named figures, as accepted by :meth:`figure` and :meth:`gate`.

        - ``worst_retrained``: leakage of the worst attacker who learns from protected data (retrained, or
          after recovery), chosen on validation people; ``worst_image`` and ``worst_embedding``: the same by
          what it reads; ``balanced_accuracy`` and ``bits`` of the worst one; ``worst_white_box``: of those who read the model's
          own code, only where the audit had one;
        - ``leakage``: the highest upper bound of any such attacker (its ``value`` is that bound);
        - ``leakage.NAME``: of an attribute that the audit was asked for, the highest upper bound of any attacker's balanced accuracy;
        - ``worst_frozen`` and ``illusion_gap``, and both against the frozen probes that the protection
          met (``_seen``) or did not (``_unseen``);
        - ``recovery_gain``: the most that recovery added on one input; ``set_attack``: the highest leakage of
          several photos of one person; ``fnmr_ratio``: the worst cohort's FNMR after over before;
        - ``averaging``: the highest leakage when draws of a randomised protection are averaged, ``averaging_gain``: the most that
          this added to one draw; only where the audit had several draws;
        - ``unlinkability``: the highest D_sys of any matcher, only where the audit had a second protection;
        - ``eer_MODE``, ``auc_MODE``, ``d_prime_MODE`` and ``tmr_MODE_FMR``, with MODE ``o_o``, ``p_p`` or
          ``p_o`` and FMR ``0.01``, ``0.001`` or ``0.0001``: all impostors, the worst matcher; with
          ``_same_gender`` appended, same-gender impostors;
        - ``tmr``: short for ``tmr_p_p_0.01``; ``fte``: photos that failed to enrol once protected;
        - ``psnr`` and ``ssim``.
        """
        document = self.document
        found = {
            "leakage": read_figure(document["worst_upper"].get("leakage")),
            "worst_retrained": read_figure(document["worst_retrained"].get("leakage")),
            "worst_frozen": read_figure(document["worst_frozen"].get("leakage")),
            "illusion_gap": read_figure(document["illusion_gap"]),
            **_leakage_figures(document),
            "fnmr_ratio": _highest(document.get("cohorts", ()), "ratio", "no cohort was matched"),
            **{name: read_figure(document["quality"].get(name)) for name in ("psnr", "ssim")},
        }
        if "worst_white_box" in document:
            found["worst_white_box"] = read_figure(document["worst_white_box"].get("leakage"))
        if linked := document.get("unlinkability"):
            found["unlinkability"] = _highest(linked, "d_sys", "D_sys of no matcher could be measured")
        for row in document.get("attributes", ()):
            if row.get("medium") == "any":
                found[f"leakage.{row['attribute']}"] = read_figure(row.get("upper"))
        # people are recognised by faces, so the code decides no matching figure
        found.update(_matching_figures([row for row in document["matching"] if not row.get("white_box")]))
        for short, long in (("tmr", "tmr_p_p_0.01"), ("fte", "fte_p_p")):
            found[short] = found.get(long, Measured.undefined("no matcher was audited"))
        return found

    def figure(self, name: str) -> Measured:
        """A figure by name.

        Raises:
            ConfigError: If there is no such figure; the message lists the names.
        """
        figures = self.figures
        if name in _SOMETIMES and name not in figures:
            return Measured.undefined(_SOMETIMES[name])
        if name not in figures:
            raise ConfigError(
                f"The audit has no figure {name!r}.", hint=f"Figures: {', '.join(sorted(figures))}."
            )
        return figures[name]

    def gate(self, expression: str) -> GateOutcome:
        """Check one condition for failure, such as ``"leakage>0.60"`` or ``"tmr_p_p_0.01.low<0.9"``.

        ``.low`` and ``.high`` name the ends of the interval. A figure that could not be measured fails the
        build: silence is no proof.

        Raises:
            ConfigError: If the expression is malformed or names no figure.
        """
        figures = self.figures
        hint = f"For example leakage>0.60. Figures: {', '.join(sorted(figures))}."
        wanted, comparison, limit = _parts(expression, hint=hint)
        name, part = wanted, "value"
        if name not in {*figures, *_SOMETIMES} and name.endswith((".low", ".high", ".value")):
            name, _, part = name.rpartition(".")
        figure = self.figure(name)
        value = float(getattr(figure, part))
        if math.isnan(value):
            why = figure.reason or "it has no interval"
            return GateOutcome(expression, True, value, f"{wanted} is not measurable: {why}.")
        reason = f"{wanted} is {value:.4f}; the build fails at {comparison} {limit:g}."
        return GateOutcome(expression, _OPERATORS[comparison](value, limit), value, reason)


def _leakage_figures(document: Mapping[str, Any]) -> dict[str, Measured]:
    adaptive = [row for row in document.get("leakage", ()) if row["kind"] != "frozen" and row["measurable"]]

    def worst(rows: Sequence[Mapping[str, Any]], key: str) -> Measured:
        known = [row for row in rows if row["validation_leakage"] is not None]
        if not known:
            return Measured.undefined("no retrained probe that reads the originals")
        return read_figure(max(known, key=lambda row: row["validation_leakage"])[key])

    found = {
        "balanced_accuracy": worst(adaptive, "balanced_accuracy"),
        "bits": worst(adaptive, "bits"),
        "recovery_gain": _highest(document.get("recovery", ()), "gain", "nothing was recovered"),
        "set_attack": _highest(document.get("set_attack", ()), "leakage", "no set of photos was attacked"),
    }
    if averaged := [row for row in document.get("averaging", ()) if row["measurable"] and row["draws"] > 1]:
        reason = "no probe read the average of several draws"
        found["averaging"] = _highest(averaged, "leakage", reason)
        found["averaging_gain"] = _highest(averaged, "gain", reason)
    for medium in ("image", "embedding"):
        rows = [row for row in adaptive if row["input"].partition(":")[0] == medium]
        found[f"worst_{medium}"] = worst(rows, "leakage")
    for side in ("seen", "unseen"):
        gap = document.get("frozen_gaps", {}).get(side)
        none = Measured.undefined(f"no measurable frozen probe is known to be {side}")
        found[f"worst_frozen_{side}"] = none if gap is None else read_figure(gap["leakage"])
        found[f"illusion_gap_{side}"] = none if gap is None else read_figure(gap["gap"])
    return found


def _highest(rows: Sequence[Mapping[str, Any]], key: str, reason: str) -> Measured:
    figures = [figure for row in rows if not math.isnan((figure := read_figure(row[key])).value)]
    return max(figures, key=lambda figure: figure.value, default=Measured.undefined(reason))


def _matching_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for row in rows:
        mode = row["mode"].lower().replace("-", "_")
        suffix = "" if row["impostors"] == "all" else "_same_gender"
        candidates = {
            f"eer_{mode}{suffix}": (row["eer"], -1),
            f"auc_{mode}{suffix}": (row["auc"], 1),
            f"d_prime_{mode}{suffix}": (row["d_prime"], 1),
            **{f"tmr_{mode}_{fmr}{suffix}": (figure, 1) for fmr, figure in row["tmr"].items()},
        }
        if not suffix:
            candidates[f"fte_{mode}"] = (row["fte"], -1)
        for name, (data, sign) in candidates.items():
            figure = read_figure(data)
            held = found.get(name)
            # an undefined figure of one matcher must not hide behind another matcher's
            if held is None or math.isnan(figure.value) or sign * figure.value < sign * held.value:
                found[name] = figure
    return found


def match_rates(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
    """TMR at FMR 1e-2, all impostors, by matcher and mode; people are recognised by faces, so no code counts."""
    return {
        (row["matcher"], row["mode"]): row["tmr"]["0.01"]
        for row in rows
        if row["impostors"] == "all" and not row.get("white_box")
    }


def read_figure(data: Mapping[str, Any] | None) -> Measured:
    """A figure from its JSON form; a missing one is undefined."""
    if data is None:
        return Measured.undefined("not measured in this audit")

    def number(key: str) -> float:
        return math.nan if data.get(key) is None else float(data[key])

    return Measured(
        number("value"), number("low"), number("high"), int(data.get("n") or 0), data.get("reason")
    )


def figure_data(figure: Measured) -> dict[str, Any]:
    """The JSON form of a figure: value, low, high, n and, where there is no value, the reason."""
    data: dict[str, Any] = {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
    if math.isnan(figure.value):
        data["reason"] = figure.reason or "not measurable"
    elif figure.reason is not None:
        data["reason"] = figure.reason
    return data


def to_json_data(value: Any) -> Any:
    """Plain JSON data: figures unfolded, NaN and infinities null, floats of six significant digits.

    Raises:
        AuditError: If a value has no JSON form.
    """
    if isinstance(value, Measured):
        return to_json_data(figure_data(value))
    if isinstance(value, Mapping):
        return {str(key): to_json_data(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json_data(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json_data(item) for item in value]
    if isinstance(value, float):
        # + 0.0 turns -0.0, which prints differently, into 0.0
        return float(f"{value:.6g}") + 0.0 if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise AuditError(f"{type(value).__name__} has no JSON form.")


def _unreadable(name: object, error: Exception) -> AuditError:
    return AuditError(
        f"{name} cannot be read as an audit ({error}).", hint="Give an audit.json that privface wrote."
    )
