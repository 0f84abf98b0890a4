"""dagrelay runs DAGs of async tasks inside your own process and hands their values on, durably."""

from __future__ import annotations

from dagrelay.dag.definition import DAG as DAG
from dagrelay.dag.references import XComRef as XComRef
from dagrelay.dag.references import each as each
from dagrelay.dag.references import template as template
from dagrelay.dag.references import zip_each as zip_each
from dagrelay.dag.task import Task as Task
from dagrelay.errors import BranchError as BranchError
from dagrelay.errors import DAGChangedError as DAGChangedError
from dagrelay.errors import DagrelayError as DagrelayError
from dagrelay.errors import DAGValidationError as DAGValidationError
from dagrelay.errors import InvalidIdError as InvalidIdError
from dagrelay.errors import InvalidTransitionError as InvalidTransitionError
from dagrelay.errors import MapTooLongError as MapTooLongError
from dagrelay.errors import MissingReferenceError as MissingReferenceError
from dagrelay.errors import NotUpstreamError as NotUpstreamError
from dagrelay.errors import ProcessForkedError as ProcessForkedError
from dagrelay.errors import RetryAfter as RetryAfter
from dagrelay.errors import RunCancelledError as RunCancelledError
from dagrelay.errors import RunError as RunError
from dagrelay.errors import RunFailedError as RunFailedError
from dagrelay.errors import RunIdConflictError as RunIdConflictError
from dagrelay.errors import RunInterruptedError as RunInterruptedError
from dagrelay.errors import RunNotFoundError as RunNotFoundError
from dagrelay.errors import RunStateError as RunStateError
from dagrelay.errors import RuntimeClosedError as RuntimeClosedError
from dagrelay.errors import Skip as Skip
from dagrelay.errors import StaleAttemptError as StaleAttemptError
from dagrelay.errors import StaleOwnerError as StaleOwnerError
from dagrelay.errors import StoreBackupError as StoreBackupError
from dagrelay.errors import StoreClosedError as StoreClosedError
from dagrelay.errors import StoreCorruptError as StoreCorruptError
from dagrelay.errors import StoreError as StoreError
from dagrelay.errors import StoreFullError as StoreFullError
from dagrelay.errors import StoreLockedError as StoreLockedError
from dagrelay.errors import StoreReadOnlyError as StoreReadOnlyError
from dagrelay.errors import StoreSchemaError as StoreSchemaError
from dagrelay.errors import StoreVanishedError as StoreVanishedError
from dagrelay.errors import TaskFailedError as TaskFailedError
from dagrelay.errors import TaskNotFoundError as TaskNotFoundError
from dagrelay.errors import TaskTimeoutError as TaskTimeoutError
from dagrelay.errors import TemplateError as TemplateError
from dagrelay.errors import TemplateLimitError as TemplateLimitError
from dagrelay.errors import TemplateSyntaxError as TemplateSyntaxError
from dagrelay.errors import TemplateValueError as TemplateValueError
from dagrelay.errors import XComConflictError as XComConflictError
from dagrelay.errors import XComError as XComError
from dagrelay.errors import XComNotFoundError as XComNotFoundError
from dagrelay.errors import XComSerializationError as XComSerializationError
from dagrelay.errors import XComStreamError as XComStreamError
from dagrelay.errors import XComTooLargeError as XComTooLargeError
from dagrelay.errors import XComTypeError as XComTypeError
from dagrelay.errors import XComWaitError as XComWaitError
from dagrelay.errors import XComWaitTimeoutError as XComWaitTimeoutError
from dagrelay.model.events import Event as Event
from dagrelay.model.events import RunFinished as RunFinished
from dagrelay.model.events import RunStarted as RunStarted
from dagrelay.model.events import TaskStateChanged as TaskStateChanged
from dagrelay.model.events import XComDeleted as XComDeleted
from dagrelay.model.events import XComPushed as XComPushed
from dagrelay.model.policies import Durability as Durability
from dagrelay.model.policies import Limits as Limits
from dagrelay.model.policies import MissingPolicy as MissingPolicy
from dagrelay.model.policies import Pool as Pool
from dagrelay.model.policies import RetryPolicy as RetryPolicy
from dagrelay.model.policies import XComOptions as XComOptions
from dagrelay.model.records import Approval as Approval
from dagrelay.model.records import AttemptReads as AttemptReads
from dagrelay.model.records import EntryRead as EntryRead
from dagrelay.model.records import ErrorRecord as ErrorRecord
from dagrelay.model.records import Run as Run
from dagrelay.model.records import TaskInstance as TaskInstance
from dagrelay.model.records import TaskStatistics as TaskStatistics
from dagrelay.model.records import XComEntry as XComEntry
from dagrelay.model.records import XComValue as XComValue
from dagrelay.model.states import RunState as RunState
from dagrelay.model.states import TaskState as TaskState
from dagrelay.model.states import TriggerRule as TriggerRule
from dagrelay.runtime.context import TaskContext as TaskContext
from dagrelay.runtime.handle import RunHandle as RunHandle
from dagrelay.runtime.result import RunResult as RunResult
from dagrelay.runtime.runtime import Runtime as Runtime
from dagrelay.runtime.runtime import RuntimeStatistics as RuntimeStatistics
from dagrelay.serializers import JsonSerializer as JsonSerializer
from dagrelay.serializers import Serializer as Serializer
from dagrelay.stores import MemoryStore as MemoryStore
from dagrelay.stores import SqliteStore as SqliteStore
from dagrelay.stores import Store as Store
from dagrelay.templates import literal as literal
from dagrelay.xcom import OtherRun as OtherRun
from dagrelay.xcom import TaskXCom as TaskXCom
from dagrelay.xcom import XComManager as XComManager
from dagrelay.xcom import resolve_templates as resolve_templates

