"""The site: its navigation fits the pages, its generated pages are complete, and it asks no other host for anything."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from xml.etree.ElementTree import fromstring, parse

import pytest

import zray
from docs.site import hooks
from tests.unit.test_docstrings import MODULES
from zray.base.config import DEFAULTS

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs" / "figures").glob("*.svg"))


# ---------------------------------------------------------------- navigation


def test_an_entry_without_a_page_is_left_out_and_a_page_without_an_entry_comes_last_in_the_guides():
    nav = [{"Home": "index.md"}, {"Guides": [{"Objects": "objects.md"}, {"Gone": "gone.md"}]}, {"Empty": ["lost.md"]}]
    pages = {"index.md", "objects.md", "new.md"}
    assert hooks.complete(nav, pages) == [{"Home": "index.md"}, {"Guides": [{"Objects": "objects.md"}, "new.md"]}]


def test_without_guides_a_page_without_an_entry_has_a_section():
    assert hooks.complete([{"Home": "index.md"}], {"index.md", "new.md"}) == [{"Home": "index.md"},
                                                                             {"Guides": ["new.md"]}]


def test_no_page_is_twice_in_the_navigation():
    paths = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(paths) == len(set(paths)) > 40


# ---------------------------------------------------------------- generated pages


def test_the_page_of_settings_has_each_with_its_default_its_variable_and_a_reason():
    sections = re.split(r"^## ", hooks.settings_page(), flags=re.M)[1:]
    assert [section.split("`")[1] for section in sections] == list(DEFAULTS.as_dict())
    for section, (name, value) in zip(sections, DEFAULTS.as_dict().items(), strict=True):
        _, facts, reason = section.strip().split("\n\n")
        assert hooks.shown(name, value) in facts and f"`ZRAY_{name.upper()}`" in facts
        assert len(reason.split()) > 2


@pytest.mark.parametrize(("name", "value", "text"), [
    ("inline_bytes_max", 65536, "64 KiB"), ("x_bytes", 0, "0"), ("gossip_s", 0.1, "0.1 s"),
    ("logs_kept_s", 604800.0, "7 days"), ("workers_max", 4096, "4,096"), ("kernels_at_start", False, "off"),
    ("spill_dir", "", '`""`')])
def test_a_default_is_shown_with_its_unit(name, value, text):
    assert hooks.shown(name, value) == text


def test_links_of_the_changelog_lead_to_pages_of_the_site():
    for link in re.findall(r"\]\(([^)#]+)", hooks.changelog_page()):
        assert (ROOT / "docs" / link).exists()


# ---------------------------------------------------------------- API


def test_each_public_name_of_the_package_is_in_the_api():
    page = (ROOT / "docs" / "api" / "core.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: zray\.(?:\w+\.)?(\w+)$", page, re.M)
    things = [getattr(zray, name) for name in zray.__all__]
    public = {thing for thing in things if inspect.isclass(thing) or inspect.isfunction(thing)}
    assert {getattr(zray, name) for name in shown} == public
    assert len(shown) == len(set(shown))


def test_the_modules_of_the_api_have_docstrings_that_a_test_holds():
    pages = [page for page in sorted((ROOT / "docs" / "api").glob("*.md")) if page.stem != "core"]
    modules = re.findall(r"^::: (\S+)$", "".join(page.read_text(encoding="utf-8") for page in pages), re.M)
    assert len(modules) > 10 and set(modules) <= set(MODULES)


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("html", [
    '<script src="https://cdn.example/x.js"></script>', '<img alt="" src="//cdn.example/x.png">',
    '<link rel="stylesheet" href="https://fonts.example/css">', "<style>@import url('https://fonts.example/css')</style>"])
def test_what_a_page_would_load_from_another_host_is_found(html):
    assert hooks.foreign(html)


@pytest.mark.parametrize("html", [
    '<a href="https://example.org">', '<script src="assets/x.js">', '<link rel="canonical" href="https://docs.example">',
    '<svg xmlns="http://www.w3.org/2000/svg">'])
def test_links_and_files_of_the_site_load_nothing_from_another_host(html):
    assert not hooks.foreign(html)


def test_pictures_that_follow_the_colours_stand_in_the_page_and_others_do_not(tmp_path):
    (tmp_path / "a.svg").write_text('<svg class="zf"><text>A</text></svg>')
    (tmp_path / "b.svg").write_text("<svg><text>B</text></svg>")
    html = hooks.with_pictures('<img alt="1" src="a.svg" /><img alt="2" src="b.svg" /><img src="gone.svg">', tmp_path)
    assert html == '<svg class="zf"><text>A</text></svg><img alt="2" src="b.svg" /><img src="gone.svg">'


def test_roles_of_docstrings_are_left_out():
    assert hooks.without_roles("until :meth:<code>push</code> adds one: <code>x</code>") == (
        "until <code>push</code> adds one: <code>x</code>")


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_a_picture_is_well_formed_and_loads_nothing(picture):
    parse(picture)
    text = picture.read_text(encoding="utf-8")
    assert not re.search(r"<script|href=\"http|url\(http|@import", text)
    if 'class="zf"' in text:
        assert "prefers-color-scheme:dark" in text and "<title" in text and "<desc" in text


def test_manifests_of_kubernetes_agree_with_each_other():
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8"), re.DOTALL)
    things = [thing for block in blocks for thing in yaml.safe_load_all(block)]
    assert [thing["kind"] for thing in things] == ["Service", "StatefulSet", "Deployment", "NetworkPolicy"]
    for thing in things[1:3]:
        template = thing["spec"]["template"]
        assert template["metadata"]["labels"] == thing["spec"]["selector"]["matchLabels"]
        [container] = template["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in template["spec"]["volumes"]}
        assert container["args"][0] == "start" and "--block" in container["args"]


# ---------------------------------------------------------------- recorded terminals


def test_the_last_screen_of_a_command_has_its_text_and_colours():
    terminal = pytest.importorskip("docs.site.record_terminal")
    program = r"print('\x1b[31mred\x1b[0m & plain\nworking\rfinished')"
    frames, code = terminal.record([sys.executable, "-c", program], 40, 5)
    assert code == 0
    [first, second, *rest] = frames[-1].rows
    assert [(column, text) for column, text, _ in first] == [(0, "red "), (4, "& plain")]  # a blank has no colour
    assert terminal.COLOURS["red"] in first[0][2]
    assert [text for _, text, _ in second] == ["finished"] and not any(rest)


def test_a_picture_shows_each_row_from_when_it_came_until_it_changed():
    terminal = pytest.importorskip("docs.site.record_terminal")
    one, two, stays = (((0, text, "fill:#fff"),) for text in ("1 < 2", "2", "stays"))
    frames = [terminal.Frame(0.0, (one, stays)), terminal.Frame(2.0, (two, stays))]
    assert list(terminal.spans(frames)) == [(0, one, 0.0, 2.0), (0, two, 2.0, None), (1, stays, 0.0, None)]
    groups = fromstring(terminal.svg(frames, 40, "A terminal")).findall("{*}g")
    assert [(group[0].text, group.get("class")) for group in groups] == [
        ("1 < 2", None), ("2", "end"), ("stays", "end")]
    assert "25.00%{visibility:hidden}" in terminal.svg(frames, 40, "A terminal")  # 2 of 2 + 6 s
