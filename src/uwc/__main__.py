"""``python -m uwc``: the command line, for launchers that take a module."""

from uwc.cli.main import main

if __name__ == "__main__":
    main()
