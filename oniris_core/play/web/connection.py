"""One page's connection: what is to be said to it, and how much it may say."""

import asyncio
import time
from typing import Any, Protocol

LATE_S = 5.0
"""A page that has not taken in its frames for so long is not being looked at."""
_AHEAD = 3  # messages with frames that may be under way


class Socket(Protocol):
    """The part of aiohttp's WebSocketResponse that is used."""

    async def send_str(self, data: str) -> None: ...  # noqa: D102
    async def send_bytes(self, data: bytes) -> None: ...  # noqa: D102


class Allowance:
    """So many messages a second, and so many at once."""

    def __init__(self, a_second: float, at_once: float) -> None:
        self._rate, self._most = a_second, at_once
        self._left, self._last = at_once, time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._last) * self._rate)
        self._last = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Connection:
    """Messages wait in slots, one of each kind: a slow page gets the newest, never a queue.

    Attributes:
        skipped: messages with frames that a newer one has taken the place of.
    """

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._slots: dict[str, str | bytes] = {}
        self._filled = asyncio.Event()
        self._sent = self._got = 0
        self._held_since: float | None = None
        self._reason: str | None = None
        self.skipped = 0

    def put(self, kind: str, message: str | bytes) -> None:
        """Say something; what of this kind is still waiting is not said any more."""
        if kind == "frames" and kind in self._slots:
            self.skipped += 1
        self._slots[kind] = message
        self._filled.set()

    def drop(self, kind: str) -> None:
        """What of this kind is still waiting is not said any more."""
        self._slots.pop(kind, None)

    def got(self, number: int) -> None:
        """The page has taken in so many messages with frames.

        Raises:
            ValueError: more than there were.
        """
        if number > self._sent:
            raise ValueError(f"frames number {number} were never sent")
        self._got = max(self._got, number)
        self._filled.set()

    @property
    def is_late(self) -> bool:
        """Whether the page has stopped to take in frames."""
        return self._held_since is not None and time.monotonic() - self._held_since > LATE_S

    def close(self, reason: str) -> None:
        """Let the page go, with a reason."""
        self._reason = reason
        self._filled.set()

    async def write(self) -> str:
        """Send what is put, until `close`; returns its reason. Raises ConnectionError when the page has gone."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            if self._reason is not None:
                return self._reason
            while (kind := self._next()) is not None:
                message = self._slots.pop(kind)
                if kind == "frames":
                    self._sent += 1
                if isinstance(message, str):
                    await self._socket.send_str(message)
                else:
                    await self._socket.send_bytes(message)

    def _next(self) -> str | None:
        held = self._sent - self._got >= _AHEAD
        self._held_since = (self._held_since or time.monotonic()) if held and "frames" in self._slots else None
        return next((kind for kind in self._slots if kind != "frames" or not held), None)


def plain(value: Any) -> Any:
    """A NumPy number or array as JSON values."""
    return value.tolist() if hasattr(value, "tolist") else value
