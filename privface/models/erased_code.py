"""A face drawn anew from a narrow code that gender, or other attributes, were taken out of; the code is the only way through."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from privface.attributes import BY_GENDER, GENDER, MAX_ATTRIBUTES, Attribute
from privface.device import Device
from privface.errors import ConfigError
from privface.models import onnx_backend
from privface.models.decoder import FaceDecoder
from privface.models.face_model import FaceModel
from privface.models.family import CodeReader
from privface.models.frozen import frozen
from privface.models.inputs import to_input
from privface.models.networks import CompactResNet, FaceEncoder
from privface.models.protectable import Protectable
from privface.models.specs import ONNX_SPEC
from privface.records import FRAME, InputSpec

MAX_ROUNDS = 10
"""How often each attribute is erased, at most."""

_NATIVE: Mapping[str, type[nn.Module]] = {
    "encoder": FaceEncoder,
    "compact": CompactResNet,
    "autoencoder": CodeReader,
}


_USUAL: Mapping[str, InputSpec] = {
    "encoder": InputSpec(value_range=(-1.0, 1.0)),
    "compact": InputSpec(value_range=(-1.0, 1.0)),
    "onnx": ONNX_SPEC,
}
"""What a network of each form is shown where nothing else was said."""


class FrozenReader(nn.Module):
    """A matcher, or an autoencoder's encoder, that is kept inside a model file, as weights of ours or as the bytes of an ONNX graph.

    Args:
        form: ``"encoder"`` (:class:`~privface.models.networks.FaceEncoder`), ``"compact"``
            (:class:`~privface.models.CompactResNet`), ``"autoencoder"``
            (:class:`~privface.models.family.CodeReader`) or ``"onnx"``.
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
            "form": form, "spec": dict(spec), "outputs": outputs, "network": network, "length": length,
        }  # fmt: skip
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
        content = onnx_backend.graph_bytes(matcher.source, matcher.spec.size)
        reader = cls(form="onnx", spec=spec, outputs=outputs, length=len(content))
        reader.content.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fast": {}}  # made again from what is kept anyway

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.prepare()

    def prepare(self) -> None:
        """Convert the network now, not at the first call.

        No other thread may compute meanwhile: torch.fx, which traces it, changes how every module is called.
        """
        if self.plain is None and self.device not in self._fast:
            self._fast = {self.device: frozen(self._source, self.device)}

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings ``(N, D)``, not normalised, of aligned RGB ``(N, 3, H, W)`` in [0, 1]."""
        self.prepare()
        network = self._fast[self.device] if self.plain is None else self.plain
        result: Tensor = network(to_input(images, self.spec))
        return result

    @property
    def is_usual(self) -> bool:
        """Whether it is shown what networks of its form usually are."""
        reader = self.network
        usual = reader.spec if isinstance(reader, CodeReader) else _USUAL.get(self.config["form"])
        return self.spec == usual

    def unpack(self) -> None:
        """Compute with the network as it came from now on, and keep it as a part, as torch's exporter must see it."""
        self.plain = onnx_backend.to_torch(self._source)

    @property
    def _source(self) -> nn.Module | bytes:
        return self.content.cpu().numpy().tobytes() if self.network is None else self.network.eval()


