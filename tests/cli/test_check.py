"""`zkdns check`, and what all commands share: flags, help, and how mistakes are told."""

import json
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


def mistakes(result: Result) -> list[str]:
    """What was told as mistakes; nothing else may have been said."""
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(line.startswith("zkdns: ") for line in lines)
    return [line.removeprefix("zkdns: ") for line in lines]


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# -- right --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "summary"),
    [
        ([], "discovery from ZooKeeper at 127.0.0.1:2181, at 127.0.0.1:53"),
        (["--demo"], "discovery from the embedded example, at 127.0.0.1:5300"),
        (
            ["--zookeeper", "a,b:2182/x", "--listen", "[::1]:0", "--listen", "10.0.0.1"],
            "discovery from ZooKeeper at a:2181,b:2182/x, at [::1]:0, 10.0.0.1:53",
        ),
        (["--demo", "--zone", "Services.Example."], "services.example from the embedded example"),
    ],
)
def test_what_is_right_is_summed_up(arguments: list[str], summary: str) -> None:
    result = run("check", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"right: {summary}")


def test_a_right_fixed_file_is_named(tmp_path: Path) -> None:
    fixed = written(tmp_path / "services.toml", '[services."web.staging"]\nmembers = ["10.0.0.1:80"]\n')
    assert run("check", "--static", fixed).stdout == f"right: discovery from {fixed}, at 127.0.0.1:53\n"


def test_flags_go_before_variables_and_variables_before_the_file(tmp_path: Path) -> None:
    config = written(
        tmp_path / "zkdns.toml", 'zone = "file"\nlisten = ["127.0.0.3:3"]\n[zookeeper]\nhosts = "file:1"\n'
    )
    variables = {"ZKDNS_LISTEN": "127.0.0.2:2", "ZKDNS_ZONE": "variable"}
    result = run("check", "--config", config, "--zone", "flag", **variables)
    assert result.stdout == "right: flag from ZooKeeper at file:1, at 127.0.0.2:2\n"
    assert run("check", ZKDNS_CONFIG=config).stdout.startswith("right: file from")


def test_json_holds_what_the_configuration_says() -> None:
    result = run("check", "--json", "--zookeeper", "a,b:2182/x", "--listen", "[::1]:0", "--snapshot", "/s")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "right": True,
        "mistakes": [],
        "zones": ["discovery"],
        "zookeeper": "a:2181,b:2182/x",
        "static": None,
        "demo": False,
        "offline": False,
        "snapshot": "/s",
        "listen": ["[::1]:0"],
    }


# -- mistaken -----------------------------------------------------------------------------------------------


def test_every_mistake_of_flags_variables_and_file_is_told_at_once(tmp_path: Path) -> None:
    config = written(
        tmp_path / "zkdns.toml", 'ttl = "5"\nzon = "x"\n[service."web.staging"]\norder = "none"\n'
    )
    told = mistakes(
        run(
            *("check", "--config", config, "--workers", "0", "--listen", "localhost:53", "--order", "mixed"),
            ZKDNS_NEGATIVE_TTL="soon",
            ZKDNS_ADMIM="none",
        )
    )
    assert [line.split(": is ")[0].split(": 'localhost")[0] for line in sorted(told)] == sorted(
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


def test_every_mistake_of_the_fixed_file_is_told_at_once_with_its_key(tmp_path: Path) -> None:
    fixed = written(
        tmp_path / "services.toml",
        '[services."web.staging"]\nmembers = ["10.0.0.1", { host = "10.0.0.2", port = 0 }]\n[services.web]\n',
    )
    told = mistakes(run("check", "--static", fixed))
    assert len(told) == 3
    for place in (
        'services."web.staging".members[0]',
        'services."web.staging".members[1].port',
        'services."web"',
    ):
        assert any(line.startswith(f"{fixed}: {place}: ") for line in told), place


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--static", "/nowhere/services.toml"], "/nowhere/services.toml: cannot be read: No such file"),
        (["--config", "/nowhere/zkdns.toml"], "/nowhere/zkdns.toml: cannot be read (No such file"),
        (["--demo", "--zookeeper", "x"], "--demo: excludes other sources; remove this or --zookeeper"),
        (["--upstream", "dns.quad9.net"], "--upstream: 'dns.quad9.net' is not an address to forward to"),
    ],
)
def test_check_and_serve_tell_the_same_mistakes(command: str, arguments: list[str], told: str) -> None:
    (line,) = mistakes(run(command, *arguments))
    assert line.startswith(told)


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_flag_that_there_is_not_is_a_mistake_too(command: str) -> None:
    result = run(command, "--zookeper", "x")
    assert result.exit_code == 2
    assert "No such option" in result.stderr
    assert "--zookeeper" in result.stderr


def test_json_holds_every_mistake() -> None:
    result = run("check", "--json", "--ttl", "soon", ZKDNS_WORKERS="0")
    assert (result.exit_code, result.stderr) == (2, "")
    told = json.loads(result.stdout)
    assert (told["right"], told["zookeeper"]) == (False, None)
    assert [mistake.partition(":")[0] for mistake in told["mistakes"]] == ["ZKDNS_WORKERS", "--ttl"]


# -- help and the program itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_setting_that_has_a_flag(command: str, flag: str) -> None:
    result = run(command, flag)
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    for setting in SETTINGS:
        if setting.in_flags:
            assert setting.flag in told
            assert setting.help in told
        else:
            assert setting.flag not in told


def test_help_names_every_command() -> None:
    told = run("--help").stdout
    assert all(command in told for command in ("check", "lookup", "serve"))


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "zkdns"], [str(Path(sys.executable).with_name("zkdns"))]]
)
def test_it_is_a_module_and_a_script(program: list[str]) -> None:
    def output(*arguments: str) -> tuple[int, str, str]:
        ended = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout, ended.stderr

    assert output("--version") == (0, f"zkdns, version {zkdns.__version__}\n", "")
    assert output("check", "--demo")[0] == 0
    status, out, told = output("check", "--ttl", "never", "--workers", "many")
    assert (status, out, len(told.splitlines())) == (2, "", 2)


def test_mistakes_of_a_flag_and_of_the_fixed_file_are_told_together(tmp_path: Path) -> None:
    fixed = written(tmp_path / "services.toml", '[services."web.staging"]\nmembers = ["10.0.0.1:0"]\n')
    told = mistakes(run("check", "--ttl", "soon", "--static", fixed))
    assert len(told) == 2
    assert told[0].startswith("--ttl: ")
    assert told[1].startswith(f'{fixed}: services."web.staging".members[0]: ')


def test_all_zones_are_told_and_a_fixed_file_may_have_services_of_each(tmp_path: Path) -> None:
    written(tmp_path / "fixed.toml", '[services."web.staging"]\n[services."hello.prod.www.aurora"]\n')
    config = written(
        tmp_path / "zkdns.toml",
        'static = "fixed.toml"\nlisten = ["127.0.0.1:5353"]\n'
        '[[namespace]]\npath = "/discovery/{environment}/{service}"\n'
        '[[namespace]]\npath = "/aurora/{role}/{environment}/{job}"\nzone = "aurora"\n',
    )
    result = run("check", "--config", config)
    assert result.stdout.startswith("right: discovery and aurora from ")


def test_the_example_must_fit_the_namespace() -> None:
    told = mistakes(run("check", "--demo", "--namespace", "/aurora/{role}/{environment}/{job}"))
    assert told
    assert all(line.startswith("demo.toml: ") for line in told)
