"""Plan which files to change so that this machine resolves the zones through zkdns. Changes nothing.

    files ─▶ resolver manager ─▶ changes, commands that make programs read them, notes, obstacles

The resolver manager stays in charge: if it can forward a zone, a drop-in sends it the zones. Otherwise zkdns
becomes the first name server, and forwards everything else to the previous ones.
"""

from __future__ import annotations

import re
import sys
import tomllib

import msgspec

from zkdns.address import DNS_PORT, HostPort, connectable, parse_upstream
from zkdns.config import Config, UpstreamsSetting
from zkdns.errors import BadValueError
from zkdns.host.files import File, FileState, FileTree
from zkdns.host.resolver_config import RESOLVED_DROP_IN, ResolvedSettings, read_resolved_settings
from zkdns.host.setup.detect import ManagerName, detect_manager
from zkdns.host.setup.journal import Change
from zkdns.names import to_text
from zkdns.resolv_conf import (
    MAX_NAMESERVERS,
    RESOLV_CONF,
    RESOLVED_LIST,
    RESOLVED_STUBS,
    edit_resolv_conf,
    parse_resolv_conf,
)

COMMENT = "# By zkdns setup; zkdns setup --undo removes this.\n"
_RELOAD_RESOLVED = ("systemctl", "reload-or-restart", "systemd-resolved")


class SetupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The server that the machine shall use, and how."""

    listening: tuple[HostPort, ...]
    """The addresses of zkdns, without wildcards."""
    zones: tuple[str, ...]
    upstream: UpstreamsSetting = "auto"
    """The upstreams of zkdns."""
    search: tuple[str, ...] = ()
    """Search domains for names without a dot."""
    config_file: str | None = None
    """The server's configuration file, in which setup may have to name the upstreams."""
    socket: str | None = None
    """The server's Unix socket, for reloading that file; None: there is none."""
    platform: str = "linux"
    """As `sys.platform`."""

    @classmethod
    def from_config(
        cls, config: Config, search: tuple[str, ...] = (), config_file: str | None = None
    ) -> SetupRequest:
        """The request for a server with this configuration, on this platform."""
        return cls(
            listening=tuple(map(connectable, config.listen)),
            zones=tuple(map(to_text, config.zones)),
            upstream=config.forward.upstreams,
            search=search,
            config_file=config_file,
            socket=config.admin.socket,
            platform=sys.platform,
        )

    @property
    def address(self) -> HostPort:
        """The address for resolvers with a syntax for ports."""
        return self.listening[0]

    @property
    def host_at_53(self) -> str | None:
        """An address with port 53, for files without a syntax for ports; None: there is none."""
        return next((one.host for one in self.listening if one.port == DNS_PORT), None)


class SetupPlan(msgspec.Struct, kw_only=True):
    """The changes that make a machine use zkdns."""

    manager: ManagerName
    reasons: tuple[str, ...]
    """The evidence for the manager."""
    changes: list[Change] = []
    commands: list[tuple[str, ...]] = []
    """The commands that make programs read the files again."""
    notes: list[str] = []
    """Consequences, and steps for the user."""
    obstacles: list[str] = []
    """Why setup is not possible, and how to fix that. With an obstacle, nothing is changed."""

    def change(self, tree: FileTree, path: str, after: FileState | str) -> None:
        """Add a change of a file; with a text as the new content, the file keeps its mode."""
        before = tree.state(path)
        if isinstance(after, str):
            content = after.encode(errors="surrogateescape")
            after = File(content, before.mode) if isinstance(before, File) else File(content)
        if before != after:
            self.changes.append(Change(path, before, after))


