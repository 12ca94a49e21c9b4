"""HTTP to servers that are not trusted with our memory: every answer is bounded, and no redirect is followed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from eager.engines._deadline import timeout
from eager.engines._openai_faults import FaultError, RefusalError, answered, said, scrubber
from eager.engines.base import EngineError
from eager.engines.options_openai import OpenAIOptions
from eager.errors import first_line

_MOST_LINE = 1 << 20  # bytes; 20 log-probabilities of one token take a thousand
_MOST_ANSWER = 1 << 24  # bytes
_MOST_COMPLAINT = 1 << 14
_CONNECT_SECONDS, _ANSWER_SECONDS, _HEALTH_SECONDS = 10.0, 60.0, 5.0
_DATA = b"data:"


class Stream:
    """An open answer of server-sent events. `data` yields what has come: the data of some events at once."""

    def __init__(
        self, response: aiohttp.ClientResponse, url: str, first_patience: float, patience: float, longest_line: int
    ) -> None:
        """`first_patience`: seconds until the first event, which waits its turn in the server; then `patience`."""
        self._longest_line = longest_line
        self._response = response
        self.url = url
        self._patience = patience
        self._clock = asyncio.get_running_loop().time
        self._late_at = self._clock() + first_patience
        self.is_late = False

    async def data(self) -> AsyncIterator[list[bytes]]:
        """Raises FaultError where the connection breaks, or a line is longer than any that makes sense."""
        rest = b""
        async for piece in self._response.content.iter_any():
            self._late_at = self._clock() + self._patience
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > self._longest_line:
                raise FaultError(f"{self.url} sent a line of more than {self._longest_line:,} bytes")
            found = [line[len(_DATA) :].strip() for line in lines if line.startswith(_DATA)]
            if found:
                self._late_at = math.inf  # whoever takes them may take their time
                yield found
                self._late_at = self._clock() + self._patience

    def check(self) -> None:
        """Break the connection off where nothing has come for too long."""
        if self._clock() > self._late_at:
            self.break_off()

    def break_off(self) -> None:
        """Nothing more is awaited: whoever reads gets a FaultError."""
        self.is_late = True
        self._response.close()


class Client:
    """Speaks to all servers, with the key if there is one. Lives on one event loop; `close` it there."""

    def __init__(self, options: OpenAIOptions) -> None:
        self.scrub = scrubber(options.api_key)
        self._chunk_timeout = options.chunk_timeout
        self._first_chunk_timeout = options.first_chunk_timeout
        self._encode = msgspec.json.Encoder().encode
        self._streams: set[Stream] = set()
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if options.api_key is not None:
            headers["Authorization"] = f"Bearer {options.api_key.strip()}"
        silence = max(options.first_chunk_timeout, options.chunk_timeout)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=not options.insecure),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=1 << 14,
            max_field_size=1 << 14,
        )
        self._watch = asyncio.get_running_loop().create_task(self._check_streams())

    async def close(self) -> None:
        self._watch.cancel()
        await self._session.close()

    async def get(self, url: str, path: str, seconds: float = _ANSWER_SECONDS) -> Any:
        """The JSON answered. Raises FaultError, RefusalError or EngineError."""
        return await self._whole("GET", url, path, None, seconds)

    async def text(self, url: str, path: str) -> str:
        """What is answered, as it is. Raises as `get` does."""
        return (await self._bytes("GET", url, path, None, _ANSWER_SECONDS)).decode("utf-8", "replace")

    async def post(self, url: str, path: str, body: Mapping[str, Any]) -> Any:
        """As `get`, of a request with this body."""
        return await self._whole("POST", url, path, body, _ANSWER_SECONDS)

    async def is_alive(self, url: str) -> bool:
        """Whether the server says that it is well; one that has no way to say it counts as well if it answers.

        Of one that is not well all streams are broken off.
        """
        try:
            async with self._asked("GET", url, "/health", None, {}, _HEALTH_SECONDS):
                return True
        except FaultError:
            for stream in [stream for stream in self._streams if stream.url == url]:
                stream.break_off()  # what waits for its first token need not wait as long as it may
            return False
        except (RefusalError, EngineError):
            return True

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        *,
        longest_line: int = _MOST_LINE,
    ) -> AsyncIterator[Stream]:
        """A streamed answer. What breaks it, at the start or inside, is a FaultError, RefusalError or EngineError."""
        async with self._asked("POST", url, path, body, headers, None) as response:
            stream = Stream(response, url, self._first_chunk_timeout, self._chunk_timeout, longest_line)
            self._streams.add(stream)
            try:
                yield stream
            except aiohttp.ClientError:
                if not stream.is_late:
                    raise
                raise FaultError(f"{url} was silent for too long", is_down=True) from None
            finally:
                self._streams.discard(stream)
                response.close()

    async def _whole(self, method: str, url: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
        text = await self._bytes(method, url, path, body, seconds)
        try:
            return msgspec.json.decode(text) if text else None
        except (msgspec.DecodeError, RecursionError):
            raise FaultError(f"{url}{path} answers no JSON") from None

    async def _bytes(self, method: str, url: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> bytes:
        async with self._asked(method, url, path, body, {}, seconds) as response:
            text = await _read(response, _MOST_ANSWER)
            if len(text) > _MOST_ANSWER:
                raise RefusalError(f"{url}{path} answers more than {_MOST_ANSWER:,} bytes")
            return text

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        seconds: float | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = None if body is None else self._encode(body)
        how: dict[str, Any] = {} if seconds is None else {"timeout": aiohttp.ClientTimeout(total=seconds)}
        try:
            asked = self._session.request(method, url + path, data=data, headers=headers, allow_redirects=False, **how)
            async with timeout(seconds or self._chunk_timeout):
                answer = await asked
            async with answer as response:
                if response.status != 200:
                    complaint = self.scrub(said(await _read(response, _MOST_COMPLAINT)) or str(response.reason))
                    raise answered(response.status, complaint, url + path, response.headers.get("Retry-After"))
                yield response
        # What aiohttp raises may hold the request with its key: it is not handed on.
        except asyncio.TimeoutError:
            raise FaultError(f"{url} does not answer in time", is_down=True) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            reason = f"{url}: {self.scrub(first_line(error))} (--insecure leaves certificates unchecked)"
            raise FaultError(reason, is_down=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise FaultError(f"{url}: {self.scrub(first_line(error))}", is_down=True) from None

    async def _check_streams(self) -> None:
        """A timer a stream would be set anew with every token."""
        while True:
            await asyncio.sleep(min(1.0, self._chunk_timeout / 4))
            for stream in tuple(self._streams):
                stream.check()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Up to `most` bytes of the answer, or a few more where there are."""
    pieces, n_bytes = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        n_bytes += len(piece)
        if n_bytes > most:
            break
    return b"".join(pieces)
