"""The page itself: three tabs of Gradio components around :class:`~privface.app.service.Service`.

The only file that imports Gradio. Uploads never become files: components here hand on the paths that
:class:`~privface.app.gate.Gate` made up, and refuse any other path or address.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from privface.app import markup
from privface.app.gate import Gate, upload_token
from privface.app.methods import STRONGEST, WEAKEST
from privface.app.service import Service
from privface.app.uploads import LIMITS, megabytes

_TEMPLATES = Path(__file__).parent / "templates"
_SWEEP = (60, 60)
"""Seconds between sweeps of Gradio's own folder, and age of what is swept. Nothing of ours is ever there."""

_EFFORTS = (
    ("quick: a first look, minutes", "quick"),
    ("standard: every attacker but fine-tuned networks", "standard"),
    ("full: those, too; hours", "full"),
)
_WHOLE, _CROPS = ("Whole photos: find every face", "detect"), ("Face crops, aligned already", "aligned")


def _held(component: Any) -> Any:
    """Make a component for files hand on paths of uploads and touch no disk and no network.

    The component itself is changed: a subclass would make Gradio write a stub file beside this one.
    """

    def checked(path: Any) -> str:
        if not upload_token(str(path), component.GRADIO_CACHE):
            raise gr.Error("This is no upload of this server. Choose the file again.")
        return str(path)

    async def checked_later(path: Any) -> str:
        return checked(path)

    def paths(payload: Any) -> list[str]:
        if payload is None:
            return []
        files = payload.root if hasattr(payload, "root") else [payload]
        return [str(file.path) for file in files]

    component.preprocess = paths
    component.move_resource_to_block_cache = checked
    component.async_move_resource_to_block_cache = checked_later
    return component


def _file(label: str, *, elem_id: str, file_count: str = "single", height: int = 140) -> Any:
    return _held(gr.File(label=label, elem_id=elem_id, file_count=file_count, height=height))


def _faces(elem_id: str) -> Any:
    label = "What the photos show"
    return gr.Radio([_WHOLE, _CROPS], value="detect", label=label, elem_id=elem_id)


def build(service: Service) -> gr.Blocks:
    """The page.

    Args:
        service: Does the work. Its folder must be the one that ``GRADIO_TEMP_DIR`` names.
    """
    with gr.Blocks(title="privface", analytics_enabled=False, delete_cache=_SWEEP, fill_width=True) as page:
        gr.HTML(
            '<header class="pf-head"><h1>privface</h1><p>Hide gender in face photos while matching keeps working, and measure '
            "honestly whether it does. Everything happens on the machine that serves this page. Photos are held in its memory and let "
            "go when you clear them or close the page, at the latest "
            f"{LIMITS.held_seconds / 60:.0f} minutes after they were last used.</p></header>"
        )
        with gr.Tabs():
            with gr.Tab("Protect", id="protect"):
                _protect_tab(service)
            with gr.Tab("Audit", id="audit"):
                _audit_tab(service)
            with gr.Tab("Trade-off", id="trade-off"):
                _trade_off_tab(service)

        def leave(request: gr.Request) -> None:
            service.leave(_session(request))

        page.unload(leave)
    page.queue(max_size=200, default_concurrency_limit=4)
    return page


