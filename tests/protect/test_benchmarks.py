"""The scripts behind the claims of docs/scale.md: they run, and their checks can fail."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privface.protect import ManifestRow

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_mutated_images_crash_nothing_and_let_nothing_through(tmp_path):
    done = run("fuzz", "--count", 200, "--seed", 3, "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "fuzz.json").read_text())
    assert found["files"] == sum(found["counts"].values()) == 200
    assert found["counts"]["ok"] > 40
    assert found["counts"]["unreadable"] > 40
    assert found["counts"]["too_large"] >= 2


def test_the_search_for_original_bytes_finds_them(tmp_path):
    spec = importlib.util.spec_from_file_location("fuzz", FOLDER / "fuzz.py")
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    photo = fuzz.encode(fuzz.photo(np.random.default_rng(1)), ".jpg")
    clean = fuzz.encode(fuzz.photo(np.random.default_rng(2)), ".jpg").replace(
        fuzz.MARKER, b"x" * len(fuzz.MARKER)
    )
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    outputs = {"clean.jpg": clean, "marked.jpg": clean + fuzz.MARKER, "tail.jpg": clean + photo[-60:]}
    for name, data in outputs.items():
        (tmp_path / "in" / name).write_bytes(photo)
        (tmp_path / "out" / name).write_bytes(data)
    rows = [ManifestRow(input=name, status="ok", model="m", output=name) for name in outputs]
    assert fuzz.leaks(tmp_path / "in", tmp_path / "out", rows) == ["marked.jpg", "tail.jpg"]


@pytest.mark.slow
def test_exiftool_finds_nothing_in_outputs():
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    done = run("metadata")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no output tells anything but its pixels" in done.stdout
    assert done.stdout.count("tags planted") == 4


@pytest.mark.slow
def test_the_speed_of_aligned_faces_is_measured(tmp_path):
    done = run("protecting", "aligned", "--count", 32, "--rounds", 1, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["images"] == 32
    assert set(found["images_per_second"]) == {"plain", "model", "protect"}
    assert found["protect_over_plain"] > 0
