"""Every relative link of every page leads to a file, and to a heading where it names one."""

from pathlib import Path

import markdown
import pytest


def test_the_pages_are_found() -> None:
    names = {page.relative_to(markdown.ROOT).as_posix() for page in markdown.pages()}
    assert {"README.md", "SECURITY.md", "CONTRIBUTING.md", "server_app/bench/RESULTS.md"} <= names


@pytest.mark.parametrize(
    "page", markdown.pages(), ids=lambda path: path.relative_to(markdown.ROOT).as_posix()
)
def test_links_lead_somewhere(page: Path) -> None:
    assert markdown.broken(page) == []


def test_a_wrong_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text(
        "# One: a `key`\n\n# Twice\n\n# Twice\n\n```sh\n# no heading\n```\n"
    )
    page = tmp_path / "page.md"
    good = (
        "[a](other.md) [b](other.md#one-a-key) [c](other.md#twice-1) [d](#here) [`e`](other.md) "
        "[f](https://x.org)"
    )
    bad = "[g](gone.md) [h](other.md#two) [i](#nowhere) [j](other.md#no-heading)"
    page.write_text(f"# Here\n\n{good}\n\n{bad}\n\n`[k](code.md)`\n\n```\n[l](block.md)\n```\n")
    assert markdown.broken(page) == ["gone.md", "other.md#two", "#nowhere", "other.md#no-heading"]
