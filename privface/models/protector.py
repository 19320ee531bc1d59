"""A trained perturbation model, frozen: images in, protected images out, no label asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privface.device import Device
from privface.errors import CheckpointError, ConfigError, LabelError
from privface.models.bundled import model_folder
from privface.models.checkpoint import SavedNetwork, build, load_network
from privface.models.composites import SINGLE, EnsembleSan, FlowSan
from privface.models.erased_code import ErasedCode
from privface.models.face_model import network_sha256
from privface.models.inputs import require_unit_images
from privface.models.parts import ImageNoise
from privface.models.privacynet import PrivacyNet
from privface.models.protectable import Protectable
from privface.models.san2018 import WHY_GENDERS, San2018
from privface.records import FRAME
from privface.threads import map_parts

KINDS: Mapping[str, type[Protectable]] = {
    made.kind: made for made in (*SINGLE.values(), EnsembleSan, FlowSan, PrivacyNet, ErasedCode, San2018)
}
"""Every network that protects, by what the card beside its weights calls it."""


def class_of(saved: SavedNetwork, *, where: Path) -> type[Protectable]:
    """The class of the network in a model folder."""
    if saved.kind not in KINDS:
        raise CheckpointError(
            f"{where} holds a {saved.kind!r}; one of {', '.join(KINDS)} is needed.",
            hint="Give a run folder made by `privface train`. A new kind of network stands in KINDS (privface/models/protector.py).",
        )
    return KINDS[saved.kind]


class Protector:
    """Applies a trained network to aligned faces.

    ``protector = Protector.load(run); protected = protector(images)``. The object is frozen: calling it
    never changes it, and the same image gives the same bytes whatever batch it stands in.

    A network of the family with a variational code or a corruption of its input can be asked to draw. Each image's random
    numbers are then a function of seed, number and the image (:class:`~privface.models.parts.ImageNoise`), so that all of the above
    still holds; another seed gives another output.

    Args:
        network: The trained network; put into evaluation mode.
        size: Side of the aligned images it was trained on, in pixels.
        strength: Scale of the change (residual networks), 0 to 2; 1 is what was trained and audited.
        draw: Seed of a randomised protection, 0 to 2**64 - 1; ``None`` draws nothing.
        number: Which of the draws with this seed.
        device: Where it computes, and in what.

    Attributes:
        fingerprint: SHA-256 of the weights with the network's :attr:`~privface.models.protectable.Protectable.mark`, with the
            seed (and number) of a randomised protection, and with strength and device where these are not 1 and the CPU in fp32.
            The arguments are attributes, too.

    Raises:
        ConfigError: If strength, seed or number is out of range, or the network has nothing to draw.
    """

    def __init__(
        self,
        network: Protectable,
        *,
        size: int = FRAME,
        strength: float = 1.0,
        draw: int | None = None,
        number: int = 0,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        network.check(strength=strength, draw=draw, number=number)
        # On CPUs convolutions are about twice as fast with channels last.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.network.place(device)
        self.device, self.size, self.strength = device, size, strength
        self.draw, self.number = draw, number
        digest = network_sha256(network) + network.mark
        if draw is not None:
            digest = f"{digest}+draw:{draw}" + (f".{number}" if number else "")
        digest = digest if strength == 1.0 else f"{digest}@{strength:g}"
        self.fingerprint = digest if device.is_plain else f"{digest}@{device}"

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        strength: float = 1.0,
        draw: int | None = None,
        device: Device = Device(),  # noqa: B008 - frozen
        **choices: Any,
    ) -> Protector:
        """Load a run folder written by training, or a model that comes with the package.

        Args:
            run: The folder, or ``bundled:erased``.
            strength: As for the class.
            draw: As for the class.
            device: As for the class.
            choices: What the network leaves open. :class:`~privface.models.erased_code.ErasedCode`: ``hide``, names of attributes
                (by default gender, or all that it has learnt where gender is not among them), and ``code_size`` (by default
                its largest). :class:`~privface.models.PrivacyNet`: ``hide`` (by default those of its training).

        Raises:
            ConfigError: If the network has no such choice, or not that one, or nothing random.
            CheckpointError: If the folder is incomplete, damaged, a pickle or of another kind.
            LabelError: If its network needs the true gender of every photo.
            ModelError: If no model of that name comes with the package.
        """
        folder = model_folder(run)
        saved = load_network(folder)
        made = class_of(saved, where=folder)
        if made.needs_genders:
            raise LabelError(
                f"{folder} cannot be loaded without a source of true genders: {WHY_GENDERS}.",
                hint="Give a table of file and gender: `privface protect --genders LABELS.csv`, or load_protector(genders=...).",
            )
        network = build(made, saved, where=folder)
        network.choose(**choices)
        size = int(saved.meta.get("size", FRAME))
        return cls(network, size=size, strength=strength, draw=draw, device=device)

    def redrawn(self, number: int) -> Protector:
        """The same model and seed, another draw; 0 is the first one.

        Raises:
            ConfigError: If nothing is drawn, or the number is out of range.
        """
        if self.draw is None:
            raise ConfigError(
                f"Draw {number} of a protector that draws nothing.", hint="Load it with a seed: draw=SEED."
            )
        given: dict[str, Any] = {"size": self.size, "strength": self.strength, "device": self.device}
        return Protector(self.network, draw=self.draw, number=number, **given)

    @property
    def has_code(self) -> bool:
        """Whether faces are drawn from a code and from nothing else."""
        return self.network.has_code

    def codes(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Code before and after erasing, unit rows ``(N, K)``, of aligned RGB images ``(N, 3, size, size)`` in [0, 1].

        Raises:
            ConfigError: If the model has no code.
            InputRangeError: If shape, type or range break the contract.
        """
        batch = torch.from_numpy(np.ascontiguousarray(images))
        require_unit_images(batch, what="images to encode")

        def read(part: Tensor) -> tuple[Tensor, Tensor]:
            with torch.inference_mode():
                return self.network.codes(self._ready(part))

        found = map_parts(read, torch.split(batch, self.device.at_once))
        code, erased = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
        return code, erased

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Protect aligned RGB images ``(N, 3, size, size)`` in [0, 1]; same shape and range out.

        Raises:
            InputRangeError: If shape, type or range break the contract.
        """
        batch = torch.from_numpy(np.ascontiguousarray(images))
        require_unit_images(batch, what="images to protect")
        return np.concatenate(map_parts(self._protect, torch.split(batch, self.device.at_once)))

    def _protect(self, part: Tensor) -> NDArray[np.float32]:
        if self.draw is None or not len(part):
            return self._computed(part)
        # one image alone: what it gets must not hang on the shape of a batch
        sources = [ImageNoise(image, seed=self.draw, number=self.number) for image in part]
        return np.concatenate(
            [self._computed(image[None], noise=n) for image, n in zip(part, sources, strict=True)]
        )

    def _computed(self, part: Tensor, **drawn: ImageNoise) -> NDArray[np.float32]:
        with torch.inference_mode(), self.device.autocast():
            output = self.network(self._ready(part), strength=self.strength, **drawn)
            found: NDArray[np.float32] = output.float().clamp(0.0, 1.0).cpu().numpy()
            return found

    def _ready(self, part: Tensor) -> Tensor:
        return part.to(self.device.name).float().contiguous(memory_format=torch.channels_last)
