"""The services with answers that may change when a service with another name comes or goes.

A name may belong to several services: `v2.web.staging` is a service, and may be a member of `web.staging`.
The first of these services that has the name wins (`Zone.find`):

    1 the service with the longest key at the end of the name
    2 the service that has this name in the form of RFC 2782
    3 the service with a member that has this DNS-SD name

A service that comes or goes changes the names that end with its own key, and its own name in the form of RFC
2782. This module lists the other services that may have had one of these names before, or have it afterwards.
Services above it are not listed here, because every service may affect those.
"""

from __future__ import annotations

from collections.abc import Iterator

from zkdns.dns.service_names import PROTOCOLS
from zkdns.names import Labels

_DNS_SD_PROTOCOL = b"_tcp"


def rfc2782_names(key: Labels, own: int) -> Iterator[Labels]:
    """The names of a service in the form of RFC 2782; `own` is the number of labels of its own name."""
    for protocol in PROTOCOLS:
        yield (b"_" + key[0], *key[1:own], protocol, *key[own:])


def services_of_name(name: Labels) -> Iterator[Labels]:
    """The keys that a service with this name in the form of RFC 2782 or of DNS-SD could have."""
    if name[0].startswith(b"_"):
        for before in range(1, len(name)):
            if name[before] in PROTOCOLS:
                yield (name[0][1:], *name[1:before], *name[before + 1 :])
    if len(name) > 3 and name[1].startswith(b"_") and name[2] == _DNS_SD_PROTOCOL:  # noqa: PLR2004 - member, type, domain
        yield (name[1][1:], *name[3:])


def rivals(key: Labels, own: int) -> Iterator[Labels]:
    """The keys of services that could have a name of this service in the form of RFC 2782.

    Arguments as for `rfc2782_names`. The service itself is one of them.
    """
    if any(label.startswith(b"_") for label in key):  # otherwise no other name has two readings
        for name in rfc2782_names(key, own):
            yield from services_of_name(name)


def names_above_services(key: Labels) -> Iterator[Labels]:
    """The names below which all services may have a name that ends with this key.

    Such a name has the form of RFC 2782 or DNS-SD. `_v2.web._tcp.staging` of the service `v2.web.staging`
    ends with the key `web._tcp.staging`. These services are below `web.staging`.
    """
    for at, label in enumerate(key):
        if label in PROTOCOLS:
            yield key[:at] + key[at + 1 :]
