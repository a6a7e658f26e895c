from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.config.helpers import FILE, load, mistakes, try_to_load
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
    ServiceOverride,
    SnapshotSettings,
    ZooKeeperSettings,
    load_config,
)
from zkdns.config.load import MAX_FILE
from zkdns.errors import ConfigError
from zkdns.namespace import parse_namespace
from zkdns.snapshot import namespaces_of

NO_ADDRESS = "is not an address to listen on; write an IP address and a port, such as 127.0.0.1:53"
BOTH = "is the address for both DNS and HTTP; use another port, or none for admin.listen"
TWICE = "names the same service as another table; names are case-insensitive (RFC 4343)"
NO_UPSTREAM = "is not an address to forward to; write an IP address, such as 9.9.9.9, [2620:fe::fe]:53, tls://9.9.9.9#dns.quad9.net"
NO_SERVICE = "is not a service's name; write {service}.{environment}, without the zone"

FULL = """
static = "fixed.toml"
offline = false
listen = ["127.0.0.1", "[::1]:5353", "0.0.0.0:0"]
workers = 4
zone = "Service.Example."
namespace = "/{environment}/{service}"
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
control = "control"

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

[forward.zone."Corp.example."]
upstreams = ["10.0.0.53", "10.0.0.54:5353"]

[forward.zone.lab]
upstreams = "none"

[cache]
entries = 500
max_ttl = 600
stale = 0

[admin]
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


TOP_LEVEL = list(dict.fromkeys(row.key for row in SETTINGS if "." not in row.key)) + list(
    dict.fromkeys(row.key.partition(".")[0] for row in SETTINGS if "." in row.key)
)
"""What a file may have at its top, in the order of errors."""


def travel(config: Config | None) -> Config | None:
    """The configuration as a child process receives it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config | None)


def test_with_nothing_written_the_defaults_hold() -> None:
    assert load() == Config(
        zookeeper=ZooKeeperSettings(hosts="127.0.0.1:2181"),
        listen=(HostPort("127.0.0.1", 53),),
        namespaces=(parse_namespace("/discovery/{environment}/{service}", (b"discovery",)),),
        admin=AdminSettings(listen=HostPort("127.0.0.1", 9153)),
        control="/run/zkdns/control" if os.geteuid() == 0 else None,
    )


