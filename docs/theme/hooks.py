"""Brings pages from outside docs/ into the site, and turns links between files into links between pages.

Every page is also read on a code host, where its links name files of the repository. So they stay as they are in the
files and are changed here, while the site is built.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "project/readme.md",
    "experiments/README.md": "project/experiments.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changes.md",
    "SECURITY.md": "project/security.md",
    **{
        f"privface/models/weights/{name}/README.md": f"project/bundled-{name}.md"
        for name in ("erased", "matcher", "gender")
    },
}
PICTURES = (".png", ".svg")

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2[ ]*$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside and the pictures that they show."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
        for target, _ in _LINK.findall(text):
            picture = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
            if picture.endswith(PICTURES) and not picture.startswith("docs/"):
                place = f"project/{picture}"
                if files.get_file_from_path(place) is None:
                    files.append(File.generated(config, place, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages; a file of the repository that is no page keeps its name and loses its link."""
    del config
    here = page.file.src_uri
    source = next((outside for outside, uri in OUTSIDE.items() if uri == here), f"docs/{here}")

    def link(match: re.Match[str]) -> str:
        target, anchor = match.group(1), match.group(2) or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = OUTSIDE.get(path) or (path[len("docs/") :] if path.startswith("docs/") else f"project/{path}")
        if files.get_file_from_path(uri) is not None:
            return f"]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor})"
        # anything else stays, and `mkdocs build --strict` refuses it if it is nowhere
        return "]" if (ROOT / path).exists() and not path.startswith("docs/") else match.group(0)

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(link, markdown[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, markdown[end:])])
