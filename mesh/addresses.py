"""Where a component is: one address, or several replicas to balance over.

One name that resolves to all replicas (`dns:///memory-headless:50051`) needs nothing more. On
hosts without such a name the replicas are listed, as IP addresses with ports.
"""

import ipaddress
from typing import Final

_SCHEMES: Final = {4: "ipv4:", 6: "ipv6:"}


def target_of(address: str) -> str:
    """Return what gRPC dials for `host:port`, any gRPC target, or a list of IP addresses.

    A list may begin with its scheme (`ipv4:127.0.0.1:1,127.0.0.1:2`) or not. Raises ValueError
    for a list of names, which gRPC cannot resolve, and for one that mixes IPv4 and IPv6.
    """
    for scheme in _SCHEMES.values():
        address = address.removeprefix(scheme)
    if "," not in address or address.startswith("unix:"):
        return address
    listed = [each.strip() for each in address.split(",") if each.strip()]
    versions = {_version(each) for each in listed}
    if len(versions) > 1:
        raise ValueError("a list of addresses must be all IPv4 or all IPv6")
    return _SCHEMES[versions.pop()] + ",".join(listed)


def _version(address: str) -> int:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"{address}: a listed address needs a port")
    try:
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        raise ValueError(
            f"{address}: only IP addresses can be listed; give one name that resolves to all"
        ) from None


def first_of(address: str) -> str:
    """Return one address of a list, for who wants to ask any replica."""
    for scheme in _SCHEMES.values():
        address = address.removeprefix(scheme)
    return address.split(",")[0].strip()
