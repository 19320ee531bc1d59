"""A trained perturbation model, frozen: images in, protected images out, no label asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privface.errors import CheckpointError, ConfigError, LabelError
from privface.models.bundled import model_folder
from privface.models.checkpoint import SavedNetwork, build, load_network
from privface.models.composites import SINGLE, EnsembleSan, FlowSan, Single
from privface.models.face_model import network_sha256
from privface.models.inputs import require_unit_images
from privface.models.privacynet import PrivacyNet
from privface.models.san2018 import KIND as SAN_2018
from privface.models.san2018 import WHY_GENDERS, San2018
from privface.records import FRAME
from privface.threads import map_parts

Perturbation: TypeAlias = Single | EnsembleSan | FlowSan | PrivacyNet
"""A network that turns an image, and nothing but an image, into a protected one."""

_AT_ONCE = 16
"""Images a pass: more of them leave the caches, and the rest are for other cores."""

KINDS: Mapping[str, type[Perturbation]] = {
    **SINGLE,
    "ensemble-san": EnsembleSan,
    "flow-san": FlowSan,
    "privacynet": PrivacyNet,
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

    Args:
        network: The trained autoencoder; put into evaluation mode.
        size: Side of the aligned images it was trained on, in pixels.
        strength: Scale of the change (residual networks), 0 to 2; 1 is what was trained and audited.

    Attributes:
        network: The autoencoder.
        fingerprint: SHA-256 of the weights, with an ensemble's rule or what a PrivacyNet hides, and with the strength where it is not 1.
    """

    def __init__(self, network: Perturbation, *, size: int = FRAME, strength: float = 1.0) -> None:
        if not 0.0 <= strength <= 2.0:
            raise ConfigError(
                f"strength={strength} is outside 0..2.", hint="1 is the strength the model was trained with."
            )
        # On CPUs convolutions are about twice as fast with channels last.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.size = size
        self.strength = strength
        digest = network_sha256(network)
        if isinstance(network, EnsembleSan):  # how it comes to one output is no weight
            digest = f"{digest}+{network.rule}"
        if isinstance(network, PrivacyNet):
            digest = f"{digest}+hide:{','.join(network.hide)}"
        self.fingerprint = digest if strength == 1.0 else f"{digest}@{strength:g}"

    @classmethod
    def load(cls, run: Path | str, *, strength: float = 1.0, hide: Sequence[str] | None = None) -> Protector:
        """Load a run folder written by training, or a model that comes with the package.

        Args:
            run: The folder, or ``bundled:san``.
            strength: As for the class.
            hide: Attributes to hide, for a :class:`~privface.models.PrivacyNet`; by default those of its training.

        Raises:
            ConfigError: If the model has no choice of attributes, or not these.
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
        return cls(network, size=int(saved.meta.get("size", FRAME)), strength=strength)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Protect aligned RGB images ``(N, 3, size, size)`` in [0, 1]; same shape and range out.

        Raises:
            InputRangeError: If shape, type or range break the contract.
        """
        batch = torch.from_numpy(np.ascontiguousarray(images))
        require_unit_images(batch, what="images to protect")
        return np.concatenate(map_parts(self._protect, torch.split(batch, _AT_ONCE)))

    def _protect(self, part: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            ready = part.float().contiguous(memory_format=torch.channels_last)
            found: NDArray[np.float32] = self.network(ready, strength=self.strength).clamp(0.0, 1.0).numpy()
        return found
