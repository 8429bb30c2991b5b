"""Which groups to join for news of addresses."""

from __future__ import annotations

RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV6_IFADDR = 9
GROUPS = (RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR)
