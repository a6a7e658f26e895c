from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.config.helpers import FILE, load, mistakes, try_to_load
from zkdns.address import HostPort, UpstreamAddress
from zkdns.config import SETTINGS, Config, ForwardSettings, GuardSettings, ServiceOverride, load_config
from zkdns.config.load import MAX_FILE
from zkdns.errors import ConfigError
from zkdns.namespace import parse_namespace
from zkdns.snapshot import namespaces_of

NO_ADDRESS = "is not an address to listen on; write an IP address and a port, such as 127.0.0.1:53"
BOTH = "cannot answer both DNS and HTTP; choose another port, or write none for admin"
TWICE = "is one service with another table; names that differ only in case are equal (RFC 4343)"
NO_UPSTREAM = "is not an address to forward to; write an IP address, such as 9.9.9.9, [2620:fe::fe]:53, tls://9.9.9.9#dns.quad9.net"
NO_SERVICE = "is not a service's name; write {service}.{environment}, without the zone"

FULL = """
zookeeper = "zk1, zk2:2182,[::1]/twitter"
session_timeout = 4
fixed = "fixed.toml"
listen = ["127.0.0.1", "[::1]:5353", "0.0.0.0:0"]
zone = "Service.Example."
namespace = "/{environment}/{service}"
ttl = 0
negative_ttl = 1
order = "random"
max_answers = 8
statuses = ["ALIVE", "WARNING"]
empty = "nxdomain"
workers = 4
upstream = ["9.9.9.9", "[2620:fe::fe]:5353", "tls://9.9.9.9#dns.quad9.net"]
max_forwarded = 100
trust_ad = true
cache_entries = 500
cache_min_ttl = 5
cache_max_ttl = 600
cache_negative_ttl = 60
cache_stale = 0
cache_prefetch = false
admin = "127.0.0.1:0"
admin_names = ["DNS1.example.com"]
admin_token = "token"
snapshot = "/var/lib/zkdns/table"
snapshot_max_age = 3600
offline = false
control = "control"
log_format = "json"
log_level = "debug"
query_log = 0.25

[guard]
share = 0.25
seconds = 0

[forward."Corp.example."]
upstreams = ["10.0.0.53", "10.0.0.54:5353"]

[forward.lab]
upstreams = "none"

[service."Web.staging"]
ttl = 60
order = "fixed"
max_answers = 1

[service."api.v2.staging"]
"""


