"""Kernels load in every hostile cache situation, never read code that another user could have planted, and
``import zray.sched`` loads neither numpy nor Numba."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zray.sched.kernels import loading

ROOT = Path(loading.__file__).parents[3]
TIMEOUT_S = 120
NO_JIT = {"NUMBA_DISABLE_JIT": "1"}  # where only the choice of the directory is at stake
SHOW = """
from zray.sched.kernels.loading import Kernels
k = Kernels.load({base!r})
row = k.pick_hybrid(k.matrix([[10]], 1), k.matrix([[10]], 1), k.vector([1]), k.vector([5]), 0, -1, -1)
print(k.cache, "|", k.why.replace(chr(10), " "), "|", int(row))
"""


def python(code: str, home: Path, **environment: str) -> str:
    """Run ``code`` in a fresh interpreter with this home, and no use of the temporary directory; its output."""
    temporary = home / "tmp"
    temporary.mkdir(exist_ok=True)
    (temporary / f"zray-{os.geteuid()}").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        env={**kept, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def load(home: Path, base: str | None = None, **environment: str) -> tuple[str, str]:
    cache, why, row = (part.strip() for part in python(SHOW.format(base=base), home, **environment).split("|"))
    assert row == "0", "the kernels work"
    return cache, why


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir(mode=0o700)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cache is warm; tests that damage it copy it."""
    home = tmp_path_factory.mktemp("warm")
    home.chmod(0o700)
    cache, why = load(home)
    assert cache.startswith(str(home)) and why == ""
    return home


def test_importing_the_scheduler_loads_neither_numpy_nor_numba(home):
    out = python("import sys, zray.sched.node.local, zray.sched.kernels.loading, zray.sched.view\n"
                 "print([name for name in ('numpy', 'numba', 'llvmlite') if name in sys.modules])", home)
    assert out == "[]"


def test_the_cache_is_private_and_read_back_unchanged(warm):
    """And not beside the source."""
    cache = next((warm / ".cache" / "zray").iterdir())
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert any(path.suffix == ".nbi" for path in files)
    assert load(warm) == (str(cache), "")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == files, "compiled again"
    beside = list((ROOT / "zray" / "sched").rglob("*.nb[ic]"))
    assert beside == []


@pytest.mark.parametrize("suffix", ["nbi", pytest.param("nbc", marks=pytest.mark.slow)])
def test_cut_cache_files_are_deleted_and_compiled_without(warm, home, suffix):
    shutil.copytree(warm / ".cache", home / ".cache")
    for path in (home / ".cache").rglob(f"*.{suffix}"):
        path.write_bytes(path.read_bytes()[:-20])
    cache, why = load(home)
    assert cache == "" and "deleted" in why
    assert not list((home / ".cache").rglob("*.nbi"))


def test_without_a_writable_home_or_source_tree_it_compiles_without_a_cache(home):
    """Files stand where directories are needed: refused even to root, as a read-only file system is."""
    (home / ".cache").write_text("not a directory")
    cache, why = load(home)
    assert cache == "" and "no private directory" in why


def test_the_session_directory_stands_in_for_the_home(home, tmp_path):
    (home / ".cache").write_text("not a directory")
    base = tmp_path / "session"
    base.mkdir(mode=0o700)
    cache, why = load(home, str(base), **NO_JIT)
    assert cache.startswith(str(base)) and why == ""


def test_a_directory_that_others_could_write_is_emptied_first(warm, home):
    shutil.copytree(warm / ".cache", home / ".cache")
    cache = next((home / ".cache" / "zray").iterdir())
    cache.chmod(0o777)
    assert load(home, **NO_JIT) == (str(cache), "")
    assert list(cache.iterdir()) == [], "nothing that was there is ever read"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make directories of others")
def test_a_directory_of_somebody_else_is_not_used(home):
    zray = home / ".cache" / "zray"
    zray.mkdir(parents=True)
    os.chown(zray, 12345, 12345)
    cache, why = load(home, **NO_JIT)
    assert cache == "" and "belongs to user 12345" in why
    assert zray.stat().st_uid == 12345, "and left alone"


def test_a_link_in_place_of_the_directory_is_not_followed(home, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (home / ".cache").mkdir(mode=0o700)
    (home / ".cache" / "zray").symlink_to(tmp_path / "elsewhere")
    cache, why = load(home, **NO_JIT)
    assert cache == "" and "not a directory" in why


def test_a_directory_where_others_can_swap_ours_is_not_used(home):
    home.chmod(0o777)
    cache, why = load(home, **NO_JIT)
    assert cache == "" and "others can write" in why


def test_a_kernel_that_disagrees_with_its_twin_is_refused():
    class Wrong:
        def __getattr__(self, name):
            return (lambda *_: 7) if name == "pick_spread" else getattr(loading.Kernels.plain(), name)

    with pytest.raises(RuntimeError, match="pick_spread does not compute what its twin does"):
        loading._try_out(Wrong())


def test_concurrent_loads_give_one_set_of_kernels(home):
    code = """
from concurrent.futures import ThreadPoolExecutor
from zray.sched.kernels.loading import Kernels
with ThreadPoolExecutor(4) as pool:
    print(len({id(k) for k in pool.map(lambda _: Kernels.load(), range(4))}), Kernels.loaded() is not None)
"""
    assert python(code, home, **NO_JIT) == "1 True"

TWO_NODES = """
from zray.sched.cluster.bottom_up import BottomUpScheduler
from zray.sched.kernels.loading import Kernels
from zray.sched.node.local import LocalScheduler
k = Kernels.load()
home, other = (bytes([n]) * 4 + bytes(4) for n in (1, 2))
local = LocalScheduler({"CPU": 10000}, node=home)
scheduler = BottomUpScheduler(local, home)
local.view.use(k)
scheduler.view.use(k)
scheduler.node_joined(other, {"CPU": 10000}, None, 0.0)
for now in (0.0, 1.0, 2.0):
    scheduler.step(now)
scheduler.check()
print(len(scheduler.view.row_of))
"""


def test_a_node_that_has_loaded_kernels_goes_on_when_another_joins(warm):
    assert python(TWO_NODES, warm) == "2"
