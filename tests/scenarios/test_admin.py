"""The admin server of real servers, with a real ZooKeeper."""

import os
import signal
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from tests.admin.helpers import Answer, Reader, ask, reading
from tests.support.server import ZkdnsServer
from tests.support.waiting import eventually, in_time, repeated_if_late
from tests.support.zookeeper_clients import client_of
from zkdns.address import HostPort, parse_host_port

pytestmark = pytest.mark.processes

TOKEN = "0123456789abcdef0123"  # noqa: S105 - only for these tests


def admin_of(server: ZkdnsServer) -> HostPort:
    return parse_host_port(server.admin.removeprefix("http://"))


def call(server: ZkdnsServer, path: str, method: str = "GET", **headers: str) -> Answer:
    return ask(admin_of(server), path, method, seconds=20.0, **headers)


def change(server: ZkdnsServer, path: str) -> Answer:
    return call(server, path, "POST", Authorization=f"Bearer {TOKEN}")


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"{TOKEN}\n")
    return str(path)


@pytest.fixture
def client(hosts: str) -> Iterator[Any]:
    with client_of(hosts) as found:
        yield found


def register(client: Any, host: str, service: str = "web") -> str:
    data = f'{{"serviceEndpoint":{{"host":"{host}","port":80}},"status":"ALIVE"}}'.encode()
    path: str = client.create(f"/discovery/staging/{service}/member_", data, sequence=True, makepath=True)
    return path


def test_health_and_readiness_are_independent() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        eventually(lambda: call(server, "/healthz").text == "ok\n")
        assert call(server, "/readyz").text == "ready\n"
        worker = server.pid_of("worker")
        os.kill(worker, signal.SIGSTOP)
        try:
            eventually(lambda: call(server, "/healthz").status == HTTPStatus.SERVICE_UNAVAILABLE)
            host, port = server.addresses[0]
            assert call(server, "/healthz").text == f"unhealthy: no answer over UDP at {host}:{port}\n"
            assert call(server, "/readyz").status == HTTPStatus.OK
        finally:
            os.kill(worker, signal.SIGCONT)
        eventually(lambda: call(server, "/healthz").status == HTTPStatus.OK)


def test_health_covers_each_address_and_status_each_worker() -> None:
    environment = {"ZKDNS_LISTEN": "127.0.0.1:0,[::1]:0", "ZKDNS_ADMIN": "[::1]:0"}
    with ZkdnsServer("--demo", "--workers", "2", environment=environment) as server:
        server.wait_ready()
        eventually(lambda: call(server, "/healthz").text == "ok\n")
        status = call(server, "/api/status").json
        assert status["listening"] == [
            f"127.0.0.1:{server.addresses[0][1]}",
            f"[::1]:{server.addresses[1][1]}",
        ]
        assert [worker["ready"] for worker in status["workers"]] == [True, True]
        assert len({worker["pid"] for worker in status["workers"]}) == 2
        assert (status["zones"], status["zookeeper"], status["upstreams"]) == (["discovery"], None, [])
        assert status["source"] == "demo"
        assert status["started"] <= status["now"] <= time.time()


def test_change_in_zookeeper_is_in_all_resources(hosts: str, client: Any) -> None:
    first = register(client, "10.0.0.1")
    with ZkdnsServer("--zookeeper", hosts) as server:
        server.wait_ready()
        with reading(admin_of(server)) as reader:
            reader.next("status")
            second = register(client, "10.0.0.2")
            ident, entry = reader.next("change")
            assert (entry["kind"], entry["znode"], entry["endpoint"]) == ("joined", second, "10.0.0.2:80")
            client.delete(first)
            _, entry = reader.next("change")
            assert (entry["kind"], entry["znode"]) == ("left", first)
        with reading(admin_of(server), Last_Event_ID=ident) as again:
            assert again.next("change")[1] == entry
        history = call(server, f"/api/history?service=web.staging&after={ident}").json
        assert (history["entries"], history["last"]) == ([entry], entry["number"])
        (line,) = call(server, "/api/services").json["services"]
        assert (line["name"], line["alive"], line["held"]) == ("web.staging", 1, 0)
        explained = call(server, "/api/explain?name=web.staging").json
        assert [member["endpoint"] for member in explained["members"]] == ["10.0.0.2:80"]
        assert call(server, "/api/explain?name=nope.staging").status == HTTPStatus.NOT_FOUND
        assert call(server, "/api/explain?name=a..b").status == HTTPStatus.BAD_REQUEST
        namespace = {"namespace": "/discovery/{environment}/{service}", "held": 0, "unread": 0}
        state = {"state": "live", "stale_seconds": 0.0}
        server_of_zookeeper = {"server": hosts.partition("/")[0]}
        namespaces = [namespace | state | server_of_zookeeper]
        live = {"hosts": hosts, **state, "problem": "", "namespaces": namespaces}
        eventually(lambda: without_digest(call(server, "/api/status").json["zookeeper"]) == live)


