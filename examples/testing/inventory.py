"""What the tests beside this file are about: a stock that many clients take from, and a task that fills an order."""

from __future__ import annotations

import zray as ray


class OutOfStock(Exception):
    """There are fewer pieces of an item than an order asks for."""

    def __init__(self, item: str, left: int):
        super().__init__(item, left)
        self.item, self.left = item, left

    def __str__(self) -> str:
        return f"only {self.left} of {self.item!r} left"


@ray.remote
class Inventory:
    """Pieces of each item."""

    def __init__(self, stock: dict[str, int]):
        self.stock = dict(stock)

    def take(self, item: str, pieces: int) -> int:
        """Take ``pieces`` of an item; what is left.

        Raises:
            OutOfStock: there are fewer, and nothing is taken.
        """
        left = self.stock.get(item, 0)
        if left < pieces:
            raise OutOfStock(item, left)
        self.stock[item] = left - pieces
        return self.stock[item]

    def left(self) -> dict[str, int]:
        return self.stock


@ray.remote
def fill(inventory, order: dict[str, int]) -> list[str]:
    """Take what the order asks for; the items that there were too few of."""
    missing = []
    for item, pieces in order.items():
        try:
            ray.get(inventory.take.remote(item, pieces))
        except OutOfStock as error:
            missing.append(error.item)
    return missing
