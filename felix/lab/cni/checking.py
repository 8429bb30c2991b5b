"""Cases of CHECK, GC and STATUS. Shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from felix.lab.cni.attaching import is_error
from felix.lab.cni.bench import Bench, Container
from felix.lab.cni.call import Answer
from felix.lab.cni.shape import rank, routes_of
from felix.lab.cni.verdict import Topic, Verdict
from felix.lab.store import Json

_SILENT = "exit 0, nothing on stdout"
_OTHER_MAC = "02:00:00:00:00:99"
ATTACHMENTS = "cni.dev/valid-attachments"
OLD_ATTACHMENTS = "cni.dev/attachments"


def check_check(bench: Bench, version: str) -> Iterator[Verdict]:
    """CHECK: all right after ADD, and an error when something is amiss; before 0.4.0 there was none."""
    topic = Topic("CHECK", version)
    with bench.container() as one:
        result = bench.attach(one, version)
        answer = bench.check(one, version, result)
        if rank(version) < rank("0.4.0"):
            yield _judge_early(bench, topic, answer, "0.4.0")
            return
        yield topic.judge("passes after ADD", _SILENT, answer.describe(), is_right=answer.is_silent_success)
        answer = bench.check(one, version, None)
        case, expected = "answers in due form without prevResult", "an error, or exit 0 with nothing on stdout"
        is_right = answer.is_silent_success or is_error(answer)
        yield topic.judge(case, expected, answer.describe(), is_right=is_right)
        bench.delete(one, version, result)
        answer = bench.check(one, version, result)
        yield topic.judge("fails after DEL", "an error", answer.describe(), is_right=is_error(answer))
    if not bench.is_ipam:
        yield from _check_broken(bench, topic)


def _check_broken(bench: Bench, topic: Topic) -> Iterator[Verdict]:
    spoilers: tuple[tuple[str, Callable[[Container], None]], ...] = (
        ("interface", lambda one: one.configure(f"link del {one.interface}")),
        ("address", lambda one: one.configure(f"addr flush dev {one.interface} scope global")),
        ("MAC address", lambda one: one.configure(f"link set {one.interface} address {_OTHER_MAC}")),
        ("namespace", lambda one: one.vanish()),
    )
    for what, spoil in spoilers:
        with bench.container() as one:
            result = bench.attach(one, topic.version)
            spoil(one)
            answer = bench.check(one, topic.version, result)
            case = f"fails when the {what} is not what it was"
            yield topic.judge(case, "an error", answer.describe(), is_right=is_error(answer))
    with bench.container() as one:
        result = bench.attach(one, topic.version)
        case = "fails when a route is gone"
        if not routes_of(result):
            yield topic.skip(case, "an error", "the result of ADD names no routes")
            return
        one.lose_routes()
        answer = bench.check(one, topic.version, result)
        yield topic.judge(case, "an error", answer.describe(), is_right=is_error(answer))


def check_collect(bench: Bench, version: str) -> Iterator[Verdict]:
    """GC: what the runtime names stays, everything else of the network goes; before 1.1.0 there was none."""
    topic = Topic("GC", version)
    if rank(version) < rank("1.1.0"):
        answer = bench.call("GC", None, version, {ATTACHMENTS: []})
        yield _judge_early(bench, topic, answer, "1.1.0")
        return
    before = bench.survey()
    with bench.containers(3) as (kept, lost, gone):
        results = [bench.attach(one, version) for one in (kept, lost, gone)]
        gone.vanish()
        expected = "an error, or nothing is removed"
        answer = bench.call("GC", None, version)
        ends = [bench.check(one, version, result) for one, result in zip((kept, lost), results, strict=False)]
        case = "removes nothing when it is not told what is valid"
        seen = f"{answer.describe()}; CHECK: {ends[0].describe()}; {ends[1].describe()}"
        is_right = (answer.is_silent_success or is_error(answer)) and all(end.is_success for end in ends)
        yield topic.judge(case, expected, seen, is_right=is_right)

        valid: Json = [{"containerID": kept.id, "ifname": kept.interface}]
        answer = bench.call("GC", None, version, {ATTACHMENTS: valid, OLD_ATTACHMENTS: valid})
        yield topic.judge("succeeds and prints nothing", _SILENT, answer.describe(), is_right=answer.is_silent_success)
        end = bench.check(kept, version, results[0])
        case = "keeps what is valid"
        yield topic.judge(case, "CHECK passes", end.describe(), is_right=end.is_silent_success)
        end = bench.check(lost, version, results[1])
        case = "removes what is not valid"
        yield topic.judge(case, "CHECK fails", end.describe(), is_right=is_error(end))
        answer = bench.delete(lost, version, results[1])
        case = "DEL of what it removed succeeds"
        yield topic.judge(case, _SILENT, answer.describe(), is_right=answer.is_silent_success)

        answer = bench.call("GC", None, version, {ATTACHMENTS: []})
        end = bench.check(kept, version, results[0])
        case, expected = "removes everything when nothing is valid", "exit 0, and CHECK fails"
        seen = f"{answer.describe()}; CHECK: {end.describe()}"
        yield topic.judge(case, expected, seen, is_right=answer.is_silent_success and is_error(end))
        answer = bench.call("GC", None, version, {ATTACHMENTS: []})
        case = "succeeds when there is nothing to do"
        yield topic.judge(case, _SILENT, answer.describe(), is_right=answer.is_silent_success)
        left = bench.wait_survey(before)
        case, expected = "host has the links, addresses and routes of before", "no difference"
        yield topic.judge(case, expected, ", ".join(sorted(left)) or "none", is_right=not left)


def check_status(bench: Bench, version: str) -> Iterator[Verdict]:
    """STATUS: ready to attach; before 1.1.0 there was none."""
    topic = Topic("STATUS", version)
    answer = bench.call("STATUS", None, version)
    if rank(version) < rank("1.1.0"):
        yield _judge_early(bench, topic, answer, "1.1.0")
    else:
        yield topic.judge("says that it is ready", _SILENT, answer.describe(), is_right=answer.is_silent_success)


def _judge_early(bench: Bench, topic: Topic, answer: Answer, since: str) -> Verdict:
    """A verb in a version that has none of that name; a plug-in that knows it in no version may use any code."""
    is_known = any(rank(version) >= rank(since) for version in bench.supported)
    case, expected = f"is refused, for it came with {since}", "code 1" if is_known else "an error"
    return topic.judge(case, expected, answer.describe(), is_right=is_error(answer, 1 if is_known else None))
