"""Real signals to this process, and to others that are ended by them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stpipe.core.signals import Preempted, Signals


def send(name: str = "SIGUSR1") -> None:
    os.kill(os.getpid(), signal.Signals[name])


def test_a_request_is_raised_at_once_unless_it_is_noted() -> None:
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)
    with Signals(("SIGUSR1",)) as signals:
        with signals.noted():
            send()
            assert signals.received == "SIGUSR1"
            with pytest.raises(Preempted, match="SIGUSR1"), signals.at_once():
                pytest.fail("what can be given up is not begun any more")
            send()  # again: it is on its way
        with pytest.raises(Preempted):
            signals.check()
    with Signals(("SIGUSR1",)) as signals, pytest.raises(Preempted):
        send()
    with Signals(("SIGUSR1",)) as signals, signals.noted(), pytest.raises(Preempted), signals.at_once():
        send()
    assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)) == before


def test_no_handler_of_errors_swallows_a_request() -> None:
    def tolerant() -> None:
        with contextlib.suppress(Exception):
            send()

    with Signals(("SIGUSR1",)), pytest.raises(Preempted):
        tolerant()


def test_a_process_for_which_another_decides_notes_only() -> None:
    with Signals(("SIGTERM",), raises=False) as signals:
        send("SIGTERM")
        signals.check()
        with signals.at_once():
            assert signals.received == "SIGTERM"


def test_signals_that_nobody_enters_change_nothing() -> None:
    signals = Signals(("SIGUSR1",))
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    signals.check()
    assert signals.received is None


SCRIPT = """
import sys, time
from stpipe.core.signals import Signals

def at_end(state, code):
    print(state, code, flush=True)
    return code

signals = Signals(("SIGUSR1",), grace=0.3, at_end=at_end)
with signals, signals.noted():
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("wrapping up", flush=True)
"""


@pytest.fixture
def hanging(repository: Path) -> subprocess.Popen[str]:
    """A process that ends for no request by itself."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_the_grace_period_ends_whatever_hangs(hanging: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    hanging.send_signal(signal.SIGUSR1)
    out, err = hanging.communicate(timeout=60)
    assert hanging.returncode == 75 and time.monotonic() - began >= 0.3
    assert out == "preempted 75\n" and "grace period of 0.3 s" in err


def test_a_second_interrupt_ends_at_once(hanging: subprocess.Popen[str]) -> None:
    assert hanging.stdout is not None
    hanging.send_signal(signal.SIGINT)
    assert hanging.stdout.readline() == "wrapping up\n"
    assert hanging.poll() is None
    hanging.send_signal(signal.SIGINT)
    out, _ = hanging.communicate(timeout=60)
    assert hanging.returncode == 130 and out == "interrupted 130\n"
