"""One attempt of a task: inputs read, handler run, value encoded, outcome judged and handed to the broker."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from copy import deepcopy
from enum import StrEnum
from functools import partial
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import anyio.to_thread
import attrs

from dagrelay.dag.filling import fill
from dagrelay.dag.plan import CHOOSING_KINDS, TaskKind
from dagrelay.errors import (
    DagrelayError,
    RetryAfter,
    Skip,
    StaleAttemptError,
    StoreError,
    TaskTimeoutError,
    XComSerializationError,
    XComTooLargeError,
)
from dagrelay.log import get_logger, is_debug
from dagrelay.model.missing import MISSING
from dagrelay.model.records import ErrorRecord, from_us
from dagrelay.model.states import TaskState
from dagrelay.runtime.choices import choose
from dagrelay.runtime.context import TaskContext
from dagrelay.runtime.failures import error_record
from dagrelay.runtime.inputs import Inputs, at_hand, fetch, noted, usual_arguments, usual_texts
from dagrelay.runtime.trampoline import drive, stack_of
from dagrelay.stores.operations import FinishAttempt, NewEntry, StartAttempt
from dagrelay.templates import render_tree
from dagrelay.xcom.door import placed
from dagrelay.xcom.lineage import Reads, lineage_text
from dagrelay.xcom.task_xcom import TaskXCom

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
    from contextvars import Context

    from dagrelay.dag.plan import PlannedTask
    from dagrelay.model.records import InstanceKey
    from dagrelay.runtime.inputs import Values
    from dagrelay.runtime.run_facts import RunFacts

__all__ = ("CARRIED", "Attempt", "CancelReason", "SlotKeeper")

_NEVER_RETRIED: Final = (XComTooLargeError, XComSerializationError)
"""What no further attempt mends."""


class CancelReason(StrEnum):
    """Why the runtime cancelled an attempt."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    RESTARTED = "restarted"


class SlotKeeper(Protocol):
    """What an attempt asks of its host when it parks."""

    def leave_slot(self, attempt: Attempt, *, keeps_room: bool) -> None:
        """Give the attempt's slot to others, or, where it keeps its run's room, to others' runs."""
        ...

    async def regain_slot(self, attempt: Attempt) -> None:
        """Wait for a slot for the attempt."""
        ...


CARRIED: Final[ContextVar[Attempt | None]] = ContextVar("dagrelay_carried", default=None)
"""The attempt whose handler runs here; None outside of handlers."""


