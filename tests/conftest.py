"""A toy world on disk that rooms above `models` share: generated faces, a compact matcher, a trained run."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# the same examples on every machine; HYPOTHESIS_PROFILE=search looks for new ones
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

TINY: dict[str, Any] = {
    "validation_share": 0.25,
    "size": 32,
    "seed": 3,
    "classifiers": [{"size": 16, "width": 8, "stages": 1, "epochs": 2}],
    "adversaries": [{"size": 16, "width": 8, "stages": 1}],
    "autoencoder": {"width": 4, "depth": 2, "blocks": 1},
    "losses": {"reconstruction": 0.1},
    "loop": {
        "learning_rate": 0.03,
        "warmup_steps": 0,
        "ema": 0.0,
        "epochs": 2,
        "batch_size": 8,
        "epoch_images": 24,
        "device": "cpu",
        "precision": "32-true",
    },
}
"""Settings of a training run that takes about a second; `data` and `matchers` are filled in by the world."""


@dataclass(frozen=True)
class World:
    """Folders of the toy world; nobody writes into them.

    Attributes:
        learners: 24 people x 3 photos with labels.csv, to train on.
        audited: 64 other people x 4 photos with labels.csv.
        matcher: Folder of a compact matcher.
        run: A finished training run.
        settings: What the run was trained with, as plain data.
    """

    learners: Path
    audited: Path
    matcher: Path
    run: Path
    settings: dict[str, Any]


@pytest.fixture(autouse=True)
def no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is never one process of several, whatever started it."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def one_registry() -> Iterator[None]:
    """torch parses its table of 500 ONNX functions anew for every export; here once a session."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = functools.cache(ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(made))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> World:
    """The toy world, made once a session."""
    from privface.config import parse_settings
    from privface.data import generate_faces, write_faces
    from privface.models import save_network
    from privface.pipeline import train
    from privface.records import InputSpec
    from privface.training import ArraySource, train_matcher

    root = tmp_path_factory.mktemp("world")
    learners = generate_faces(people=24, photos_per_person=3, seed=5)
    write_faces(learners, root / "learners")
    write_faces(
        generate_faces(people=64, photos_per_person=4, seed=5, first_person=100, gender_cue=2.0),
        root / "audited",
    )
    spec = InputSpec(size=(32, 32), value_range=(-1.0, 1.0))
    network = train_matcher(
        ArraySource(learners.pixels),
        learners.identities,
        spec=spec,
        dimensions=16,
        epochs=6,
        batch_size=12,
        width=8,
        stages=2,
        seed=0,
    )
    save_network(
        root / "matcher", network, kind="matcher", meta={"input_size": 32, "crop": [0.0, 0.0, 112.0, 112.0]}
    )
    settings = {
        **TINY,
        "data": {"source": str(root / "learners"), "faces": "aligned"},
        "matchers": [f"mini:{root / 'matcher'}"],
    }
    train(parse_settings(settings), root / "run")
    return World(root / "learners", root / "audited", root / "matcher", root / "run", settings)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Runs privface with arguments, in this process: exit code, what was printed, and what was said of errors."""
    from privface.cli import main as entry
    from privface.cli.show import Console

    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["privface", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            sys.exit(entry.main())  # main may also simply return
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    yield call
    Console.start(debug=False, quiet=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photos, see CONTRIBUTING: lfw/, lfw.csv, utkface/, utkface.csv."""
    return _folder("PRIVFACE_DATA")


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder of third-party ONNX models."""
    return _folder("PRIVFACE_MODELS")


def _folder(name: str) -> Path:
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    return Path(value)


@pytest.fixture(scope="session")
def chromium() -> Callable[..., Any]:
    """Starts headless Chromium, which whoever asks for it quits."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed (Debian: apt-get install chromium-driver)")

    def started(
        *arguments: str, preferences: dict[str, str] | None = None, logs: tuple[str, ...] = ()
    ) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        fixed = (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
        )
        for argument in (*fixed, *arguments):
            options.add_argument(argument)
        options.add_experimental_option("prefs", preferences or {})
        options.set_capability("goog:loggingPrefs", dict.fromkeys(("browser", *logs), "ALL"))
        return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

    return started


@pytest.fixture(scope="session")
def protected(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The audited people's photos, protected by the run; nobody writes into it."""
    from privface.models import Protector
    from privface.protect import protect_folder

    out = tmp_path_factory.mktemp("protected") / "out"
    summary = protect_folder(world.audited, out, Protector.load(world.run))
    assert summary.counts["ok"] == 256, "the toy protector must change every photo"
    return out


def unit_faces(count: int, *, size: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, float32 ``(count, 3, size, size)`` in [0, 1]."""
    coarse = np.random.default_rng(seed).random((count, 3, 4, 4))
    fine = np.kron(coarse, np.ones((1, 1, size // 4, size // 4)))
    return fine.astype(np.float32)


@pytest.fixture
def make_images() -> Any:
    """:func:`unit_faces` (importlib mode has no sibling imports)."""
    return unit_faces
