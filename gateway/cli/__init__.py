"""The command ``gateway``: one file per verb or noun, none of which does more than ask, act and say.

What an administrator does is in :mod:`gateway.cli.desk`, what a verb prints goes through :mod:`gateway.cli.output`.
Exit codes: 0 done, 1 the answer is no, 2 the command was not understood.
"""

from __future__ import annotations

from gateway.cli.root import main

__all__ = ["main"]
