"""The lines that keep a promise about how data flow: maps, branches, outside values, waits, slots, streams, forks, lineage."""

from __future__ import annotations

from tests.guards.guard import Guard

__all__ = ("FLOW_GUARDS",)

_CONFORMANCE = "tests/stores/test_conformance.py::TestSqliteStore"
_MAPPING = "tests/runtime/test_mapping.py"
_BRANCHING = "tests/runtime/test_branching.py"
_OUTSIDE = "tests/runtime/test_outside_values.py"
_WAITING = "tests/runtime/test_waiting.py"
_SLOTS = "tests/runtime/test_slots.py"
_POST = "tests/stores/test_inbox.py"
_STREAMING = "tests/runtime/test_streaming.py"

FLOW_GUARDS: tuple[Guard, ...] = (
    # ---------------------------------------------------------------------------------------------- maps and branches
    Guard(
        name="expansion before its elements",
        promise="G6: how long a map is stands in the store before what its elements come to",
        file="runtime/wholes.py",
        safe="            data.broker.cast(data.book, start)\n",
        unsafe="            pass\n",
        tests=(f"{_MAPPING}::test_a_list_of_another_length_is_refused_on_resume",),
    ),
    Guard(
        name="a map's length",
        promise="G6: what elements came to is never taken for that of another list's",
        file="runtime/wholes.py",
        safe="if known is not None and known != length:",
        unsafe="if False:",
        tests=(f"{_MAPPING}::test_a_list_of_another_length_is_refused_on_resume",),
    ),
    Guard(
        name="elements of a map",
        promise="G12: no list makes more task instances than are allowed",
        file="dag/mapping.py",
        safe="if elements.length > max_length:",
        unsafe="if False:",
        tests=(f"{_MAPPING}::test_too_many_elements_are_refused",),
    ),
    Guard(
        name="a branch's choice over a resume",
        promise="G6: a resume follows what was chosen, and asks nobody again",
        file="engine/machine.py",
        safe="if known.follows is not None and known.state is TaskState.SUCCESS:",
        unsafe="if False:",
        tests=(f"{_BRANCHING}::test_a_retry_may_choose_otherwise", f"{_BRANCHING}::test_a_decision_holds_whichever_write_fails"),
    ),
    Guard(
        name="what no branch follows",
        promise="a task that its branch has not chosen does not run",
        file="engine/machine.py",
        safe="            self._mark(other, TaskState.SKIPPED, commands, ended)\n",
        unsafe="            pass\n",
        tests=(f"{_BRANCHING}::test_what_is_chosen_is_followed",),
    ),
    Guard(
        name="branches are awaited",
        promise="it does not depend on time whether a task is skipped",
        file="engine/machine.py",
        safe="if self._choices.is_awaited(index):",
        unsafe="if False:",
        tests=(f"{_BRANCHING}::test_what_is_not_followed_is_skipped_whoever_comes_first",),
    ),
    # -------------------------------------------------------------------------------------------- values from outside
    Guard(
        name="one value from outside",
        promise="who gives a value and is told that it is taken has given the one that counts",
        file="stores/entry_rules.py",
        safe="    if is_there:\n        raise XComConflictError(run_id, task_id, op.entry.key, is_there=True)\n",
        unsafe="",
        tests=(f"{_CONFORMANCE}::test_a_value_is_provided_once",),
    ),
    Guard(
        name="type of a value from outside",
        promise="a value of the wrong type is told to who gives it, and fails no task",
        file="runtime/providing.py",
        safe="    services.door.decode(draft.serializer, draft.value, as_type)\n",
        unsafe="",
        tests=(f"{_OUTSIDE}::test_what_is_not_of_the_type_is_refused",),
    ),
    Guard(
        name="a retry forgets the answer",
        promise="an answer to what was asked before is not taken for one to what is asked now",
        file="runtime/launching.py",
        safe=", then=forget_given(book, image, cleared, outside, at_us=at_us))",
        unsafe=")",
        tests=(f"{_OUTSIDE}::test_an_answer_is_forgotten_with_the_retry",),
    ),
    Guard(
        name="a deadline over restarts",
        promise="time for a value from outside is up when it would have been without a restart",
        file="runtime/outside.py",
        safe="if deadline_us is None and task.timeout_s is not None:",
        unsafe="if task.timeout_s is not None:",
        tests=(f"{_OUTSIDE}::test_a_deadline_is_absolute",),
    ),
    Guard(
        name="a value on its way when time is up",
        promise="a value whose giver is told that it is taken is taken",
        file="runtime/outside.py",
        safe="if wait.is_late and not is_coming:",
        unsafe="if wait.is_late:",
        tests=(f"{_OUTSIDE}::test_a_value_on_its_way_when_time_is_up_is_taken",),
    ),
    Guard(
        name="no links among the messages",
        promise="security: a planted link leads no read astray",
        file="stores/sqlite/inbox.py",
        safe="os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        unsafe="os.O_RDONLY | os.O_NONBLOCK",
        tests=(f"{_POST}::test_what_is_not_a_file_of_ours_alone_is_not_read",),
    ),
    Guard(
        name="owner of a message",
        promise="security: nobody but the store's user asks for anything",
        file="stores/sqlite/inbox.py",
        safe="if status.st_uid != os.geteuid() or status.st_nlink != 1:",
        unsafe="if status.st_nlink != 1:",
        tests=(f"{_POST}::test_a_file_of_another_user_is_not_read",),
    ),
    Guard(
        name="owner of the inbox",
        promise="security: an inbox that others reach is not used",
        file="stores/sqlite/inbox.py",
        safe="if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:",
        unsafe="if False:",
        tests=(f"{_POST}::test_a_folder_that_others_reach_is_used_by_nobody",),
    ),
    Guard(
        name="names in a message",
        promise="security: an id out of a message is none until it was checked",
        file="stores/sqlite/messages.py",
        safe='class CancelMessage:\n    """End a run as cancelled."""\n\n    run_id: str = attrs.field(converter=check_run_id)',
        unsafe='class CancelMessage:\n    """End a run as cancelled."""\n\n    run_id: str',
        tests=(f"{_POST}::test_what_is_no_message_is_refused_without_telling_what_it_said",),
    ),
    Guard(
        name="a message is noted with what it did",
        promise="G1: what another process asked for is done once, also when the owner is killed in between",
        file="stores/sqlite/outside.py",
        safe="    note_done(changes, op.message_id, at_us=op.entry.created_us)\n",
        unsafe="",
        tests=(f"{_CONFORMANCE}::test_a_message_is_carried_out_once",),
    ),
    # ----------------------------------------------------------------------------------------------- waits and slots
    Guard(
        name="who waits sees what is on disk",
        promise="G1: in STRICT no task goes on with a value that a kill can take back",
        file="xcom/task_xcom.py",
        safe="slots = data.book.slots_seen(waiter.awaited) if data.states[index] is TaskState.SUCCESS else None",
        unsafe="slots = data.book.slots_seen(waiter.awaited) if data.states[index] is TaskState.SUCCESS else (1,)",
        tests=(f"{_WAITING}::test_a_strict_waiter_sees_only_what_is_on_disk",),
    ),
    Guard(
        name="a circle of waiters",
        promise="G13: a wait that nothing can end is told",
        file="runtime/scheduler.py",
        safe="        elif not self._is_busy:\n            self._break_deadlock()\n",
        unsafe="",
        tests=(f"{_WAITING}::test_waiters_in_a_circle_are_told_at_once",),
    ),
    Guard(
        name="a waiting attempt leaves its slot",
        promise="G12, G13: who is waited for finds a slot",
        file="runtime/hosting.py",
        safe="            else:\n                self._release(attempt)\n            self.wake()\n",
        unsafe="            self.wake()\n",
        tests=(f"{_SLOTS}::test_runs_within_runs_need_one_slot",),
    ),
    Guard(
        name="room is kept by who lends a slot",
        promise="G12: a run holds no more values that await room than it may have attempts",
        file="runtime/hosting.py",
        safe="            return  # It has ended meanwhile, and somebody it left behind waits.\n",
        unsafe="            return\n        keeps_room = False\n",
        tests=(f"{_SLOTS}::test_who_waits_for_the_disk_lends_his_slot_to_other_runs_only",),
    ),
    # --------------------------------------------------------------------------------------------------------- streams
    Guard(
        name="items on disk",
        promise="G1: a reader is handed only items that are stored",
        file="xcom/consuming.py",
        safe="if self._next_seq < channel.committed and not is_left_over:",
        unsafe="if self._next_seq < channel.accepted and not is_left_over:",
        tests=(f"{_STREAMING}::test_all_items_come_in_order",),
    ),
    Guard(
        name="writes for an item are held",
        promise="G4: what was written for an item that was not acknowledged is not there",
        file="xcom/task_pushes.py",
        safe='if lifetime == "task" and self._streams is not None and self._streams.has_item_in_hand:',
        unsafe="if False:",
        tests=(f"{_STREAMING}::test_what_a_reader_writes_for_an_item_stands_or_falls_with_its_acknowledgement",),
    ),
    Guard(
        name="acknowledgement with its writes",
        promise="G4: an item is acknowledged in the transaction that stores what was written for it",
        file="xcom/consuming.py",
        safe="            streams.broker.accept(Request(self._operation(place, entries), streams.book, size, reply))\n",
        unsafe="            streams.broker.accept(Request(self._operation(place), streams.book))\n"
        "            streams.broker.accept(Request(self._operation(place, entries), streams.book, size, reply))\n",
        tests=(
            "tests/runtime/test_streaming_faults.py::test_a_batch_holds_the_items_of_a_moment_and_each_acknowledgement_its_writes",
        ),
    ),
    Guard(
        name="an attempt that is over waits for nothing",
        promise="G7: a context that is kept beyond its run does not hang",
        file="xcom/task_xcom.py",
        safe="self._check_writable()\n        index, key = self._waitable_index(task), check_key(key)\n",
        unsafe="self._check_thread()\n        index, key = self._waitable_index(task), check_key(key)\n",
        tests=("tests/runtime/test_after_the_end.py::test_a_kept_context_writes_nothing_and_reads_until_its_runtime_is_left",),
    ),
    Guard(
        name="what was not accepted is not seen",
        promise="G4: whoever goes on with a run does not find what was to be stored with an acknowledgement that was refused",
        file="xcom/consuming.py",
        safe="                streams.broker.cache.drop(self._instance, TASK_LIFETIME, entry)\n            raise\n",
        unsafe="                pass\n            raise\n",
        tests=("tests/runtime/test_streaming_faults.py::test_writes_for_an_item_are_forgotten_with_a_refused_acknowledgement",),
    ),
    Guard(
        name="a number names one item",
        promise="G6: other bytes under the seq of an item that is there are refused",
        file="xcom/appending.py",
        safe="if self._known.get(seq) != item:",
        unsafe="if False:",
        tests=(f"{_STREAMING}::test_a_number_names_one_item",),
    ),
    Guard(
        name="a place in a stream is taken once",
        promise="G6: no item takes the place of one that is stored",
        file="stores/stream_rules.py",
        safe="if op.generation < last.generation or op.first_seq < last.next_seq:",
        unsafe="if False:",
        tests=(f"{_CONFORMANCE}::test_a_place_is_taken_once",),
    ),
    Guard(
        name="window of a stream",
        promise="G12: a producer is never a window ahead of its slowest reader",
        file="xcom/channel.py",
        safe="return self._items == 0 or (self._items < self._max_items and self._bytes + size <= self._max_bytes)",
        unsafe="return True",
        tests=("tests/xcom/test_channel.py::test_the_window_is_that_of_the_slowest_reader",),
    ),
    Guard(
        name="stale attempts in streams",
        promise="G7: an attempt that is over neither appends nor acknowledges",
        file="stores/sqlite/streams.py",
        safe="    rules.check_writer(op.instance, changes.instance(place), op.attempt)\n",
        unsafe="",
        tests=(f"{_CONFORMANCE}::test_an_attempt_that_is_over_neither_appends_nor_acknowledges",),
    ),
    # ------------------------------------------------------------------------------------------------ forks and lineage
    Guard(
        name="streams of a fork",
        promise="a fork has the streams of what was copied, and reads none of them short",
        file="stores/sqlite/forks.py",
        safe="        copy_streams(changes, source.run_pk, (run_pk, task_pk, map_index))\n",
        unsafe="        pass\n",
        tests=(f"{_CONFORMANCE}::test_a_fork_has_the_streams_of_what_was_copied",),
    ),
    Guard(
        name="lineage is stored with the outcome",
        promise="what an attempt has read is told as long as its run is there",
        file="runtime/attempt.py",
        safe="            lineage=self._lineage(),\n",
        unsafe="            lineage=None,\n",
        tests=("tests/runtime/test_lineage.py::test_whatever_inputs_read_is_told",),
    ),
)
"""All of them."""
