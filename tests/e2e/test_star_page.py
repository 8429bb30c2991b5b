"""The page of Star in a real browser: real probes in namespaces, real packets dropped, and what a reader sees."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.browser import Browser, running_browser
from tests.support.netns import Namespace
from tests.support.star import Program, World, running_collector, running_probes, running_star, running_world

pytestmark = [pytest.mark.fv, pytest.mark.alone]

_HOSTS = "ABCD"
_VISIBLE_S = 2.0
_EDGES = "document.querySelectorAll('.edge.%s').length"
_EDGE_IS = "document.querySelector(`.edge[data-from='${args[0]}'][data-to='${args[1]}']`)?.dataset.state === args[2]"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_world(_HOSTS) as world:
        yield world


@pytest.fixture(scope="module")
def probes(world: World) -> Iterator[dict[str, Program]]:
    with running_probes(world) as probes:
        yield probes


@pytest.fixture(scope="module")
def shared_browser(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(world.hub, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(shared_browser: Browser, world: World) -> Browser:
    """The browser as a reader at a desk has it, in light colours; nothing is blocked."""
    shared_browser.open("about:blank")
    world.unblock_all()
    shared_browser.resize(1280, 900)
    shared_browser.prefer("light")
    return shared_browser


@pytest.fixture
def collector(world: World, probes: Mapping[str, Program], tmp_path: Path) -> Iterator[Program]:
    """A collector that asks all four probes."""
    assert set(probes) == set(_HOSTS)
    with running_collector(world.hub, [{"id": name, "url": world.url(name)} for name in _HOSTS], tmp_path) as program:
        yield program


def _ask(world: World, method: str, url: str, body: object = None) -> Any:
    """Returns the answer in JSON, asked from inside; None for an empty one."""

    def ask() -> bytes:
        request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
            return content

    answer = world.hub.run(ask)
    return json.loads(answer) if answer else None


def _open_full(browser: Browser, collector: Program) -> None:
    """The page shows that everybody reaches everybody."""
    browser.open(collector.url)
    browser.wait(f"{_EDGES % 'reachable'} === 12")


def _open_full_but_one(browser: Browser, collector: Program) -> None:
    browser.open(collector.url)
    browser.wait(f"{_EDGES % 'reachable'} === 11 && {_EDGES % 'blocked'} === 1")


def _cell(browser: Browser, source: str, target: str) -> str:
    script = "return document.querySelector(`td[data-from='${arguments[0]}'][data-to='${arguments[1]}']`).innerText"
    return " ".join(str(browser.run(script, source, target)).split())


def test_page_with_four_probes_shows_nodes_edges_and_the_same_in_words(
    world: World, browser: Browser, collector: Program
) -> None:
    _open_full(browser, collector)

    assert browser.run("return [...document.querySelectorAll('.node')].map((node) => node.textContent)") == [
        f"{name} {world.url(name)}{name}" for name in _HOSTS
    ]
    pairs = {(source, target) for source in _HOSTS for target in _HOSTS if source != target}
    assert {_cell(browser, *pair) for pair in pairs} == {"✓ yes"}
    headers = browser.run("return [...document.querySelectorAll('th[scope]')].map((th) => th.scope + th.textContent)")
    assert headers == ["colfrom \\ to", *(f"col{name}" for name in _HOSTS), *(f"row{name}" for name in _HOSTS)]
    matrix = _ask(world, "GET", f"{collector.url}matrix")
    assert {(edge["from"], edge["to"]) for edge in matrix["edges"] if edge["state"] == "reachable"} == pairs
    assert browser.read_console() == []


def test_policy_changed_is_seen_within_two_seconds_without_reload(
    world: World, browser: Browser, collector: Program
) -> None:
    _open_full(browser, collector)
    browser.run("window.isSamePage = true")
    took_s = []
    for _ in range(3):  # the best counts: the machine may be busy with something else
        world.block("A", "D")
        took_s.append(browser.wait(_EDGE_IS, "A", "D", "blocked"))
        assert browser.run(f"return {_EDGES % 'blocked'}") == 1, "D still reaches A"
        assert _cell(browser, "A", "D") == "✕ no"
        assert browser.run("return document.getElementById('said').textContent") == "A to D: blocked."
        world.unblock_all()
        took_s.append(browser.wait(_EDGE_IS, "A", "D", "reachable"))
        if max(took_s[-2:]) < _VISIBLE_S:
            break
    print(f"blocked and unblocked seen after {', '.join(f'{one:.2f} s' for one in took_s)}")
    assert max(took_s[-2:]) < _VISIBLE_S
    assert browser.run("return document.getElementById('changes').innerText").count("A to D") == len(took_s)
    assert browser.run("return window.isSamePage") is True
    assert browser.read_console() == []


def test_page_marks_what_is_not_as_expected(world: World, browser: Browser, collector: Program) -> None:
    _open_full(browser, collector)
    for name in _HOSTS:
        expected = {other: (name in "AB") == (other in "AB") for other in _HOSTS if other != name}
        resource = {"id": name, "url": world.url(name), "group": "isolated", "expected": expected}
        _ask(world, "POST", f"{collector.url}resources", resource)
    browser.wait("document.querySelectorAll('.edge[data-verdict=wrong] .badge').length === 8")
    assert _cell(browser, "A", "C") == "✓ yes expected no"

    for source in _HOSTS:
        for target in _HOSTS:
            if (source in "AB") != (target in "AB"):
                world.block(source, target)

    browser.wait("document.querySelector('.chip').textContent === '✓ 12 of 12 as expected'")
    assert _ask(world, "GET", f"{collector.url}matrix")["summary"]["verdict"] == "right"
    assert browser.run(f"return [{_EDGES % 'reachable'}, {_EDGES % 'blocked'}]") == [4, 8]
    assert browser.read_console() == []


def test_edges_between_groups_are_drawn_and_have_a_table_of_their_own(
    world: World, browser: Browser, collector: Program
) -> None:
    world.block("C", "A")
    _open_full_but_one(browser, collector)
    for name in _HOSTS:
        group = "front" if name in "AB" else "back"
        _ask(world, "POST", f"{collector.url}resources", {"id": name, "url": world.url(name), "group": group})

    titles = "[...document.querySelectorAll('.tables h2')].map((title) => title.textContent).join()"
    browser.wait(f"{titles} === 'front,back,Between groups'")
    browser.wait(f"{_EDGES % 'reachable'} === 11 && {_EDGES % 'blocked'} === 1")
    assert [_cell(browser, *pair) for pair in ("AC", "CA", "AB", "DC")] == ["✓ yes", "✕ no", "✓ yes", "✓ yes"]
    browser.keep_picture("star-between", 1280, 900)
    assert browser.read_console() == []


def test_resources_that_come_go_and_fall_silent_are_followed(
    world: World, browser: Browser, collector: Program
) -> None:
    _open_full(browser, collector)
    words = ["probe", f"--urls={world.url('A')}", "--http-port=9005", "--http-probe-seconds=0.25"]
    with running_star(world.hub, *words) as extra:
        resource = {"id": "E", "url": "http://127.0.0.1:9005/status"}
        _ask(world, "POST", f"{collector.url}resources", resource)
        browser.wait(_EDGE_IS, "E", "A", "reachable")
        assert extra.stop() == 0

    browser.wait("document.querySelectorAll('.node').length === 4")
    assert browser.run("return document.getElementById('detail').textContent") == "No answer from E."
    _ask(world, "DELETE", f"{collector.url}resources/E")
    browser.wait("document.querySelectorAll('th[data-id=E]').length === 0")
    assert browser.read_console() == []


def test_page_by_keyboard_alone_is_usable(world: World, browser: Browser, collector: Program) -> None:
    world.block("B", "C")
    browser.open(collector.url)
    browser.wait(_EDGE_IS, "B", "C", "blocked")
    browser.run("document.activeElement.blur()")
    focused = (
        "return (({id, className, name, dataset}) => dataset.id || id || name || className.baseVal || className)"
        "(document.activeElement)"
    )
    stops = []
    for _ in range(6):
        browser.press(Keys.TAB)
        stops.append(browser.run(focused))
    assert stops == ["skip", "theme", "toggle-unreachable", "toggle-markers", "A", "scroll"]

    browser.run("document.querySelector('.node').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.run(focused) == "B"
    assert browser.run("return document.activeElement.getAttribute('aria-label')") == "B reaches A, D; cannot reach C"
    assert browser.run("return document.getElementById('detail').textContent") == "B reaches A, D; cannot reach C."
    assert browser.run("return document.querySelectorAll('.edge.lit').length") == 6
    browser.press(Keys.END, Keys.ENTER)
    browser.run("document.activeElement.blur()")
    assert browser.run("return document.querySelectorAll('.looking .edge.lit').length") == 6, "D is pinned"

    browser.run("document.getElementById('toggle-unreachable').focus()")
    browser.press(Keys.SPACE)
    assert browser.run("return document.getElementById('toggle-unreachable').ariaPressed") == "false"
    hidden = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert browser.run(hidden, ".edge.blocked") == "none"
    browser.press(Keys.TAB, Keys.ENTER)
    assert browser.run(hidden, ".ball") == "none"


def test_colours_follow_the_system_until_the_reader_chooses(browser: Browser, collector: Program) -> None:
    _open_full(browser, collector)
    ground = "return getComputedStyle(document.querySelector('.card')).backgroundColor"
    light = browser.run(ground)
    browser.prefer("dark")
    dark = browser.run(ground)
    assert light != dark

    browser.run("document.querySelector('input[value=light]').click()")
    assert browser.run(ground) == light
    browser.open(collector.url)
    assert browser.run(ground) == light, "the choice is kept"
    browser.run("document.querySelector('input[value=auto]').click()")
    assert browser.run(ground) == dark


def test_motion_is_left_out_for_who_wants_none(browser: Browser, collector: Program) -> None:
    browser.prefer("light", motion="reduce")
    _open_full(browser, collector)

    assert browser.run("return getComputedStyle(document.querySelector('.ball')).display") == "none"


def test_page_loads_nothing_from_elsewhere(browser: Browser, collector: Program) -> None:
    _open_full(browser, collector)

    loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {f"{collector.url}assets/star.css", f"{collector.url}assets/star.js"} <= set(loaded)
    assert [url for url in loaded if not url.startswith(collector.url)] == []


def test_page_finds_a_collector_that_was_restarted(world: World, browser: Browser, tmp_path: Path) -> None:
    words = ["collect", "--http-port=9001", "--http-request-seconds=0.25"]
    with running_star(world.hub, *words) as first:
        browser.open(first.url)
        browser.wait("document.getElementById('live').dataset.state === 'live'")
        browser.wait("document.getElementById('empty').innerText.startsWith('No resources yet')")
        assert first.stop() == 0, "a listener does not hold up its end"
    browser.wait("document.getElementById('live').dataset.state === 'lost'")
    with running_star(world.hub, *words):
        browser.wait("document.getElementById('live').dataset.state === 'live'")


def test_page_with_the_example_shows_that_of_the_original(browser: Browser, collector: Program) -> None:
    browser.open(f"{collector.url}?example=true")

    browser.wait(f"{_EDGES % 'reachable'} === 5 && {_EDGES % 'blocked'} === 6")
    assert browser.run("return document.querySelectorAll('.node').length") == 4, "E does not answer"


def test_names_that_are_markup_or_long_are_shown_as_text_and_run_nothing(
    world: World, browser: Browser, tmp_path: Path
) -> None:
    markup = "<img src=x onerror='window.isTaken=1'>\"><script>window.isTaken=1</script>"
    group = "<b>a group with a name that is far longer than its box is wide</b>"
    names = ["__proto__", "constructor", markup]
    resources: list[dict[str, object]] = [
        {"id": f"{name}/../{number}", "label": name, "group": group} for number, name in enumerate(names)
    ]
    resources[0]["expected"] = {str(one["id"]): True for one in resources[1:]}
    status_by_path: dict[str, object] = {}
    server = _serve_statuses(world.hub, status_by_path)
    try:
        for number, one in enumerate(resources):
            one["url"] = f"http://127.0.0.1:{server.server_address[1]}/{number}?a=<i>&b='%22"
        for number in range(3):
            status_by_path[f"/{number}?a=%3Ci%3E&b='%22"] = [
                {"url": one["url"], "reachable": False, "outcome": markup} for one in resources
            ]
        with running_collector(world.hub, resources, tmp_path) as collector:
            browser.open(collector.url)
            browser.wait("document.querySelectorAll('.node').length === 3")
            browser.wait("document.querySelectorAll('.chip').length === 1")
            assert (
                browser.run("return [...document.querySelectorAll('th[scope=row]')].map((th) => th.textContent)")
                == names
            )
            assert browser.run("return document.querySelectorAll('img, b, i, .tables script').length") == 0
            room = (
                "const [name, verdict] = ['.name', '.verdict']"
                ".map((one) => document.querySelector(`.hull ${one}`).getBBox());"
                "return verdict.x - name.x - name.width"
            )
            assert browser.run(room) > 0, "a long title ends before the mark begins"
            assert browser.run("return window.isTaken === undefined") is True
            assert browser.read_console() == []
    finally:
        server.shutdown()
        server.server_close()


# --- Pictures ---


def _serve_statuses(hub: Namespace, status_by_path: Mapping[str, object]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": {"targets": status_by_path[self.path]}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # who asked gave up meanwhile
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

    server = hub.run(lambda: Server(("127.0.0.1", 0), Handler))
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_page_with_sixty_nodes_is_drawn(world: World, browser: Browser, tmp_path: Path) -> None:
    names = [f"p{number:02}" for number in range(60)]
    status_by_path: dict[str, object] = {}
    server = _serve_statuses(world.hub, status_by_path)
    try:
        base = f"http://127.0.0.1:{server.server_address[1]}/"
        for number, name in enumerate(names):
            status_by_path[f"/{name}"] = [
                {"url": base + other, "reachable": (number - position) % 4 == 0, "outcome": "timeout"}
                for position, other in enumerate(names)
                if other != name
            ]
        resources = [{"id": name, "url": base + name} for name in names]
        with running_collector(world.hub, resources, tmp_path, interval_s=2) as collector:
            browser.open(collector.url)
            browser.wait(f"{_EDGES % 'reachable'} === 840 && {_EDGES % 'blocked'} === 2700")
            assert browser.run("return document.querySelectorAll('.node').length") == 60
            assert browser.read_console() == []
            browser.keep_picture("star-sixty", 1280, 900)
            browser.run("document.querySelector('.node').focus()")
            assert browser.run("return document.querySelectorAll('.edge.lit').length") == 118
    finally:
        server.shutdown()
        server.server_close()


def test_page_of_several_stages_is_kept_as_pictures_and_fits_a_phone(
    world: World, browser: Browser, tmp_path: Path
) -> None:
    status_by_path: dict[str, object] = {}
    server = _serve_statuses(world.hub, status_by_path)
    try:
        base = f"http://127.0.0.1:{server.server_address[1]}"
        resources = []
        for stage in ("open", "isolated"):
            for name in _HOSTS:
                expected = {
                    other: stage == "open" or (name in "AB") == (other in "AB") for other in _HOSTS if other != name
                }
                names = {"id": f"{stage}/{name}", "label": name, "group": stage, "url": f"{base}/{stage}/{name}"}
                resources.append(names | {"expected": {f"{stage}/{other}": expected[other] for other in expected}})
                status_by_path[f"/{stage}/{name}"] = [
                    {"url": f"{base}/{stage}/{other}", "reachable": expected[other]} for other in expected
                ]
        with running_collector(world.hub, resources, tmp_path) as stages:
            browser.open(stages.url)
            browser.wait(f"{_EDGES % 'reachable'} === 16 && {_EDGES % 'blocked'} === 8")
            hulls = "[...document.querySelectorAll('.hull')].map(({dataset}) => dataset.group + dataset.verdict)"
            assert browser.run(f"return {hulls}") == ["openright", "isolatedright"]
            for scheme in ("light", "dark"):
                browser.prefer(scheme)
                browser.keep_picture(f"star-stages-{scheme}", 1440, 900)
            browser.keep_picture("star-stages-phone", 390, 844)
            assert browser.run("return document.documentElement.scrollWidth") == 390
            assert browser.read_console() == []
    finally:
        server.shutdown()
        server.server_close()
