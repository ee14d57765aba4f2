"""The engine: listeners, the chain, the upstream side, storage. It knows no particular layer.

Plugin authors import :mod:`gateway.contract` and nothing else from here.
"""

__version__ = "0.1.0"
