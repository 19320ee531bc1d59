"""Per-image adversarial perturbation: fools the gender classifier it is given, and that is all it does.

The baseline that every adversarial protection has to beat: each photo is changed, within a bound that the eye
hardly sees, until a fixed classifier no longer tells.
"""

from __future__ import annotations

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


class ProjectedGradient:
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
        if not 0.0 < epsilon <= 1.0 or steps < 1:
            raise ConfigError(
                f"epsilon is {epsilon:g} and steps {steps}; epsilon must lie in (0, 1], steps be 1 or more.",
                hint="8/255 and 10 are usual.",
            )
        self._classifier, self._epsilon, self._steps, self.size = classifier, epsilon, steps, size

    @property
    def fingerprint(self) -> str:
        """Name, version, settings and the classifier's weights."""
        return (
            f"projected-gradient/1 epsilon={self._epsilon:.6g} steps={self._steps} size={self.size}"
            f" classifier={self._classifier.fingerprint}"
        )

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Perturb a batch, float32 ``(N, 3, size, size)`` in [0, 1]."""
        check_images(images, size=self.size)
        original = torch.from_numpy(np.ascontiguousarray(images))
        moved = original.clone()
        step = 2.5 * self._epsilon / self._steps
        for _ in range(self._steps):
            moved.requires_grad_(True)
            loss = self._classifier.logit(moved).square().sum()
            (gradient,) = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                moved = moved - step * gradient.sign()
                moved = torch.clamp(moved, original - self._epsilon, original + self._epsilon).clamp(0.0, 1.0)
        result: NDArray[np.float32] = moved.detach().numpy()
        return result