__all__ = (
    "DAG",
    "Approval",
    "AttemptReads",
    "BranchError",
    "DAGChangedError",
    "DAGValidationError",
    "DagrelayError",
    "Durability",
    "EntryRead",
    "ErrorRecord",
    "Event",
    "InvalidIdError",
    "InvalidTransitionError",
    "JsonSerializer",
    "Limits",
    "MapTooLongError",
    "MemoryStore",
    "MissingPolicy",
    "MissingReferenceError",
    "NotUpstreamError",
    "OtherRun",
    "Pool",
    "ProcessForkedError",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "RunCancelledError",
    "RunError",
    "RunFailedError",
    "RunFinished",
    "RunHandle",
    "RunIdConflictError",
    "RunInterruptedError",
    "RunNotFoundError",
    "RunResult",
    "RunStarted",
    "RunState",
    "RunStateError",
    "Runtime",
    "RuntimeClosedError",
    "RuntimeStatistics",
    "Serializer",
    "Skip",
    "SqliteStore",
    "StaleAttemptError",
    "StaleOwnerError",
    "Store",
    "StoreBackupError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreReadOnlyError",
    "StoreSchemaError",
    "StoreVanishedError",
    "Task",
    "TaskContext",
    "TaskFailedError",
    "TaskInstance",
    "TaskNotFoundError",
    "TaskState",
    "TaskStateChanged",
    "TaskStatistics",
    "TaskTimeoutError",
    "TaskXCom",
    "TemplateError",
    "TemplateLimitError",
    "TemplateSyntaxError",
    "TemplateValueError",
    "TriggerRule",
    "XComConflictError",
    "XComDeleted",
    "XComEntry",
    "XComError",
    "XComManager",
    "XComNotFoundError",
    "XComOptions",
    "XComPushed",
    "XComRef",
    "XComSerializationError",
    "XComStreamError",
    "XComTooLargeError",
    "XComTypeError",
    "XComValue",
    "XComWaitError",
    "XComWaitTimeoutError",
    "each",
    "literal",
    "resolve_templates",
    "template",
    "zip_each",
)
