"""The terms of semi-adversarial training, one class each. All return a scalar tensor, smaller is better."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.errors import ConfigError

Objective: TypeAlias = Literal["flip", "uninformative", "align"]

OBJECTIVES: tuple[Objective, ...] = ("flip", "uninformative", "align")


class ReconstructionLoss(nn.Module):
    """Keeps the protected image close to the original: a weighted sum of L1, L2, 1 - SSIM and tone.

    Args:
        l1: Weight of the mean absolute error.
        l2: Weight of the mean squared error.
        ssim: Weight of ``1 - SSIM`` (Wang et al., TIP 2004; 11 x 11 Gaussian window, sigma 1.5).
        tone: Weight of the mean absolute error of 8 x 8 block means. Darkening or tinting whole regions fools
            classifiers that never met it and hides nothing; this term forbids that and leaves detail free.
    """

    def __init__(self, *, l1: float = 1.0, l2: float = 0.0, ssim: float = 0.0, tone: float = 0.0) -> None:
        super().__init__()
        if min(l1, l2, ssim, tone) < 0 or l1 + l2 + ssim + tone == 0:
            raise ConfigError(
                f"Reconstruction weights l1={l1}, l2={l2}, ssim={ssim}, tone={tone}: none may be negative and one must be positive."
            )
        self.l1, self.l2, self.ssim, self.tone = l1, l2, ssim, tone

    def forward(self, protected: Tensor, original: Tensor) -> Tensor:
        """Both ``(N, 3, H, W)`` in [0, 1]."""
        # in fp32: variances of SSIM are differences smaller than the rounding of bf16
        with torch.autocast(protected.device.type, enabled=False):
            protected, original = (
                x.to(torch.promote_types(x.dtype, torch.float32)) for x in (protected, original)
            )
            total = protected.new_zeros(())
            if self.l1:
                total = total + self.l1 * F.l1_loss(protected, original)
            if self.l2:
                total = total + self.l2 * F.mse_loss(protected, original)
            if self.ssim:
                total = total + self.ssim * (1 - ssim(protected, original))
            if self.tone:
                total = total + self.tone * F.avg_pool2d(protected - original, 8).abs().mean()
            return total


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity in [-1, 1] of two batches ``(N, C, H, W)`` in [0, 1], H, W >= 11 (Wang et al., TIP 2004), without border."""
    steps = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    line = torch.exp(-(steps**2) / (2 * 1.5**2))
    line = line / line.sum()

    def blur(x: Tensor) -> Tensor:
        rows = F.conv2d(x, line.view(1, 1, 11, 1).expand(x.shape[1], 1, 11, 1), groups=x.shape[1])
        return F.conv2d(rows, line.view(1, 1, 1, 11).expand(x.shape[1], 1, 1, 11), groups=x.shape[1])

    # one pass over all five moment maps: fewer, larger convolutions
    mean_a, mean_b, aa, bb, ab = blur(torch.cat([a, b, a * a, b * b, a * b], 1)).chunk(5, 1)
    c1, c2 = 0.01**2, 0.03**2
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    maps: Tensor = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return maps.mean()


class MatchingLoss(nn.Module):
    """Keeps identity: one minus the cosine between the embeddings of protected and original.

    Args:
        margin: Cosine at which a pair is good enough and stops pulling; 1 never stops.
    """

    def __init__(self, *, margin: float = 1.0) -> None:
        super().__init__()
        if not -1.0 < margin <= 1.0:
            raise ConfigError(
                f"margin={margin} is no cosine in (-1, 1].", hint="1 pulls until the embeddings agree."
            )
        self.margin = margin

    def forward(self, protected: Tensor, original: Tensor) -> Tensor:
        """Both ``(N, D)``; ``original`` carries no gradient."""
        cosine = F.cosine_similarity(protected, original.detach(), dim=1)
        return F.relu(self.margin - cosine).mean()


class AttributeLoss(nn.Module):
    """What the protector wants from a gender classifier's view of its output.

    Args:
        objective: ``"uninformative"``: the cross-entropy against a fair coin, so that the classifier
            answers 0.5 (given above its lowest value, ln 2, so 0 is best). ``"flip"``: the classifier should answer the
            opposite gender (the original SAN's aim; a deterministic flip leaks as much as no protection).
            ``"align"``: the classifier's logits and features should be distributed alike for both genders
            (difference of means and of standard deviations, a moment-matching form of domain alignment,
            Sun and Saenko, ECCV-W 2016).
    """

    def __init__(self, objective: Objective = "uninformative") -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ConfigError(f"objective={objective!r} does not exist.", hint=f"Choose one of {OBJECTIVES}.")
        self.objective = objective

    def forward(self, logits: Tensor, genders: Tensor, features: Tensor | None = None) -> Tensor:
        """Loss for the protector.

        Args:
            logits: Log-odds of "male" on protected images, shape ``(N,)``.
            genders: 0 female, 1 male, shape ``(N,)``; needed in training only.
            features: The classifier's penultimate activations ``(N, F)``; used by ``"align"``.
        """
        if self.objective == "flip":
            return F.binary_cross_entropy_with_logits(logits, 1.0 - genders.to(logits.dtype))
        if self.objective == "uninformative":
            coin = torch.full_like(logits, 0.5)
            return F.binary_cross_entropy_with_logits(logits, coin) - torch.log(logits.new_tensor(2.0))
        views = [logits[:, None]] if features is None else [logits[:, None], features]
        return torch.stack([_moment_gap(view, genders) for view in views]).sum()


