"""Settings in the file, in variables and as flags: values, defaults and precedence."""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.config.helpers import FILE, decoded_copy, errors_of, load, load_or_errors
from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import (
    SETTINGS,
    AccessSettings,
    AdminSettings,
    CacheSettings,
    Config,
    ForwardSettings,
    ForwardZoneSettings,
    GuardSettings,
    LogSettings,
    PrimarySettings,
    ServiceOverride,
    SnapshotSettings,
    ZooKeeperSettings,
    load_config,
)
from zkdns.config.model import TsigKey
from zkdns.errors import ConfigError
from zkdns.namespace import parse_namespace

FULL = """
static = "fixed.toml"
offline = false
listen = ["127.0.0.1", "[::1]:5353", "0.0.0.0:0"]
workers = 4
zone = "Service.Example."
namespace = "/{environment}/{service}"
member_prefix = "node-"
ttl = 0
negative_ttl = 1
order = "random"
max_answers = 8
statuses = ["ALIVE", "WARNING"]
empty = "nxdomain"
dns_sd = true
reverse = true
identity = "ns1"
show_version = true
top_names = true

[zookeeper]
hosts = "zk1, zk2:2182,[::1]/twitter"
session_timeout = 4
credentials = "zookeeper.toml"
tls = true
ca = "ca.pem"
certificate = "own.pem"
key = "own.key"
verify_hostname = false

[forward]
upstreams = ["9.9.9.9", "[2620:fe::fe]:5353", "tls://9.9.9.9#dns.quad9.net"]
trust_ad = true
rebind_protection = true
rebind_exempt = ["Plex.Direct", "zen.spamhaus.org."]

[forward.zone."Corp.example."]
upstreams = ["10.0.0.53", "10.0.0.54:5353"]

[forward.zone.lab]
upstreams = "none"

[cache]
entries = 500
max_ttl = 600
stale = 0

[admin]
socket = "api"
listen = "127.0.0.1:0"
names = ["DNS1.example.com"]
token = "token"

[snapshot]
path = "/var/lib/zkdns/table"
max_age = 3600

[log]
level = "debug"
format = "json"
queries = 0.25

[access]
allow = "10.0.0.0/8"
rate_limit = 7
cookies = false
cookie_secret = "00112233445566778899aabbccddeeff"

[guard]
share = 0.25
seconds = 0

[service."Web.staging"]
ttl = 60
order = "fixed"
max_answers = 1

[service."api.v2.staging"]
"""


def test_the_defaults_without_any_settings() -> None:
    assert load() == Config(
        zookeeper=ZooKeeperSettings(hosts="127.0.0.1:2181"),
        has_default_source=True,
        listen=(HostPort("127.0.0.1", 53),),
        namespaces=(parse_namespace("/discovery/{environment}/{service}", (b"discovery",)),),
        admin=AdminSettings(
            listen=HostPort("127.0.0.1", 9153), socket="/run/zkdns/api" if os.geteuid() == 0 else None
        ),
    )


