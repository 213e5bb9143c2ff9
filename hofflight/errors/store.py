"""HOF-5xx: what is stored, here or elsewhere, cannot be used as asked."""

from __future__ import annotations

from hofflight.errors.tree import HofError


class StoreError(HofError):
    """The store directory cannot be used as asked."""

    code = "HOF-500"


class StoreLocked(StoreError):
    """Another process is writing this store."""

    code = "HOF-501"


class LogCorrupt(StoreError):
    """A log segment is damaged before its tail."""

    code = "HOF-502"


class StoreFormat(StoreError):
    """The directory is not a store, or was written by a newer release."""

    code = "HOF-503"


class CodeNotLoaded(StoreError):
    """A registered group's code was not loaded into this process."""

    code = "HOF-504"


class ReadOnly(StoreError):
    """The store was opened for reading."""

    code = "HOF-505"


class SealDamaged(StoreError):
    """A sealed segment or its manifest is missing, cut, or not what was sealed."""

    code = "HOF-506"


class CodeChanged(StoreError):
    """The code given is not the code that served: its hash differs from the recorded one."""

    code = "HOF-507"


class HistoryMissing(StoreError):
    """Windows cannot be rebuilt: the log no longer has what no snapshot holds."""

    code = "HOF-508"


class ReplayMemory(StoreError):
    """A replay did not fit into the memory or the spill folder that it was given."""

    code = "HOF-509"


class OnlineUnavailable(StoreError):
    """The online store cannot be reached, or answers with errors."""

    code = "HOF-510"


class StoredUnreadable(StoreError):
    """What the online store holds is cut, of another schema or release, or none of ours."""

    code = "HOF-511"


class KafkaUnavailable(StoreError):
    """No broker of the Kafka cluster answers, or not with what was asked for."""

    code = "HOF-512"


class TopicProblem(StoreError):
    """A Kafka topic is missing, or is not as it has to be."""

    code = "HOF-513"


class WorkerStopped(StoreError):
    """A worker cannot go on: a record could not be counted, or what it needs is gone."""

    code = "HOF-514"


class RegistryUnavailable(StoreError):
    """The registry cannot be reached, is locked for too long, or answers with errors."""

    code = "HOF-515"


class BackupUnavailable(StoreError):
    """The folder or object store that backups are in cannot be reached, read or written."""

    code = "HOF-516"
