"""A backend for the status page, and readers of the page's content."""

import time
from typing import Any

from tests.support.chromium import Tab
from zkdns.address import HostPort
from zkdns.admin.api_types import ExplainedMember, Explanation, ServiceLine, TypeAnswer

HOSTILE = "<img src=x onerror=window.hurt=1>"
QUOTES = """"' onmouseover=window.hurt=1 x='"""
RIGHT_TO_LEFT = "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}.prod"
LONG = f"{'a' * 63}.{'b' * 63}"
UNKNOWN = "\N{EN DASH}"
TO = "\N{EN DASH}"


def line(name: str, alive: int = 3, **numbers: Any) -> ServiceLine:
    none: dict[str, Any] = {"hidden": 0, "held": 0, "bad": 0, "drained": 0, "changed": None}
    return ServiceLine(name, alive, **{**none, **numbers})


def explained(service: str, *members: ExplainedMember) -> Explanation:
    return Explanation(
        asked=service,
        name=f"{service}.discovery",
        kind="service",
        rule=f"it is the service {service}",
        notes=(f"a note of {service}",),
        answers=(TypeAnswer("A", "NOERROR", len(members)), TypeAnswer("AAAA", "NOERROR", 0)),
        is_answered=True,
        service=service,
        origins=(f"/discovery/{service}", "/elsewhere"),
        members=members,
        ttl=5,
        order="round-robin",
        ready=True,
        stale=True,
        now=time.time(),
    )


def member(name: str, verdict: Any = "answered", **more: Any) -> ExplainedMember:
    return ExplainedMember(member=name, znode=f"/d/{name}", name=None, verdict=verdict, why="", **more)


def opened(tab: Tab, at: HostPort, place: str = "") -> Tab:
    """Open the page, and wait until it shows everything."""
    tab.open(f"http://{at}/{place}")
    tab.wait(lambda tab: tab.texts("#service-rows tr") and tab.texts("#changes li") and tab.texts(".tick"))
    return tab


def names(tab: Tab) -> list[str]:
    return tab.texts("#service-rows a")


def focus(tab: Tab) -> str:
    return str(tab.evaluate("document.activeElement.id || document.activeElement.innerText"))


def is_clean(tab: Tab, at: HostPort) -> bool:
    """True if there were no errors and no requests to other servers."""
    assert (tab.console_errors, tab.failures) == ([], [])
    assert [url for url in tab.requests if not url.startswith((f"http://{at}/", "data:"))] == []
    return True
