"""The data folder of a fit, and what it was made from: the same command goes on there, another one is refused."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helperbot.files import locked, remove_leftovers, replacing

from yt8m.common.errors import UserError
from yt8m.training.resume import differences

RECORD = "fit.json"
FILMS = "films"  # their features, which a new beginning keeps


class FitFolder:
    """A data folder that is filled by a fit.

    Attributes:
        path: of the folder, with what all commands look for in a data folder.
        films: features of films, as `extract_features` leaves them.
        scratch: data folders and models of trials, which no other command looks at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.films = path / FILMS
        self.scratch = path / "cache" / "fit"
        self._record = path / RECORD

    def require(self, **inputs: Any) -> None:
        """Put down some inputs, plain values. Raises `UserError` if they were others before."""
        known = self._known()
        given = json.loads(json.dumps(inputs))
        changed = [text for key in given if key in known for text in differences(known[key], given[key], key)]
        if changed:
            raise UserError(
                f"{self.path}: was made with other inputs: {'; '.join(changed)}; choose another --name, or begin anew "
                "with --restart"
            )
        if given.keys() - known.keys():
            with replacing(self._record) as temporary:
                temporary.write_text(json.dumps(known | given, indent=1) + "\n", encoding="utf-8")

    def _known(self) -> dict[str, Any]:
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._record}: cannot be read ({error}); choose another --name, or begin anew with --restart"
            ) from None
        return found if isinstance(found, dict) else {}


@contextmanager
def open_fit_folder(path: Path, restart: bool) -> Iterator[FitFolder]:
    """The folder, made if it is not there; no other process fits to it meanwhile.

    `restart`: without anything that an earlier fit made of it but features of films. Raises `UserError` for a folder
    that no fit has made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.fit.lock")
    with locked(lock, UserError(f"{path}: another process is fitting to it; wait for it or stop it")):
        try:
            if path.exists() and not (path / RECORD).exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError(f"{path}: is there already, and not made by this command; choose another --name")
            if restart and path.exists():
                _empty(path)
            path.mkdir(exist_ok=True)
            remove_leftovers(path, RECORD)
            yield FitFolder(path)
        finally:
            lock.unlink()


def _empty(path: Path) -> None:
    """Remove all but films' features and, at last, the record, which says that the folder is ours."""
    for entry in path.iterdir():
        if entry.name not in (FILMS, RECORD):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()  # pylint: disable=expression-not-assigned
    (path / RECORD).write_text("{}\n", encoding="utf-8")


def digest_files(paths: Iterable[Path]) -> str:
    """SHA-256 of names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