class Attempt:
    """One try of one task; carried out once, by one host.

    Args:
        run: its run.
        unit: the task or element (see `engine.protocol`).
        index: the task's topological index.
        number: the attempt's number, from 1.
        owner: whose line it stands in until it is granted a slot.
        on_end: called after it: the attempt, and whether the broker took its outcome.
        failures: earlier attempts that count against the retry budget.
        interruptions: how often the task was interrupted before.
    """

    # What most attempts never change stands here once, as one is made for every task.
    cancel_reason: CancelReason | None = None
    scope: anyio.CancelScope | None = None
    on_cancel: Callable[[Attempt], None] | None = None
    slot_keeper: SlotKeeper | None = None
    on_start: Callable[[], None] | None = None
    error: BaseException | None = None
    is_closed: bool = False
    _is_start_written = False
    _deadline: float = inf
    _handler: Coroutine[Any, Any, Any] | None = None
    _inputs_read: Sequence[str] = ()
    _reads: Reads | None = None

    def __init__(
        self,
        run: RunFacts,
        unit: int,
        number: int,
        *,
        index: int,
        owner: Hashable,
        on_end: Callable[[Attempt, bool], None],
        failures: int,
        interruptions: int,
    ) -> None:
        """Set up; nothing happens before `carry_out`."""
        self.run = run
        self.unit = unit
        self.index = index
        self.number = number
        self.owner = owner
        self.on_end = on_end
        self.task: PlannedTask = run.data.plan.tasks[index]
        self.instance: InstanceKey = run.data.instances[unit]
        self._failures = failures
        self._interruptions = interruptions

    # -------------------------------------------------------------------------------------------- facts and signals

    @property
    def is_over(self) -> bool:
        """Whether it timed out, was cancelled or has ended, so that it may write no more."""
        return self.is_closed or self.cancel_reason is not None

    @property
    def name(self) -> str:
        """`run/task`, or `run/task[map index]`, for messages."""
        run_id, task_id, map_index = self.instance
        return f"{run_id}/{task_id}" if map_index is None else f"{run_id}/{task_id}[{map_index}]"

    @property
    def stack(self) -> str:
        """Where its handler waits; empty where that can't be told, as of a sync handler in its thread."""
        return "" if self._handler is None else stack_of(self._handler)

    @property
    def has_time_limit(self) -> bool:
        """Whether it may go on without what it waits for: its time is limited, or a task beside its handler is what waits."""
        if self.task.timeout_s is not None or anyio.current_effective_deadline() < inf:
            return True
        return not getattr(self._handler, "cr_running", True)

    def ensure_started(self) -> None:
        """Have its start recorded, as others may now notice that it runs.

        A handler that never waits ends before anyone could; its start goes into the outcome's row.
        """
        if not self._is_start_written:
            self._is_start_written = True
            operation = StartAttempt(
                instance=self.instance, attempt=self.number, started_us=self._started_us, seq=self._start_seq
            )
            self.run.data.broker.cast(self.run.data.book, operation)

    @asynccontextmanager
    async def parked(self, *, keeps_room: bool = False) -> AsyncGenerator[None]:
        """Hold no slot inside, as while the handler waits for others; leaving waits for one.

        One that `keeps_room` leaves its slot to other runs only, as it holds a value that waits for the disk.

        Where several tasks of one handler are in it at once, the slot comes back when the last of them leaves.

        Cancellation: of the attempt: it ends without a slot. Of less, as by a timeout in the handler: once the slot is back.
        """
        keeper = self.slot_keeper
        if keeper is None:  # It has ended, and what it left behind holds no slot.
            yield
            return
        self.ensure_started()
        threads = 0 if self.task.is_async else 1  # A thread that waits is not one of those that may run at once.
        self.run.threads.total_tokens += threads
        keeper.leave_slot(self, keeps_room=keeps_room)
        try:
            yield
        finally:
            self.run.threads.total_tokens -= threads
            await keeper.regain_slot(self)  # noqa: ASYNC102, ASYNC119 - it shields itself from all but the attempt's cancellation

    def note_reads(self, texts: Iterable[str]) -> None:
        """Have reads of the handler stored with the outcome."""
        if self._reads is None:
            self._reads = Reads(self._inputs_read)
        self._reads.note(texts)

    def _lineage(self) -> str | None:
        mark = self.run.data.lineage_mark
        return lineage_text(self._inputs_read, mark) if self._reads is None else self._reads.text(mark)

    def cancel(self, reason: CancelReason) -> None:
        """Cancel the handler. The first reason stands; later ones change nothing."""
        if not self.is_over:
            self.cancel_reason = reason
            if self.scope is not None:
                self.scope.cancel()
            if self.on_cancel is not None:
                self.on_cancel(self)

    def restart(self) -> None:
        """Cancel the handler, as a stream that it has read of began anew: another attempt begins at once."""
        self.cancel(CancelReason.RESTARTED)

    # ------------------------------------------------------------------------------------------------------ the way

    async def carry_out(self, on_suspend: Callable[[], None]) -> bool:
        """Run the handler and hand its outcome to the broker, whatever happens.

        `on_suspend` is called when the attempt first waits for something.

        Returns:
            Whether the broker took the outcome.
        """
        run, book = self.run, self.run.data.book
        self._on_suspend = on_suspend
        self._started_us = run.environment.now_us()
        self._start_seq = book.next_seq()
        book.open_attempt(self.instance, self.number)
        if self.on_start is not None:
            self.on_start()
        timer = None
        if self.task.timeout_s is not None:
            self._deadline = anyio.current_time() + self.task.timeout_s
            timer = run.timers.after(self.task.timeout_s, partial(self.cancel, CancelReason.TIMEOUT))
        outcome: FinishAttempt | None = None
        try:
            value = await self._call()
            if self.cancel_reason is None:
                outcome = await self._succeed(value)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - the task's end, never the loop's or another task's
            outcome = None if self.cancel_reason is not None else self._judge(error)
        finally:
            if timer is not None:
                timer.cancel()
        # Acceptance is the linearisation point: a cancel that came before it wins over whatever the handler made of it.
        if outcome is None or self.cancel_reason is not None:
            outcome = self._end_cancelled()
        return self._hand_in(outcome)

    def _suspended(self) -> None:
        self.ensure_started()
        self._on_suspend()

    async def _call(self) -> Any:
        run, task = self.run, self.task
        try:
            usual = usual_arguments(run.data, task) if task.wholes else None
            if usual is None:
                args, kwargs = self._fill(await self._read_inputs())
            else:
                args, kwargs = (), usual
                self._inputs_read = usual_texts(run.data, self.index)
        except DagrelayError as error:
            raise _InputError(error) from error
        if task.is_async:
            handler = self._handler = task.handler(*args, **kwargs)
            return await drive(handler, self._own_context(), self._suspended)
        # A thread can't be cancelled: on timeout or cancel it is left to end by itself, and what it pushes then is refused.
        call = partial(_boxed, partial(task.handler, *args, **kwargs))
        work = anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=run.threads)
        ended = await drive(work, self._own_context(), self._suspended)
        if isinstance(ended, _Raised):
            raise ended.error
        return ended

    async def _read_inputs(self) -> Values:
        data, task = self.run.data, self.task
        if not task.reads and not task.earlier:
            return {}
        values, missing = at_hand(data, task.reads)
        if missing or task.earlier:
            self._suspended()
            values.update(await fetch(data, missing, task.earlier))
        self._inputs_read = noted(data, self.index, values)
        return values

    def _own_context(self) -> Context:
        context = self.run.context.copy()
        context.run(CARRIED.set, self)
        return context

    def _fill(self, values: Values) -> tuple[tuple[Any, ...], dict[str, Any]]:
        run, task = self.run, self.task
        missing = task.missing or run.missing
        inputs = Inputs(run.data, values, params=run.params, facts=self._facts() if task.has_templates else {})
        context = None
        if task.needs_context:
            config = None
            if task.config is not None:
                config = render_tree(
                    task.config, inputs, missing=missing, max_chars=run.max_chars, on_missing=inputs.expression_missing
                )
            context = self._context(config)
        elements = () if self.instance.map_index is None else run.elements[self.index].at(self.instance.map_index)
        return fill(task, inputs, context=context, params=run.params, missing=missing, max_chars=run.max_chars, elements=elements)

    def _facts(self) -> dict[tuple[str, str], Any]:
        run = self.run
        return {
            ("run", "id"): self.instance.run_id,
            ("run", "dag_id"): run.data.plan.dag_id,
            ("run", "started_at"): from_us(run.started_us).isoformat(),
            ("task", "id"): self.task.task_id,
            ("task", "attempt"): self.number,
            ("task", "map_index"): self.instance.map_index,
        }

    def _context(self, config: Any) -> TaskContext:
        run = self.run
        return TaskContext(
            run_id=self.instance.run_id,
            dag_id=run.data.plan.dag_id,
            task_id=self.task.task_id,
            map_index=self.instance.map_index,
            attempt=self.number,
            params=_own_copy(run.params),
            config=config,
            xcom=TaskXCom(run.data, self.index, self, unit=self.unit),
            deadline=self._deadline,
            run_started_at=from_us(run.started_us),
        )

    async def _succeed(self, value: Any) -> FinishAttempt:
        data, task = self.run.data, self.task
        entries: tuple[NewEntry, ...] = ()
        follows = None
        if task.kind is not TaskKind.PLAIN and task.kind in CHOOSING_KINDS:
            follows, value = choose(data.plan, task, value)
        if task.auto_push:
            entries = data.door.returned(
                data.book,
                value,
                multiple_outputs=task.multiple_outputs,
                serializer=task.serializer,
                declared=MISSING if isinstance(task.return_type, str) else task.return_type,
            )
        size = data.streams.flush(self.instance)  # A success that has no room must not have acknowledged anything.
        for entry in entries:
            size += len(entry.value)
        if data.broker.is_congested or (size and data.book.is_over_budget(size)):
            self._suspended()
            await self._wait_for_room_for(size)
            # Others have moved the timeline on meanwhile.
            entries = placed(data.book, entries)
        return self._outcome(TaskState.SUCCESS, entries=entries, follows=follows)

    async def _wait_for_room_for(self, size: int) -> None:
        """Wait until a value can be handed in; while it waits others may take what was left of the budget."""
        data = self.run.data
        while data.broker.is_congested or (size and data.book.is_over_budget(size)):
            if size:
                await data.broker.make_budget(data.book, size)
            if data.broker.is_congested:
                async with self.parked(keeps_room=True):
                    await data.broker.wait_for_room()

    # ------------------------------------------------------------------------------------------------------ judging

    def _judge(self, error: BaseException) -> FinishAttempt:
        """Return the outcome of an attempt that raised without having been cancelled by the runtime."""
        if isinstance(error, _InputError) and not isinstance(error.original, StoreError):
            self.error = error.original
            return self._outcome(TaskState.FAILED, error=error_record(error.original), failures=self._failures + 1)
        self.error = error.original if isinstance(error, _InputError) else error
        match self.error:
            case Skip(reason=reason):
                return self._outcome(TaskState.SKIPPED, error=ErrorRecord(type="Skip", message=reason))
            case KeyboardInterrupt() | StoreError():
                return self._end_interrupted()
            case _:
                return self._fail(self.error, error_record(self.error))

    def _fail(self, error: BaseException, record: ErrorRecord) -> FinishAttempt:
        """Return a failure, or a retry if the policy has one left for this error."""
        policy, failures = self.task.retry, self._failures + 1
        is_retried = failures < policy.max_attempts and (
            isinstance(error, RetryAfter) or (isinstance(error, policy.retry_on) and not isinstance(error, _NEVER_RETRIED))
        )
        if not is_retried:
            return self._outcome(TaskState.FAILED, error=record, failures=failures)
        random = self.run.environment.random
        delay_s = error.seconds if isinstance(error, RetryAfter) else policy.delay_for(failures, random)
        retry_us = self.run.environment.now_us() + round(delay_s * 1_000_000)
        return self._outcome(TaskState.UP_FOR_RETRY, error=record, failures=failures, retry_us=retry_us)

    def _end_interrupted(self) -> FinishAttempt:
        """Return the outcome where it was not the task's doing: no retry is consumed, and the run stops, to be resumed."""
        self.cancel_reason = CancelReason.INTERRUPTED
        return self._end_cancelled()

    def _end_cancelled(self) -> FinishAttempt:
        match self.cancel_reason:
            case CancelReason.TIMEOUT:
                self.error = TaskTimeoutError(self.task.task_id, self.number, self.task.timeout_s or 0.0)
                return self._fail(self.error, error_record(self.error))
            case CancelReason.CANCELLED:
                return self._outcome(TaskState.CANCELLED)
            case CancelReason.RESTARTED:
                record = ErrorRecord(type="StreamBegunAnew", message="a stream that it had read of was begun anew")
                return self._outcome(TaskState.UP_FOR_RETRY, error=record, retry_us=self.run.environment.now_us())
            case _:
                return self._outcome(TaskState.INTERRUPTED, interruptions=self._interruptions + 1)

    def _outcome(
        self,
        state: TaskState,
        *,
        entries: tuple[NewEntry, ...] = (),
        error: ErrorRecord | None = None,
        retry_us: int | None = None,
        failures: int | None = None,
        interruptions: int | None = None,
        follows: tuple[str, ...] | None = None,
    ) -> FinishAttempt:
        return FinishAttempt(
            instance=self.instance,
            attempt=self.number,
            state=state,
            started_us=self._started_us,
            ended_us=self.run.environment.now_us(),
            start_seq=self._start_seq,
            seq=self.run.data.book.next_seq(),
            entries=entries,
            error=error,
            retry_us=retry_us,
            failures=self._failures if failures is None else failures,
            interruptions=self._interruptions if interruptions is None else interruptions,
            follows=follows,
            lineage=self._lineage(),
        )

    def _hand_in(self, outcome: FinishAttempt) -> bool:
        data = self.run.data
        self.is_closed = True
        data.streams.end_attempt(self.instance, outcome.state)
        try:
            is_accepted = data.broker.hand_in(data.book, outcome, is_start_written=self._is_start_written)
        except XComTooLargeError as error:
            # Others took the rest of the budget while this one waited.
            self.error = error
            refused = self._outcome(TaskState.FAILED, error=error_record(error), failures=self._failures + 1)
            is_accepted = data.broker.hand_in(data.book, refused, is_start_written=self._is_start_written)
        except StaleAttemptError:
            return False
        if is_debug():
            run_id, task_id, _ = self.instance
            get_logger().debug("attempt.ended", run_id=run_id, task_id=task_id, attempt=self.number, state=str(outcome.state))
        return is_accepted


def _own_copy(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return params of which an attempt can change nothing for others."""
    if any(isinstance(value, (dict, list)) for value in params.values()):
        return MappingProxyType(deepcopy(dict(params)))
    return params


@attrs.frozen
class _Raised:
    error: BaseException


def _boxed(call: Callable[[], Any]) -> Any:
    """Return what a sync handler raised instead of raising it: thrown into the host, a GeneratorExit would end that."""
    try:
        return call()
    except BaseException as error:  # noqa: ASYNC103, BLE001 - it is raised again in the host
        return _Raised(error)  # noqa: ASYNC104 - boxed, and raised in the host


class _InputError(Exception):
    """Carries an error of the inputs past the judgement of the handler's: inputs don't change, so a retry is no use."""

    def __init__(self, original: DagrelayError) -> None:
        self.original = original
        super().__init__(original)
