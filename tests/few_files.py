"""Run commands of the package one after the other, with a limit of open files: `few_files.py LIMIT`, and on standard
input their command lines, a JSON list of lists."""

import importlib
import json
import resource
import sys

from yt8m.cli import run


def main() -> None:
    """See the module."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for module, *arguments in json.load(sys.stdin):
        command = importlib.import_module(f"yt8m.{module}")
        sys.argv = [f"{module}.py", *arguments]
        run(command.main, command.build_parser())


if __name__ == "__main__":
    main()