@pytest.mark.parametrize(
    ("user", "variables", "path"),
    [
        (0, {}, "/run/zkdns/api"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run/zkdns/api"),
        (0, {"RUNTIME_DIRECTORY": "/run/dns:/run/other"}, "/run/dns/api"),
        (1000, {"RUNTIME_DIRECTORY": "/run/dns", "XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/dns/api"),
        (1000, {"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000/zkdns/api"),
        (1000, {}, None),
        (0, {"ZKDNS_ADMIN_SOCKET": "/run/own"}, "/run/own"),
        (0, {"ZKDNS_ADMIN_SOCKET": "none"}, None),
    ],
)
def test_the_default_socket_of_the_api_is_in_the_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, user: int, variables: dict[str, str], path: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert load(environment=variables).admin.socket == path


def test_every_setting_can_be_set_in_the_file(tmp_path: Path) -> None:
    assert load(FULL) == Config(
        zookeeper=ZooKeeperSettings(
            hosts="zk1:2181,zk2:2182,[::1]:2181/twitter",
            session_timeout=4,
            credentials=str(tmp_path / "zookeeper.toml"),
            tls=True,
            ca=str(tmp_path / "ca.pem"),
            certificate=str(tmp_path / "own.pem"),
            key=str(tmp_path / "own.key"),
            verify_hostname=False,
        ),
        static=str(tmp_path / "fixed.toml"),
        demo=False,
        offline=False,
        listen=(HostPort("127.0.0.1", 53), HostPort("::1", 5353), HostPort("0.0.0.0", 0)),
        workers=4,
        namespaces=(parse_namespace("/{environment}/{service}", (b"service", b"example"), "node-"),),
        ttl=0,
        negative_ttl=1,
        order="random",
        max_answers=8,
        statuses=("ALIVE", "WARNING"),
        empty="nxdomain",
        dns_sd=True,
        reverse=True,
        identity="ns1",
        show_version=True,
        top_names=True,
        forward=ForwardSettings(
            upstreams=(
                UpstreamAddress("9.9.9.9", 53),
                UpstreamAddress("2620:fe::fe", 5353),
                UpstreamAddress("9.9.9.9", 853, "dns.quad9.net"),
            ),
            trust_ad=True,
            rebind_protection=True,
            rebind_exempt=("plex.direct", "zen.spamhaus.org"),
            zones={
                "corp.example": ForwardZoneSettings(
                    (UpstreamAddress("10.0.0.53", 53), UpstreamAddress("10.0.0.54", 5353))
                ),
                "lab": ForwardZoneSettings(()),
            },
        ),
        cache=CacheSettings(entries=500, max_ttl=600, stale=0),
        access=AccessSettings(
            allow=("10.0.0.0/8",),
            rate_limit=7,
            cookies=False,
            cookie_secret=bytes.fromhex("00112233445566778899aabbccddeeff"),
        ),
        admin=AdminSettings(
            listen=HostPort("127.0.0.1", 0),
            socket=str(tmp_path / "api"),
            names=("dns1.example.com",),
            token=str(tmp_path / "token"),
        ),
        snapshot=SnapshotSettings(path="/var/lib/zkdns/table", max_age=3600),
        guard=GuardSettings(share=0.25, seconds=0),
        log=LogSettings(level="debug", format="json", queries=0.25),
        service={
            "web.staging.service.example": ServiceOverride(ttl=60, order="fixed", max_answers=1),
            "api.v2.staging.service.example": ServiceOverride(),
        },
    )


def test_the_settings_of_a_secondary(tmp_path: Path) -> None:
    text = """
[primary]
servers = ["10.0.0.53", "tcp://10.0.0.54:5353", "tls://10.0.0.55#ns1.example.com"]
refresh = 30
key = {name = "One.", secret_file = "one.key"}
ca = "ca.pem"
allow_notify = ["10.1.0.0/16"]
"""
    config = load(text)
    assert config.is_secondary
    assert config.zookeeper.hosts is None
    assert config.primary == PrimarySettings(
        servers=(
            UpstreamAddress("10.0.0.53", 53),
            UpstreamAddress("10.0.0.54", 5353, tcp=True),
            UpstreamAddress("10.0.0.55", 853, "ns1.example.com"),
        ),
        refresh=30,
        key=TsigKey("one", secret_file=str(tmp_path / "one.key")),
        ca=str(tmp_path / "ca.pem"),
        allow_notify=("10.1.0.0/16",),
    )
    assert load(primary=("10.0.0.53",)).primary.refresh == 5
    state = load(primary=("10.0.0.53",), environment={"STATE_DIRECTORY": "/var/lib/zkdns"})
    assert state.snapshot.path == "/var/lib/zkdns/table"
    assert state.transfer.directory is None


def _flags(name: str, value: object) -> dict[str, Any]:
    return {name: value}


@pytest.mark.parametrize("other", ["zookeeper", "static"])
def test_a_primary_excludes_other_sources(other: str) -> None:
    assert errors_of(primary=("10.0.0.53",), **_flags(other, "x")) == (
        f"--primary: excludes other sources; remove this or --{other}",
    )


def test_a_key_needs_a_primary() -> None:
    (error,) = errors_of('[primary.key]\nname = "one"\nsecret = "c2VjcmV0"')
    assert "primary.key: has no effect without a primary" in error


@pytest.mark.parametrize("key", ["refresh", "ca", "allow_notify"])
def test_settings_of_a_secondary_need_a_primary(key: str) -> None:
    value = {"refresh": "7", "allow_notify": ("10.0.0.0/8",)}.get(key, "file")
    (error,) = errors_of(**_flags(f"primary_{key}", value))
    assert "has no effect without a primary" in error


def test_a_configuration_can_be_sent_to_another_process() -> None:
    config = load(FULL)
    assert decoded_copy(config) == config


def leaves(struct: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """The paths of all fields, including those of sections."""
    found = []
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found += leaves(field.type, f"{prefix}{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


def test_every_field_has_a_row_and_every_row_has_a_field() -> None:
    """Each setting has its own field, except namespace, zone, member_prefix and only, which share one."""
    fields = [row.field for row in SETTINGS]
    assert fields.count("namespaces") == 4
    fields = list(dict.fromkeys(fields))
    assert sorted([*fields, "has_default_source"]) == sorted(leaves(Config))


def test_the_defaults_of_sections_are_those_of_their_classes() -> None:
    config = load(demo=True)
    made = Config(listen=config.listen, namespaces=config.namespaces, demo=True)
    assert msgspec.structs.replace(config, admin=AdminSettings()) == made


def test_names_of_flags_and_variables() -> None:
    rows = {row.key: row for row in SETTINGS}
    assert {row.flag for row in SETTINGS} - {
        f"--{key.replace('_', '-').replace('.', '-')}" for key in rows
    } == {
        "--zookeeper",
        "--primary",
        "--upstream",
        "--allow",
        "--admin",
        "--snapshot",
    }
    assert (rows["cache.max_ttl"].flag, rows["cache.max_ttl"].variable) == (
        "--cache-max-ttl",
        "ZKDNS_CACHE_MAX_TTL",
    )
    assert (rows["zookeeper.hosts"].flag, rows["zookeeper.hosts"].variable) == (
        "--zookeeper",
        "ZKDNS_ZOOKEEPER",
    )
    assert [row.key for row in SETTINGS if row.is_boolean] == [
        "zookeeper.tls",
        "zookeeper.verify_hostname",
        "demo",
        "offline",
        "dns_sd",
        "reverse",
        "show_version",
        "top_names",
        "forward.trust_ad",
        "forward.rebind_protection",
        "access.cookies",
        "transfer.require_tls",
    ]
    many = [
        "primary.servers",
        "primary.allow_notify",
        *("listen", "only", "statuses", "forward.upstreams", "forward.rebind_exempt", "access.allow"),
        *("tls.listen", "transfer.allow", "transfer.notify", "admin.names"),
    ]
    assert [row.key for row in SETTINGS if row.many] == many


@pytest.mark.parametrize("name", ["flag", "variable", "name"])
def test_no_two_settings_share_a_name(name: str) -> None:
    names = [getattr(row, name) for row in SETTINGS]
    assert len(set(names)) == len(names)


# Setting, text in a variable or flag, and value.
VALID_TEXTS: list[tuple[str, str, object]] = [
    ("zookeeper", "zk1", "zk1:2181"),
    ("zookeeper", "zk1:2182,zk2/a/b", "zk1:2182,zk2:2181/a/b"),
    ("zookeeper", "zk1/", "zk1:2181"),
    ("zookeeper", "::1,[::2]:1", "[::1]:2181,[::2]:1"),
    ("allow", "10.0.0.0/8, FD00::/8,192.0.2.1", ("10.0.0.0/8", "fd00::/8", "192.0.2.1/32")),
    ("snapshot", "/run/zkdns", "/run/zkdns"),
    ("snapshot_max_age", "0", 0),
    ("zone", "discovery.", (b"discovery",)),
    ("zone", "A.B_c", (b"a", b"b_c")),
    ("namespace", "/{service}", parse_namespace("/{service}")),
    ("ttl", "86400", 86400),
    ("ttl", " 7 ", 7),
    ("ttl", "007", 7),
    ("negative_ttl", "3600", 3600),
    ("zookeeper_session_timeout", "600", 600),
    ("order", "fixed", "fixed"),
    ("max_answers", "1", 1),
    ("max_answers", "65535", 65535),
    ("workers", "256", 256),
    ("upstream", "none", ()),
    ("upstream", "auto", "auto"),
    ("upstream", "9.9.9.9", (UpstreamAddress("9.9.9.9", 53),)),
    ("upstream", "tls://1.1.1.1", (UpstreamAddress("1.1.1.1", 853, "1.1.1.1"),)),
    ("cache_entries", "1", 1),
    ("cache_entries", "1000000", 1_000_000),
    ("admin", "none", None),
    ("admin", "::1", HostPort("::1", 9153)),
    ("admin", "0.0.0.0:8080", HostPort("0.0.0.0", 8080)),
    ("admin_socket", "none", None),
    ("admin_socket", "/run/zkdns/api", "/run/zkdns/api"),
    ("log_format", "json", "json"),
    ("log_level", "warning", "warning"),
    ("log_queries", "0", 0.0),
    ("log_queries", "0.01", 0.01),
    ("log_queries", "1", 1.0),
    ("access_rate_limit", "0", 0),
    ("admin_names", "DNS1.example.com.,dns", ("dns1.example.com", "dns")),
    ("cache_stale", "259200", 259_200),
]


@pytest.mark.parametrize(("key", "text", "meaning"), VALID_TEXTS)
def test_a_flag_and_a_variable_with_the_same_text_are_equal(key: str, text: str, meaning: object) -> None:
    flags: dict[str, Any] = {key: text}
    by_flag = load(**flags)
    (row,) = (row for row in SETTINGS if row.name == key)
    field = key if row.field == "namespaces" else row.field  # this field is for namespace and zone
    assert attrgetter(field)(by_flag) == meaning
    assert load(environment={row.variable: text}) == by_flag


def test_a_file_may_have_a_byte_order_mark_and_crlf() -> None:
    assert load(b"\xef\xbb\xbfttl = 7\r\nworkers = 2\r\n").ttl == 7


def test_the_file_of_a_flag_overrides_that_of_the_variable() -> None:
    Path("a.toml").write_text("ttl = 1", encoding="utf-8")
    Path("b.toml").write_text("ttl = 2", encoding="utf-8")
    environment = {"ZKDNS_CONFIG": "a.toml"}
    assert load_config(flags={}, environment=environment, file=None).ttl == 1
    assert load_config(flags={}, environment=environment, file="b.toml").ttl == 2


def test_a_flag_overrides_a_variable_and_a_variable_the_file_per_setting() -> None:
    config = load(
        'ttl = 1\nnegative_ttl = 1\nworkers = 1\nlisten = ["::1", "::2"]',
        {"ZKDNS_TTL": "2", "ZKDNS_NEGATIVE_TTL": "2", "ZKDNS_LISTEN": "::3,::4"},
        ttl="3",
        listen=("::5",),
    )
    assert (config.ttl, config.negative_ttl, config.workers) == (3, 2, 1)
    assert config.listen == (HostPort("::5", 53),)


def test_none_empty_tuples_and_empty_variables_are_unset() -> None:
    environment = {"ZKDNS_TTL": "", "ZKDNS_WORKERS": " ", "ZKDNS_CONFIG": ""}
    assert load(environment=environment, zone=None, listen=()) == load()


def test_lists_have_commas_in_variables_and_are_repeated_flags() -> None:
    expected = (HostPort("127.0.0.1", 53), HostPort("::1", 5353))
    assert load(environment={"ZKDNS_LISTEN": "127.0.0.1, [::1]:5353"}).listen == expected
    assert load(listen=("127.0.0.1", "[::1]:5353")).listen == expected
    assert load('listen = ["127.0.0.1", "[::1]:5353"]').listen == expected
    assert load('listen = "127.0.0.1"').listen == expected[:1]
    assert load(environment={"ZKDNS_STATUSES": "ALIVE,WARNING"}).statuses == ("ALIVE", "WARNING")


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("1", True),
        ("true", True),
        ("Yes", True),
        ("on", True),
        ("0", False),
        ("FALSE", False),
        ("no", False),
        ("off", False),
    ],
)
def test_booleans_in_variables(text: str, *, on: bool) -> None:
    assert load(environment={"ZKDNS_DEMO": text}).demo is on


def test_booleans_in_the_file_and_as_flags() -> None:
    assert load("demo = true").demo
    assert load(demo=True).demo
    assert not load("demo = true", demo=False).demo


def test_demo_needs_no_source_and_no_privileged_port() -> None:
    config = load(demo=True)
    assert (config.zookeeper.hosts, config.static) == (None, None)
    assert config.listen == (HostPort("127.0.0.1", 5300),)
    assert load(demo=True, listen=("127.0.0.1",)).listen == (HostPort("127.0.0.1", 53),)


def test_a_static_file_is_a_source_with_or_without_zookeeper() -> None:
    assert load(static="/f.toml").zookeeper.hosts is None
    config = load("demo = false", static="/f.toml", zookeeper="zk1")
    assert (config.zookeeper.hosts, config.static) == ("zk1:2181", "/f.toml")


def test_demo_with_other_sources_is_an_error_that_names_them() -> None:
    assert errors_of('zookeeper.hosts = "zk1"', {"ZKDNS_STATIC": "f.toml"}, demo=True) == (
        f"--demo: excludes other sources; remove this or {FILE}: zookeeper.hosts and ZKDNS_STATIC",
    )
    assert not load("demo = true", demo="no", zookeeper="zk1").demo


def test_offline_needs_no_source_and_has_no_maximum_snapshot_age() -> None:
    config = load(offline=True, snapshot="/t")
    assert (config.zookeeper.hosts, config.snapshot.path, config.snapshot.max_age) == (None, "/t", 0)
    assert load(offline=True, snapshot="/t", snapshot_max_age="60").snapshot.max_age == 60
    assert load("offline = true", offline=False, snapshot="/t").zookeeper.hosts == "127.0.0.1:2181"
    assert load(snapshot="/t").snapshot.max_age == 86_400


def test_offline_with_other_sources_or_without_snapshot_is_an_error() -> None:
    assert errors_of('zookeeper.hosts = "zk1"', {"ZKDNS_STATIC": "f.toml"}, offline=True, snapshot="/t") == (
        f"--offline: excludes other sources; remove this or {FILE}: zookeeper.hosts and ZKDNS_STATIC",
    )
    assert errors_of("offline = true\ndemo = true", snapshot="/t") == (
        f"{FILE}: offline: excludes other sources; remove this or {FILE}: demo",
    )
    assert errors_of(offline=True) == ("--offline: needs a snapshot; write snapshot.path (--snapshot FILE)",)


def test_http_must_not_use_an_address_of_dns_except_port_0() -> None:
    assert load(listen=("127.0.0.1:0",), admin="127.0.0.1:0").admin.listen == HostPort("127.0.0.1", 0)
    (error,) = errors_of(listen=("127.0.0.1:80",), admin="127.0.0.1:80")
    assert error.startswith("--admin: 127.0.0.1:80 is the address for both DNS and HTTP")


def test_paths_are_relative_to_the_file_or_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / FILE).write_text('static = "a/f.toml"\nsnapshot.path = "s"', encoding="utf-8")
    config = load_config(flags={"snapshot": "t"}, environment={}, file=f"etc/{FILE}")
    assert config.static == str(tmp_path / "etc" / "a" / "f.toml")
    assert config.snapshot.path == str(tmp_path / "t")
    assert load(environment={"ZKDNS_STATIC": "f.toml"}).static == str(tmp_path / "f.toml")


def test_a_relative_path_without_a_working_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert errors_of(static="f.toml") == (
        "--static: 'f.toml' is relative, and the working directory does not exist",
    )
    assert load(static="/f.toml").static == "/f.toml"


def test_tls_settings_without_tls_are_errors() -> None:
    keys = ("ca", "certificate", "key")
    found = errors_of(
        "[zookeeper]\nverify_hostname = false\n" + "".join(f'{key} = "x.pem"\n' for key in keys)
    )
    no_tls = "has no effect without TLS; write zookeeper.tls as well"
    no_certificate = "has no effect without a certificate; write zookeeper.certificate as well"
    assert found == tuple(f"{FILE}: zookeeper.{key}: {no_tls}" for key in (*keys, "verify_hostname"))
    assert errors_of('[zookeeper]\ntls = true\nkey = "x.pem"') == (
        f"{FILE}: zookeeper.key: {no_certificate}",
    )
    config = load('[zookeeper]\ntls = true\nca = "ca.pem"', zookeeper_certificate="/own.pem")
    assert config.zookeeper == ZooKeeperSettings(
        hosts="127.0.0.1:2181", tls=True, ca=str(Path("ca.pem").absolute()), certificate="/own.pem"
    )
    assert not load(zookeeper_tls=True, zookeeper_verify_hostname=False).zookeeper.verify_hostname


def test_credentials_are_checked_together_with_all_settings() -> None:
    given: list[ZooKeeperSettings] = []

    def check(settings: ZooKeeperSettings) -> None:
        given.append(settings)
        raise ConfigError(["credentials: wrong"])

    with pytest.raises(ConfigError) as caught:
        load_config(
            flags={
                "zookeeper_credentials": "/c.toml",
                "zookeeper_tls": True,
                "zookeeper_session_timeout": "x",
                "ttl": "x",
            },
            environment={},
            file=None,
            check_access=check,
        )
    assert given == [ZooKeeperSettings(hosts="127.0.0.1:2181", credentials="/c.toml", tls=True)]
    assert len(caught.value.errors) == 3
    assert caught.value.errors[-1] == "credentials: wrong"


def test_variables_of_other_programs_are_ignored() -> None:
    others = {
        "ZKDNS_SERVER": "127.0.0.1:53",
        "PATH": "/bin",
        "zkdns_ttl": "x",
        # A Kubernetes service called zkdns, and one called zkdns-admin.
        "ZKDNS_SERVICE_HOST": "10.0.0.1",
        "ZKDNS_SERVICE_PORT": "53",
        "ZKDNS_SERVICE_PORT_DNS": "53",
        "ZKDNS_PORT": "udp://10.0.0.1:53",
        "ZKDNS_PORT_53_UDP": "udp://10.0.0.1:53",
        "ZKDNS_PORT_53_UDP_PROTO": "udp",
        "ZKDNS_ADMIN_SERVICE_HOST": "10.0.0.2",
        "ZKDNS_ADMIN_PORT": "tcp://10.0.0.2:80",
        "ZKDNS_ADMIN_PORT_80_TCP_ADDR": "10.0.0.2",
    }
    assert load(environment=others) == load()


KEYS = st.sampled_from(
    [row.key for row in SETTINGS]
    + [
        "tll",
        'service."a.b"',
        "service.a",
        "x.y",
        "forward.zone.a.upstreams",
        'forward.zone."b.discovery".upstreams',
        "cache",
        "cache.entrys",
    ]
)
SCALARS = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["true", "[]", "{}", "[1, 2]", '["::1"]', '["auto", "::2"]', "nan", "1979-05-27", "{ttl = 1}", '""']
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="'")).map(
        lambda text: f"'{text}'"
    ),
)
DOCUMENTS = st.lists(st.tuples(KEYS, SCALARS), max_size=6).map(
    lambda pairs: "\n".join(f"{key} = {value}" for key, value in pairs)
)
SHARED_DIRECTORY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_DIRECTORY
@given(
    st.one_of(DOCUMENTS, st.text(st.characters(codec="utf-8")), st.just(FULL)).map(str.encode) | st.binary()
)
@example(b"")
def test_any_file_is_a_sendable_configuration_or_a_list_of_errors(toml: bytes) -> None:
    config, found = load_or_errors(toml)
    assert (config is None) == bool(found)
    assert all(error.startswith(f"{FILE}: ") for error in found)
    assert decoded_copy(config) == config


