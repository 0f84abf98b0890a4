"""Records of which some are made for every task: frozen for type checkers, and for the interpreter quick to make.

A frozen class of attrs sets each of its fields through `object.__setattr__`, which takes twice the time of plain assignments, and
is felt where a task costs a tenth of a millisecond in all. (The idea is Tin Tvrtković's, of cattrs.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ("quick_frozen",)

if TYPE_CHECKING:
    from attrs import frozen as quick_frozen
else:
    from functools import partial

    from attrs import define

    quick_frozen = partial(define, unsafe_hash=True)
