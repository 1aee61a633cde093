"""`python -m serac_core`: the command line, for launchers that start a module."""

from serac_core.cli import main

if __name__ == "__main__":
    main()
