"""Frameworks that take the forms of the wire contract with parsers of their own: aiohttp's, and Starlette's."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from aiohttp import BodyPartReader, web
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

VIDEOS = "/scenarios/{scenario}/videos"
ANNOTATIONS = "/scenarios/{scenario}/annotations"


@dataclass(frozen=True, slots=True)
class FormFile:
    """A file of a form, as a parser understood it."""

    field: str
    filename: str | None
    kind: str | None
    size: int
    sha256: str


@dataclass(slots=True)
class Taken:
    """What a server has taken.

    Attributes:
        refuse: Answer a video with this status as soon as its head is read; 0 takes it.
        others: Fields of forms that are no files.
    """

    url: str = ""
    refuse: int = 0
    files: list[FormFile] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    annotations: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def aiohttp_server() -> AsyncIterator[Taken]:
    taken = Taken()

    async def video(request: web.Request) -> web.Response:
        if taken.refuse:
            return web.json_response({}, status=taken.refuse)
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.filename is None:
                taken.others.append(part.name or "")
                continue
            size, digest = 0, hashlib.sha256()
            while piece := await part.read_chunk(1 << 16):
                size += len(piece)
                digest.update(piece)
            kind = part.headers.get("Content-Type")
            taken.files.append(FormFile(part.name or "", part.filename, kind, size, digest.hexdigest()))
        return web.json_response({}, status=201)

    async def annotations(request: web.Request) -> web.Response:
        # aiohttp unpacks it by itself.
        taken.annotations.append(await request.read())
        return web.json_response({}, status=201)

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    application = web.Application()
    application.add_routes([web.get("/health", health), web.post(VIDEOS, video), web.post(ANNOTATIONS, annotations)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        taken.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield taken
    finally:
        await runner.cleanup()


@asynccontextmanager
async def starlette_server() -> AsyncIterator[Taken]:
    taken = Taken()

    async def video(request: Request) -> Response:
        if taken.refuse:
            return JSONResponse({}, status_code=taken.refuse)
        async with request.form() as form:
            for name, file in form.multi_items():
                if not isinstance(file, UploadFile):
                    taken.others.append(name)
                    continue
                content = await file.read()
                digest = hashlib.sha256(content).hexdigest()
                taken.files.append(FormFile(name, file.filename, file.content_type, len(content), digest))
        return JSONResponse({}, status_code=201)

    async def annotations(request: Request) -> Response:
        body = await request.body()
        packed = request.headers.get("content-encoding") == "gzip"
        taken.annotations.append(gzip.decompress(body) if packed else body)
        return JSONResponse({}, status_code=201)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    application = Starlette(
        routes=[
            Route("/health", health),
            Route(VIDEOS, video, methods=["POST"]),
            Route(ANNOTATIONS, annotations, methods=["POST"]),
        ]
    )
    server = _Quiet(uvicorn.Config(application, port=0, log_config=None, access_log=False, lifespan="off"))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve())
        await server.ready.wait()
        taken.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield taken
        finally:
            server.should_exit = True
            await serving


class _Quiet(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        self.ready.set()


FORM_SERVERS = {"aiohttp": aiohttp_server, "starlette": starlette_server}
