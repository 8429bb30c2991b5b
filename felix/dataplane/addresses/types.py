"""Addresses of the host's own interfaces."""

from __future__ import annotations

from typing import NamedTuple

from felix.model.net import Net


class AddressEvent(NamedTuple):
    """An address is at an interface, given by its index, or not any more. address: /32 or /128."""

    link: int
    address: Net
    is_there: bool
