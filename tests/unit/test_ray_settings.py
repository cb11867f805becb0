"""Ray's keys of _system_config as settings of zray."""

from __future__ import annotations

import json

import pytest

from zray.base.config import Config
from zray.base.ray_settings import translated

SPILL = {"type": "filesystem", "params": {"directory_path": "/d"}}


@pytest.mark.parametrize(("given", "wanted"), [
    (None, {}), ({}, {}),
    ({"max_direct_call_object_size": 100}, {"inline_bytes_max": 100}),
    ({"object_spilling_config": json.dumps(SPILL)}, {"spill_dir": "/d"}),
    ({"object_spilling_config": {"type": "filesystem", "params": {"directory_path": ["/a", "/b"]}}},
     {"spill_dir": "/a"}),
    ({"object_spilling_config": {"type": "smart_open", "params": {"uri": "s3://b"}}}, {"spill_dir": "s3://b"}),
    ({"lineage_pinning_enabled": False}, {"lineage_bytes_max": 0}), ({"lineage_pinning_enabled": True}, {}),
    ({"idle_worker_killing_time_threshold_ms": 500}, {"worker_idle_s": 0.5}),
    ({"health_check_period_ms": 100, "health_check_timeout_ms": 300, "health_check_failure_threshold": 5},
     {"node_timeout_s": 2.0}),
    ({"health_check_failure_threshold": 10}, {"node_timeout_s": 6.0}),
    ({"health_check_period_ms": 1}, {"node_timeout_s": 0.5}),
    ({"gossip_s": 0.5, "task_retry_delay_ms": 1, "task_oom_retries": 3, "of_another_version": 1}, {"gossip_s": 0.5}),
    ({"max_direct_call_object_size": 100, "inline_bytes_max": 7}, {"inline_bytes_max": 7}),
])
def test_keys_with_a_counterpart_are_translated_and_others_ignored(given, wanted):
    assert translated(given, {}) == wanted
    Config.load(translated(given, {}))


def test_rays_variables_come_under_the_keys():
    environ = {"RAY_max_direct_call_object_size": "100", "RAY_lineage_pinning_enabled": "0", "RAY_unknown": "1"}
    assert translated(None, environ) == {"inline_bytes_max": 100, "lineage_bytes_max": 0}
    assert translated({"max_direct_call_object_size": 5}, environ)["inline_bytes_max"] == 5


@pytest.mark.parametrize(("given", "words"), [
    ({"warn_wait": 1}, r"no setting warn_wait \(did you mean 'warn_wait_s'\?\)"),
    ({"max_direct_call_object_size": "many"}, "max_direct_call_object_size cannot be 'many'"),
    ({"object_spilling_config": "{"}, "takes JSON such as"),
    ({"object_spilling_config": {"type": "tape"}}, "filesystem or smart_open, not 'tape'"),
    ({"health_check_period_ms": "soon"}, "take numbers")])
def test_slips_and_impossible_values_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        translated(given, {})
