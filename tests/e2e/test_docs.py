"""The site: it builds without a warning and without the network, and what its pages tell people to type is true."""

from __future__ import annotations

import importlib
import operator
import re
import runpy
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import shellingham
import typer

from privface.audit import auditor
from privface.cli.main import app
from privface.data import generate_faces, write_faces
from privface.models import CompactResNet, Protector, SemiAdversarialAutoencoder, save_network
from privface.protect import protect_folder
from tests.e2e.conftest import started

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ELSEWHERE = {
    "integrations.md": "tests/e2e/test_integrations.py",
    "methods.md": "tests/models/test_san2018.py",
}
"""Pages whose Python another test runs."""

BLOCK = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


WITH_PYTHON = [page for page in PAGES if any(block["language"] == "python" for block in blocks(page))]


# Python ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, own_photos: Callable[..., None]) -> Path:
    """What the pages assume: labelled photos, matchers, a run folder, and what the demo leaves behind."""
    place = tmp_path_factory.mktemp("docs")
    own_photos(place, people=16, learners=8)
    write_faces(generate_faces(people=16, photos_per_person=2, seed=4), place / "demo" / "faces")
    protector = SemiAdversarialAutoencoder(width=4, depth=1, blocks=1)
    for run in ("runs/mine", "demo/run"):
        save_network(place / run, protector, kind=protector.kind, meta={"size": 112})
    protect_folder(place / "photos", place / "protected", Protector.load(place / "runs" / "mine"))
    for folder, kind, outputs in (
        ("demo/matcher", "matcher", 16),
        ("demo/matcher-unseen", "matcher", 16),
        ("demo/classifier", "gender-classifier", 1),
    ):
        network = CompactResNet(outputs=outputs, width=8, stages=2)
        save_network(place / folder, network, kind=kind, meta={"input_size": 32})
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in WITH_PYTHON if name_of(page) not in ELSEWHERE], ids=name_of
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, world, tmp_path, monkeypatch, one_thread):
    """As a script, but in this process: a fresh one would spend most of its time on loading torch."""
    place = tmp_path / "place"
    shutil.copytree(world, place)
    code = []
    for block in blocks(page):
        if block["language"] != "python":
            continue
        title = re.fullmatch(r'\s*title="([\w.]+)"', block["info"])
        if title:  # a file that the reader is to write
            (place / title[1]).write_text(block["code"], encoding="utf-8")
        else:
            code.append(block["code"])
    (place / "page.py").write_text("\n\n".join(code), encoding="utf-8")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(auditor, "SECTIONS", auditor.SECTIONS)  # one page adds to them
    before = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
        try:
            runpy.run_path("page.py", run_name="__main__")
        finally:
            for name in set(sys.modules) - before:  # the reader's own files
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(place)):
                    del sys.modules[name]


def test_what_is_run_elsewhere_is_run_there():
    assert set(ELSEWHERE) <= {name_of(page) for page in WITH_PYTHON}
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), f"{test} no longer runs {page}"


# commands -------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[str]:
    lines = [
        re.sub(r"^(?:[A-Z_]+=\S*\s+)+", "", line.strip())  # PYTHONPATH=. privface ...
        for block in blocks(page)
        if block["language"] in {"", "bash", "sh", "console"}
        for line in block["code"].replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("privface ")]


def parse(line: str) -> None:
    """Parse as the command line would, without running; options in brackets are taken as given."""
    words = shlex.split(line.replace("[", " ").replace("]", " ").replace(" ... ", " "), comments=True)
    words = [word for word in words[1:] if word != "..."]
    words = words[: words.index("|")] if "|" in words else words  # what follows belongs to another program
    command = typer.main.get_command(app)
    context = command.make_context("privface", words)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, rest)
        context = command.make_context(name, words, parent=context)


WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_of_a_page_is_understood(page, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # --install-completion writes there
    shell = ("bash", "/bin/bash")  # whatever started the tests
    monkeypatch.setattr(shellingham, "detect_shell", lambda *_: shell)
    for line in commands(page):
        try:
            parse(line)
        except SystemExit as stop:  # an option that does its work while it is read, such as --show-completion
            if stop.code:
                pytest.fail(f"{name_of(page)}: {line} ends with {stop.code}")
        except Exception as error:  # click's own errors, by any name
            pytest.fail(f"{name_of(page)}: {line}\n{getattr(error, 'message', error)}")


def test_a_command_that_does_not_exist_is_not_understood():
    assert len(WITH_COMMANDS) > 8
    parse("privface audit --original a --protected b --fail-if 'leakage>0.60'")
    for line in ("privface protect a b --modell c", "privface erase fit", "privface unmask a"):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(line)


# the site -------------------------------------------------------------------------------------------------


class _Fetched(HTMLParser):
    """Addresses that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in {"script", "img", "iframe", "video", "audio", "source"} and named.get("src"):
            self.found.append(str(named["src"]))
        if tag == "link" and named.get("rel") != "canonical" and named.get("href"):
            self.found.append(str(named["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    build = ("mkdocs", "build", "--strict", "--site-dir", place)
    variables = {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = started(sys.executable, "-m", *build, cwd=ROOT, **variables)
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        reader = _Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        for address in reader.found:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
            if address.startswith("data:") or page.name == "404.html":
                continue
            assert (page.parent / address.partition("?")[0]).exists(), f"{page.name} wants {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name
    assert not list(site.rglob("*.py"))


ROOMS = [
    "data",
    "faces",
    "models",
    "erasers",
    "losses",
    "training",
    "protect",
    "audit",
    "report",
    "pipeline",
    "transforms",
]


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_holds_every_public_name_and_no_other(site, room):
    page = (site / "api" / f"{room}.html").read_text(encoding="utf-8")
    names = set(re.findall(rf'id="privface\.{room}\.(\w+)"', page))
    module = importlib.import_module(f"privface.{room}")
    here = {
        name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__
    }
    assert names == set(getattr(module, "__all__", {name for name in here if not name.startswith("_")}))
    assert not re.search(r":(class|func|meth|data|attr):`", page)


def test_the_table_on_the_first_page_is_the_readme_s():
    table = re.search(r"^\| protection \|.*?(?=\n\n)", (DOCS / "index.md").read_text("utf-8"), re.M | re.S)
    assert table is not None
    assert table.group() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_of_pages_lead_somewhere_on_a_code_host_too():
    for page in [*PAGES, *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))]:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            file = (page.parent / target) if target else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in slugs, f"{page.name} links to {target}#{anchor}"


# figures --------------------------------------------------------------------------------------------------


def test_the_steps_of_the_architecture_s_walks_exist():
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| \d+ \| `(\S+)\.py: ([\w.]+)` \|", text, re.MULTILINE)
    assert {file.partition("/")[0] for file, _ in steps} == {"cli", "protect", "pipeline", "audit"}
    for file, name in steps:
        module = importlib.import_module(f"privface.{file.replace('/', '.')}")
        assert operator.attrgetter(name)(module), "a name that is gone raises"


@pytest.mark.slow
def test_the_figures_can_be_drawn_again(tmp_path):
    runpy.run_path(str(DOCS / "figures" / "draw.py"))["main"](tmp_path)
    drawn = {file.name for file in tmp_path.iterdir()}
    kept = {file.name for file in (DOCS / "figures").glob("*.svg")}
    assert drawn == kept
    for name in kept:
        old, new = (ET.parse(place / name).getroot() for place in (DOCS / "figures", tmp_path))  # noqa: S314  # our own files
        assert old.attrib["viewBox"].split()[:2] == new.attrib["viewBox"].split()[:2]
        assert {element.tag for element in old.iter()} == {element.tag for element in new.iter()}
        assert not re.search(r'href="(?!#)', (DOCS / "figures" / name).read_text("utf-8"))
        assert any(f"figures/{name}" in page.read_text("utf-8") for page in PAGES), f"{name} is on no page"
