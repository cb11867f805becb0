"""The register of ends: what implies what, what is news, and what is forgotten."""

from __future__ import annotations

from zray.base.ends import Ends

NODE, OTHER = b"node\0\0\0\0", b"othr\0\0\0\0"
ONE, TWO, ELSEWHERE = b"node\0\0\0\1", b"node\0\0\0\2", b"othr\0\0\0\1"


def test_the_end_of_a_node_is_the_end_of_all_its_processes():
    ends = Ends()
    assert not ends.has_ended(NODE)
    assert ends.node_ended(NODE, "power cut")
    assert ends.has_ended(NODE) and ends.has_ended(ONE) and not ends.has_ended(ELSEWHERE)
    assert ends.nodes == {NODE: "power cut"}


def test_the_end_of_a_process_says_nothing_of_its_node_and_of_other_processes():
    ends = Ends()
    assert ends.process_ended(ONE)
    assert ends.has_ended(ONE) and not ends.has_ended(TWO) and not ends.has_ended(NODE)


def test_a_repeated_end_is_no_news_and_keeps_the_first_reason():
    ends = Ends()
    assert ends.node_ended(NODE, "power cut") and not ends.node_ended(NODE, "declared dead")
    assert ends.nodes == {NODE: "power cut"}
    assert ends.process_ended(ELSEWHERE) and not ends.process_ended(ELSEWHERE)
    assert ends.job_ended(7) and not ends.job_ended(7)


def test_a_process_of_a_node_that_has_ended_is_no_news_and_takes_no_room():
    ends = Ends()
    ends.node_ended(NODE)
    assert not ends.process_ended(ONE)
    assert not ends.processes


def test_the_oldest_of_each_kind_is_forgotten_first_and_no_other_kind_suffers():
    ends = Ends(kept_max=2)
    ends.node_ended(OTHER)
    for job in (1, 2, 3):
        ends.job_ended(job)
    for process in (ONE, TWO, b"node\0\0\0\3"):
        ends.process_ended(process)
    ends.check()
    assert list(ends.jobs) == [2, 3]
    assert not ends.has_ended(ONE) and ends.has_ended(TWO)
    assert ends.has_ended(ELSEWHERE)


def test_parts_may_keep_the_dictionaries():
    ends = Ends(kept_max=1)
    nodes = ends.nodes
    ends.node_ended(NODE)
    ends.node_ended(OTHER)
    assert nodes is ends.nodes and list(nodes) == [OTHER]
