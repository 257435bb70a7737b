"""rrk with every item taking `--slow SECONDS` longer to write: lets the contract interrupt stages that are too fast for it.

python -m tests.slowly VERB [--slow 0.3] [OPTIONS] [INPUT...]
"""

from __future__ import annotations

import sys
import time

from rrk import cli, sinks


def main() -> None:
    arguments = sys.argv[1:]
    if "--slow" in arguments:
        at = arguments.index("--slow")
        seconds = float(arguments[at + 1])
        del arguments[at : at + 2]
        write = sinks.File.write

        def slowly(self, output, checksum):
            write(self, output, checksum)
            time.sleep(seconds)

        sinks.File.write = slowly
    cli.main(arguments)


if __name__ == "__main__":
    main()
