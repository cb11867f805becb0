"""What the page of the dashboard shows when its session ends."""

from __future__ import annotations

import pytest

from tests.e2e.browsers import browser, see, why_none
from tests.e2e.dashboards import page_of, served
from tests.e2e.target import ray

pytestmark = [pytest.mark.zray_only, pytest.mark.timeout(300)]
pytest.importorskip("uvicorn", reason="the extra zray[dashboard] is not installed")
pytest.importorskip("starlette", reason="the extra zray[dashboard] is not installed")
if why_none():
    pytest.skip(why_none(), allow_module_level=True)


def test_the_end_of_the_session_is_said_and_the_last_state_stays(fresh):
    context = ray.init(num_cpus=1)
    with served(context["session_dir"]) as (page, _), browser() as driver:
        driver.get(page.link)
        see(driver, "nodes live", "#page")
        ray.shutdown()
        see(driver, "The session has ended. What is shown is its last state.", "#banner")
        see(driver, "ended", "#state")
        see(driver, "nodes live", "#page")


@pytest.mark.slow
def test_a_dashboard_that_is_gone_is_said_and_tried_again(fresh):
    context = ray.init(num_cpus=1)
    with browser() as driver:
        with served(context["session_dir"], "--port", "0") as (page, _):
            driver.get(page.link)
            see(driver, "nodes live", "#page")
        see(driver, "Trying again in", "#banner")
        with served(context["session_dir"], "--port", page.address.rpartition(":")[2]):
            see(driver, "This page needs its token", "#page")
            driver.get("about:blank")
            driver.get(page_of(context["session_dir"]).link)
            see(driver, "nodes live", "#page")
