"""The built-in layers, one file each.

Installed as ``gateway.plugins`` and found by entry point, like anybody else's.
"""
