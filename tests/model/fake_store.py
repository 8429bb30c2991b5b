"""A transactional store as etcd is one, in memory: the same contract tests run on it and on the real one.

Every call is a moment at which others may act, and at which the caller may die: just before it has an effect, or
just after. `run_interleaved` decides which of several callers goes on at each of these moments.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TypeVar

from felix.datastore.messages import prefix_end
from felix.datastore.types import (
    Compare,
    DeleteOp,
    KeyValue,
    Op,
    OpResult,
    PutOp,
    RangeOp,
    RangePage,
    Target,
    TxnResult,
)
from felix.errors import FelixError

T = TypeVar("T")
OPERATIONS_LIMIT = 128


@types.coroutine
def moment() -> Generator[None, None, None]:
    """Others may act now."""
    yield


async def rest(_: float) -> None:
    """Stands for waiting: others may act now."""
    await moment()


class FakeStore:
    """Keys with their revisions. `observe` is called after every change, for what must hold at every moment."""

    def __init__(self, *, is_interleaved: bool = False) -> None:
        self.pairs: dict[str, KeyValue] = {}
        self.revision = 1
        self.transactions = 0
        self.observe: Callable[[], None] = lambda: None
        self._is_interleaved = is_interleaved

    def put(self, key: str, value: bytes) -> None:
        """`key` holds `value`, at a new revision."""
        self.revision += 1
        self._put(key, value)

    async def txn(self, compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        if self._is_interleaved:
            await moment()
        assert max(len(compares), len(success), len(failure)) <= OPERATIONS_LIMIT
        self.transactions += 1
        is_met = all(self._holds(compare) for compare in compares)
        operations = success if is_met else failure
        written = [one.key for one in operations if not isinstance(one, RangeOp)]
        assert len(set(written)) == len(written), "etcd refuses a key that is written twice"
        self.revision += bool(written)
        responses = tuple(self._run(one) for one in operations)
        if written:
            self.observe()
        if self._is_interleaved:
            await moment()
        return TxnResult(is_met, responses, self.revision)

    async def list_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        if self._is_interleaved:
            await moment()
        return list(self._range(prefix, prefix_end(prefix))), self.revision

    def _holds(self, compare: Compare) -> bool:
        pair = self.pairs.get(compare.key)
        match compare.target:
            case Target.VERSION:
                return (pair.version if pair else 0) == compare.operand
            case Target.CREATE_REVISION:
                return (pair.create_revision if pair else 0) == compare.operand
            case Target.MOD_REVISION:
                return (pair.mod_revision if pair else 0) == compare.operand
            case Target.VALUE:
                return pair is not None and pair.value == compare.operand

    def _run(self, operation: Op) -> OpResult:
        match operation:
            case PutOp(key, value, _):
                self._put(key, value)
                return None
            case DeleteOp(key, end):
                gone = [pair.key for pair in self._range(key, end)]
                for one in gone:
                    del self.pairs[one]
                return len(gone)
            case RangeOp(key, end):
                return RangePage(self._range(key, end), self.revision, more=False)

    def _put(self, key: str, value: bytes) -> None:
        old = self.pairs.get(key)
        created, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
        self.pairs[key] = KeyValue(key, value, self.revision, created, version)

    def _range(self, key: str, end: str) -> tuple[KeyValue, ...]:
        return tuple(pair for name, pair in sorted(self.pairs.items()) if name == key or (end and key <= name < end))


def run(coroutine: Coroutine[object, None, T]) -> T:
    """Returns what the coroutine returns, alone with its store."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as done:
            answer: T = done.value
            return answer


def run_interleaved(
    coroutines: Sequence[Coroutine[object, None, object]],
    choose: Callable[[int], int],
    is_killed: Callable[[], bool] = lambda: False,
) -> list[object]:
    """Runs all to their ends, one moment at a time; returns the answer of each: a value, an error, None if killed.

    choose: says for a number of coroutines which goes on, from 0. is_killed: whether that one dies here instead.
    """
    answers: list[object] = [None] * len(coroutines)
    living = list(range(len(coroutines)))
    try:
        while living:
            index = living[choose(len(living))]
            if is_killed() or _step(coroutines[index], index, answers):
                living.remove(index)
    finally:
        for coroutine in coroutines:
            coroutine.close()
    return answers


def _step(coroutine: Coroutine[object, None, object], index: int, answers: list[object]) -> bool:
    """Returns whether the coroutine came to its end with this moment; its answer is noted then."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        answers[index] = done.value
    except FelixError as error:
        answers[index] = error
    else:
        return False
    return True
