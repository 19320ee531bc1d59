"""Puts shelf, gate, service and page together and serves them on this machine."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from privface.app.folder import private_folder
from privface.app.uploads import LIMITS
from privface.device import Device
from privface.errors import ConfigError, MissingExtraError
from privface.options import Computing

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from privface.app.service import Service

HOST = "127.0.0.1"
"""The only address that is served; others come through a proxy that knows its people (docs/app.md)."""

_SWEEP_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    model: Path | None = None  # run folder or exported file; by default the model that comes with the package
    matchers: Sequence[str] = ()  # specifications of face matchers
    probes: Sequence[str] = ()  # specifications of gender classifiers
    port: int = 7860  # of 127.0.0.1; 0 takes a free one
    # of the model, the matchers and the classifiers; audits take the device alone
    where: Computing = field(default_factory=Computing)


def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve the page until the process is told to stop (SIGINT, SIGTERM); nothing is left behind. For the main thread.

    ``ready`` is called with the page's address once it can be opened.

    Raises:
        PrivfaceError: If the port is taken or out of range, Gradio is not installed, or a model cannot be loaded.
    """
    with (
        _listening(settings.port) as listener,
        private_folder(Path(tempfile.gettempdir())) as folder,
        open_page(settings, folder) as app,
    ):
        import uvicorn  # noqa: PLC0415 - came with Gradio

        if ready is not None:
            ready(f"http://{HOST}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
        # uvicorn raises a signal again once it has shut down; SIGTERM would then end us before the folder is wiped
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def open_page(settings: Settings, folder: Path) -> Iterator[ASGIApp]:
    """The page as an ASGI application, and a thread that lets go what nobody uses any more.

    The folder is private, and wiped by whoever made it.
    """
    # before Gradio is imported: it asks for these at several places
    os.environ.update(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1")
    # what a library writes for a moment lies there, too
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    stop = threading.Event()
    try:
        try:
            from privface.app.page import application  # noqa: PLC0415 - optional, and takes seconds
        except ImportError as error:
            raise MissingExtraError(
                f"The page needs {error.name}, which is not installed.",
                hint="Install the extra: pip install 'privface[app]'.",
            ) from error
        service = build_service(settings, folder)

        def sweep() -> None:
            while not stop.wait(_SWEEP_SECONDS):
                service.shelf.forget_old()

        threading.Thread(target=sweep, daemon=True).start()
        yield application(service)
    finally:
        stop.set()
        tempfile.tempdir = before


def build_service(settings: Settings, folder: Path) -> Service:
    """The work behind the page, its models loaded."""
    from privface.app.auditing import AuditBench  # noqa: PLC0415 - torch
    from privface.app.methods import baselines, model_methods  # noqa: PLC0415
    from privface.app.protecting import PhotoDesk  # noqa: PLC0415
    from privface.app.service import Service  # noqa: PLC0415
    from privface.app.shelf import Shelf  # noqa: PLC0415
    from privface.models import load_gender_probe, load_matcher  # noqa: PLC0415
    from privface.models.bundled import DEFAULT_PROTECTOR, model_folder  # noqa: PLC0415

    model = Path(DEFAULT_PROTECTOR) if settings.model is None else settings.model
    here = Device.choose(settings.where.device, settings.where.precision)
    return Service(
        desk=PhotoDesk(
            matchers=[load_matcher(spec).on(here) for spec in settings.matchers],
            probes=[load_gender_probe(spec).on(here) for spec in settings.probes],
        ),
        methods=[*model_methods(model, settings.where), *baselines()],
        bench=AuditBench(
            folder,
            matchers=settings.matchers,
            probes=settings.probes,
            device=settings.where.device,
            model=model if (model_folder(model) / "provenance.json").is_file() else None,
        ),
        shelf=Shelf(capacity=LIMITS.held_bytes, seconds=LIMITS.held_seconds),
    )


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket on this machine's own address, taken before minutes are spent on models."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"The port {port} is outside 0..65535.", hint="7860 is usual; 0 takes a free one.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(128)
        except OSError as error:
            raise ConfigError(
                f"Port {port} of {HOST} cannot be used: {error.strerror}.",
                hint="Choose another --port; 0 takes a free one.",
            ) from error
        yield listener
