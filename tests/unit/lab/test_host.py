"""A virtual host whose agent does not become ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from felix.errors import PeerError
from felix.lab.host import Host
from felix.lab.names import host_addresses
from felix.lab.state import StateDirectory


def test_agent_that_does_not_become_ready_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "is_agent_ready", lambda _: False)
    host = Host("nowhere", host_addresses(1), StateDirectory("x", tmp_path))
    with pytest.raises(PeerError, match=r"agent of h1 to be ready; .* says last:\n  nothing$"):
        host.wait_agent_ready(0.0)
    host.directory.mkdir(parents=True)
    host.agent_log.write_text("".join(f"line {number}\n" for number in range(20)))
    with pytest.raises(PeerError, match=r"says last:\n  line 12\n(.|\n)*  line 19$") as failed:
        host.wait_agent_ready(0.0)
    assert "line 11" not in str(failed.value)
