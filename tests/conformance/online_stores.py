"""Every online store there is, driven from tests that know nothing of event loops.

Run as a program with a driver's config, it is another process that writes: again and again a new
value to all of `FLIPPED` in one `put_many`, until its standard input ends.
"""

import asyncio
import itertools
import json
import os
import select
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from hofflight.online.lmdb import LmdbStore
from hofflight.online.redis import RedisStore
from hofflight.settings import OnlineSettings

FLIPPED = [b"flip-%d" % number for number in range(50)]
REPO = Path(__file__).parents[2]
_numbers = itertools.count()
# A slow machine is not what these tests are about.
PATIENT = {"timeout_ms": 10_000, "load_timeout_ms": 60_000}


class Driver:
    """One store and one event loop; `config` is enough to make another for the same data."""

    def __init__(self, config):
        self.config = config
        self._runner = asyncio.Runner()
        settings = OnlineSettings(**config["settings"])
        directory = config["directory"]
        self.store = LmdbStore(Path(directory), settings) if directory else RedisStore(settings)

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def get(self, *keys):
        return self.run(self.store.get_many(keys))

    def put(self, *items):
        self.run(self.store.put_many(items))

    def health(self):
        return self.run(self.store.health())

    def again(self):
        """The same data by a store of its own, as a restarted process would have it."""
        self.close()
        self.__init__(self.config)

    def writing_process(self):
        """Another process that writes while this one reads; it ends with its `with` block."""
        command = [sys.executable, "-m", __name__, json.dumps(self.config)]
        return subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE)

    def close(self):
        with ExitStack() as stack:
            stack.callback(self._runner.close)
            self.run(self.store.close())


def lmdb_config(directory):
    return {"directory": str(directory / "online"), "settings": {"map_bytes": 1 << 30}}


def redis_config(url):
    """A prefix that no other test has."""
    prefix = f"t{os.getpid()}_{next(_numbers)}"
    return {"directory": None, "settings": {"url": url, "prefix": prefix, **PATIENT}}


def main(config):
    driver = Driver(json.loads(config))
    number = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        driver.put(*[(key, b"%d" % number) for key in FLIPPED])
        number += 1
    driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