@pytest.mark.parametrize(
    ("user", "variables", "control"),
    [
        (0, {}, "/run/zkdns/control"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run/zkdns/control"),
        (0, {"RUNTIME_DIRECTORY": "/run/dns:/run/other"}, "/run/dns/control"),
        (1000, {"RUNTIME_DIRECTORY": "/run/dns", "XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/dns/control"),
        (1000, {"XDG_RUNTIME_DIR": "/run/user/1000"}, "/run/user/1000/zkdns/control"),
        (1000, {}, None),
        (0, {"ZKDNS_CONTROL": "/run/own"}, "/run/own"),
        (0, {"ZKDNS_CONTROL": "none"}, None),
    ],
)
def test_the_control_socket_lies_where_such_files_are_kept(
    monkeypatch: pytest.MonkeyPatch, user: int, variables: dict[str, str], control: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert load(environment=variables).control == control


def test_every_setting_can_be_written_in_the_file(tmp_path: Path) -> None:
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
        namespaces=(parse_namespace("/{environment}/{service}", (b"service", b"example")),),
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
        forward=ForwardSettings(
            upstreams=(
                UpstreamAddress("9.9.9.9", 53),
                UpstreamAddress("2620:fe::fe", 5353),
                UpstreamAddress("9.9.9.9", 853, "dns.quad9.net"),
            ),
            trust_ad=True,
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
            listen=HostPort("127.0.0.1", 0), names=("dns1.example.com",), token=str(tmp_path / "token")
        ),
        snapshot=SnapshotSettings(path="/var/lib/zkdns/table", max_age=3600),
        guard=GuardSettings(share=0.25, seconds=0),
        control=str(tmp_path / "control"),
        log=LogSettings(level="debug", format="json", queries=0.25),
        service={
            "web.staging.service.example": ServiceOverride(ttl=60, order="fixed", max_answers=1),
            "api.v2.staging.service.example": ServiceOverride(),
        },
    )


def test_a_configuration_survives_the_way_to_another_process() -> None:
    config = load(FULL)
    assert travel(config) == config


def leaves(struct: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """The paths of all fields, those of sections included."""
    found = []
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found += leaves(field.type, f"{prefix}{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


def test_every_field_has_a_row_and_every_row_has_a_field() -> None:
    """A namespace has its zone with it, so that the two are one field; all others are alone."""
    fields = [row.field for row in SETTINGS]
    fields.remove("namespaces")
    assert sorted(fields) == sorted(leaves(Config))


def test_every_default_of_a_section_holds_where_nothing_is_written() -> None:
    config = load(demo=True)
    made = Config(listen=config.listen, namespaces=config.namespaces, demo=True, control=config.control)
    assert msgspec.structs.replace(config, admin=AdminSettings()) == made


def test_a_setting_knows_what_each_layer_calls_it() -> None:
    rows = {row.key: row for row in SETTINGS}
    assert {row.flag for row in SETTINGS} - {
        f"--{key.replace('_', '-').replace('.', '-')}" for key in rows
    } == {
        "--zookeeper",
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
        "forward.trust_ad",
        "access.cookies",
    ]
    many = ["listen", "statuses", "forward.upstreams", "access.allow", "admin.names"]
    assert [row.key for row in SETTINGS if row.many] == many


@pytest.mark.parametrize("name", ["flag", "variable", "name"])
def test_no_two_settings_share_a_name(name: str) -> None:
    names = [getattr(row, name) for row in SETTINGS]
    assert len(set(names)) == len(names)


# What is written as text, in the environment or as a flag, and what it means.
TEXTS: list[tuple[str, str, object]] = [
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
    ("control", "none", None),
    ("control", "/run/zkdns/control", "/run/zkdns/control"),
    ("log_format", "json", "json"),
    ("log_level", "warning", "warning"),
    ("log_queries", "0", 0.0),
    ("log_queries", "0.01", 0.01),
    ("log_queries", "1", 1.0),
    ("access_rate_limit", "0", 0),
    ("admin_names", "DNS1.example.com.,dns", ("dns1.example.com", "dns")),
    ("cache_stale", "259200", 259_200),
]


@pytest.mark.parametrize(("key", "text", "meaning"), TEXTS)
def test_flags_and_variables_hold_text_and_mean_the_same(key: str, text: str, meaning: object) -> None:
    flags: dict[str, Any] = {key: text}
    by_flag = load(**flags)
    (row,) = (row for row in SETTINGS if row.name == key)
    field = key if row.field == "namespaces" else row.field  # of these the first has both
    assert attrgetter(field)(by_flag) == meaning
    assert load(environment={row.variable: text}) == by_flag


# What is wrong as text, and why.
WRONG_TEXTS = [
    ("zookeeper", "/discovery", "no usable host; write"),
    ("zookeeper", "zk1,,zk2", "no usable host; write"),
    ("zookeeper", "zk1:0", "a port is 1 to 65535"),
    ("zookeeper", "zk1,zk1:2181", "names zk1:2181 twice"),
    ("zookeeper", "zk1/a/", "'/a/' is not a path"),
    ("zookeeper", "zk1//a", "'//a' is not a path"),
    ("zookeeper", "zk1/a/../b", "ZooKeeper rejects the elements"),
    ("zookeeper", "zk1/\udcff", "not UTF-8"),
    ("static", "a\0b", "is 'a\\x00b'; it has a zero byte"),
    ("snapshot", "\udcff", "not UTF-8"),
    ("listen", "localhost", "not an address to listen on; write an IP address and a port"),
    ("listen", "127.0.0.1:65536", "a port is 0 to 65535"),
    ("zone", ".", "'.' is the root; a zone has at least one label"),
    ("zone", "a..b", "an empty label"),
    ("zone", "a,b", "write letters, digits, hyphens"),
    ("zone", "dïscovery", "write letters, digits, hyphens"),
    ("zone", "a" * 64, "64 bytes, at most 63"),
    ("namespace", "/discovery", "does not end in a placeholder"),
    ("namespace", "discovery/{service}", "is not a path"),
    ("ttl", "five", "is 'five'; write an integer from 0 to 86400"),
    ("ttl", "5s", "is '5s'; write an integer from 0 to 86400"),
    ("ttl", "-1", "is '-1'; write an integer from 0 to 86400"),
    ("ttl", "86401", "is '86401'; write an integer from 0 to 86400"),
    ("ttl", "1.5", "write an integer"),
    ("ttl", "\u0661", "write an integer"),
    ("ttl", "9" * 5000, "write an integer"),
    ("zookeeper_session_timeout", "0", "is '0'; write an integer from 1 to 600"),
    ("negative_ttl", "0", "is '0'; write an integer from 1 to 3600"),
    ("negative_ttl", "3601", "write an integer from 1 to 3600"),
    ("order", "roundrobin", "is 'roundrobin'; write one of round-robin, random, fixed"),
    ("max_answers", "0", "write an integer from 1 to 65535"),
    ("workers", "257", "write an integer from 1 to 256"),
    ("upstream", "dns.quad9.net", "'dns.quad9.net' is not an address to forward to"),
    ("upstream", "nobody", "'nobody' is not an address to forward to"),
    ("upstream", "1.1.1.1:0", "a port is 1 to 65535"),
    ("upstream", "https://1.1.1.1", "starts with https://; write ADDRESS[:PORT], or tls://"),
    ("upstream", "127.0.0.1", "127.0.0.1:53 is an address of this server; write another one"),
    ("cache_entries", "0", "write an integer from 1 to 1000000"),
    ("admin", "localhost:80", "not an address to listen on"),
    ("log_format", "xml", "is 'xml'; write one of auto, console, json, journald"),
    ("log_level", "\udcff", "not UTF-8"),
    ("demo", "perhaps", "is 'perhaps'; write true or false"),
    ("log_queries", "1.5", "is '1.5'; write a number from 0 to 1, such as 0.01"),
    ("log_queries", "nan", "is 'nan'; write a number from 0 to 1"),
    ("log_queries", "true", "is 'true'; write a number from 0 to 1"),
]


@pytest.mark.parametrize(("key", "text", "why"), WRONG_TEXTS)
def test_wrong_text_is_a_mistake_of_its_flag_or_variable(key: str, text: str, why: str) -> None:
    flags: dict[str, Any] = {key: text}
    (by_flag,) = mistakes(**flags)
    assert by_flag.startswith(f"--{key.replace('_', '-')}: ")
    assert why in by_flag
    (by_variable,) = mistakes(environment={f"ZKDNS_{key.upper()}": text})
    assert by_variable == by_flag.replace(f"--{key.replace('_', '-')}", f"ZKDNS_{key.upper()}", 1)


# What is wrong in the file, and the whole sentence.
WRONG_FILES = [
    ('ttl = "5"', "ttl: is the text '5'; write 5 without quotes"),
    ('ttl = "5s"', "ttl: is '5s'; write an integer from 0 to 86400"),
    ("ttl = true", "ttl: is true; write an integer from 0 to 86400"),
    ("ttl = 5.0", "ttl: is 5.0; write an integer from 0 to 86400"),
    ("ttl = nan", "ttl: is nan; write an integer from 0 to 86400"),
    ("ttl = -1", "ttl: is -1; write an integer from 0 to 86400"),
    ("ttl = 2001-01-01", "ttl: is 2001-01-01; write an integer from 0 to 86400"),
    ("ttl = 0x" + "f" * 9000, "ttl: is a very large number; write an integer from 0 to 86400"),
    ("ttl = [5]", "ttl: is a list; write an integer from 0 to 86400"),
    ("ttl.web = 5", "ttl: is a table; write an integer from 0 to 86400"),
    (f'order = "{"x" * 99}"', f"order: is '{'x' * 80}…'; write one of round-robin, random, fixed"),
    ("order = 1", "order: is 1; write one of round-robin, random, fixed in quotes"),
    ("demo = 1", "demo: is 1; write true or false, without quotes"),
    ('demo = "true"', "demo: is 'true'; write true or false, without quotes"),
    ("zone = 1", "zone: is 1; write a domain name in quotes"),
    ('zone = " "', "zone: is empty; write a domain name"),
    ('static = ""', "static: is empty; write the path of a file"),
    ("static = false", "static: is false; write the path of a file in quotes"),
    ("listen = []", "listen: is an empty list; write at least one ADDRESS[:PORT]"),
    ("listen = 53", "listen: is 53; write ADDRESS[:PORT] in quotes"),
    ("listen = [53]", "listen: is 53; write ADDRESS[:PORT] in quotes"),
    ('listen = ["::1", "[0::1]:53"]', "listen: [::1]:53 is given twice"),
    ('statuses = ["ALIVE", "ALIVE"]', "statuses: ALIVE is given twice"),
    (
        'statuses = "alive"',
        "statuses: is 'alive'; write one of DEAD, STARTING, ALIVE, STOPPING, STOPPED, WARNING, UNKNOWN",
    ),
    ('empty = "none"', "empty: is 'none'; write one of nodata, nxdomain"),
    ("negative-ttl = 5", "unknown key 'negative-ttl'; did you mean negative_ttl?"),
    ("tll = 5", "unknown key 'tll'; did you mean ttl?"),
    (
        '"\\u001b[31m" = 5',
        f"unknown key '\\x1b[31m'; accepted: {', '.join(TOP_LEVEL)}",
    ),
    ("service = 5", "service: is 5; write a table"),
    ("guard = 5", "guard: is 5; write a section, [guard] with share, minimum, seconds"),
    ("cache = 5", "cache: is 5; write a section, [cache] with entries, max_ttl, stale"),
    (
        'snapshot = "/var/lib/zkdns/table"',
        "snapshot: is '/var/lib/zkdns/table'; write a section, [snapshot] with path, max_age",
    ),
    ("[[log]]\nlevel = 5", "log: is a list; write a section, [log] with level, format, queries"),
    ("[cache]\nentrys = 5", "cache: unknown key 'entrys'; accepted: entries, max_ttl, stale"),
    ("[cache]\nttl = 5", "cache: unknown key 'ttl'; did you mean the top-level ttl (above all sections)?"),
    ("[cache.entries]\nmost = 5", "cache.entries: is a table; write an integer from 1 to 1000000"),
    ("cache_entries = 5", "unknown key 'cache_entries'; did you mean cache.entries?"),
    ("cache_max_tll = 5", "unknown key 'cache_max_tll'; did you mean cache.max_ttl?"),
    ('upstream = "none"', "unknown key 'upstream'; did you mean forward.upstreams?"),
    ("session_timeout = 5", "unknown key 'session_timeout'; did you mean zookeeper.session_timeout?"),
    ("cahce = {}", "unknown key 'cahce'; did you mean cache?"),
    ("[log]\nqueries = true", "log.queries: is true; write a number from 0 to 1, such as 0.01"),
    ('[log]\nqueries = "0.5"', "log.queries: is '0.5'; write a number from 0 to 1, such as 0.01"),
    ("[guard]\nshare = 1", "guard.share: is 1; write a number between 0 and 1, such as 0.5"),
    ("[guard]\nshare = 0", "guard.share: is 0; write a number between 0 and 1, such as 0.5"),
    ("[guard]\nshare = nan", "guard.share: is nan; write a number between 0 and 1, such as 0.5"),
    ("[guard]\nshare = true", "guard.share: is true; write a number between 0 and 1, such as 0.5"),
    ("[guard]\nminimum = 0", "guard.minimum: is 0; write an integer from 1 to 65535"),
    ("[guard]\nseconds = -1", "guard.seconds: is -1; write an integer from 0 to 86400"),
    ("[guard]\ntime = 5", "guard: unknown key 'time'; accepted: share, minimum, seconds"),
    ('[[service]]\nname = "web"', "service: is a list; write a table"),
    ("[service]\nweb = 5", "service.web: is 5; write a table"),
    (
        '[service."web.staging"]\nttl = "1"',
        "service.\"web.staging\".ttl: is the text '1'; write 1 without quotes",
    ),
    (
        '[service."web.staging"]\norder = "first"',
        "service.\"web.staging\".order: is 'first'; write one of round-robin, random, fixed",
    ),
    (
        '[service."web.staging"]\nmax_answer = 1',
        "service.\"web.staging\": unknown key 'max_answer'; accepted: ttl, order, max_answers",
    ),
    (
        '[service."web.staging"]\nlisten = "::1"',
        "service.\"web.staging\": unknown key 'listen'; accepted: ttl, order, max_answers",
    ),
    (
        "[service.web]\nttl = 5",
        f"service.web: 'web' {NO_SERVICE}",
    ),
    ('[service."web..a"]', "service.\"web..a\": 'web..a' is not a domain name: it has an empty label"),
    (
        '[service."Web.a"]\n[service."web.A"]',
        f'service."web.A": {TWICE}',
    ),
    (
        'listen = "127.0.0.1:9153"',
        f"listen: 127.0.0.1:9153 {BOTH}",
    ),
]


@pytest.mark.parametrize(("toml", "sentence"), WRONG_FILES)
def test_what_is_wrong_in_the_file_is_told_in_one_sentence_with_its_key(toml: str, sentence: str) -> None:
    assert mistakes(toml) == (f"{FILE}: {sentence}",)


def test_a_service_table_with_the_dot_outside_quotes_is_explained() -> None:
    assert (
        f"{FILE}: service.web.staging: is a table inside a table; put a name with dots in quotes"
        in mistakes("[service.web.staging]\nttl = 5")
    )


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("ttl = ", "is not TOML: Invalid value (at end of document)"),
        (
            "ttl = 5\nzone discovery",
            "is not TOML: Expected '=' after a key in a key/value pair (at line 2, column 6)",
        ),
        (b"ttl = 1\n# \xff", "is not UTF-8 (at line 2); TOML is always UTF-8"),
        ("# " + "x" * MAX_FILE, f"is longer than {MAX_FILE} bytes, the maximum for a configuration"),
        ("a = " + "[" * 100_000, "is nested too deeply to be read"),
    ],
)
def test_a_file_that_is_no_toml_is_one_mistake(toml: str | bytes, sentence: str) -> None:
    assert mistakes(toml) == (f"{FILE}: {sentence}",)


def test_a_number_that_python_refuses_to_read_is_a_mistake_too() -> None:
    (mistake,) = mistakes("ttl = " + "9" * 5000)
    assert mistake.startswith(f"{FILE}: is not TOML: ")


@pytest.mark.parametrize(
    ("file", "reason"),
    [("absent.toml", "No such file or directory"), (".", "Is a directory"), ("a\0b", "null byte")],
)
def test_a_file_that_cannot_be_read_is_a_mistake(file: str, reason: str) -> None:
    for flag, environment in ((file, {}), (None, {"ZKDNS_CONFIG": file})):
        with pytest.raises(ConfigError) as refusal:
            load_config(flags={}, environment=environment, file=flag)
        (mistake,) = refusal.value.errors
        assert mistake.startswith(f"{file}: cannot be read (")
        assert reason in mistake


def test_an_empty_file_name_is_a_mistake_and_not_a_file_left_out() -> None:
    with pytest.raises(ConfigError, match=r"^'': cannot be read \(Is a directory\)"):
        load_config(flags={}, environment={}, file="")


def test_a_file_with_a_byte_order_mark_and_other_line_ends_is_read() -> None:
    assert load(b"\xef\xbb\xbfttl = 7\r\nworkers = 2\r\n").ttl == 7


def test_the_environment_names_the_file_unless_a_flag_does() -> None:
    Path("a.toml").write_text("ttl = 1", encoding="utf-8")
    Path("b.toml").write_text("ttl = 2", encoding="utf-8")
    environment = {"ZKDNS_CONFIG": "a.toml"}
    assert load_config(flags={}, environment=environment, file=None).ttl == 1
    assert load_config(flags={}, environment=environment, file="b.toml").ttl == 2


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file_key_by_key() -> None:
    config = load(
        'ttl = 1\nnegative_ttl = 1\nworkers = 1\nlisten = ["::1", "::2"]',
        {"ZKDNS_TTL": "2", "ZKDNS_NEGATIVE_TTL": "2", "ZKDNS_LISTEN": "::3,::4"},
        ttl="3",
        listen=("::5",),
    )
    assert (config.ttl, config.negative_ttl, config.workers) == (3, 2, 1)
    assert config.listen == (HostPort("::5", 53),)


def test_none_and_an_empty_tuple_are_flags_not_given_and_an_empty_variable_is_not_set() -> None:
    environment = {"ZKDNS_TTL": "", "ZKDNS_WORKERS": " ", "ZKDNS_CONFIG": ""}
    assert load(environment=environment, zone=None, listen=()) == load()


def test_what_may_be_many_is_separated_by_commas_in_the_environment_and_repeated_as_a_flag() -> None:
    wanted = (HostPort("127.0.0.1", 53), HostPort("::1", 5353))
    assert load(environment={"ZKDNS_LISTEN": "127.0.0.1, [::1]:5353"}).listen == wanted
    assert load(listen=("127.0.0.1", "[::1]:5353")).listen == wanted
    assert load('listen = ["127.0.0.1", "[::1]:5353"]').listen == wanted
    assert load('listen = "127.0.0.1"').listen == wanted[:1]
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
def test_a_switch_is_thrown_in_words_in_the_environment(text: str, *, on: bool) -> None:
    assert load(environment={"ZKDNS_DEMO": text}).demo is on


def test_a_switch_is_a_boolean_in_the_file_and_as_a_flag() -> None:
    assert load("demo = true").demo
    assert load(demo=True).demo
    assert not load("demo = true", demo=False).demo


def test_the_example_needs_no_source_and_no_privileged_port() -> None:
    config = load(demo=True)
    assert (config.zookeeper.hosts, config.static) == (None, None)
    assert config.listen == (HostPort("127.0.0.1", 5300),)
    assert load(demo=True, listen=("127.0.0.1",)).listen == (HostPort("127.0.0.1", 53),)


def test_a_fixed_file_alone_or_beside_zookeeper_is_a_source() -> None:
    assert load(static="/f.toml").zookeeper.hosts is None
    config = load("demo = false", static="/f.toml", zookeeper="zk1")
    assert (config.zookeeper.hosts, config.static) == ("zk1:2181", "/f.toml")


def test_the_example_beside_another_source_is_a_mistake_that_names_each() -> None:
    assert mistakes('zookeeper.hosts = "zk1"', {"ZKDNS_STATIC": "f.toml"}, demo=True) == (
        f"--demo: excludes other sources; remove this or {FILE}: zookeeper.hosts and ZKDNS_STATIC",
    )
    assert not load("demo = true", demo="no", zookeeper="zk1").demo


def test_a_snapshot_alone_needs_no_source_and_may_be_of_any_age() -> None:
    config = load(offline=True, snapshot="/t")
    assert (config.zookeeper.hosts, config.snapshot.path, config.snapshot.max_age) == (None, "/t", 0)
    assert load(offline=True, snapshot="/t", snapshot_max_age="60").snapshot.max_age == 60
    assert load("offline = true", offline=False, snapshot="/t").zookeeper.hosts == "127.0.0.1:2181"
    assert load(snapshot="/t").snapshot.max_age == 86_400


def test_a_snapshot_alone_beside_another_source_or_without_a_file_is_a_mistake() -> None:
    assert mistakes('zookeeper.hosts = "zk1"', {"ZKDNS_STATIC": "f.toml"}, offline=True, snapshot="/t") == (
        f"--offline: excludes other sources; remove this or {FILE}: zookeeper.hosts and ZKDNS_STATIC",
    )
    assert mistakes("offline = true\ndemo = true", snapshot="/t") == (
        f"{FILE}: offline: excludes other sources; remove this or {FILE}: demo",
    )
    assert mistakes(offline=True) == ("--offline: needs a snapshot; write snapshot.path (--snapshot FILE)",)


def test_health_and_dns_may_both_take_any_free_port_but_not_the_same_one() -> None:
    assert load(listen=("127.0.0.1:0",), admin="127.0.0.1:0").admin.listen == HostPort("127.0.0.1", 0)
    (mistake,) = mistakes(listen=("127.0.0.1:80",), admin="127.0.0.1:80")
    assert mistake.startswith("--admin: 127.0.0.1:80 is the address for both DNS and HTTP")


def test_a_path_is_relative_to_the_file_it_is_written_in_or_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / FILE).write_text('static = "a/f.toml"\nsnapshot.path = "s"', encoding="utf-8")
    config = load_config(flags={"snapshot": "t"}, environment={}, file=f"etc/{FILE}")
    assert config.static == str(tmp_path / "etc" / "a" / "f.toml")
    assert config.snapshot.path == str(tmp_path / "t")
    assert load(environment={"ZKDNS_STATIC": "f.toml"}).static == str(tmp_path / "f.toml")


def test_a_relative_path_in_a_directory_that_is_gone_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert mistakes(static="f.toml") == (
        "--static: 'f.toml' is relative, and the working directory does not exist",
    )
    assert load(static="/f.toml").static == "/f.toml"


def test_overrides_are_named_as_the_namespace_in_force_names_services() -> None:
    toml = '[service."hello.prod.www"]\nttl = 9'
    template = "/aurora/{role}/{environment}/{job}"
    assert load(toml, namespace=template).service == {"hello.prod.www.discovery": ServiceOverride(ttl=9)}
    by_variable = load('[service."web"]', {"ZKDNS_NAMESPACE": "/{service}"})
    assert by_variable.service == {"web.discovery": ServiceOverride()}


def test_settings_of_tls_need_tls() -> None:
    keys = ("ca", "certificate", "key")
    found = mistakes("[zookeeper]\nverify_hostname = false\n" + "".join(f'{key} = "x.pem"\n' for key in keys))
    no_tls = "has no effect without TLS; write zookeeper.tls as well"
    no_certificate = "has no effect without a certificate; write zookeeper.certificate as well"
    assert found == tuple(f"{FILE}: zookeeper.{key}: {no_tls}" for key in (*keys, "verify_hostname"))
    assert mistakes('[zookeeper]\ntls = true\nkey = "x.pem"') == (f"{FILE}: zookeeper.key: {no_certificate}",)
    config = load('[zookeeper]\ntls = true\nca = "ca.pem"', zookeeper_certificate="/own.pem")
    assert config.zookeeper == ZooKeeperSettings(
        hosts="127.0.0.1:2181", tls=True, ca=str(Path("ca.pem").absolute()), certificate="/own.pem"
    )
    assert not load(zookeeper_tls=True, zookeeper_verify_hostname=False).zookeeper.verify_hostname


def test_files_of_credentials_are_checked_with_everything_else() -> None:
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


TWO = """
[[namespace]]
path = "/discovery/{environment}/{service}"

[[namespace]]
path = "/aurora/{role}/{environment}/{job}"
zone = "Aurora."
"""


def test_there_may_be_several_namespaces_each_with_its_zone() -> None:
    config = load(TWO)
    assert config.namespaces == (
        parse_namespace("/discovery/{environment}/{service}", (b"discovery",)),
        parse_namespace("/aurora/{role}/{environment}/{job}", (b"aurora",)),
    )
    assert (config.namespace, config.zone) == (config.namespaces[0], (b"discovery",))
    assert config.zones == ((b"discovery",), (b"aurora",))
    assert travel(config) == config
    assert load(TWO, zone="sd.example").zones == ((b"sd", b"example"), (b"aurora",))
    assert load(TWO, zone="aurora").zones == ((b"aurora",),)
    assert load(TWO, namespace="/{service}").namespaces == (parse_namespace("/{service}"),)
    assert namespaces_of(load(TWO)) != namespaces_of(load(TWO, zone="other"))


def test_an_override_of_another_zone_is_named_with_it() -> None:
    names = ("web.staging", "hello.prod.www.AURORA", "api.prod.discovery", "x.aurora", "web.prod.www.aurora.")
    toml = TWO + "".join(f'[service."{name}"]\n' for name in names)
    assert list(load(toml).service) == [
        "web.staging.discovery",
        "hello.prod.www.aurora",
        "api.prod.discovery",
        "x.aurora.discovery",  # `x` in an environment that is called as the zone
        "web.prod.www.aurora",
    ]
    (mistake,) = mistakes(TWO + '[service."web.staging"]\n[service."Web.staging.discovery"]')
    assert mistake == f'{FILE}: service."Web.staging.discovery": {TWICE}'


def test_namespaces_share_a_zone_and_the_first_that_has_such_names_has_an_override() -> None:
    toml = """
        namespace = [{ path = "/a/{role}/{environment}/{job}" }, { path = "/b/{environment}/{service}" }]
        [service."x.y.discovery"]
        [service."x.y.z.discovery"]
        [service."x.y.z"]
    """
    (mistake,) = mistakes(toml)
    assert mistake == f'{FILE}: service."x.y.z": {TWICE}'
    assert len(load(toml.replace('[service."x.y.z"]', "")).service) == 2


@pytest.mark.parametrize(
    ("others", "is_fine"),
    [
        (["/discovery/{environment}/{service}"], False),
        (["/discovery/{service}/{environment}"], False),
        (["/discovery/staging/{service}"], False),
        (["/{a}/staging/{service}"], False),
        (["/other/{service}", "/other/{service}"], False),
        (["/discovery/{service}"], True),
        (["/discovery/{role}/{environment}/{job}"], True),
        (["/discover/{environment}/{service}"], True),
        (["/other/a/{service}", "/other/b/{service}"], True),
    ],
)
def test_no_znode_may_be_a_service_of_two_namespaces(others: list[str], *, is_fine: bool) -> None:
    toml = '[[namespace]]\npath = "/discovery/{environment}/{service}"\n'
    toml += "".join(f'[[namespace]]\npath = "{other}"\nzone = "x"\n' for other in others)
    if is_fine:
        assert len(load(toml).namespaces) == len(others) + 1
        return
    before = others[-2] if len(others) > 1 else "/discovery/{environment}/{service}"
    (mistake,) = mistakes(toml)
    assert mistake == (
        f"{FILE}: namespace[{len(others)}]: {others[-1]!r} matches the same znodes as {before!r}; "
        "a service belongs to one namespace"
    )


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("namespace = []", "namespace: is an empty list; write tables"),
        ("namespace = 5", "namespace: is 5; write a path with placeholders in quotes"),
        ("namespace = [5]", "namespace[0]: is 5; write a table"),
        ("namespace = [[]]", "namespace[0]: is a list; write a table"),
        (
            '[[namespace]]\nzone = "a"',
            "namespace[0]: has no path; write the path of services: /discovery/{environment}/{service}",
        ),
        (
            '[[namespace]]\npath = "/{a}"\nzon = "a"',
            "namespace[0]: unknown key 'zon'; accepted: path, zone",
        ),
        (
            '[[namespace]]\npath = "/{a}"\n[[namespace]]\npath = "/b/{a}"\nzone = "."\n[service."a.b.c.d"]',
            "namespace[1].zone: '.' is the root; a zone has at least one label, such as discovery",
        ),
        (
            '[[namespace]]\npath = "/a"\n[service."a.b.c.d"]',
            (
                "namespace[0].path: '/a' does not end in a placeholder, "
                "such as /discovery/{environment}/{service}"
            ),
        ),
        ('[namespace]\npath = "/{a}"', "namespace: is a table; write a path with placeholders in quotes"),
    ],
)
def test_a_mistake_in_a_namespace_is_told_with_its_place(toml: str, told: str) -> None:
    assert mistakes(toml) == (f"{FILE}: {told}",)