def travel(config: Config | None) -> Config | None:
    """The configuration as a child process receives it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config | None)


def test_with_nothing_written_the_defaults_hold() -> None:
    assert load() == Config(
        zookeeper="127.0.0.1:2181",
        listen=(HostPort("127.0.0.1", 53),),
        namespaces=(parse_namespace("/discovery/{environment}/{service}", (b"discovery",)),),
        admin=HostPort("127.0.0.1", 9153),
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
        zookeeper="zk1:2181,zk2:2182,[::1]:2181/twitter",
        session_timeout=4,
        fixed=str(tmp_path / "fixed.toml"),
        demo=False,
        listen=(HostPort("127.0.0.1", 53), HostPort("::1", 5353), HostPort("0.0.0.0", 0)),
        namespaces=(parse_namespace("/{environment}/{service}", (b"service", b"example")),),
        ttl=0,
        negative_ttl=1,
        order="random",
        max_answers=8,
        statuses=("ALIVE", "WARNING"),
        empty="nxdomain",
        workers=4,
        upstream=(
            UpstreamAddress("9.9.9.9", 53),
            UpstreamAddress("2620:fe::fe", 5353),
            UpstreamAddress("9.9.9.9", 853, "dns.quad9.net"),
        ),
        max_forwarded=100,
        trust_ad=True,
        cache_entries=500,
        cache_min_ttl=5,
        cache_max_ttl=600,
        cache_negative_ttl=60,
        cache_stale=0,
        cache_prefetch=False,
        forward={
            "corp.example": ForwardSettings(
                (UpstreamAddress("10.0.0.53", 53), UpstreamAddress("10.0.0.54", 5353))
            ),
            "lab": ForwardSettings(()),
        },
        admin=HostPort("127.0.0.1", 0),
        admin_names=("dns1.example.com",),
        admin_token=str(tmp_path / "token"),
        snapshot="/var/lib/zkdns/table",
        snapshot_max_age=3600,
        offline=False,
        guard=GuardSettings(share=0.25, seconds=0),
        control=str(tmp_path / "control"),
        log_format="json",
        log_level="debug",
        query_log=0.25,
        service={
            "web.staging.service.example": ServiceOverride(ttl=60, order="fixed", max_answers=1),
            "api.v2.staging.service.example": ServiceOverride(),
        },
    )


def test_a_configuration_survives_the_way_to_another_process() -> None:
    config = load(FULL)
    assert travel(config) == config


def test_the_table_of_settings_and_the_configuration_have_the_same_keys() -> None:
    """But for those that are put together: a namespace has its zone with it."""
    fields = {*Config.__struct_fields__} - {"namespaces"} | {"namespace", "zone"}
    assert sorted(row.key for row in SETTINGS) == sorted(fields)


def test_a_setting_knows_what_each_layer_calls_it() -> None:
    row = next(row for row in SETTINGS if row.key == "negative_ttl")
    assert (row.flag, row.variable) == ("--negative-ttl", "ZKDNS_NEGATIVE_TTL")
    assert [row.key for row in SETTINGS if row.is_switch] == [
        "zookeeper_tls",
        "zookeeper_any_host",
        "demo",
        "cookies",
        "tell_version",
        "dns_sd",
        "reverse",
        "trust_ad",
        "cache_prefetch",
        "offline",
    ]
    many = ["listen", "allow", "statuses", "upstream", "admin_names"]
    assert [row.key for row in SETTINGS if row.many] == many


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
    ("session_timeout", "600", 600),
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
    ("query_log", "true", 1.0),
    ("query_log", "off", 0.0),
    ("query_log", "0.01", 0.01),
    ("query_log", "1", 1.0),
]


@pytest.mark.parametrize(("key", "text", "meaning"), TEXTS)
def test_flags_and_variables_hold_text_and_mean_the_same(key: str, text: str, meaning: object) -> None:
    flags: dict[str, Any] = {key: text}
    by_flag = load(**flags)
    assert getattr(by_flag, key) == meaning
    assert load(environment={f"ZKDNS_{key.upper()}": text}) == by_flag


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
    ("fixed", "a\0b", "is 'a\\x00b'; it holds a zero byte"),
    ("snapshot", "\udcff", "not UTF-8"),
    ("listen", "localhost", "not an address to listen on; write an IP address and a port"),
    ("listen", "127.0.0.1:65536", "a port is 0 to 65535"),
    ("zone", ".", "'.' is the root; a zone has a label at least"),
    ("zone", "a..b", "an empty label"),
    ("zone", "a,b", "write letters, digits, hyphens"),
    ("zone", "dïscovery", "write letters, digits, hyphens"),
    ("zone", "a" * 64, "64 bytes, at most 63"),
    ("namespace", "/discovery", "does not end in a placeholder"),
    ("namespace", "discovery/{service}", "is not a path"),
    ("ttl", "five", "is 'five'; write a whole number from 0 to 86400"),
    ("ttl", "5s", "is '5s'; write a whole number from 0 to 86400"),
    ("ttl", "-1", "is '-1'; write a whole number from 0 to 86400"),
    ("ttl", "86401", "is '86401'; write a whole number from 0 to 86400"),
    ("ttl", "1.5", "write a whole number"),
    ("ttl", "\u0661", "write a whole number"),
    ("ttl", "9" * 5000, "write a whole number"),
    ("session_timeout", "0", "is '0'; write a whole number from 1 to 600"),
    ("negative_ttl", "0", "is '0'; write a whole number from 1 to 3600"),
    ("negative_ttl", "3601", "write a whole number from 1 to 3600"),
    ("order", "roundrobin", "is 'roundrobin'; write one of round-robin, random, fixed"),
    ("max_answers", "0", "write a whole number from 1 to 65535"),
    ("workers", "257", "write a whole number from 1 to 256"),
    ("upstream", "dns.quad9.net", "'dns.quad9.net' is not an address to forward to"),
    ("upstream", "nobody", "'nobody' is not an address to forward to"),
    ("upstream", "1.1.1.1:0", "a port is 1 to 65535"),
    ("upstream", "https://1.1.1.1", "starts with https://; write ADDRESS[:PORT], or tls://"),
    ("upstream", "127.0.0.1", "127.0.0.1:53 is where this server itself listens; name another one"),
    ("cache_entries", "0", "write a whole number from 1 to 1000000"),
    ("admin", "localhost:80", "not an address to listen on"),
    ("log_format", "xml", "is 'xml'; write one of auto, console, json, journald"),
    ("log_level", "\udcff", "not UTF-8"),
    ("demo", "perhaps", "is 'perhaps'; write true or false"),
    ("query_log", "1.5", "is '1.5'; write true, false, or the share of them from 0 to 1"),
    ("query_log", "nan", "is 'nan'; write true, false, or"),
    ("query_log", "some", "is 'some'; write true, false, or"),
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
    ('ttl = "5s"', "ttl: is '5s'; write a whole number from 0 to 86400"),
    ("ttl = true", "ttl: is true; write a whole number from 0 to 86400"),
    ("ttl = 5.0", "ttl: is 5.0; write a whole number from 0 to 86400"),
    ("ttl = nan", "ttl: is nan; write a whole number from 0 to 86400"),
    ("ttl = -1", "ttl: is -1; write a whole number from 0 to 86400"),
    ("ttl = 2001-01-01", "ttl: is 2001-01-01; write a whole number from 0 to 86400"),
    ("ttl = 0x" + "f" * 9000, "ttl: is an immense number; write a whole number from 0 to 86400"),
    ("ttl = [5]", "ttl: is a list; write a whole number from 0 to 86400"),
    ("ttl.web = 5", "ttl: is a table; write a whole number from 0 to 86400"),
    (f'order = "{"x" * 99}"', f"order: is '{'x' * 80}…'; write one of round-robin, random, fixed"),
    ("order = 1", "order: is 1; write one of round-robin, random, fixed in quotes"),
    ("demo = 1", "demo: is 1; write true or false, without quotes"),
    ('demo = "true"', "demo: is 'true'; write true or false, without quotes"),
    ("zone = 1", "zone: is 1; write a domain name in quotes"),
    ('zone = " "', "zone: is empty; write a domain name"),
    ('fixed = ""', "fixed: is empty; write the path of a file"),
    ("fixed = false", "fixed: is false; write the path of a file in quotes"),
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
    ("negative-ttl = 5", "negative-ttl: is unknown; did you mean negative_ttl?"),
    ("tll = 5", "tll: is unknown; did you mean ttl?"),
    (
        '"\\u001b[31m" = 5',
        f'"\\u001b[31m": is unknown; there are {", ".join(row.key for row in SETTINGS)}',
    ),
    ("service = 5", "service: is 5; write a table"),
    ("guard = 5", "guard: is 5; write a table"),
    ("[guard]\nshare = 1", "guard.share: is 1; write a number between 0 and 1, as 0.5"),
    ("[guard]\nshare = 0", "guard.share: is 0; write a number between 0 and 1, as 0.5"),
    ("[guard]\nshare = nan", "guard.share: is nan; write a number between 0 and 1, as 0.5"),
    ("[guard]\nshare = true", "guard.share: is true; write a number between 0 and 1, as 0.5"),
    ("[guard]\nminimum = 0", "guard.minimum: is 0; write a whole number from 1 to 65535"),
    ("[guard]\nseconds = -1", "guard.seconds: is -1; write a whole number from 0 to 86400"),
    ("[guard]\ntime = 5", "guard.time: is unknown; there are share, minimum, seconds"),
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
        'service."web.staging".max_answer: is unknown; did you mean max_answers?',
    ),
    (
        '[service."web.staging"]\nlisten = "::1"',
        'service."web.staging".listen: is unknown; there are ttl, order, max_answers',
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
        f"{FILE}: service.web.staging: is a table inside a table; a name that holds dots stands in quotes"
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
        ("# " + "x" * MAX_FILE, f"is longer than {MAX_FILE} bytes, which no configuration is"),
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
    assert (config.zookeeper, config.fixed) == (None, None)
    assert config.listen == (HostPort("127.0.0.1", 5300),)
    assert load(demo=True, listen=("127.0.0.1",)).listen == (HostPort("127.0.0.1", 53),)


def test_a_fixed_file_alone_or_beside_zookeeper_is_a_source() -> None:
    assert load(fixed="/f.toml").zookeeper is None
    config = load("demo = false", fixed="/f.toml", zookeeper="zk1")
    assert (config.zookeeper, config.fixed) == ("zk1:2181", "/f.toml")


def test_the_example_beside_another_source_is_a_mistake_that_names_each() -> None:
    assert mistakes('zookeeper = "zk1"', {"ZKDNS_FIXED": "f.toml"}, demo=True) == (
        f"--demo: the example stands alone; leave out this or {FILE}: zookeeper and ZKDNS_FIXED",
    )
    assert not load("demo = true", demo="no", zookeeper="zk1").demo


def test_a_snapshot_alone_needs_no_source_and_may_be_of_any_age() -> None:
    config = load(offline=True, snapshot="/t")
    assert (config.zookeeper, config.snapshot, config.snapshot_max_age) == (None, "/t", 0)
    assert load(offline=True, snapshot="/t", snapshot_max_age="60").snapshot_max_age == 60
    assert load("offline = true", offline=False, snapshot="/t").zookeeper == "127.0.0.1:2181"
    assert load(snapshot="/t").snapshot_max_age == 86_400


def test_a_snapshot_alone_beside_another_source_or_without_a_file_is_a_mistake() -> None:
    assert mistakes('zookeeper = "zk1"', {"ZKDNS_FIXED": "f.toml"}, offline=True, snapshot="/t") == (
        f"--offline: a snapshot is served alone; leave out this or {FILE}: zookeeper and ZKDNS_FIXED",
    )
    assert mistakes("offline = true\ndemo = true", snapshot="/t") == (
        f"{FILE}: offline: a snapshot is served alone; leave out this or {FILE}: demo",
    )
    assert mistakes(offline=True) == (
        "--offline: names no file by itself; name one with snapshot (--snapshot FILE)",
    )


def test_health_and_dns_may_both_take_any_free_port_but_not_the_same_one() -> None:
    assert load(listen=("127.0.0.1:0",), admin="127.0.0.1:0").admin == HostPort("127.0.0.1", 0)
    (mistake,) = mistakes(listen=("127.0.0.1:80",), admin="127.0.0.1:80")
    assert mistake.startswith("--admin: 127.0.0.1:80 cannot answer both DNS and HTTP")


def test_a_path_is_relative_to_the_file_it_is_written_in_or_to_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / FILE).write_text('fixed = "a/f.toml"\nsnapshot = "s"', encoding="utf-8")
    config = load_config(flags={"snapshot": "t"}, environment={}, file=f"etc/{FILE}")
    assert config.fixed == str(tmp_path / "etc" / "a" / "f.toml")
    assert config.snapshot == str(tmp_path / "t")
    assert load(environment={"ZKDNS_FIXED": "f.toml"}).fixed == str(tmp_path / "f.toml")


def test_a_relative_path_in_a_directory_that_is_gone_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert mistakes(fixed="f.toml") == ("--fixed: 'f.toml' is relative to a working directory that is gone",)
    assert load(fixed="/f.toml").fixed == "/f.toml"


def test_overrides_are_named_as_the_namespace_in_force_names_services() -> None:
    toml = '[service."hello.prod.www"]\nttl = 9'
    template = "/aurora/{role}/{environment}/{job}"
    assert load(toml, namespace=template).service == {"hello.prod.www.discovery": ServiceOverride(ttl=9)}
    by_variable = load('[service."web"]', {"ZKDNS_NAMESPACE": "/{service}"})
    assert by_variable.service == {"web.discovery": ServiceOverride()}


def test_nothing_is_told_of_a_tls_that_is_not_spoken() -> None:
    keys = ("zookeeper_ca", "zookeeper_certificate", "zookeeper_key")
    told = mistakes("".join(f'{key} = "x.pem"\n' for key in keys) + "zookeeper_any_host = true")
    no_use = "is of no use without TLS; write zookeeper_tls as well"
    assert told == tuple(f"{FILE}: {key}: {no_use}" for key in (*keys, "zookeeper_any_host"))
    (mistake,) = mistakes('zookeeper_tls = true\nzookeeper_key = "x.pem"')
    assert mistake.startswith(f"{FILE}: zookeeper_key: is of no use without its certificate; ")
    config = load('zookeeper_tls = true\nzookeeper_ca = "ca.pem"', zookeeper_certificate="/own.pem")
    assert (config.zookeeper_tls, config.zookeeper_any_host) == (True, False)
    assert config.zookeeper_ca == str(Path("ca.pem").absolute())
    assert config.zookeeper_certificate == "/own.pem"


def test_files_of_credentials_are_checked_with_everything_else() -> None:
    given: list[dict[str, object]] = []

    def check(**settings: object) -> None:
        given.append(settings)
        raise ConfigError(["credentials: wrong"])

    with pytest.raises(ConfigError) as caught:
        load_config(
            flags={"zookeeper_credentials": "/c.toml", "zookeeper_tls": True, "ttl": "x"},
            environment={},
            file=None,
            check_access=check,
        )
    assert given == [{"zookeeper_credentials": "/c.toml", "zookeeper_tls": True}]
    assert len(caught.value.errors) == 2
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
        f"{FILE}: namespace[{len(others)}]: {others[-1]!r} finds the same znodes as {before!r}; "
        "a set belongs to one namespace"
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
            "namespace[0]: has no path; write where its sets lie, as /discovery/{environment}/{service}",
        ),
        (
            '[[namespace]]\npath = "/{a}"\nzon = "a"',
            "namespace[0].zon: is unknown; did you mean zone?",
        ),
        (
            '[[namespace]]\npath = "/{a}"\n[[namespace]]\npath = "/b/{a}"\nzone = "."\n[service."a.b.c.d"]',
            "namespace[1].zone: '.' is the root; a zone has a label at least, as discovery",
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
        ("ZKDNS_COLOUR", "is unknown; there are ZKDNS_ZOOKEEPER, "),
        ("ZKDNS_", "is unknown; there are ZKDNS_ZOOKEEPER, "),
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
        f"{FILE}: ttl: is -1; write a whole number from 0 to 86400",
        f"{FILE}: listen: 'a' {NO_ADDRESS}",
        f"{FILE}: listen: 'b' {NO_ADDRESS}",
        f"{FILE}: colour: is unknown; there are {', '.join(row.key for row in SETTINGS)}",
        f"{FILE}: service.web.order: is 5; write one of round-robin, random, fixed in quotes",
        "ZKDNS_TTL: is 'x'; write a whole number from 0 to 86400",
        "ZKDNS_COLOUR: is unknown; there are "
        + ", ".join(row.variable for row in SETTINGS if row.in_environment),
        "--workers: is '0'; write a whole number from 1 to 256",
        f"--admin: 'here' {NO_ADDRESS}",
        f"{FILE}: service.web: 'web' {NO_SERVICE}",
    )


KEYS = st.sampled_from(
    [row.key for row in SETTINGS]
    + ["tll", 'service."a.b"', "service.a", "x.y", "forward.a.upstreams", 'forward."b.discovery".upstreams']
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
    st.sampled_from([row.key for row in SETTINGS if row.in_flags]),
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


def test_names_of_the_admin_address_are_host_names_in_lower_case() -> None:
    variables = {"ZKDNS_ADMIN_NAMES": "DNS1.example.com.,dns", "ZKDNS_ADMIN_TOKEN": "/etc/zkdns/token"}
    config = load(environment=variables)
    assert config.admin_names == ("dns1.example.com", "dns")
    assert config.admin_token == "/etc/zkdns/token"  # noqa: S105 - a path
    (mistake,) = mistakes('admin_names = ["."]')
    assert "admin_names: '.' is the root; write a host name, as dns1.example.com" in mistake
