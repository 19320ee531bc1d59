"""Several perturbation networks that act as one: an ensemble of them, or one behind the other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from privface.errors import ModelError
from privface.models.autoencoders import SemiAdversarialAutoencoder
from privface.models.family import Autoencoder
from privface.models.inputs import to_input
from privface.models.networks import CompactResNet
from privface.models.parts import Noise, Pass
from privface.models.protectable import Protectable
from privface.records import InputSpec

Single: TypeAlias = SemiAdversarialAutoencoder | Autoencoder
"""One perturbation network."""

Rule: TypeAlias = Literal["random", "average", "undecided"]
"""How an ensemble comes to one output, see :class:`EnsembleSan`."""

RULES: Final[tuple[Rule, ...]] = get_args(Rule)
"""All ways in which the members of an ensemble can be combined."""

SINGLE: Final[Mapping[str, type[Single]]] = {
    made.kind: made for made in (SemiAdversarialAutoencoder, Autoencoder)
}
"""Networks that others are put together from, by their kind on a card."""


class _Several(Protectable):
    """Networks with one state dict and one card; a member may be what a card says of it: ``{"kind": ..., "config": ...}``."""

    def __init__(self, members: Sequence[Single | Mapping[str, Any]]) -> None:
        super().__init__()
        if not members:
            raise ModelError("There is no network to put together.", hint="Give at least one.")
        self.members = nn.ModuleList(_built(m) if isinstance(m, Mapping) else m for m in members)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights."""
        return {"members": [{"kind": m.kind, "config": m.config} for m in self.members]}

    @property
    def is_random(self) -> bool:
        """Whether a member has something to draw outside training."""
        return any(member.is_random for member in self.members)


class Reader(nn.Module):
    """A frozen gender classifier that an ensemble carries with it.

    ``config`` are arguments of :class:`~privface.models.CompactResNet`, which sees a part of the 112 x 112 frame at ``size`` pixels, in [-1, 1].
    """

    def __init__(self, *, config: Mapping[str, Any], size: int, crop: Sequence[float]) -> None:
        super().__init__()
        x1, y1, x2, y2 = crop
        self.spec = InputSpec(size=(size, size), value_range=(-1.0, 1.0), crop=(x1, y1, x2, y2))
        self.network = CompactResNet(**config)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values."""
        return {"config": self.network.config, "size": self.spec.size[0], "crop": list(self.spec.crop)}

    def forward(self, images: Tensor) -> Tensor:
        """Log-odds of "male", ``(N,)``, of images ``(N, 3, H, W)`` in [0, 1]."""
        odds: Tensor = self.network(to_input(images, self.spec))[:, 0]
        return odds


class EnsembleSan(_Several):
    """Several networks of which each photo gets one output (Mirjalili, Raschka, Ross, BTAS 2018, arXiv 1807.11936).

    No rule asks for a label, and none looks at other photos.

    Args:
        members: The networks.
        rule: ``"random"``: one member, drawn by a hash of the photo's own values, so that a photo always gets the
            same. ``"average"``: the mean of all outputs. ``"undecided"``: the output that ``readers`` know least of,
            by their mean absolute log-odds; which gender is the true one is not asked.
        readers: Gender classifiers for ``"undecided"``: :class:`Reader`, or what a card says of one.

    Raises:
        ModelError: If the rule is unknown, or ``"undecided"`` has no reader, or another rule has one.
    """

    kind: ClassVar[str] = "ensemble-san"

    def __init__(
        self,
        members: Sequence[Single | Mapping[str, Any]],
        *,
        rule: Rule = "random",
        readers: Sequence[Reader | Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(members)
        if rule not in RULES or bool(readers) != (rule == "undecided"):
            raise ModelError(
                f"rule={rule!r} with {len(readers)} readers.",
                hint=f"Rules are {', '.join(RULES)}; 'undecided' needs readers, the others none.",
            )
        self.rule: Rule = rule
        self.readers = nn.ModuleList(Reader(**r) if isinstance(r, Mapping) else r for r in readers)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights."""
        return {**super().config, "rule": self.rule, "readers": [reader.config for reader in self.readers]}

    def forward(self, images: Tensor, *, strength: float = 1.0, noise: Noise | None = None) -> Tensor:
        """Protect a batch; strength and noise are the members', the choice of a member is the photo's alone."""
        if self.rule == "average":
            return torch.stack([m(images, strength=strength, noise=noise) for m in self.members]).mean(0)
        # one at a time: a choice must not change the shape of the batch that other photos are computed in
        return torch.cat([self._chosen(image[None], strength, noise) for image in images])

    def _chosen(self, image: Tensor, strength: float, noise: Noise | None) -> Tensor:
        if self.rule == "random":
            digest = hashlib.blake2b(image.detach().float().cpu().numpy().tobytes(), digest_size=8).digest()
            drawn = self.members[int.from_bytes(digest, "big") % len(self.members)]
            one: Tensor = drawn(image, strength=strength, noise=noise)
            return one
        outputs = [member(image, strength=strength, noise=noise) for member in self.members]
        known = torch.stack(
            [torch.stack([r(out).abs().mean() for r in self.readers]).mean() for out in outputs]
        )
        least: Tensor = outputs[int(known.argmin())]
        return least


class FlowSan(_Several):
    """Networks one behind the other (Mirjalili, Raschka, Ross: FlowSAN, IEEE Access 2019, arXiv 1905.01388).

    Each sees what the one before made of the photo. In training only the last one learns.
    """

    kind: ClassVar[str] = "flow-san"

    def __init__(self, members: Sequence[Single | Mapping[str, Any]]) -> None:
        super().__init__(members)
        for earlier in self.members[:-1]:
            earlier.eval().requires_grad_(False)

    def forward(self, images: Tensor, *, strength: float = 1.0, noise: Noise | None = None) -> Tensor:
        """Protect a batch; every stage has that strength, and that noise where it has something to draw."""
        for member in self.members:
            images = member(images, strength=strength, noise=noise).clamp(0.0, 1.0)
        return images

    def learn(self, images: Tensor) -> Pass:
        """The last network's pass behind the others, through which no gradient goes."""
        with torch.no_grad():
            for earlier in self.members[:-1]:
                images = earlier(images).clamp(0.0, 1.0)
        last: Any = self.members[-1]
        passed: Pass = last.learn(images)
        return passed


def _built(card: Mapping[str, Any]) -> Single:
    kind = str(card.get("kind"))
    if kind not in SINGLE:
        raise ValueError(f"a member of kind {kind!r}")
    return SINGLE[kind](**card["config"])
