"""Actors with checkpoints in whole clusters, simulated: nearly all that drivers do is to change their states."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zray.sim.cluster import SimCluster
from zray.sim.plan import Plan

SEEDS = 12


def run(seed: int) -> SimCluster:
    plan = Plan.random(seed)
    plan = replace(plan, checkpoints=0.85, actors=True, steps=plan.steps + 8, kills=plan.kills + 4, starved=0)
    cluster = SimCluster(seed, plan)
    cluster.run()
    return cluster


# 10: two processes with calls end; 59: a checkpoint of an earlier life arrives late; 3005, 5036: homes end.
@pytest.mark.parametrize("seed", [*range(SEEDS), 59, 1034, 3005, 5036])
def test_states_are_the_sequential_ones(seed):
    run(seed)


def test_these_schedules_restore_and_replay():
    runs = [run(seed).oracle.applied for seed in range(4, SEEDS)]
    assert sum(one.restored for one in runs) > 3 and sum(one.replayed for one in runs) > 3
    assert sum(len(one.seen) for one in runs) > 50
