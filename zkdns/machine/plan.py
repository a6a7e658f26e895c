"""What is to be changed so that a machine finds the zones' names through zkdns, as its files are.

    files ─▶ who is in charge ─▶ which files become what, who reads them again, what people must know

Each keeper has one way, which leaves it in charge: its own drop-in sends it the zones, where there is such a
thing; else zkdns is the first name server, and everything else goes on to those who were asked before.

Never here: changing anything.
"""

from __future__ import annotations

import re
import sys
import tomllib

import msgspec

from zkdns.address import DNS_PORT, HostPort, connectable, parse_upstream
from zkdns.config import Config, Upstream
from zkdns.errors import BadValueError
from zkdns.machine.keepers import RESOLV_CONF, RESOLVED_LIST, STUBS, find_keeper
from zkdns.machine.ledger import Change
from zkdns.machine.resolved import ResolvedSettings, read_resolved
from zkdns.machine.stub import HEEDED, edit_resolv_conf, read_resolv_conf
from zkdns.machine.tree import File, State, Tree
from zkdns.names import to_text

HEAD = "# By zkdns setup, which also takes it away again: zkdns setup --undo\n"
_AFTER_RESOLVED = ("systemctl", "reload-or-restart", "systemd-resolved")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine is to use."""

    listening: tuple[HostPort, ...]
    """Where zkdns answers, none of them a wildcard."""
    zones: tuple[str, ...]
    upstream: Upstream = "auto"
    """Whom zkdns asks for everything else."""
    search: tuple[str, ...] = ()
    """Domains that programs are to try for names without a dot."""
    config_file: str | None = None
    """The server's file, which may be told whom to ask."""
    control: str | None = None
    """The socket at which the server can be told to read it again; None: there is none."""
    platform: str = "linux"
    """As `sys.platform`."""

    @property
    def address(self) -> HostPort:
        """Where resolvers that can name a port are sent."""
        return self.listening[0]

    @property
    def at_53(self) -> str | None:
        """The address that programs can ask, which know no port; None: there is none."""
        return next((one.host for one in self.listening if one.port == DNS_PORT), None)


class Plan(msgspec.Struct, kw_only=True):
    """What is to be done."""

    keeper: str
    reasons: tuple[str, ...]
    changes: list[Change] = []
    commands: list[tuple[str, ...]] = []
    """What makes programs read the files again."""
    notes: list[str] = []
    """What people must know or do themselves."""
    obstacles: list[str] = []
    """Why nothing can be done as things are, and what would help; with one of them, nothing is changed."""

    def change(self, tree: Tree, path: str, after: State | str, *, is_shared: bool = False) -> None:
        """Let a file become this; text keeps its mode."""
        before = tree.state(path)
        if isinstance(after, str):
            content = after.encode(errors="surrogateescape")
            after = File(content, before.mode) if isinstance(before, File) else File(content)
        if before != after:
            self.changes.append(Change(path, before, after, is_shared))


def wish_of(config: Config, search: tuple[str, ...], config_file: str | None) -> Wish:
    """What a configuration lets one wish for."""
    return Wish(
        listening=tuple(map(connectable, config.listen)),
        zones=tuple(map(to_text, config.zones)),
        upstream=config.upstream,
        search=search,
        config_file=config_file,
        control=config.control,
        platform=sys.platform,
    )


def make_plan(tree: Tree, wish: Wish) -> Plan:
    """Plan what makes this machine use zkdns.

    Args:
        tree: the machine's files as they were before zkdns changed any.
        wish: what is to be used.

    Raises:
        MachineError: a file cannot be read.
    """
    found = find_keeper(tree, wish.listening, platform=wish.platform)
    plan = Plan(keeper=found.keeper, reasons=found.reasons)
    if any(not one.port for one in wish.listening):
        plan.obstacles.append("listen: port 0 is another one at each start; let zkdns listen on a fixed port")
        return plan
    _MAKERS[found.keeper](tree, wish, plan)
    return plan


# -- resolvers that are sent the zones alone -----------------------------------------------------------------


