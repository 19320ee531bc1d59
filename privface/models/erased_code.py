"""A face drawn anew from a narrow code that gender was taken out of; the code is the only way through."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.device import Device
from privface.errors import ConfigError
from privface.models import onnx_backend
from privface.models.decoder import FaceDecoder
from privface.models.encoder import FaceEncoder
from privface.models.face_model import FaceModel
from privface.models.frozen import frozen
from privface.models.inputs import to_input
from privface.models.networks import CompactResNet
from privface.models.protectable import Protectable
from privface.records import FRAME, InputSpec

_NATIVE: Mapping[str, type[nn.Module]] = {"encoder": FaceEncoder, "compact": CompactResNet}


class FrozenReader(nn.Module):
    """A matcher that is kept inside a model file, as weights of ours or as the bytes of an ONNX graph.

    Args:
        form: ``"encoder"`` (:class:`~privface.models.encoder.FaceEncoder`), ``"compact"``
            (:class:`~privface.models.CompactResNet`) or ``"onnx"``.
        spec: Fields of the :class:`~privface.records.InputSpec` that it expects.
        outputs: Size of its embedding.
        network: Keyword arguments of the network, for forms of ours.
        length: Bytes of the ONNX graph.

    Attributes:
        device: Where it computes, and in what.
    """

    content: Tensor

    def __init__(
        self,
        *,
        form: str,
        spec: Mapping[str, Any],
        outputs: int,
        network: Mapping[str, Any] | None = None,
        length: int = 0,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.config: dict[str, Any] = {
            "form": form,
            "spec": dict(spec),
            "outputs": outputs,
            "network": network,
            "length": length,
        }
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}
        self.spec = InputSpec(**fields)
        self.network = _NATIVE[form](**(network or {})) if form in _NATIVE else None
        if self.network is None:
            self.register_buffer("content", torch.zeros(length, dtype=torch.uint8))
        self.plain: nn.Module | None = None
        self.device = Device()
        self._fast: dict[Device, nn.Module] = {}  # in a mapping: no part of the state

    @classmethod
    def of(cls, matcher: FaceModel) -> FrozenReader:
        """Take over a loaded matcher; one that is neither ONNX nor ours is turned into ONNX.

        Raises:
            ModelError: If it cannot be.
        """
        outputs = matcher(torch.full((1, 3, FRAME, FRAME), 0.5)).shape[1]
        spec = {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(matcher.spec).items()
        }
        for form, kind in _NATIVE.items():
            if isinstance(matcher.network, kind):
                config: Any = matcher.network.config
                reader = cls(form=form, spec=spec, outputs=outputs, network=config)
                assert reader.network is not None  # noqa: S101 - narrows the type
                reader.network.load_state_dict(matcher.network.state_dict())
                return reader
        source = matcher.onnx_path or matcher.network
        assert source is not None  # noqa: S101 - the call above has converted it
        content = onnx_backend.graph_bytes(source, matcher.spec.size)
        reader = cls(form="onnx", spec=spec, outputs=outputs, length=len(content))
        reader.content.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fast": {}}  # converted graphs cannot be copied to another process

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.prepare()

    def prepare(self) -> None:
        """Convert the network now, not at the first call.

        No other thread may compute meanwhile: torch.fx, which traces it, changes how every module is called.
        """
        if self.plain is None and self.device not in self._fast:
            self._fast = {self.device: frozen(self._converted(), self.device)}

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)``, not normalised, of aligned RGB ``(N, 3, H, W)`` in [0, 1]."""
        if self.plain is not None:
            seen: Tensor = self.plain(to_input(images, self.spec))
            return seen
        self.prepare()
        result: Tensor = self._fast[self.device](to_input(images, self.spec))
        return result

    def unpack(self) -> None:
        """Compute with the network as it came from now on, and keep it as a part, as torch's exporter must see it."""
        self.plain = self._converted()

    def _converted(self) -> nn.Module:
        return (self.network or onnx_backend.to_torch(self.content.cpu().numpy().tobytes())).eval()


