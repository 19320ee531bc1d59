"""One step of training the semi-adversarial network of 2018."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from privface.models import Prototypes, San2018
from privface.models.san2018 import from_grey, to_grey
from privface.training.source import random_view
from privface.training.step import StepLosses, TrainingStep


class San2018Step(TrainingStep[San2018]):
    """Losses of Mirjalili, Raschka, Namboodiri and Ross (ICB 2018, arXiv 1712.00321) for one batch.

    With ``Y_same`` and ``Y_opposite`` of one pass, ``g`` the log-odds of a frozen gender classifier, ``s`` the true
    gender, ``r`` a frozen matcher's embedding and ``BCE`` the binary cross-entropy::

        reconstruction (X, Y_same)
        frozen         BCE(g(Y_same), s) + BCE(g(Y_opposite), 1 - s)
        matching       1 - cos((r(Y_same) + r(Y_opposite)) / 2, r(X))

    The authors compare embeddings by squared distance; here it is the cosine, which matchers are used with.
    Classifiers see both outputs in one random view. The first of the two stages has the reconstruction alone: give
    weights of 0 for the other two.

    Args:
        prototypes: Mean faces of both genders.
        terms: As for :class:`TrainingStep`; there are no adversaries, and the attribute term must be a ``"flip"``.
    """

    same: Tensor
    opposite: Tensor

    def __init__(self, autoencoder: San2018, *, prototypes: Prototypes, **terms: Any) -> None:
        super().__init__(autoencoder, **terms)
        female, male = (torch.tensor(pixels) for pixels in (prototypes.female, prototypes.male))
        self.register_buffer("same", torch.stack([female, male]), persistent=False)
        self.register_buffer("opposite", torch.stack([male, female]), persistent=False)

    def forward(
        self, images: Tensor, genders: Tensor, embeddings: Sequence[Tensor], *, generator: torch.Generator
    ) -> StepLosses:
        """See :class:`TrainingStep`."""
        weights = self.weights
        grey, same = to_grey(images), self.same[genders]
        maps = self.autoencoder.decode(grey, same)
        alike = self.autoencoder.combine(maps, same)
        terms: dict[str, Tensor] = {}
        if weights.reconstruction:
            terms["reconstruction"] = self.reconstruction(alike, grey)
        if weights.matching or weights.frozen:
            turned = self.autoencoder.combine(maps, self.opposite[genders])
            both = from_grey(torch.cat([alike, turned]), size=images.shape[-1])
            if weights.matching:
                rows = torch.arange(self.looked_at(images), device=both.device)
                pairs = both[torch.cat([rows, rows + len(images)])]
                shown = [matcher(pairs).view(2, len(rows), -1).mean(0) for matcher in self.matchers]
                terms["matching"] = self.kept(shown, embeddings)
            if weights.frozen:
                terms["frozen"] = self._frozen(random_view(both, generator=generator), genders)
        return self.summed(terms)

    def _frozen(self, view: Tensor, genders: Tensor) -> Tensor:
        # the term asks for the other gender: told the true ones it turns them round, told the other ones it keeps them
        asked = torch.cat([1 - genders, genders])
        read = [self.attribute(classifier.logit(view), asked) for classifier in self.classifiers]  # type: ignore[operator]
        return 2 * torch.stack(read).mean()
