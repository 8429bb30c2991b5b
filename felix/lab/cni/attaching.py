"""Cases of VERSION, ADD and DEL: what a container has afterwards, and what is left of it. Shell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from felix.lab.cni.bench import Bench, Container, Inside
from felix.lab.cni.call import Answer
from felix.lab.cni.shape import (
    Object,
    addresses_of,
    find_error_faults,
    find_result_faults,
    is_old,
    rank,
    routes_of,
)
from felix.lab.cni.verdict import Topic, Verdict
from felix.lab.store import Json

_AT_ONCE = 8
_SILENT = "exit 0, nothing on stdout"


def check_version(bench: Bench, _: str) -> Iterator[Verdict]:
    """VERSION: which versions there are, whatever else the runtime gives or leaves out."""
    topic = Topic("VERSION", "")
    for case, stdin, changes in (
        ("lists versions without any input", "", {"CNI_PATH": None}),
        ("lists versions when asked in 1.1.0", '{"cniVersion": "1.1.0"}', {}),
        ("lists versions beside dummy variables, as podman gives them", "", _DUMMIES),
    ):
        answer = bench.call("VERSION", None, "", changes=changes, stdin=stdin)
        listed = (answer.document or {}).get("supportedVersions")
        said = (answer.document or {}).get("cniVersion")
        is_right = answer.is_success and isinstance(listed, list) and bool(listed) and said in listed
        expected = "exit 0, cniVersion and in supportedVersions the versions"
        yield topic.judge(case, expected, answer.describe(), is_right=is_right)


_DUMMIES: Mapping[str, str | None] = {
    "CNI_CONTAINERID": "dummy",
    "CNI_NETNS": "dummy",
    "CNI_IFNAME": "dummy",
    "CNI_PATH": "dummy",
}


def check_add(bench: Bench, version: str) -> Iterator[Verdict]:
    """ADD: the result says what is there, and a second one is refused."""
    topic = Topic("ADD", version)
    with bench.container() as one:
        answer = bench.add(one, version)
        result = answer.document if answer.is_success else None
        case, expected = "succeeds and prints one JSON document", "exit 0, a JSON object"
        yield topic.judge(case, expected, answer.describe(), is_right=result is not None)
        if result is None:
            return
        sandbox = "" if bench.is_ipam else one.netns
        faults = find_result_faults(version, result, sandbox, one.interface)
        case, expected = "result has the shape of its version", "no fault"
        yield topic.judge(case, expected, _join(faults), is_right=not faults)
        if not bench.is_ipam:
            yield from _compare(topic, one, result)
            yield from _add_again(bench, topic, one)


def _compare(topic: Topic, one: Container, result: Object) -> Iterator[Verdict]:
    inside = one.look()
    case, expected = "interface is in the container, and up", f"{one.interface}, up"
    yield topic.judge(case, expected, inside or "no such interface", is_right=inside is not None and inside.is_up)
    if inside is None:
        return
    told, there = addresses_of(result), list(inside.addresses)
    # The old shape has room for one address of each family.
    is_right = bool(told) and set(told) <= set(there) and (is_old(topic.version) or set(there) <= set(told))
    case = "addresses of the result are those of the interface"
    yield topic.judge(case, _join(told), _join(there), is_right=is_right)
    missing = set(routes_of(result)) - set(inside.routes)
    case, expected = "routes of the result are in the container", _join(routes_of(result))
    yield topic.judge(case, expected, _join(inside.routes), is_right=not missing)
    if not is_old(topic.version):
        yield from _compare_interfaces(topic, one, result, inside)


def _compare_interfaces(topic: Topic, one: Container, result: Object, inside: Inside) -> Iterator[Verdict]:
    entries = result.get("interfaces")
    own = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    mac = next((str(entry.get("mac")) for entry in own if entry.get("sandbox") == one.netns), "")
    case = "MAC address of the result is that of the interface"
    yield topic.judge(case, inside.mac, mac or "none", is_right=mac.lower() == inside.mac)


def _add_again(bench: Bench, topic: Topic, one: Container) -> Iterator[Verdict]:
    expected = "an error, and the interface stays as it was"
    before = one.look()
    again = bench.add(one, topic.version)
    case = "a second ADD for the same interface is refused"
    seen = f"{again.describe()}; before {before}, afterwards {one.look()}"
    yield topic.judge(case, expected, seen, is_right=is_error(again) and one.look() == before)
    with bench.container() as other:
        # Its own namespace stays empty: it is asked for in that of the first.
        answer = bench.call("ADD", other, topic.version, changes={"CNI_NETNS": one.netns})
        case = "an ADD of another container for an interface that exists is refused"
        seen = f"{answer.describe()}; before {before}, afterwards {one.look()}"
        yield topic.judge(case, expected, seen, is_right=is_error(answer) and one.look() == before)


def check_delete(bench: Bench, version: str) -> Iterator[Verdict]:
    """DEL: nothing is left, however often and with however little it is asked for."""
    topic = Topic("DEL", version)
    before = bench.survey()
    with bench.container() as one:
        result = bench.attach(one, version)
        answer = bench.delete(one, version, result if rank(version) >= rank("0.4.0") else None)
        yield topic.judge("succeeds and prints nothing", _SILENT, answer.describe(), is_right=answer.is_silent_success)
        if not bench.is_ipam:
            inside = one.look()
            case, expected = "container has no interface afterwards", "none"
            yield topic.judge(case, expected, inside or "none", is_right=inside is None)
        again = bench.delete(one, version, result if rank(version) >= rank("0.4.0") else None)
        case = "a second DEL succeeds"
        yield topic.judge(case, _SILENT, again.describe(), is_right=again.is_silent_success)
    with bench.container() as stranger:
        answer = bench.delete(stranger, version)
        case = "DEL of a container that never was attached succeeds"
        yield topic.judge(case, _SILENT, answer.describe(), is_right=answer.is_silent_success)
    yield from _delete_with_little(bench, topic)
    left = bench.wait_survey(before)
    case, expected = "host has the links, addresses and routes of before", "no difference"
    yield topic.judge(case, expected, _join(sorted(left)), is_right=not left)


def _delete_with_little(bench: Bench, topic: Topic) -> Iterator[Verdict]:
    with bench.container() as one:
        result = bench.attach(one, topic.version)
        one.vanish()
        answer = bench.delete(one, topic.version, result if rank(topic.version) >= rank("0.4.0") else None)
        case = "DEL succeeds when the namespace is gone"
        yield topic.judge(case, _SILENT, answer.describe(), is_right=answer.is_silent_success)
    with bench.container() as one:
        bench.attach(one, topic.version)
        answer = bench.delete(one, topic.version, changes={"CNI_NETNS": None})
        case = "DEL succeeds without CNI_NETNS"
        yield topic.judge(case, _SILENT, answer.describe(), is_right=answer.is_silent_success)
    with bench.container() as one:
        bench.attach(one, topic.version)
        answer = bench.delete(one, topic.version, changes={"CNI_NETNS": ""})
        case = "DEL succeeds with an empty CNI_NETNS"
        yield topic.judge(case, _SILENT, answer.describe(), is_right=answer.is_silent_success)
    if rank(topic.version) >= rank("0.4.0"):
        with bench.container() as one:
            bench.attach(one, topic.version)
            answer = bench.delete(one, topic.version)
            inside = None if bench.is_ipam else one.look()
            case = "DEL without prevResult removes the interface"
            is_right = answer.is_silent_success and inside is None
            yield topic.judge(case, _SILENT, f"{answer.describe()}; inside: {inside}", is_right=is_right)


def check_at_once(bench: Bench, version: str) -> Iterator[Verdict]:
    """Several containers at the same time."""
    before = bench.survey()
    with bench.containers(_AT_ONCE) as some, ThreadPoolExecutor(_AT_ONCE) as threads:
        added = list(threads.map(lambda one: bench.add(one, version), some))
        results = [answer.document or {} for answer in added]
        topic = Topic("ADD", version)
        case, expected = f"{_AT_ONCE} containers at once are attached", f"{_AT_ONCE} times exit 0"
        yield topic.judge(case, expected, _join_ends(added), is_right=all(answer.is_success for answer in added))
        told = [address for result in results for address in addresses_of(result)]
        case, expected = "containers that are attached at once have addresses of their own", "no address twice"
        yield topic.judge(case, expected, _join(told), is_right=len(told) >= _AT_ONCE and len(set(told)) == len(told))
        removed = list(threads.map(lambda one: bench.delete(one, version), some))
        topic = Topic("DEL", version)
        case, expected = f"{_AT_ONCE} containers at once are detached", f"{_AT_ONCE} times {_SILENT}"
        is_right = all(answer.is_silent_success for answer in removed)
        yield topic.judge(case, expected, _join_ends(removed), is_right=is_right)
    left = bench.wait_survey(before)
    case, expected = "host is as before after all of them", "no difference"
    yield topic.judge(case, expected, _join(sorted(left)), is_right=not left)


def check_inputs(bench: Bench, version: str) -> Iterator[Verdict]:
    """ADD with what real runtimes give in addition."""
    topic = Topic("ADD", version)
    mesos: dict[str, Json] = {"network_info": {"name": str(bench.config["name"]), "labels": {"labels": []}}}
    extras: Sequence[tuple[str, Mapping[str, Json], Mapping[str, str | None]]] = (
        ("takes arguments as podman gives them", {}, {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web"}),
        ("takes unknown fields and capabilities", {"capabilities": {"x": True}, "runtimeConfig": {}, "x": {}}, {}),
        ("takes arguments as Mesos gives them", {"args": {"org.apache.mesos": mesos}}, {}),
    )
    for case, extra, changes in extras:
        with bench.container() as one:
            answer = bench.call("ADD", one, version, extra, changes=changes)
            is_right = answer.is_success and answer.document is not None
            yield topic.judge(case, "exit 0, a JSON object", answer.describe(), is_right=is_right)


def is_error(answer: Answer, code: int | None = None) -> bool:
    """Whether the call failed with an error document of the right form, and with that code when one is given."""
    return not answer.is_success and not find_error_faults(answer.document) and (code is None or answer.code == code)


def _join(texts: Sequence[str] | object) -> str:
    return ", ".join(sorted(map(str, texts))) or "none" if isinstance(texts, list | tuple | set) else str(texts)


def _join_ends(answers: Sequence[Answer]) -> str:
    return "; ".join(sorted({answer.describe() if not answer.is_success else "exit 0" for answer in answers}))