class CodeEraser(nn.Module):
    """A fitted :class:`~privface.erasers.RegionalTransport` in torch.

    Args:
        size: Values of the code.
        keep: Values that are left of it.
        regions: Regions with a map of their own; 1 has none beside the one for all.
        bits: Signs that are taken; 0 gives the moved rows themselves.
    """

    axes: Tensor
    means: Tensor
    maps: Tensor
    middle: Tensor
    gate: Tensor
    slope: Tensor
    offset: Tensor
    centres: Tensor
    projection: Tensor
    thresholds: Tensor

    def __init__(self, *, size: int, keep: int, regions: int, bits: int) -> None:
        super().__init__()
        regions = regions if regions > 1 else 0
        self.bits, count = bits, 1 + regions
        shapes = {
            "axes": (size, keep),
            "means": (count, 2, keep),
            "maps": (count, 2, keep, keep),
            "middle": (count, keep),
            "gate": (count, keep, keep),
            "slope": (count, keep),
            "offset": (count,),
            "centres": (regions, keep),
            "projection": (keep, bits),
            "thresholds": (bits,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    def adopt(self, fitted: Mapping[str, NDArray[np.float64]]) -> None:
        """Take over the arrays of a fitted eraser."""
        for name, array in fitted.items():
            getattr(self, name.rstrip("_")).copy_(torch.from_numpy(array))

    def move(self, codes: Tensor) -> Tensor:
        """Unit rows ``(N, size)`` to unit rows ``(N, keep)`` in which both labels are distributed alike."""
        kept = F.normalize(codes @ self.axes, dim=1)
        moved = self._by(kept, torch.zeros_like(kept[:, 0], dtype=torch.int64))
        if not len(self.centres):
            return moved
        nearest = (moved @ self.centres.T - 0.5 * self.centres.square().sum(1)).argmax(1)
        return self._by(kept, nearest + 1)

    def _by(self, kept: Tensor, number: Tensor) -> Tensor:
        """Each row moved by the map of that number, from the side that its gate sees it on."""
        bent = torch.einsum("nd,nde,ne->n", kept, self.gate[number], kept)
        side = (bent + (kept * self.slope[number]).sum(1) + self.offset[number] > 0).long()
        moved = torch.einsum("ned,nd->ne", self.maps[number, side], kept - self.means[number, side])
        return F.normalize(moved + self.middle[number], dim=1)

    def tell(self, moved: Tensor) -> Tensor:
        """What the decoder is told of moved rows ``(N, keep)``: what the signs of their projections say of them, unit rows."""
        if not self.bits:
            return moved
        signs = torch.where(moved @ self.projection > self.thresholds, 1.0, -1.0)
        return F.normalize(signs @ self.projection.T, dim=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Unit rows ``(N, size)`` to erased unit rows ``(N, keep)``."""
        return self.tell(self.move(codes))


class ErasedCode(Protectable):
    """Photo to code, gender out of the code, code to face.

    Each encoder's embedding, at unit length and less its mean, side by side; principal components of that, at unit length,
    are the code. Nothing but the erased code reaches the decoder: what can be learnt from a drawn face can be learnt from
    the erased code (data-processing inequality; Cover and Thomas, 2006, section 2.8).

    Args:
        encoders: Frozen matchers (:class:`FrozenReader`), or what a card says of them.
        sizes: Values of the code that the eraser leaves, one number or several. The decoder draws from each of them: a
            smaller one hides more and keeps fewer matches.
        drop: Values more that the code has before the eraser projects out those that tell most.
        regions: Maps of the eraser.
        bits: Signs that the eraser takes; 0 for none.
        decoder: Keyword arguments of :class:`~privface.models.decoder.FaceDecoder`, or the decoder.
        chosen: Size in use; by default the largest.

    Raises:
        ConfigError: If a size is out of range.
    """

    kind: ClassVar[str] = "erased-code"
    has_strength: ClassVar[bool] = False
    has_code: ClassVar[bool] = True
    centres: Tensor
    middle: Tensor
    axes: Tensor

    def __init__(
        self,
        *,
        encoders: Sequence[FrozenReader | Mapping[str, Any]],
        sizes: Sequence[int],
        drop: int,
        regions: int,
        bits: int,
        decoder: FaceDecoder | Mapping[str, Any],
        chosen: int | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(FrozenReader(**e) if isinstance(e, Mapping) else e for e in encoders)
        dimensions = sum(self._lengths)
        widths = sorted(sizes)
        if not widths or widths[0] < 2 or widths[-1] + drop > dimensions:
            raise ConfigError(
                f"Codes of {list(sizes)} values, {drop} more dropped, cannot be made of embeddings of {dimensions} values.",
                hint=f"Choose code sizes from 2 to {dimensions - drop}.",
            )
        self.erasers = nn.ModuleDict(
            {str(k): CodeEraser(size=k + drop, keep=k, regions=regions, bits=bits) for k in widths}
        )
        self.decoder = FaceDecoder(**decoder) if isinstance(decoder, Mapping) else decoder
        self.sizes, self.drop, self.regions, self.bits = widths, drop, regions, bits
        self.register_buffer("centres", torch.zeros(dimensions))
        self.register_buffer("middle", torch.zeros(dimensions))
        self.register_buffer("axes", torch.zeros(dimensions, widths[-1] + drop))
        self.choose(code_size=widths[-1] if chosen is None else chosen)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights."""
        return {
            "encoders": [encoder.config for encoder in self.encoders],
            "sizes": self.sizes,
            "drop": self.drop,
            "regions": self.regions,
            "bits": self.bits,
            "decoder": self.decoder.config,
            "chosen": self.chosen,
        }

    @property
    def mark(self) -> str:
        """The size in use."""
        return f"+code:{self.chosen}"

    def choose(self, *, code_size: int | None = None, **choices: Any) -> None:
        """Use a code of ``code_size`` values.

        Raises:
            ConfigError: If the model has no such code; lists those it has.
        """
        super().choose(**choices)
        if code_size is None:
            return
        if code_size not in self.sizes:
            raise ConfigError(
                f"code size {code_size}: this model has codes of {', '.join(map(str, self.sizes))} values.",
                hint="Choose one of them, or train with method_options.code_sizes.",
            )
        self.chosen = code_size

    def place(self, device: Device) -> None:
        """Move to a device, and make the encoders ready for calls from several threads."""
        super().place(device)
        for encoder in self.encoders:
            encoder.device = device  # type: ignore[assignment]
            encoder.prepare()  # type: ignore[operator]

    def exportable(self) -> Self:
        """A copy whose encoders are plain networks."""
        copied = super().exportable()
        for encoder in copied.encoders:
            encoder.unpack()  # type: ignore[operator]
        return copied

    def read(self, images: Tensor) -> Tensor:
        """All embeddings, each at unit length, side by side: ``(N, D)`` of images ``(N, 3, H, W)`` in [0, 1]."""
        return torch.cat([F.normalize(encoder(images).float(), dim=1) for encoder in self.encoders], 1)

    def project(self, read: Tensor) -> Tensor:
        """The code before erasing, unit rows ``(N, chosen + drop)``, of what :meth:`read` gives."""
        parts = torch.split(read - self.centres, self._lengths, 1)
        centred = torch.cat([F.normalize(part, dim=1) for part in parts], 1) / len(parts) ** 0.5
        return F.normalize((centred - self.middle) @ self.axes[:, : self.chosen + self.drop], dim=1)

    @property
    def _lengths(self) -> list[int]:
        return [int(encoder.outputs) for encoder in self.encoders]  # type: ignore[arg-type]

    @property
    def eraser(self) -> CodeEraser:
        """What takes gender out of codes of the size in use."""
        return self.eraser_of(self.chosen)

    def eraser_of(self, size: int) -> CodeEraser:
        """What takes gender out of codes of ``size`` values."""
        found: CodeEraser = self.erasers[str(size)]  # type: ignore[assignment]
        return found

    def draw(self, erased: Tensor) -> Tensor:
        """Faces ``(N, 3, size, size)`` in [0, 1] of erased codes."""
        result: Tensor = self.decoder(F.pad(erased, (0, self.sizes[-1] - erased.shape[1])))
        return result

    def codes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The code of images ``(N, 3, H, W)`` in [0, 1] and the erased code, unit rows."""
        with torch.autocast(
            images.device.type, enabled=False
        ):  # in few bits an eraser leaves what it should take
            code = self.project(self.read(images))
            return code, self.eraser(code)

    def forward(self, images: Tensor, *, strength: float = 1.0) -> Tensor:
        """Protected faces of aligned RGB images ``(N, 3, H, W)`` in [0, 1]; their strength is always 1."""
        return self.draw(self.codes(images)[1])
