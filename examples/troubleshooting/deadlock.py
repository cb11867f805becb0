"""A shop takes the first order and then nothing happens: no error, no CPU in use."""

from __future__ import annotations

from staging import run

import zray as ray


@ray.remote
class Stock:
    def __init__(self) -> None:
        self.orders = None
        self.pieces = {"lamp": 3, "chair": 0}

    def connect(self, orders) -> None:
        self.orders = orders

    def reserve(self, item: str) -> bool:
        if self.pieces[item] == 0:
            self.pieces[item] += ray.get(self.orders.reorder.remote(item))
        self.pieces[item] -= 1
        return True


@ray.remote
class Orders:
    def __init__(self, stock) -> None:
        self.stock = stock

    def place(self, item: str) -> bool:
        return ray.get(self.stock.reserve.remote(item))

    def reorder(self, item: str) -> int:
        return 10


def main() -> None:
    ray.init(num_cpus=2)
    stock = Stock.remote()
    orders = Orders.remote(stock)
    ray.get(stock.connect.remote(orders))
    for item in ("lamp", "chair", "lamp"):
        print("ordered", item, ray.get(orders.place.remote(item)), flush=True)


if __name__ == "__main__":
    run(main, __doc__)
