"""The end of a worker process: what runs, in which order, and how long at most."""

from __future__ import annotations

import pytest

from tests.e2e.scripts import run_script
from zray.worker.actors.ends import exit_code


@pytest.mark.parametrize(("error", "code"), [
    (SystemExit(), 0), (SystemExit(None), 0), (SystemExit(3), 3), (SystemExit(-1), 255), (SystemExit(True), 1),
    (SystemExit("why"), 1)])
def test_exit_codes_are_those_of_the_interpreter(error, code, capsys):
    assert exit_code(error) == code
    assert capsys.readouterr().err == ("why\n" if code == 1 and error.code == "why" else "")


def test_exit_handlers_that_hang_end_the_process_and_the_log_says_where(tmp_path):
    done = run_script(tmp_path, """
        import atexit, threading
        from zray.worker.actors import ends

        def waits_for_ever():
            threading.Event().wait()

        atexit.register(waits_for_ever)
        ends.EXIT_HANDLERS_S = 0.1
        ends.run_exit_handlers(None, "the actor Keeper")
    """, check=False)
    assert done.returncode == 1
    assert "the exit handlers of the actor Keeper (__ray_shutdown__, __del__, atexit) have not ended" in done.stderr
    assert "in waits_for_ever" in done.stderr


def test_an_instance_without_weak_references_or_in_a_cycle_is_finalised(tmp_path):
    done = run_script(tmp_path, """
        import types
        from zray.worker.actors import ends

        class Slotted:
            __slots__ = ("me",)
            def __del__(self):
                print("del", type(self).__name__)

        class Plain:
            def __ray_shutdown__(self):
                print("shutdown")
                raise ValueError("on purpose")
            def __del__(self):
                print("del", type(self).__name__)

        for cls in (Slotted, Plain):
            host = types.SimpleNamespace(instance=cls())
            host.instance.me = host.instance
            host.forget_instance = lambda host=host: setattr(host, "instance", None)
            ends.run_exit_handlers(host, "it")
    """)
    assert done.stdout.split("\n")[:3] == ["del Slotted", "shutdown", "del Plain"] and "on purpose" in done.stderr
