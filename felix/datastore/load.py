"""Where etcd is and how to reach it: settings, TLS files, gRPC channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from felix.errors import DataError

_KEEPALIVE_S = 10  # etcd hangs up on clients that ping more often than every 5 s (--grpc-keepalive-min-time)

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", _KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", 5000),
    # gRPC would stop pinging after two pings without data, and then a dead peer of a quiet watch stays unnoticed
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 3000),  # in truth the time limit of one attempt to connect
    ("grpc.max_reconnect_backoff_ms", 3000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a channel opened with new certificates must not find the old connection
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and who we are there.

    endpoints: `http://host:port`, `https://host:port` or `host:port` (TLS when any file is named); at least one.
    ca_file, cert_file, key_file: PEM, empty for none; read again whenever a connection is made anew.
    username, password: empty without authentication. timeout_s: for each call, all endpoints tried.
    """

    endpoints: tuple[str, ...]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = ""
    timeout_s: float = 10.0

    @property
    def has_tls_files(self) -> bool:
        """Whether any TLS file is named."""
        return bool(self.ca_file or self.cert_file or self.key_file)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One etcd member as gRPC wants it named."""

    target: str
    is_tls: bool


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Content of the TLS files, None for those not named."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


def parse_endpoint(text: str, *, is_tls_default: bool) -> Endpoint:
    """Returns the endpoint that an etcd URL or `host:port` names. Raises DataError for anything else."""
    scheme, mark, rest = text.strip().rpartition("://")
    target = rest.rstrip("/")
    if scheme in {"unix", "unixs"}:
        return Endpoint(f"unix:{rest}", is_tls=scheme == "unixs")
    if (mark and scheme not in {"http", "https"}) or not target or "/" in target or ":" not in target:
        raise DataError(f"etcd endpoint {text!r} cannot be used: expected http://host:port or https://host:port")
    return Endpoint(target, is_tls=scheme == "https" or (not mark and is_tls_default))


def load_tls(settings: EtcdSettings) -> TlsFiles:
    """Returns what the TLS files hold now. Raises DataError naming the file that cannot be read."""
    return TlsFiles(_load(settings.ca_file), _load(settings.cert_file), _load(settings.key_file))


def open_channel(endpoint: Endpoint, tls: TlsFiles) -> grpc.aio.Channel:
    """Returns a channel that connects on first use, and again by itself. Must be closed."""
    options = list(CHANNEL_OPTIONS)
    if not endpoint.is_tls:
        return grpc.aio.insecure_channel(endpoint.target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
    return grpc.aio.secure_channel(endpoint.target, credentials, options=options)


def _load(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"TLS file {path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt of one call: the channel to use, what to send along, how long it may take, and how texts name it."""

    channel: grpc.aio.Channel
    metadata: grpc.aio.Metadata
    timeout_s: float
    where: str
