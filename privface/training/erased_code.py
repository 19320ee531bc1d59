"""One training step of a decoder that draws faces from erased codes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.device import Device, Precision
from privface.models.decoder import FaceDecoder
from privface.models.erased_code import CodeEraser, EraserChain
from privface.training.source import mixed, views
from privface.training.step import StepLosses, TrainingStep

_FIRST, _RISEN = 0.15, 0.5
"""Share of its weight that matching begins with, and share of the training after which it has all of it."""


class ErasedCodeStep(TrainingStep[FaceDecoder]):
    """Losses of one batch for the decoder.

    Reconstruction asks for the photo. Matching asks each matcher's embedding for the code itself: people are to lie around each
    other as their codes do. So each aim is known from what the decoder is told, and no term asks for gender. Half of
    a batch are mixtures of two people, of whom only the coarse picture is compared. Each face is
    shown to one of the matchers, which costs a share of showing it to all and has the same gradient on average. The weight of
    matching rises: before there are faces, matchers pull towards noise.

    Args:
        decoder: What learns.
        erasers: For each code that :meth:`forward` is given, the eraser that it comes from: what the decoder is told is
            made by its ``tell``. Copied; each batch draws one of them.
        aims: For each of these codes and each matcher, what turns the told code into the embedding to be reached, ``(K, D)``.
        centres: Mean of each matcher's unit embeddings, ``(D,)``; aims are seen from there.
        precision: Of the matchers; by default what this machine is best at.
        options: As for :class:`~privface.training.TrainingStep`; its matchers are copied and made fast.
    """

    def __init__(
        self,
        decoder: FaceDecoder,
        *,
        erasers: Sequence[CodeEraser | EraserChain],
        aims: Sequence[Sequence[Tensor]],
        centres: Sequence[Tensor],
        precision: Precision | None = None,
        **options: Any,
    ) -> None:
        super().__init__(decoder, classifiers=(), **options)
        self.erasers = nn.ModuleList(copy.deepcopy(eraser) for eraser in erasers)
        for k, centre in enumerate(centres):
            self.register_buffer(f"centre_{k}", centre, persistent=False)
            for chosen, maps in enumerate(aims):
                self.register_buffer(f"aim_{chosen}_{k}", maps[k], persistent=False)
        here = Device(
            "cpu", precision or Device.choose().precision
        )  # training moves them to where it computes
        self.fast = nn.ModuleList(matcher.frozen(here) for matcher in options["matchers"])

    def forward(
        self, images: Tensor, genders: Tensor, embeddings: Sequence[Tensor], *, generator: torch.Generator
    ) -> StepLosses:
        """See :class:`TrainingStep`; genders are not looked at, ``embeddings`` are the moved codes of each size, unit rows."""
        weights = self.weights
        chosen = int(torch.randint(len(self.erasers), (), generator=generator))
        originals, codes = mixed(images, embeddings[chosen], generator)
        with torch.autocast(images.device.type, enabled=False):
            told: Tensor = self.erasers[chosen].tell(codes)  # type: ignore[operator]
        drawn = self.autoencoder(F.pad(told, (0, self.autoencoder.config["code"] - told.shape[1])))
        whole = len(images) - len(images) // 2
        with torch.autocast(images.device.type, enabled=False):
            coarse = F.avg_pool2d(drawn - originals, 4).abs().mean()
            terms = {"reconstruction": self.reconstruction(drawn[:whole], originals[:whole]) + 2 * coarse}
            if weights.matching and len(self.matchers):
                shown = _softened(views(_light(drawn), generator, gentle=True), generator)
                aims = [told @ self.get_buffer(f"aim_{chosen}_{k}") for k in range(len(self.matchers))]
                terms["matching"] = torch.stack(
                    [self._apart(k, shown, aim) for k, aim in enumerate(aims)]
                ).mean()
        rise = min(1.0, _FIRST + (1 - _FIRST) * self.done_share / _RISEN)
        return self.summed(terms, matching=weights.matching * rise)

    def _apart(self, number: int, faces: Tensor, aims: Tensor) -> Tensor:
        """How far one matcher's embeddings of its share of the faces ``(N, 3, H, W)`` are from their aims."""
        share = slice(number, None, len(self.matchers))
        given = F.normalize(self.fast[number](faces[share]), dim=1) - self.get_buffer(f"centre_{number}")
        apart: Tensor = self.matching(given, aims[share])
        return apart


def _light(faces: Tensor) -> Tensor:
    """The same faces, whose colours have no gradient: matchers are not to paint."""
    light = faces.mean(1, keepdim=True)
    return faces.detach() + (light - light.detach())


def _softened(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Each face a little out of focus, more or less: what only the finest detail says is not relied on."""
    soft = F.pad(faces, (1, 1, 1, 1), mode="replicate")
    soft = F.avg_pool2d(F.avg_pool2d(soft, 2, 1), 2, 1)
    share = torch.rand((len(faces), 1, 1, 1), generator=generator)
    return torch.lerp(faces, soft, share.to(faces.device))
