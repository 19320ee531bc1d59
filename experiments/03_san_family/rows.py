"""The rows of experiment 03: which methods there are, where each comes from and by which command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CONFIGS = HERE / "configs"
GIVEN = HERE.parent / "02_illusion_gap" / "results"

Source = Literal["given", "ready", "trained"]


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: Its name in the tables and of its files.
        words: What it is.
        source: ``given``: audited by experiment 02; ``ready``: nothing is trained here; ``trained``: by ``configs/NAME.yaml``.
        audit: Name of the audit in experiment 02, where that is not ``name``.
        needs_label: Whether protecting a photo takes its true gender.
        ours: Whether it is privface's own method ``san``, in any of its settings.
        images: Images it was trained on, in words; empty where the training's record says it.
        of: The row whose network it is, at another strength; empty where it has its own.
        strength: Of the change, as ``privface protect --strength`` takes it.
    """

    name: str
    words: str
    source: Source
    audit: str = ""
    needs_label: bool = False
    ours: bool = False
    images: str = ""
    of: str = ""
    strength: float = 1.0

    @property
    def network(self) -> str:
        """The row that trains its network."""
        return self.of or self.name

    @property
    def result(self) -> Path:
        """The audit's file."""
        return GIVEN / f"{self.audit or self.name}.json" if self.source == "given" else _result(self.name)

    @property
    def training(self) -> Path:
        """The record of the training."""
        return RESULTS / "training" / f"{self.network}.json"

    @property
    def draws(self) -> Path:
        """The audit of several draws, of a row whose network is random."""
        return RESULTS / "draws" / f"{self.name}.json"

    @property
    def config(self) -> Path:
        """The training's settings."""
        return CONFIGS / f"{self.network}.yaml"

    def document(self) -> dict[str, Any] | None:
        """The audit, or ``None`` where it was not run."""
        return _read(self.result)

    def draw_document(self) -> dict[str, Any] | None:
        """The audit of several draws, or ``None`` where there is none."""
        return _read(self.draws)

    def command(self, *, effort: str = "full") -> str:
        """What makes this row's result; run again after a stop, it goes on."""
        if self.source == "given":
            return f"python experiments/02_illusion_gap/run.py --run runs/01 --out runs/02 --only {self.audit or self.name}"
        options = "" if effort == "full" else f" --effort {effort}"
        return f"python experiments/03_san_family/run.py make {self.name}{options}"


_RELEASED = "released 2018 network, its authors' weights, our alignment and prototypes, target"

BEFORE: tuple[Row, ...] = (
    Row("none", "the originals", "given", images="none"),
    Row("blur", "Gaussian blur, sigma 3", "given", images="none"),
    Row("pixelation", "mosaic of 16 x 16 cells", "given", images="none"),
    Row("noise", "Gaussian noise, sigma 0.2", "given", images="none"),
    Row("jpeg-10", "JPEG, quality 10", "given", images="none"),
    Row("down-up", "reduced to 24 x 24 and enlarged", "given", images="none"),
    Row("k-same", "mean of four faces", "given", images="none"),
    Row("pgd", "ten steps against a classifier's answer, per photo", "given", images="none"),
    Row("fgsm", "one step against a classifier's answer, per photo", "ready", images="none"),
    Row("san-01", "our method with the settings of experiment 01", "given", audit="san"),
    *(
        Row(
            f"san-2018-released{suffix}",
            f"{_RELEASED} {target}",
            "ready",
            needs_label=True,
            images="by its authors",
        )
        for suffix, target in (("", "opposite"), ("-same", "same"), ("-neutral", "neutral"))
    ),
)
"""What takes no training here, or was trained before, in the order of the tables."""

STRENGTHS: Mapping[str, tuple[str, float]] = {
    "san-grey-quarter": ("san-grey", 0.25),
    "san-grey-double": ("san-grey", 2.0),
}
"""Rows that are the network of another row at another strength."""

LAST = "san"
"""The method that the targets are about; its configuration is ``configs/san.yaml``."""

_COMPETITORS = (
    "san-2018",
    "ensemble-san",
    "flow-san",
    "privacynet",
    "variational",
    "sparse",
    "denoising",
)


def all_rows() -> list[Row]:
    """Every row: :data:`BEFORE`, one for each file in ``configs/``, :data:`STRENGTHS`; ``san`` is the last, with or without its file."""
    found = {path.stem: _trained(path) for path in sorted(CONFIGS.glob("*.yaml"))}
    last = found.pop(LAST, Row(LAST, "our method", "trained", ours=True))
    first = [found.pop(name) for name in _COMPETITORS if name in found]
    trained = {row.name: row for row in [*first, *found.values(), last]}
    for name, (of, strength) in STRENGTHS.items():
        if of in trained:
            words = f"`{of}` at strength {strength}"
            trained[name] = replace(trained[of], name=name, words=words, of=of, strength=strength)
    trained[LAST] = trained.pop(LAST)
    return [*BEFORE, *trained.values()]


def find_row(name: str) -> Row:
    """A row by name.

    Raises:
        SystemExit: If there is none.
    """
    rows = {row.name: row for row in all_rows()}
    if name not in rows:
        raise SystemExit(f"There is no row {name!r}; rows: {', '.join(rows)}.")
    return rows[name]


def _trained(path: Path) -> Row:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    # a file's first comment says what it is, up to the first full stop or colon
    words = text.partition("\n")[0].lstrip("# ").partition(": ")[0].rstrip(".:")
    method, network = content.get("method", "san"), content.get("autoencoder", {})
    return Row(
        path.stem,
        words,
        "trained",
        needs_label=method == "san-2018",
        ours=method == "san" and network.get("variant", "san") == "san",
    )


def _result(name: str) -> Path:
    return RESULTS / f"{name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def images_trained(row: Row) -> str:
    """How many images the row's training went through, in words."""
    if row.images:
        return row.images
    if row.name == "san-01":  # experiment 01: its steps, in the batches of its configuration
        steps = (_read(HERE.parent / "01_san_on_lfw" / "results" / "audit_training.json") or {})["steps"]
        settings = yaml.safe_load((HERE.parent / "01_san_on_lfw" / "config.yaml").read_text(encoding="utf-8"))
        return f"{steps * settings['loop']['batch_size']:,}"
    record: Mapping[str, Any] | None = _read(row.training)
    if record is None:
        return "not measured"
    before = record.get("images_before", 0)
    return f"{record['images']:,}" + (f" after {before:,}" if before else "")
