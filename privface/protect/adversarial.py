"""Per-image adversarial perturbations: each fools the gender classifier it is given, and that is all it does.

The baselines that every adversarial protection has to beat: each photo is changed, within a bound that the eye
hardly sees, until a fixed classifier no longer tells, or tells the other gender.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privface.errors import ConfigError
from privface.protect.protector import check_images
from privface.records import FRAME


class GenderReader(Protocol):
    """A differentiable gender classifier."""

    fingerprint: str

    def logit(self, images: Tensor) -> Tensor:
        """Log-odds of "male", shape ``(N,)``, of images ``(N, 3, H, W)`` in [0, 1]."""


class _SignedSteps(ABC):
    """Lowers an objective by steps of its gradient's sign, inside an l-infinity ball around the photos and inside [0, 1]."""

    fingerprint: str

    def __init__(
        self, classifier: GenderReader, *, epsilon: float, steps: int, stretch: float, size: int
    ) -> None:
        if not 0.0 < epsilon <= 1.0 or steps < 1:
            raise ConfigError(
                f"epsilon is {epsilon:g} and steps {steps}; epsilon must lie in (0, 1], steps be 1 or more.",
                hint="8/255 and 10 are usual.",
            )
        self._classifier, self._epsilon, self._steps, self.size = classifier, epsilon, steps, size
        self._length = stretch * epsilon / steps

    @abstractmethod
    def _objective(self, images: Tensor) -> Tensor:
        """One number an image, ``(N,)``."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Perturb a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""
        check_images(images, size=self.size)
        original = torch.from_numpy(np.ascontiguousarray(images))
        moved = original.clone()
        for _ in range(self._steps):
            moved.requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._objective(moved).sum(), moved)
            with torch.no_grad():
                moved = moved - self._length * gradient.sign()
                moved = torch.clamp(moved, original - self._epsilon, original + self._epsilon).clamp(0.0, 1.0)
        result: NDArray[np.float32] = moved.detach().numpy()
        return result


class ProjectedGradient(_SignedSteps):
    """Projected gradient descent towards the undecided point of one classifier (Madry et al., ICLR 2018).

    Minimises the squared log-odds, so the result is "cannot tell" and not the other gender, within an
    l-infinity ball around the photo. Needs no label and no random start: the same photo gives the same output.

    Args:
        classifier: What is fooled.
        epsilon: Radius of the ball in units of the [0, 1] range, above 0 and at most 1.
        steps: Gradient steps, 1 or more; each moves by ``2.5 * epsilon / steps``.
        size: Side of the aligned faces in pixels.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self, classifier: GenderReader, *, epsilon: float = 8 / 255, steps: int = 10, size: int = FRAME
    ) -> None:
        super().__init__(classifier, epsilon=epsilon, steps=steps, stretch=2.5, size=size)
        self.fingerprint = f"projected-gradient/1 epsilon={epsilon:.6g} steps={steps} size={size} classifier={classifier.fingerprint}"

    def _objective(self, images: Tensor) -> Tensor:
        return self._classifier.logit(images).square()


class FastGradientSign(_SignedSteps):
    """One step of the gradient's sign towards the other gender than one classifier reads (Goodfellow et al., ICLR 2015).

    With ``g`` the log-odds of "male", ``y = 1`` where ``g(X) >= 0`` and else ``-1``:
    ``X' = clip(X - epsilon * y * sign(dg/dX), 0, 1)``. The direction comes from the classifier's own answer and not from the
    true gender, so no label is needed; where the classifier errs, its error is turned round. A linear classifier's
    log-odds move by ``epsilon`` times the sum of its absolute weights, as far as no pixel meets black or white.

    Args:
        classifier: What is fooled.
        epsilon: How far each value of the photo moves, in units of the [0, 1] range, above 0 and at most 1.
        size: Side of the aligned faces in pixels.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, classifier: GenderReader, *, epsilon: float = 8 / 255, size: int = FRAME) -> None:
        super().__init__(classifier, epsilon=epsilon, steps=1, stretch=1.0, size=size)
        self.fingerprint = (
            f"fast-gradient-sign/1 epsilon={epsilon:.6g} size={size} classifier={classifier.fingerprint}"
        )

    def _objective(self, images: Tensor) -> Tensor:
        """Log-odds of the answer that the classifier gives; "male" where it cannot tell."""
        logit = self._classifier.logit(images)
        # abs() has no slope at 0 and would leave the photo as it is
        return torch.where(logit >= 0.0, logit, -logit)