def make_plan(tree: FileTree, request: SetupRequest) -> SetupPlan:
    """Plan the changes that make this machine use zkdns.

    Args:
        tree: the machine's files as they were before zkdns setup changed any.
        request: the server to use.

    Raises:
        HostError: a file cannot be read.
    """
    manager = detect_manager(tree, request.listening, platform=request.platform)
    plan = SetupPlan(manager=manager.name, reasons=manager.reasons)
    if any(not one.port for one in request.listening):
        plan.obstacles.append("listen: port 0 is a different port after each start; set a fixed port")
        return plan
    match manager.name:
        case "systemd-resolved":
            _plan_resolved(tree, request, plan)
        case "NetworkManager with dnsmasq":
            _plan_network_manager_dnsmasq(tree, request, plan)
        case "NetworkManager":
            _plan_network_manager(tree, request, plan)
        case "dnsmasq":
            _plan_dnsmasq(tree, request, plan)
        case "resolv.conf":
            _plan_resolv_conf(tree, request, plan)
        case _:
            name = "this resolver" if manager.name == "another resolver" else manager.name
            plan.obstacles.append(
                f"zkdns setup does not manage {name}; zkdns help host-setup-other describes what to edit, "
                "and how to undo it"
            )
    return plan


# -- resolvers that forward only the zones to zkdns -------------------------------------------------------


def _plan_resolved(tree: FileTree, request: SetupRequest, plan: SetupPlan) -> None:
    settings = read_resolved_settings(tree)
    if settings.later:
        plan.obstacles.append(
            f"{settings.later} sets DNS= as well, and is read after {RESOLVED_DROP_IN}; rename it so that it "
            "sorts before that"
        )
    if settings.over_tls:
        plan.obstacles.append(
            f"{settings.over_tls} sets DNSOverTLS=yes, and zkdns has no certificate for this machine; "
            "set DNSOverTLS=opportunistic"
        )
    # systemd-resolved uses one of its global servers for all names, so zkdns must be the only one.
    reset = "DNS=\n" if settings.servers else ""
    domains = " ".join([*(f"~{zone}" for zone in request.zones), *request.search])
    server = request.address.host if request.address.port == DNS_PORT else request.address
    drop_in = f"{COMMENT}[Resolve]\n{reset}DNS={server}\nDomains={domains}\n"
    plan.change(tree, f"/etc/systemd/resolved.conf.d/{RESOLVED_DROP_IN}", drop_in)
    # With DNSSEC validation, the signed root would prove that the zones do not exist.
    anchors = "".join(f"{zone}\n" for zone in request.zones)
    plan.change(tree, "/etc/dnssec-trust-anchors.d/zkdns.negative", f"; {COMMENT[2:]}{anchors}")
    plan.commands.append(_RELOAD_RESOLVED)
    _keep_resolved_upstreams(tree, request, plan, settings)


def _keep_resolved_upstreams(
    tree: FileTree, request: SetupRequest, plan: SetupPlan, settings: ResolvedSettings
) -> None:
    """Make zkdns use the previous upstreams: it finds those of links itself, but not the global ones."""
    if request.upstream != "auto":
        return
    if settings.servers:
        _name_upstreams(tree, request, plan, settings.servers)
        return
    listed = parse_resolv_conf(tree.text(RESOLVED_LIST) or "").nameservers
    own = {one.host for one in request.listening}
    if not [server for server in listed if server not in RESOLVED_STUBS and server not in own]:
        plan.obstacles.append(
            f"no link has a resolver ({RESOLVED_LIST} names none), so zkdns and systemd-resolved would "
            "forward all other names to each other; name resolvers in the configuration of zkdns, such as "
            'upstreams = ["9.9.9.9"] in [forward]'
        )


def _plan_dnsmasq(tree: FileTree, request: SetupRequest, plan: SetupPlan) -> None:
    _check_other_address(tree, request, plan, "dnsmasq")
    settings = (tree.text("/etc/dnsmasq.conf") or "") + (tree.text("/etc/default/dnsmasq") or "")
    if "/etc/dnsmasq.d" not in re.sub(r"^\s*#.*", "", settings, flags=re.MULTILINE):
        plan.notes.append(
            "no setting makes dnsmasq read /etc/dnsmasq.d; unless that is its default here, write "
            "conf-dir=/etc/dnsmasq.d,*.conf into /etc/dnsmasq.conf"
        )
    plan.change(tree, "/etc/dnsmasq.d/zkdns.conf", _dnsmasq_lines(request))
    plan.commands.append(("systemctl", "restart", "dnsmasq"))
    _note_search(request, plan)


