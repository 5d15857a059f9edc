"""Pages of the repository, their links, and the anchors that their headings make."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("build", "data", "deployment", "dist", "runs")
"""Directories at the top that commands make."""


def pages() -> list[Path]:
    """Return every Markdown file of the checkout."""
    found = (path for path in sorted(ROOT.rglob("*.md")) if path.is_file())
    return [path for path in found if _is_source(path.relative_to(ROOT))]


def _is_source(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.parts[0] not in LEFT_OUT


def prose(text: str) -> str:
    """Return a page without its blocks of code, indented ones included."""
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return what links to a page's headings may end in, as GitHub makes it of them."""
    made: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")

        seen = made.get(name, 0)
        made[name] = seen + 1
        found.add(f"{name}-{seen}" if seen else name)
    return found


def links(text: str) -> list[str]:
    """Return the targets of a page's relative links."""
    code = re.compile(r"`[^`\n]*`(?!\])")
    targets = re.findall(r"\]\(([^)\s]+)\)", code.sub("", prose(text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def broken(page: Path) -> list[str]:
    """Return those of a page's relative links that lead nowhere."""
    text = page.read_text(encoding="utf-8")
    return [link for link in links(text) if not _leads_somewhere(page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text(encoding="utf-8"))
