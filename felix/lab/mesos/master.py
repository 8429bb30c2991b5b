"""The master of the simulated agents and its Marathon: applications are wanted, tasks run. Shell.

    async with Master(lab, Settings(has_dns=True)) as master:
        master.put("star", json.loads(path.read_bytes()))
        await master.wait_idle()

Deployments are done one after another. Unlike Marathon, nothing that ends by itself is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from felix.errors import DataError, FelixError
from felix.lab.checks import Health, HealthCheck
from felix.lab.lab import Lab
from felix.lab.marathon import Application, Node, find_apps, make_instances
from felix.lab.mesos import marathon_api as api
from felix.lab.mesos.cluster import MARATHON_ID, MesosCluster, Settings, place_of
from felix.lab.mesos.feed import Feed
from felix.lab.mesos.health import HealthChecker, Subject
from felix.lab.mesos.state import Document, render_task
from felix.lab.mesos.types import Container, TaskStatus

log = logging.getLogger(__name__)

APPS_MOST = 1000
INSTANCES_MOST = 2000
FAILURES_MOST = 20


@dataclass(slots=True)
class App:
    """An application that is wanted, as it was given, with its instances. version: since when, seconds since 1970."""

    path: str
    definition: Node
    instances: list[Application]
    version: float

    @property
    def checks(self) -> tuple[HealthCheck, ...]:
        """Its health checks."""
        return self.instances[0].program.checks if self.instances else ()


class Master:
    """What is wanted of the simulated agents of a lab, and all that can be asked of them. `feed` tells what happens.

    failures: why the last deployments failed, by id.
    """

    def __init__(self, lab: Lab, settings: Settings | None = None) -> None:
        self.lab = lab
        self.feed = Feed()
        self.failures: OrderedDict[str, str] = OrderedDict()
        self.cluster = MesosCluster(lab, settings or Settings(), on_update=self._note)
        self._apps: dict[str, App] = {}
        self._path_by_deployment: dict[str, str] = {}
        self._deploying: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._checker = HealthChecker(self._note_health)
        self._started = time.time()

    async def __aenter__(self) -> Master:
        await self.cluster.__aenter__()
        self._apps = self._read_apps()
        for _, container in self.cluster.containers:
            self._watch_health(container)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.feed.close()
        deploying = list(self._deploying.values())
        for one in deploying:
            one.cancel()
        await asyncio.gather(*deploying, return_exceptions=True)
        await self._checker.close()
        await self.cluster.__aexit__()

    # --- What is wanted ---

    def put(self, scope: str, document: object, *, is_app: bool = False) -> str:
        """The group of that path, or the application, is what `document` says, soon; returns the deployment's id.

        Applications that it does not name end, those that changed begin anew, others run on. Raises DataError, and
        nothing changes.
        """
        wanted = self._read(scope.strip("/"), document, is_app=is_app)
        others = sum(1 for path in self._apps if path not in wanted)
        if others + len(wanted) > APPS_MOST:
            raise DataError(f"{others + len(wanted)} applications; the simulator takes {APPS_MOST}")
        return self._start(scope.strip("/"), wanted)

    def remove(self, scope: str) -> str:
        """Nothing of the application or group runs, soon; returns the deployment's id. Raises DataError without one."""
        path = scope.strip("/")
        if not self._find(path):
            raise DataError(f"application or group {'/' + path!r} does not exist")
        return self._start(path, {})

    async def wait_idle(self) -> None:
        """Nothing is being deployed."""
        while self._deploying:
            await asyncio.wait(list(self._deploying.values()))

    # --- What there is ---

    @property
    def deployments(self) -> dict[str, str]:
        """What is being deployed: paths by the ids of deployments."""
        return dict(self._path_by_deployment)

    def state(self) -> Document:
        """Returns what Mesos' master says at `/master/state`."""
        subjects = self._checker.subject_by_task
        known = {task: subject.is_healthy for task, subject in subjects.items()}
        return self.cluster.state({task: well for task, well in known.items() if well is not None})

    def apps(self) -> dict[str, Document]:
        """Returns all applications as Marathon shows them, by path."""
        instances: dict[str, list[api.Instance]] = {}
        for instance in self.instances():
            instances.setdefault(api.app_path(instance.container), []).append(instance)
        waiting = self.cluster.waiting
        deployments = self._path_by_deployment.items()
        return {
            app.path: api.render_app(
                api.AppState(
                    app.path,
                    app.definition,
                    tuple(instances.get(app.path, ())),
                    sum(one.id in waiting for one in app.instances),
                    app.version,
                ),
                [number for number, scope in deployments if scope == app.path or api.is_below(app.path, scope)],
            )
            for app in self._apps.values()
        }

    def tasks(self) -> list[Document]:
        """Returns all tasks of Marathon that run or are about to."""
        return [
            api.render_task(one, app.version if app else self._started)
            for one in self.instances()
            for app in [self._apps.get(api.app_path(one.container))]
        ]

    def instances(self) -> list[api.Instance]:
        """Returns the tasks of Marathon that run or are about to, oldest first on each host."""
        return [
            api.Instance(one, agent.host.ipv4, self._checks_of(one))
            for agent, one in self.cluster.containers
            if one.is_live and one.framework_id == MARATHON_ID
        ]

    def groups(self, path: str = "") -> Document | None:
        """Returns a group with everything below it; None when it does not exist."""
        apps = self.apps()
        if path and not any(api.is_below(name, path) for name in apps):
            return None
        return api.render_group(path, apps, self._started)

    def waiting(self) -> list[str]:
        """Returns the ids of instances for which no agent has room."""
        return self.cluster.waiting

    # --- Deployments ---

    def _read(self, scope: str, document: object, *, is_app: bool) -> dict[str, App]:
        where = f"/{scope}"
        if is_app and isinstance(document, dict):
            document = {"id": where, **document}
        elif isinstance(document, dict):
            if "cmd" in document or "ipAddress" in document:
                raise DataError(f"{where}: is an application, not a group; it goes to /v2/apps")
            document = {"id": where, "apps": [], **document}
        now = time.time()
        apps = find_apps(document, where, scope if isinstance(document, list) else "")
        wanted: dict[str, App] = {}
        count = sum(len(app.instances) for path, app in self._apps.items() if path not in apps)
        for path, definition in apps.items():
            wanted[path] = App(path, definition, list(make_instances(definition, path, where)), now)
            count += len(wanted[path].instances)
            if count > INSTANCES_MOST:
                raise DataError(f"{where}: instances: more than {INSTANCES_MOST} in all; the simulator takes no more")
        for path in wanted:
            if scope and path != scope and not api.is_below(path, scope):
                raise DataError(f"{where}: id: /{path} is not below /{scope}")
        return wanted

    def _start(self, scope: str, wanted: Mapping[str, App]) -> str:
        number = str(uuid.uuid4())
        self._path_by_deployment[number] = scope
        self._deploying[number] = asyncio.create_task(self._deploy(number, scope, dict(wanted)))
        return number

    async def _deploy(self, number: str, scope: str, wanted: dict[str, App]) -> None:
        failure = ""
        try:
            async with self._turn:
                await self._change(self._find(scope), wanted)
        except (FelixError, OSError) as error:
            failure = str(error)
            log.warning("deployment of /%s: %s", scope, error)
            self.failures[number] = failure
            while len(self.failures) > FAILURES_MOST:
                self.failures.popitem(last=False)
        finally:
            self._path_by_deployment.pop(number, None)
            self._deploying.pop(number, None)
        kind = "deployment_failed" if failure else "deployment_success"
        self.feed.publish(marathon={"eventType": kind, "id": number, "timestamp": api.moment(time.time())})

    async def _change(self, old: Mapping[str, App], wanted: dict[str, App]) -> None:
        for path, app in old.items():
            new = wanted.get(path)
            if new is None or _is_changed(app.definition, new.definition):
                await self._end([one.id for one in app.instances])
                self._apps.pop(path, None)
            else:
                kept = {one.id for one in new.instances}
                await self._end([one.id for one in app.instances if one.id not in kept])
                if app.definition == new.definition:
                    new.version = app.version
        self._apps.update(wanted)
        self._write_apps()
        launched = await self.cluster.run([one for app in wanted.values() for one in app.instances])
        failed = [one for one in launched if one.state == "TASK_FAILED"]
        if failed:
            raise DataError(f"{failed[0].task.name}: {failed[0].statuses[-1].message}")

    async def _end(self, instances: list[str]) -> None:
        """None of these instances runs or waits; those that are not there are no error."""
        for one in reversed(instances):
            with contextlib.suppress(DataError):
                await self.cluster.kill(one)

    def _find(self, scope: str) -> dict[str, App]:
        return {path: app for path, app in self._apps.items() if path == scope or api.is_below(path, scope)}

    def _read_apps(self) -> dict[str, App]:
        """Returns the applications that the master before us wanted."""
        try:
            definitions = msgspec.json.decode((self.cluster.directory / "apps.json").read_bytes(), type=dict[str, Node])
        except FileNotFoundError:
            return {}
        now = time.time()
        return {path: App(path, one, list(make_instances(one, path, path)), now) for path, one in definitions.items()}

    def _write_apps(self) -> None:
        draft = self.cluster.directory / "apps.new"
        draft.write_bytes(msgspec.json.encode({path: app.definition for path, app in self._apps.items()}))
        draft.replace(self.cluster.directory / "apps.json")

    # --- What happens ---

    def _note(self, container: Container, status: TaskStatus) -> None:
        task = container.task
        if status.is_terminal:
            self._checker.forget(task.task_id)
        else:
            self._watch_health(container)
        is_first = len(container.statuses) == 1
        rendered = render_task(container)
        self.feed.publish(
            mesos={"type": "TASK_ADDED", "task_added": {"task": rendered}}
            if is_first
            else {"type": "TASK_UPDATED", "task_updated": {"state": status.state, "task": rendered}},
            marathon={
                "eventType": "status_update_event",
                "timestamp": api.moment(status.timestamp),
                "taskId": task.task_id,
                "appId": f"/{api.app_path(container)}",
                "slaveId": status.slave_id,
                "taskStatus": status.state,
                "message": status.message,
                "ipAddresses": api.render_addresses(container),
                "ports": list(task.resources.ports),
            },
        )

    def _watch_health(self, container: Container) -> None:
        app = self._apps.get(api.app_path(container))
        if app is None or container.state != "TASK_RUNNING" or not container.is_live or not app.checks:
            return
        agent = next(one for one, held in self.cluster.containers if held is container)
        with contextlib.suppress(DataError):  # it has ended already; that is told soon
            inside = place_of(self.lab, container)
            self._checker.watch(Subject(container, self.lab.fabric, agent.host, inside), app.checks)

    def _note_health(self, subject: Subject) -> None:
        task = subject.container.task
        self.feed.publish(
            mesos={"type": "TASK_UPDATED", "task_updated": {"state": subject.container.state, "task_id": task.task_id}},
            marathon={
                "eventType": "health_status_changed_event",
                "timestamp": api.moment(time.time()),
                "appId": f"/{api.app_path(subject.container)}",
                "taskId": task.task_id,
                "alive": bool(subject.is_healthy),
            },
        )

    def _checks_of(self, container: Container) -> tuple[Health, ...]:
        subject = self._checker.subject_by_task.get(container.task.task_id)
        return tuple(subject.results) if subject else ()


def _is_changed(one: Node, other: Node) -> bool:
    """Whether running instances are not what is wanted; their number is something else."""
    return {**one, "instances": 1, "id": ""} != {**other, "instances": 1, "id": ""}
