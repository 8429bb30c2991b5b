"""A net-modules plug-in for tests: it notes its calls, fails to order, and else does the work itself or has it done.

    python mesos_plugin.py DIRECTORY [COMMAND]

In the directory, calls.jsonl: every request, as text; faults.json: {"verb", "act", "when", "times"}; overlap: there
when two ever ran at once.
With a COMMAND the request goes there; without, addresses are of 10.9.0.0/24 (a file says whose), and isolate wires a
veth from where it runs into the process's namespace.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MAC = "ee:ee:ee:ee:ee:ee"


def main() -> int:
    """Serves one request; returns the exit status."""
    directory = Path(sys.argv[1])
    alone = (directory / "alone").open("w")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (directory / "overlap").touch()
    data = sys.stdin.buffer.read()
    request = json.loads(data)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (directory / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(data.decode()) + "\n")
        act, when = take_fault(directory, request["command"])
    if when == "before":
        fail(act)
    answer, status = delegate(data) if len(sys.argv) > 2 else serve(directory, request)
    if when == "after":
        fail(act)
    sys.stdout.write(answer)
    return 3 if act == "exit" else status


def take_fault(directory: Path, verb: str) -> tuple[str, str]:
    """Returns how this call fails and when; empty texts when it does not."""
    path = directory / "faults.json"
    fault = json.loads(path.read_text()) if path.exists() else {}
    if fault.get("verb") != verb or fault["times"] <= 0:
        return "", ""
    fault["times"] -= 1
    path.write_text(json.dumps(fault))
    return fault["act"], fault["when"]


def fail(act: str) -> None:
    """Fails so; returns for `exit`, which is a failure at the end."""
    match act:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            subprocess.run(["sleep", "60"], check=False)  # a child that holds standard output, too
        case "garbage":
            answer("%%% no JSON %%%", 0)
        case "empty":
            answer("", 0)
        case "error":
            answer('{"error": "told to fail"}', 1)
        case "flood":
            answer("x" * (2 << 20), 0)


def answer(text: str, status: int) -> None:
    """Ends with that answer."""
    sys.stdout.write(text)
    sys.stdout.flush()
    os._exit(status)


def delegate(data: bytes) -> tuple[str, int]:
    """Returns what the real plug-in answers."""
    done = subprocess.run(sys.argv[2:], input=data, stdout=subprocess.PIPE, check=False)
    return done.stdout.decode(), done.returncode


def serve(directory: Path, request: dict[str, object]) -> tuple[str, int]:
    """Returns the answer of a plug-in of our own, after its work."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = directory / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {"addresses": {}, "links": {}}
        try:
            result = work(state, str(request["command"]), request["args"])
        except (ValueError, subprocess.CalledProcessError) as failure:
            return json.dumps({"error": str(failure)}), 1
        finally:
            path.write_text(json.dumps(state))
    return json.dumps({**result, "error": None}), 0


def work(state: dict[str, dict[str, str]], verb: str, args: object) -> dict[str, list[str]]:
    """Returns what the answer has beside the error; changes the state."""
    assert isinstance(args, dict)
    owners, links = state["addresses"], state["links"]
    match verb:
        case "reserve":
            for address in args["ipv4_addrs"]:
                if address in owners:
                    raise ValueError(f"IP '{address}' already in use.")
            owners.update(dict.fromkeys(args["ipv4_addrs"], str(args["uid"])))
        case "allocate":
            free = (f"10.9.0.{number}" for number in range(1, 255) if f"10.9.0.{number}" not in owners)
            given = [next(free) for _ in range(args["num_ipv4"])]
            owners.update(dict.fromkeys(given, str(args["uid"])))
            return {"ipv4": given, "ipv6": []}
        case "release":
            for address in [one for one, owner in owners.items() if owner == args["uid"]]:
                del owners[address]
        case "isolate":
            links[args["container_id"]] = f"fk{args['container_id'][:8]}"
            wire(links[args["container_id"]], args["pid"], args["ipv4_addrs"])
        case "cleanup":
            link = links.pop(args["container_id"], "")
            if link:
                subprocess.run(["ip", "link", "del", link], stderr=subprocess.DEVNULL, check=False)
    return {}


def wire(link: str, pid: int, addresses: list[str]) -> None:
    """The namespace of the process has eth0 with the addresses, and both sides know the way."""
    here = [f"link add {link} address {MAC} up type veth peer name eth0 netns {pid}"]
    here += [f"route add {address}/32 dev {link}" for address in addresses]
    there = ["link set lo up", "link set eth0 up", *(f"addr add {address}/32 dev eth0" for address in addresses)]
    there += ["route add 169.254.1.1 dev eth0 scope link", "route add default via 169.254.1.1 dev eth0"]
    there += [f"neigh replace 169.254.1.1 lladdr {MAC} dev eth0 nud permanent"]
    for prefix, commands in (([], here), (["nsenter", f"--net=/proc/{pid}/ns/net"], there)):
        subprocess.run([*prefix, "ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
