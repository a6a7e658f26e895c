"""Changes ZooKeeper at a steady rate: python -m tests.bench.storm HOSTS ROOT SERVICES RATE SECONDS [LAST].

It prints `begun`; at the end the moment of the last change that ZooKeeper acknowledged, and how many changes
there were. The last one is a member of service0 with the address LAST.
"""

import random
import sys
import time
from collections import deque

from kazoo.client import KazooClient
from kazoo.interfaces import IAsyncResult

from tests.serverset.sync_helpers import data

LAST = "10.201.0.1"
_TICK = 0.01
_STANDING_SECONDS = 0.2
"""For how many seconds' changes members join; from then on as many leave."""


def main() -> None:
    hosts, root, services, rate, seconds = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    address = sys.argv[6] if len(sys.argv) > 6 else LAST
    client = KazooClient(hosts)
    client.start()
    dice = random.Random(1)
    joined: deque[IAsyncResult] = deque()
    count, asked = 0, None
    print("begun", flush=True)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        while count < passed * rate:
            if count % 2 and len(joined) > rate * _STANDING_SECONDS:
                asked = client.delete_async(joined.popleft().get())
            else:
                path = f"{root}/staging/service{dice.randrange(services)}/member_"
                host = f"10.200.{count // 250 % 250}.{count % 250}"
                asked = client.create_async(path, data(host), sequence=True)
                joined.append(asked)
            count += 1
        time.sleep(_TICK)
    last = f"{root}/staging/service0/member_"
    client.create_async(last, data(address), sequence=True).get()
    print(time.monotonic(), count, flush=True)
    client.stop()


if __name__ == "__main__":
    main()
