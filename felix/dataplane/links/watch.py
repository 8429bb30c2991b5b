"""Link events: which groups to join, and how a datagram reaches the plan."""

from __future__ import annotations

from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.read import parse_link_events
from felix.dataplane.links.types import Link, LinkGone

RTNLGRP_LINK = 1
RTNLGRP_NEIGH = 3
RTNLGRP_IPV4_NETCONF = 24
RTNLGRP_IPV6_NETCONF = 25
GROUPS = (RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF)


def feed(plan: LinkPlan, datagram: bytes) -> list[Link | LinkGone]:
    """The plan knows what the datagram says; returns the news about interfaces, in order, for whoever else lives by
    them (routes). `plan.is_settled` tells whether something is left to do. Other messages are skipped.
    """
    news: list[Link | LinkGone] = []
    for event in parse_link_events(datagram, plan.config):
        plan.on_event(event)
        if isinstance(event, Link | LinkGone):
            news.append(event)
    return news
