"""Reports the measurements of a fleet, and models that extrapolate them to more hosts."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.fleet_model import HOSTS, Model, Point, Theory, delay_theory
from tests.bench.fleet_zookeeper import Storm
from tests.bench.report import Report, percentile

EXTRAPOLATED_HOSTS = 10_000
_REFERENCE_HOSTS, _REFERENCE_RATE = 1500, 5.0
_REFERENCE_CPU, _REFERENCE_DELAYS = 0.15, {0.5: 80.0, 0.99: 220.0}
"""Earlier measurements at this size and rate, to compare with: milliseconds of CPU time per change and host,
and of delay."""
_QUEUE_SECONDS = 1.0


def report_points(report: Report, half: str, points: Sequence[Point]) -> None:
    """Report the measurements, with one section for each quantity."""
    report.section = f"{half}: CPU of all servers at rest"
    for point in points:
        if not point.rate:
            cpu = point.servers_cpu / point.seconds / point.hosts
            report.add(_name(point), cpu * 1000, "ms/s and host", yardstick=_by_role(point))
    changed = [point for point in points if point.rate]
    report.section = f"{half}: CPU of all servers during changes"
    for point in changed:
        cpu = point.servers_cpu / (point.changes * point.hosts)
        notes = [_by_role(point), f"{point.request_share:.2f} requests per change and host"]
        notes += _reference(point, f"{_REFERENCE_CPU:g} ms")
        report.add(_name(point), cpu * 1000, "ms/change and host", yardstick="; ".join(notes))
    for share, reference in _REFERENCE_DELAYS.items():
        report.section = f"{half}: from write to read, p{share * 100:g}"
        for point in changed:
            notes = _reference(point, f"{reference:g} ms")
            if point.missing:
                notes.append(f"{point.missing:,} reads had not happened at the time limit")
            if point.drain > _QUEUE_SECONDS:
                notes.append(f"a queue: the last read was {point.drain:.1f} s after the last write")
            details = {"delays": len(point.delays), "missing": point.missing}
            delay = point.delay(share) * 1000
            report.add(_name(point), delay, "ms", yardstick="; ".join(notes), details=details)


def _name(point: Point) -> str:
    rate = f", {point.rate:g} changes/s" if point.rate else ""
    return f"{point.hosts:,} hosts {point.setting}{rate}"


def _by_role(point: Point) -> str:
    """The CPU time of each role as a number of cores."""
    cores = {role: used / point.seconds for role, used in point.cpu.items()}
    servers = ", ".join(f"{role} {used:.2f}" for role, used in cores.items() if role != HOSTS)
    return f"cores: {servers}, simulation {cores[HOSTS]:.2f}"


def _reference(point: Point, value: str) -> list[str]:
    is_same = (point.hosts, point.rate) == (_REFERENCE_HOSTS, _REFERENCE_RATE)
    return [f"earlier: {value}"] if is_same else []


def report_storm(report: Report, storm: Storm) -> None:
    """Report how the hosts returned after a restart of their server."""
    report.section = f"restart of the observer, {storm.jitter}"
    name = f"{storm.hosts:,} hosts"
    missing = storm.hosts - len(storm.returned)
    notes = [f"half after {percentile(storm.returned, 0.5):.2f} s; start of the server {storm.serving:.1f} s"]
    if missing:
        notes.append(f"{missing:,} had not returned at the time limit")
    if storm.expired:
        notes.append(f"{storm.expired:,} sessions expired")
    used = sum(seconds for role, seconds in storm.cpu.items() if role != HOSTS)
    attempts = f"{storm.attempts:,} attempts"
    details = {"returned": len(storm.returned)}
    report.add(f"{name}: all are back", storm.returned[-1], "s", yardstick="; ".join(notes), details=details)
    report.add(f"{name}: CPU of all servers", used / storm.hosts * 1000, "ms/host")
    report.add(f"{name}: most connections in a second", storm.peak, "", yardstick=attempts)
    report.add(f"{name}: longest heartbeat", storm.longest_heartbeat, "s")


def report_model(
    report: Report, points: Sequence[Point], held_out: int, theory: Theory, rates: Sequence[float]
) -> None:
    """Fit models to the points of one setting, check them at the held-out number of hosts, and extrapolate.

    Args:
        report: receives the results.
        points: of one setting, those that a linear model describes.
        held_out: points with this number of hosts are only compared with the models.
        theory: of the CPU time of all servers.
        rates: changes per second, for the extrapolation.
    """
    setting = points[0].setting
    changed = [point for point in points if point.rate]
    report.section = f"model of hosts {setting}: CPU of all servers"
    cpu, errors = _fit(theory, points, held_out)
    for cause, coefficient in cpu.coefficients.items():
        report.add(f"for each {cause}", coefficient * 1000, "ms", yardstick=errors)
    theories = {share: delay_theory(share) for share in _REFERENCE_DELAYS}
    delays = {share: _fit(each, changed, held_out) for share, each in theories.items()}
    report.section = f"model of hosts {setting}: from write to read"
    for share, (model, errors) in delays.items():
        for cause, coefficient in model.coefficients.items():
            report.add(f"p{share * 100:g} for each {cause}", coefficient * 1000, "ms", yardstick=errors)
    report.section = f"{EXTRAPOLATED_HOSTS:,} hosts {setting}, extrapolated"
    fastest = max(point.rate for point in points)
    for rate in (0.0, *rates):
        cores = cpu.predict(theory.causes_per_second(EXTRAPOLATED_HOSTS, rate))
        notes = "at most, since hosts read several changes with one request" if rate > fastest else ""
        report.add(f"CPU of all servers, {rate:g} changes/s", cores, "cores", yardstick=notes)
    for share, (model, _) in delays.items():
        delay = model.predict(theories[share].causes_per_second(EXTRAPOLATED_HOSTS, 0.0))
        report.add(f"from write to read, p{share * 100:g}", delay * 1000, "ms", yardstick="on this machine")


def _fit(theory: Theory, points: Sequence[Point], held_out: int) -> tuple[Model, str]:
    """A model of the points with other numbers of hosts, and its residuals as text."""
    fitted = [point for point in points if point.hosts != held_out]
    checked = [point for point in points if point.hosts == held_out]
    model = theory.fit(fitted)
    own, other = theory.residuals(model, fitted), theory.residuals(model, checked)
    return model, f"residuals {own}; held out, {held_out:,} hosts: {other}"
