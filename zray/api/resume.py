"""``init(resume=True)``, ``resume`` and ``forget_job``: which folder, and what is no option.

zray.core.resuming is what a driver does with the folder; it is loaded by the first job that asks for it.
"""

from __future__ import annotations

import os
from typing import Any

from zray.base import ray_settings
from zray.base.config import Config
from zray.core import resume_folder
from zray.core.resume_folder import ResumeFolder
from zray.node.running import session as sessions


def directory(given: Any = None) -> str:
    """Where the folders of jobs are: ``resume_dir``, or one of this user below the temporary directory."""
    if given is None:
        return sessions.resume_dir()
    if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
        raise TypeError(f"resume_dir takes the path of a directory, not {given!r}")
    path = os.fspath(given)
    if "://" in path:
        raise ValueError(f"resume_dir takes a directory of this machine or of a mounted file system, not {path!r}: a "
                         "lock there shows that two drivers run one job. Mount that storage")
    if not path:
        raise ValueError("resume_dir takes the path of a directory, not an empty str")
    return os.path.abspath(os.path.expanduser(path))


def check(options: dict[str, Any]) -> None:
    """TypeError and ValueError for options of ``init`` that are wrong, or do not fit together."""
    name, wanted = options.get("job_name"), options.get("resume")
    if name is not None:
        resume_folder.folder_of("", name)
    if wanted is not None and not isinstance(wanted, bool):
        raise TypeError(f"resume takes True or False, not {wanted!r}")
    if options.get("resume_dir") is not None:
        directory(options["resume_dir"])
        if not wanted:
            raise ValueError("resume_dir is for a job with resume=True")
    if not wanted:
        return
    if name is None:
        raise ValueError("resume=True needs a job_name: under it the next run finds the results of this one")
    if options.get("local_mode"):
        raise ValueError("resume=True does not work with local_mode, which keeps no results: leave one of both out")


def opened(options: dict[str, Any]) -> ResumeFolder:
    """The folder of a job with ``resume``, locked."""
    config = Config.load(ray_settings.translated(options.get("_system_config"), os.environ))
    where = directory(options.get("resume_dir"))
    if options.get("resume_dir") is None:
        resume_folder.make_private(where)
    folder = ResumeFolder(resume_folder.folder_of(where, options["job_name"]), config.resume_bytes_max,
                          config.resume_kept_s)
    resume_folder.sweep(where, config.resume_kept_s)
    return folder


def begin(runtime: Any, folder: ResumeFolder, job_name: str) -> None:
    """Let the driver ``runtime`` keep and find results."""
    from zray.core import resuming

    resuming.begin(runtime, folder, job_name)


def require(job_name: Any, resume_dir: Any) -> None:
    """ValueError when no results of that job are kept."""
    where = directory(resume_dir)
    if resume_folder.has_results(resume_folder.folder_of(where, job_name)):
        return
    names = resume_folder.job_names(where)
    known = f"there are those of {', '.join(map(repr, names[:10]))}" if names else "there are none of any job"
    raise ValueError(f"no results of a job {job_name!r} are kept in {where}: {known}. "
                     f"init(job_name={job_name!r}, resume=True) begins such a job")


def forget(job_name: Any, resume_dir: Any) -> bool:
    """Remove the kept results of a job; whether there were any."""
    return resume_folder.forget(resume_folder.folder_of(directory(resume_dir), job_name))
