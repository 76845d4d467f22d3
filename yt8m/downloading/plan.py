"""What to download: the data set's mirrors and partitions, plan files, and which of a plan's shards are wanted.

A plan is a JSON file beside the shards of a partition that gives the MD5 of each by its name.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from yt8m.common.errors import UserError
from yt8m.data.partitions import PARTITIONS

MIRRORS = ("us", "eu", "asia")
VOCABULARY_URL = "https://research.google.com/youtube8m/csv/2/vocabulary.csv"
PLAN_BYTES = 64_000_000  # more than any plan has
_MIRROR_URL = "http://{mirror}.data.yt8m.org/{partition}/"
_PLAN_NAME = "download_plan.json"
# Nothing that is more than a name: no folders, nothing hidden, no control characters; and what commands take as shards.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,190}\.tfrecord", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class RemoteShard:
    """A shard as its plan has it: its name, its address, and its MD5 in lower-case hexadecimal."""

    name: str
    url: str
    md5: str


@dataclass(frozen=True)
class PlanSource:
    """A plan that the user has named: `location` is a URL or a path, `base_url` ends in a slash."""

    title: str
    location: str
    base_url: str
    folder: Path

    @property
    def is_url(self) -> bool:
        """Whether the plan has to be fetched."""
        return is_url(self.location)


def is_url(text: str) -> bool:
    """Whether this is an address and not a path."""
    return "://" in text


def plan_sources(
    plans: Sequence[str], mirror: str, data_dir: Path, folder: Path | None, base_url: str | None
) -> list[PlanSource]:
    """Where these plans are, where their shards are, and where those go.

    A plan is the name of a partition, a URL, or a path. `folder` and `base_url` are the user's own, for a single plan.
    Raises `UserError` if they are missing, or given for several plans.
    """
    if len(plans) > 1 and (folder is not None or base_url is not None):
        raise UserError("--to and --base-url are for a single --plan; download one after the other")
    return [_plan_source(plan, mirror, data_dir, folder, base_url) for plan in plans]


def _plan_source(plan: str, mirror: str, data_dir: Path, folder: Path | None, base_url: str | None) -> PlanSource:
    partition = next((partition for partition in PARTITIONS if partition.published == plan), None)
    if partition is not None:
        beside = _MIRROR_URL.format(mirror=mirror, partition=plan)
        location, folder = beside + _PLAN_NAME, folder or data_dir / partition.folder
    elif is_url(plan):
        location, beside = plan, urljoin(_checked_url(plan, "--plan"), ".")
    elif Path(plan).is_file():
        location, beside = plan, ""
    else:
        raise UserError(
            f"--plan {plan}: expected {', '.join(part.published for part in PARTITIONS)}, the URL of a plan file or "
            "the path of one"
        )
    if folder is None:
        raise UserError(f"--plan {plan}: say with --to which folder its shards go to")
    if base_url is not None:
        beside = _checked_url(base_url, "--base-url").rstrip("/") + "/"
    if not beside:
        raise UserError(f"--plan {plan}: say with --base-url where its shards are")
    return PlanSource(plan, location, beside, folder)


def _checked_url(url: str, option: str) -> str:
    """A URL of http or https. Raises `UserError` for others, and for those with a password, which would be printed."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # no number as its port, half an IPv6 address
        good = False
    if not good:
        raise UserError(f"{option} {url}: expected an address that begins with http:// or https:// and a host")
    if parts.username is not None:
        raise UserError(f"{option}: leave name and password out of the address and put them into ~/.netrc")
    return url


def parse_plan(content: bytes, source: str) -> dict[str, str]:
    """MD5s, in lower case, by the names of shards, sorted.

    A plan is `{"files": {name: MD5}}` or `{name: MD5}`. Raises `UserError` for all else, and for names that are not
    plain names of shards, so that a plan never says where on this machine to write.
    """
    if looks_like_html(content):
        raise UserError(f"{source}: not a plan file but an HTML page; is there a login page or a proxy in between?")
    try:
        plan = json.loads(content, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{source}: not a plan file: {error}") from None
    files = plan.get("files", plan) if isinstance(plan, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(f"{source}: not a plan file: expected a mapping of file names to MD5s")
    for name, md5 in files.items():
        if not _SHARD_NAME.fullmatch(name):
            raise UserError(
                f"{source}: file name {_shown(name)}: expected the plain name of a .tfrecord file, of letters, digits "
                "and . _ -; do not use this plan"
            )
        if not isinstance(md5, str) or not _MD5.fullmatch(md5):
            raise UserError(f"{source}: {name}: expected an MD5 of 32 hexadecimal digits, found {_shown(md5)}")
    return {name: files[name].lower() for name in sorted(files)}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name comes twice")
    return result


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def looks_like_html(content: bytes) -> bool:
    """Whether this begins as an HTML page does: what portals and proxies send in the place of files."""
    return content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


@dataclass(frozen=True)
class Selection:
    """Which shards of a plan: those in any of the `ranges` (first and last, counted from 0), or all if there is none.

    Where `step` is more than 1, every `step`-th from `start`.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    start: int = 0
    step: int = 1

    def of(self, names: Sequence[str], source: str) -> list[str]:
        """Those of the sorted `names`, in their order. Raises `UserError` for a range beyond their end."""
        if not self.ranges:
            return list(names[self.start :: self.step])
        last = max(last for _, last in self.ranges)
        if last >= len(names):
            raise UserError(f"--shards: {source} has {len(names)} shards, numbered 0 to {len(names) - 1}; found {last}")
        wanted = {number for first, last in self.ranges for number in range(first, last + 1)}
        return [names[number] for number in sorted(wanted)]


def parse_selection(text: str) -> Selection:
    """`0-99`, `5`, `0-9,20-29`: ranges; `M/N`: every N-th from M on. Raises `ValueError` for anything else."""
    if share := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII):
        start, step = map(int, share.groups())
        if start >= step:
            raise ValueError(f"expected M/N with M from 0 to N - 1, found {text!r}")
        return Selection(start=start, step=step)
    ranges = []
    for part in text.split(","):
        bounds = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if bounds is None or bounds[2] is not None and int(bounds[2]) < int(bounds[1]):
            raise ValueError(f"expected ranges such as 0-99 or 0-9,20,30-39, or M/N, found {text!r}")
        ranges.append((int(bounds[1]), int(bounds[2] or bounds[1])))
    return Selection(tuple(ranges))
