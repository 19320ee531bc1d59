"""The adaptive attacker without a deep network: probes retrained on protected data of other people."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from privface.audit.curves import auc, by_label
from privface.errors import AuditError, ConfigError
from privface.records import Embeddings, Scores

ProbeKind: TypeAlias = Literal["logistic", "rbf-svm", "mlp"]

PROBE_KINDS: tuple[ProbeKind, ...] = ("logistic", "rbf-svm", "mlp")


class FittedProbe(Protocol):
    """A probe after training."""

    @property
    def val_auc(self) -> float:
        """AUC on the validation people, by which settings and the worst probe are chosen."""

    def scores(self, data: NDArray[Any]) -> Scores:
        """Male scores, shape ``(N,)``; higher is more male."""


class RetrainedProbe(Protocol):
    """An attacker who learns from labelled protected data of people other than the victims."""

    @property
    def name(self) -> str:
        """Name in the report."""

    def fit(
        self,
        train: NDArray[Any],
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: NDArray[Any],
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedProbe:
        """Train on some people and choose settings on others; the same seed gives the same probe."""


@dataclass(frozen=True)
class EmbeddingProbe:
    """A scikit-learn classifier of gender on standardised embeddings.

    ``"logistic"`` is logistic regression, ``"rbf-svm"`` a support vector machine with a Gaussian kernel and
    ``"mlp"`` a network of one hidden layer. Genders count equally: by class weights, or for the network by
    drawing the rarer gender again. The setting with the best validation AUC wins, the first of equals.

    Attributes:
        kind: Which classifier.
    """

    kind: ProbeKind

    def __post_init__(self) -> None:
        if self.kind not in PROBE_KINDS:
            raise ConfigError(
                f"{self.kind!r} is no embedding probe.", hint=f"Choose among {', '.join(PROBE_KINDS)}."
            )

    @property
    def name(self) -> str:
        """Name in the report."""
        return self.kind

    def fit(
        self,
        train: Embeddings,
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: Embeddings,
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedEmbeddingProbe:
        """Train one classifier per setting and keep the best on validation people.

        Args:
            train: Finite embeddings, shape ``(N, D)``.
            train_genders: 0 (female) or 1 (male), shape ``(N,)``.
            train_people: Identities, shape ``(N,)``; used to refuse a set of fewer than two people.
            val: Finite embeddings of other people, shape ``(M, D)``.
            val_genders: Shape ``(M,)``.
            seed: Seed of the classifiers and of the balancing draw.

        Raises:
            AuditError: If embeddings are not finite or a gender is missing.
        """
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

        _check_part(train, train_genders, "training")
        _check_part(val, val_genders, "validation")
        if len(np.unique(train_people)) < 2:
            raise AuditError(
                "A probe needs at least two training people, there is one.", hint="Give more people."
            )
        x, y = np.asarray(train, np.float64), train_genders
        if self.kind == "mlp":
            again = _balance(y, seed)
            x, y = x[again], y[again]
        best: FittedEmbeddingProbe | None = None
        for setting, model in _candidates(self.kind, x.shape[1], seed):
            with warnings.catch_warnings():
                # a candidate that has not converged is a weaker attacker, and validation judges it
                warnings.simplefilter("ignore", ConvergenceWarning)
                # fewer photos than a batch: scikit-learn then takes them all, as it should
                warnings.filterwarnings("ignore", message="Got `batch_size` less than 1 or larger")
                model.fit(x, y)
            fitted = FittedEmbeddingProbe(model, setting, np.nan)
            value = auc(*by_label(fitted.scores(val), val_genders))
            if best is None or value > best.val_auc:
                best = FittedEmbeddingProbe(model, setting, value)
        if best is None:  # pragma: no cover  # every kind has candidates
            raise AuditError(f"{self.kind}: no candidate setting.")
        return best


@dataclass(frozen=True)
class FittedEmbeddingProbe:
    """A trained :class:`EmbeddingProbe`.

    Attributes:
        model: scikit-learn pipeline.
        setting: The hyper-parameters that won.
        val_auc: Their AUC on validation people.
    """

    model: Any
    setting: str
    val_auc: float

    def scores(self, data: Embeddings) -> Scores:
        """Male scores (log-odds or margin), shape ``(N,)``, of finite embeddings ``(N, D)``."""
        x = np.asarray(data, np.float64)
        if hasattr(self.model, "decision_function"):
            return np.asarray(self.model.decision_function(x), np.float64)
        chance = np.clip(self.model.predict_proba(x)[:, 1], 1e-15, 1.0 - 1e-15)
        return np.asarray(np.log(chance) - np.log1p(-chance), np.float64)


@dataclass(frozen=True)
class PixelProbe:
    """A support vector machine on the small picture: principal components of 28 x 28 pixels.

    Aligned faces need no deep network to be read: with 900 training photos of LFW this reaches an AUC of 0.92
    in a second, so it is a cheap second opinion on the CNN (Turk and Pentland, 1991, for the components).
    """

    @property
    def name(self) -> str:
        """Name in the report."""
        return "pixel-svm"

    def fit(
        self,
        train: NDArray[np.uint8],
        train_genders: NDArray[np.int64],
        train_people: NDArray[np.str_],
        val: NDArray[np.uint8],
        val_genders: NDArray[np.int64],
        *,
        seed: int,
    ) -> FittedPixelProbe:
        """Find 20 or 80 components on the training photos, then fit as :class:`EmbeddingProbe` does.

        Args:
            train: uint8 RGB, shape ``(N, H, W, 3)``.
            train_genders: 0 (female) or 1 (male), shape ``(N,)``.
            train_people: Identities, shape ``(N,)``.
            val: uint8 RGB of other people, shape ``(M, H, W, 3)``.
            val_genders: Shape ``(M,)``.
            seed: Seed of the classifier.

        Raises:
            AuditError: If a gender is missing.
        """
        from sklearn.decomposition import PCA  # noqa: PLC0415

        small = _small_pictures(train)
        components = PCA(min(80, len(small) - 1), svd_solver="full").fit(small)
        x, x_val = components.transform(small), components.transform(_small_pictures(val))
        best: FittedPixelProbe | None = None
        for count in (20, 80):  # few components suit few people
            part, part_val = x[:, :count], x_val[:, :count]
            probe = EmbeddingProbe("rbf-svm").fit(
                part, train_genders, train_people, part_val, val_genders, seed=seed
            )
            if best is None or probe.val_auc > best.val_auc:
                best = FittedPixelProbe(components, count, probe)
        if best is None:  # pragma: no cover  # the loop above runs
            raise AuditError("pixel-svm: no candidate setting.")
        return best


@dataclass(frozen=True)
class FittedPixelProbe:
    """A trained :class:`PixelProbe`.

    Attributes:
        components: scikit-learn's PCA.
        count: How many of its components are used.
        probe: The classifier on the components.
    """

    components: Any
    count: int
    probe: FittedEmbeddingProbe

    @property
    def val_auc(self) -> float:
        """AUC on validation people."""
        return self.probe.val_auc

    def scores(self, data: NDArray[np.uint8]) -> Scores:
        """Male scores, shape ``(N,)``, of uint8 RGB ``(N, H, W, 3)``."""
        return self.probe.scores(self.components.transform(_small_pictures(data))[:, : self.count])


def _small_pictures(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = [cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA).ravel() for image in images]
    return np.array(small, np.float64) / 255.0


def _check_part(data: Embeddings, genders: NDArray[np.int64], part: str) -> None:
    if data.ndim != 2 or len(data) != len(genders):
        raise AuditError(f"The {part} part has embeddings {data.shape} and {len(genders)} genders.")
    if not np.isfinite(data).all():
        raise AuditError(
            f"{int((~np.isfinite(data)).any(axis=1).sum())} embeddings of the {part} part are not finite.",
            hint="Leave out photos that failed to enrol.",
        )
    if set(np.unique(genders).tolist()) != {0, 1}:
        raise AuditError(
            f"The {part} part has genders {sorted(set(np.asarray(genders).tolist()))}; both are needed.",
            hint="Give more people.",
        )


def _balance(genders: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, 2])
    groups = [np.flatnonzero(genders == label) for label in (0, 1)]
    size = max(group.size for group in groups)
    parts = [np.concatenate([g, rng.choice(g, size - g.size)]) if g.size < size else g for g in groups]
    return np.sort(np.concatenate(parts))


def _candidates(kind: ProbeKind, dimensions: int, seed: int) -> Iterator[tuple[str, Any]]:
    # scikit-learn takes seconds to import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    from sklearn.svm import SVC  # noqa: PLC0415

    if kind == "logistic":
        for c in (0.001, 0.01, 0.1, 1.0):
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
            yield f"C={c:g}", make_pipeline(StandardScaler(), model)
    elif kind == "rbf-svm":
        for factor in (0.25, 1.0, 4.0):
            for c in (1.0, 10.0):
                svm = SVC(C=c, gamma=factor / dimensions, class_weight="balanced", cache_size=500)
                yield f"C={c:g},gamma={factor:g}/D", make_pipeline(StandardScaler(), svm)
    else:
        for alpha in (0.01, 1.0):
            for rounds in (20, 80):
                network = MLPClassifier(
                    (128,), alpha=alpha, max_iter=rounds, batch_size=64, random_state=seed, tol=0.0
                )
                yield f"alpha={alpha:g},max_iter={rounds}", make_pipeline(StandardScaler(), network)