def test_a_wrong_namespace_brings_no_mistakes_about_the_names_of_services() -> None:
    (mistake,) = mistakes("[service.web]", namespace="/discovery")
    assert mistake.startswith("--namespace: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ZKDNS_TLL", "did you mean ZKDNS_TTL?"),
        ("ZKDNS_ttl", "did you mean ZKDNS_TTL?"),
        ("ZKDNS_CONFIGS", "is unknown; "),
        ("ZKDNS_SERVICE", "is unknown; "),
        ("ZKDNS_COLOUR", "is unknown; accepted: ZKDNS_ZOOKEEPER, "),
        ("ZKDNS_", "is unknown; accepted: ZKDNS_ZOOKEEPER, "),
        ("ZKDNS_PORT", "is unknown; "),
    ],
)
def test_an_unknown_variable_is_a_mistake_even_when_empty(name: str, sentence: str) -> None:
    for value in ("53", ""):
        (mistake,) = mistakes(environment={name: value})
        assert mistake.startswith(f"{name}: ")
        assert sentence in mistake


@pytest.mark.parametrize("name", ["statuses", "empty", "service", "tll"])
def test_what_is_no_flag_is_a_mistake(name: str) -> None:
    flags: dict[str, Any] = {name: "ALIVE"}
    (mistake,) = mistakes(**flags)
    assert mistake.startswith(f"--{name}: is unknown; ")


