"""Names of Ray's core and of its libraries that zray lacks: the one list, for errors and for the test of names.

An entry stands for everything below it.  A test fails for an entry that zray has, so the list only gets shorter.
"""

from __future__ import annotations

NOT_YET = "is not in zray yet"
REMOVED = "was removed from Ray"
OTHER_LANGUAGES = "calls other languages, and zray is Python"
INSIDE = "belongs to Ray's own processes, and zray has none of them"

def _of(place: str, names: str, why: str) -> dict[str, str]:
    return {f"{place}{name}": why for name in names.split()}


_OF_TASK_IDS = "actor_id for_actor_creation_task for_actor_task for_driver_task for_fake_task for_normal_task"

MISSING: dict[str, str] = {
    # libraries on top of the core
    **_of("", "air data llm rllib serve train tune", NOT_YET),
    "workflow": REMOVED,
    # parts of the core
    "util.tpu": NOT_YET,
    **_of("experimental.", "channel compiled_dag_ref collective", NOT_YET),
    "util.collective.register_collective_backend": NOT_YET,
    **_of("dag.", "CollectiveOutputNode DAGOperationFuture GPUFuture plot", NOT_YET),
    "cluster_utils.AutoscalingCluster": "starts machines, and zray starts none",
    **_of("runtime_env.RuntimeEnv.", """
        conda_config conda_env_name conda_uri has_conda has_py_container image_uri java_jars nsight
        py_container_image py_container_run_options py_container_worker_path rocprof_sys""", NOT_YET),
    **_of("runtime_env.RuntimeEnv.", """
        extensions_fields get_extension known_fields pip_uri plugin_uris plugins py_modules_uris uv_uri virtualenv_name
        working_dir_uri""", INSIDE),
    **_of("util.placement_group.", "check_placement_group_index validate_placement_group", NOT_YET),
    # device to device transport of tensors
    **_of("experimental.", """
        CommunicatorMetadata RDTManager TensorTransportManager TensorTransportMetadata deregister_nixl_memory
        register_nixl_memory register_nixl_memory_pool register_tensor_transport set_nixl_cuda_stream
        set_target_device_for_ref set_target_for_ref wait_tensor_freed""", NOT_YET),
    # other languages, clients, clouds
    **_of("", "Language cross_language java_actor_class java_function", OTHER_LANGUAGES),
    **_of("util.", "client connect disconnect", "is for clients outside a cluster, and zray has no server for them"),
    **_of("util.", "accelerators.tpu spark", NOT_YET),
    **_of("autoscaler.sdk.", """
        bootstrap_config configure_logging create_or_update_cluster fillout_defaults get_docker_host_mount_location
        get_head_node_ip get_worker_node_ips register_callback_handler rsync run_on_cluster teardown_cluster
        """, "starts machines, and zray starts none"),
    # removed, or of Ray's own making
    **_of("experimental.", "dynamic_resources set_resource", REMOVED),
    "util.debug.Suspect": REMOVED,
    **_of("dag.", """
        BIND_INDEX_KEY COLLECTIVE_OPERATION_KEY DAGNODE_TYPE_KEY IS_CLASS_METHOD_OUTPUT_KEY PARENT_CLASS_NODE_KEY
        PREV_CLASS_METHOD_CALL_KEY InputAttributeNode.get_result_type InputNode.get_result_type InputNode.set_context
        """, INSIDE),
    **_of("job_submission.", """
        DriverInfo.model_config JobDetails.model_config JobInfo.from_json JobInfo.to_json""", INSIDE),
    **_of("runtime_env.RuntimeEnvConfig.", """
        build_proto_runtime_env_config default_config from_proto known_fields parse_and_validate_runtime_env_config
        """, INSIDE),
    **_of("util.iter.", """
        LocalIterator.ON_FETCH_START_HOOK_NAME LocalIterator.get_metrics LocalIterator.thread_local
        LocalIterator.zip_with_source_actor MetricsContext ParallelIteratorWorker.par_iter_next
        ParallelIteratorWorker.par_iter_slice SharedMetrics U""", INSIDE),
    **_of("util.multiprocessing.pool.", """
        PoolActor PoolTaskError ResultThread div_round_up ray_get_if_needed ray_put_if_needed""", INSIDE),
    **_of("util.state.", """
        StateApiClient common.JobState.humanify common.JobState.model_config common.JobState.schema_dict
        common.StateResource""", INSIDE),
    **_of("util.state.common.PlacementGroupState.", "topology_assignments topology_strategy", NOT_YET),
    **_of("", "_config internal widgets", INSIDE),
    "experimental.shuffle": "is an example of Ray's, and no interface",
    "util.tracing.tracing_helper": INSIDE,
    **_of("exceptions.", """
        ActorDiedError.BASE_ERROR_MSG ActorDiedError.from_task_error ObjectReconstructionFailedError.REASON_MESSAGES
        RayActorError.BASE_ERROR_MSG RayError.from_bytes RayError.from_ray_exception RayError.to_bytes
        RayTaskError.make_dual_exception_instance""", INSIDE),
    **_of("TaskID.", _OF_TASK_IDS, INSIDE),
    **_of("_raylet.TaskID.", _OF_TASK_IDS, INSIDE),
    **_of("", "ActorID.of PlacementGroupID.of _raylet.ActorID.of _raylet.PlacementGroupID.of", INSIDE),
    "util.serialization.StandaloneSerializationContext": INSIDE,
    "_private.state.next_job_id": INSIDE,
    "experimental.tqdm_ray.tqdm.DEFAULT_FLUSH_INTERVAL_SECONDS": INSIDE,
    **_of("_private.state.GlobalState.", """
        add_worker get_actor_info get_cluster_config get_draining_nodes get_max_resources_from_cluster_config get_node
        get_worker_debugger_port next_job_id profile_events update_worker_debugger_port update_worker_num_paused_threads
        """, INSIDE),
    **_of("_private.worker.Worker.", """
        current_cluster_and_job debugger_port deserialize_objects get_current_err_offset get_current_out_offset
        get_err_file_path get_out_file_path get_serialization_context job_logging_config load_code_from_local main_loop
        print_logs raise_errors rdt_manager record_task_log_end record_task_log_start set_cached_job_id
        set_debugger_port set_err_file set_file_rotation_enabled set_is_connected set_load_code_from_local set_mode
        set_out_file shutdown_rdt_manager task_depth task_paused_by_debugger worker_paused_by_debugger""", INSIDE),
}


def why_missing(name: str) -> str:
    """Of "data.context": "ray.data is not in zray yet"; "" for what is no name of Ray or is in zray."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        known = ".".join(parts[:count])
        if known in MISSING:
            return f"ray.{known} {MISSING[known]}"
    return ""


def no_attribute(module: str, name: str) -> AttributeError:
    """For ``__getattr__`` of the module "zray.util" and the like."""
    why = why_missing(f"{module}.{name}".removeprefix("zray."))
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f": {why}" if why else ""))
