"""``python -m zray.node`` is ``zray-node``."""

from zray.node.daemon import main

main()
