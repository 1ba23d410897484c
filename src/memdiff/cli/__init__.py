"""The command line: parse, call, print.

Standard output carries the result, standard error progress and warnings. Exit codes: 0 done, 1 a
gate that the user set failed (or an experiment did), 2 bad usage or bad input, 3 another process
of the run ended, 130 interrupted.
"""

from memdiff.cli.program import main

__all__ = ["main"]
