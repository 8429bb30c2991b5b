"""`python -m tests.bench.dns`: service discovery beside nsd on the same zone.

Rows: from an endpoint's put to the first answer that has it; resident memory; questions per second. The floor of the
first is etcd's own, put to watch; of the last it is nsd. Wants dnsperf and nsd (apt-get install dnsperf nsd); without
them the rows that need them are left out. Everything runs in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import dns.asyncquery
import dns.message

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.types import PutOp
from felix.lab.documents import key_of, resource
from felix.lab.store import Json
from tests.bench import floor
from tests.bench.figures import Figure, format_json, render_table, summarize
from tests.support.etcd import running_etcd

_INSIDE = "BENCH_INSIDE"
_PORT, _HTTP_PORT, _PEER_PORT = 5300, 8123, 5301
_PUTS_AT_ONCE = 100
_READY_S = 120.0
_QPS = re.compile(r"Queries per second:\s+([\d.]+)")
_LOST = re.compile(r"Queries lost:\s+(\d+)")
_GOAL_P50_MS, _GOAL_P99_MS = 5.0, 20.0


def main() -> int:
    """Measures in a network namespace of its own; returns 0 when it could, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dns", description=__doc__)
    parser.add_argument("--endpoints", type=int, default=10_000, help="names of endpoints (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=300, help="timed changes (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="of questions, each server (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: needs root, for network namespaces", file=sys.stderr)
        return 2
    if os.environ.get(_INSIDE) != "1":
        command = ["unshare", "--net", "--", sys.executable, "-m", "tests.bench.dns", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures = asyncio.run(run(arguments.endpoints, arguments.changes, arguments.seconds, _say))
    print(render_table(figures))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(format_json(figures), indent=1) + "\n")
    return 0


class Place(NamedTuple):
    """Where a run happens: what is stopped at its end, its folder, and whom to tell how it goes."""

    stack: ExitStack
    folder: Path
    say: Callable[[str], None]


async def run(endpoints: int, changes: int, seconds: int, say: Callable[[str], None]) -> list[Figure]:
    """Returns the figures of names of that many endpoints."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="felix-bench-dns-")))
        place = Place(stack, folder, say)
        etcd = stack.enter_context(running_etcd())
        client = EtcdClient(EtcdSettings((etcd.endpoint,)))
        try:
            await _fill(client, endpoints)
            say(f"{endpoints} endpoints stored")
            server, ready_s = await _start(place, etcd.endpoint)
            say(f"serving after {ready_s:.2f} s")
            memory = _read_rss_mb(server.pid)
            figures = [*await _time_changes(client, endpoints, changes, say)]
            figures.append(
                Figure("dns", f"resident, {endpoints} names of endpoints", "MB", memory, detail={"start_s": ready_s})
            )
            zone = await _fetch_zone(folder)
            figures += _time_questions(place, zone, seconds, server.pid)
            return figures
        finally:
            await client.close()


async def _fill(client: EtcdClient, endpoints: int) -> None:
    puts = [PutOp(*_document(number)) for number in range(endpoints)]
    for at in range(0, len(puts), _PUTS_AT_ONCE):
        await client.txn([], puts[at : at + _PUTS_AT_ONCE])


def _document(number: int, address: int | None = None) -> tuple[str, bytes]:
    """Returns key and value of an endpoint that has an app, a port, and an address out of 10.0.0.0/8."""
    value = number if address is None else address
    spec: dict[str, Json] = {
        "orchestrator": "cni",
        "workload": f"w{number}",
        "node": f"h{number % 100}",
        "endpoint": "eth0",
        "interfaceName": f"cali{number}",
        "ipNetworks": [f"10.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}/32"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
    }
    name = f"h{number % 100}-cni-w{number}-eth0"
    document = resource("WorkloadEndpoint", name, spec, namespace="default", labels={"app": f"app{number}"})
    return key_of(document), json.dumps(document).encode()


async def _start(place: Place, etcd: str) -> tuple[subprocess.Popen[bytes], float]:
    settings = {
        "listener": "127.0.0.1",
        "port": _PORT,
        "httpListener": "127.0.0.1",
        "httpport": _HTTP_PORT,
        "resolvers": [],
        "datastore": {"domain": "felix", "etcdEndpoints": etcd, "names": ["{label:app}.{namespace}.felix"]},
    }
    (place.folder / "dns.json").write_text(json.dumps(settings))
    began_at = time.perf_counter()
    command = [sys.executable, "-m", "felix", "dns", "--config", str(place.folder / "dns.json")]
    server = _launch(place, command, "log")
    async with asyncio.timeout(_READY_S), aiohttp.ClientSession() as session:
        while True:
            assert server.poll() is None, (place.folder / "log").read_text()
            try:
                async with session.get(f"http://127.0.0.1:{_HTTP_PORT}/readiness") as response:
                    if response.status == 200:
                        return server, time.perf_counter() - began_at
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


def _launch(place: Place, command: list[str], log: str) -> subprocess.Popen[bytes]:
    with (place.folder / log).open("wb") as out:
        server = place.stack.enter_context(subprocess.Popen(command, stdout=out, stderr=out))
    place.stack.callback(server.terminate)
    return server


def _read_rss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


async def _time_changes(
    client: EtcdClient, endpoints: int, changes: int, say: Callable[[str], None]
) -> Sequence[Figure]:
    """Returns how long an endpoint's new address takes, from before its put to the first answer that has it."""
    latencies = []
    await dns.asyncquery.udp(dns.message.make_query("felix", "SOA"), "127.0.0.1", port=_PORT, timeout=5)  # imports
    for number in range(changes):
        which = number * 7919 % endpoints
        key, value = _document(which, address=1 << 22 | number)
        wanted = f"10.{(1 << 22 | number) >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        query = dns.message.make_query(f"app{which}.default.felix", "A")
        began_at = time.perf_counter()
        put = asyncio.create_task(client.put(key, value))
        while True:
            answer = await dns.asyncquery.udp(query, "127.0.0.1", port=_PORT, timeout=5)
            if any(rdata.to_text() == wanted for rrset in answer.answer for rdata in rrset):
                break
        latencies.append(time.perf_counter() - began_at)
        await put
        await asyncio.sleep(0.01)
    least = summarize(await floor.time_store(client, _document(0)[1], changes), "floor_")
    summary = summarize(latencies)
    say(f"changes timed: {summary}")
    name = f"endpoint in etcd to answer, {endpoints} endpoints"
    middle, slow = summary.pop("p50_ms"), summary.pop("p99_ms")
    text = "floor: put to watch"
    return (
        Figure("dns", f"{name}, p50", "ms", middle, _GOAL_P50_MS, least["floor_p50_ms"], text, {**summary, **least}),
        Figure("dns", f"{name}, p99", "ms", slow, _GOAL_P99_MS),
    )


async def _fetch_zone(folder: Path) -> Path:
    path = folder / "felix.zone"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{_HTTP_PORT}/v1/zonefile?domain=felix") as response,
    ):
        path.write_bytes(await response.read())
    return path


