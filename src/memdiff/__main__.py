"""``python -m memdiff``: the command line."""

from memdiff.cli import main

if __name__ == "__main__":
    main()
