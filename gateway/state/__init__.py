"""Short-lived data that all workers share: token buckets. ``base`` is the seam, one file per backend."""

from __future__ import annotations

from gateway.state.base import open_state

__all__ = ["open_state"]
