"""The origin of a run, stored with its model, so that only the same run is resumed."""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import helperbot
from helperbot.distributed import barrier, rank
from helperbot.files import replacing
from pydantic import BaseModel, ValidationError

from yt8m import __version__
from yt8m.common.config import FeatureContract
from yt8m.common.errors import UserError
from yt8m.models.config import parse_config
from yt8m.models.model_files import CONFIG_NAME, ORIGIN_NAME, WEIGHTS_NAME, read_origin
from yt8m.models.model_folders import exported_config

LOGGER = logging.getLogger(__name__)
_CODE = "code"  # the key of run.json
_DECIDING = "common", "data", "models", "training"  # parts of this package that decide weights, besides helperbot
# The effective values of keys that a run lacks, in sections of fine-tuning and of pre-training.
_FORMERLY, _FORMERLY_VIDEO = {"center_inputs": False}, {"center_inputs": False, "prior_bias": False}
_RETIRED = frozenset({"ema_decay"})  # removed keys, without effect if None


def code_identity(modules: Iterable[str] = ()) -> dict[str, str]:
    """The `version` of this package, and a `digest` (SHA-256) of the modules that determine the weights.

    `modules`: names of imported ones outside this package.
    """
    package = Path(__file__).parent.parent
    files = [
        (path.relative_to(folder.parent).as_posix(), path)
        for folder in (Path(helperbot.__file__).parent, *(package / part for part in _DECIDING))
        for path in sorted(folder.rglob("*.py"))
    ]
    files += [(module, Path(str(sys.modules[module].__file__))) for module in modules]
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"version": __version__, "digest": digest.hexdigest()}


def begin_run(
    folder: Path, origin: dict[str, Any], restart: bool, allow_other_code: bool, leftovers: tuple[str, ...]
) -> bool:
    """Decide whether to start, resume or skip a run; return False if it is finished.

    `origin`: everything except the code that determines the result, as plain values; stored in the folder's `run.json`
    with the `code_identity` of each version of the code that trained the run, in order. `restart` removes an earlier
    run: the model and the names in `leftovers`. Raises `UserError` if the folder belongs to a run of another origin,
    naming the differences, and, unless `allow_other_code`, if other code began an unfinished run.
    """
    origin = json.loads(json.dumps(origin))  # as it will be read back
    code = code_identity(_outside_modules(origin["config"]))
    codes: list[Any] = [code]
    finished = (folder / WEIGHTS_NAME).exists()
    begun = finished or any((folder / name).exists() for name in leftovers)
    if begun and not restart:
        found = read_origin(folder)
        if found is None:
            raise UserError(
                f"{folder}: holds a model or a run that does not say how it was made; choose another "
                "--name, or start over with --restart"
            )
        earlier = found.pop(_CODE, None)
        differing = differences(_completed(found, finished), origin)
        if differing:
            raise UserError(
                f"{folder}: belongs to another run: {'; '.join(differing)}; choose another --name, or "
                "start over with --restart"
            )
        if finished:
            LOGGER.info("%s: is already finished; --restart would start over", folder)
            return False
        codes = _codes_of(folder, earlier if isinstance(earlier, list) else [], code, allow_other_code)
    barrier()  # all ranks have checked before anything changes
    if rank() == 0:
        if restart:
            for name in (WEIGHTS_NAME, CONFIG_NAME, ORIGIN_NAME, *leftovers):
                _remove(folder / name)
        with replacing(folder / ORIGIN_NAME) as temporary:
            temporary.write_text(json.dumps({**origin, _CODE: codes}, indent=1) + "\n", encoding="utf-8")
    barrier()
    return True


def _outside_modules(config: dict[str, Any]) -> list[str]:
    """The outside modules of models that a configuration names, sorted."""
    models = [section["model"] for section in config.values() if "model" in section]
    return sorted({model["module"] for model in models if "module" in model})


def _codes_of(folder: Path, earlier: list[Any], now: dict[str, str], allowed: bool) -> list[Any]:
    """The codes of a resumed run, the current one last. Raises `UserError` for other code, unless `allowed`."""
    before = earlier[-1] if earlier else None
    if before == now:
        return earlier
    text = f"{folder}: has been trained by {_describe_code(before)}, this is {_describe_code(now)}"
    if not allowed:
        raise UserError(
            f"{text}, which may give other weights; resume anyway with --allow-other-code, or start over with --restart"
        )
    LOGGER.warning("%s: its weights may differ from those of an uninterrupted run", text)
    return [*earlier, now]


def _describe_code(code: Any) -> str:
    if not isinstance(code, dict):
        return "an unidentified version of yt8m"
    return f"yt8m {code.get('version')} (code {str(code.get('digest'))[:8]})"


def _completed(origin: dict[str, Any], finished: bool) -> dict[str, Any]:
    """The origin from an earlier release, with the keys added since.

    Their values are what that release did, except for a finished run, which is left as it is: there the current
    defaults apply.
    """
    sections = origin.get("config", {})
    if isinstance(sections, dict):
        sections = {
            name: section | {"training": _completed_training(section["training"], name, finished)}
            if "training" in section
            else section
            for name, section in sections.items()
        }
    try:
        config = parse_config(sections, ORIGIN_NAME)
    except UserError:
        return origin  # the differences will be named
    return {
        **origin,
        "features": _completed_features(origin.get("features")),
        "config": exported_config(**{name: section for name, section in config if isinstance(section, BaseModel)}),
    }


def _completed_features(features: Any) -> Any:
    try:
        return FeatureContract.model_validate(features).model_dump(mode="json")
    except ValidationError:
        return features


def _completed_training(training: dict[str, Any], name: str, finished: bool) -> dict[str, Any]:
    """The completed `training` part of section `name`, without retired keys that had no effect."""
    formerly: dict[str, Any] = {} if finished else _FORMERLY_VIDEO if name == "video" else _FORMERLY
    return formerly | {key: value for key, value in training.items() if key not in _RETIRED or value is not None}


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """The differences between two nested dicts, one short text per value."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            text
            for key in sorted(before.keys() | now.keys())
            for text in differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    if before == now:
        return []
    if any(isinstance(value, str) and len(value) == 64 for value in (before, now)):
        return [f"{where} has changed"]  # digests mean nothing to people
    return [f"{where} was {before}, is {now}"]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