class CodeEraser(nn.Module):
    """A fitted :class:`~privface.erasers.RegionalTransport` in torch: codes of ``size`` values, of which ``keep`` are left.

    With 1 for ``regions`` there is none beside the map for all, with 0 ``bits`` moved rows themselves are given.
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

    def __init__(self, *, size: int, keep: int, regions: int, bits: int = 0, classes: int = 2) -> None:
        super().__init__()
        regions = regions if regions > 1 else 0
        self.bits, self.gates, count = bits, classes - 1, 1 + regions
        shapes = {
            "axes": (size, keep),
            "means": (count, classes, keep),
            "maps": (count, classes, keep, keep),
            "middle": (count, keep),
            "gate": (count * self.gates, keep, keep),
            "slope": (count * self.gates, keep),
            "offset": (count * self.gates,),
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
        """Unit rows ``(N, size)`` to unit rows ``(N, keep)`` in which all labels are distributed alike."""
        kept = F.normalize(codes @ self.axes, dim=1)
        moved = self._by(kept, torch.zeros_like(kept[:, 0], dtype=torch.int64))
        if not len(self.centres):
            return moved
        nearest = (moved @ self.centres.T - 0.5 * self.centres.square().sum(1)).argmax(1)
        return self._by(kept, nearest + 1)

    def _by(self, kept: Tensor, number: Tensor) -> Tensor:
        """Each row moved by the map of that number, from the side that its gate sees it on."""
        odds = [torch.zeros_like(kept[:, 0])]
        for gate in range(self.gates):
            place = number * self.gates + gate
            bent = torch.einsum("nd,nde,ne->n", kept, self.gate[place], kept)
            odds.append(bent + (kept * self.slope[place]).sum(1) + self.offset[place])
        side = torch.stack(odds).argmax(0)
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


class EraserChain(nn.Module):
    """Several erasers, one after the other: an attribute each, and again in further rounds, as each disturbs the others' work.

    Each takes ``drops`` values away and makes that many ``classes`` alike.
    """

    def __init__(self, *, size: int, drops: Sequence[int], classes: Sequence[int], regions: int) -> None:
        super().__init__()
        self.links = nn.ModuleList()
        for drop, count in zip(drops, classes, strict=True):
            self.links.append(CodeEraser(size=size, keep=size - drop, regions=regions, classes=count))
            size -= drop

    def move(self, codes: Tensor) -> Tensor:
        """Unit rows ``(N, size)`` to unit rows ``(N, keep)`` in which all labels of each attribute are distributed alike."""
        for link in self.links:
            codes = link.move(codes)  # type: ignore[operator]
        return codes

    def tell(self, moved: Tensor) -> Tensor:
        """The moved rows where they lay in the code, ``(N, size)``: chains of other attributes take other values away."""
        for link in reversed(self.links):
            moved = moved @ link.axes.T  # type: ignore[operator]
        return moved

    def forward(self, codes: Tensor) -> Tensor:
        """Unit rows ``(N, size)`` to erased unit rows ``(N, size)``."""
        return self.tell(self.move(codes))


class ErasedCode(Protectable):
    """Photo to code, attributes out of the code, code to face.

    Each encoder's embedding, at unit length and less its mean, side by side; principal components of that, at unit length,
    are the code. Nothing but the erased code reaches the decoder: what can be learnt from a drawn face can be learnt from
    the erased code (data-processing inequality; Cover and Thomas, 2006, section 2.8).

    Args:
        encoders: Frozen matchers or encoders of autoencoders (:class:`FrozenReader`), or what a card says of them.
        sizes: Values of the code that the eraser leaves, one number or several. The decoder draws from each of them: a
            smaller one hides more and keeps fewer matches.
        drop: Values more that the code has before the eraser projects out those that tell most.
        regions: Maps of the eraser.
        bits: Signs that the eraser takes; 0 for none.
        decoder: Keyword arguments of :class:`~privface.models.decoder.FaceDecoder`, or what makes one for a code of so many values.
        attributes: What can be hidden (:class:`~privface.attributes.Attribute` with its classes), or what a card says of them.
            There is an eraser for each choice among them.
        rounds: How often each attribute is erased.
        chosen: Size in use; by default the largest.
        hidden: Attributes in use; by default gender, or all where it is none of them.

    Raises:
        ConfigError: If a size is out of range, or signs are asked of a chain of erasers.
    """

    kind: ClassVar[str] = "erased-code"
    has_strength: ClassVar[bool] = False
    has_code: ClassVar[bool] = True
    centres: Tensor
    middle: Tensor
    axes: Tensor

    # ten arguments: what its card says
    def __init__(
        self,
        *,
        encoders: Sequence[FrozenReader | Mapping[str, Any]],
        sizes: Sequence[int],
        drop: int,
        regions: int,
        bits: int,
        decoder: Callable[[int], FaceDecoder] | Mapping[str, Any],
        attributes: Sequence[Attribute | Mapping[str, Any]] = (BY_GENDER,),
        rounds: int = 1,
        chosen: int | None = None,
        hidden: Sequence[str] | None = None,
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
        self.attributes = tuple(Attribute.from_dict(a) if isinstance(a, Mapping) else a for a in attributes)
        names = self._names = [attribute.name for attribute in self.attributes]
        if not 1 <= len(set(names)) == len(names) <= MAX_ATTRIBUTES or not 1 <= rounds <= MAX_ROUNDS:
            raise ConfigError(
                f"Attributes {', '.join(names) or 'none'} in {rounds} rounds cannot be hidden.",
                hint=f"Name 1 to {MAX_ATTRIBUTES}, each once, and 1 to {MAX_ROUNDS} rounds.",
            )
        self.sizes, self.drop, self.regions, self.bits, self.rounds = widths, drop, regions, bits, rounds
        self._is_chain = rounds > 1 or names != [GENDER]
        if bits and self._is_chain:
            raise ConfigError(
                f"bits={bits}: signs are for gender alone in one round.",
                hint="Leave bits out, or attributes and rounds.",
            )
        self.erasers = nn.ModuleDict()
        for size, choice in itertools.product(widths, self.combinations):
            self.erasers[self._key(size, choice)] = self._eraser(size, choice)
        self.decoder = FaceDecoder(**decoder) if isinstance(decoder, Mapping) else decoder(self.told)
        self.register_buffer("centres", torch.zeros(dimensions))
        self.register_buffer("middle", torch.zeros(dimensions))
        self.register_buffer("axes", torch.zeros(dimensions, widths[-1] + drop))
        usual = [GENDER] if GENDER in names else names
        self.choose(
            code_size=widths[-1] if chosen is None else chosen, hide=usual if hidden is None else hidden
        )

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as plain values, for the card beside the weights."""
        card = {name: getattr(self, name) for name in ("sizes", "drop", "regions", "bits", "chosen")}
        card |= {"encoders": [encoder.config for encoder in self.encoders], "decoder": self.decoder.config}
        if not self._is_chain:
            return card
        attributes = [attribute.to_dict() for attribute in self.attributes]
        return {**card, "attributes": attributes, "rounds": self.rounds, "hidden": list(self.hidden)}

    @property
    def told(self) -> int:
        """Values that the decoder is told, at most."""
        return self.sizes[-1] + (self.drop if self._is_chain else 0)

    @property
    def combinations(self) -> list[tuple[str, ...]]:
        """Every choice of attributes to hide."""
        counts = range(1, len(self._names) + 1)
        return [choice for count in counts for choice in itertools.combinations(self._names, count)]

    def chain(self, hidden: Sequence[str]) -> list[tuple[Attribute, int]]:
        """The attributes that an eraser of these takes out, in turn, and how many values go with each."""
        taken = [attribute for attribute in self.attributes if attribute.name in hidden]
        each, rest = divmod(self.drop, len(taken))
        first = [(attribute, each + (number < rest)) for number, attribute in enumerate(taken)]
        return first + [(attribute, 0) for attribute in taken] * (self.rounds - 1)

    def _eraser(self, size: int, hidden: Sequence[str]) -> CodeEraser | EraserChain:
        whole = size + self.drop
        if not self._is_chain:
            return CodeEraser(size=whole, keep=size, regions=self.regions, bits=self.bits)
        attributes, drops = zip(*self.chain(hidden), strict=True)
        classes = [len(attribute.classes) for attribute in attributes]
        return EraserChain(size=whole, drops=drops, classes=classes, regions=self.regions)

    def _key(self, size: int, hidden: Sequence[str]) -> str:
        """Name of an eraser among the weights; attributes by their places, as a column's name may hold anything."""
        places = [str(k) for k, name in enumerate(self._names) if name in hidden]
        return f"{size}-{'-'.join(places)}" if self._is_chain else str(size)

    @property
    def mark(self) -> str:
        """What the encoders are shown, where it is unusual; what is hidden, where there is a choice; the size in use."""
        specs = repr([encoder.spec for encoder in self.encoders])
        usual = all(encoder.is_usual for encoder in self.encoders)
        shown = "" if usual else f"+input:{hashlib.sha256(specs.encode()).hexdigest()[:16]}"
        hidden = f"+hide:{','.join(self.hidden)}" if self._is_chain else ""
        return f"{shown}{hidden}+code:{self.chosen}"

    def choose(
        self, *, code_size: int | None = None, hide: Sequence[str] | None = None, **choices: Any
    ) -> None:
        """Use a code of ``code_size`` values, and hide these attributes.

        Raises:
            ConfigError: If the model has no such code or attribute; lists those it has.
        """
        super().choose(**choices)
        if code_size is not None:
            if code_size not in self.sizes:
                raise ConfigError(
                    f"code size {code_size}: this model has codes of {', '.join(map(str, self.sizes))} values.",
                    hint="Choose one of them, or train with method_options.code_sizes.",
                )
            self.chosen = code_size
        if hide is not None:
            self.hidden = self.among(hide, self._names)

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
    def eraser(self) -> CodeEraser | EraserChain:
        """What takes the hidden attributes out of codes of the size in use."""
        chosen: CodeEraser | EraserChain = self.erasers[self._key(self.chosen, self.hidden)]  # type: ignore[assignment]
        return chosen

    def draw(self, erased: Tensor) -> Tensor:
        """Faces ``(N, 3, size, size)`` in [0, 1] of erased codes."""
        result: Tensor = self.decoder(F.pad(erased, (0, self.told - erased.shape[1])))
        return result

    def codes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The code of images ``(N, 3, H, W)`` in [0, 1] and the erased code, unit rows."""
        # in few bits an eraser leaves what it should take
        with torch.autocast(images.device.type, enabled=False):
            code = self.project(self.read(images))
            return code, self.eraser(code)

    def forward(self, images: Tensor, *, strength: float = 1.0) -> Tensor:
        """Protected faces of aligned RGB images ``(N, 3, H, W)`` in [0, 1]; their strength is always 1."""
        return self.draw(self.codes(images)[1])
