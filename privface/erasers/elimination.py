"""IVE and Multi-IVE: the variables that trees find most telling are dropped, a few at a time."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.decomposition import PCA, FastICA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, validate_data

from privface.erasers.base import Eraser, Promise, label_codes, require_range

Domain = Literal["none", "pca", "ica"]

_BROKEN = Promise(
    "broken",
    "Nearest labelled neighbours through the system's own comparator still read the label "
    "(Osorio-Roig et al., TBIOM 2022), and so do curved probes.",
)


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class IVE(ClassNamePrefixFeaturesOutMixin, Eraser):  # type: ignore[misc]  # scikit-learn has no types
    """Incremental variable elimination (Terhörst et al., BTAS 2019).

    Each step trains an ensemble of decision trees on the variables that are left and drops those with the
    highest importance, so templates get shorter.

    Promise: broken, see :attr:`promise`.

    Args:
        share: Share of the variables to drop in all, in (0, 1).
        steps: Steps it is done in; as few as there are variables to drop.
        trees: Trees of an ensemble.
        random_state: Seed of the trees.

    Attributes:
        kept_: Positions of the variables that are left, ascending, shape ``(E,)``.
    """

    method: ClassVar[str] = "ive"
    promise: ClassVar[Promise] = _BROKEN
    arrays: ClassVar[tuple[str, ...]] = ("kept_",)

    share: float = 0.5
    steps: int = 8
    trees: int = 100
    random_state: int = 0

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``; errors as for :meth:`Eraser.fit`."""
        rows, codes = self._labelled(X, y)
        self.kept_ = self._eliminate(rows, [codes])
        return self

    def _eliminate(self, rows: NDArray[np.float64], attributes: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        require_range("share", self.share, 0.0, 1.0)
        require_range("steps", self.steps, 1, 10_000)
        size = rows.shape[1]
        drop = min(round(self.share * size), size - 1)
        kept = np.arange(size)
        for step, portion in enumerate(np.array_split(np.arange(drop), min(self.steps, max(drop, 1)))):
            importance = np.zeros(len(kept))
            for number, codes in enumerate(attributes):
                forest = ExtraTreesClassifier(
                    self.trees,
                    max_features="sqrt",
                    min_samples_leaf=3,
                    class_weight="balanced",
                    random_state=self.random_state + 1000 * number + step,
                )
                importance += forest.fit(rows[:, kept], codes).feature_importances_
            order = np.argsort(-importance, kind="stable")
            kept = np.sort(kept[order[len(portion) :]])
        return kept

    @property
    def _n_features_out(self) -> int:
        return len(self.kept_)

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(rows[:, self.kept_])


@dataclass(kw_only=True, eq=False, repr=False)  # scikit-learn has its own
class MultiIVE(IVE):
    """Variable elimination in a decorrelated domain, for several attributes at once (Melzi et al., WACV-W 2023).

    Embeddings are first turned into principal or independent components, where an attribute is
    spread over fewer variables; importances are summed over the attributes. The output is the components that are left.

    Promise: broken, see :attr:`promise`.

    Args:
        domain: ``"pca"``, ``"ica"`` (whitened: distances change) or ``"none"``.
        share: Share of the components to drop in all, in (0, 1).
        steps: Steps it is done in.
        trees: Trees of an ensemble.
        random_state: Seed of the trees and of the independent components.

    Attributes:
        kept_: Positions of the components that are left, ascending, shape ``(E,)``.
        mean_: Mean of the embeddings, shape ``(D,)``.
        components_: Shape ``(K, D)``.
        classes_: For a single attribute only.
    """

    method: ClassVar[str] = "multi-ive"
    promise: ClassVar[Promise] = _BROKEN
    arrays: ClassVar[tuple[str, ...]] = ("kept_", "mean_", "components_")

    domain: Domain = "pca"

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on embeddings ``(N, D)`` with two labels ``(N,)``, or two labels for each of A attributes ``(N, A)``.

        Raises:
            ValueError: If shapes do not fit, values are not finite, an attribute has not exactly two
                labels or a setting is out of range.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64, multi_output=True)
        columns = check_array(labels, ensure_2d=False, dtype=None)
        columns = columns[:, None] if columns.ndim == 1 else columns
        coded = [label_codes(column, several=False) for column in columns.T]
        if len(coded) == 1:
            self.classes_ = coded[0][0]
        self.mean_ = rows.mean(axis=0)
        self.components_ = self._components(rows)
        self.kept_ = self._eliminate((rows - self.mean_) @ self.components_.T, [codes for _, codes in coded])
        return self

    def _components(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.domain == "none":
            return np.eye(rows.shape[1])
        if self.domain == "pca":
            return np.asarray(PCA(svd_solver="full").fit(rows).components_)
        if self.domain == "ica":
            # directions without variance have no independent component
            rank = int(np.linalg.matrix_rank(rows - self.mean_))
            model = FastICA(
                max(rank, 1), whiten="unit-variance", max_iter=500, tol=1e-2, random_state=self.random_state
            )
            with warnings.catch_warnings():
                # Gaussian directions never settle, and any of their turns is as good as another
                warnings.simplefilter("ignore", ConvergenceWarning)
                return np.asarray(model.fit(rows).components_)
        raise ValueError(f"domain={self.domain!r} does not exist; choose 'pca', 'ica' or 'none'.")

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        kind = rows.dtype
        return np.asarray((rows - self.mean_.astype(kind)) @ self.components_[self.kept_].T.astype(kind))
