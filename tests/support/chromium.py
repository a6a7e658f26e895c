"""A headless Chromium, controlled over the Chrome DevTools Protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.support.process_guard import running
from tests.support.waiting import PATIENCE, eventually

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
"""The path of the browser, or None if it is not installed."""

_SECONDS = 60.0  # for each command, on a busy machine
# The sandbox does not work as root, and containers have little shared memory. The other flags prevent
# requests to the servers of the vendor.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)
# SVG elements have no innerText. innerText of an element that is not rendered is its whole text, hence the
# check.
_READ = "(e) => !e.checkVisibility() ? '' : e.innerText ?? e.textContent"
# Scrolls an element into view, and returns the centre of its first box: inline elements have a box for each
# line.
_FIND = """(e) => {
  e.scrollIntoView({ block: "center" });
  const box = e.getClientRects()[0];
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
_ERROR_LEVELS = ("error", "warning", "assert")


class Chromium:
    """The browser, as a context manager. Its pages share no state."""

    def __init__(self) -> None:
        self._exit = contextlib.ExitStack()
        self._loop = asyncio.new_event_loop()
        self._pages: dict[str, Tab] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        with contextlib.ExitStack() as stack:
            stack.callback(self._loop.close)
            # The browser may still write files while its directory is removed.
            home = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="zkdns-chromium-", ignore_cleanup_errors=True)
            )
            command = [CHROMIUM, *_FLAGS, f"--user-data-dir={home}"]
            stack.enter_context(running(command, Path(home) / "zkdns-test.log"))
            port_file = Path(home) / "DevToolsActivePort"
            port, path = eventually(lambda: port_file.read_text().split(), 30.0)
            self._socket = self._loop.run_until_complete(self._connect(f"ws://127.0.0.1:{port}{path}"))
            stack.callback(lambda: self._loop.run_until_complete(self._disconnect()))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @contextlib.contextmanager
    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Tab]:
        """Open an empty page in a separate context; sizes are in CSS pixels."""
        context = self.do("Target.createBrowserContext")["browserContextId"]
        target = self.do("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._pages[session] = Tab(self, session)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.do(f"{domain}.enable")
            tab.do(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            tab.do("Emulation.setEmulatedMedia", features=[scheme])
            yield tab
        finally:
            self.do("Target.disposeBrowserContext", browserContextId=context)
            del self._pages[session]

    def do(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """Send a command, and return its result."""
        return self._loop.run_until_complete(self._do(method, session, parameters))

    async def _do(self, method: str, session: str | None, parameters: dict[str, Any]) -> Any:
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json({**command, "sessionId": session} if session else command)
        async with asyncio.timeout(_SECONDS):
            while number not in self._answers:
                self._receive(await self._socket.receive_json())
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _receive(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif (tab := self._pages.get(message.get("sessionId", ""))) is not None:
            tab.record(message["method"], message["params"])

    async def _connect(self, url: str) -> aiohttp.ClientWebSocketResponse:
        self._client = aiohttp.ClientSession()
        return await self._client.ws_connect(url, max_msg_size=0)

    async def _disconnect(self) -> None:
        await self._socket.close()
        await self._client.close()


class Tab:
    """A page. It records its requests and errors."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium = chromium
        self._session = session
        self.requests: list[str] = []
        """The URLs of all requests."""
        self.console_errors: list[str] = []
        """Errors and warnings in the console, including exceptions and CSP violations."""
        self.failures: list[str] = []
        """Failed requests."""

    def do(self, method: str, **parameters: Any) -> Any:
        """Send a command to the page."""
        return self._chromium.do(method, self._session, **parameters)

    def record(self, event: str, parameters: dict[str, Any]) -> None:
        """Record an event of the browser."""
        if event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console_errors.append(str(details.get("exception", {}).get("description", details["text"])))
        elif event == "Runtime.consoleAPICalled" and parameters["type"] in _ERROR_LEVELS:
            self.console_errors.append(json.dumps(parameters["args"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] in _ERROR_LEVELS:
            target = self.failures if parameters["entry"]["source"] == "network" else self.console_errors
            target.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Navigate to a URL."""
        self.do("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Evaluate an expression in the page, and return its value. Promises are awaited."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The visible text of the first matching element; empty if it is hidden."""
        return str(self.evaluate(f"({_READ})(document.querySelector({json.dumps(selector)}))"))

    def texts(self, selector: str) -> list[str]:
        """The visible texts of all matching elements."""
        return list(self.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map({_READ})"))

    def wait(self, condition: Callable[[Tab], Any], timeout: float = PATIENCE) -> Any:
        """Wait until a condition holds."""
        return eventually(lambda: condition(self), timeout, 0.05)

    def type(self, text: str) -> None:
        """Type into the focused element."""
        self.do("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key by its name in `KeyboardEvent.key`."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "/": 191}
        codes |= {"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37}
        text = {"text": "\r"} if key == "Enter" else {}  # the character presses a button
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], **text)

    def point(self, selector: str, *, click: bool = False) -> None:
        """Move the mouse to the centre of an element, or of its first line, and optionally click."""
        x, y = self.evaluate(f"({_FIND})(document.querySelector({json.dumps(selector)}))")
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        size = self.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 4000), "scale": 1}
        taken = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))