def test_variables_of_others_are_left_alone() -> None:
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


def test_every_mistake_of_every_layer_is_told_at_once_and_one_overridden_is_still_one() -> None:
    assert mistakes(
        'ttl = -1\nlisten = ["a", "b"]\ncolour = "red"\n[service.web]\norder = 5',
        {"ZKDNS_TTL": "x", "ZKDNS_COLOUR": "red"},
        ttl="5",
        workers="0",
        admin="here",
    ) == (
        f"{FILE}: ttl: is -1; write an integer from 0 to 86400",
        f"{FILE}: listen: 'a' {NO_ADDRESS}",
        f"{FILE}: listen: 'b' {NO_ADDRESS}",
        f"{FILE}: unknown key 'colour'; accepted: {', '.join(TOP_LEVEL)}",
        f"{FILE}: service.web.order: is 5; write one of round-robin, random, fixed in quotes",
        "ZKDNS_TTL: is 'x'; write an integer from 0 to 86400",
        "ZKDNS_COLOUR: is unknown; accepted: "
        + ", ".join(row.variable for row in SETTINGS if row.in_environment),
        "--workers: is '0'; write an integer from 1 to 256",
        f"--admin: 'here' {NO_ADDRESS}",
        f"{FILE}: service.web: 'web' {NO_SERVICE}",
    )


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
EACH_EXAMPLE_WRITES_THE_SAME_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@EACH_EXAMPLE_WRITES_THE_SAME_FILE
@given(
    st.one_of(DOCUMENTS, st.text(st.characters(codec="utf-8")), st.just(FULL)).map(str.encode) | st.binary()
)
@example(b"")
def test_any_file_makes_a_configuration_that_can_travel_or_a_list_of_mistakes(toml: bytes) -> None:
    config, found = try_to_load(toml)
    assert (config is None) == bool(found)
    assert all(mistake.startswith(f"{FILE}: ") for mistake in found)
    assert travel(config) == config