def _for_resolved(tree: Tree, wish: Wish, plan: Plan) -> None:
    settings = read_resolved(tree)
    if settings.later:
        plan.obstacles.append(
            f"{settings.later} says DNS= too, and is read after zkdns' drop-in; let its name sort before that"
        )
    if settings.over_tls:
        plan.obstacles.append(
            f"{settings.over_tls} says DNSOverTLS=yes, and zkdns does not speak TLS to programs; "
            "say DNSOverTLS=opportunistic"
        )
    # One server of the whole machine answers for all of them, so there must be no other one beside zkdns.
    reset = "DNS=\n" if settings.servers else ""
    domains = " ".join([*(f"~{zone}" for zone in wish.zones), *wish.search])
    server = wish.address.host if wish.address.port == DNS_PORT else wish.address
    drop_in = f"{HEAD}[Resolve]\n{reset}DNS={server}\nDomains={domains}\n"
    plan.change(tree, "/etc/systemd/resolved.conf.d/zkdns.conf", drop_in)
    # Where DNSSEC is checked, the signed root would prove that there are no such zones.
    anchors = "".join(f"{zone}\n" for zone in wish.zones)
    plan.change(tree, "/etc/dnssec-trust-anchors.d/zkdns.negative", f"; {HEAD[2:]}{anchors}")
    plan.commands.append(_AFTER_RESOLVED)
    _keep_resolved_upstreams(tree, wish, plan, settings)


def _keep_resolved_upstreams(tree: Tree, wish: Wish, plan: Plan, settings: ResolvedSettings) -> None:
    """Let zkdns ask whom systemd-resolved asked: those of links it finds by itself, others are lost to it."""
    if wish.upstream != "auto":
        return
    if settings.servers:
        _name_upstreams(tree, wish, plan, settings.servers, "systemd-resolved's own settings name")
        return
    listed = read_resolv_conf(tree.text(RESOLVED_LIST) or "").nameservers
    if not [server for server in listed if server not in STUBS and server not in _hosts(wish)]:
        plan.obstacles.append(
            f"no link has a resolver ({RESOLVED_LIST} names none), so zkdns and systemd-resolved would ask "
            "each other for everything else; name resolvers in zkdns' configuration, as "
            'upstream = ["9.9.9.9"]'
        )


def _for_dnsmasq(tree: Tree, wish: Wish, plan: Plan) -> None:
    _check_apart(tree, wish, plan, "dnsmasq")
    settings = tree.text("/etc/dnsmasq.conf") or ""
    places = settings + (tree.text("/etc/default/dnsmasq") or "")
    if "/etc/dnsmasq.d" not in re.sub(r"^\s*#.*", "", places, flags=re.MULTILINE):
        plan.notes.append(
            "nothing says that dnsmasq reads /etc/dnsmasq.d; where it does not, write "
            "conf-dir=/etc/dnsmasq.d,*.conf into /etc/dnsmasq.conf"
        )
    plan.change(tree, "/etc/dnsmasq.d/zkdns.conf", _dnsmasq_lines(wish))
    plan.commands.append(("systemctl", "restart", "dnsmasq"))
    _tell_search(wish, plan)


def _for_nm_dnsmasq(tree: Tree, wish: Wish, plan: Plan) -> None:
    _check_apart(tree, wish, plan, "NetworkManager's dnsmasq")
    plan.change(tree, "/etc/NetworkManager/dnsmasq.d/zkdns.conf", _dnsmasq_lines(wish))
    plan.commands.append(("nmcli", "general", "reload", "dns-full"))
    _tell_search(wish, plan)


def _dnsmasq_lines(wish: Wish) -> str:
    host, port = wish.address.host, wish.address.port
    # Members have private addresses, which --stop-dns-rebind would take for an attack.
    lines = [f"server=/{zone}/{host}#{port}\nrebind-domain-ok=/{zone}/\n" for zone in wish.zones]
    return HEAD + "".join(lines)


def _check_apart(tree: Tree, wish: Wish, plan: Plan, other: str) -> None:
    """Check that zkdns listens elsewhere than the resolver that sends it the zones."""
    first = read_resolv_conf(tree.text(RESOLV_CONF) or "").nameservers[0]
    if HostPort(first, DNS_PORT) in wish.listening:
        plan.obstacles.append(
            f"{other} answers at {HostPort(first, DNS_PORT)}, where zkdns is to listen; let zkdns listen "
            'elsewhere, as listen = ["127.0.0.1:5300"]'
        )


def _tell_search(wish: Wish, plan: Plan) -> None:
    if wish.search:
        plan.notes.append(
            f"where your search domains are set, add {' '.join(wish.search)}: that is not done here"
        )


