"""Tells systemd that the agent is ready, alive, or stopping. Does nothing when not started by systemd.

Source: man 3 sd_notify, man 3 sd_watchdog_enabled.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """The notification socket of the service manager, if there is one. environ: None for that of this process."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        path = variables.get("NOTIFY_SOCKET", "")
        # An @ stands for the zero byte of Linux's abstract socket names.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._last_status = ""
        self.watchdog_interval_s = _read_watchdog_interval_s(variables)
        """How often to call `alive`, half of what the manager tolerates; 0 when it does not watch."""

    @property
    def is_active(self) -> bool:
        """Whether somebody listens."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Says that start-up is complete: what depends on this service may start."""
        self._send("READY=1", *([f"STATUS={status}"] if status else []))

    def status(self, text: str) -> None:
        """Shows one line in `systemctl status`; says nothing when it is the same as before."""
        if text != self._last_status:
            self._last_status = text
            self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Says that the service is on its way out."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("service manager did not take %s: %s", lines[0], error)


def _read_watchdog_interval_s(variables: Mapping[str, str]) -> float:
    if variables.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = variables.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdecimal() else 0.0