def application(service: Service) -> ASGIApp:
    """The page behind its gate: no footer, no history of runs, no files, no fonts from elsewhere."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        build(service),
        path="/",
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        head=(_TEMPLATES / "head.html").read_text(encoding="utf-8"),
    )
    return Gate(app, shelf=service.shelf, folder=service.folder)


def _session(request: gr.Request) -> str:
    return str(request.session_hash or "")


def _note(service: Service, name: str) -> str:
    method = service.method(name)
    return markup.part("warning" if method.baseline else "hint", method.note)


def _protect_tab(service: Service) -> None:
    names = [method.name for method in service.methods]
    with gr.Row(elem_classes="pf-columns"):
        with gr.Column(scale=2, min_width=320):
            told = f"Photos, up to {LIMITS.files} of {megabytes(LIMITS.file_bytes)} each"
            files = _file(told, file_count="multiple", height=180, elem_id="pf-photos")
            with gr.Accordion("Take one with the camera", open=False):
                picture = {"sources": ["webcam"], "type": "filepath", "format": "png", "height": 260}
                camera = _held(gr.Image(**picture, show_label=False, elem_id="pf-camera"))
        with gr.Column(scale=2, min_width=320):
            method = gr.Dropdown(
                names, value=names[0], label="Protect with", elem_id="pf-method", filterable=False
            )
            note = gr.HTML(_note(service, names[0]), elem_id="pf-note")
            faces = _faces("pf-faces")
            told = "Strength (1 is what was trained and audited)"
            adjustable = {"interactive": service.methods[0].adjustable, "elem_id": "pf-strength"}
            strength = gr.Slider(WEAKEST, STRONGEST, value=1.0, step=0.1, label=told, **adjustable)
            with gr.Row():
                go = gr.Button("Protect", variant="primary", elem_id="pf-go")
                clear = gr.Button("Clear all", elem_id="pf-clear")
    result = gr.HTML(
        markup.part("hint", "Drop photos above, or take one with the camera."), elem_id="pf-result"
    )

    def run(
        photos: list[str], taken: list[str], chosen: str, amount: float, shown: Any, request: gr.Request
    ) -> Iterator[str]:
        paths = [*photos, *taken]
        yield from service.protect(_session(request), paths, method=chosen, strength=amount, faces=shown)

    def describe(chosen: str) -> tuple[str, Any]:
        return _note(service, chosen), gr.update(interactive=service.method(chosen).adjustable)

    def forget(request: gr.Request) -> tuple[None, None, str]:
        service.clear(_session(request))
        return None, None, markup.part("hint", "Nothing of yours is held any more.")

    settings = [files, camera, method, strength, faces]
    gr.on(
        [go.click, strength.release, method.change, faces.change, files.upload, files.delete, camera.input],
        run,
        settings,
        result,
        trigger_mode="always_last",  # the strength that was chosen last is the one that counts
        show_progress="hidden",
        api_name="protect",
    )
    method.change(describe, method, [note, strength], show_progress="hidden", api_visibility="private")
    clear.click(forget, None, [files, camera, result], show_progress="hidden", api_visibility="private")
    if service.desk.probes:
        gr.HTML(
            markup.part(
                "hint",
                "Gender probes here are pretrained classifiers. One that is wrong after protection proves nothing: an attacker "
                "trains a new one on protected photos. The Audit tab does.",
            )
        )


def _audit_tab(service: Service) -> None:
    size = megabytes(LIMITS.file_bytes)
    with gr.Row(elem_classes="pf-columns"):
        original = _file(label=f"Originals: zip, up to {size}", elem_id="pf-originals")
        protected = _file(label=f"Protected: zip, up to {size}", elem_id="pf-protected")
        labels = _file(label="Labels: CSV table", elem_id="pf-labels")
    gr.HTML(
        markup.part(
            "hint",
            "Originals need a folder per person, protected photos (from any tool) the same paths. The table has the column "
            "gender, and file or identity.",
        )
    )
    with gr.Row(elem_classes="pf-columns"):
        effort = gr.Radio(list(_EFFORTS), value="quick", label="Effort", elem_id="pf-effort")
        with gr.Column(min_width=320):
            shown, ours_too = _faces("pf-audit-faces"), service.bench.model is not None
            told = "Protected with this server's model"
            ours = gr.Checkbox(value=ours_too, label=told, visible=ours_too, elem_id="pf-ours")
    with gr.Row():
        go = gr.Button("Audit", variant="primary", elem_id="pf-audit")
        stop = gr.Button("Stop", elem_id="pf-stop")
    told = "You need photos and gender labels of at least some dozens of people; an hour is not unusual."
    if not service.bench.matchers:
        told = "This server was started without --matcher, so it cannot audit."
    result = gr.HTML(markup.part("hint", told), elem_id="pf-audit-result")

    def run(
        first: list[str],
        second: list[str],
        table: list[str],
        how: Any,
        what: str,
        mine: bool,
        request: gr.Request,
    ) -> Iterator[str]:
        paths = (next(iter(chosen), None) for chosen in (first, second, table))
        choices = {"effort": how, "aligned": what == "aligned", "ours": mine}
        yield from service.audit(_session(request), *paths, **choices)

    settings = [original, protected, labels, effort, shown, ours]
    go.click(run, settings, result, show_progress="hidden", concurrency_limit=1, api_name="audit")

    def halt(request: gr.Request) -> None:
        service.stop(_session(request), "audited")

    stop.click(halt, None, None, queue=False, show_progress="hidden", api_visibility="private")


def _trade_off_tab(service: Service) -> None:
    told = "audit.json files of audits of the same photos"
    files = _file(told, file_count="multiple", elem_id="pf-audits")
    result = gr.HTML(service.trade_off("", []), elem_id="pf-trade-off")

    def run(paths: list[str], request: gr.Request) -> str:
        return service.trade_off(_session(request), paths)

    changed = [files.upload, files.delete, files.clear]
    gr.on(changed, run, files, result, show_progress="hidden", concurrency_limit=1, api_name="trade_off")
