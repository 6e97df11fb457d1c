"""The server's three addresses: the page, what it should know, and images to masks. Nothing is stored."""

import asyncio
import base64
import contextlib
import hashlib
import logging
import re
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ddrnet_jax import regular_files
from ddrnet_jax.prediction.segmenter import Segmenter
from ddrnet_jax.serving.answers import MOST_PIXELS, Answer, answer
from ddrnet_jax.serving.errors import Refused

_log = logging.getLogger(__name__)
MOST_BYTES = 2**26  # of a body: 64 MiB
MOST_REQUESTS = 8  # at a time, of which one computes
BODY_S = 60.0  # for a body to arrive
_AGAIN_S = 1  # later, one refused may ask again
_PAGE = Path(__file__).with_name("page.html")
_ADDRESSES = "GET / is the page, POST /predict takes an image file, GET /health says what runs"


class App:
    """The routes of one segmenter."""

    def __init__(self, segmenter: Segmenter, title: str, pool: Executor):
        """
        title  of the page: which network this is
        pool   of one thread: the engine takes all cores for one image
        """
        self._segmenter, self._title, self._pool = segmenter, title, pool
        self._requests = 0
        self._page = regular_files.read_text(_PAGE)
        self._policy = _policy(self._page)

    def starlette(self) -> Starlette:
        """The routes, and errors as JSON."""
        routes = [
            Route("/", self._show),
            Route("/health", self._health),
            Route("/predict", self._predict, methods=["POST"]),
        ]
        handlers = {Refused: _refuse, HTTPException: _no_such, ClientDisconnect: _gone, Exception: _fault}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False  # an empty answer, which a program may take for a mask
        return app

    async def _show(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._policy})

    async def _health(self, request: Request) -> Response:
        segmenter = self._segmenter
        return JSONResponse(
            {
                "status": "ok",
                "checkpoint": self._title,
                "engine": segmenter.engine,
                "classes": segmenter.classes,
                "colors": segmenter.colors,
                "requests": self._requests,
                "most_bytes": MOST_BYTES,
                "most_pixels": MOST_PIXELS,
            }
        )

    async def _predict(self, request: Request) -> Response:
        with self._one_more():
            data = await _body(request)
            found = await self._answer(data)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(found.as_json(self._segmenter.engine))
        times = ", ".join(f"{stage};dur={ms:.2f}" for stage, ms in found.times_ms.items())
        return Response(found.mask_png, media_type="image/png", headers={"Server-Timing": times})

    async def _answer(self, data: bytes) -> Answer:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, answer, self._segmenter, data)
        except asyncio.CancelledError:  # Ctrl-C, and some seconds of grace are over
            raise Refused(503, "the server was ended before it was your turn") from None

    @contextlib.contextmanager
    def _one_more(self) -> Iterator[None]:
        """Counts a request; raises Refused if there are too many."""
        if self._requests >= MOST_REQUESTS:
            message = f"{MOST_REQUESTS} requests are being answered, and more are not taken; ask again in {_AGAIN_S} s"
            raise Refused(503, message, {"Retry-After": str(_AGAIN_S)})
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1


async def _body(request: Request) -> bytes:
    """Raises Refused if it is too long, of a form, or does not come."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refused(415, "a form in several parts; send the image file itself as the body (curl --data-binary @FILE)")
    too_long = Refused(413, f"the body is too long, at most {MOST_BYTES:,} bytes are taken; shrink the image")
    if int(request.headers.get("content-length", 0)) > MOST_BYTES:
        raise too_long
    parts, length = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                parts.append(part)
                length += len(part)
                if length > MOST_BYTES:
                    raise too_long
    except TimeoutError:
        raise Refused(408, f"the body did not arrive in {BODY_S:g} s") from None
    return b"".join(parts)


def _policy(page: str) -> str:
    """The page's own script and style run, and nothing else; it talks to this server alone."""
    parts = {kind: re.search(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL) for kind in ("script", "style")}
    hashes = {kind: _hash(part[1]) for kind, part in parts.items() if part}
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src blob: data:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _error(error.status, str(error), error.headers)


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, f"{request.method} {request.url.path}: {_ADDRESSES}", error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # which nobody reads


async def _fault(request: Request, error: Exception) -> Response:
    _log.error("a fault of ours: " + "".join(traceback.format_exception(error)).rstrip())
    return _error(500, "a fault of the server, which its log has; it goes on")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)
