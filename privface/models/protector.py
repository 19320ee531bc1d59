"""A trained perturbation model, frozen: images in, protected images out, no label asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privface.device import Device
from privface.errors import CheckpointError, ConfigError, LabelError
from privface.models.bundled import model_folder
from privface.models.checkpoint import SavedNetwork, build, load_network
from privface.models.composites import SINGLE, EnsembleSan, FlowSan, Single
from privface.models.draws import ImageNoise, check_draw
from privface.models.erased_code import KIND as ERASED_CODE
from privface.models.erased_code import ErasedCode
from privface.models.face_model import network_sha256
from privface.models.family import Autoencoder
from privface.models.inputs import require_unit_images
from privface.models.privacynet import PrivacyNet
from privface.models.san2018 import KIND as SAN_2018
from privface.models.san2018 import WHY_GENDERS, San2018
from privface.records import FRAME
from privface.threads import map_parts

Perturbation: TypeAlias = Single | EnsembleSan | FlowSan | PrivacyNet | ErasedCode
"""A network that turns an image, and nothing but an image, into a protected one."""

KINDS: Mapping[str, type[Perturbation]] = {
    **SINGLE,
    "ensemble-san": EnsembleSan,
    "flow-san": FlowSan,
    "privacynet": PrivacyNet,
    ERASED_CODE: ErasedCode,
}


def kind_of(network: Perturbation | San2018) -> str:
    """What :func:`~privface.models.checkpoint.save_network` writes on the card."""
    if isinstance(network, San2018):
        return SAN_2018
    return next(kind for kind, made in KINDS.items() if isinstance(network, made))


def rebuild(saved: SavedNetwork, *, where: Path) -> Perturbation:
    """The perturbation network of a model folder.

    Raises:
        CheckpointError: If the folder holds another kind of network, or weights that do not fit.
        LabelError: If the network needs the true gender of every photo.
    """
    if saved.kind == SAN_2018:
        raise LabelError(
            f"{where} cannot be loaded without a source of true genders: {WHY_GENDERS}.",
            hint="Give a table of file and gender: `privface protect --genders LABELS.csv`, or load_protector(genders=...).",
        )
    if saved.kind not in KINDS:
        raise CheckpointError(
            f"{where} holds a {saved.kind!r}; one of {', '.join(KINDS)} is needed.",
            hint="Give a run folder made by `privface train`.",
        )
    make: Callable[..., Perturbation] = KINDS[saved.kind]
    return build(make, saved, where=where)


class Protector:
    """Applies a trained autoencoder to aligned faces.

    ``protector = Protector.load(run); protected = protector(images)``. The object is frozen: calling it
    never changes it, and the same image gives the same bytes whatever batch it stands in.

    A network of the family with a variational code or a corruption of its input can be asked to draw. Each image's random
    numbers are then a function of seed, number and the image (:class:`~privface.models.draws.ImageNoise`), so that all of the above
    still holds; another seed gives another output.

    Args:
        network: The trained autoencoder; put into evaluation mode.
        size: Side of the aligned images it was trained on, in pixels.
        strength: Scale of the change (residual networks), 0 to 2; 1 is what was trained and audited.
        draw: Seed of a randomised protection, 0 to 2**64 - 1; ``None`` draws nothing.
        number: Which of the draws with this seed.
        device: Where it computes, and in what.

    Attributes:
        network: The autoencoder.
        draw: See above.
        number: See above.
        device: See above.
        fingerprint: SHA-256 of the weights, with an ensemble's rule or what a PrivacyNet hides, with the seed (and number) of a randomised
            protection, and with strength and device where these are not 1 and the CPU in fp32.

    Raises:
        ConfigError: If strength, seed or number is out of range, or the network has nothing to draw.
    """

    def __init__(
        self,
        network: Perturbation,
        *,
        size: int = FRAME,
        strength: float = 1.0,
        draw: int | None = None,
        number: int = 0,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        if not 0.0 <= strength <= 2.0:
            raise ConfigError(
                f"strength={strength} is outside 0..2.", hint="1 is the strength the model was trained with."
            )
        if strength != 1.0 and isinstance(network, ErasedCode):
            raise ConfigError(
                f"strength={strength:g}: a face drawn from an erased code has no strength.",
                hint="Leave it out; a smaller code hides more (`--code-size`).",
            )
        if draw is not None:
            check_draw(draw, number)
            if not can_draw(network):
                raise ConfigError(
                    f"draw={draw}: this network ({kind_of(network)}) has nothing random, so every draw would be the same.",
                    hint="Leave the draw out, or train a variational or denoising backbone (docs/methods.md).",
                )
        # On CPUs convolutions are about twice as fast with channels last.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.device = device
        self._place()
        self.size = size
        self.strength = strength
        self.draw, self.number = draw, number
        digest = network_sha256(network)
        if isinstance(network, EnsembleSan):  # how it comes to one output is no weight
            digest = f"{digest}+{network.rule}"
        if isinstance(network, PrivacyNet):
            digest = f"{digest}+hide:{','.join(network.hide)}"
        if isinstance(network, ErasedCode):
            digest = f"{digest}+code:{network.chosen}"
        if draw is not None:
            digest = f"{digest}+draw:{draw}" + (f".{number}" if number else "")
        digest = digest if strength == 1.0 else f"{digest}@{strength:g}"
        self.fingerprint = digest if device.is_plain else f"{digest}@{device}"

    def _place(self) -> None:
        if isinstance(self.network, ErasedCode):
            self.network.place(self.device)
        else:
            self.network.to(self.device.name)

    @classmethod
    def load(
        cls,
        run: Path | str,
        *,
        strength: float = 1.0,
        hide: Sequence[str] | None = None,
        draw: int | None = None,
        code_size: int | None = None,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> Protector:
        """Load a run folder written by training, or a model that comes with the package.

        Args:
            run: The folder, or ``bundled:erased``.
            strength: As for the class.
            hide: Attributes to hide, for a :class:`~privface.models.PrivacyNet`; by default those of its training.
            draw: As for the class.
            code_size: Width of the code, for an :class:`~privface.models.erased_code.ErasedCode`; by default its largest.
            device: As for the class.

        Raises:
            ConfigError: If the model has no choice of attributes, or not these, or nothing random, or no code of that size.
            CheckpointError: If the folder is incomplete, damaged, a pickle or of another kind.
            LabelError: If its network needs the true gender of every photo.
            ModelError: If no model of that name comes with the package.
        """
        folder = model_folder(run)
        saved = load_network(folder)
        network = rebuild(saved, where=folder)
        if hide is not None:
            if not isinstance(network, PrivacyNet):
                raise ConfigError(
                    f"{run} hides gender and gives no choice; asked for {', '.join(hide)}.",
                    hint="Leave the choice out, or train with the method privacynet.",
                )
            network.choose(hide)
        if code_size is not None:
            if not isinstance(network, ErasedCode):
                raise ConfigError(
                    f"{run} has no code size to choose; asked for {code_size}.",
                    hint="Leave it out, or train with the method erased-code.",
                )
            network.choose(code_size)
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
        return isinstance(self.network, ErasedCode)

    def codes(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Code before and after erasing, unit rows ``(N, K)``, of aligned RGB images ``(N, 3, size, size)`` in [0, 1].

        Raises:
            ConfigError: If the model has no code.
            InputRangeError: If shape, type or range break the contract.
        """
        network = self.network
        if not isinstance(network, ErasedCode):
            raise ConfigError(f"A {kind_of(network)} has no code.", hint="Train with the method erased-code.")
        batch = torch.from_numpy(np.ascontiguousarray(images))
        require_unit_images(batch, what="images to encode")

        def read(part: Tensor) -> tuple[Tensor, Tensor]:
            with torch.inference_mode():
                return network.codes(self._ready(part))

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
        if self.draw is not None and len(part):
            return np.concatenate([self._drawn(image, self.draw) for image in part])
        with torch.inference_mode(), self.device.autocast():
            return _pixels(self.network(self._ready(part), strength=self.strength))

    def _ready(self, part: Tensor) -> Tensor:
        return part.to(self.device.name).float().contiguous(memory_format=torch.channels_last)

    def _drawn(self, image: Tensor, seed: int) -> NDArray[np.float32]:
        """One image alone: what it gets must not hang on the shape of a batch."""
        noise = ImageNoise(image, seed=seed, number=self.number)
        with torch.inference_mode(), self.device.autocast():
            return _pixels(self.network(self._ready(image[None]), strength=self.strength, noise=noise))


def _pixels(output: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = output.float().clamp(0.0, 1.0).cpu().numpy()
    return found


def can_draw(network: Perturbation) -> bool:
    """Whether a network has something to draw: a variational code, or a corruption of its input."""
    return isinstance(network, Autoencoder | EnsembleSan | FlowSan) and network.is_random