FLAGS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from([row.name for row in SETTINGS if row.in_flags]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(st.characters()),
        st.lists(st.text(st.characters()), max_size=3).map(tuple),
        st.sampled_from([text for _, text, _ in VALID_TEXTS]),
    ),
    max_size=4,
)


@SHARED_DIRECTORY
@given(
    FLAGS,
    st.dictionaries(
        st.sampled_from([row.variable for row in SETTINGS]), st.text(st.characters()), max_size=4
    ),
)
def test_any_flags_and_variables_are_a_configuration_or_a_list_of_errors(
    flags: dict[str, Any], environment: dict[str, str]
) -> None:
    config, found = load_or_errors(None, environment, **flags)
    assert (config is None) == bool(found)
    assert all(error.startswith(("--", "ZKDNS_")) for error in found)
    assert decoded_copy(config) == config


def test_a_section_may_have_any_toml_form() -> None:
    expected = CacheSettings(entries=5, stale=0)
    assert load("[cache]\nentries = 5\nstale = 0").cache == expected
    assert load("cache = {entries = 5, stale = 0}").cache == expected
    assert load("cache.entries = 5\ncache.stale = 0").cache == expected
    assert load("[cache]\nentries = 5", {"ZKDNS_CACHE_ENTRIES": "7"}, cache_stale="0").cache == CacheSettings(
        entries=7, stale=0
    )


