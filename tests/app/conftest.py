"""A kit of tiny untrained models, a running server, and a client that speaks to it as the page does."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gradio = pytest.importorskip("gradio", reason="extra [app]")
httpx = pytest.importorskip("httpx")


@dataclass(frozen=True)
class Kit:
    """Folders of models that were never trained, and faces that were drawn."""

    run: Path
    matcher: Path
    probe: Path
    faces: Path


@pytest.fixture(scope="session")
def kit(tmp_path_factory, one_thread):
    import torch

    from privface.data import generate_faces, write_faces
    from privface.models import CompactResNet, SemiAdversarialAutoencoder, save_network

    root = tmp_path_factory.mktemp("app-kit")
    torch.manual_seed(0)
    network = SemiAdversarialAutoencoder(width=4, depth=1, blocks=1)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    save_network(root / "run", network, kind="semi-adversarial-autoencoder", meta={"size": 64})
    (root / "run" / "provenance.json").write_text('{"people": [], "matchers": [], "classifiers": []}')
    crop = {"input_size": 32, "crop": [0.0, 0.0, 112.0, 112.0]}
    for name, kind, outputs in (("matcher", "matcher", 16), ("probe", "gender-classifier", 1)):
        save_network(root / name, CompactResNet(outputs=outputs, width=8, stages=1), kind=kind, meta=crop)
    write_faces(
        generate_faces(people=64, photos_per_person=2, seed=5, first_person=100, gender_cue=2.0),
        root / "faces",
    )
    return Kit(root / "run", root / "matcher", root / "probe", root / "faces")


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """An archive of files by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def archives(kit, tmp_path_factory):
    """Originals with their labels in a folder, and what the kit's model made of them, as zips."""
    from privface.models import Protector
    from privface.protect import protect_folder

    root = tmp_path_factory.mktemp("archives")
    protect_folder(kit.faces, root / "out", Protector.load(kit.run))
    originals = shutil.make_archive(str(root / "originals"), "zip", kit.faces.parent, kit.faces.name)
    return Path(originals), Path(shutil.make_archive(str(root / "protected"), "zip", root / "out"))


class Client:
    """One visitor of the page, by HTTP."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = uuid.uuid4().hex
        self.http = httpx.Client(base_url=address, timeout=300, trust_env=False)
        functions = self.http.get("/config").json()["dependencies"]
        self._functions = {f["api_name"]: f["id"] for f in functions}

    def upload(self, *files: tuple[str, bytes]) -> Any:
        return self.http.post("/gradio_api/upload", files=[("files", (name, data)) for name, data in files])

    def paths(self, *files: tuple[str, bytes]) -> list[str]:
        response = self.upload(*files)
        assert response.status_code == 200, response.text
        return list(response.json())

    def ask(self, name: str, data: Sequence[Any]) -> str:
        """Run a function of the page to its end: the HTML that it shows last, or its error in words."""
        session = {"session_hash": self.session}
        asked = {"data": data, "fn_index": self._functions[name], **session}
        joined = self.http.post("/gradio_api/queue/join", json=asked)
        if joined.status_code != 200:
            return str(joined.text)
        with self.http.stream("GET", "/gradio_api/queue/data", params=session) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    return str(output["data"][0] if message["success"] else output.get("error"))
        raise AssertionError("no answer")

    def protect(self, paths: Sequence[str], *, method: str = "Blur (baseline)", strength: float = 1.0) -> str:
        return self.ask("protect", [_files(*paths), None, method, strength, "aligned"])

    def audit(self, original: str, protected: str, labels: str | None = None) -> str:
        files = _files(original, protected) + (_files(labels) if labels else [None])
        return self.ask("audit", [*files, "quick", "aligned", True])

    def trade_off(self, *paths: str) -> str:
        return self.ask("trade_off", [_files(*paths)])


def _files(*paths: str) -> list[Any]:
    return [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]


@dataclass
class Running:
    """A server in a process of its own."""

    address: str
    process: subprocess.Popen[str]
    temporary: Path  # its folder for temporary files; nobody else's

    def client(self) -> Client:
        return Client(self.address)

    def files(self) -> list[Path]:
        """Files on disk now, but the lock of the private folder."""
        return [p for p in self.temporary.rglob("*") if p.is_file() and p.name != "lock"]

    def peak_memory(self) -> int:
        """Largest resident set so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts ``privface app`` with options."""
    running: list[Running] = []

    def begin(*options: object) -> Running:
        temporary = tmp_path_factory.mktemp("server-tmp")
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONWARNINGS", None)
        with (temporary.parent / f"{temporary.name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "privface", "app", "--port", "0", *map(str, options)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert process.stdout is not None
        until = time.monotonic() + 300
        for line in process.stdout:
            if "http://" in line:
                found = Running(line.split("Open ")[1].split()[0], process, temporary)
                running.append(found)
                return found
            assert time.monotonic() < until
        raise AssertionError(f"the server ended with {process.wait()}")

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


@pytest.fixture(scope="session")
def server(start, kit):
    """A server with the kit's models."""
    return start("--model", kit.run, "--matcher", f"mini:{kit.matcher}", "--probe", f"mini:{kit.probe}")


@pytest.fixture
def client(server):
    made = server.client()
    yield made
    made.http.close()


@pytest.fixture(scope="session")
def make_png():
    """A small picture that its number tells from all others."""
    from privface.images import encode_image

    def made(seed: int) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
        return encode_image(coarse.repeat(8, 0).repeat(8, 1), ".png")

    return made