def _for_another(tree: Tree, wish: Wish, plan: Plan) -> None:
    del tree
    plan.obstacles.append(
        f"send it the zone{'s' * (len(wish.zones) > 1)} {' '.join(wish.zones)} at {wish.address} yourself "
        "(for unbound: stub-zone: with name: and stub-addr:, and do-not-query-localhost: no)"
    )


def _for_macos(tree: Tree, wish: Wish, plan: Plan) -> None:
    host, port = wish.address.host, wish.address.port
    for zone in wish.zones:
        plan.change(tree, f"/etc/resolver/{zone}", f"{HEAD}nameserver {host}\nport {port}\n")
    _tell_search(wish, plan)


# -- zkdns as the first name server --------------------------------------------------------------------------


def _for_file(tree: Tree, wish: Wish, plan: Plan) -> None:
    if server := _server_at_53(wish, plan):
        _edit_resolv_conf(tree, wish, plan, server)


def _edit_resolv_conf(tree: Tree, wish: Wish, plan: Plan, server: str, *, is_shared: bool = False) -> None:
    text = tree.source(RESOLV_CONF)
    # Whom zkdns asks need not be asked beside it; where it finds them out it is in this very file.
    keep_others = not isinstance(wish.upstream, tuple) or not wish.upstream
    edited = edit_resolv_conf(text, server, keep_others=keep_others, search=wish.search)
    plan.change(tree, tree.real(RESOLV_CONF), edited, is_shared=is_shared)
    if _is_mount(tree, RESOLV_CONF):
        plan.notes.append(
            f"{RESOLV_CONF} is a mount, as in containers, and written anew when this one starts; for good it "
            f"is set where that is made (docker run --dns {server})"
        )
    servers = read_resolv_conf(edited.encode(errors="replace").decode()).nameservers
    if len(servers) > HEEDED:
        plan.notes.append(f"glibc asks the first {HEEDED} name servers only, so no longer {servers[HEEDED]}")
    if len(servers) == 1 and wish.upstream == "auto":
        plan.obstacles.append(
            f"{RESOLV_CONF} names nobody else, who could be asked for everything else; name resolvers in "
            'zkdns\' configuration, as upstream = ["9.9.9.9"]'
        )
    elif servers[1:] and not wish.upstream:
        plan.notes.append(f"programs ask {', '.join(servers[1:])} for everything else, which zkdns refuses")
    elif servers[1:]:
        plan.notes.append(
            f"zkdns asks {', '.join(servers[1:])} for everything else, and so do programs while it is away; "
            "those on musl (Alpine) ask all at once and take the first answer: for them name whom zkdns asks "
            "in its configuration (upstream = […]), and set up again"
        )


def _is_mount(tree: Tree, path: str) -> bool:
    """Whether a file is a mount of its own (proc(5), mountinfo: the fifth field is where)."""
    mounts = tree.text("/proc/self/mountinfo") or ""
    return any(f" {path} " in line.partition(" - ")[0] for line in mounts.splitlines())


def _for_network_manager(tree: Tree, wish: Wish, plan: Plan) -> None:
    server = _server_at_53(wish, plan)
    if server is None:
        return
    if not wish.upstream:
        plan.obstacles.append(
            "zkdns is to forward nothing (upstream = none) and would be the only name server; let it forward"
        )
    plan.change(tree, "/etc/NetworkManager/conf.d/zkdns.conf", f"{HEAD}[main]\nrc-manager=unmanaged\n")
    text = edit_resolv_conf(tree.source(RESOLV_CONF), server, keep_others=False, search=wish.search)
    plan.change(tree, RESOLV_CONF, File(text.encode(errors="surrogateescape")))
    plan.commands.append(("systemctl", "reload", "NetworkManager"))
    plan.notes.append(
        "NetworkManager goes on writing whom it would ask to /run/NetworkManager/resolv.conf, where zkdns "
        f"finds them; search domains of other networks do not get into {RESOLV_CONF} any more"
    )


def _for_resolvconf(tree: Tree, wish: Wish, plan: Plan) -> None:
    server = _server_at_53(wish, plan)
    if server is None:
        return
    directory = "/etc/resolvconf/resolv.conf.d"
    _append(tree, plan, f"{directory}/head", f"{HEAD}nameserver {server}\n")
    if wish.search:  # the last such line counts
        known = read_resolv_conf(tree.text(RESOLV_CONF) or "").search
        domains = " ".join(dict.fromkeys([*wish.search, *known]))
        _append(tree, plan, f"{directory}/tail", f"{HEAD}search {domains}\n")
    plan.commands.append(("resolvconf", "-u"))


