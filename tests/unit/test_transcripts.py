"""Protocol scenarios as transcripts: each command of a file in tests/transcripts with the messages it leads to.

    # words for the reader
    > command argument ...
    what follows from it, line by line

The name of a file begins with that of its world (tests/unit/transcript_worlds.py).  ``pytest --rewrite-transcripts
tests/unit/test_transcripts.py`` writes what follows today; the diff is what reviewers read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.transcript_worlds import WORLDS

FOLDER = Path(__file__).parents[1] / "transcripts"


def played(text: str, world: object) -> str:
    """``text`` with what its commands lead to now."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            command, *arguments = line[2:].split()
            lines += [line, *getattr(world, command)(*arguments)]
        elif not line or line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: file.stem)
def test_a_scenario_goes_as_its_transcript_says(file: Path, request: pytest.FixtureRequest):
    text = file.read_text(encoding="utf-8")
    now = played(text, WORLDS[file.stem.split("-")[0]]())
    if request.config.getoption("--rewrite-transcripts"):
        file.write_text(now, encoding="utf-8")
    else:
        assert now.splitlines() == text.splitlines(), "on purpose? then --rewrite-transcripts, and read the diff"


def test_each_protocol_has_a_scenario():
    assert {file.stem.split("-")[0] for file in FOLDER.glob("*.txt")} == WORLDS.keys()
