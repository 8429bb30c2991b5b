"""Health checks of an application, as Marathon takes them in `healthChecks`. Pure.

    {"protocol": "HTTP", "path": "/status", "port": 9000 or "portIndex": 0, "gracePeriodSeconds": 300,
     "intervalSeconds": 60, "timeoutSeconds": 20, "maxConsecutiveFailures": 3, "command": {"value": "…"}}

`HTTP` and `TCP` are tried from where Marathon is, `MESOS_HTTP` and `MESOS_TCP` from the task's agent, `COMMAND` inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from felix.errors import DataError

PROTOCOLS = ("HTTP", "TCP", "MESOS_HTTP", "MESOS_TCP", "COMMAND")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One check. port: 0 for the application's port number `port_index`. Durations in seconds."""

    protocol: str = "HTTP"
    path: str = "/"
    port: int = 0
    port_index: int = 0
    grace_s: float = 300.0
    interval_s: float = 60.0
    timeout_s: float = 20.0
    failures_most: int = 3
    command: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the task's agent tries it, not Marathon."""
        return self.protocol.startswith("MESOS_")

    @property
    def is_http(self) -> bool:
        """Whether an answer of HTTP is wanted, of status 200 to 399."""
        return self.protocol.endswith("HTTP")


@dataclass(slots=True)
class Health:
    """What became of one check. is_alive: None until it is known. Moments in seconds since 1970, 0: never."""

    check: HealthCheck
    is_alive: bool | None = None
    failures: int = 0
    first_success: float = 0.0
    last_success: float = 0.0
    last_failure: float = 0.0
    cause: str = ""


def judge(results: Sequence[Health]) -> bool | None:
    """Whether all checks say that the task is healthy; None as long as one says nothing, or there is none."""
    known = [one.is_alive for one in results]
    return None if not known or None in known else all(known)


def read_checks(value: object, where: str) -> tuple[HealthCheck, ...]:
    """Returns the checks of a JSON value; raises DataError that names the field that cannot be used."""
    if not isinstance(value, list):
        raise DataError(f"{where}: healthChecks: expected a list, saw {value!r}")
    return tuple(_read_check(one, f"{where}: healthChecks[{number}]") for number, one in enumerate(value))


def _read_check(value: object, where: str) -> HealthCheck:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, saw {value!r}")
    protocol = value.get("protocol", "HTTP")
    if protocol not in PROTOCOLS:
        raise DataError(f"{where}: protocol: expected one of {', '.join(PROTOCOLS)}, saw {protocol!r}")
    path = value.get("path", "/")
    if not isinstance(path, str) or not path.startswith("/") or not path.isprintable() or " " in path:
        raise DataError(f"{where}: path: expected text that begins with /, saw {path!r}")
    command = value.get("command", {})
    command = command.get("value", "") if isinstance(command, dict) else command
    if not isinstance(command, str) or (protocol == "COMMAND" and not command):
        raise DataError(f'{where}: command: expected {{"value": TEXT}}, saw {value.get("command")!r}')
    return HealthCheck(
        protocol=protocol,
        path=path,
        port=int(_read_number(value, "port", 0, 65535, where)),
        port_index=int(_read_number(value, "portIndex", 0, 65535, where)),
        grace_s=_read_number(value, "gracePeriodSeconds", 300, 86400, where),
        interval_s=max(_read_number(value, "intervalSeconds", 60, 86400, where), 0.1),
        timeout_s=max(_read_number(value, "timeoutSeconds", 20, 86400, where), 0.1),
        failures_most=int(_read_number(value, "maxConsecutiveFailures", 3, 1e6, where)),
        command=command,
    )


def _read_number(value: dict[str, object], name: str, default: float, most: float, where: str) -> float:
    number = value.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
        raise DataError(f"{where}: {name}: expected a number from 0 to {most:g}, saw {number!r}")
    return float(number)
