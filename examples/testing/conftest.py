"""One session for all tests of a run, and a fresh actor for each: starting an actor is cheap, a session less so."""

from __future__ import annotations

import pytest
from inventory import Inventory

import zray as ray


@pytest.fixture(scope="session")
def session():
    """A session of two logical CPUs; what tests print in workers does not mix with pytest's output."""
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False) as context:
        yield context
    assert not ray.is_initialized()


@pytest.fixture
def inventory(session):
    actor = Inventory.remote({"bolt": 10, "nut": 3})
    yield actor
    ray.kill(actor)


@pytest.fixture(params=["tasks", "actors"])
def runner(request, session):
    """Something that runs ``fill`` for many orders, in two ways."""
    from inventory import fill

    if request.param == "tasks":
        return lambda inventory, orders: ray.get([fill.remote(inventory, order) for order in orders])
    from zray.util import ActorPool

    @ray.remote
    class Clerk:
        def fill(self, inventory, order):
            return ray.get(fill.remote(inventory, order))

    pool = ActorPool([Clerk.remote() for _ in range(2)])
    return lambda inventory, orders: list(pool.map(lambda clerk, order: clerk.fill.remote(inventory, order), orders))
