"""The door of the server: what comes in is counted before anything reads it, and what goes out is not kept by browsers.

Uploads go to memory, under names that cannot be guessed, and never to a disk. Gradio's own upload route, which writes them
to files named by their content, is not reached.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

import anyio
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from privface.app.shelf import Shelf
from privface.app.uploads import LIMITS, File, UploadError, check_sizes, image_suffix, megabytes
from privface.errors import ImageError

KEPT = "kept"
"""Results lie at ``/kept/TOKEN/NAME``."""

_PROGRESS, _FILE = "/gradio_api/upload_progress", "/gradio_api/file="
_MESSAGE_BYTES = 1_000_000
_OVERHEAD = 200_000
_DRAINED_TIMES = 5
_AT_ONCE = 4
_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names under which the page may be asked for, so that no strange page can speak to it under a name of its own."""

_SHOWN = (".jpg", ".png", ".webp", ".gif", ".bmp")

_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_KEPT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self'; sandbox; frame-ancestors 'self'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


class _TooLargeError(Exception):
    """A body passed its limit."""


class _Body:
    """A request's body, counted; it must not be asked for more once it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def next(self) -> bytes:
        message = await self._receive()
        self.ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def chunks(self, limit: int) -> AsyncGenerator[bytes, None]:
        size = 0
        while not self.ended:
            chunk = await self.next()
            size += len(chunk)
            if size > limit:
                raise _TooLargeError
            yield chunk

    async def drain(self, limit: int) -> None:
        """Read on, keeping nothing: a browser that is answered before it has sent all shows no words."""
        while limit > 0 and not self.ended:
            limit -= len(await self.next())


class _InMemory(MultiPartParser):
    """Starlette's parser, which would write what is larger than a megabyte to a file."""

    spool_max_size = 1 << 40


