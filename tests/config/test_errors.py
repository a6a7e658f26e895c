"""Errors of configurations: wrong values, unknown names and unreadable files, each with its key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.config.helpers import FILE, errors_of
from zkdns.config import (
    load_config,
)
from zkdns.config.load import MAX_FILE
from zkdns.errors import ConfigError

NO_ADDRESS = "is not an address to listen on; write an IP address and a port, such as 127.0.0.1:53"
BOTH = "is the address for both DNS and HTTP; use another port, or none for admin.listen"
TWICE = "names the same service as another table; names are case-insensitive (RFC 4343)"
NO_SERVICE = "is not a service's name; write {service}.{environment}, without the zone"

ALL_LISTED = "'zkdns help settings' lists all"


# Setting, wrong text in a variable or flag, and part of the error.
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
    ("ttl", "five", "is 'five'; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl", "5s", "is '5s'; write the number of seconds: 5"),
    ("ttl", "1h 30m", "is '1h 30m'; write the number of seconds: 5400"),
    ("ttl", "2d", "is '2d'; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl", "-1", "is '-1'; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl", "86401", "is '86401'; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl", "1.5", "write a whole number of seconds"),
    ("ttl", "\u0661", "write a whole number"),
    ("ttl", "9" * 5000, "write a whole number"),
    ("zookeeper_session_timeout", "0", "is '0'; write a whole number of seconds from 1 to 600 (10m)"),
    ("negative_ttl", "0", "is '0'; write a whole number of seconds from 1 to 3600 (1h)"),
    ("negative_ttl", "3601", "write a whole number of seconds from 1 to 3600 (1h)"),
    ("order", "roundrobin", "is 'roundrobin'; write one of round-robin, random, fixed"),
    ("max_answers", "0", "write an integer from 1 to 65535"),
    ("workers", "257", "write an integer from 1 to 256"),
    ("upstream", "dns.quad9.net", "'dns.quad9.net' is not an address to forward to"),
    ("upstream", "invalid", "'invalid' is not an address to forward to"),
    ("upstream", "1.1.1.1:0", "a port is 1 to 65535"),
    (
        "upstream",
        "https://1.1.1.1",
        "starts with https://; write ADDRESS[:PORT], tcp://ADDRESS[:PORT] for TCP, or tls://",
    ),
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
def test_a_wrong_text_is_an_error_of_its_flag_or_variable(key: str, text: str, why: str) -> None:
    flags: dict[str, Any] = {key: text}
    (by_flag,) = errors_of(**flags)
    assert by_flag.startswith(f"--{key.replace('_', '-')}: ")
    assert why in by_flag
    (by_variable,) = errors_of(environment={f"ZKDNS_{key.upper()}": text})
    assert by_variable == by_flag.replace(f"--{key.replace('_', '-')}", f"ZKDNS_{key.upper()}", 1)


# Wrong file, and the complete error.
WRONG_FILES = [
    ('ttl = "5"', "ttl: is the text '5'; write 5 without quotes"),
    ('ttl = "5s"', "ttl: is '5s'; write the number of seconds: 5"),
    ("ttl = true", "ttl: is true; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl = 5.0", "ttl: is 5.0; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl = nan", "ttl: is nan; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl = -1", "ttl: is -1; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl = 2001-01-01", "ttl: is 2001-01-01; write a whole number of seconds from 0 to 86400 (1d)"),
    ("workers = 0x" + "f" * 9000, "workers: is a very large number; write an integer from 1 to 256"),
    ("ttl = [5]", "ttl: is a list; write a whole number of seconds from 0 to 86400 (1d)"),
    ("ttl.web = 5", "ttl: is a table; write a whole number of seconds from 0 to 86400 (1d)"),
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
        f"unknown key '\\x1b[31m'; {ALL_LISTED}",
    ),
    ("service = 5", "service: is 5; write a table"),
    ("guard = 5", "guard: is 5; write a section, [guard] with share, minimum, seconds"),
    ("cache = 5", "cache: is 5; write a section, [cache] with entries, max_ttl, stale"),
    (
        'snapshot = "/var/lib/zkdns/table"',
        "snapshot: is '/var/lib/zkdns/table'; write a section, [snapshot] with path, max_age",
    ),
    ("[[log]]\nlevel = 5", "log: is a list; write a section, [log] with level, format, queries"),
    ("[cache]\nentrys = 5", "cache: unknown key 'entrys'; did you mean entries?"),
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
    ("[guard]\nseconds = -1", "guard.seconds: is -1; write a whole number of seconds from 0 to 86400 (1d)"),
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
        "service.\"web.staging\": unknown key 'max_answer'; did you mean max_answers?",
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


@pytest.mark.parametrize(("toml", "expected"), WRONG_FILES)
def test_a_wrong_value_in_the_file_is_an_error_with_its_key(toml: str, expected: str) -> None:
    assert errors_of(toml) == (f"{FILE}: {expected}",)


def test_an_unquoted_service_with_dots_is_explained() -> None:
    assert (
        f"{FILE}: service.web.staging: is a table inside a table; put a name with dots in quotes"
        in errors_of("[service.web.staging]\nttl = 5")
    )


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            "ttl = 5\nzone = foo",
            'is not TOML: Invalid value (at line 2, column 8); text needs quotes, such as zone = "discovery"',
        ),
        (
            "ttl = 5\nzone discovery",
            "is not TOML: Expected '=' after a key in a key/value pair (at line 2, column 6)",
        ),
        (b"ttl = 1\n# \xff", "is not UTF-8 (at line 2); TOML is always UTF-8"),
        ("# " + "x" * MAX_FILE, f"is longer than {MAX_FILE} bytes, the maximum for a configuration"),
        ("a = " + "[" * 100_000, "is nested too deeply to be read"),
    ],
)
def test_a_file_that_is_not_toml_is_one_error(toml: str | bytes, expected: str) -> None:
    assert errors_of(toml) == (f"{FILE}: {expected}",)


def test_a_number_with_too_many_digits_is_an_error() -> None:
    (error,) = errors_of("ttl = " + "9" * 5000)
    assert error.startswith(f"{FILE}: is not TOML: ")


@pytest.mark.parametrize(
    ("file", "reason"),
    [("absent.toml", "no such file or directory"), (".", "is a directory"), ("a\0b", "null byte")],
)
def test_an_unreadable_file_is_an_error(file: str, reason: str) -> None:
    for flag, environment in ((file, {}), (None, {"ZKDNS_CONFIG": file})):
        with pytest.raises(ConfigError) as refusal:
            load_config(flags={}, environment=environment, file=flag)
        (error,) = refusal.value.errors
        assert error.startswith(f"{file}: cannot be read (")
        assert reason in error


def test_an_empty_file_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^'': cannot be read \(is a directory\)"):
        load_config(flags={}, environment={}, file="")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ZKDNS_TLL", "did you mean ZKDNS_TTL?"),
        ("ZKDNS_ttl", "did you mean ZKDNS_TTL?"),
        ("ZKDNS_CONFIGS", "is unknown; "),
        ("ZKDNS_SERVICE", "is unknown; "),
        ("ZKDNS_COLOUR", f"is unknown; {ALL_LISTED}"),
        ("ZKDNS_", f"is unknown; {ALL_LISTED}"),
        ("ZKDNS_PORT", "is unknown; "),
    ],
)
def test_an_unknown_variable_is_an_error_even_if_empty(name: str, expected: str) -> None:
    for value in ("53", ""):
        (error,) = errors_of(environment={name: value})
        assert error.startswith(f"{name}: ")
        assert expected in error


@pytest.mark.parametrize("name", ["statuses", "empty", "service", "tll"])
def test_an_unknown_flag_is_an_error(name: str) -> None:
    flags: dict[str, Any] = {name: "ALIVE"}
    (error,) = errors_of(**flags)
    assert error.startswith(f"--{name}: is unknown; ")


def test_all_errors_of_all_layers_are_reported_even_of_overridden_values() -> None:
    assert errors_of(
        'ttl = -1\nlisten = ["a", "b"]\ncolour = "red"\n[service.web]\norder = 5',
        {"ZKDNS_TTL": "x", "ZKDNS_COLOUR": "red"},
        ttl="5",
        workers="0",
        admin="here",
    ) == (
        f"{FILE}: ttl: is -1; write a whole number of seconds from 0 to 86400 (1d)",
        f"{FILE}: listen: 'a' {NO_ADDRESS}",
        f"{FILE}: listen: 'b' {NO_ADDRESS}",
        f"{FILE}: unknown key 'colour'; {ALL_LISTED}",
        f"{FILE}: service.web.order: is 5; write one of round-robin, random, fixed in quotes",
        "ZKDNS_TTL: is 'x'; write a whole number of seconds from 0 to 86400 (1d)",
        f"ZKDNS_COLOUR: is unknown; {ALL_LISTED}",
        "--workers: is '0'; write an integer from 1 to 256",
        f"--admin: 'here' {NO_ADDRESS}",
        f"{FILE}: service.web: 'web' {NO_SERVICE}",
    )


def test_admin_names_are_host_names() -> None:
    (error,) = errors_of('[admin]\nnames = ["."]')
    assert error == f"{FILE}: admin.names: '.' is the root; write a host name, such as dns1.example.com"
