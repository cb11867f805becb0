"""``python -m zray.cli``."""

from zray.cli import main

main()
