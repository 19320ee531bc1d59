"""One training step of a decoder that draws faces from erased codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.models import to_input
from privface.models.decoder import FaceDecoder
from privface.models.frozen import frozen
from privface.training.encoder import mixed, views
from privface.training.step import StepLosses, TrainingStep


class ErasedCodeStep(TrainingStep[FaceDecoder]):
    """Losses of one batch for the decoder.

    Reconstruction asks for the photo, matching for each matcher's *erased* embedding of it, so no term asks for gender. Half of
    a batch are mixtures of two people with mixed aims, of whom only the coarse picture is compared. Each face is
    shown to one of the matchers, which costs a share of showing it to all and has the same gradient on average.

    Args:
        decoder: What learns.
        sizes: Widths of the codes that come first among the embeddings of :meth:`forward`; each batch draws one of them.
        centres: Mean of each matcher's unit embeddings, ``(D,)``; cosines are taken from there.
        options: As for :class:`~privface.training.TrainingStep`; its matchers are copied and made fast.
    """

    def __init__(
        self, decoder: FaceDecoder, *, sizes: Sequence[int], centres: Sequence[Tensor], **options: Any
    ) -> None:
        super().__init__(decoder, classifiers=(), **options)
        self.sizes = list(sizes)
        for k, centre in enumerate(centres):
            self.register_buffer(f"centre_{k}", centre)
        blank = torch.full((1, 3, decoder.config["size"], decoder.config["size"]), 0.5)
        for matcher in self.matchers:
            matcher(blank)  # one that came as ONNX is converted when it is first called
        self.fast = nn.ModuleList(frozen(matcher.network) for matcher in self.matchers)  # type: ignore[arg-type]

    def forward(
        self, images: Tensor, genders: Tensor, embeddings: Sequence[Tensor], *, generator: torch.Generator
    ) -> StepLosses:
        """See :class:`TrainingStep`.

        Args:
            images: Originals.
            genders: Not looked at.
            embeddings: The erased code at each width, then each matcher's erased embedding from
                its centre on; unit rows.
            generator: For widths, mixtures and views.
        """
        weights, count = self.weights, len(self.sizes)
        chosen = int(torch.randint(count, (), generator=generator))
        state = generator.get_state()
        originals, codes = mixed(images, embeddings[chosen], generator)
        aims = []
        for embedding in embeddings[count:]:
            generator.set_state(state)  # codes and all aims are mixed alike
            aims.append(mixed(images[:, :1, :1, :1], embedding, generator)[1])
        drawn = self.autoencoder(F.pad(codes, (0, self.sizes[-1] - codes.shape[1])))
        whole = len(images) - len(images) // 2
        with torch.autocast(images.device.type, enabled=False):
            coarse = F.avg_pool2d(drawn - originals, 4).abs().mean()
            terms = {"reconstruction": self.reconstruction(drawn[:whole], originals[:whole]) + 2 * coarse}
            if weights.matching and len(self.matchers):
                shown = views(drawn, generator, soften=False)
                given = [self._embed(k, shown[k :: len(aims)]) for k in range(len(aims))]
                terms["matching"] = torch.stack(
                    [self.matching(new, aim[k :: len(aims)]) for k, (new, aim) in enumerate(zip(given, aims, strict=True))]
                ).mean()
        total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        figures = {name: term.detach() for name, term in terms.items()}
        return StepLosses(total, None, {**figures, "total": total.detach()})

    def _embed(self, number: int, faces: Tensor) -> Tensor:
        """One matcher's embeddings of faces ``(N, 3, H, W)``, seen from its centre."""
        found = self.fast[number](to_input(faces, self.matchers[number].spec))  # type: ignore[arg-type]
        return F.normalize(found, dim=1) - self.get_buffer(f"centre_{number}")
