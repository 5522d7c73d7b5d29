"""When a cron expression comes due, in a zone: five fields, or a word such as @daily.

Steps, names, `L` and `#` are those of cronsim, and so is what happens where a clock leaps, as in Debian's cron: what
names an hour that is skipped comes at the leap, and what names an hour that is shown twice comes the first time; what
begins its minutes or hours with a star goes by the time that passes.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

from opusd.core.times import HOUR, SECOND

WORDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS: Final = "five fields: minute hour day month weekday"
_LONGEST: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Calendar:
    """ValueError for an expression that is none, or that never comes due after `now` (microseconds)."""

    def __init__(self, cron: str, zone: tzinfo, now: int) -> None:
        self._zone = zone
        self._cron = _expression(cron)
        try:
            never = self.after(now) is None
        except CronSimError as error:
            field = str(error).removeprefix("Bad ")
            raise ValueError(f"{cron!r} has a wrong {field}: it takes {_FIELDS}, such as 0 3 * * mon-fri") from None
        if never:
            raise ValueError(f"{cron!r} never comes: no day is like that")

    def after(self, moment: int) -> int | None:
        """The first firing later than `moment`; None when there is none in the next fifty years."""
        begin = _EPOCH + timedelta(seconds=moment // SECOND)
        for found in CronSim(self._cron, begin.astimezone(self._zone)):
            firing = (found.astimezone(UTC) - _EPOCH) // timedelta(seconds=1) * SECOND
            if firing > moment:  # in the hour that a clock shows twice it names the first one, which may be over
                return firing
        return None

    def recent(self, after: int, until: int, most: int) -> tuple[list[int], bool]:
        """The firings later than `after`, to `until`, of these the last `most`; and whether there were more.

        It looks back from the end, further each time: after a year's rest a firing each minute costs no more.
        """
        back = HOUR
        while True:
            begin = max(after, until - back)
            found = []
            firing = self.after(begin)
            while firing is not None and firing <= until:
                found.append(firing)
                firing = self.after(firing)
            if begin == after or len(found) > most:
                return found[-most:], len(found) > most
            back *= 2


def _expression(cron: str) -> str:
    text = cron.strip()
    if text.startswith("@"):
        if text.lower() not in WORDS:
            raise ValueError(f"{cron[:40]!r} is not one of {', '.join(WORDS)}")
        return WORDS[text.lower()]
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST} characters")
    if len(text.split()) != 5:
        raise ValueError(f"{cron!r} has {len(text.split())} fields: it takes {_FIELDS}, such as 0 3 * * mon-fri")
    return text
