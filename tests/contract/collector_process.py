"""A collector that writes all the time, as a process that a test can stop: python collector_process.py ENDPOINT TTL."""

from __future__ import annotations

import asyncio
import sys

from felix.collect.apply import GuardBroken, GuardedStore
from felix.collect.lease import Deposed, Election
from felix.datastore.etcd import EtcdClient, EtcdSettings
from felix.datastore.types import PutOp


async def main(endpoint: str, ttl_s: float) -> None:
    """Says `elected`, then writes until it is deposed, and says how that came."""
    client = EtcdClient(EtcdSettings((endpoint,), timeout_s=2.0))
    try:
        async with Election(client, "paused", ttl_s).hold() as office:
            print("elected", flush=True)
            store = GuardedStore(client, [office.stands()])
            while True:
                await store.txn([], [PutOp("/written", b"paused")])
                await asyncio.sleep(0.02)
    except (Deposed, GuardBroken) as error:
        print(type(error).__name__, flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
