"""Marathon's application groups as the lab reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from felix.errors import DataError
from felix.lab.marathon import Application, load_applications

DEMO = Path(__file__).parents[3] / "demo" / "stars-isolated.json"


def write(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "group.json"
    path.write_text(json.dumps(document))
    return path


def test_demo_group_when_read_gives_four_probes_in_two_groups_and_a_collector_in_all() -> None:
    applications = load_applications(DEMO)
    assert [(app.name, app.groups, app.ports) for app in applications] == [
        ("probe-a", ("star-1",), (9000,)),
        ("probe-b", ("star-1",), (9000,)),
        ("probe-c", ("star-2",), (9000,)),
        ("probe-d", ("star-2",), (9000,)),
        ("collect", ("star-1", "star-2", "public"), (9001,)),
    ]
    assert applications[0].id == "star-iso/probe-a"


def test_nested_groups_and_instances_when_read_get_full_paths(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"id": "/prod", "groups": [{"id": "web", "apps": [{"id": "nginx", "instances": 2, "ipAddress": {}}]}]}
    )
    assert load_applications(path) == [
        Application("prod/web/nginx", (), ()),
        Application("prod/web/nginx.2", (), ()),
    ]


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ({"id": "a", "ipAddress": {}, "ports": [80]}, "a: ports: not together with ipAddress"),
        ({"id": "a", "ipAddress": {"groups": "x"}}, "a: ipAddress.groups: expected a list of names, saw 'x'"),
        ({"id": "a", "ipAddress": {"labels": {"k": 1}}}, "a: ipAddress.labels: expected an object of texts"),
        ({"id": "a", "ipAddress": {"discovery": {"ports": [{"number": 0}]}}}, "expected a number 1 to 65535"),
        ({"id": "a", "ipAddress": {}, "instances": -1}, "a: instances: expected 0 to 1000, saw -1"),
        ({"ipAddress": {}}, "an application without id"),
        (7, "expected an object with `id`, saw int"),
    ],
)
def test_application_when_malformed_is_refused_with_file_and_field(tmp_path: Path, app: object, message: str) -> None:
    path = write(tmp_path, [app])
    with pytest.raises(DataError) as refused:
        load_applications(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


def test_file_when_missing_or_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the application group"):
        load_applications(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        load_applications(tmp_path / "bad.json")
    with pytest.raises(DataError, match="defines no application"):
        load_applications(write(tmp_path, {"id": "/x", "apps": []}))