def _plan_network_manager_dnsmasq(tree: FileTree, request: SetupRequest, plan: SetupPlan) -> None:
    _check_other_address(tree, request, plan, "NetworkManager's dnsmasq")
    plan.change(tree, "/etc/NetworkManager/dnsmasq.d/zkdns.conf", _dnsmasq_lines(request))
    plan.commands.append(("nmcli", "general", "reload", "dns-full"))
    _note_search(request, plan)


def _dnsmasq_lines(request: SetupRequest) -> str:
    host, port = request.address.host, request.address.port
    # Members have private addresses, which --stop-dns-rebind would reject.
    lines = [f"server=/{zone}/{host}#{port}\nrebind-domain-ok=/{zone}/\n" for zone in request.zones]
    return COMMENT + "".join(lines)


def _check_other_address(tree: FileTree, request: SetupRequest, plan: SetupPlan, other: str) -> None:
    """Add an obstacle if zkdns has the same address as the resolver that shall forward to it."""
    first = HostPort(parse_resolv_conf(tree.text(RESOLV_CONF) or "").nameservers[0], DNS_PORT)
    if first in request.listening:
        plan.obstacles.append(
            f"{other} listens on {first}, and zkdns is configured to listen there; choose another address "
            'for zkdns, such as listen = ["127.0.0.1:5300"]'
        )


def _note_search(request: SetupRequest, plan: SetupPlan) -> None:
    if request.search:
        plan.notes.append(
            f"add {' '.join(request.search)} to the machine's search domains yourself; setup does not do that"
        )


# -- zkdns as the first name server -----------------------------------------------------------------------


def _plan_resolv_conf(tree: FileTree, request: SetupRequest, plan: SetupPlan) -> None:
    server = _require_port_53(request, plan)
    if server is None:
        return
    # With upstreams of its own, zkdns does not need the other name servers in this file.
    keep_others = not isinstance(request.upstream, tuple) or not request.upstream
    edited = edit_resolv_conf(
        tree.source(RESOLV_CONF), server, keep_others=keep_others, search=request.search
    )
    plan.change(tree, tree.real(RESOLV_CONF), edited)
    if _is_mount_point(tree, RESOLV_CONF):
        plan.notes.append(
            f"{RESOLV_CONF} is a mount point, as in containers, and is written again when the container "
            f"starts; set it permanently where the container is created (docker run --dns {server})"
        )
    servers = parse_resolv_conf(edited.encode(errors="replace").decode()).nameservers
    others = servers[1:]
    if len(servers) > MAX_NAMESERVERS:
        plan.notes.append(
            f"glibc uses the first {MAX_NAMESERVERS} name servers, so {servers[MAX_NAMESERVERS]} is no "
            "longer used"
        )
    if not others and request.upstream == "auto":
        plan.obstacles.append(
            f"{RESOLV_CONF} names no other resolver, to which zkdns could forward all other names; name "
            'resolvers in the configuration of zkdns, such as upstreams = ["9.9.9.9"] in [forward]'
        )
    elif others and not request.upstream:
        plan.notes.append(
            f"programs query {', '.join(others)} for all other names, because zkdns refuses those"
        )
    elif others:
        plan.notes.append(
            f"zkdns forwards all other names to {', '.join(others)}; programs query these directly while "
            "zkdns does not respond. Programs with musl (Alpine) query all name servers in parallel and take "
            "the first response: for these, name the upstreams in the configuration of zkdns "
            "(upstreams = […] in [forward]), and run setup again"
        )


def _is_mount_point(tree: FileTree, path: str) -> bool:
    """Whether a file is a mount point (proc(5), mountinfo: the fifth field)."""
    mounts = tree.text("/proc/self/mountinfo") or ""
    return any(f" {path} " in line.partition(" - ")[0] for line in mounts.split("\n"))


