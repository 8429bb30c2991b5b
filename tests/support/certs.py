"""Certificates for tests, made by openssl: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of a certificate and its key, PEM."""

    cert: str
    key: str


class Authority:
    """A certificate authority in `directory`. `ca` is the path of its certificate."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self.ca = str(directory / f"{name}.pem")
        self._key = str(directory / f"{name}.key")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.ca),
        )

    def issue(self, name: str) -> Pair:
        """Returns a certificate for `name` that serves at 127.0.0.1 and as a client's, replacing an older one."""
        pair = Pair(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-CA", self.ca, "-CAkey", self._key, "-keyout", pair.key, "-out", pair.cert),
        )
        return pair


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)
