"""What ends a program of Star, or refuses a request to it; the text names object, value and remedy."""

from __future__ import annotations


class BadInput(ValueError):
    """Something that a person or a program gave cannot be used; nothing was changed."""


class CannotListen(OSError):
    """The address that a program should listen on cannot be had."""
