"""The cluster as one node sees it: joining, membership, links, leaving, questions to all nodes."""
