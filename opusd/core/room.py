"""Room for another attempt on this machine: free memory and free disk, as they were last read.

While there is too little no attempt is dispatched, a human's neither: one more process could bring down those that run,
or fill the disk that the registry is on. What runs is left alone, and workers know their own machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from opusd.core.times import SECOND

if TYPE_CHECKING:
    from opusd.core.decision import Decision
    from opusd.core.limits import Limits

AGAIN: Final = 2 * SECOND
"""While there is too little and jobs are queued, it is read again so often."""
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_AUTOMATIC: Final = 100 * _MIB
_SHARE: Final = 10


class Room(msgspec.Struct, frozen=True):
    """Bytes; None: not known, which holds nothing back. `disk` is the size of the state folder's file system."""

    free_memory: int | None = None
    free_disk: int | None = None
    disk: int | None = None


def lacking(limits: Limits, room: Room) -> tuple[str, ...]:
    """What there is too little of, in words; nothing when another attempt may start."""
    found = []
    memory, disk = limits.min_free_memory, limits.min_free_disk
    if disk == "auto":
        disk = _AUTOMATIC if room.disk is None else min(_AUTOMATIC, room.disk // _SHARE)
    if memory is not None and room.free_memory is not None and room.free_memory < memory:
        found.append(f"the machine has {_size(room.free_memory)} of free memory and min_free_memory is {_size(memory)}")
    if disk is not None and room.free_disk is not None and room.free_disk < disk:
        found.append(
            f"the disk of the state folder has {_size(room.free_disk)} free and min_free_disk is {_size(disk)}"
        )
    return tuple(found)


def settle(decision: Decision) -> None:
    """Take note of what was read last; the audit trail tells when it begins to be too little, and when that ends."""
    state = decision.state
    were, state.short = state.short, lacking(state.limits, state.room)
    decision.undone_by(lambda: setattr(state, "short", were))
    if state.short and not were:
        decision.note("machine.short", detail={"reason": "; ".join(state.short)})
    elif were and not state.short:
        decision.note("machine.ready")


def _size(count: int) -> str:
    """`300 MiB`, `3.2 GiB`."""
    return f"{count / _GIB:.1f}".removesuffix(".0") + " GiB" if count >= _GIB else f"{count // _MIB} MiB"
