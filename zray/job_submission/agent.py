"""The process behind a JobSubmissionClient: a driver of the cluster that does what lines of JSON ask.

A client may be in a program that is connected to another cluster, or that will call ``init`` later.  So the connection
is that of a process of its own.  It ends when its standard input does.

    stdin    {"call", "args"}             a line each
    stdout   {"result"} or {"error", "kind", ["last": the process ends with this answer]}
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import zray as ray
from zray.job_submission.manager import AGENT_NAMESPACE, JobManager

ERROR_TYPES = {"TypeError": TypeError, "ValueError": ValueError}  # others arrive as RuntimeError


def call(manager: JobManager, name: str, args: dict[str, Any]) -> Any:
    if name == "log_piece":
        piece, status = manager.log_piece(**args)
        return [base64.b64encode(piece).decode("ascii"), status]
    known: dict[str, Callable[..., Any]] = {
        "submit": manager.submit, "details": manager.details, "list": manager.all_details, "stop": manager.stop,
        "delete": manager.delete}
    return known[name](**args)


def main() -> None:
    # The answers have a descriptor of their own: anything else that prints goes to stderr.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        serve(answers)
    ray.shutdown()


def serve(answers: TextIO) -> None:
    """Answer lines until there are no more, or until the node of this driver has died."""
    session_dir = sys.argv[1]
    manager, broken = None, False
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if manager is None:
                ray.init(session_dir, namespace=AGENT_NAMESPACE, log_to_driver=False)
                manager = JobManager()
            answer: dict[str, Any] = {"result": call(manager, asked["call"], asked["args"])}
        except ray.exceptions.LocalRayletDiedError as error:
            answer, broken = {"error": str(error), "kind": "RuntimeError", "last": True}, True
        except Exception as error:
            kind = next((name for name, one in ERROR_TYPES.items() if isinstance(error, one)), "RuntimeError")
            answer = {"error": str(error), "kind": kind}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if broken:
            break  # the client starts another process, which may find the cluster again


if __name__ == "__main__":
    main()