class AlignmentLoss(nn.Module):
    """Lets a matcher's embeddings of both genders have the same mean and the same covariance.

    An adversary that learns from single batches does not see a difference of covariances, a quadratic probe does. With the
    difference ``d`` of the class means and ``C`` of the class covariances, both in units of the pooled covariance ``S``::

        loss = (|S^-1/2 d|^2 / 2 + |S^-1/2 C S^-1/2|_F^2 / 4) / D

    to second order the divergence between two normal distributions, per dimension (correlation alignment, Sun and Saenko,
    ECCV-W 2016, whitened). A batch is too small for moments: they are moving averages over past batches. The gradient runs through
    the batch at hand alone, scaled as if all batches had moved with it; it is nothing until half of the average is filled.

    Args:
        size: Embedding size D.
        decay: Of the moving averages, in (0, 1); 0.99 remembers about a hundred batches.
        shrinkage: Share of the mean variance that is added to each, above 0, so that directions without spread do not count.
    """

    means: Tensor
    seconds: Tensor
    filled: Tensor

    def __init__(self, size: int, *, decay: float = 0.99, shrinkage: float = 0.1) -> None:
        super().__init__()
        self.decay, self.shrinkage = decay, shrinkage
        self.register_buffer("means", torch.zeros(2, size))
        self.register_buffer("seconds", torch.zeros(2, size, size))
        self.register_buffer("filled", torch.zeros(2))

    def forward(self, embeddings: Tensor, genders: Tensor) -> Tensor:
        """Loss of protected embeddings ``(N, D)`` with genders 0 and 1, ``(N,)``; they are added to the averages."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = F.normalize(embeddings.float(), dim=1)
            means, seconds, filled = self._moved(rows, genders)
            loss = self._gap(means, seconds, filled) if bool((filled >= 0.5).all()) else rows.sum() * 0.0
        self.means.copy_(means.detach())
        self.seconds.copy_(seconds.detach())
        self.filled.copy_(filled)
        fixed = loss.detach()
        return fixed + (loss - fixed) / (1 - self.decay)

    def _moved(self, rows: Tensor, genders: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The averages with this batch; a gender that it lacks keeps its own."""
        parts = [rows[genders == gender] for gender in (0, 1)]
        keep = rows.new_tensor([self.decay if len(part) else 1.0 for part in parts])
        means = torch.stack([part.sum(0) / max(1, len(part)) for part in parts])
        seconds = torch.stack([part.T @ part / max(1, len(part)) for part in parts])
        return (
            keep[:, None] * self.means + (1 - keep)[:, None] * means,
            keep[:, None, None] * self.seconds + (1 - keep)[:, None, None] * seconds,
            keep * self.filled + (1 - keep),
        )

    def _gap(self, means: Tensor, seconds: Tensor, filled: Tensor) -> Tensor:
        means, seconds = means / filled[:, None], seconds / filled[:, None, None]
        covariances = seconds - means[:, :, None] * means[:, None, :]
        pooled = covariances.detach().mean(0)
        spreads, axes = torch.linalg.eigh(pooled)
        size = len(spreads)
        whiten = axes / (spreads.clamp_min(0) + self.shrinkage * pooled.trace() / size).sqrt()
        apart = (means[1] - means[0]) @ whiten
        unlike = whiten.T @ (covariances[1] - covariances[0]) @ whiten
        gap: Tensor = (apart.square().sum() / 2 + unlike.square().sum() / 4) / size
        return gap


def _moment_gap(values: Tensor, genders: Tensor) -> Tensor:
    women, men = values[genders == 0], values[genders == 1]
    if len(women) < 2 or len(men) < 2:
        return values.sum() * 0.0
    # in units of the pooled spread, so that scaling the features down does not count as success
    spread = values.detach().std(0) + 1e-4
    means = ((women.mean(0) - men.mean(0)) / spread) ** 2
    spreads = ((women.std(0) - men.std(0)) / spread) ** 2
    return means.mean() + spreads.mean()
