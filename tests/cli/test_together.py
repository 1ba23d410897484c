"""How a command of several processes ends."""

import io
import os
import signal

import pytest

from memdiff.cli.together import Voice


class Launched:
    """Two ranks, of which the other has ended: the launcher ends this one as it waits."""

    count = 2

    def speaks(self, sentence):
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    def settle(self):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("end", ["say", "silent"])
def test_a_process_that_ends_is_not_ended_again(end):
    """Catches a second sentence, and another exit code, where the launcher is the faster one."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("ended"))
    try:
        stream = io.StringIO()
        voice = Voice(Launched(), stream)
        voice.say("no such file") if end == "say" else voice.silent()
        assert stream.getvalue() == ("no such file\n" if end == "say" else "")
        assert not heard
    finally:
        signal.signal(signal.SIGTERM, before)
