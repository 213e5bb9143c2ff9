"""The Spark session: every setting with its reason. Measured: docs/adr/0011.

In Real-Time Mode Spark's tasks run on and hand over records one by one; nothing of Spark is made
for Python in it, and each of these settings removes something that would hold a record up.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from hofflight.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pyspark.sql import SparkSession

RECIPE: Final = {
    # No Python operator is on the list of what Real-Time Mode runs.
    "spark.sql.streaming.realTimeMode.allowlistCheck": "false",
    # A batch for Python is sent when it has so many records. A record is a micro-batch of ours
    # already: its requests gathered while the one before was on its way.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1",
    # A thread of its own feeds Python: the task's reads answers while the source waits for more.
    "spark.python.udf.pipelined.enabled": "true",
    # That thread sends when so many bytes are full; its 64 KiB would be hundreds of records.
    "spark.sql.execution.pandas.udf.buffer.size": "32",
    "spark.sql.execution.python.udf.buffer.size": "32",
    # Over TCP, Nagle's algorithm and delayed acknowledgements add 20 to 45 ms to each answer.
    "spark.python.unix.domain.socket.enabled": "true",
    # A Python worker that dies costs a try of its task, not the query; local[N] would give one.
    "spark.task.maxFailures": "4",
    # New workers import pyarrow and open their state anew; reused ones have both.
    "spark.python.worker.reuse": "true",
    # The bytes of a shuffle would wait for more; there is none, but a user's cluster may default.
    "spark.shuffle.streaming.networkBufferMaxWaitTimeMs": "1",
    "spark.sql.session.timeZone": "UTC",
    # Progress is ours; its page would be one more open port.
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
# What runs on one machine needs no port that others can reach.
_LOOPBACK: Final = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
MAJOR: Final = "4.3"


def local_master(queries: int) -> str:
    """This machine: a thread for each query and one to spare, four tries a task.

    Threads wait for records most of the time, so there may be more of them than cores.
    """
    return f"local[{queries + 1},4]"


def open_session(
    name: str, master: str, jars: Sequence[Path], more: Mapping[str, str]
) -> SparkSession:
    """The session of this process. `more` takes the place of settings of the recipe.

    Raises: SettingsError (HOF-601), pyspark is missing, of another release, or does not start.
    """
    try:
        import pyspark
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        msg = "Spark needs the extra `spark`"
        raise SettingsError(msg, hint="pip install 'hofflight[spark]'") from None
    if not pyspark.__version__.startswith(f"{MAJOR}."):
        msg = f"pyspark {pyspark.__version__} is installed, expected {MAJOR}"
        raise SettingsError(msg, hint="pip install 'hofflight[spark]'")
    # Workers are this interpreter: another one may lack our packages.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    build: Any = SparkSession.builder.appName(name).master(master)
    near = _LOOPBACK if master.startswith("local") else {}
    for key, value in {**RECIPE, **near, **more}.items():
        build = build.config(key, value)
    build = build.config("spark.jars", ",".join(str(jar) for jar in jars))
    try:
        session: SparkSession = build.getOrCreate()
    except Exception as error:
        msg = f"Spark does not start: {str(error).splitlines()[0]}"
        raise SettingsError(msg, hint="hof doctor looks at Java, jars and versions") from error
    # Its log is made for those who know Spark; what became of a query is said by our own.
    session.sparkContext.setLogLevel("INFO" if os.environ.get("HOF_DEBUG") == "1" else "OFF")
    _require_one_executor(master, session)
    return session


def _require_one_executor(master: str, session: SparkSession) -> None:
    """Refuse what may move a partition to another machine between two triggers.

    Real-Time Mode plans partitions without a place; their state is on one machine.
    """
    if master.startswith("local[") or master == "local":
        return
    conf = session.sparkContext.getConf()
    executors = conf.get("spark.executor.instances", "")
    if master.startswith("local-cluster["):
        executors = master.removeprefix("local-cluster[").split(",")[0].strip()
    if executors != "1" or conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        session.stop()
        msg = f"the application has {executors or 'any number of'} executors, expected 1"
        hint = (
            "--conf spark.executor.instances=1; share the work by --partitions among applications"
        )
        raise SettingsError(msg, hint=hint)
