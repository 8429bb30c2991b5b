"""The purity check finds what pure files may not do, and leaves shell files alone."""

import pytest

from tools.checks.purity import find_impurities, is_shell


@pytest.mark.parametrize(
    "path",
    ["felix/agent.py", "felix/datastore/watch.py", "felix/cli/status.py", "felix/lab/hosts.py", "felix/__main__.py"],
)
def test_shell_by_name_or_folder_is_shell(path: str) -> None:
    assert is_shell(path)


@pytest.mark.parametrize("path", ["felix/calc/graph.py", "felix/dataplane/nft/plan.py", "felix/apply_order.py"])
def test_any_other_name_is_pure(path: str) -> None:
    assert not is_shell(path)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import time", "import time"),
        ("import os.path", "import os.path"),
        ("from asyncio import Queue", "import asyncio"),
        ("def f() -> None:\n    import logging", "import logging"),
        ("from pathlib import Path", "import Path from pathlib"),
        ("open('/etc/hosts')", "call open()"),
        ("print(1)", "call print()"),
        ("async def f() -> None: ...", "wait"),
        ("from datetime import datetime\ndatetime.now()", "gets the time"),
    ],
)
def test_pure_file_that_touches_the_world_is_found(source: str, reason: str) -> None:
    (finding,) = find_impurities("felix/calc/graph.py", source)
    assert reason in finding.reason
    assert finding.line == source.count("\n") + 1


@pytest.mark.parametrize(
    "source",
    [
        "from pathlib import PurePath",
        "import ipaddress",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio",
        "text = 'import os'",
        "clock.time()",
    ],
)
def test_pure_file_that_only_computes_is_good(source: str) -> None:
    assert find_impurities("felix/calc/graph.py", source) == []


def test_shell_file_may_do_anything() -> None:
    assert find_impurities("felix/datastore/etcd.py", "import asyncio, os, time\nopen('x')") == []


def test_star_that_imports_felix_is_found() -> None:
    assert find_impurities("felix/star/probe.py", "import felix.model.net")
    assert find_impurities("felix/star/probe.py", "from felix.star import page") == []


def test_plugin_that_imports_a_package_is_found() -> None:
    assert find_impurities("felix/plugins/cni/main.py", "import msgspec")
    assert find_impurities("felix/plugins/cni/main.py", "from felix.model import net")
    assert find_impurities("felix/plugins/cni/main.py", "import json, socket") == []


def test_file_that_is_no_python_is_found() -> None:
    (finding,) = find_impurities("felix/calc/graph.py", "x = (\n")
    assert "no Python" in finding.reason
