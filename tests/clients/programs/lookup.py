"""lookup.py getaddrinfo|dnspython A|AAAA|both|SRV NAME: print one record per line, or one line "! ERROR"."""

import socket
import sys

import dns.resolver

FAMILIES = {"A": socket.AF_INET, "AAAA": socket.AF_INET6, "both": socket.AF_UNSPEC}
ERRORS = {socket.EAI_NONAME: "EAI_NONAME", socket.EAI_NODATA: "EAI_NODATA", socket.EAI_AGAIN: "EAI_AGAIN"}


def by_getaddrinfo(kind: str, name: str) -> list[str]:
    """Look up addresses with the standard library."""
    try:
        found = socket.getaddrinfo(name, None, FAMILIES[kind], socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [f"! {ERRORS.get(error.errno or 0, error)}"]
    return [str(entry[4][0]) for entry in found]


def by_dnspython(kind: str, name: str) -> list[str]:
    """Look up records with dnspython and the search list of resolv.conf."""
    try:
        if kind == "both":
            return list(dns.resolver.resolve_name(name, search=True).addresses())
        return [record.to_text() for record in dns.resolver.resolve(name, kind, search=True)]
    except dns.resolver.NXDOMAIN:
        return ["! NXDOMAIN"]
    except dns.resolver.NoAnswer:
        return ["! NoAnswer"]


print(*{"getaddrinfo": by_getaddrinfo, "dnspython": by_dnspython}[sys.argv[1]](*sys.argv[2:]), sep="\n")
