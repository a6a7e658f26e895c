"""Change members in ZooKeeper at a steady rate.

python -m tests.bench.zookeeper_changes HOSTS ROOT SERVICES RATE SECONDS [LAST_ADDRESS]

It prints `started`, and at the end the monotonic time when ZooKeeper acknowledged the last change and the
number of changes. The last change adds a member with the address LAST_ADDRESS to service0.
"""

import random
import sys
import time
from collections import deque

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult

from tests.serverset.sync_helpers import data

LAST_ADDRESS = "10.201.0.1"
_TICK = 0.01
_JOIN_SECONDS = 0.2
"""Members only join until RATE times this many have joined; from then on every second change removes one."""


def main() -> None:
    hosts, root, services, rate, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    address = sys.argv[6] if len(sys.argv) > 6 else LAST_ADDRESS
    client = KazooClient(hosts)
    client.start()
    rng = random.Random(1)
    joined: deque[IAsyncResult] = deque()
    count = 0
    print("started", flush=True)
    started_at = time.monotonic()
    while (passed := time.monotonic() - started_at) < seconds:
        while count < passed * rate:
            if count % 2 and len(joined) > rate * _JOIN_SECONDS:
                client.delete_async(joined.popleft().get())
            else:
                path = f"{root}/staging/service{rng.randrange(services)}/member_"
                host = f"10.200.{count // 250 % 250}.{count % 250}"
                joined.append(client.create_async(path, data(host), sequence=True))
            count += 1
        time.sleep(_TICK)
    last = f"{root}/staging/service0/member_"
    client.create_async(last, data(address), sequence=True).get()
    print(time.monotonic(), count, flush=True)
    client.stop()


if __name__ == "__main__":
    main()
