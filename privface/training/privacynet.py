"""One step of training PrivacyNet: several attributes, each hidden or kept as a drawn mask says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from privface.models import PrivacyNet
from privface.training.source import random_view
from privface.training.step import PixelAdversary, StepLosses, TrainingStep


class PrivacyNetStep(TrainingStep[PrivacyNet]):
    """Losses of one batch, after Mirjalili, Raschka and Ross (IEEE TIP 2020, arXiv 2001.00561).

    With a mask ``m`` drawn for each photo, ``Y = G(X, m)``, ``g_a`` the log-odds of a frozen classifier of attribute
    ``a`` with the label ``s_a``, ``D`` the critic's log-odds of "original" and ``BCE`` the binary cross-entropy::

        reconstruction, matching   (X, Y), as for SemiAdversarialStep
        frozen     the attribute term of g_a(Y) where m_a = 1, BCE(g_a(Y), s_a) where m_a = 0
        realism    BCE(D(Y), 1) for the generator; BCE(D(X), 1) + BCE(D(Y), 0) for the critic

    The authors go back to the photo through the generator (a cycle); here likeness is asked of the output itself, as in
    all methods of privface.

    Args:
        classifiers: As in ``terms``, here with the attribute that each of them reads.
        readers: Position of each classifier's attribute among the network's.
        critic: Learns to tell originals from outputs.
        realism: Weight of its term, above 0.
        terms: As for :class:`TrainingStep`, without adversaries.
    """

    def __init__(
        self,
        autoencoder: PrivacyNet,
        *,
        readers: Sequence[int],
        critic: PixelAdversary,
        realism: float,
        **terms: Any,
    ) -> None:
        super().__init__(autoencoder, pixel_adversaries=[critic], **terms)
        self.readers, self.realism = tuple(readers), realism

    def forward(
        self, images: Tensor, genders: Tensor, embeddings: Sequence[Tensor], *, generator: torch.Generator
    ) -> StepLosses:
        """See :class:`TrainingStep`; here ``genders`` are labels of all attributes, 0 or 1, or -1 where there is none, ``(N, A)``."""
        weights, critic = self.weights, self.pixel_adversaries[0]
        mask = torch.randint(0, 2, tuple(genders.shape), generator=generator).to(images)
        passed = self.autoencoder.learn_to_hide(images, mask)
        protected = passed.output
        fake, real = critic(protected)[0], critic(images)[0]
        terms = {"realism": F.softplus(-fake).mean()}
        if weights.reconstruction:
            terms["reconstruction"] = self.reconstruction(protected, images)
        if weights.matching and len(self.matchers):
            shown = protected[: self.looked_at(images)]
            terms["matching"] = self.kept([matcher(shown) for matcher in self.matchers], embeddings)
        if weights.code:
            terms["code"] = passed.penalty
        if weights.frozen and len(self.classifiers):
            view = random_view(protected, generator=generator)
            read = [
                self._attribute(c.logit(view), genders[:, a], mask[:, a] > 0)  # type: ignore[operator]
                for c, a in zip(self.classifiers, self.readers, strict=True)
            ]
            terms["frozen"] = torch.stack(read).mean()
        chase = F.softplus(-real).mean() + F.softplus(fake).mean()
        return self.summed(terms, chase=chase, figures={"critic": chase}, realism=self.realism)

    def _attribute(self, logits: Tensor, labels: Tensor, hidden: Tensor) -> Tensor:
        """Mean over the photos that have a label."""
        labelled = labels >= 0
        hide, keep = labelled & hidden, labelled & ~hidden
        value = logits.sum() * 0.0
        if hide.any():
            value = value + hide.sum() * self.attribute(logits[hide], labels[hide])
        if keep.any():
            truth = labels[keep].to(logits.dtype)
            value = value + keep.sum() * F.binary_cross_entropy_with_logits(logits[keep], truth)
        return value / labelled.sum().clamp_min(1)
