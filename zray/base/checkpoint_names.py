"""Files of checkpoints in the session's folder: workers write them, nodes copy and remove them."""

from __future__ import annotations

CHECKPOINT_FOLDER = "checkpoints"
PARTIAL = ".part"  # behind the name of a file that is being written


def file_name(actor: bytes, life: int, start: int) -> str:
    """Names of one actor sort as its checkpoints follow each other."""
    return f"{actor.hex()}-{life:08d}-{start:016d}"
