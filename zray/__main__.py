"""``python -m zray script.py ...``: run a program with ``ray`` as zray; see zray.compat."""

import sys

from zray.compat.running import CannotRun, run


def main() -> None:
    try:
        run(sys.argv[1:])
    except CannotRun as error:
        sys.exit(f"python -m zray: {error}")


if __name__ == "__main__":
    main()
