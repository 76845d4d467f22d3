"""What a run was made from, kept beside its model, so that it only goes on as the same run."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from helperbot.distributed import barrier, rank

from yt8m.common.errors import UserError
from yt8m.common.files import replacing
from yt8m.models.model_files import CONFIG_NAME, ORIGIN_NAME, WEIGHTS_NAME, read_origin

LOGGER = logging.getLogger(__name__)


def begin_run(folder: Path, origin: dict[str, Any], restart: bool, leftovers: tuple[str, ...]) -> bool:
    """Settle whether a run begins, goes on, or has ended; returns whether there is anything to do.

    `origin`: everything that decides what comes out, plain values; kept in the folder's `run.json`. With
    `restart` what an earlier run left is removed: the model and the names in `leftovers`. Raises `UserError`
    where the folder belongs to a run of another origin, naming what differs.
    """
    origin = json.loads(json.dumps(origin))  # as it will be read
    finished = (folder / WEIGHTS_NAME).exists()
    begun = finished or any((folder / name).exists() for name in leftovers)
    if begun and not restart:
        found = read_origin(folder)
        if found is None:
            raise UserError(
                f"{folder}: holds a model or a run that does not say how it was made; choose another "
                "--name, or begin anew with --restart"
            )
        differing = differences(found, origin)
        if differing:
            raise UserError(
                f"{folder}: belongs to another run: {'; '.join(differing)}; choose another --name, or "
                "begin anew with --restart"
            )
        if finished:
            LOGGER.info("%s: is finished already; --restart would begin anew", folder)
            return False
    barrier()  # all ranks have looked before anything changes
    if rank() == 0:
        if restart:
            for name in (WEIGHTS_NAME, CONFIG_NAME, ORIGIN_NAME, *leftovers):
                _remove(folder / name)
        with replacing(folder / ORIGIN_NAME) as temporary:
            temporary.write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")
    barrier()
    return True


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """What differs between two nestings of dicts, one short text a value."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            text
            for key in sorted(before.keys() | now.keys())
            for text in differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    if before == now:
        return []
    if any(isinstance(value, str) and len(value) == 64 for value in (before, now)):
        return [f"{where} has changed"]  # digests say nothing to people
    return [f"{where} was {before}, is {now}"]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
