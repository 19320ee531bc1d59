"""Files beside the code that others read by machine: the citation and the security policy."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import privface

ROOT = Path(__file__).parents[2]


def test_the_citation_says_what_the_package_says():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()  # what the format requires
    assert cited["title"] == project["name"]
    assert cited["version"] == project["version"] == privface.__version__
    assert cited["license"] == project["license"]
    assert cited["authors"] == project["authors"] == [{"name": "The privface authors"}]
    assert set(cited["keywords"]) == set(project["keywords"])
    assert cited["references"][0]["identifiers"][0]["value"] == "arXiv:1712.00321"


def test_the_supported_version_is_the_one_of_the_package():
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert f"| {'.'.join(privface.__version__.split('.')[:2])} and the main branch | yes |" in policy
