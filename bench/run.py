"""`make bench`: see `bench/README.md`, or `bench/run.py --help`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started as a file, Python looks for modules beside the file; the package is one folder up.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from bench.compare import main

    sys.exit(main())
