"""What is loaded only when it is asked for, and what need not be there at all."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def on_demand(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` (PEP 562) for the names that its ``if TYPE_CHECKING:`` imports.

    So each name stands once, where type checkers read it, too.

    Args:
        package: Its ``__name__``.
        file: Its ``__file__``.
    """
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    block = next(node.body for node in body if isinstance(node, ast.If))
    homes = {
        alias.name: node.module
        for node in block
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return load, lambda: sorted({*vars(sys.modules[package]), *homes})


def has_parquet() -> bool:
    """Whether Parquet can be read and written; a light install has no pyarrow."""
    return find_spec("pyarrow") is not None
