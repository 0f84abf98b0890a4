"""The data-passing system: the single writer and its faces (floor 8)."""

from __future__ import annotations

from dagrelay.xcom.consuming import XComStream as XComStream
from dagrelay.xcom.manager import XComManager as XComManager
from dagrelay.xcom.other_run import OtherRun as OtherRun
from dagrelay.xcom.task_xcom import TaskXCom as TaskXCom
from dagrelay.xcom.templates import resolve_templates as resolve_templates

__all__ = ("OtherRun", "TaskXCom", "XComManager", "XComStream", "resolve_templates")
