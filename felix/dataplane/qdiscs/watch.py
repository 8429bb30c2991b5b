"""Which group announces changes of queueing disciplines."""

from __future__ import annotations

RTNLGRP_TC = 4
GROUPS = (RTNLGRP_TC,)
