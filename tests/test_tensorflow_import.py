"""TensorFlow starts without its notices; they are shown where it does not start."""

import importlib
import os
import sys
from types import ModuleType

import pytest

from yt8m.data.tensorflow_import import import_tensorflow


def importing(outcome: Exception | None):
    """In the place of the import: a library writes a notice past Python, then the module is there, or is not."""

    def import_module(name: str) -> ModuleType:
        os.write(2, f"notice of {name}\n".encode())
        if outcome is not None:
            raise outcome
        return ModuleType(name)

    return import_module


def test_a_failed_import_shows_what_the_libraries_wrote(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(importlib, "import_module", importing(ImportError("no libcudart")))
    with pytest.raises(ImportError, match="no libcudart"):
        import_tensorflow()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "notice of tensorflow\nafterwards\n"


def test_an_import_that_succeeds_is_quiet(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(importlib, "import_module", importing(None))
    assert import_tensorflow().__name__ == "tensorflow"
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_what_is_imported_is_not_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tensorflow")
    monkeypatch.setitem(sys.modules, "tensorflow", module)
    monkeypatch.setattr(importlib, "import_module", importing(ImportError("twice")))
    assert import_tensorflow() is module
