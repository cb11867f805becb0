"""The pages of the dashboard in real headless Chromium: what they show, hostile names, accessibility, clear ends."""

from __future__ import annotations

import pytest

from tests.e2e.browsers import broken_rules, browser, console, go, overflows, see, why_none
from tests.e2e.dashboards import served
from tests.e2e.target import exceptions, ray, until

pytestmark = [pytest.mark.zray_only, pytest.mark.timeout(300)]
pytest.importorskip("uvicorn", reason="the extra zray[dashboard] is not installed")
pytest.importorskip("starlette", reason="the extra zray[dashboard] is not installed")
if why_none():
    pytest.skip(why_none(), allow_module_level=True)

HOSTILE = ["<script>window.hit = 1</script>", "<img src=x onerror='window.hit = 1'>", "n" * 10_000, "two\nlines",
           "\u202egnp.exe", "\"'`&amp;", "${window.hit = 1}", "\x1b[31mred"]
PAGES = {"overview": "Overview", "nodes": "Nodes", "jobs": "Jobs", "tasks": "Tasks", "actors": "Actors",
         "objects": "Objects", "groups": "Placement groups", "control": "Control store", "events": "Events",
         "logs": "Logs", "timeline": "Timeline", "metrics": "Metrics"}


@ray.remote(num_cpus=0)
class Waits:
    def wait(self, gate):
        gate.wait()


@ray.remote(num_cpus=0, max_retries=0)
def fails(text):
    print(text)
    raise ValueError(text)


@ray.remote(num_cpus=1)
def holds(gate):
    gate.wait()


@pytest.fixture(scope="module")
def session_dir(module_footprint):
    """A session in which tasks and actors have had names that no page expects."""
    if not ray.is_initialized():
        ray.init(num_cpus=1)
    for name in HOSTILE:
        with pytest.raises(exceptions.RayTaskError):
            ray.get(fails.options(name=name).remote(name))
    actors = [Waits.options(name=name[:300]).remote() for name in HOSTILE]
    yield ray.get_runtime_context().get_temp_dir()
    del actors


@pytest.fixture(scope="module")
def page(session_dir):
    with served(session_dir, "--port", "0") as (page, _):
        yield page


@pytest.fixture(scope="module")
def window(page):
    with browser() as driver:
        yield driver


@pytest.fixture
def driver(window, page):
    """The dashboard, opened by its link."""
    window.get("about:blank")
    window.get(page.link)
    see(window, "live", "#state")
    console(window)
    yield window
    assert window.execute_script("return window.hit") is None, "a name was run"


def test_the_link_leaves_no_token_in_the_address(driver, page):
    assert driver.current_url == f"http://{page.address}/#/overview"
    assert page.token not in driver.page_source


def test_each_page_shows_hostile_names_as_text_breaks_no_rule_of_axe_and_logs_no_error(driver):
    for address, title in PAGES.items():
        go(driver, address, title)
        assert broken_rules(driver) == [], address
        assert overflows(driver) <= 0, address
    go(driver, "tasks", "Tasks")
    see(driver, "<script>window.hit = 1</script>", "#page")
    see(driver, "two⏎lines", "#page")
    see(driver, "\\u202egnp.exe", "#page")
    go(driver, "actors", "Actors")
    see(driver, "<img src=x onerror='window.hit = 1'>", "#page")
    assert console(driver) == []


def test_from_the_first_page_to_the_cause_of_a_failure(driver):
    go(driver, "overview", "Overview")
    driver.find_element("partial link text", "hit = 1</script>").click()
    see(driver, "Task", "#title")
    see(driver, "ValueError: <script>window.hit = 1</script>", "#page pre")
    assert broken_rules(driver) == []
    driver.find_element("link text", "output").click()
    see(driver, ".out: its last lines", "#page")
    see(driver, "two", "#page pre.log")
    assert console(driver) == []


def test_what_waits_is_found_with_its_cause_and_cancelled(driver, gate):
    running = holds.remote(gate)
    gate.wait_arrived(1)
    waits = holds.options(name="waits its turn").remote(gate)
    go(driver, "overview", "Overview")
    see(driver, "the resources its task asks for are in use", "#page")
    go(driver, "tasks?search=its+turn", "Tasks")
    until(lambda: driver.find_elements("css selector", "td a[href^='#/task?id=']"))
    driver.find_element("css selector", "td a[href^='#/task?id=']").click()
    see(driver, "It waits: the resources its task asks for are in use", "#page")
    driver.find_element("xpath", "//button[.='Why is it not finished?']").click()
    see(driver, "whose owner says", "#page pre")
    driver.find_element("xpath", "//button[.='Cancel the task']").click()
    driver.find_element("xpath", "//dialog//button[.='Leave it']").click()
    assert driver.find_element("id", "dialog").get_attribute("open") is None
    driver.find_element("xpath", "//button[.='Cancel the task']").click()
    assert broken_rules(driver) == [], "with the dialog"
    driver.find_element("xpath", "//dialog//button[.='Cancel the task']").click()
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(waits, timeout=30)
    gate.open()
    ray.get(running)
    assert console(driver) == []


