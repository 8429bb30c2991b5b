"""How commands reach the agent of this host, and etcd: options, calicoctl's environment variables, the agent's own."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.faults import EtcdUnavailable
from felix.errors import EnvironmentFault, PeerError
from felix.plugins.ask import NoAgent, Refused, ask

DEFAULT_ENDPOINT = "http://127.0.0.1:2379"
TIMEOUT_S = 10.0

_VARIABLES = {
    "endpoints": ("ETCD_ENDPOINTS", "FELIX_ETCDENDPOINTS"),
    "ca_file": ("ETCD_CA_CERT_FILE", "FELIX_ETCDCAFILE"),
    "cert_file": ("ETCD_CERT_FILE", "FELIX_ETCDCERTFILE"),
    "key_file": ("ETCD_KEY_FILE", "FELIX_ETCDKEYFILE"),
    "username": ("ETCD_USERNAME", "FELIX_ETCDUSERNAME"),
    "password": ("ETCD_PASSWORD", "FELIX_ETCDPASSWORD"),
}
CONNECTION_HELP = """\
etcd is found by --etcd-endpoints, else by ETCD_ENDPOINTS (with ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE,
ETCD_USERNAME, ETCD_PASSWORD) as calicoctl does, else by the agent's FELIX_ETCDENDPOINTS (FELIX_ETCDCAFILE, ...),
else at http://127.0.0.1:2379.
"""

_NO_AGENT = """
Start it with systemctl start felix, or felix run. Of a host of a lab: felix lab exec h1 -- felix status."""

T = TypeVar("T")


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """The parser knows how to be told where etcd is."""
    text = "etcd's members, separated by commas (default: environment, see below)"
    parser.add_argument("--etcd-endpoints", metavar="URLS", default="", help=text)


def find_settings(endpoints: str, environ: Mapping[str, str]) -> EtcdSettings:
    """Returns where etcd is; `endpoints` wins over the environment."""
    lowered = {name.lower(): value for name, value in environ.items() if value}
    value_by_field = {
        field: next((lowered[name.lower()] for name in names if name.lower() in lowered), "")
        for field, names in _VARIABLES.items()
    }
    address = lowered.get("felix_etcdaddr")
    fallback = f"{lowered.get('felix_etcdscheme', 'http')}://{address}" if address else DEFAULT_ENDPOINT
    texts = (endpoints or value_by_field["endpoints"] or fallback).split(",")
    return EtcdSettings(
        endpoints=tuple(text.strip() for text in texts if text.strip()),
        ca_file=value_by_field["ca_file"],
        cert_file=value_by_field["cert_file"],
        key_file=value_by_field["key_file"],
        username=value_by_field["username"],
        password=value_by_field["password"],
        timeout_s=TIMEOUT_S,
    )


def run_with_etcd(arguments: argparse.Namespace, act: Callable[[EtcdClient], Awaitable[T]]) -> T:
    """Returns what `act` returns, called with a client that is closed afterwards.

    Raises PeerError that names the endpoints when none answers, and whatever `act` raises.
    """
    settings = find_settings(arguments.etcd_endpoints, os.environ)

    async def run() -> T:
        client = EtcdClient(settings)
        try:
            return await act(client)
        finally:
            await client.close()

    try:
        return asyncio.run(run())
    except EtcdUnavailable as error:
        where = ", ".join(settings.endpoints)
        raise PeerError(
            f"etcd does not answer at {where}: {error}\n"
            "Start it, or say where it is with --etcd-endpoints or ETCD_ENDPOINTS."
        ) from error


def ask_agent(run_dir: Path, method: str, route: str, body: object = None) -> object:
    """Returns what the agent whose files are in `run_dir` answers. Raises EnvironmentFault when there is none."""
    try:
        return ask(str(run_dir / "felix.sock"), method, route, body)
    except NoAgent as error:
        is_absent = isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)
        raise EnvironmentFault(f"{error}{_NO_AGENT if is_absent else ''}") from error
    except Refused as error:
        raise EnvironmentFault(f"the agent in {run_dir} refused {route}: {error}") from error
