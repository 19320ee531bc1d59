"""The audit: two sets of images or embeddings with labels in, one frozen result out.

Nothing here knows how the data were protected, so any tool's output can be audited and the audit cannot
be tuned to our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privface.attributes import Attribute
from privface.audit import (
    attributes,
    averaging,
    cohorts,
    gender,
    irreversibility,
    learning_curve,
    provenance,
    quality,
    recognition,
    recovery,
    unlinkability,
)
from privface.audit.averaging import Averaging
from privface.audit.cache import Cache
from privface.audit.context import Context, Embedder, FrozenProbe
from privface.audit.image_probe import CNNProbe
from privface.audit.intervals import BootstrapParams
from privface.audit.part import Section
from privface.audit.picture_probes import PixelProbe
from privface.audit.probes import PROBE_KINDS, EmbeddingProbe, ProbeKind, RetrainedProbe
from privface.audit.recovery import Recoverer
from privface.audit.result import SCHEMA, AuditResult
from privface.audit.subjects import SHARES, AuditData, EmbeddingData
from privface.audit.verdict import write_verdict
from privface.data.pairs import FoldedPairs
from privface.errors import ConfigError

SECTIONS = (
    Section(provenance.run),
    Section(recognition.run),
    Section(gender.run),
    Section(recovery.run),
    Section(irreversibility.run, irreversibility.PART),
    Section(unlinkability.run, unlinkability.PART),
    Section(learning_curve.run, learning_curve.PART),
    Section(attributes.run, attributes.PART),
    Section(averaging.run),
    Section(quality.run),
    Section(cohorts.run),
)
"""What an audit consists of, in the order of the work."""


@dataclass(frozen=True, kw_only=True)
class Auditor:
    """Measures what a protection hides and what it keeps.

    Each retrained probe is trained twice: on the originals of the attacker's people, to prove that it can
    read gender, and on their protected versions. Both are scored on people that neither has met. The worst
    probe, chosen on validation people, then attacks again: after a learned inversion of the protection, with
    several photos of a person, and with few labels. Where the protection is randomised, some attack the average of several draws.

    Attributes:
        matchers: Comparators of images; at least one should not have been seen in training.
        frozen_probes: Gender classifiers that do not adapt.
        image_probes: Attackers trained on the images; none to leave them out.
        embedding_probes: Attackers trained on every matcher's embeddings, or names of them.
        image_recoverers: Attackers who first learn to turn protected images back.
        embedding_recoverers: The same for embeddings.
        set_sizes: Photos of one person over which the worst probe's scores are averaged.
        label_budgets: Numbers of labelled people that the worst probe is given.
        attributes: Columns beside gender that attackers read, too; the only ones where the set has no gender labels.
        averaging: How draws of a randomised protection are averaged, where the data have any.
        shares: Shares of people that train probes, choose settings and are scored; they sum to 1.
        seed: Seed of everything random.
        resamples: Bootstrap resamples of people.
        batch_size: Images handed to matchers and probes at a time.
        max_impostors: Impostor pairs up to which all scores are kept at once.
        max_leakage: Leakage above which the verdict is that gender leaks.
        max_tmr_loss: Loss of TMR at FMR 1e-2, P-P against O-O, above which matching counts as lost.
        pairs: A list of pairs of rows of the audited data in folds, for LFW's protocol.
        battery: Result of the battery's self-test, for the report.
        cache: Keeps embeddings and probe scores between audits.
        progress: Called with (stage, done, total).
        exclude_people: Identities that trained the protector; meeting one is an error.

    Raises:
        ConfigError: If a setting is out of range or two parts have the same name.
    """

    matchers: Sequence[Embedder] = ()
    frozen_probes: Sequence[FrozenProbe] = ()
    image_probes: Sequence[RetrainedProbe] = (PixelProbe(), CNNProbe())
    embedding_probes: Sequence[ProbeKind | RetrainedProbe] = PROBE_KINDS
    image_recoverers: Sequence[Recoverer] = ()
    embedding_recoverers: Sequence[Recoverer] = ()
    set_sizes: Sequence[int] = (2, 4, 8)
    label_budgets: Sequence[int] = (50, 200, 1000, 4000)
    attributes: Sequence[Attribute] = ()
    averaging: Averaging = field(default_factory=Averaging)
    shares: tuple[float, float, float] = SHARES
    seed: int = 0
    resamples: int = 1000
    batch_size: int = 64
    max_impostors: int = 2_000_000
    max_leakage: float = 0.60
    max_tmr_loss: float = 0.10
    pairs: FoldedPairs | None = None
    battery: Mapping[str, Any] | None = None
    cache: Cache = field(default_factory=Cache)
    progress: Callable[[str, int, int], None] | None = None
    exclude_people: Collection[str] = ()

    def __post_init__(self) -> None:
        shares, _ = self.shares, self.params  # which checks the resamples
        if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ConfigError(f"shares are {shares}; they must be three positive numbers that sum to 1.")
        if (
            self.batch_size < 1
            or any(size < 2 for size in self.set_sizes)
            or any(budget < 8 for budget in self.label_budgets)
        ):
            raise ConfigError(
                f"batch_size {self.batch_size} must be 1 or more, set_sizes {tuple(self.set_sizes)} 2 or more,"
                f" label_budgets {tuple(self.label_budgets)} 8 or more."
            )
        for title, parts in (
            ("matchers", self.matchers),
            ("frozen probes", self.frozen_probes),
            ("image probes", self.image_probes),
            ("embedding probes", self.attackers("embedding")),
        ):
            names = [part.name for part in parts]
            if len(set(names)) != len(names):
                raise ConfigError(f"Two {title} share a name: {names}.", hint="Name them apart.")

    @property
    def params(self) -> BootstrapParams:
        """How intervals are drawn."""
        return BootstrapParams(resamples=self.resamples, seed=self.seed)

    def attackers(self, medium: str) -> Sequence[RetrainedProbe]:
        """Who is trained on images, or on rows of numbers (embeddings, codes)."""
        if medium == "image":
            return self.image_probes
        return [EmbeddingProbe(p) if isinstance(p, str) else p for p in self.embedding_probes]

    def recoverers(self, medium: str) -> Sequence[Recoverer]:
        """Who turns images, or rows of numbers, back."""
        return self.image_recoverers if medium == "image" else self.embedding_recoverers

    def run(self, data: AuditData | EmbeddingData) -> AuditResult:
        """Audit one pair of image sets or of embedding tables.

        On the CPU in fp32, the same data, settings and library versions give the same bytes.

        Raises:
            AuditError: If the sets do not fit together, or there are too few people to train an attacker.
            SplitOverlapError: If a person trained the protector.
        """
        context = Context(self, data)
        document: dict[str, Any] = {"schema": SCHEMA, "battery": self.battery}
        for section in SECTIONS:
            document |= section.run(context)
        document["verdict"] = write_verdict(
            document, max_leakage=self.max_leakage, max_tmr_loss=self.max_tmr_loss
        )
        return AuditResult(document)