def _for_openresolv(tree: Tree, wish: Wish, plan: Plan) -> None:
    server = _server_at_53(wish, plan)
    if server is None:
        return
    lines = f'name_servers="{server} ${{name_servers:-}}"\n'
    if wish.search:
        domains = " ".join(wish.search)
        lines += f'search_domains="{domains} ${{search_domains:-}}"\n'
    _append(tree, plan, "/etc/resolvconf.conf", HEAD + lines)
    plan.commands.append(("resolvconf", "-u"))


def _for_dhclient(tree: Tree, wish: Wish, plan: Plan) -> None:
    server = _server_at_53(wish, plan)
    if server is None:
        return
    _edit_resolv_conf(tree, wish, plan, server, is_shared=True)
    if ":" in server:
        plan.obstacles.append("dhclient writes IPv4 name servers; let zkdns listen on 127.0.0.1:53 too")
    lines = f"prepend domain-name-servers {server};\n"
    if wish.search:
        domains = ", ".join(f'"{domain}"' for domain in wish.search)
        lines += f"prepend domain-search {domains};\n"
    _append(tree, plan, "/etc/dhcp/dhclient.conf", HEAD + lines)
    plan.notes.append(f"dhclient writes {RESOLV_CONF} anew with each lease, with zkdns at the front")


def _server_at_53(wish: Wish, plan: Plan) -> str | None:
    """The address for resolv.conf; where there is none, that is an obstacle."""
    if wish.at_53 is None:
        plan.obstacles.append(
            f"{RESOLV_CONF} can name no port, and zkdns listens on {wish.address}; let it listen on port 53 "
            '(listen = ["127.0.0.1:53"]), or let systemd-resolved or dnsmasq, which can, stand between'
        )
    return wish.at_53


def _append(tree: Tree, plan: Plan, path: str, lines: str) -> None:
    """Let these lines stand at the end of a file."""
    path = tree.real(path)
    text = tree.source(path)
    plan.change(tree, path, text + ("" if text.endswith("\n") or not text else "\n") + lines)


# -- the server's own file -----------------------------------------------------------------------------------


def _name_upstreams(tree: Tree, wish: Wish, plan: Plan, servers: tuple[str, ...], who: str) -> None:
    """Let zkdns' configuration name these, which zkdns would not find by itself any more."""
    try:
        # A certificate's name may stand behind it (resolved.conf(5)).
        upstreams = [str(parse_upstream(server.partition("#")[0])) for server in servers]
    except BadValueError as mistake:
        plan.obstacles.append(f"{who} a resolver that cannot be understood: {mistake}")
        return
    line = "upstream = [" + ", ".join(f'"{one}"' for one in upstreams) + "]"
    if wish.config_file is None:
        plan.obstacles.append(
            f"{who} {', '.join(servers)}, whom zkdns could not find out any more; start it with a file that "
            f"says {line}, and name that file here with --config FILE"
        )
        return
    path = tree.real(wish.config_file)
    text = tree.source(path)
    edited, count = re.subn(r"^upstream\s*=\s*\"auto\".*$", line, text, count=1, flags=re.MULTILINE)
    if not count:
        edited = f"{HEAD}{line}\n{text}"
    try:
        tomllib.loads(edited)
    except tomllib.TOMLDecodeError as error:
        plan.obstacles.append(
            f"{path}: must say {line}, which cannot be written there ({error}); do it by hand"
        )
        return
    plan.change(tree, path, edited)
    if wish.control is None:
        plan.notes.append(f"zkdns must read {path} again: send it SIGHUP, or restart it")
    else:  # before others send it what it would not know whom to ask
        plan.commands.insert(0, ("zkdns", "reload", "--control", wish.control))


def _hosts(wish: Wish) -> set[str]:
    return {one.host for one in wish.listening}


_MAKERS = {
    "systemd-resolved": _for_resolved,
    "NetworkManager with dnsmasq": _for_nm_dnsmasq,
    "NetworkManager": _for_network_manager,
    "dnsmasq": _for_dnsmasq,
    "resolvconf": _for_resolvconf,
    "openresolv": _for_openresolv,
    "dhclient": _for_dhclient,
    "another resolver": _for_another,
    "resolv.conf": _for_file,
    "macOS": _for_macos,
}
