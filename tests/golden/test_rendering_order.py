"""What is written to the kernel comes in an order that does not depend on how Python hashes text this time."""

from __future__ import annotations

import os
import subprocess
import sys

_SCRIPT = """
from felix.calc.desired import Action, CompiledPolicy, CompiledRule, DesiredDelta, EntityMatch, SetRef, Stack, StackTier
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.nft.types import KernelTable, NftConfig
from felix.model.keys import ResourceKey
from tests.model.fake_nft import FakeNft
from tests.model.nft_worlds import drive, endpoint

delta = DesiredDelta(sets={f"set{number}": True for number in range(20)})
keys = [ResourceKey("GlobalNetworkPolicy", "", f"default.p{number}") for number in range(8)]
for number, key in enumerate(keys):
    sets = [SetRef(f"set{number * 2 + other}", True, True) for other in range(4)]
    rules = tuple(CompiledRule(Action.ALLOW, source=EntityMatch(sets=(one,))) for one in sets)
    delta.policies[key] = CompiledPolicy(rules, rules[::-1])
stack = Stack((StackTier("default", tuple(keys), Action.DENY),), ())
for number in range(4):
    one = endpoint(number, stack, stack)
    delta.endpoints[one.key] = one
plan, kernel = NftPlan(NftConfig()), FakeNft()
plan.replace_believed(KernelTable())
plan.on_delta(delta)
drive(kernel, plan)
print(kernel.list_table())
"""


def test_order_of_what_is_written_is_the_same_however_text_is_hashed() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in "12345"
    ]
    texts = {process.communicate(timeout=60)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    (text,) = texts
    assert text.count(b"\tset n6-") == 18
