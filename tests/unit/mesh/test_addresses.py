"""Addresses of one component or of several replicas."""

import pytest

from mesh.addresses import first_of, target_of
from mesh.errors import FailedPrecondition
from mesh.settings import MeshSettings, load


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("ipv4:127.0.0.1:1", "127.0.0.1:1"),
        ("dns:///memory-headless:50051", "dns:///memory-headless:50051"),
        ("unix:/run/plexus.sock", "unix:/run/plexus.sock"),
        ("127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]:1, [::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_what_grpc_dials(address: str, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("memory-1:50051,memory-2:50051", "only IP addresses"),
        ("127.0.0.1:1,[::1]:1", "all IPv4 or all IPv6"),
        ("127.0.0.1,127.0.0.2", "needs a port"),
    ],
)
def test_what_grpc_cannot_dial_is_refused(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        target_of(address)
    with pytest.raises(FailedPrecondition, match=why):
        load(MeshSettings, "mesh", environ={"PLEXUS_PLACEMENT": f"memory={address}"})


def test_a_placement_lists_replicas_in_the_environment() -> None:
    text = "memory=ipv4:127.0.0.1:1,127.0.0.1:2,router=10.0.0.1:3"
    placement = load(MeshSettings, "mesh", environ={"PLEXUS_PLACEMENT": text}).placement
    assert placement == {"memory": "ipv4:127.0.0.1:1,127.0.0.1:2", "router": "10.0.0.1:3"}


def test_any_replica_answers_for_all() -> None:
    assert first_of("ipv4:127.0.0.1:1,127.0.0.1:2") == "127.0.0.1:1"
    assert first_of("dns:///memory:1") == "dns:///memory:1"
