"""Options of a command, each declared once: a keyword or a field of a dataclass, and its line of the docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, get_args, get_origin

import typer

Command = Callable[..., None]


def command_options(
    *, flags: Mapping[str, str | None] | None = None, panels: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Command], Command]:
    """Typer sees an option for each keyword of a command, and for each field of a dataclass among its parameters.

    Other parameters are arguments. Type and default are those of the keyword or field; the help is its line of the docstring,
    under ``Options:`` of the command or ``Attributes:`` of the class. What is annotated for typer is left as it is.

    Args:
        flags: Names that differ: the flag of an option, what stands for an argument in the help. ``None`` leaves a field at its
            default.
        panels: Headings of the help, with the options that stand below each.
    """
    names = flags or {}
    titles = {name: title for title, below in (panels or {}).items() for name in below}

    def decorate(command: Command) -> Command:
        text, _, told = inspect.cleandoc(command.__doc__ or "").partition("\n\nOptions:\n")
        helps, shown = _lines(told), list[Parameter]()
        kinds: dict[
            str, tuple[type, list[str]]
        ] = {}  # by their parameter's name: the class, the fields to fill
        for own in inspect.signature(command, eval_str=True).parameters.values():
            kind = own.annotation
            if not is_dataclass(kind) or not isinstance(kind, type):
                shown.append(own)
                continue
            taken = [
                p
                for p in inspect.signature(kind, eval_str=True).parameters.values()
                if names.get(p.name, "") is not None
            ]
            shown += [p.replace(kind=p.KEYWORD_ONLY) for p in taken]
            helps = _helps(kind) | helps
            kinds[own.name] = kind, [p.name for p in taken]
        repeated = {p.name for p in shown if get_origin(p.annotation) is tuple}

        @wraps(command)
        def run(**values: Any) -> None:
            given = {
                name: tuple(value or ()) if name in repeated else value for name, value in values.items()
            }
            for name, (kind, fields) in kinds.items():
                given[name] = kind(**{field: given.pop(field) for field in fields})
            command(**given)

        run.__doc__ = text
        options = [_option(p, names.get(p.name), helps.get(p.name), titles.get(p.name)) for p in shown]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return run

    return decorate


def _option(one: Parameter, name: str | None, told: str | None, panel: str | None) -> Parameter:
    """The same parameter as typer takes it."""
    default, taken = one.default, one.annotation
    if get_origin(taken) is Annotated:
        return one.replace(kind=one.KEYWORD_ONLY)
    if get_origin(taken) is tuple:  # may be repeated
        taken = list[get_args(taken)[0]]  # type: ignore[misc]
        if default == ():
            default, taken = None, taken | None
    info: Any
    if one.kind is one.KEYWORD_ONLY:
        flag = name or f"--{one.name.replace('_', '-')}"
        if default is True:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        info = typer.Option(flag, help=told, rich_help_panel=panel)
    else:
        info = typer.Argument(metavar=name, help=told)
    return one.replace(kind=one.KEYWORD_ONLY, default=default, annotation=Annotated[taken, info])


def _helps(kind: type) -> dict[str, str]:
    """The lines of a class and its bases, by field."""
    helps: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        helps |= _lines(
            inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        )
    return helps


def _lines(text: str) -> dict[str, str]:
    """Lines such as ``name: what it means`` of a docstring, by name."""
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(told.split()).replace("``", "`") for name, told in found}
