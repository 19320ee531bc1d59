"""Recover, then attack: an attacker who first learns to turn protected data back into originals.

After PrivacyProber (Rot, Peer and Struc, 2022): who holds protected and original data of some people can learn the
way back, and read gender from what it gives for others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from privface.audit.probes import fit_side_by_side
from privface.audit.readings import leakage_difference, worst_by_validation
from privface.errors import AuditError
from privface.records import Embeddings, Measured

if TYPE_CHECKING:
    from privface.audit.context import Context

FOLDS = 3


class FittedRecoverer(Protocol):
    """A recoverer after training."""

    @property
    def training(self) -> NDArray[Any]:
        """What was recovered of the training rows, shape of ``original_train``.

        Each row by a model that has not seen its person (cross-fitting), so that a probe trained on them
        meets what it will meet on strangers.
        """

    def recover(self, protected: NDArray[Any]) -> NDArray[Any]:
        """Estimates of the originals of protected data, same kind and shape as the originals."""


class Recoverer(Protocol):
    """An attacker who has (protected, original) pairs of people other than the victims."""

    @property
    def name(self) -> str:
        """Name in the report."""

    def fit(
        self,
        protected_train: NDArray[Any],
        original_train: NDArray[Any],
        train_people: NDArray[np.str_],
        protected_val: NDArray[Any],
        original_val: NDArray[Any],
        *,
        seed: int,
    ) -> FittedRecoverer:
        """Learn from some people's pairs and choose settings on others'; the same seed gives the same result.

        Args:
            protected_train: Embeddings ``(N, D)`` or uint8 RGB ``(N, H, W, 3)``.
            original_train: The same rows unprotected.
            train_people: Identities, shape ``(N,)``.
            protected_val: Of other people.
            original_val: The same rows unprotected.
            seed: Of whatever is random.
        """


@dataclass(frozen=True)
class EmbeddingRecoverer:
    """Regression from protected to original embeddings: linear (ridge) or a network of one hidden layer.

    The one with the smaller squared error on validation people wins. Rows of training people are recovered by
    models fitted on the other two thirds of the people.
    """

    name: ClassVar[str] = "regression"

    def fit(
        self,
        protected_train: Embeddings,
        original_train: Embeddings,
        train_people: NDArray[np.str_],
        protected_val: Embeddings,
        original_val: Embeddings,
        *,
        seed: int,
    ) -> FittedRegression:
        """Fit to rows ``(N, D)`` and ``(N, E)`` and choose on validation people.

        Raises:
            AuditError: If there are fewer than three people.
        """
        fold = people_folds(train_people, seed=seed)

        def fit(part: tuple[int, int | None]) -> FittedRegression:
            kind, left_out = part
            rows = np.ones(len(fold), np.bool_) if left_out is None else fold != left_out
            return FittedRegression.fit(_regressions(seed)[kind], protected_train[rows], original_train[rows])

        models = fit_side_by_side(fit, [(kind, None) for kind in range(len(_regressions(seed)))])
        errors = [float(np.square(model.recover(protected_val) - original_val).mean()) for model in models]
        best = int(np.argmin(errors))
        training = np.empty(original_train.shape, np.float32)
        for number, other in enumerate(fit_side_by_side(fit, [(best, number) for number in range(FOLDS)])):
            training[fold == number] = other.recover(protected_train[fold == number])
        return replace(models[best], training=training)


def people_folds(people: NDArray[np.str_], *, seed: int) -> NDArray[np.int64]:
    """A fold number for every row, the same for all rows of one person.

    Raises:
        AuditError: If there are fewer people than folds.
    """
    names, inverse = np.unique(people, return_inverse=True)
    if len(names) < FOLDS:
        raise AuditError(
            f"{len(names)} people cannot be divided into {FOLDS} parts to learn a recovery.",
            hint="Audit more people.",
        )
    number = np.random.default_rng([seed, 6]).permutation(len(names)) % FOLDS
    return np.asarray(number[inverse], np.int64)


@dataclass(frozen=True)
class FittedRegression:
    """A trained :class:`EmbeddingRecoverer`, a :class:`FittedRecoverer`.

    Attributes:
        model: scikit-learn regressor from standardised protected to standardised original embeddings.
        centre: Mean of the protected ones, shape ``(D,)``.
        scale: Their spread, one number.
        offset: Mean of the original ones, shape ``(E,)``.
        spread: Their spread, one number.
        training: Recovered training rows, shape ``(N, E)``.
    """

    model: Any
    centre: NDArray[np.float64]
    scale: float
    offset: NDArray[np.float64]
    spread: float
    training: Embeddings

    @classmethod
    def fit(cls, model: Any, x: Embeddings, y: Embeddings) -> FittedRegression:
        """Centre both sides and bring the inputs to unit variance on average, which is what settings refer to."""
        wide = x.astype(np.float64)
        centre, offset = wide.mean(axis=0), y.mean(axis=0, dtype=np.float64)
        scale = float(np.sqrt(np.square(wide - centre).mean())) or 1.0
        spread = float(np.sqrt(np.square(y - offset).mean())) or 1.0
        kind = _dtype(model)
        model.fit(((wide - centre) / scale).astype(kind), ((y - offset) / spread).astype(kind))
        return cls(model, centre, scale, offset, spread, y[:0])

    def recover(self, protected: Embeddings) -> Embeddings:
        """Estimates of the original embeddings, float32 ``(N, E)``."""
        rows = (protected.astype(np.float64) - self.centre) / self.scale
        found = self.model.predict(rows.astype(_dtype(self.model))).reshape(len(rows), -1)
        return np.asarray(found.astype(np.float64) * self.spread + self.offset, np.float32)


def _dtype(model: Any) -> type[np.floating[Any]]:
    # a network learns in two thirds of the time; the normal equations of a linear map need the digits
    return np.float32 if hasattr(model, "hidden_layer_sizes") else np.float64


def _regressions(seed: int) -> list[Any]:
    from sklearn.linear_model import Ridge  # noqa: PLC0415
    from sklearn.neural_network import MLPRegressor  # noqa: PLC0415

    options = {"max_iter": 30, "batch_size": 64, "random_state": seed, "tol": 0.0, "n_iter_no_change": 30}
    return [
        *(Ridge(alpha=alpha) for alpha in (1.0, 30.0, 1000.0)),
        MLPRegressor(hidden_layer_sizes=(512,), alpha=0.01, **options),
    ]


def run(context: Context) -> dict[str, Any]:
    """Section: what recovering first adds to the worst attacker on each view, ``recovery`` rows."""
    rows = []
    for (reading, _, view), recoverer, found in context.recovered:
        worst = worst_by_validation(found)
        recovered = gain = Measured.undefined("no measurable probe after recovery")
        if worst is not None:
            recovered = worst.leakage
            gain = leakage_difference(worst, reading, context.whole, context.params)
        row = {"input": view.source, "recoverer": recoverer.name, "probe": worst and worst.probe}
        rows.append({**row, "plain": reading.leakage, "recovered": recovered, "gain": gain})
    return {"recovery": rows}
