"""What a terminal gets: text that it shows and does not obey, and the exit code of our faults."""

from __future__ import annotations

import unicodedata

__all__ = ["FAULT_EXIT", "shown"]

FAULT_EXIT = 70
"""Exit code of a fault of memdiff itself, EX_SOFTWARE of sysexits.h."""

# Control characters, characters that turn the direction of writing, and bytes of no encoding.
_HIDDEN = ("Cc", "Cf", "Cs")


def shown(text: str) -> str:
    r"""Text with control characters and undecodable bytes written out, line ends apart.

    A file name may hold escape sequences, which would colour, move or overwrite what is on the
    screen, or bytes that are no UTF-8, which cannot be printed.

    >>> print(shown("train (\x1b[31mred\x07.npy) caf\udce9"))
    train (\x1b[31mred\x07.npy) caf\xe9
    """
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in _HIDDEN
        else _written_out(ord(character))
        for character in text
    )


def _written_out(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode
        return f"\\x{code - 0xDC00:02x}"
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
    )
