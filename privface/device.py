"""Where networks compute, and in which numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from privface.errors import ConfigError

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]

_BF16_UNITS = {"amx_bf16", "avx512_bf16", "bf16"}  # flags of x86, and of Arm
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Device:
    """A CPU or one GPU, and the numbers that convolutions compute in. All else stays in fp32.

    Attributes:
        name: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: ``"fp32"``; ``"bf16"`` (8 bits of mantissa); ``"fp16"`` (11 bits) on GPUs only.
    """

    name: str = "cpu"
    precision: Precision = "fp32"

    @classmethod
    def choose(cls, name: str = "auto", precision: str = "auto") -> Device:
        """The device that a user means.

        Args:
            name: ``"auto"`` takes a GPU where torch sees one, else the CPU.
            precision: ``"auto"`` takes bf16 where the device has units for it, else fp32.

        Raises:
            ConfigError: If there is no such device here, or it has no such precision.
        """
        if (name, precision) in {("auto", "fp32"), ("cpu", "fp32")} and find_spec("torch") is None:
            return cls()  # ONNX Runtime's
        import torch  # noqa: PLC0415

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if name == "auto":
            name = "cuda" if count else "cpu"
        kind, _, number = name.partition(":")
        if kind not in {"cpu", "cuda"} or (number and (kind == "cpu" or not number.isdecimal())):
            raise ConfigError(f"device is {name!r}.", hint="Choose auto, cpu, cuda or cuda:N.")
        if kind == "cuda" and int(number or 0) >= count:
            raise ConfigError(
                f"device is {name!r}, and torch sees {count} GPUs here.",
                hint="Choose cpu, or install torch with CUDA on a machine with a GPU.",
            )
        if precision == "auto":
            low = torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else has_bf16()
            precision = "bf16" if low else "fp32"
        if precision not in _DTYPES:
            raise ConfigError(f"precision is {precision!r}.", hint="Choose auto, fp32, bf16 or fp16.")
        if (kind, precision) == ("cpu", "fp16"):
            raise ConfigError("precision is 'fp16', which CPUs compute slowly.", hint="Choose bf16 or fp32.")
        return cls(name, precision)  # type: ignore[arg-type]

    @property
    def is_plain(self) -> bool:
        """Whether it is the CPU in fp32, where the same input always gives the same bytes."""
        return self == Device()

    @property
    def dtype(self) -> torch.dtype:
        """The type that convolutions compute in."""
        import torch  # noqa: PLC0415

        found: torch.dtype = getattr(torch, _DTYPES[self.precision])
        return found

    @property
    def at_once(self) -> int:
        """Images a pass. On a CPU more of them leave the caches, and the rest are for other cores."""
        return 16 if self.name == "cpu" else 256

    def autocast(self) -> AbstractContextManager[object]:
        """A context in which torch computes convolutions in that type."""
        import torch  # noqa: PLC0415

        return torch.autocast(self.name.partition(":")[0], self.dtype, enabled=self.precision != "fp32")

    def __str__(self) -> str:
        return f"{self.name}-{self.precision}"


@cache
def has_bf16() -> bool:
    """Whether the CPU has units for bf16. oneDNN also says yes where it has to emulate it, many times slower than fp32."""
    import torch  # noqa: PLC0415

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001 - no public query
        return False
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False  # another system, which does not say
    return bool(words & _BF16_UNITS)
