"""Options of a command that are declared once, as the fields of a dataclass."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

Command = Callable[..., None]


def fields_as_options(
    *, flags: Mapping[str, str | None] | None = None, panels: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Command], Command]:
    """For a command that takes filled dataclasses: Typer sees an option for each field in their place.

    Type and default of an option are the field's, its help is the line of the class's docstring under ``Attributes:``.

    Args:
        flags: Names of options that differ from the field's; ``None`` leaves the field at its default.
        panels: Headings of the help, with the fields that stand below each.
    """
    titles = {name: title for title, names in (panels or {}).items() for name in names}

    def decorate(command: Command) -> Command:
        given = inspect.signature(command, eval_str=True).parameters.values()
        kinds: dict[str, Any] = {p.name: p.annotation for p in given if is_dataclass(p.annotation)}
        own = {
            name: [one for one in fields(kind) if (flags or {}).get(one.name, "") is not None]
            for name, kind in kinds.items()
        }

        @wraps(command)
        def run(**values: Any) -> None:
            made = {
                name: kind(**{f.name: _frozen(f, values.pop(f.name)) for f in own[name]})
                for name, kind in kinds.items()
            }
            command(**values, **made)

        shown = [
            option
            for p in given
            for option in (_options(p.annotation, own[p.name], flags or {}, titles) if p.name in own else [p])
        ]
        run.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in shown])  # type: ignore[attr-defined]
        return run

    return decorate


def _options(
    kind: type, chosen: Sequence[Field[Any]], flags: Mapping[str, str | None], titles: Mapping[str, str]
) -> Iterator[inspect.Parameter]:
    helps, types = _helps(kind), get_type_hints(kind)
    for one in chosen:
        default = inspect.Parameter.empty if one.default is MISSING else one.default
        flag = flags.get(one.name) or f"--{one.name.replace('_', '-')}"
        if default is True:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        taken = types[one.name]
        if get_origin(taken) is tuple:  # an option that may be repeated
            default, taken = None, list[get_args(taken)[0]] | None  # type: ignore[misc]
        told = typer.Option(flag, help=helps.get(one.name), rich_help_panel=titles.get(one.name))
        yield inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[taken, told],
        )


def _frozen(one: Field[Any], value: Any) -> Any:
    """What a field takes: an option that is repeated gives a list, or ``None`` where it is not given."""
    return tuple(value or ()) if isinstance(one.default, tuple) else value


def _helps(kind: type) -> dict[str, str]:
    """The lines under ``Attributes:`` of the docstrings of a class and its bases, by field."""
    helps: dict[str, str] = {}
    for part in kind.__mro__:
        text = inspect.cleandoc(part.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for name, told in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE):
            helps.setdefault(name, " ".join(told.split()).replace("``", "`"))
    return helps
