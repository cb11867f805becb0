"""The kinds of events in a schedule of the cluster simulator."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from zray.sim.network import Faults

FAULTS_S = 0.6  # length of the first phase of a run on one node
CLUSTER_FAULTS_S = 1.5  # the same on several nodes: a silent node is dead after SIM_NODE_TIMEOUT_S
SIM_NODE_TIMEOUT_S = 0.6
SEVERAL = 0.3  # part of the seeds that have more than one node

# Faults of a node: its process is killed (connections are refused), its machine loses power (silence), it is stopped
# for a while, cut off from all others or from one, its links break, another node joins, it leaves.
NODE_FAULTS = ("kill", "kill", "off", "pause", "freeze", "isolate", "part", "reset", "join", "join", "leave")
# Drawn apart, so that schedules of older seeds stay: its turns are late by many seconds, and its transport answers; it
# is cut off from all others for so long that it is declared dead, then it is reached again; all its processes compete
# for a CPU with others, which fork without end; one of its drivers or workers stands still, as in a long call that
# holds the interpreter lock; its memory runs out for a while.
DRAWN_APART = ("starve", "outage", "crowd", "stall", "squeeze")
# None of these may lose anything: everything is late, that is all.
LATE_ONLY = ("starve", "crowd", "stall")
OUTAGE_S = 1.5  # by which the first phase of a run with outages is longer


@dataclass(frozen=True, slots=True)
class Plan:
    """The kinds of events in a schedule; drawn from the seed, so that seeds differ in kind, not only in detail."""

    drivers: int = 2
    cpus: int = 2  # of each node
    steps: int = 12  # actions of each driver
    pace: float = 0.4  # how often a driver pauses between two actions; the length of the pauses is proportional
    depth: int = 2
    task_s_max: float = 0.01
    faults: Faults = Faults(0.00005, 0.0005, slow=0.02)
    faults_s: float = FAULTS_S
    kills: int = 0  # workers killed
    driver_deaths: int = 0
    cancels: bool = False
    actors: bool = True
    burst: int = 0  # tasks that each driver submits at once, and reads with wait
    nodes: int = 1
    node_faults: tuple[str, ...] = ()
    detached: bool = False  # actors with names that outlive their drivers
    groups: bool = False  # placement groups
    opens: bool = False  # drivers keep references from inside values, and pass them on; other processes own these
    bound: bool = False  # hard affinities, also to nodes that are gone
    starved: int = 0  # times that a daemon gets no turn for long, while its process answers
    outages: int = 0  # times that a node is cut off until it is declared dead, and then reached again
    crowds: int = 0  # times that a machine has far too much to do
    squeezes: int = 0  # times that the memory of a node runs out for a while
    stalls: int = 0  # times that a driver or worker stands still
    maps: bool = False  # f.map
    generators: bool = False  # whose items are the returns of their task
    stored: bool = False  # results that lie in a store
    loses: bool = False  # what lies on a node that dies may be lost
    transfers: bool = False  # reads from other nodes take time and may fail; some objects are on disk
    far: bool = False  # drivers keep results on other nodes, of which one ends
    whys: bool = False  # drivers ask why objects are pending
    checkpoints: float = 0.0  # part of the steps that use actors with checkpoints
    rejoins: bool = False  # a node that was declared dead and is not joins again, as another node
    last_words: bool = False  # nodes die just when they write the row of an actor or a group
    chains: bool = False  # tasks that take each other's results, in lines, braids and trees
    storm: int = 0  # placement groups that each of some tasks creates, uses and removes

    @classmethod
    def random(cls, seed: int) -> Plan:
        random = Random(f"plan {seed}")
        nodes = random.choice((2, 2, 2, 3, 3, 3, 4, 5)) if random.random() < SEVERAL else 1
        faulty = random.random() < 0.6
        one = nodes == 1
        loses = not one and Random(f"loses {seed}").random() < 0.7
        kept = Random(f"far {seed}")
        far = loses and kept.random() < 0.6
        faults: tuple[str, ...] = (kept.choice(("kill", "off")),) if far else ()
        faults += () if one else tuple(random.choice(NODE_FAULTS) for _ in range(random.randint(0, 4)))
        outages = 0 if one else Random(f"outages {seed}").choice((0, 0, 0, 1, 1, 2))
        return cls(
            nodes=nodes, drivers=random.randint(1, 3) if one else random.randint(2, 4),
            cpus=random.randint(1, 3 if one else 2),
            steps=random.randint(3, 12), pace=0.4 if one else 0.8,
            depth=random.randint(0, 2), task_s_max=random.choice((0.0003, 0.01, 0.05)),
            faults=Faults(0.00005, random.choice((0.0003, 0.005)), slow=random.choice((0.03, 0.3)), drop=0.02 * faulty,
                          duplicate=0.05 * faulty),
            faults_s=FAULTS_S if one else CLUSTER_FAULTS_S + OUTAGE_S * bool(outages), outages=outages,
            crowds=Random(f"crowds {seed}").choice((0, 0, 0, 1, 2)),
            squeezes=Random(f"squeezes {seed}").choice((0, 0, 0, 1, 2)),
            stalls=Random(f"stalls {seed}").choice((0, 0, 0, 1, 3)),
            kills=random.choice((0, 0, 1, 3, 6)), driver_deaths=random.random() < 0.2, cancels=random.random() < 0.4,
            actors=random.random() < (0.7 if one else 0.9), burst=random.choice((0,) * 14 + (60, 200)),
            node_faults=faults,
            detached=random.random() < 0.4, groups=random.random() < 0.3, opens=random.random() < 0.3,
            storm=random.choice((0, 0, 1, 2, 4)), chains=Random(f"chains {seed}").random() < 0.6,
            maps=Random(f"maps {seed}").random() < 0.4,
            whys=Random(f"whys {seed}").random() < 0.3, generators=Random(f"generators {seed}").random() < 0.3,
            checkpoints=0.3 * (Random(f"checkpoints {seed}").random() < 0.4),
            rejoins=Random(f"rejoins {seed}").random() < 0.7, last_words=Random(f"last words {seed}").random() < 0.5,
            stored=far or Random(f"stored {seed}").random() < 0.6, loses=loses, far=far,
            transfers=far or Random(f"transfers {seed}").random() < 0.5,
            starved=0 if one else Random(f"starved {seed}").choice((0, 0, 1, 2)))
