"""The documentation as a test sees it: fenced blocks, links, and options, file by file."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("*.md")),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    "PyTorchHelperBot/README.md",
    "data/README.md",
)
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int


def text_of(page: str) -> str:
    """A page, named by its path in the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = text_of(page)
    assert text.count("```") == 2 * len(_BLOCK.findall(text)), f"{page}: a fence without language or end"
    return [
        Block(language, _dedent(body, len(indent)), text.count("\n", 0, match.start()) + 2)
        for match in _BLOCK.finditer(text)
        for indent, language, body in [match.groups()]
    ]


def _dedent(text: str, width: int) -> str:
    return "".join(line[width:] if line.strip() else line for line in text.splitlines(keepends=True))


def links(page: str) -> list[str]:
    """Targets of the links and pictures of a page."""
    text = text_of(page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as they are made on the usual sites."""
    headings = re.findall(r"^#+ (.*)$", re.sub(_BLOCK, "", text_of(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def options(page: str) -> set[str]:
    """All `--options` that a page mentions."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]", text_of(page)))