FLAGS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from([row.name for row in SETTINGS if row.in_flags]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.text(st.characters()),
        st.lists(st.text(st.characters()), max_size=3).map(tuple),
        st.sampled_from([text for _, text, _ in TEXTS]),
    ),
    max_size=4,
)


@EACH_EXAMPLE_WRITES_THE_SAME_FILE
@given(
    FLAGS,
    st.dictionaries(
        st.sampled_from([row.variable for row in SETTINGS]), st.text(st.characters()), max_size=4
    ),
)
def test_any_flags_and_variables_make_a_configuration_that_can_travel_or_a_list_of_mistakes(
    flags: dict[str, Any], environment: dict[str, str]
) -> None:
    config, found = try_to_load(None, environment, **flags)
    assert (config is None) == bool(found)
    assert all(mistake.startswith(("--", "ZKDNS_")) for mistake in found)
    assert travel(config) == config


def test_names_of_the_admin_address_are_host_names() -> None:
    (mistake,) = mistakes('[admin]\nnames = ["."]')
    assert mistake == f"{FILE}: admin.names: '.' is the root; write a host name, such as dns1.example.com"


def test_a_section_may_be_written_in_any_form_of_toml() -> None:
    wanted = CacheSettings(entries=5, stale=0)
    assert load("[cache]\nentries = 5\nstale = 0").cache == wanted
    assert load("cache = {entries = 5, stale = 0}").cache == wanted
    assert load("cache.entries = 5\ncache.stale = 0").cache == wanted
    assert load("[cache]\nentries = 5", {"ZKDNS_CACHE_ENTRIES": "7"}, cache_stale="0").cache == CacheSettings(
        entries=7, stale=0
    )
