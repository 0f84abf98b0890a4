"""Where runs and their values are kept (floor 6): the stores, and all that another one is written with.

A store is a `Store`: it applies operations, each a frozen record that says what refuses it, and answers with records.
"""

from __future__ import annotations

from dagrelay.stores.base import Lookup as Lookup
from dagrelay.stores.base import RunImage as RunImage
from dagrelay.stores.base import RunQuery as RunQuery
from dagrelay.stores.base import Store as Store
from dagrelay.stores.base import StoredEntry as StoredEntry
from dagrelay.stores.base import StoredInstance as StoredInstance
from dagrelay.stores.base import StoredRun as StoredRun
from dagrelay.stores.base import StoreStatistics as StoreStatistics
from dagrelay.stores.base import SupportsBackup as SupportsBackup
from dagrelay.stores.memory import MemoryStore as MemoryStore
from dagrelay.stores.operations import MESSAGE_DONE as MESSAGE_DONE
from dagrelay.stores.operations import MESSAGES_KEPT_US as MESSAGES_KEPT_US
from dagrelay.stores.operations import OUTSIDE as OUTSIDE
from dagrelay.stores.operations import RETURN_VALUE as RETURN_VALUE
from dagrelay.stores.operations import TASK_LIFETIME as TASK_LIFETIME
from dagrelay.stores.operations import AckItems as AckItems
from dagrelay.stores.operations import AppendItems as AppendItems
from dagrelay.stores.operations import CreateRun as CreateRun
from dagrelay.stores.operations import DeleteEntries as DeleteEntries
from dagrelay.stores.operations import DeleteRun as DeleteRun
from dagrelay.stores.operations import FinishAttempt as FinishAttempt
from dagrelay.stores.operations import ForkRun as ForkRun
from dagrelay.stores.operations import MarkInstance as MarkInstance
from dagrelay.stores.operations import NewEntry as NewEntry
from dagrelay.stores.operations import NoteMessage as NoteMessage
from dagrelay.stores.operations import Operation as Operation
from dagrelay.stores.operations import Provide as Provide
from dagrelay.stores.operations import PruneRuns as PruneRuns
from dagrelay.stores.operations import PutEntries as PutEntries
from dagrelay.stores.operations import ReopenRun as ReopenRun
from dagrelay.stores.operations import SetRunState as SetRunState
from dagrelay.stores.operations import StartAttempt as StartAttempt
from dagrelay.stores.operations import StoredPlan as StoredPlan
from dagrelay.stores.operations import run_id_of as run_id_of
from dagrelay.stores.sqlite.check import Finding as Finding
from dagrelay.stores.sqlite.check import ResumableRun as ResumableRun
from dagrelay.stores.sqlite.check import StoreCheck as StoreCheck
from dagrelay.stores.sqlite.store import SqliteStore as SqliteStore
from dagrelay.stores.stream_records import StreamChunk as StreamChunk
from dagrelay.stores.stream_records import StreamHead as StreamHead
from dagrelay.stores.stream_records import StreamPage as StreamPage
from dagrelay.stores.stream_records import StreamPosition as StreamPosition
from dagrelay.stores.stream_records import StreamQuery as StreamQuery
from dagrelay.stores.stream_records import pack_items as pack_items
from dagrelay.stores.stream_records import unpack_items as unpack_items

__all__ = (
    "MESSAGES_KEPT_US",
    "MESSAGE_DONE",
    "OUTSIDE",
    "RETURN_VALUE",
    "TASK_LIFETIME",
    "AckItems",
    "AppendItems",
    "CreateRun",
    "DeleteEntries",
    "DeleteRun",
    "Finding",
    "FinishAttempt",
    "ForkRun",
    "Lookup",
    "MarkInstance",
    "MemoryStore",
    "NewEntry",
    "NoteMessage",
    "Operation",
    "Provide",
    "PruneRuns",
    "PutEntries",
    "ReopenRun",
    "ResumableRun",
    "RunImage",
    "RunQuery",
    "SetRunState",
    "SqliteStore",
    "StartAttempt",
    "Store",
    "StoreCheck",
    "StoreStatistics",
    "StoredEntry",
    "StoredInstance",
    "StoredPlan",
    "StoredRun",
    "StreamChunk",
    "StreamHead",
    "StreamPage",
    "StreamPosition",
    "StreamQuery",
    "SupportsBackup",
    "pack_items",
    "run_id_of",
    "unpack_items",
)
