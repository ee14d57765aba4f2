"""``gateway serve`` as a process: it starts or says in one line why not, and it ends when told to."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.worlds.programs import running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Made

GATEWAY = [sys.executable, "-c", "from gateway.cli import main; main()"]


def configure(place: Path, public: str) -> None:
    """The template on other ports."""
    file = place / "gateway.yaml"
    text = file.read_text().replace("127.0.0.1:8080}", f"{public}}}").replace("127.0.0.1:8081}", "127.0.0.1:0}")
    file.write_text(text)


def test_the_first_key_gets_a_streamed_answer(place: Path, made: Made) -> None:
    """What ``init`` made and ``serve`` serves answers the model ``demo`` at once, without any provider."""
    configure(place, "127.0.0.1:0")
    with running([*GATEWAY, "serve"], ready=r"public listens on (\S+)", output=place / "out", cwd=place) as gateway:
        body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        request = urllib.request.Request(
            f"http://{gateway.said()}/v1/chat/completions",
            json.dumps(body).encode(),
            {"authorization": f"Bearer {made.said['key']['key']}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - loopback
            streamed = answer.read().decode()
    assert streamed.endswith("data: [DONE]\n\n")
    assert '"delta"' in streamed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: signal.Signals, place: Path) -> None:
    """F57: exit 0, and nothing but log lines on the way."""
    configure(place, "127.0.0.1:0")
    with running([*GATEWAY, "serve"], ready="admin listens on", output=place / "out", cwd=place) as gateway:
        gateway.process.send_signal(number)
        assert gateway.process.wait(60) == 0
    assert "Traceback" not in gateway.text()


def test_it_may_open_as_many_files_as_the_system_allows(place: Path) -> None:
    """F33: a shell's limit of 1024 would be met long before ``limits.max_connections``."""
    configure(place, "127.0.0.1:0")
    few = ["sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh", *GATEWAY, "serve"]
    with running(few, ready="admin listens on", output=place / "out", cwd=place) as gateway:
        soft, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard > 256


def test_a_taken_port_is_one_line(place: Path) -> None:
    """F70: it names the listener and the address, and the exit code is not 0."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        configure(place, f"127.0.0.1:{port}")
        result = subprocess.run([*GATEWAY, "serve"], cwd=place, capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert result.returncode == 1
    assert len(said) == 1
    assert re.search(rf"public.*127\.0\.0\.1:{port}", said[0])


def test_without_init_it_says_so(place: Path) -> None:
    """F49: no store is made by serving."""
    (place / "data" / "gateway.db").unlink()
    result = subprocess.run([*GATEWAY, "serve"], cwd=place, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "gateway init" in result.stderr
    assert not (place / "data" / "gateway.db").exists()