def without_digest(zookeeper: dict[str, Any]) -> dict[str, Any]:
    for namespace in zookeeper["namespaces"]:
        namespace.pop("digest")
    return zookeeper


def held_of(server: ZkdnsServer) -> dict[str, int]:
    return {line["name"]: line["held"] for line in call(server, "/api/services").json["services"]}


def test_loss_is_accepted_with_the_token(hosts: str, client: Any, token_file: str) -> None:
    paths = [register(client, f"10.0.0.{number}") for number in range(1, 7)]
    others = [register(client, f"10.0.1.{number}", "api") for number in range(1, 4)]
    with ZkdnsServer("--zookeeper", hosts, environment={"ZKDNS_ADMIN_TOKEN": token_file}) as server:
        server.wait_ready()
        assert change(server, "/api/accept?all=1").error == "no members are held"
        transaction = client.transaction()
        for path in (*paths, *others):
            transaction.delete(path)
        transaction.commit()
        eventually(lambda: held_of(server) == {"api.staging": 3, "web.staging": 6})
        assert call(server, "/api/accept?service=web.staging", "POST").status == HTTPStatus.UNAUTHORIZED
        accepted = change(server, "/api/accept?service=web.staging").json["members"]
        assert sorted(member["znode"] for member in accepted) == sorted(paths)
        eventually(lambda: server.lookup("web.staging.discovery") == set())
        assert held_of(server) == {"api.staging": 3, "web.staging": 0}
        nothing = change(server, "/api/accept?service=nope.staging")
        assert (nothing.status, nothing.error) == (HTTPStatus.NOT_FOUND, "there is no service nope.staging")
        assert change(server, "/api/accept?service=a..b").status == HTTPStatus.BAD_REQUEST
        flushed = change(server, "/api/flush")
        assert flushed.error == "this server forwards nothing, so nothing is cached"
        Path(token_file).chmod(0o644)
        assert change(server, "/api/accept?all=1").error.endswith("the log has the reason")
        (warning,) = eventually(lambda: server.events("admin_token_refused"))
        assert "is accessible to every user" in warning["reason"]


def test_unusable_token_file_is_logged_at_the_start(token_file: str) -> None:
    Path(token_file).chmod(0o644)
    with ZkdnsServer("--demo", environment={"ZKDNS_ADMIN_TOKEN": token_file}) as server:
        (warning,) = eventually(lambda: server.events("admin_token_refused"))
        assert warning["path"] == token_file
        assert "chmod o-rwx" in warning["reason"]
        assert change(server, "/api/reload").status == HTTPStatus.FORBIDDEN
        assert TOKEN not in server.log


def test_status_and_streams_continue_without_the_watcher() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        with reading(admin_of(server)) as reader:
            reader.next("status")
            watcher = server.pid_of("watcher")
            os.kill(watcher, signal.SIGSTOP)  # the process exists, but does not respond
            assert call(server, "/api/status").status == HTTPStatus.OK
            unavailable = call(server, "/api/services")
            assert unavailable.status == HTTPStatus.SERVICE_UNAVAILABLE
            assert unavailable.error.startswith("the watcher does not respond; ")
            reader.next("status")
            os.kill(watcher, signal.SIGKILL)
            eventually(lambda: call(server, "/api/services").json.get("services"))
            reader.next("status")
        eventually(lambda: call(server, "/healthz").status == HTTPStatus.OK)


def test_last_hour_has_the_queries_by_source() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        with reading(admin_of(server)) as reader:
            for _ in range(20):
                server.lookup("web.staging.discovery")
            newest = eventually(lambda: _next_with_queries(reader), 25.0)
        assert newest["upstream"] in (0, None)
        assert 0 < newest["latency_p50"] <= newest["latency_p99"] < 1
        # The queries may be in two points; the second one is sent ten seconds later.
        eventually(lambda: _counted(server, "queries") >= 19, 25.0)
        assert _counted(server, "response_cache") > _counted(server, "zone") > 0


def _next_with_queries(reader: Reader) -> Any:
    _, point = reader.next("point")
    return point["series"] if point["series"]["response_cache"] else None


def _counted(server: ZkdnsServer, name: str) -> float:
    """Return the approximate number in the last hour."""
    points: list[float | None] = call(server, "/api/last-hour").json["series"][name]
    return sum(value * 10 for value in points if value is not None)


@repeated_if_late
def test_server_stops_in_time_with_open_streams() -> None:
    with ZkdnsServer("--demo") as server:
        server.wait_ready()
        readers = [Reader(admin_of(server)) for _ in range(3)]
        for reader in readers:
            reader.next("status")
        started_at = time.monotonic()
        assert server.terminate() == 0
        in_time(started_at, 3.0)
        for reader in readers:
            assert all(kind == "status" for kind, _, _ in reader)
            reader.close()
        assert "Traceback" not in server.log
        assert server.events("shutdown_started")
