"""Cases of calls that cannot be served: each is refused with its own code, and changes nothing. Shell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from felix.lab.cni.attaching import is_error
from felix.lab.cni.bench import Bench
from felix.lab.cni.call import Answer
from felix.lab.cni.shape import rank
from felix.lab.cni.verdict import Topic, Verdict
from felix.lab.namespace import NETNS_DIR

_BAD_IDS = ("", "-web", "a/b", "a b", ".x")
_BAD_INTERFACES = ("", ".", "..", "a/b", "a:b", "a b", "sixteen-letters.")
_BAD_NAMES = ("", "a/b", "-net")
_NOBODYS_VERSION = "99.0.0"
_NEEDED_BY_COMMAND = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}


def find_commands(version: str) -> list[str]:
    """Returns the verbs that take a configuration, of that version."""
    known = ["ADD", "DEL"]
    known += ["CHECK"] if rank(version) >= rank("0.4.0") else []
    return known + (["GC", "STATUS"] if rank(version) >= rank("1.1.0") else [])


def check_variables(bench: Bench, version: str) -> Iterator[Verdict]:
    """Variables that are missing or cannot be used: code 4."""
    with bench.container() as one:
        for command in find_commands(version):
            topic = Topic(command, version)
            needed = _NEEDED_BY_COMMAND[command]
            for name in needed:
                answer = bench.call(command, one, version, changes={name: None})
                case = f"without {name} is refused, which is named"
                yield _judge(topic, case, answer, 4, [name])
            if len(needed) > 1:
                answer = bench.call(command, one, version, changes=dict.fromkeys(needed))
                case = "without any variable is refused, and all are named"
                yield _judge(topic, case, answer, 4, needed)
        for command in ("ADD", "DEL"):
            topic = Topic(command, version)
            for text in _BAD_IDS:
                answer = bench.call(command, one, version, changes={"CNI_CONTAINERID": text})
                yield _judge(topic, f"container id {text!r} is refused", answer, 4)
            for text in _BAD_INTERFACES:
                answer = bench.call(command, one, version, changes={"CNI_IFNAME": text})
                yield _judge(topic, f"interface name {text!r} is refused", answer, 4)
        answer = bench.call("FROB", one, version)
        yield _judge(Topic("FROB", version), "is no command", answer, 4)


def check_input(bench: Bench, version: str) -> Iterator[Verdict]:
    """Standard input that cannot be used: codes 6, 7 and 1."""
    nobodys = bench.render_config(_NOBODYS_VERSION)
    cases = [
        ("empty input is refused", "", 6),
        ("input that is no JSON is refused", "{nonsense", 6),
        ("input that is no object is refused", "[]", 6),
        ("a version that is no text is refused", bench.render_config(version, {"cniVersion": 1}), 6),
        (f"version {_NOBODYS_VERSION} is refused", nobodys, 1),
        *(
            (f"network name {text!r} is refused", bench.render_config(version, {"name": text}), 7)
            for text in _BAD_NAMES
        ),
    ]
    with bench.container() as one:
        for command in find_commands(version):
            for case, stdin, code in cases:
                answer = bench.call(command, one, version, stdin=stdin)
                yield _judge(Topic(command, version), case, answer, code)
            answer = bench.call(command, one, version, stdin=bench.render_config(version, without="name"))
            yield _judge(Topic(command, version), "a configuration without name is refused", answer, 7)
            case, said = "an error says its version", (answer.document or {}).get("cniVersion")
            yield Topic(command, version).judge(case, version, said or "none", is_right=said == version)


def check_namespaces(bench: Bench, version: str) -> Iterator[Verdict]:
    """Namespaces that cannot be used: an error, and nothing is left of the try."""
    topic = Topic("ADD", version)
    before = bench.survey()
    for case, path, interface in (
        ("a namespace that does not exist is refused", str(NETNS_DIR / f"{bench.prefix}nowhere"), "eth0"),
        ("a path that is no namespace is refused", "/etc/hostname", "eth0"),
        ("the plug-in's own namespace is refused", str(NETNS_DIR / bench.plugin.namespace), "own0"),
    ):
        with bench.container() as one:
            changes = {"CNI_NETNS": path, "CNI_IFNAME": interface}
            answer = bench.call("ADD", one, version, changes=changes)
            # A runtime calls DEL after an ADD that failed.
            bench.delete(one, version, changes=changes)
            yield topic.judge(case, "an error", answer.describe(), is_right=is_error(answer))
    left = bench.wait_survey(before)
    case, expected = "host is as before after refused ADDs", "no difference"
    yield topic.judge(case, expected, ", ".join(sorted(left)) or "none", is_right=not left)


def check_foreign_version(bench: Bench, version: str) -> Iterator[Verdict]:
    """ADD in a version that the plug-in does not list."""
    with bench.container() as one:
        answer = bench.add(one, version)
        yield _judge(Topic("ADD", version), "is refused, for the plug-in does not list this version", answer, 1)


def _judge(topic: Topic, case: str, answer: Answer, code: int, named: Sequence[str] = ()) -> Verdict:
    said = answer.stdout if answer.document else ""
    is_right = is_error(answer, code) and all(name in said for name in named)
    expected = f"code {code}" + (f" with {', '.join(named)}" if named else "")
    return topic.judge(case, expected, answer.describe(), is_right=is_right)
