"""Fields of runtime environments: what is refused, the one form, how they merge, what must be installed."""

from __future__ import annotations

import json
import pickle
import types
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import zray as ray
from zray.environments import setup, spec
from zray.handles.options import ActorOptions, TaskOptions
from zray.node.environments import venvs
from zray.runtime_env import RuntimeEnv, RuntimeEnvConfig


@pytest.mark.parametrize(("field", "value", "error", "words"), [
    ("working_dir", 1, TypeError, "`working_dir` must be a string, got <class 'int'>"),
    ("working_dir", "/no/such/place", ValueError, "is not a valid path"),
    ("working_dir", __file__, ValueError, "is not a valid path"),
    ("working_dir", "https://example.com/a.tar.gz", ValueError, "Only .zip files supported for remote URIs"),
    ("working_dir", "s3://bucket/a", ValueError, "Only .zip files supported"),
    ("working_dir", "gs://bucket/a", ValueError, "Only .zip files supported"),
    ("working_dir", "gopher://x/a.zip", ValueError, "is not a valid URI"),
    ("py_modules", ".", TypeError, "`py_modules` must be a list of strings"),
    ("py_modules", [1], TypeError, "`py_module` must be a string"),
    ("py_modules", ["/no/such/place"], ValueError, "is not a valid path"),
    ("py_modules", ["s3://bucket/a.tar"], ValueError, "Only .zip or .whl files supported"),
    ("py_modules", [types.ModuleType("made_up")], ValueError, "not in one folder or file"),
    ("excludes", "a", TypeError, r"runtime_env\['excludes'\] must be of type List\[str\]"),
    ("excludes", [1], TypeError, "List"),
    ("pip", 1, TypeError, r"runtime_env\['pip'\] must be of type str or List"),
    ("pip", "/no/such/file.txt", ValueError, "is not a valid file"),
    ("pip", {"package": []}, ValueError, "can only have these fields"),
    ("pip", {"pip_check": True}, ValueError, "must include field 'packages'"),
    ("pip", {"packages": [], "pip_check": 1}, TypeError, r"\['pip_check'\] must be of type bool"),
    ("uv", {"packages": [], "uv_version": 1}, TypeError, r"\['uv_version'\] must be of type str"),
    ("uv", {"packages": [1]}, TypeError, "List"),
    ("py_executable", 1, TypeError, "must be of type str"),
    ("py_executable", " ", ValueError, "is empty"),
    ("py_executable", "python 'x", ValueError, r"is no command line of a shell \(No closing quotation\)"),
    ("py_executable", "python \\", ValueError, r"is no command line of a shell \(No escaped character\)"),
    ("worker_process_setup_hook", 1, TypeError, "must be a function or a str"),
    ("worker_process_setup_hook", "no name", ValueError, "takes a function or 'module.attribute'"),
    ("worker_process_setup_hook", "hook", ValueError, "takes a function or 'module.attribute', not 'hook'"),
    ("config", {"setup_timeout_seconds": 1.5}, TypeError, "setup_timeout_seconds must be of type int"),
    ("config", {"setup_timeout_seconds": "10"}, TypeError, "setup_timeout_seconds must be of type int"),
    ("config", {"setup_timeout_seconds": 0}, ValueError, "must be greater than zero or equals to -1"),
    ("config", {"eager_install": 1}, TypeError, "eager_install must be a boolean"),
    ("config", 1, TypeError, "must be a dict or RuntimeEnvConfig"),
    ("conda", {}, ValueError, r"keys \['conda'\] are not supported"),
], ids=str)
def test_a_wrong_field_is_refused_wherever_it_is_written(field, value, error, words):
    for write in (lambda env: RuntimeEnv(**env), lambda env: TaskOptions.build({"runtime_env": env}),
                  lambda env: ActorOptions.build({"runtime_env": env}), lambda env: ray.remote(runtime_env=env)(print),
                  lambda env: ray.init(runtime_env=env)):
        with pytest.raises(error, match=words):
            write({field: value})
    assert not ray.is_initialized()


def test_pip_and_uv_exclude_each_other():
    with pytest.raises(ValueError, match="cannot be specified at the same time"):
        RuntimeEnv(pip=[], uv=[])


@pytest.mark.parametrize(("arguments", "error"), [
    ({"setup_timeout_seconds": 1.0}, TypeError), ({"setup_timeout_seconds": "1"}, TypeError),
    ({"setup_timeout_seconds": True}, TypeError), ({"setup_timeout_seconds": 0}, ValueError),
    ({"setup_timeout_seconds": -2}, ValueError), ({"log_files": "x"}, TypeError), ({"log_files": [1]}, TypeError)])
def test_a_config_is_checked_when_it_is_made(arguments, error):
    with pytest.raises(error):
        RuntimeEnvConfig(**arguments)


def test_a_config_is_the_same_as_its_dict_and_minus_one_is_no_limit():
    config = RuntimeEnvConfig(setup_timeout_seconds=-1)
    assert config == {"setup_timeout_seconds": -1, "eager_install": True, "log_files": []}
    assert pickle.loads(pickle.dumps(config)) == config
    env = RuntimeEnv(env_vars={"A": "1"}, config=config)
    assert setup.timeout_s(spec.normal(env)) == float("inf") and setup.timeout_s({}) == 600
    assert RuntimeEnv.deserialize(env.serialize()) == env and json.loads(env.serialize()) == env


