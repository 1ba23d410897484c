"""How every refusal of bad input is checked: one line, one sentence, and the names it must say."""

from contextlib import contextmanager

import pytest


@contextmanager
def _refusal(*words, error=ValueError):
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 420
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


@pytest.fixture
def refusal():
    """Context manager: the block raises one line that contains every word."""
    return _refusal
