"""Packages of local code: which files are in them, that their address is their content, and how they are unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from zray.environments import ignores, packages
from zray.node.environments import build

LIMIT = 1 << 20
NAMES = ["a", "b", "ab", "part_1", "part_3", ".x", "a.py", "dir", "cache", "[z", "!b"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
PIECES = st.sampled_from(["a", "b", "dir", "cache", "*", "**", "?", "*.py", "part_[12]", "[!a]", ".*", "a*", "[z",
                          "x\\", "\\!b", "[^a-z]"])
LINES = st.builds(lambda negated, rooted, pieces, folder: negated + rooted + "/".join(pieces) + folder,
                  st.sampled_from(["", "", "!"]), st.sampled_from(["", "", "/"]),
                  st.lists(PIECES, min_size=1, max_size=3), st.sampled_from(["", "", "/"]))


def tree(root, paths):
    """Files at these paths; a path that passes through a file is left out."""
    for path in paths:
        target = root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue


def named(folder, *excludes):
    return [name for name, _ in packages.files_of(str(folder), list(excludes)) if not name.endswith("/")]


@pytest.mark.skipif(not shutil.which("git"), reason="git is the oracle")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATHS, min_size=1, max_size=8), st.lists(LINES, max_size=4), st.lists(LINES, max_size=2))
def test_ignore_files_leave_out_what_git_leaves_out(tmp_path_factory, paths, top, inner):
    root = tmp_path_factory.mktemp("tree")
    tree(root, paths)
    (root / ".gitignore").write_text("".join(line + "\n" for line in top))
    if (root / "dir").is_dir():
        (root / "dir" / ".gitignore").write_text("".join(line + "\n" for line in inner))
    run = {"cwd": root, "capture_output": True, "text": True, "check": True,
           "env": {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}}
    subprocess.run(["git", "init", "-q"], **run)
    listed = subprocess.run(["git", "ls-files", "-z", "--others", "--exclude-standard"], **run).stdout
    assert named(root) == sorted(set(listed.split("\0")) - {""}, key=lambda name: name.split("/"))


@pytest.mark.parametrize(("patterns", "left"), [
    (["file"], ["dir/sub/x", "top"]), (["dir/sub"], ["dir/file", "file", "top"]), (["*"], []),
    (["/file"], ["dir/file", "dir/sub/x", "top"]), (["dir/"], ["file", "top"]),
    (["*", "!top"], ["top"])])
def test_excludes_are_patterns_relative_to_the_folder(tmp_path, patterns, left):
    tree(tmp_path, ["file", "top", "dir/file", "dir/sub/x"])
    assert named(tmp_path, *patterns) == left


def test_an_ignore_file_takes_back_neither_excludes_nor_what_is_never_code(tmp_path):
    tree(tmp_path, ["a", "b", ".git/config", "pkg/__pycache__/x.pyc", "venv/x"])
    (tmp_path / ".gitignore").write_text("!a\n!.git\n")
    assert named(tmp_path, "a") == [".gitignore", "b"]


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    tree(tmp_path / "in", ["x/y"])
    tree(tmp_path / "out", ["z"])
    (tmp_path / "in" / "out").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "x" / "self").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "dead").symlink_to(tmp_path / "nowhere")
    assert named(tmp_path / "in") == ["out/z", "x/y"]


def test_the_same_content_has_the_same_address_and_other_content_another(tmp_path):
    addresses = []
    for number, text in enumerate(["1", "1", "2"]):
        folder = tmp_path / str(number) / "code"
        tree(folder, ["b/x", "a"])
        (folder / "a").write_text(text)
        os.utime(folder / "a", (number, number))
        package = packages.pack(str(folder), [], named=True, bytes_max=LIMIT)
        package.file.close()
        addresses.append(package.address)
    assert addresses[0] == addresses[1] != addresses[2]
    assert len(packages.digest_of(addresses[0])) == packages.DIGEST_SIZE


def unpacked(package, tmp_path):
    stored = tmp_path / "stored"
    with package.file:
        stored.write_bytes(package.file.read())
    return build._package(str(tmp_path / "root"), package.address, str(stored))


def test_a_folder_comes_out_as_it_went_in(tmp_path):
    code = tmp_path / "code"
    tree(code, ["a", "b/c"])
    (code / "empty").mkdir()
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o755)
    path = unpacked(packages.pack(str(code), [], named=False, bytes_max=LIMIT), tmp_path)
    assert sorted(os.listdir(path)) == ["a", "b", "empty", "run.sh"] and os.listdir(path + "/b") == ["c"]
    assert os.stat(path + "/run.sh").st_mode & 0o111 and not os.stat(path + "/a").st_mode & 0o111


@pytest.mark.parametrize("name", ["module.py", "folder"])
def test_a_module_keeps_its_name(tmp_path, name):
    if name == "folder":
        tree(tmp_path / name, ["__init__.py"])
    else:
        (tmp_path / name).write_text("")
    path = unpacked(packages.pack(str(tmp_path / name), [], named=True, bytes_max=LIMIT), tmp_path)
    assert os.listdir(path) == [name]


def test_an_empty_folder_is_a_package(tmp_path):
    (tmp_path / "code").mkdir()
    assert os.listdir(unpacked(packages.pack(str(tmp_path / "code"), [], named=False, bytes_max=LIMIT), tmp_path)) == []


def test_a_zip_is_taken_as_it_is_and_a_wheel_is_spread(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x/y", "1")
    path = unpacked(packages.pack(str(tmp_path / "a.zip"), [], named=False, bytes_max=LIMIT), tmp_path)
    assert os.listdir(path) == ["x"]
    with zipfile.ZipFile(tmp_path / "w-1-py3-none-any.whl", "w") as file:
        file.writestr("w-1.data/purelib/w.py", "1")
        file.writestr("other.py", "1")
    path = unpacked(packages.pack(str(tmp_path / "w-1-py3-none-any.whl"), [], named=True, bytes_max=LIMIT), tmp_path)
    assert sorted(os.listdir(path)) == ["other.py", "w.py"]


def test_an_entry_cannot_leave_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("../../outside", "1")
    path = unpacked(packages.pack(str(tmp_path / "a.zip"), [], named=False, bytes_max=LIMIT), tmp_path)
    assert os.listdir(path) == ["outside"] and not (tmp_path / "outside").exists()


def test_too_large_a_folder_is_refused_with_its_largest_file_and_what_is_no_zip_too(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "big.bin").write_bytes(os.urandom(200_000))
    with pytest.raises(packages.PackageTooLarge, match=r"package_bytes_max allows 100,000; .*big\.bin with 200,000"):
        packages.pack(str(tmp_path / "code"), [], named=False, bytes_max=100_000)
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is no zip file"):
        packages.pack(str(tmp_path / "a.zip"), [], named=False, bytes_max=LIMIT)


def test_a_file_of_any_size_is_packed_and_one_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # in place of 2 GiB
    code = tmp_path / "code"
    code.mkdir()
    (code / "big").write_bytes(bytes(10_000))
    path = unpacked(packages.pack(str(code), [], named=False, bytes_max=LIMIT), tmp_path)
    assert os.path.getsize(path + "/big") == 10_000
    monkeypatch.setattr(packages, "_COPY_BYTES", 100_000)
    (code / "big").write_bytes(os.urandom(2_000_000))
    with pytest.raises(packages.PackageTooLarge, match=r"package of (\d{3}),\d{3} bytes.*/big with 2,000,000 bytes"):
        packages.pack(str(code), [], named=False, bytes_max=200_000)


def test_what_is_removed_while_its_folder_is_packed_is_left_out(tmp_path, monkeypatch):
    code = tmp_path / "code"
    tree(code, ["a", "b", "c/d"])
    entry = packages._entry

    def removing(name, mode):
        (code / "b").unlink(missing_ok=True)
        shutil.rmtree(code / "c", ignore_errors=True)
        return entry(name, mode)

    monkeypatch.setattr(packages, "_entry", removing)
    assert os.listdir(unpacked(packages.pack(str(code), [], named=False, bytes_max=LIMIT), tmp_path)) == ["a"]
    with pytest.raises(FileNotFoundError):
        packages.pack(str(tmp_path / "gone"), [], named=False, bytes_max=LIMIT)


@pytest.mark.parametrize("name", [b"x\xff.py", b"folder\xff/"])
def test_a_name_that_is_not_utf8_is_named_in_the_error(tmp_path, name):
    place = os.path.join(os.fsencode(tmp_path), name)
    if name.endswith(b"/"):
        os.mkdir(place)
    else:
        open(place, "wb").close()
    with pytest.raises(ValueError, match=r"\\udcff.*is not UTF-8: rename it"):
        packages.pack(str(tmp_path), [], named=False, bytes_max=LIMIT)


def test_a_downloaded_zip_loses_the_folder_that_everything_is_in(tmp_path):
    with zipfile.ZipFile(tmp_path / "repo.zip", "w") as file:
        file.writestr("repo-main/mod.py", "1")
    path = build._package(str(tmp_path / "root"), (tmp_path / "repo.zip").as_uri(), "")
    assert os.listdir(path) == ["mod.py"]
    again = build._package(str(tmp_path / "root"), (tmp_path / "repo.zip").as_uri(), "")
    assert again == path, "and is read once"


def test_an_address_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(build.BuildError, match=r"gone\.zip could not be read: "):
        build._package(str(tmp_path / "root"), (tmp_path / "gone.zip").as_uri(), "")


def test_an_invalid_pattern_is_skipped():
    assert ignores.parse(["[a", "", "# no", "/", "!"]) == []
