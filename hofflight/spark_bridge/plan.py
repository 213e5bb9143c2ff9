"""What a user asks of Spark, checked when it is said: by `hof spark` and by `hof.spark`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from hofflight.errors import SettingsError
from hofflight.features.window import duration_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Mode = Literal["realtime", "microbatch"]
_TRIGGER_US_MIN: Final = 5_000_000
# What died on its own host is back by then, and has its state at hand.
_TAKEOVER_S_MIN: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkPlan:
    """How an application runs. checkpoint "": beside the store; master "": this machine.

    conf: Spark's own settings. partitions: which of the topics'; None: all. make_topics: those
    that are missing. takeover: how long nobody works a partition until this application does, a
    duration; "": it leaves others' alone.

    Raises: SettingsError (HOF-601), InvalidDuration (HOF-104).
    """

    master: str = ""
    mode: Mode = "realtime"
    trigger: str = "5m"
    partitions: tuple[int, ...] | None = None
    checkpoint: str = ""
    conf: Mapping[str, str] = field(default_factory=dict)
    make_topics: bool = False
    takeover: str = ""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            msg = f"mode {self.mode!r} is none of {', '.join(get_args(Mode))}"
            raise SettingsError(msg)
        if self.trigger_us < _TRIGGER_US_MIN:
            msg = f"trigger {self.trigger}: Spark's Real-Time Mode has triggers of 5 s at least"
            raise SettingsError(msg)
        if self.takeover_s is not None and self.takeover_s < _TAKEOVER_S_MIN:
            msg = f"takeover {self.takeover}: expected 15s at least"
            hint = "an application that starts again on its own host is back by then"
            raise SettingsError(msg, hint=hint)
        numbers = (0,) if self.partitions is None else self.partitions
        if not numbers or not all(isinstance(n, int) and n >= 0 for n in numbers):
            msg = f"partitions {list(numbers)!r} are no numbers of partitions such as [0, 1]"
            raise SettingsError(msg)
        for key, value in self.conf.items():
            if not isinstance(key, str) or not key.startswith("spark."):
                msg = f"conf {key!r} is no spark.KEY"
                raise SettingsError(msg)
            if not isinstance(value, str):
                msg = f"conf {key} is {value!r}, expected text"
                raise SettingsError(msg, hint=f"conf={{{key!r}: {str(value).lower()!r}}}")

    @property
    def trigger_us(self) -> int:
        """How long a trigger takes, in Real-Time Mode."""
        return duration_us(self.trigger, "trigger")

    @property
    def takeover_s(self) -> float | None:
        """How long a partition is nobody's before it is ours; None: we take none."""
        return duration_us(self.takeover, "takeover") / 1e6 if self.takeover else None


@dataclass(frozen=True, slots=True)
class SparkEngine:
    """What `hof.spark` gives. store "": `spark` in the app's own; modules "": those registered."""

    plan: SparkPlan
    kafka: str = ""
    store: str = ""
    modules: str = ""


def spark(
    *,
    kafka: str = "",
    master: str = "",
    mode: Mode = "realtime",
    trigger: str = "5m",
    partitions: Iterable[int] | None = None,
    checkpoint: str = "",
    takeover: str = "",
    conf: Mapping[str, str] | None = None,
    store: str = "",
    modules: str = "",
) -> SparkEngine:
    """Where `app.apply` puts groups: behind Kafka, answered by Spark, as `hof spark` does it.

    Args:
        kafka: the brokers, `HOST:PORT` or several with commas; those of `kafka.bootstrap`, without.
        master: Spark's master; this machine, without. One executor at most.
        mode: as records come, or in batches, for clusters without Real-Time Mode.
        trigger: how often offsets are committed; 5 s at least.
        partitions: which of the topics'; all, without.
        checkpoint: a folder or object store for Spark's offsets, and for copies of the logs; in
            `store` and without copies, without.
        takeover: how long nobody works a partition until this application does, 15 s at least;
            without, it leaves those of others alone.
        conf: Spark's own settings, as text. They stand on a command line: no secrets here.
        store: where its state is; the folder `spark` in the app's own store, without.
        modules: where the groups are declared, `a,b`; the modules that declared them, without.

    Raises:
        SettingsError: HOF-601, one of them is wrong.
        InvalidDuration: HOF-104, `trigger` is no duration.
    """
    plan = SparkPlan(
        master=master, mode=mode, trigger=trigger, checkpoint=checkpoint, takeover=takeover,
        conf=dict(conf or {}),
        partitions=None if partitions is None else tuple(partitions),
    )  # fmt: skip
    return SparkEngine(plan, kafka, store, modules)
