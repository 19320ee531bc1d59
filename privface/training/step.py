"""One step of semi-adversarial training, in plain torch: what is computed, not how it is scheduled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from privface.config import LossWeights
from privface.errors import TrainingError
from privface.losses import AlignmentLoss, AttributeLoss, MatchingLoss, ReconstructionLoss
from privface.models import CompactResNet, GenderProbe, Matcher, Mlp, Protectable, to_input
from privface.records import InputSpec
from privface.training.source import random_view

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class PixelAdversary(nn.Module):
    """A gender classifier that learns on protected pixels while the protector learns to resist it.

    ``spec`` says which part of the frame it sees, and at which size; ``network`` are arguments of :class:`~privface.models.CompactResNet`.
    """

    def __init__(self, *, spec: InputSpec, network: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.network = CompactResNet(**network)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N,)`` and penultimate features ``(N, F)`` for images ``(N, 3, H, W)``."""
        features = self.network.features(to_input(images, self.spec))
        return self.network.head(features)[:, 0], features


class EmbeddingAdversary(nn.Module):
    """An MLP that reads gender from a matcher's embedding, of ``inputs`` values, of protected images."""

    def __init__(self, *, inputs: int) -> None:
        super().__init__()
        self.network = Mlp(inputs=inputs)

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N,)`` and features ``(N, 256)`` for embeddings ``(N, inputs)``."""
        features = self.network.features(F.normalize(embeddings, dim=1) * embeddings.shape[1] ** 0.5)
        return self.network.head(features)[:, 0], features


@dataclass(frozen=True)
class StepLosses:
    """What one step yields: what is minimised over the autoencoder's parameters, and over the adversaries', and every term for the log.

    Both losses share one graph.
    """

    protector: Tensor
    adversaries: Tensor | None
    figures: Mapping[str, Tensor]


class TrainingStep(nn.Module, ABC, Generic[NetworkT]):
    """A method's networks and terms, and what one batch costs; :class:`SemiAdversarialTrainer` says when.

    Args:
        autoencoder: The network in training; only its parameters that require a gradient learn.
        matchers: Frozen matchers whose embeddings are to be kept.
        classifiers: Frozen gender classifiers.
        pixel_adversaries: Classifiers on pixels that keep learning.
        embedding_adversaries: Classifiers on embeddings that keep learning, one for each matcher, or none.
        alignments: Likeness of both genders' embeddings, one for each matcher, or none.
        weights: Weights of the terms.
        reconstruction: Reconstruction term.
        matching: Matching term.
        attribute: What the protector wants from classifiers.

    Attributes:
        done_share: How much of the training is done, 0 to 1; the trainer keeps it.
    """

    # ten arguments: the networks and the terms, which each method fills by name
    def __init__(
        self,
        autoencoder: NetworkT,
        *,
        matchers: Sequence[Matcher],
        classifiers: Sequence[GenderProbe],
        pixel_adversaries: Sequence[PixelAdversary] = (),
        embedding_adversaries: Sequence[EmbeddingAdversary] = (),
        alignments: Sequence[AlignmentLoss] = (),
        weights: LossWeights,
        reconstruction: ReconstructionLoss,
        matching: MatchingLoss,
        attribute: AttributeLoss,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.done_share = 0.0
        self.matchers = nn.ModuleList(matchers)
        self.classifiers = nn.ModuleList(classifiers)
        self.pixel_adversaries = nn.ModuleList(pixel_adversaries)
        self.embedding_adversaries = nn.ModuleList(embedding_adversaries)
        self.alignments = nn.ModuleList(alignments)
        self.weights, self.reconstruction = weights, reconstruction
        self.matching, self.attribute = matching, attribute

    @abstractmethod
    def forward(
        self, images: Tensor, genders: Tensor, embeddings: Sequence[Tensor], *, generator: torch.Generator
    ) -> StepLosses:
        """Compute all losses.

        Args:
            images: Originals, ``(N, 3, H, W)`` in [0, 1].
            genders: 0 female, 1 male, ``(N,)``.
            embeddings: Each matcher's embedding of the originals, ``(N, D)``, computed beforehand.
            generator: For the random views that classifiers and adversaries see.
        """

    def kept(self, shown: Sequence[Tensor], embeddings: Sequence[Tensor]) -> Tensor:
        """The matching term: mean over matchers, of embeddings of the first photos ``(B, D)`` and of all originals ``(N, D)``."""
        pairs = zip(shown, embeddings, strict=True)
        return torch.stack([self.matching(new, old[: len(new)]) for new, old in pairs]).mean()

    def looked_at(self, images: Tensor) -> int:
        """How many photos of a batch the matchers look at."""
        return max(1, round(self.weights.matching_share * len(images)))

    def summed(
        self,
        terms: Mapping[str, Tensor],
        *,
        chase: Tensor | None = None,
        figures: Mapping[str, Tensor] = MappingProxyType({}),
        **weights: float,
    ) -> StepLosses:
        """The terms by their weights, those of ``weights`` instead of the step's own; all go to the log."""
        parts = [weights.get(k, getattr(self.weights, k, 0.0)) * term for k, term in terms.items()]
        total = torch.stack(parts).sum()
        logged = {name: term.detach() for name, term in (*figures.items(), *terms.items())}
        return StepLosses(total, chase, {**logged, "total": total.detach()})


