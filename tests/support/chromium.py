"""A real Chromium without a window, led over the Chrome DevTools Protocol as by its own developer tools."""

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
from tests.support.waiting import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
"""The browser; None: there is none here."""

_SECONDS = 20.0  # for each command; a machine that is busy takes its time
# Root can have no sandbox, and containers have little shared memory. All else keeps the browser from asking
# its maker's servers for anything.
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
# SVG's elements have no text of their own; innerText is all of it also where nothing can be seen.
_READ = "(e) => !e.checkVisibility() ? '' : e.innerText ?? e.textContent"
# Where to point at an element, which comes into view; one of several lines has a box for each.
_FIND = """(e) => {
  e.scrollIntoView({ block: "center" });
  const box = e.getClientRects()[0];
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
_LOUD = ("error", "warning", "assert")


class Chromium:
    """The browser, which ends with the block; it opens pages that share nothing."""

    def __init__(self) -> None:
        self._exit = contextlib.ExitStack()
        self._loop = asyncio.new_event_loop()
        self._pages: dict[str, Tab] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0

    def __enter__(self) -> Self:
        assert CHROMIUM is not None
        with contextlib.ExitStack() as begun:
            begun.callback(self._loop.close)
            # What it writes until its end may be there a moment later than its directory is removed.
            home = begun.enter_context(
                tempfile.TemporaryDirectory(prefix="zkdns-chromium-", ignore_cleanup_errors=True)
            )
            command = [CHROMIUM, *_FLAGS, f"--user-data-dir={home}"]
            begun.enter_context(running(command, Path(home) / "zkdns-test.log"))
            port_file = Path(home) / "DevToolsActivePort"
            port, path = eventually(lambda: port_file.read_text().split(), 30.0)
            self._socket = self._loop.run_until_complete(self._connect(f"ws://127.0.0.1:{port}{path}"))
            begun.callback(lambda: self._loop.run_until_complete(self._disconnect()))
            self._exit = begun.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @contextlib.contextmanager
    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Tab]:
        """A page of its own, empty at first; sizes are in CSS pixels."""
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
        """Send a command, and return what comes of it."""
        return self._loop.run_until_complete(self._do(method, session, parameters))

    async def _do(self, method: str, session: str | None, parameters: dict[str, Any]) -> Any:
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters}
        await self._socket.send_json({**command, "sessionId": session} if session else command)
        async with asyncio.timeout(_SECONDS):
            while number not in self._answers:
                self._take(await self._socket.receive_json())
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
        elif (tab := self._pages.get(message.get("sessionId", ""))) is not None:
            tab.take(message["method"], message["params"])

    async def _connect(self, url: str) -> aiohttp.ClientWebSocketResponse:
        self._client = aiohttp.ClientSession()
        return await self._client.ws_connect(url, max_msg_size=0)

    async def _disconnect(self) -> None:
        await self._socket.close()
        await self._client.close()


class Tab:
    """A page; it notes what it asks for, and what goes wrong in it."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium = chromium
        self._session = session
        self.requests: list[str] = []
        """The URLs of all that was asked for."""
        self.console_errors: list[str] = []
        """What stands in the console as a mistake; exceptions and violations of policies among them."""
        self.failures: list[str] = []
        """Requests that failed."""

    def do(self, method: str, **parameters: Any) -> Any:
        """Send a command to the page."""
        return self._chromium.do(method, self._session, **parameters)

    def take(self, event: str, told: dict[str, Any]) -> None:
        """Note what the browser tells."""
        if event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.console_errors.append(str(details.get("exception", {}).get("description", details["text"])))
        elif event == "Runtime.consoleAPICalled" and told["type"] in _LOUD:
            self.console_errors.append(json.dumps(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in _LOUD:
            noted = self.failures if told["entry"]["source"] == "network" else self.console_errors
            noted.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Go there."""
        self.do("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; a promise's is waited for."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What can be read there; empty where it is hidden."""
        return str(self.evaluate(f"({_READ})(document.querySelector({json.dumps(selector)}))"))

    def texts(self, selector: str) -> list[str]:
        """What can be read in each of these elements."""
        return list(self.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map({_READ})"))

    def wait(self, condition: Callable[[Tab], Any], timeout: float = 15.0) -> Any:
        """Wait until a condition holds."""
        return eventually(lambda: condition(self), timeout, 0.05)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.do("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key by its name in `KeyboardEvent.key`."""
        codes = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "/": 191}
        for kind in ("rawKeyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key])

    def point(self, selector: str, *, click: bool = False) -> None:
        """Move the mouse to the middle of an element, or of its first line; and perhaps click."""
        x, y = self.evaluate(f"({_FIND})(document.querySelector({json.dumps(selector)}))")
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page (PNG)."""
        size = self.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], 4000), "scale": 1}
        taken = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))