class Gate:
    """ASGI middleware in front of Gradio.

    Uploads and results are held on the shelf. Paths of uploads begin with the folder, as Gradio takes nothing from elsewhere;
    nothing is written there.
    """

    def __init__(self, app: ASGIApp, *, shelf: Shelf, folder: Path) -> None:
        self._app, self._shelf, self._folder = app, shelf, folder
        self._uploading = anyio.CapacityLimiter(_AT_ONCE)  # bounds the memory of what is not yet counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # the page needs no socket
        answer = _with_headers(send, _PAGE_POLICY)
        headers = Headers(scope=scope)
        if _host(headers.get("host", "")) not in _LOCAL_HOSTS:
            await PlainTextResponse("This server answers on this machine only.", 421)(scope, receive, answer)
            return
        # a page elsewhere may send forms here; browsers say where a request comes from
        if scope["method"] != "GET" and headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
            await PlainTextResponse("Other pages may not use this server.", 403)(scope, receive, answer)
            return
        path: str = scope["path"]
        if scope["method"] == "POST" and path.rstrip("/").endswith("/upload"):
            response = await self._upload(headers, _Body(receive))
            await response(scope, receive, answer)
        elif path.endswith(_PROGRESS):
            body = 'data: {"msg": "done"}\n\n'
            await Response(body, media_type="text/event-stream")(scope, receive, answer)
        elif path.startswith((f"/{KEPT}/", _FILE)):
            await self._kept(path)(scope, receive, _with_headers(send, _KEPT_POLICY))
        else:
            await self._pass_on(scope, headers, receive, answer)

    async def _upload(self, headers: Headers, body: _Body) -> Response:
        """Take files into memory; gives the paths that Gradio passes around."""
        limit, announced = LIMITS.request_bytes + _OVERHEAD, _announced(headers)
        if announced > limit:
            return await self._too_large(announced, body)
        try:
            async with self._uploading:
                uploads = await self._parsed(headers, body, limit)
            tokens = self._shelf.put(*uploads)
        except _TooLargeError:
            return await self._too_large(announced, body)
        except MultiPartException as error:
            await body.drain(limit * _DRAINED_TIMES)
            if "Too many files" in error.message:
                return _refusal(
                    f"Too many files; the limit is {LIMITS.files:,} at once. Send them in parts, or use "
                    "`privface protect` on the command line.",
                    413,
                )
            return _refusal("The upload cannot be read. Reload the page and try again.", 400)
        except UploadError as error:
            return _refusal(str(error), 413)
        names = [_path_name(upload.name) for upload in uploads]
        return JSONResponse(
            [str(self._folder / token / name) for token, name in zip(tokens, names, strict=True)]
        )

    async def _too_large(self, announced: int, body: _Body) -> Response:
        await body.drain(LIMITS.request_bytes * _DRAINED_TIMES)
        size = megabytes(announced) if announced else "Too much"
        return _refusal(
            f"{size} at once; the limit is {megabytes(LIMITS.request_bytes)}. Send them in parts.", 413
        )

    async def _parsed(self, headers: Headers, body: _Body, limit: int) -> list[File]:
        if not headers.get("content-type", "").startswith("multipart/form-data"):
            raise MultiPartException("no form")
        parser = _InMemory(headers, body.chunks(limit), max_files=LIMITS.files, max_fields=10)
        try:
            form = await parser.parse()
        except (KeyError, ValueError) as error:
            raise MultiPartException("no form") from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        names = [Path((file.filename or "").replace("\\", "/")).name or "unnamed" for file in files]
        check_sizes(names, [file.size or 0 for file in files])
        return [File(name, await file.read()) for name, file in zip(names, files, strict=True)]

    def _kept(self, path: str) -> Response:
        """A result, or an upload that the page shows again, such as a picture of the camera."""
        upload = path.startswith(_FILE)
        token = upload_token(path.removeprefix(_FILE), self._folder) if upload else path.split("/")[2]
        item = self._shelf.get(token)
        if item is None:
            return PlainTextResponse("This is no longer held. Make it again.", 404)
        media = _image_media(item.data) if upload else item.media
        headers = {"cache-control": "no-store"}
        if item.attachment or media == "application/octet-stream":
            headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(item.name)}"
        return Response(item.data, media_type=media, headers=headers)

    async def _pass_on(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Let Gradio answer; its messages are short."""
        if _announced(headers) > _MESSAGE_BYTES:
            await _Body(receive).drain(LIMITS.request_bytes)
            refusal = _refusal(f"A message of more than {megabytes(_MESSAGE_BYTES)} is not taken.", 413)
            await refusal(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > _MESSAGE_BYTES:
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)


def upload_token(path: str, folder: Path | str) -> str:
    """The name on the shelf of an upload by the path that :class:`Gate` gave it; empty where it gave no such path."""
    lead, path = f"{folder}/", unquote(path)
    token, slash, _ = path.removeprefix(lead).partition("/")
    return token if path.startswith(lead) and slash and len(token) == 2 * 16 else ""


def _refusal(words: str, status: int) -> Response:
    return PlainTextResponse(escape(words), status)  # Gradio shows it as HTML


def _with_headers(send: Send, policy: str) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update({**_HEADERS, "content-security-policy": policy})
        await send(message)

    return answer


def _announced(headers: Headers) -> int:
    """Bytes that a request says it has; 0 where it says nothing of use."""
    text = headers.get("content-length", "")
    return int(text) if text.isdigit() else 0


def _host(value: str) -> str:
    """The host without its port."""
    name, _, port = value.rpartition(":")
    return (name if port.isdigit() and name else value).lower()


def _path_name(name: str) -> str:
    """A last path segment that survives its ways through JSON, addresses and Gradio."""
    kept = "".join(c if c.isalnum() or c in "._- " else "_" for c in name)[-80:]
    return kept.lstrip(".") or "unnamed"


def _image_media(data: bytes) -> str:
    try:
        suffix = image_suffix(data)
    except ImageError:
        suffix = ""
    kind = suffix[1:].replace("jpg", "jpeg")
    return f"image/{kind}" if suffix in _SHOWN else "application/octet-stream"
