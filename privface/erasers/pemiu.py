"""PE-MIU: blocks of a template are shuffled anew for every template, and a comparator of its own puts them back.

Terhörst et al., "PE-MIU: A Training-Free Privacy-Enhancing Face Recognition Approach Based on Minimum Information
Units", IEEE Access 2020.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.base import OneToOneFeatureMixin

from privface.erasers.base import Eraser, Promise, unit_rows

_PAIRS_AT_ONCE = 20_000


class PEMIU(OneToOneFeatureMixin, Eraser):  # type: ignore[misc]  # scikit-learn has no types
    """Minimum information units: a random order of the blocks, drawn for each template.

    Templates cannot be compared by cosine any more; :meth:`compare` finds the assignment of blocks that fits best.
    The order is drawn from a keyed hash of the template itself, so the same template and key give the same
    output and rows do not depend on each other. Training-free: ``fit`` learns nothing from ``X`` but its width, and
    ``y`` is only checked.

    Promise: broken, see :attr:`promise`; blocks can be brought back into one order, and nearest labelled neighbours
    through the comparator need not even do that.

    Args:
        block: Values a block; must divide the dimension, else the last block is filled up with zeros while comparing.
        random_state: Key of the hash.

    Attributes:
        classes_: The two labels.
        n_features_in_: ``D``.
    """

    method: ClassVar[str] = "pe-miu"
    promise: ClassVar[Promise] = Promise(
        "broken",
        "Nearest labelled neighbours through the system's own comparator read the label (Osorio-Roig et al., TBIOM 2022); "
        "the likeliest order of blocks undoes the shuffling (experiment 04).",
    )
    arrays: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, block: int = 16, random_state: int = 0) -> None:
        self.block, self.random_state = block, random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803  # scikit-learn's names
        """Check embeddings ``(N, D)`` and two labels ``(N,)``; nothing is learnt.

        Raises:
            ValueError: If shapes do not fit, values are not finite, there are not exactly two labels or ``block``
                is no divisor of ``D``.
        """
        rows, _ = self._labelled(X, y)
        if self.block < 1 or rows.shape[1] % self.block:
            raise ValueError(
                f"block={self.block} does not divide the {rows.shape[1]} values of an embedding; choose a divisor."
            )
        return self

    def compare(
        self, gallery: NDArray[Any], probe: NDArray[Any], pairs: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Similarity of ``gallery[i]`` and ``probe[j]`` for pairs ``(K, 2)``, float64, shape ``(K,)``.

        The cosine under the assignment of blocks that makes it largest (Hungarian algorithm). For templates of unit
        length that ranks as the smallest sum of squared block distances does. Rows of NaN give NaN.
        """
        sides = [
            unit_rows(np.asarray(side, np.float64)).reshape(len(side), -1, self.block)
            for side in (gallery, probe)
        ]
        scores = np.empty(len(pairs))
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[start : start + _PAIRS_AT_ONCE]
            products = np.einsum("kib,kjb->kij", sides[0][part[:, 0]], sides[1][part[:, 1]])
            for place, matrix in enumerate(products, start):
                if np.isnan(matrix).any():
                    scores[place] = np.nan
                    continue
                chosen = linear_sum_assignment(matrix, maximize=True)
                scores[place] = matrix[chosen].sum()
        return np.clip(np.round(scores, 10), -1.0, 1.0)

    def _erase(self, rows: NDArray[Any]) -> NDArray[Any]:
        blocks = rows.reshape(len(rows), -1, self.block)
        key = str(self.random_state).encode()
        out = np.empty_like(blocks)
        for place, row in enumerate(blocks):
            # float32 and float64 copies of a template get the same order
            digest = hashlib.blake2b(row.astype(np.float32).tobytes(), key=key[:64], digest_size=8).digest()
            order = np.random.default_rng(int.from_bytes(digest, "little")).permutation(blocks.shape[1])
            out[place] = row[order]
        return out.reshape(rows.shape)