def test_an_actor_shows_its_queue_and_its_stack_and_is_killed(driver, gate):
    actor = Waits.options(name="victim").remote()
    calls = [actor.wait.remote(gate) for _ in range(3)]
    gate.wait_arrived(1)
    go(driver, f"actor?id={actor._actor_id.hex()}", "Actor")
    see(driver, "2 calls wait", "#page")
    driver.find_element("xpath", "//button[.='Show its stack']").click()
    see(driver, "gate.wait()", "#page pre")
    assert broken_rules(driver) == []
    driver.find_element("xpath", "//button[.='Kill']").click()
    driver.find_element("xpath", "//dialog//button[.='Kill']").click()
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(calls, timeout=30)
    see(driver, "killed from the dashboard", "#page")
    assert console(driver) == []


def test_tables_search_sort_and_page_by_keyboard(driver):
    from selenium.webdriver.common.action_chains import ActionChains

    go(driver, "tasks", "Tasks")
    ActionChains(driver).send_keys("/two").perform()
    until(lambda: "search=two" in driver.current_url)
    see(driver, "1–1 of 1, chosen from", "#page")
    go(driver, "tasks", "Tasks")
    driver.find_element("xpath", "//th[@data-name='name']/button").send_keys("\n")
    until(lambda: "sort=name" in driver.current_url)
    assert driver.find_element("xpath", "//th[@data-name='name']").get_attribute("aria-sort") == "ascending"
    driver.find_element("css selector", "th[data-name=name] button").send_keys("\n")
    until(lambda: "order=desc" in driver.current_url)
    driver.find_element("tag name", "main").send_keys("")
    driver.execute_script("document.activeElement.blur()")
    ActionChains(driver).send_keys("gn").perform()
    see(driver, "Nodes", "#title")
    ActionChains(driver).send_keys("?").perform()
    assert driver.find_element("id", "dialog").get_attribute("open") is not None
    assert broken_rules(driver) == []
    ActionChains(driver).send_keys("\ue00c").perform()  # Escape
    until(lambda: driver.find_element("id", "dialog").get_attribute("open") is None)
    assert console(driver) == []


def test_rows_that_stay_are_not_drawn_again(driver):
    go(driver, "tasks", "Tasks")
    driver.execute_script("""
        window.drawn = [];
        const body = document.querySelector('.card:last-child tbody');
        new MutationObserver((all) => window.drawn.push(...all.map((one) => one.type))).observe(
            body, {childList: true, characterData: true, subtree: true});
        window.last = document.querySelector('.lanes rect') ? 1 : 0;""")
    ray.get(ray.remote(num_cpus=0)(lambda: 1).options(name="newcomer").remote())
    see(driver, "newcomer", ".card:last-child tbody")
    first = driver.execute_script("return window.drawn.length")
    assert 0 < first < 30, "one row has come, and no other has changed"


def test_an_old_token_says_what_to_do_and_the_right_one_opens_the_page(driver, page):
    driver.execute_script("localStorage.setItem('zray-token', 'old')")
    driver.refresh()
    see(driver, "This page needs its token", "#page")
    assert broken_rules(driver) == []
    driver.find_element("id", "token").send_keys(f"{page.link}\n")
    see(driver, "live", "#state")
    see(driver, "What runs", "#page")
    assert all("401" in line for line in console(driver))


def test_two_tabs_are_both_live(driver, page):
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        driver.get(f"http://{page.address}/#/actors")
        see(driver, "live", "#state")
        see(driver, "Waits", "#page")
    finally:
        driver.close()
        driver.switch_to.window(first)
    see(driver, "live", "#state")


def test_another_origin_cannot_read_it_even_with_the_token(window, page):
    window.get("data:text/html,<title>another</title>")
    assert "refused" == window.execute_async_script("""
        const done = arguments[arguments.length - 1];
        fetch(arguments[0], {headers: {Authorization: `Bearer ${arguments[1]}`}}).then(() => done('read'),
                                                                                     () => done('refused'));
        """, f"http://{page.address}/api/session", page.token)
    window.get("about:blank")
    console(window)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_every_page_in_both_themes_and_on_a_phone(page, theme, width):
    with browser(width, 900) as driver:
        driver.get(page.link)
        see(driver, "live", "#state")
        driver.execute_script("localStorage.setItem('zray-theme', arguments[0])", theme)
        driver.refresh()
        for address, title in PAGES.items():
            go(driver, address, title)
            assert driver.execute_script("return document.documentElement.dataset.theme") == theme
            assert broken_rules(driver) == [], address
            assert overflows(driver) <= 0, address
        assert console(driver) == []
