"""`python -m rrk` is `rrk`."""

from rrk.cli import main

if __name__ == "__main__":
    main()
