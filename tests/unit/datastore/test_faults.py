"""What etcd's refusals mean; its words are those of etcd 3.4."""

from __future__ import annotations

import pytest

from felix.datastore import faults


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", faults.TokenRefused),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", faults.TokenRefused),
        ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", faults.TokenRefused),
        (
            "INVALID_ARGUMENT",
            "etcdserver: authentication failed, invalid user ID or password",
            faults.AuthenticationFailed,
        ),
        ("PERMISSION_DENIED", "etcdserver: permission denied", faults.PermissionDenied),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted", faults.Compacted),
        ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision", faults.StoreReplaced),
        ("NOT_FOUND", "etcdserver: requested lease not found", faults.LeaseLost),
        ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", faults.StoreFull),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", faults.EtcdUnavailable),
        ("INVALID_ARGUMENT", "etcdserver: request is too large", faults.EtcdRefused),
        ("UNAVAILABLE", "etcdserver: leader changed", faults.EtcdUnavailable),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", faults.EtcdUnavailable),
        ("INTERNAL", "", faults.EtcdUnavailable),
    ],
)
def test_status_becomes_the_error_it_means(code: str, details: str, expected: type[Exception]) -> None:
    error = faults.translate(code, details, "Range at host:2379")
    assert type(error) is expected
    assert "host:2379" in str(error)


def test_reason_of_a_failed_connection_is_told_without_repeating_the_address() -> None:
    details = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:2379: "
        "Failed to connect to remote host: Connection refused"
    )
    error = faults.translate("UNAVAILABLE", details, "Range at [::1]:2379")
    assert str(error) == "Range at [::1]:2379: Connection refused"
    assert isinstance(error, faults.EtcdUnavailable)
    assert error.is_unsent


@pytest.mark.parametrize(
    ("code", "details", "is_unsent"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: refused", True),
        ("UNAVAILABLE", "etcdserver: no leader", True),
        ("UNAVAILABLE", "Socket closed", False),
        ("UNAVAILABLE", "etcdserver: request timed out", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
    ],
)
def test_unavailable_tells_whether_the_request_was_certainly_not_sent(code: str, details: str, is_unsent: bool) -> None:
    error = faults.translate(code, details, "Put")
    assert isinstance(error, faults.EtcdUnavailable)
    assert error.is_unsent is is_unsent


@pytest.mark.parametrize(
    ("reason", "compact_revision", "expected"),
    [
        ("", 7, faults.Compacted),
        ("etcdserver: mvcc: required revision has been compacted", 0, faults.Compacted),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", 0, faults.PermissionDenied),
        ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", 0, faults.TokenRefused),
        ("etcdserver: no leader", 0, faults.EtcdUnavailable),
    ],
)
def test_cancelled_watch_becomes_the_error_it_means(
    reason: str, compact_revision: int, expected: type[Exception]
) -> None:
    assert type(faults.translate_cancel(reason, compact_revision, "Watch")) is expected
