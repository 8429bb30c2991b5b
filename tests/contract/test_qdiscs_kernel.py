"""Shapers, filters and devices are read from the kernel as they were written, whatever the figures."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from felix.calc.desired import Bandwidth
from felix.dataplane.netlink.apply import NetlinkSocket
from felix.dataplane.netlink.message import NETLINK_ROUTE
from felix.dataplane.qdiscs.apply import apply_qdiscs
from felix.dataplane.qdiscs.read import read_qdiscs
from felix.dataplane.qdiscs.render import device_of, make_shaper
from felix.dataplane.qdiscs.types import QdiscFound, QdiscPlanned, RedirectFound
from tests.support.netns import Namespace, private_namespace

pytestmark = pytest.mark.fv

bandwidths = st.builds(
    lambda rate, burst, peak, least: Bandwidth(rate, burst, rate * peak, least if peak else 0),
    st.integers(1_000, 10**12),
    st.integers(1, 4 << 30),
    st.sampled_from((0, 2, 1000)),
    st.integers(0, 10**8),
)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with private_namespace("qdisc") as namespace:
        namespace.ip("link add cali1 type veth peer name eth0")
        yield namespace


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(bandwidth=bandwidths)
@example(Bandwidth(1_000, 1))
@example(Bandwidth(34_359_738_360, 65_536))
@example(Bandwidth(34_359_738_368, 65_536, 10**12, 1))
def test_shaper_comes_back_as_it_was_written(namespace: Namespace, bandwidth: Bandwidth) -> None:
    def write_and_read() -> None:
        link, netlink = socket.if_nametoindex("cali1"), NetlinkSocket(NETLINK_ROUTE)
        try:
            shaper = make_shaper(bandwidth)
            assert apply_qdiscs(netlink, QdiscPlanned(shapers=((link, shaper),))).shapers == (None,)
            assert read_qdiscs(netlink) == [QdiscFound(link, True, shaper)]
        finally:
            netlink.close()

    namespace.run(write_and_read)


def test_way_through_a_device_comes_back_as_it_was_written_and_goes_without_a_trace(namespace: Namespace) -> None:
    def write_and_read() -> None:
        link, netlink = socket.if_nametoindex("cali1"), NetlinkSocket(NETLINK_ROUTE)
        try:
            device = device_of("cali1")
            assert apply_qdiscs(netlink, QdiscPlanned(stale=(link,), devices=(device,))).devices == (None,)
            index = socket.if_nametoindex(device)
            for _ in range(2):  # the second takes the place of the first
                result = apply_qdiscs(netlink, QdiscPlanned(redirects=((link, index),)))
                assert result.redirects == (None,)
                assert RedirectFound(link, index) in read_qdiscs(netlink)
            gone = apply_qdiscs(netlink, QdiscPlanned(stale_redirects=(link,), stale_devices=(index,)))
            assert gone.done_count == 2
            assert read_qdiscs(netlink) == []
        finally:
            netlink.close()

    namespace.run(write_and_read)


def test_interface_that_is_gone_is_refused_alone(namespace: Namespace) -> None:
    def write() -> None:
        link, netlink = socket.if_nametoindex("cali1"), NetlinkSocket(NETLINK_ROUTE)
        try:
            shaper = make_shaper(Bandwidth(8_000_000, 100_000))
            result = apply_qdiscs(netlink, QdiscPlanned(shapers=((9999, shaper), (link, shaper)), stale=(9998,)))
            assert result.shapers[0] is not None
            assert result.shapers[1] is None
            assert result.stale != (None,)
        finally:
            netlink.close()

    namespace.run(write)
