"""Certificates and passwords against a real etcd: right, wrong, expired, replaced while running."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.faults import AuthenticationFailed, EtcdRefused, EtcdUnavailable, PermissionDenied
from felix.errors import DataError
from tests.support.certs import Authority, Pair
from tests.support.etcd import EtcdServer, running_etcd
from tests.support.store import following, until


@asynccontextmanager
async def connected(settings: EtcdSettings) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(settings)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[EtcdServer]:
    pair = authority.issue("server")
    options = (
        f"--cert-file={pair.cert}",
        f"--key-file={pair.key}",
        f"--trusted-ca-file={authority.ca}",
        "--client-cert-auth",
    )
    with running_etcd(*options, scheme="https") as server:
        yield server


def tls_settings(server: EtcdServer, ca: str, pair: Pair | None) -> EtcdSettings:
    cert, key = (pair.cert, pair.key) if pair else ("", "")
    return EtcdSettings((server.endpoint,), ca_file=ca, cert_file=cert, key_file=key, timeout_s=3.0)


async def test_mutual_tls_with_the_right_certificates_works(tls_server: EtcdServer, authority: Authority) -> None:
    async with connected(tls_settings(tls_server, authority.ca, authority.issue("felix"))) as client:
        await client.put("/a", b"1")
        assert await client.get("/a") is not None


async def test_mutual_tls_without_a_certificate_is_unavailable(tls_server: EtcdServer, authority: Authority) -> None:
    async with connected(tls_settings(tls_server, authority.ca, None)) as client:
        with pytest.raises(EtcdUnavailable):
            await client.get("/a")


async def test_tls_of_an_unknown_authority_is_unavailable(
    tls_server: EtcdServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with connected(tls_settings(tls_server, stranger.ca, authority.issue("felix"))) as client:
        with pytest.raises(EtcdUnavailable, match=r"(?i)ssl|certificate|handshake"):
            await client.get("/a")


async def test_tls_file_that_is_missing_is_named(tls_server: EtcdServer) -> None:
    with pytest.raises(DataError, match=r"/nowhere/ca\.pem"):
        EtcdClient(tls_settings(tls_server, "/nowhere/ca.pem", None))


async def test_tls_files_put_right_while_running_are_used_without_restart(
    tls_server: EtcdServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("felix")
    used = Pair(str(tmp_path / "used.pem"), str(tmp_path / "used.key"))
    for right_or_wrong, target in zip((stranger.cert, stranger.key), (used.cert, used.key), strict=True):
        shutil.copy(right_or_wrong, target)
    async with connected(tls_settings(tls_server, authority.ca, used)) as client:
        with pytest.raises(EtcdUnavailable):
            await client.get("/a")
        good = authority.issue("felix")
        shutil.copy(good.cert, used.cert)
        shutil.copy(good.key, used.key)
        await client.get("/a")


async def test_tls_watch_outlives_new_certificates_and_a_server_that_takes_only_those(
    tls_server: EtcdServer, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("felix")
    async with (
        connected(tls_settings(tls_server, authority.ca, pair)) as client,
        following(client, "/w/", "/w0") as (watch, recorder),
    ):
        authority.issue("felix")  # replaces the files in place
        tls_server.stop()
        await until(lambda: watch.failure)
        tls_server.start()
        await until(lambda: watch.is_connected)
        await client.put("/w/a", b"1")
        await recorder.wait(lambda: recorder.values == {"/w/a": b"1"})
        assert recorder.in_syncs == 1


def etcdctl(server: EtcdServer, *arguments: str) -> None:
    command = ["etcdctl", f"--endpoints={server.endpoint}", *arguments]
    subprocess.run(command, check=True, capture_output=True, env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"})


TOKEN_TTL_S = 1


@pytest.fixture(scope="module")
def password_server() -> Iterator[EtcdServer]:
    """Users: root, and felix, who may read and write below /w/ only. Tokens die after a second without use."""
    with running_etcd(f"--auth-token-ttl={TOKEN_TTL_S}", "--bcrypt-cost=4") as server:
        for command in (
            "user add root:secret",
            "user grant-role root root",
            "role add hosts",
            "role grant-permission hosts --prefix=true readwrite /w/",
            "user add felix:secret",
            "user grant-role felix hosts",
            "auth enable",
        ):
            etcdctl(server, *command.split())
        yield server


def user_settings(server: EtcdServer, password: str = "secret") -> EtcdSettings:
    return EtcdSettings((server.endpoint,), username="felix", password=password, timeout_s=3.0)


async def test_user_does_what_it_may_and_is_told_what_it_may_not(password_server: EtcdServer) -> None:
    async with connected(user_settings(password_server)) as client:
        await client.put("/w/a", b"1")
        with pytest.raises(PermissionDenied):
            await client.put("/other", b"1")
        with pytest.raises(PermissionDenied):
            async with client.watch("/other/", "/other0", 1) as stream:
                await stream.read(5)


async def test_user_with_a_wrong_password_is_told_so(password_server: EtcdServer) -> None:
    async with connected(user_settings(password_server, "wrong")) as client:
        with pytest.raises(AuthenticationFailed):
            await client.get("/w/a")


async def test_nobody_where_users_are_required_is_refused(password_server: EtcdServer) -> None:
    async with connected(EtcdSettings((password_server.endpoint,), timeout_s=3.0)) as client:
        with pytest.raises(EtcdRefused, match="user name is empty"):
            await client.get("/w/a")


async def test_token_that_expired_is_renewed_for_calls_and_watches(password_server: EtcdServer) -> None:
    async with connected(user_settings(password_server)) as client, connected(user_settings(password_server)) as idle:
        await client.put("/w/a", b"0")
        await idle.get("/w/a")
        async with following(client, "/w/", "/w0") as (_, recorder):
            server_forgets_tokens(password_server)
            await idle.put("/w/a", b"1")
            await recorder.wait(lambda: recorder.values["/w/a"] == b"1")
            server_forgets_tokens(password_server)
            async with idle.watch("/w/", "/w0", 1) as stream:
                assert await stream.read(5) is not None
            assert recorder.in_syncs == 1


def server_forgets_tokens(server: EtcdServer) -> None:
    """Tokens live in the server's memory only: a restart ends them as their time would, and sooner."""
    server.stop()
    server.start()


async def test_token_older_than_a_change_of_rights_is_renewed(password_server: EtcdServer) -> None:
    async with connected(user_settings(password_server)) as client:
        await client.put("/w/a", b"0")
        etcdctl(password_server, "--user=root:secret", "role", "add", "another")
        await client.put("/w/a", b"1")
        etcdctl(password_server, "--user=root:secret", "role", "delete", "another")


async def test_user_where_nobody_asks_for_one_is_let_in() -> None:
    with running_etcd() as server:
        async with connected(user_settings(server)) as client:
            await client.put("/a", b"1")