def _time_questions(place: Place, zone: Path, seconds: int, pid: int) -> list[Figure]:
    say = place.say
    if shutil.which("dnsperf") is None:
        say("dnsperf is not installed: no questions per second")
        return []
    lines = [line.split()[:2] for line in zone.read_text().splitlines() if line and line[0] not in "$@"]
    questions = place.folder / "questions"
    questions.write_text("".join(f"{name} {rtype}\n" for name, rtype in lines))
    ours, lost = _run_dnsperf(questions, _PORT, seconds)
    say(f"felix dns: {ours:.0f} questions per second, {lost} lost")
    theirs = _time_nsd(place, zone, questions, seconds)
    detail = {"lost_count": float(lost), "after_MB": _read_rss_mb(pid)}
    if theirs:
        detail["nsd_per_s"] = theirs
    return [Figure("dns", f"questions per second, {len(lines)} different ones", "1/s", ours, detail=detail)]


def _run_dnsperf(questions: Path, port: int, seconds: int) -> tuple[float, int]:
    command = [
        "dnsperf",
        "-s",
        "127.0.0.1",
        "-p",
        str(port),
        "-d",
        str(questions),
        "-l",
        str(seconds),
        "-c",
        "8",
        "-q",
        "50",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60)
    return float(_QPS.findall(done.stdout)[0]), int(_LOST.findall(done.stdout)[0])


def _time_nsd(place: Place, zone: Path, questions: Path, seconds: int) -> float:
    """Returns what nsd, one process, answers per second out of the same zone; 0 without nsd."""
    folder, say = place.folder, place.say
    nsd = shutil.which("nsd") or shutil.which("/usr/sbin/nsd")
    if nsd is None:
        say("nsd is not installed: nothing to compare with")
        return 0.0
    (folder / "nsd.conf").write_text(
        f'server:\n ip-address: 127.0.0.1@{_PEER_PORT}\n username: ""\n zonesdir: "{folder}"\n database: ""\n'
        f' pidfile: ""\n xfrdfile: "{folder}/xfrd"\n zonelistfile: "{folder}/list"\n server-count: 1\n'
        f" rrl-ratelimit: 0\n rrl-whitelist-ratelimit: 0\nremote-control:\n control-enable: no\n"
        f'zone:\n name: felix\n zonefile: "{zone}"\n'
    )
    server = _launch(place, [nsd, "-d", "-c", str(folder / "nsd.conf")], "nsd.log")
    deadline = time.monotonic() + 30
    probe = ["dig", "@127.0.0.1", "-p", str(_PEER_PORT), "+tries=1", "+time=1", "+short", "felix", "SOA"]
    while not subprocess.run(probe, check=False, capture_output=True, text=True).stdout.startswith("ns1"):
        assert server.poll() is None, (folder / "nsd.log").read_text()
        assert time.monotonic() < deadline, (folder / "nsd.log").read_text()
        time.sleep(0.05)
    theirs, lost = _run_dnsperf(questions, _PEER_PORT, seconds)
    say(f"nsd: {theirs:.0f} questions per second, {lost} lost; resident {_read_rss_mb(server.pid):.0f} MB and children")
    return theirs


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
