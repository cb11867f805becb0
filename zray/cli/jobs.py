"""Submitted jobs: ``zray job submit``, ``status``, ``logs``, ``stop``, ``delete`` and ``list``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zray.cli.asking import with_address
from zray.cli.columns import clock
from zray.cli.commands import main
from zray.cli.finding import short_job
from zray.cli.showing import cell, show, with_format
from zray.cli.tables import Column
from zray.cli.text import duration, safe

if TYPE_CHECKING:
    from zray.job_submission import JobDetails, JobSubmissionClient

STATUS_LOOK_S = 0.1
JOB_COLUMNS = (
    Column("SUBMISSION", lambda row: safe(row["submission_id"] or ""), 0, 12),
    Column("JOB", lambda row: short_job(row["job_id"] or ""), 3, 0, True),
    Column("STATUS", lambda row: str(row["status"]).lower()),
    Column("EXIT", lambda row: cell(row["driver_exit_code"]), 2, 0, True),
    Column("STARTED", lambda row: clock(row["start_time"]), 5),
    Column("TOOK", lambda row: _took(row), 1, 0, True),
    Column("ENTRYPOINT", lambda row: safe(row["entrypoint"]), 4, 12))


@contextlib.contextmanager
def _client(address: str) -> Iterator[JobSubmissionClient]:
    """A client whose errors are those of a command."""
    from zray.job_submission import JobSubmissionClient

    try:
        with JobSubmissionClient(address) as client:
            yield client
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@main.group()
def job() -> None:
    """Submit programs to the cluster, and look after them."""


def _resources(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, kind, text in (
            ("--entrypoint-label-selector", str, "JSON: labels of the node that runs the entrypoint"),
            ("--entrypoint-resources", str, "JSON: custom resources of the entrypoint"),
            ("--entrypoint-memory", int, "bytes of memory of the entrypoint"),
            ("--entrypoint-num-gpus", float, "GPUs of the entrypoint"),
            ("--entrypoint-num-cpus", float, "CPUs of the entrypoint itself, beside those of its tasks")):
        command = click.option(name, type=kind, default=None, help=text)(command)
    return command


@job.command(context_settings={"ignore_unknown_options": True})
@click.option("--submission-id", "--job-id", default=None, help="the id of the job (default: one is made)")
@click.option("--runtime-env", default=None, metavar="FILE", help="JSON or YAML: the runtime environment of the job")
@click.option("--runtime-env-json", default=None, metavar="JSON")
@click.option("--working-dir", default=None, help="the job runs in a copy of this directory")
@click.option("--metadata-json", default=None, metavar="JSON")
@_resources
@click.option("--no-wait", is_flag=True, help="do not follow the log until the job ends")
@with_address
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
def submit(address: str, entrypoint: tuple[str, ...], submission_id: str | None, runtime_env: str | None,
           runtime_env_json: str | None, working_dir: str | None, metadata_json: str | None, no_wait: bool,
           entrypoint_resources: str | None, entrypoint_label_selector: str | None, **amounts: Any) -> None:
    """Run a command on the cluster, as in `zray job submit -- python train.py --epochs 3`.

    Follows its log until it ends, and exits with its exit code (128 and the number of the signal that ended it).
    """
    options: dict[str, Any] = {
        "runtime_env": _runtime_env(runtime_env, runtime_env_json, working_dir),
        "metadata": _json(metadata_json, "--metadata-json"),
        "entrypoint_resources": _json(entrypoint_resources, "--entrypoint-resources"),
        "entrypoint_label_selector": _json(entrypoint_label_selector, "--entrypoint-label-selector")}
    with _client(address) as client:
        identifier = client.submit_job(entrypoint=shlex.join(entrypoint), submission_id=submission_id, **options,
                                       **amounts)
        click.echo(f"Job '{identifier}' submitted successfully", err=True)
        for name in ("logs", "status", "stop"):
            click.echo(f"  zray job {name} {identifier}", err=True)
        if no_wait:
            click.echo(identifier)
            return
        try:
            details = _follow(client, identifier)
        except KeyboardInterrupt:
            click.echo(f"\nthe job goes on; `zray job stop {identifier}` stops it", err=True)
            raise
    sys.exit(_exit_code(details))


@job.command()
@with_address
@with_format
@click.argument("job_id")
def status(job_id: str, address: str, form: str) -> None:
    """The state of a job."""
    with _client(address) as client:
        details = client.get_job_info(job_id)
    if form == "default":
        _say_status(details)
    else:
        show(asdict(details), form)


@job.command()
@click.option("--follow", "-f", is_flag=True, help="until the job ends")
@with_address
@click.argument("job_id")
def logs(job_id: str, follow: bool, address: str) -> None:
    """What a job has printed."""
    with _client(address) as client:
        if follow:
            _follow(client, job_id)
        else:
            click.echo(client.get_job_logs(job_id), nl=False)


@job.command()
@click.option("--no-wait", is_flag=True, help="do not wait until it has ended")
@with_address
@click.argument("job_id")
def stop(job_id: str, no_wait: bool, address: str) -> None:
    """End a job: SIGTERM, then SIGKILL after the setting job_stop_grace_s."""
    with _client(address) as client:
        if not client.stop_job(job_id):
            click.echo("it had ended before", err=True)
        while not no_wait and not client.get_job_status(job_id).is_terminal():
            time.sleep(STATUS_LOOK_S)
        _say_status(client.get_job_info(job_id))


@job.command()
@with_address
@click.argument("job_id")
def delete(job_id: str, address: str) -> None:
    """Forget a job that has ended, with its log."""
    with _client(address) as client:
        client.delete_job(job_id)
    click.echo(f"Job '{job_id}' deleted successfully")


@job.command("list")
@with_address
@with_format
def list_(address: str, form: str) -> None:
    """Submitted jobs, then programs that connected by themselves."""
    with _client(address) as client:
        rows = [asdict(details) for details in client.list_jobs()]
    show(rows, form, JOB_COLUMNS)


def _took(row: dict[str, Any]) -> str:
    if not row["start_time"]:
        return ""
    return duration((row["end_time"] or time.time() * 1000) / 1000 - row["start_time"] / 1000)


def _follow(client: JobSubmissionClient, job_id: str) -> JobDetails:
    async def echo() -> None:
        async for text in client.tail_job_logs(job_id):
            click.echo(text, nl=False)

    asyncio.run(echo())
    details = client.get_job_info(job_id)
    _say_status(details)
    return details


def _say_status(details: JobDetails) -> None:
    name = f"Job '{details.submission_id}'"
    said = {"SUCCEEDED": f"{name} succeeded", "STOPPED": f"{name} was stopped", "FAILED": f"{name} failed"}
    click.echo(said.get(details.status, f"Status for job '{details.submission_id}': {details.status}"), err=True)
    if details.status not in ("SUCCEEDED", "STOPPED") and details.message:
        click.echo(f"Status message: {details.message}", err=True)


def _exit_code(details: JobDetails) -> int:
    code = details.driver_exit_code
    if code is None:
        return 0 if details.status == "SUCCEEDED" else 1
    return 128 - code if code < 0 else code


def _json(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:  # the text may have secrets, and is not repeated
        raise click.BadParameter(f"{option} takes a JSON object, and this is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f'{option} takes a JSON object such as {{"a": "b"}}, not {type(value).__name__}')
    return value


def _runtime_env(file: str | None, text: str | None, working_dir: str | None) -> dict[str, Any] | None:
    if file is not None and text is not None:
        raise click.UsageError("--runtime-env and --runtime-env-json say the same: give one of them")
    env = _json(text, "--runtime-env-json") or {}
    if file is not None:
        env = _read_env(file)
    if working_dir is not None:
        env["working_dir"] = working_dir if "://" in working_dir else os.path.abspath(working_dir)
    return env or None


def _read_env(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}") from None
    try:
        env = json.loads(text)
    except ValueError:
        try:
            import yaml
        except ImportError:
            raise click.ClickException(f"{path} is no JSON, and YAML needs the extra zray[default]: "
                                       "pip install 'zray[default]'") from None
        try:
            env = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"{path} is neither JSON nor YAML: {error}") from None
    if not isinstance(env, dict):
        raise click.BadParameter(f"{path} must be a map of runtime_env fields, not {type(env).__name__}")
    return env
