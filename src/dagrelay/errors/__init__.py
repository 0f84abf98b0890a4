"""Every error of the library, in one tree.

::

    DagrelayError
    ├── InvalidIdError (ValueError)              an id or key breaks its rule
    ├── InvalidTransitionError (RuntimeError)    a state change the table does not have
    ├── DAGValidationError (ValueError)          planning found problems; `.problems` lists them all
    ├── DAGChangedError (ValueError)             a run can't go on with this DAG; `.changes`
    ├── TemplateError (ValueError)
    │   ├── TemplateSyntaxError                  `.column`
    │   ├── TemplateLimitError                   too long, too many references, too much text
    │   ├── TemplateValueError                   a value does not fit where a template puts it
    │   └── MissingReferenceError (LookupError)  a value is not there, and no default was given
    ├── XComError
    │   ├── XComNotFoundError (LookupError)      no such entry and no default
    │   ├── NotUpstreamError (LookupError)       the task read from is not upstream
    │   ├── XComTooLargeError (ValueError)       a value, or the run's sum, is over its limit
    │   ├── XComSerializationError (ValueError)  a value can't be stored exactly; ends in its JSON path
    │   ├── XComTypeError (TypeError)            a stored value is not of the type asked for; ends in its path
    │   ├── XComConflictError (ValueError)       what is there already, or has finished, would be replaced
    │   ├── XComStreamError (RuntimeError)       a stream broke off, as its producer did not succeed
    │   ├── XComWaitError (LookupError)          what is waited for can't come any more
    │   ├── XComWaitTimeoutError (TimeoutError)  what is waited for did not come in time
    │   └── StaleAttemptError (RuntimeError)     an attempt that is over tried to write
    ├── RunError
    │   ├── RunFailedError (ExceptionGroup)      a run failed; a group of TaskFailedError; `.result`
    │   ├── TaskFailedError (RuntimeError)       a task's last attempt failed; the original is its cause
    │   ├── TaskTimeoutError (TimeoutError)      an attempt ran, or waited for its value, over its time
    │   ├── MapTooLongError (ValueError)         a mapped task has more elements than allowed
    │   ├── BranchError (ValueError)             a branch chose what it can't
    │   ├── RunCancelledError (RuntimeError)     a run was cancelled
    │   ├── RunInterruptedError (RuntimeError)   a run was interrupted and can be resumed
    │   ├── RunNotFoundError (LookupError)       no such run
    │   ├── TaskNotFoundError (LookupError)      the DAG has no such task
    │   ├── RunIdConflictError (ValueError)      the run id is taken by another DAG, other params or a pruned run
    │   └── RunStateError (RuntimeError)         the run's state does not allow what was asked
    ├── StoreError
    │   ├── StoreLockedError (OSError)           another process writes to it
    │   ├── StaleOwnerError                      another owner has taken it over
    │   ├── StoreFullError (OSError)             the disk is full
    │   ├── StoreCorruptError                    a stored row is not what was written
    │   ├── StoreVanishedError                   the file was moved or deleted
    │   ├── StoreReadOnlyError                   a write to a read-only store
    │   ├── StoreSchemaError                     written by a newer version, or no store of ours
    │   ├── StoreBackupError                     a backup was not made
    │   └── StoreClosedError                     used before opening or after closing
    ├── RuntimeClosedError (RuntimeError)        used before entering or after leaving it
    └── ProcessForkedError (RuntimeError)        an inherited runtime was used in a child process

    Skip, RetryAfter (Exception)                 signals a handler raises; no errors, and outside the tree

Constructors take facts and build the message: what, where, the limit, what to do. All are picklable.
"""

from __future__ import annotations

