"""Docstrings name other objects as Sphinx does, :class:`~a.b.C`; here they become links or code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:attr|class|const|data|exc|func|meth|mod|obj):`(~?)([\w.]+)`")


class Roles(Extension):
    """Rewrites the roles of every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each object that griffe has read."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_code, obj.docstring.value)


def _code(match: re.Match[str]) -> str:
    short, name = match.groups()
    return f"`{name.rpartition('.')[2] if short else name}`"
