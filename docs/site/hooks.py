"""What the site needs beside the pages of docs/; mkdocs.yml names this file.

- **Navigation.** mkdocs.yml has the order.  An entry whose file is absent is left out, and a page that no entry names
  comes last in "Guides", so that a page can be written, renamed or removed without breaking the build.
- **Generated pages.** ``settings.md`` from the Config and its comments, ``changelog.md`` from CHANGELOG.md.
- **Pictures.** An SVG of class ``zf`` stands in the page itself, so that its colours follow the page's.
- **No other host.** A page that would load something from elsewhere is a warning, which ``--strict`` makes an error.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UNLISTED = "Guides"  # the section of pages that mkdocs.yml does not name
GENERATED = ("settings.md", "changelog.md")

log = logging.getLogger("mkdocs.hooks.zray")


# ---------------------------------------------------------------- navigation


def named(nav: list[Any]) -> Iterator[str]:
    """The paths of a navigation."""
    for item in nav:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        if isinstance(value, list):
            yield from named(value)
        else:
            yield value


def present(nav: list[Any], pages: set[str]) -> list[Any]:
    """The navigation without entries whose page is absent, and without sections that this leaves empty."""
    kept: list[Any] = []
    for item in nav:
        title, value = next(iter(item.items())) if isinstance(item, dict) else (None, item)
        if isinstance(value, list):
            value = present(value, pages)
        elif value not in pages:
            continue
        if value:
            kept.append(item if title is None else {title: value})
    return kept


def complete(nav: list[Any], pages: set[str]) -> list[Any]:
    """The navigation that fits the pages that there are."""
    more: list[Any] = sorted(pages - set(named(nav)))
    kept = present(nav, pages)
    for item in kept:
        if isinstance(item, dict) and more and UNLISTED in item:
            item[UNLISTED] += more
            more = []
    return kept + ([{UNLISTED: more}] if more else [])


def on_config(config: Any) -> Any:
    docs = Path(config.docs_dir)
    pages = {str(path.relative_to(docs)) for path in docs.rglob("*.md")} | set(GENERATED)
    config.nav = complete(config.nav, pages)
    return config


# ---------------------------------------------------------------- generated pages


def reasons(source: str) -> dict[str, str]:
    """Setting -> the comment above it in the class Config; settings in one block share theirs."""
    tree = ast.parse(source)
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config").body
    lines = source.splitlines()
    found: dict[str, str] = {}
    before = ""
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        first = node.lineno - 1
        while lines[first - 1].strip().startswith("#"):
            first -= 1
        comment = " ".join(line.strip().lstrip("# ") for line in lines[first:node.lineno - 1])
        before = comment or before
        found[node.target.id] = before
    return found


def shown(name: str, value: Any) -> str:
    """A default as people read it: with its unit, which is last in the name."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str):
        return f'`"{value}"`'
    if re.search(r"bytes(_max)?$", name) and value:
        for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value % size == 0:
                return f"{value // size:,} {unit}"
    if name.endswith("_s"):
        return f"{value / 86400:g} days" if value >= 86400 else f"{value:g} s"
    return f"{value:,}"


def settings_page() -> str:
    """All settings, in the order of the code, with the reasons for their defaults."""
    from zray.base.config import DEFAULTS

    why = reasons((ROOT / "zray" / "base" / "config.py").read_text(encoding="utf-8"))
    parts = ["# All settings\n\nEach setting with its default and the reason for it, as the code has them.  "
             "[Limits](limits.md#how-is-a-setting-set) says how a setting is set; "
             "the variable of `NAME` is `ZRAY_NAME`, in capitals.\n"]
    for name, value in DEFAULTS.as_dict().items():
        parts.append(f"## `{name}` {{: #{name} }}\n\nDefault: {shown(name, value)}.  "
                     f"Variable: `ZRAY_{name.upper()}`.\n\n{why[name]}\n")
    return "\n".join(parts)


def changelog_page() -> str:
    """CHANGELOG.md, whose links begin at the top of the repository."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.replace("](docs/", "](")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for name, content in (("settings.md", settings_page()), ("changelog.md", changelog_page())):
        files.append(File.generated(config, name, content=content))
    return files


# ---------------------------------------------------------------- pages


def with_pictures(html: str, folder: Path) -> str:
    """The page with each SVG of class ``zf`` in place of its ``img``; ``folder`` is that of the page's source."""

    def picture(match: re.Match[str]) -> str:
        file = folder / match["src"]
        if not file.exists():
            return match[0]  # mkdocs warns of it
        svg = file.read_text(encoding="utf-8")
        if 'class="zf"' not in svg[:400]:
            return match[0]
        return svg[svg.index("<svg"):].replace("\n", " ")

    return re.sub(r'<img [^>]*?src="(?P<src>[^":]+\.svg)"[^>]*>', picture, html)


def without_roles(html: str) -> str:
    """Docstrings with Sphinx's roles (``:meth:`push```) show the name alone."""
    return re.sub(r":(?:attr|class|data|exc|func|meth|mod):(?=<code>)", "", html)


def foreign(html: str) -> list[str]:
    """Addresses of other hosts that a browser would ask for when it shows the page."""
    loaded = r'<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc="((?:https?:)?//[^"]+)"'
    linked = r'<link\b(?![^>]*rel="(?:canonical|prev|next|alternate)")[^>]*?\shref="((?:https?:)?//[^"]+)"'
    styled = r'url\(["\']?((?:https?:)?//[^"\')]+)'
    return [address for pattern in (loaded, linked, styled) for address in re.findall(pattern, html)]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
    return markdown


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    if not page.file.abs_src_path:
        return html  # generated
    return with_pictures(without_roles(html), Path(page.file.abs_src_path).parent)


def on_post_page(output: str, page: Any, config: Any) -> str:
    for address in foreign(output):
        log.warning(f"{page.file.src_uri} loads {address}: keep a copy in docs/")
    return output