from dagrelay.errors.base import DagrelayError as DagrelayError
from dagrelay.errors.base import InvalidIdError as InvalidIdError
from dagrelay.errors.base import InvalidTransitionError as InvalidTransitionError
from dagrelay.errors.base import ProcessForkedError as ProcessForkedError
from dagrelay.errors.base import RetryAfter as RetryAfter
from dagrelay.errors.base import RuntimeClosedError as RuntimeClosedError
from dagrelay.errors.base import Skip as Skip
from dagrelay.errors.dags import DAGChangedError as DAGChangedError
from dagrelay.errors.dags import DAGValidationError as DAGValidationError
from dagrelay.errors.dags import MissingReferenceError as MissingReferenceError
from dagrelay.errors.dags import TemplateError as TemplateError
from dagrelay.errors.dags import TemplateLimitError as TemplateLimitError
from dagrelay.errors.dags import TemplateSyntaxError as TemplateSyntaxError
from dagrelay.errors.dags import TemplateValueError as TemplateValueError
from dagrelay.errors.runs import BranchError as BranchError
from dagrelay.errors.runs import MapTooLongError as MapTooLongError
from dagrelay.errors.runs import RunCancelledError as RunCancelledError
from dagrelay.errors.runs import RunError as RunError
from dagrelay.errors.runs import RunFailedError as RunFailedError
from dagrelay.errors.runs import RunIdConflictError as RunIdConflictError
from dagrelay.errors.runs import RunInterruptedError as RunInterruptedError
from dagrelay.errors.runs import RunNotFoundError as RunNotFoundError
from dagrelay.errors.runs import RunStateError as RunStateError
from dagrelay.errors.runs import TaskFailedError as TaskFailedError
from dagrelay.errors.runs import TaskNotFoundError as TaskNotFoundError
from dagrelay.errors.runs import TaskTimeoutError as TaskTimeoutError
from dagrelay.errors.stores import StaleOwnerError as StaleOwnerError
from dagrelay.errors.stores import StoreBackupError as StoreBackupError
from dagrelay.errors.stores import StoreClosedError as StoreClosedError
from dagrelay.errors.stores import StoreCorruptError as StoreCorruptError
from dagrelay.errors.stores import StoreError as StoreError
from dagrelay.errors.stores import StoreFullError as StoreFullError
from dagrelay.errors.stores import StoreLockedError as StoreLockedError
from dagrelay.errors.stores import StoreReadOnlyError as StoreReadOnlyError
from dagrelay.errors.stores import StoreSchemaError as StoreSchemaError
from dagrelay.errors.stores import StoreVanishedError as StoreVanishedError
from dagrelay.errors.xcoms import NotUpstreamError as NotUpstreamError
from dagrelay.errors.xcoms import StaleAttemptError as StaleAttemptError
from dagrelay.errors.xcoms import XComConflictError as XComConflictError
from dagrelay.errors.xcoms import XComError as XComError
from dagrelay.errors.xcoms import XComNotFoundError as XComNotFoundError
from dagrelay.errors.xcoms import XComSerializationError as XComSerializationError
from dagrelay.errors.xcoms import XComStreamError as XComStreamError
from dagrelay.errors.xcoms import XComTooLargeError as XComTooLargeError
from dagrelay.errors.xcoms import XComTypeError as XComTypeError
from dagrelay.errors.xcoms import XComWaitError as XComWaitError
from dagrelay.errors.xcoms import XComWaitTimeoutError as XComWaitTimeoutError

__all__ = (
    "BranchError",
    "DAGChangedError",
    "DAGValidationError",
    "DagrelayError",
    "InvalidIdError",
    "InvalidTransitionError",
    "MapTooLongError",
    "MissingReferenceError",
    "NotUpstreamError",
    "ProcessForkedError",
    "RetryAfter",
    "RunCancelledError",
    "RunError",
    "RunFailedError",
    "RunIdConflictError",
    "RunInterruptedError",
    "RunNotFoundError",
    "RunStateError",
    "RuntimeClosedError",
    "Skip",
    "StaleAttemptError",
    "StaleOwnerError",
    "StoreBackupError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreReadOnlyError",
    "StoreSchemaError",
    "StoreVanishedError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskTimeoutError",
    "TemplateError",
    "TemplateLimitError",
    "TemplateSyntaxError",
    "TemplateValueError",
    "XComConflictError",
    "XComError",
    "XComNotFoundError",
    "XComSerializationError",
    "XComStreamError",
    "XComTooLargeError",
    "XComTypeError",
    "XComWaitError",
    "XComWaitTimeoutError",
)

for _name in __all__:
    globals()[_name].__module__ = __name__  # Where users import them from, and tracebacks and pickles name them.
