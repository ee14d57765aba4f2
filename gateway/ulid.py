"""ULIDs: ids that sort by time and that two workers never share.

Layout (github.com/ulid/spec): 48 bits of milliseconds since the epoch, then 80 random bits, written as 26 characters of
Crockford's base 32. The randomness comes from the kernel for each id, so a fork cannot repeat one.
"""

from __future__ import annotations

import os
from itertools import product

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high, low in product(_CROCKFORD, repeat=2))
_SHIFTS = tuple(range(120, -1, -10))
_MAX_MS = 2**48 - 1


def ulid(clock_time: float) -> str:
    """A new ULID for ``clock_time``, seconds since the epoch. Times outside of 1970 to 10889 are held to that range."""
    milliseconds = min(max(int(clock_time * 1000), 0), _MAX_MS)
    number = milliseconds << 80 | int.from_bytes(os.urandom(10))
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
