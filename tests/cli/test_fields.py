"""An option is declared once, as a keyword or a field of a dataclass: name, type, default, and its line of the docstring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from privface.cli import main
from privface.cli.fields import command_options


@dataclass(frozen=True)
class Soup:
    """What is cooked.

    Attributes:
        litres: How much; the pot
            takes ``9``.
        spices: Repeatable.
        hot: Served hot.
        vegan: No meat.
        secret: Not for guests.
    """

    litres: float
    spices: tuple[str, ...] = ()
    hot: bool = True
    vegan: bool = False
    secret: int = 7


def cook(arguments: str) -> Any:
    app, served = typer.Typer(), []

    @app.command()
    @command_options(
        flags={"guest": "WHO", "spices": "--with", "secret": None}, panels={"Kitchen": ("litres",)}
    )
    def serve(guest: str, *, soup: Soup, tip: tuple[int, ...] = ()) -> None:
        """Serve.

        Options:
            guest: Who
                eats.
            tip: For the cook.
        """
        served.append((guest, soup, *tip))

    done = CliRunner().invoke(app, arguments.split(), env={"COLUMNS": "200"})
    return served[0] if served else done


def test_a_dataclass_is_filled_from_options():
    assert cook("ann --litres 2") == ("ann", Soup(2.0))
    full = cook("--litres 1 bob --with salt --with pepper --no-hot --vegan")
    assert full == ("bob", Soup(1.0, ("salt", "pepper"), hot=False, vegan=True))
    assert cook("ann --litres 2 --tip 3 --tip 4") == ("ann", Soup(2.0), 3, 4)


@pytest.mark.parametrize("arguments", ["ann", "ann --litres 2 --secret 1", "ann --litres 2 --no-vegan"])
def test_what_is_missing_or_no_option_is_refused(arguments):
    assert cook(arguments).exit_code == 2


def test_help_is_the_line_of_the_docstring():
    said = cook("--help").output
    assert "How much; the pot takes `9`." in said
    assert "Kitchen" in said
    for words in ("WHO", "Who eats.", "For the cook."):
        assert said.count(words) == (2 if words == "WHO" else 1), (
            "in its place alone; an argument also in the usage"
        )


def parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for part in getattr(command, "commands", {}).values():
        yield from parameters(part)


def test_every_option_and_argument_of_every_command_says_what_it_does():
    found = list(parameters(typer.main.get_command(main.app)))
    assert len(found) > 150
    assert {one.param_type_name for one in found} == {"option", "argument"}
    assert [one.name for one in found if not one.help] == []