def test_observers_have_the_chroot_of_the_other_servers() -> None:
    toml = '[zookeeper]\nhosts = "zk1:2281,zk2/a/b"\nobservers = "zk2, [::1]:2282"'
    settings = load(toml).zookeeper
    assert settings.observers == (HostPort("zk2", 2181), HostPort("::1", 2282))
    assert settings.servers == "zk2:2181,[::1]:2282,zk1:2281/a/b"
    assert settings.observers_only == "zk2:2181,[::1]:2282/a/b"
    assert load(zookeeper="zk1,zk2/a").zookeeper.servers == "zk1:2181,zk2:2181/a"
    assert load(zookeeper="zk1").zookeeper.servers == "zk1:2181"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            'hosts = "a"\nobservers = "b/c"',
            "'b:2181/c' has a chroot; that of zookeeper.hosts applies to observers as well",
        ),
        ('hosts = "a"\nobservers = "b,b:2181"', "'b,b:2181' names b:2181 twice"),
        ('hosts = "a"\nobservers = 5', "is 5; write HOST[:PORT],… in quotes"),
        ('observers = "b"', "has no effect without the other servers; write zookeeper.hosts as well"),
    ],
)
def test_wrong_observers_are_an_error(toml: str, expected: str) -> None:
    assert errors_of(f"[zookeeper]\n{toml}") == (f"{FILE}: zookeeper.observers: {expected}",)
