"""Parts of a configuration that may be absent, where something else has made sure that they are there."""

from typing import TypeVar

Section = TypeVar("Section")


def required(section: Section | None) -> Section:
    """A section that whoever read the configuration asked for (`load_config(path, "video.model")`), so it is there.

    Raises `LookupError` where nobody did, which is a mistake of the program and not of the user.
    """
    if section is None:
        raise LookupError("a section of a configuration that was not asked for when it was read")
    return section
