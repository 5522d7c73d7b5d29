"""opusd with a wall clock that is $CLOCK_AHEAD seconds ahead of the machine's: tests can't wait for a full minute."""

import os
import sys

from opusd import clock, daemon
from opusd.__main__ import main

AHEAD = round(float(os.environ["CLOCK_AHEAD"]) * 1e6)


class ClockAhead(clock.SystemClock):
    def now(self):
        return super().now() + AHEAD

    def offset(self):
        return super().offset() + AHEAD


daemon.SystemClock = ClockAhead
sys.exit(main())