def test_an_environment_tells_its_parts():
    env = RuntimeEnv(pip=["a", "a", "b"], env_vars={"A": "1"}, py_modules=["https://x/m.zip"],
                     py_executable="python -u")
    assert env.pip_config() == {"packages": ["a", "b"]} and env.has_pip()
    assert (env.env_vars(), env.py_modules(), env.py_executable()) == ({"A": "1"}, ["https://x/m.zip"], "python -u")
    assert not env.has_uv() and env.uv_config() == {}
    empty = RuntimeEnv()
    assert (empty.working_dir(), empty.py_modules(), empty.py_executable(), empty.env_vars()) == ("", [], None, {})
    assert not empty.has_working_dir() and not empty.has_pip() and empty.pip_config() == {}


def test_a_wrong_change_of_an_environment_is_refused_and_changes_nothing(tmp_path):
    env = RuntimeEnv(env_vars={"A": "1"})
    with pytest.raises(TypeError, match=r"runtime_env\['env_vars'\] must be of type Dict\[str, str\]"):
        env["env_vars"] = {"A": 1}
    with pytest.raises(ValueError, match="nope"):
        env.set("nope", 1)
    assert env == {"env_vars": {"A": "1"}}
    env.set("working_dir", str(tmp_path))
    assert env.has_working_dir() and env.working_dir() == str(tmp_path)
    with pytest.raises(ValueError, match="cannot be specified at the same time"):
        RuntimeEnv(pip=["a"])["uv"] = ["b"]


def test_the_one_form_has_absolute_paths_and_reads_requirements(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "mod.py").write_text("")
    (tmp_path / "needs.txt").write_text("# comment\na==1\n\n  b\na==1\n")
    monkeypatch.chdir(tmp_path)
    env = {"working_dir": "code", "py_modules": [Path("mod.py"), json], "excludes": ["*.csv"], "pip": "needs.txt",
           "env_vars": None}
    spec.check(env)
    normal = spec.normal(env)
    assert normal == {
        "working_dir": {"path": str(tmp_path / "code"), "excludes": ["*.csv"]},
        "py_modules": [{"path": str(tmp_path / "mod.py"), "excludes": ["*.csv"]},
                       {"path": json.__path__[0], "excludes": ["*.csv"]}],
        "pip": {"packages": ["a==1", "b"]}}
    assert spec.has_local_parts(normal) and spec.normal(spec.written(normal)) == normal
    assert not spec.has_local_parts({"working_dir": "zray://x.zip", "worker_process_setup_hook": "a.b"})


ENVS = st.fixed_dictionaries({}, optional={
    "env_vars": st.dictionaries(st.sampled_from("ABC"), st.sampled_from("12"), min_size=1),
    "working_dir": st.sampled_from(["zray://1.zip", "zray://2.zip"]), "py_executable": st.just("python"),
    "pip": st.just({"packages": ["x"]})})


@given(ENVS, ENVS, ENVS)
def test_fields_of_the_child_replace_and_variables_merge_name_by_name_at_every_depth(one, two, three):
    merged = spec.merged(spec.merged(one, two), three)
    assert merged == spec.merged(one, spec.merged(two, three))
    for field in ("working_dir", "py_executable", "pip"):
        assert merged.get(field) == next((env[field] for env in (three, two, one) if field in env), None)
    assert spec.variables(merged) == {**spec.variables(one), **spec.variables(two), **spec.variables(three)}


def test_an_installer_of_the_child_replaces_the_other_one():
    assert spec.merged({"pip": 1, "working_dir": "w"}, {"uv": 2}) == {"uv": 2, "working_dir": "w"}


def test_environments_that_differ_in_variables_alone_share_what_is_installed():
    one = {"pip": {"packages": ["x"]}, "env_vars": {"A": "1"}, "worker_process_setup_hook": "a.b"}
    assert setup.setup_of(one) == setup.setup_of({"pip": {"packages": ["x"]}}) != ""
    assert setup.setup_of({**one, "env_vars": {"PIP_INDEX_URL": "https://a"}}) != setup.setup_of(one)
    assert setup.setup_of({"env_vars": {"A": "1"}}) == setup.setup_of({"config": {}}) == setup.setup_of({}) == ""


def test_passwords_reach_neither_command_lines_nor_titles():
    options = ["--index-url", "https://u:secret@host/simple", "--extra-index-url=https://u:secret@two", "--pre",
               "-i", "https://open/simple"]
    left, hidden = venvs._without_secrets(options, "PIP_", "")
    assert left == ["--pre", "-i", "https://open/simple"]
    assert hidden == {"PIP_INDEX_URL": "https://u:secret@host/simple", "PIP_EXTRA_INDEX_URL": "https://u:secret@two"}
    assert "secret" not in setup.title(setup.setup_of({"pip": {"packages": ["x @ https://u:secret@host/x.whl"]}}))
