"""Objects between nodes: pulls, serving, directory of copies, handover."""
