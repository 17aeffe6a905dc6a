"""The page and its websocket: who may come in, and who plays.

Needs aiohttp (the extra `play`).
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import mimetypes
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMsgType, web

from oniris_core.common.errors import UserError
from oniris_core.play.greeting import greeting
from oniris_core.play.house import House
from oniris_core.play.player import Player
from oniris_core.play.web.connection import Allowance, Connection
from oniris_core.play.web.protocol import MOST_BYTES, parse

PAGE = Path(__file__).parent / "page"
_SECOND, _AT_ONCE = 80.0, 160.0  # messages a page may send
KEEP_SECONDS = 600.0  # for which the dream of a page that has gone waits for it
_SOCKETS = 64  # open at once, players or not
_TEXT = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the port is taken, or there is no such address here.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(address)
            found.listen(128)
        except OSError:
            found.close()
            raise
    except socket.gaierror:
        raise UserError(
            f"play.host = {host} is no address of this machine: 127.0.0.1 is, and 0.0.0.0 stands for all"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}, port {port}: {error.strerror or error}; choose another with --port"
        ) from None
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class _Seat:
    player: Player
    life: "asyncio.Task[None]"
    has_begun: bool = False


class Server:
    """The page, its websocket, and the players."""

    def __init__(self, house: House, host: str, listening: socket.socket) -> None:
        """Serve at a socket from `listen`, at the address `host`; not yet: see `run`."""
        self._house, self._host, self._socket = house, host, listening
        self.port = int(listening.getsockname()[1])
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(16)
        self._seats: dict[str, _Seat] = {}
        self._open, self._players = 0, 0
        self._assets = {path.name: path.read_bytes() for path in sorted(PAGE.iterdir()) if path.suffix in _TEXT}

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        host = self._host
        if host in ("0.0.0.0", "::"):
            host = socket.gethostname()
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"{self.token}/" if self.token else "")

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        root = f"/{self.token}" if self.token else ""
        app.router.add_get(f"{root}/", self._page)
        app.router.add_get(f"{root}/socket", self._websocket)
        app.router.add_get(f"{root}/recordings/{{name}}", self._recording)
        app.router.add_get(f"{root}/{{name}}", self._page)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        tidying = asyncio.create_task(self._tidy())
        try:
            await stop.wait()
        finally:
            tidying.cancel()
            lives = [seat.life for seat in self._seats.values()]
            for life in lives:
                life.cancel()
            await asyncio.gather(tidying, *lives, return_exceptions=True)
            await runner.cleanup()

    # Who may come in.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._is_ours(request.host):
            return web.Response(status=403, text=f"this server is not called {request.host[:100]!r}\n")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            return web.Response(status=403, text="this page may only be used from its own address\n")
        first = request.path.split("/")[1]
        if self.token and not hmac.compare_digest(first.encode(), self.token.encode()):
            return web.Response(
                status=403, text="the address lacks its token: use the one that the server has printed\n"
            )
        response = await handler(request)
        if not response.prepared:
            response.headers.update({
                "Content-Security-Policy": f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                f"media-src 'self'; connect-src 'self' ws://{request.host} wss://{request.host}; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
                "Cross-Origin-Resource-Policy": "same-origin",
            })  # fmt: skip
        return response

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server: a name that somebody has pointed at it does not."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        port = host[len(name) + 1 :]
        if port != str(self.port) and not (port == "" and self.port == 80):
            return False
        name = name.strip("[]").lower()
        if is_loopback(self._host):
            return name in ("localhost", "127.0.0.1", "::1", self._host.lower())
        if name in (self._host.lower(), "localhost", socket.gethostname().lower()):
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False

    # What they get.

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        if name not in self._assets:
            return web.Response(status=404, text="there is nothing here\n")
        kind = _TEXT[Path(name).suffix]
        return web.Response(body=self._assets[name], content_type=kind, charset="utf-8")

    async def _recording(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = self._house.recordings.get(name)
        if path is None or not path.is_file():
            return web.Response(status=404, text="there is no such recording\n")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        how = "inline" if kind == "video/mp4" else "attachment"
        return web.FileResponse(
            path, headers={"Content-Type": kind, "Content-Disposition": f'{how}; filename="{name}"'}
        )

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        if self._open >= _SOCKETS:
            return web.Response(status=503, text="too many pages are open\n")
        ws = web.WebSocketResponse(heartbeat=20, max_msg_size=MOST_BYTES, compress=False)
        self._open += 1
        try:
            await ws.prepare(request)
            await self._serve(ws, request.query.get("session", ""))
        finally:
            self._open -= 1
        return ws

    async def _serve(self, ws: web.WebSocketResponse, asked: str) -> None:
        key, seat = self._take_seat(asked)
        if seat is None:
            await ws.send_str(json.dumps({"t": "full", "players": self._house.params.players}))
            await ws.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"every seat is taken")
            return
        if (before := seat.player.connection) is not None:
            before.close("this dream was opened elsewhere")
        connection, allowance = Connection(ws), Allowance(_SECOND, _AT_ONCE)
        connection.put("hello", json.dumps({**self._hello(), "session": key, "again": seat.has_begun and key == asked}))
        seat.player.attach(connection)
        writing = asyncio.create_task(self._write(connection, ws))
        reason = ""
        try:
            async for message in ws:
                if message.type is not WSMsgType.TEXT:
                    raise ValueError("only texts are understood")
                if not allowance.take():
                    raise ValueError(f"more than {_SECOND:g} messages a second")
                wanted = parse(message.data)
                seat.player.take(wanted)
                seat.has_begun = seat.has_begun or wanted.t == "restart"
        except ValueError as error:
            reason = str(error)
        finally:
            writing.cancel()
            seat.player.detach(connection)
            if not seat.has_begun:
                self._leave(key)
        if reason:
            await ws.close(
                code=WSCloseCode.POLICY_VIOLATION, message=reason.encode()[:120].decode(errors="ignore").encode()
            )

    async def _write(self, connection: Connection, ws: web.WebSocketResponse) -> None:
        with contextlib.suppress(ConnectionError):
            reason = await connection.write()
            await ws.close(code=WSCloseCode.GOING_AWAY, message=reason.encode()[:120])

    # Who plays.

    def _take_seat(self, asked: str) -> tuple[str, _Seat | None]:
        if asked in self._seats and not self._seats[asked].life.done():
            return asked, self._seats[asked]
        if len(self._seats) >= self._house.params.players:
            away = [(s.player.left_at, key) for key, s in self._seats.items() if s.player.connection is None]
            if not away:
                return "", None
            self._leave(min(away)[1])  # who has been away for longest
        self._players += 1
        player = Player(self._house, self._players)
        seat = _Seat(player, asyncio.create_task(player.live()))
        seat.life.add_done_callback(lambda life: self._failed(player, life))
        key = secrets.token_urlsafe(16)
        self._seats[key] = seat
        return key, seat

    def _leave(self, key: str) -> None:
        self._seats.pop(key).life.cancel()

    def _failed(self, player: Player, life: "asyncio.Task[None]") -> None:
        if not life.cancelled() and (error := life.exception()) is not None and player.connection is not None:
            player.connection.close(f"the model failed: {error!r}")

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(5)
            longest = KEEP_SECONDS
            now = time.monotonic()
            for key, seat in list(self._seats.items()):
                is_away = seat.player.connection is None and now - seat.player.left_at > longest
                if is_away or seat.life.done():
                    self._leave(key)

    def _hello(self) -> dict[str, object]:
        house = self._house
        about = greeting(house.starts, house.group, house.spec, house.controls, house.rest, house.context_latents)
        return {
            **about, "qualities": {k: vars(q) for k, q in house.qualities.items()}, "quality": house.chosen,
            "players": house.params.players, "why": house.no_truth or "",
        }  # fmt: skip
