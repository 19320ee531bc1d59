"""A protector as a torchvision transform: for datasets, loaders and whatever else calls ``transforms.v2``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from privface.errors import ConfigError, InputRangeError, ProtectError
from privface.faces.align import as_aligned
from privface.images import rgb_pixels, to_pixels, to_unit
from privface.models.inputs import require_unit_images
from privface.protect.protector import ImageProtector, check_batch, face_fault

_IMAGES = (Image.Image, tv_tensors.Image)


class Protect(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Puts the protected version in the place of an aligned face, of the same kind and at the protector's size.

    Takes one image, or a sample (tuple, list, dict) with images and, beside them, labels and names, which pass. Stand it first
    in a ``Compose``: what follows then never sees an original. Images are

    - PIL images of any mode with a defined range; the answer is RGB, upright, without metadata;
    - uint8 tensors or ``tv_tensors.Image`` in 0..255, ``(3, H, W)`` or ``(N, 3, H, W)``;
    - floating-point ones in [0, 1], rounded to 8 bits first, so that a face gives the same answer in any form.

    Faces are RGB in the ArcFace frame, square up to 10 % and of any size; they are brought to ``(size, size)`` and not back.
    Tensors come back on their device and in their type. No gradient passes.

    An original never passes through. Where a face cannot be protected, and where something in a sample could be an image that
    torchvision would hand on as it is (a second plain tensor, an array, a video), the call raises and gives nothing.

    Args:
        protector: A ``models.Protector``, an ``OnnxProtector``, a baseline, or anything else that acts like an
            :class:`~privface.protect.ImageProtector`.

    Raises:
        ConfigError: If ``protector`` cannot be called or has no ``size``; a path must be loaded first.
    """

    def __init__(self, protector: ImageProtector) -> None:
        super().__init__()
        if not callable(protector) or not isinstance(getattr(protector, "size", None), int):
            raise ConfigError(
                f"A {type(protector).__name__} is no protector: it must be callable and have a size in pixels.",
                hint="Load a model with privface.models.Protector.load(RUN).",
            )
        self.protector = protector

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse a sample of which an original could pass, or that holds no face.

        Raises:
            InputRangeError: Names what is in the way.
        """
        others = [value for value in flat_inputs if not isinstance(value, _IMAGES)]
        unfit = next((value for value in others if isinstance(value, tv_tensors.TVTensor)), None)
        if unfit is not None:
            raise InputRangeError(
                f"The sample holds a {type(unfit).__name__}; only images are protected, and their size changes.",
                hint="Take it out of the sample; `privface protect` takes videos.",
            )
        # torchvision's rule: without an explicit image, the first plain tensor is the image
        implied = None
        if len(others) == len(flat_inputs):
            implied = next((value for value in others if isinstance(value, Tensor)), None)
            if implied is None:
                kinds = ", ".join(sorted({type(value).__name__ for value in others})) or "nothing"
                raise InputRangeError(
                    f"The sample holds no image, but {kinds}.",
                    hint="Give a PIL image or a tensor; convert arrays with torchvision's v2.ToImage().",
                )
        for value in others:
            if value is not implied and getattr(value, "ndim", 0) >= 3:
                raise InputRangeError(
                    f"The sample holds a {type(value).__name__} of shape {tuple(value.shape)} beside its image,"
                    " which would pass unprotected.",
                    hint="Wrap every image in tv_tensors.Image, and take out what is none.",
                )

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Protect one image of a sample; torchvision calls it.

        Raises:
            InputRangeError: If a tensor's shape, type or range breaks the contract.
            ImageError: If an image is not square or cannot be decoded.
            ModelError: If the protector answers with another shape or type.
            ProtectError: If its answer is undefined, out of range or the original.
        """
        if isinstance(inpt, Image.Image):
            return Image.fromarray(to_pixels(self._protected([rgb_pixels(inpt)])[0]))
        plain = inpt.as_subclass(Tensor)
        answer = self._protected(_pixels(plain))
        if plain.dtype == torch.uint8:
            protected = torch.from_numpy(to_pixels(answer)).permute(0, 3, 1, 2).contiguous()
        else:
            protected = torch.from_numpy(np.clip(answer, 0.0, 1.0))
        protected = protected.reshape(*plain.shape[:-2], *protected.shape[-2:]).to(plain)
        return tv_tensors.wrap(protected, like=inpt) if isinstance(inpt, tv_tensors.Image) else protected

    def extra_repr(self) -> str:
        """Which protector, for ``print``."""
        return f"{type(self.protector).__name__}, size={self.protector.size}"

    def _protected(self, faces: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Protected faces ``(N, 3, size, size)`` for uint8 RGB ``(H, W, 3)``, each checked."""
        size = self.protector.size
        aligned = np.stack([as_aligned(face, size=size) for face in faces])
        protected = np.asarray(self.protector(to_unit(aligned)))
        check_batch(protected, count=len(aligned), size=size)
        for place, (answer, face) in enumerate(zip(protected, aligned, strict=True)):
            reason = face_fault(answer, face)
            if reason is not None:
                raise ProtectError(
                    f"Face {place + 1} of {len(aligned)} cannot be protected: {reason}.",
                    hint="No original is given in its place; leave this face out, or check the model.",
                )
        return protected


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """uint8 RGB ``(N, H, W, 3)`` of a tensor in 0..255 or [0, 1], one image or several."""
    if images.ndim not in {3, 4} or images.shape[-3] != 3 or not images.numel():
        raise InputRangeError(
            f"A tensor of shape {tuple(images.shape)} is no face; expected (3, H, W), or (N, 3, H, W) for several.",
            hint="Put the channels first, and make grey faces RGB.",
        )
    batch = images.detach().cpu().reshape(-1, *images.shape[-3:])
    if batch.dtype == torch.uint8:
        return batch.permute(0, 2, 3, 1).numpy()
    require_unit_images(batch, what="faces")
    return to_pixels(batch.float().numpy())
