"""The clock of a running gateway."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks. Implements ``contract.Clock``."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
