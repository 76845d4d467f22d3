"""Running commands with a low limit of open files."""

import resource

from tests.processes import run_command


def run_with_few_files(limit: int, lines: list[list[str]]) -> None:
    """Run commands of the package one after the other, with a limit of open files that stays."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for line in lines:
        run_command(*line)