def _plan_network_manager(tree: FileTree, request: SetupRequest, plan: SetupPlan) -> None:
    server = _require_port_53(request, plan)
    if server is None:
        return
    if not request.upstream:
        plan.obstacles.append(
            "zkdns would be the only name server, and is configured to forward nothing "
            "(forward.upstreams = 'none'); set upstreams"
        )
    plan.change(tree, "/etc/NetworkManager/conf.d/zkdns.conf", f"{COMMENT}[main]\nrc-manager=unmanaged\n")
    text = edit_resolv_conf(tree.source(RESOLV_CONF), server, keep_others=False, search=request.search)
    plan.change(tree, RESOLV_CONF, File(text.encode(errors="surrogateescape")))
    plan.commands.append(("systemctl", "reload", "NetworkManager"))
    plan.notes.append(
        "NetworkManager still writes its upstreams to /run/NetworkManager/resolv.conf, and zkdns reads them "
        f"there; search domains of other networks are no longer added to {RESOLV_CONF}"
    )


def _require_port_53(request: SetupRequest, plan: SetupPlan) -> str | None:
    """The address for resolv.conf; without one, add an obstacle."""
    if request.host_at_53 is None:
        plan.obstacles.append(
            f"{RESOLV_CONF} has no syntax for a port, and zkdns listens on {request.address}; let zkdns "
            'listen on port 53 (listen = ["127.0.0.1:53"]), or run systemd-resolved or dnsmasq in front of it'
        )
    return request.host_at_53


# -- the server's configuration file ----------------------------------------------------------------------


def _name_upstreams(tree: FileTree, request: SetupRequest, plan: SetupPlan, servers: tuple[str, ...]) -> None:
    """Write the global servers of systemd-resolved into the configuration of zkdns."""
    try:
        # A certificate's name may follow the address (resolved.conf(5)).
        upstreams = [str(parse_upstream(server.partition("#")[0])) for server in servers]
    except BadValueError as error:
        plan.obstacles.append(f"the settings of systemd-resolved name a malformed resolver: {error}")
        return
    line = "upstreams = [" + ", ".join(f'"{one}"' for one in upstreams) + "]"
    if request.config_file is None:
        plan.obstacles.append(
            f"the settings of systemd-resolved name {', '.join(servers)}, which zkdns cannot find after "
            f"setup; start zkdns with a configuration file that has {line} in [forward], and "
            "pass that file with --config FILE"
        )
        return
    path = tree.real(request.config_file)
    text = tree.source(path)
    edited = _with_upstreams(text, line)
    if (problem := _check_edit(text, edited, upstreams)) is not None:
        plan.obstacles.append(
            f"{path}: needs {line} in [forward], and setup cannot write it ({problem}); write it yourself"
        )
        return
    plan.change(tree, path, edited)
    if request.socket is None:
        plan.notes.append(f"zkdns must read {path} again: send it SIGHUP, or restart it")
    else:  # first, so that zkdns has upstreams before other resolvers forward queries to it
        plan.commands.insert(0, ("zkdns", "reload", "--server", request.socket))


def _check_edit(text: str, edited: str, upstreams: list[str]) -> str | None:
    """Return why an edited configuration differs in more than its upstreams. None: it does not."""
    try:
        before, after = tomllib.loads(text), tomllib.loads(edited)
    except tomllib.TOMLDecodeError as error:
        return str(error)
    forward = before.get("forward", {})
    if not isinstance(forward, dict):
        return "forward is not a section"
    if after != {**before, "forward": {**forward, "upstreams": upstreams}}:
        return "the file has the section in a form that it does not recognise"
    return None


def _with_upstreams(text: str, line: str) -> str:
    """Return a configuration with this line in the section [forward], which is added if necessary.

    All other characters stay as they are.
    """
    head = re.search(r"^\[forward\][^\n]*$", text, flags=re.MULTILINE)
    if head is None:
        separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return f"{text}{separator}{COMMENT}[forward]\n{line}\n"
    before, section = text[: head.end()], text[head.end() :]
    end_of = re.search(r"^\[", section, flags=re.MULTILINE)
    section, others = (section[: end_of.start()], section[end_of.start() :]) if end_of else (section, "")
    section, count = re.subn(
        r"^upstreams[ \t]*=[ \t]*\"auto\"[^\n]*$", lambda _: line, section, count=1, flags=re.MULTILINE
    )
    return before + (section if count else f"\n{line}{section}") + others