class SemiAdversarialStep(TrainingStep[Protectable]):
    """Losses of one batch for the protector and for the adversaries that chase it.

    Both sides use one forward pass: adversaries are run once on the protected images, their own
    cross-entropy is differentiated with respect to their weights, the protector's objective with respect
    to the autoencoder's.
    """

    def forward(
        self, images: Tensor, genders: Tensor, embeddings: Sequence[Tensor], *, generator: torch.Generator
    ) -> StepLosses:
        """See :class:`TrainingStep`."""
        weights = self.weights
        passed = self.autoencoder.learn(images)
        protected = passed.output
        terms: dict[str, Tensor] = {}
        if weights.reconstruction:
            terms["reconstruction"] = self.reconstruction(protected, images)
        looked_at = self.looked_at(images)
        kept: list[Tensor] = []
        if weights.matching or weights.embedding or weights.alignment:
            shown = protected[:looked_at]
            if weights.matching_views:
                shown = random_view(shown, generator=generator, colour=0.0)
            kept = [matcher(shown) for matcher in self.matchers]
        if weights.matching and kept:
            terms["matching"] = self.kept(kept, embeddings)
        if weights.alignment and len(self.alignments):
            terms["alignment"] = torch.stack(
                [align(new, genders[:looked_at]) for align, new in zip(self.alignments, kept, strict=True)]
            ).mean()
        if weights.code:
            terms["code"] = passed.penalty
        view = random_view(protected, generator=generator)
        if weights.frozen and len(self.classifiers):
            read = [self.attribute(classifier.logit(view), genders) for classifier in self.classifiers]  # type: ignore[operator]
            terms["frozen"] = torch.stack(read).mean()
        chased: list[Tensor] = []
        figures: dict[str, Tensor] = {}
        for name, weight, opponents, inputs in (
            ("adversary", weights.adversary, self.pixel_adversaries, [view] * len(self.pixel_adversaries)),
            ("embedding", weights.embedding, self.embedding_adversaries, kept),
        ):
            if not weight or not len(opponents):
                continue
            readings = [opponent(x) for opponent, x in zip(opponents, inputs, strict=True)]
            terms[name] = torch.stack(
                [self.attribute(logits, genders[: len(logits)], features) for logits, features in readings]
            ).mean()
            own = torch.stack(
                [
                    F.binary_cross_entropy_with_logits(logits, genders[: len(logits)].to(logits.dtype))
                    for logits, _ in readings
                ]
            )
            chased.append(own.sum())
            figures[f"{name}_cross_entropy"] = own.mean()
        if not terms:
            raise TrainingError(
                "No loss term is active: the terms with a weight have no network.",
                hint="Give matchers or classifiers, or a reconstruction weight.",
            )
        return self.summed(terms, chase=torch.stack(chased).sum() if chased else None, figures=figures)
