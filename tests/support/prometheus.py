"""Prometheus and promtool, from the PATH or as tests/run unpacks them. Without them, their tests are skipped.

promtool evaluates rules over series with times that a test chooses, so that no test waits for minutes.
"""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.loopback import free_port
from tests.support.process_guard import running_guarded
from tests.support.waiting import eventually

_UNPACKED = Path(__file__).parents[2] / ".tests" / "prometheus" / "usr" / "bin"


def find_program(name: str) -> str:
    """The path of `prometheus` or `promtool`. Skips the test if there is none."""
    found = shutil.which(name) or shutil.which(name, path=str(_UNPACKED))
    if found is None:
        pytest.skip(f"there is no {name}: install Prometheus (Debian and Ubuntu: apt install prometheus)")
    return found


@contextmanager
def running_prometheus(targets: Sequence[str], rules: Path, directory: Path) -> Iterator[str]:
    """Run Prometheus with these targets and rules. Yields its URL when it has scraped each target twice."""
    configuration = directory / "prometheus.json"  # JSON is YAML
    scrape = {"job_name": "zkdns", "static_configs": [{"targets": list(targets)}]}
    settings = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    configuration.write_text(
        json.dumps({"global": settings, "rule_files": [str(rules)], "scrape_configs": [scrape]})
    )
    address = f"127.0.0.1:{free_port()}"
    command = [
        find_program("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (directory / "log").open("wb") as log, running_guarded(command, stdout=log, stderr=log):
        url = f"http://{address}"
        eventually(
            lambda: all(
                sample["value"][1] >= "2"
                for sample in (query(url, "count_over_time(up[1m])") or [{"value": (0, "0")}])
            )
        )
        yield url


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """Evaluate an expression now, and return its samples."""
    with urllib.request.urlopen(  # noqa: S310 - a local URL
        f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout=10
    ) as response:
        answer = json.load(response)
    assert answer["status"] == "success"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def series_of(scrapes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Input series for promtool: by instance, the text of its scrapes at equal intervals.

    A sample that a scrape does not have is missing there.
    """
    series = []
    for instance, texts in scrapes.items():
        values: dict[str, list[str]] = {}
        for number, text in enumerate(texts):
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    labels = {**sample.labels, "job": "zkdns", "instance": instance}
                    pairs = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
                    found = values.setdefault(f"{sample.name}{{{pairs}}}", ["_"] * len(texts))
                    found[number] = f"{sample.value:.17g}"
        series += [{"series": name, "values": " ".join(found)} for name, found in values.items()]
    return series


def assert_alerts(
    rules: Path,
    series: Sequence[dict[str, str]],
    expected: Iterable[tuple[str, str, bool]],
    directory: Path,
    interval: str = "15s",
) -> None:
    """Evaluate the rules over these series with promtool.

    Args:
        rules: the file with the rules.
        series: as `series_of` returns them.
        expected: names of alerts, times after the first value such as `5m`, and whether they fire then.
        directory: for a file.
        interval: the time between two values.
    """
    cases = [
        {
            "expr": f'clamp_max(count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0), 1)',
            "eval_time": at,
            "exp_samples": [{"labels": "{}", "value": int(fires)}],
        }
        for alert, at, fires in expected
    ]
    test = {"interval": interval, "input_series": list(series), "promql_expr_test": cases}
    file = directory / "test.json"
    file.write_text(
        json.dumps({"rule_files": [str(rules)], "evaluation_interval": interval, "tests": [test]})
    )
    command = [find_program("promtool"), "test", "rules", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
