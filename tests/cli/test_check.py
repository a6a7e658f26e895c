"""`zkdns check`, and the options, help texts and usage errors of all commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import zkdns
from zkdns.cli import main
from zkdns.config import SETTINGS

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.delenv("ZKDNS_CONFIG", raising=False)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def errors(result: Result) -> list[str]:
    """The printed usage errors. There must be no other output."""
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(line.startswith("zkdns: ") for line in lines)
    return [line.removeprefix("zkdns: ") for line in lines]


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# -- valid configurations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "summary"),
    [
        (
            [],
            "discovery from ZooKeeper at 127.0.0.1:2181 (the default, because no source is ",
        ),
        (["--demo"], "discovery from the built-in example, at 127.0.0.1:5300"),
        (
            ["--zookeeper", "a,b:2182/x", "--listen", "[::1]:0", "--listen", "10.0.0.1"],
            "discovery from ZooKeeper at a:2181,b:2182/x, at [::1]:0, 10.0.0.1:53",
        ),
        (["--demo", "--zone", "Services.Example."], "services.example from the built-in example"),
    ],
)
def test_a_valid_configuration_is_summarized(arguments: list[str], summary: str) -> None:
    result = run("check", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"valid: {summary}")


def test_a_valid_static_file_is_named(tmp_path: Path) -> None:
    static = written(tmp_path / "services.toml", '[services."web.staging"]\nmembers = ["10.0.0.1:80"]\n')
    assert run("check", "--static", static).stdout == f"valid: discovery from {static}, at 127.0.0.1:53\n"


def test_options_override_variables_and_variables_override_the_file(tmp_path: Path) -> None:
    config = written(
        tmp_path / "zkdns.toml", 'zone = "file"\nlisten = ["127.0.0.3:3"]\n[zookeeper]\nhosts = "file:1"\n'
    )
    variables = {"ZKDNS_LISTEN": "127.0.0.2:2", "ZKDNS_ZONE": "variable"}
    result = run("check", "--config", config, "--zone", "flag", **variables)
    assert result.stdout == "valid: flag from ZooKeeper at file:1, at 127.0.0.2:2\n"
    assert run("check", ZKDNS_CONFIG=config).stdout.startswith("valid: file from")


def test_json_has_the_configuration() -> None:
    result = run("check", "--json", "--zookeeper", "a,b:2182/x", "--listen", "[::1]:0", "--snapshot", "/s")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "valid": True,
        "errors": [],
        "zones": ["discovery"],
        "zookeeper": "a:2181,b:2182/x",
        "primary": [],
        "default_source": False,
        "static": None,
        "demo": False,
        "offline": False,
        "snapshot": "/s",
        "listen": ["[::1]:0"],
        "listen_tls": [],
        "transfer": [],
    }


# -- errors -------------------------------------------------------------------------------------------------


def test_all_errors_in_options_variables_and_file_are_printed(tmp_path: Path) -> None:
    config = written(
        tmp_path / "zkdns.toml", 'ttl = "5"\nzon = "x"\n[service."web.staging"]\norder = "none"\n'
    )
    lines = errors(
        run(
            *("check", "--config", config, "--workers", "0", "--listen", "localhost:53", "--order", "mixed"),
            ZKDNS_NEGATIVE_TTL="soon",
            ZKDNS_ADMIM="none",
        )
    )
    assert [line.split(": is ")[0].split(": 'localhost")[0] for line in sorted(lines)] == sorted(
        [
            f"{config}: ttl",
            f"{config}: unknown key 'zon'; did you mean zone?",
            f'{config}: service."web.staging".order',
            "--workers",
            "--listen",
            "--order",
            "ZKDNS_NEGATIVE_TTL",
            "ZKDNS_ADMIM",
        ]
    )


def test_all_errors_in_the_static_file_are_printed_with_their_keys(tmp_path: Path) -> None:
    static = written(
        tmp_path / "services.toml",
        '[services."web.staging"]\nmembers = ["10.0.0.1", { host = "10.0.0.2", port = 0 }]\n[services.web]\n',
    )
    lines = errors(run("check", "--static", static))
    assert len(lines) == 3
    for place in (
        'services."web.staging".members[0]',
        'services."web.staging".members[1].port',
        'services."web"',
    ):
        assert any(line.startswith(f"{static}: {place}: ") for line in lines), place


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--static", "/nowhere/services.toml"], "/nowhere/services.toml: cannot be read (no such file"),
        (["--config", "/nowhere/zkdns.toml"], "/nowhere/zkdns.toml: cannot be read (no such file"),
        (["--demo", "--zookeeper", "x"], "--demo: excludes other sources; remove this or --zookeeper"),
        (["--upstream", "dns.quad9.net"], "--upstream: 'dns.quad9.net' is not an address to forward to"),
    ],
)
def test_check_and_serve_print_the_same_errors(command: str, arguments: list[str], lines: str) -> None:
    (line,) = errors(run(command, *arguments))
    assert line.startswith(lines)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_an_unknown_option_is_a_usage_error(command: str) -> None:
    result = run(command, "--zookeper", "x")
    assert result.exit_code == 2
    assert "zkdns: --zookeper: there is no such option; did you mean " in result.stderr
    assert "--zookeeper" in result.stderr


def test_json_has_all_errors() -> None:
    result = run("check", "--json", "--ttl", "soon", ZKDNS_WORKERS="0")
    assert (result.exit_code, result.stderr) == (2, "")
    report = json.loads(result.stdout)
    assert (report["valid"], report["zookeeper"]) == (False, None)
    assert [error.partition(":")[0] for error in report["errors"]] == ["ZKDNS_WORKERS", "--ttl"]


@pytest.mark.parametrize(
    ("option", "made", "reason"),
    [
        ("--admin-token", None, "cannot be read (no such file or directory); name a file that this user"),
        ("--admin-token", "short", "holds no token; write 16 to 4096 letters and digits"),
        ("--admin-token", "directory", "is not a regular file; name a file that holds a token"),
        ("--snapshot", "missing/file", "cannot be written, because the directory "),
        ("--snapshot", "directory", "exists and is not a regular file; name another file"),
        ("--snapshot", "short/file", "cannot be used (not a directory); name another file"),
        ("--admin-socket", "short", "exists and is not a socket; name another file"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_files_of_a_running_server_are_checked(
    tmp_path: Path, option: str, made: str | None, reason: str, *, as_json: bool
) -> None:
    (tmp_path / "directory").mkdir()
    Path(written(tmp_path / "short", "secret\n")).chmod(0o600)
    path = tmp_path / (made or "nothing")
    key = {"--admin-token": "admin.token", "--snapshot": "snapshot.path", "--admin-socket": "admin.socket"}
    result = run("check", "--zookeeper", "h", option, str(path), *(["--json"] if as_json else []))
    [error] = json.loads(result.stdout)["errors"] if as_json else errors(result)
    assert (result.exit_code, error.startswith(f"{key[option]}: '{path}' {reason}")) == (2, True), error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_access_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    [error] = errors(run("check", "--zookeeper", "h", "--snapshot", str(tmp_path / "table")))
    assert error.endswith(f"this user may not write to {tmp_path}")


def test_usable_files_of_a_running_server_are_valid(tmp_path: Path) -> None:
    """Also if the server has written them already, and a directory that it would create."""
    Path(written(tmp_path / "token", "0123456789abcdef\n")).chmod(0o600)
    written(tmp_path / "table", "")
    files = {"--admin-token": "token", "--snapshot": "table", "--admin-socket": "new/directory/api"}
    options = (word for option, name in files.items() for word in (option, str(tmp_path / name)))
    assert run("check", "--zookeeper", "h", *options).exit_code == 0


# -- help and the program itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_setting_with_a_flag(command: str, flag: str) -> None:
    result = run(command, flag)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for setting in SETTINGS:
        if setting.in_flags:
            assert setting.flag in text
            assert setting.help in text
        else:
            assert setting.flag not in text


def test_help_lists_commands() -> None:
    text = run("--help").stdout
    assert all(command in text for command in ("check", "lookup", "serve"))


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "zkdns"], [str(Path(sys.executable).with_name("zkdns"))]]
)
def test_the_module_and_the_script_are_the_same_command(program: list[str]) -> None:
    def output(*arguments: str) -> tuple[int, str, str]:
        ended = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    assert output("--version") == (0, f"zkdns, version {zkdns.__version__}\n", "")
    assert output("check", "--demo")[0] == 0
    status, out, err = output("check", "--ttl", "never", "--workers", "many")
    assert (status, out, len(err.splitlines())) == (2, "", 2)


def test_errors_in_options_and_static_file_are_printed_together(tmp_path: Path) -> None:
    static = written(tmp_path / "services.toml", '[services."web.staging"]\nmembers = ["10.0.0.1:0"]\n')
    lines = errors(run("check", "--ttl", "soon", "--static", static))
    assert len(lines) == 2
    assert lines[0].startswith("--ttl: ")
    assert lines[1].startswith(f'{static}: services."web.staging".members[0]: ')


def test_a_static_file_may_have_services_of_all_zones(tmp_path: Path) -> None:
    written(tmp_path / "static.toml", '[services."web.staging"]\n[services."hello.prod.www.aurora"]\n')
    config = written(
        tmp_path / "zkdns.toml",
        'static = "static.toml"\nlisten = ["127.0.0.1:5353"]\n'
        '[[namespace]]\npath = "/discovery/{environment}/{service}"\n'
        '[[namespace]]\npath = "/aurora/{role}/{environment}/{job}"\nzone = "aurora"\n',
    )
    result = run("check", "--config", config)
    assert result.stdout.startswith("valid: discovery and aurora from ")


def test_the_example_must_fit_the_namespace() -> None:
    lines = errors(run("check", "--demo", "--namespace", "/aurora/{role}/{environment}/{job}"))
    assert lines
    assert all(line.startswith("demo.toml: ") for line in lines)
