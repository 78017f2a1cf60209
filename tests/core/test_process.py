"""How a serving process keeps its memory."""

import subprocess
import sys

_CHURN = """
import collections, gc
from core.process import settle

settle()
cache = collections.deque(maxlen=200)  # of workflows; each is cycles, and old by the time it leaves
most = 0
for number in range(4_000):
    sleeper = [[] for _ in range(500)]
    for one in sleeper:
        one.append(sleeper)
    cache.append(sleeper)
    passing = [{} for _ in range(5_000)]  # what comes and goes meanwhile
    if number % 100 == 99:
        most = max(most, len(gc.get_objects()))
    del passing, sleeper, one
print(most)
"""


def test_what_leaves_the_cache_leaves_memory() -> None:
    """4,000 sleepers of 500 objects pass through a cache for 200; unless old objects are looked at, 2,000,000 stay."""
    said = subprocess.run([sys.executable, "-c", _CHURN], capture_output=True, text=True, check=True, timeout=120)

    assert int(said.stdout) < 1_000_000
