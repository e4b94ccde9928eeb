"""``uwc`` and ``python -m uwc``: the command line."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported, which takes half a second, ends it in one line, too."""
    try:
        from uwc.cli.main import main as run
    except KeyboardInterrupt:
        print("interrupted by SIGINT", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
