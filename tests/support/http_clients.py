"""One interface to the HTTP clients of a server set: httpx, httpx2 (both also asynchronous) and requests."""

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import httpx2
import requests

from zkdns import EndpointSource
from zkdns.httpset import Adapter, AsyncTransport, Transport


@dataclass
class Answer:
    text: str
    url: str


class HttpClient(Protocol):
    """The common interface; `connect` and `read` are timeouts in seconds."""

    errors: tuple[type[Exception], type[Exception]]  # failure to connect; any transport error

    def request(
        self, method: str, url: str, content: Any = None, connect: float = 5, read: float = 5
    ) -> Answer: ...

    def halves(self, url: str) -> Iterator[str]:
        """The text of the response in two halves. The second half is read on demand."""

    def set_endpoints(self, endpoints: list[str]) -> None: ...

    def close(self) -> None: ...


class Httpx:
    """httpx. `library` is httpx or httpx2, which have the same interface."""

    library: Any = httpx
    errors: tuple[type[Exception], type[Exception]] = (httpx.ConnectError, httpx.TransportError)

    def __init__(self, source: EndpointSource | None, trusted: Path | None, **options: Any) -> None:
        context = ssl.create_default_context(cafile=trusted) if trusted else True
        self.transport = Transport(source, verify=context, **options)
        self.set_endpoints = self.transport.set_endpoints
        self.client = self.library.Client(transport=self.transport, follow_redirects=True)
        self.close = self.client.close

    def request(
        self, method: str, url: str, content: Any = None, connect: float = 5, read: float = 5
    ) -> Answer:
        timeout = self.library.Timeout(5, connect=connect, read=read)
        response = self.client.request(method, url, content=content, timeout=timeout)
        return Answer(response.text, str(response.url))

    def halves(self, url: str) -> Iterator[str]:
        with self.client.stream("GET", url) as response:
            parts = response.iter_text(5)
            yield next(parts)
            yield "".join(parts)


class Httpx2(Httpx):
    library = httpx2
    errors = (httpx2.ConnectError, httpx2.TransportError)


class AsyncHttpx:
    library: Any = httpx
    errors = Httpx.errors

    def __init__(self, source: EndpointSource | None, trusted: Path | None, **options: Any) -> None:
        context = ssl.create_default_context(cafile=trusted) if trusted else True
        self.transport = AsyncTransport(source, verify=context, **options)
        self.set_endpoints = self.transport.set_endpoints
        self.client = self.library.AsyncClient(transport=self.transport, follow_redirects=True)
        self.loop = asyncio.Runner()

    def request(
        self, method: str, url: str, content: Any = None, connect: float = 5, read: float = 5
    ) -> Answer:
        async def asynchronous() -> Any:
            for part in content:
                yield part

        body = asynchronous() if hasattr(content, "__next__") else content
        timeout = self.library.Timeout(5, connect=connect, read=read)
        response = self.loop.run(self.client.request(method, url, content=body, timeout=timeout))
        return Answer(response.text, str(response.url))

    def halves(self, url: str) -> Iterator[str]:
        async def begin() -> Any:
            response = await self.client.send(self.client.build_request("GET", url), stream=True)
            parts = response.aiter_text(5)
            return response, parts, await anext(parts)

        async def finish() -> str:
            rest = "".join([part async for part in parts])
            await response.aclose()
            return rest

        response, parts, first = self.loop.run(begin())
        yield first
        yield self.loop.run(finish())

    def close(self) -> None:
        self.loop.run(self.client.aclose())
        self.loop.close()


class AsyncHttpx2(AsyncHttpx):
    library = httpx2
    errors = Httpx2.errors


class Requests:
    errors = (requests.ConnectionError, requests.RequestException)

    def __init__(self, source: EndpointSource | None, trusted: Path | None, **options: Any) -> None:
        self.adapter = Adapter(source, **options)
        self.set_endpoints = self.adapter.set_endpoints
        self.session = requests.Session()
        for prefix in ("http://", "https://"):
            self.session.mount(prefix, self.adapter)
        # Passed with each request, because REQUESTS_CA_BUNDLE overrides the setting of the session.
        self.verify: str | bool = str(trusted) if trusted else True
        self.close = self.session.close

    def request(
        self, method: str, url: str, content: Any = None, connect: float = 5, read: float = 5
    ) -> Answer:
        response = self.session.request(
            method, url, data=content, timeout=(connect, read), verify=self.verify
        )
        assert response.request.url == response.url
        return Answer(response.text, str(response.url))

    def halves(self, url: str) -> Iterator[str]:
        with self.session.get(url, stream=True, timeout=5) as response:
            parts = response.iter_content(5)
            yield next(parts).decode()
            yield b"".join(parts).decode()
