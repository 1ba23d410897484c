"""The command line: parse, call, print.

Standard output carries the result, standard error progress and warnings. Exit codes: 0 done, 1 a
gate that the user set failed, 2 bad usage or bad input, or an experiment that failed, 3 another
process of the run ended, 70 a fault of memdiff itself, 130 interrupted.
"""

from memdiff.cli.program import main

__all__ = ["main"]
