"""TensorFlow starts without its notices; they are shown where it does not start."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from yt8m.data.tensorflow_import import import_tensorflow

HIDE_TRITON = "sys.modules['triton'] = None"


def importing(outcome: Exception | None):
    """In the place of the import: a library writes a notice past Python, then the module is there, or is not."""

    def import_module(name: str) -> ModuleType:
        if name == "triton":
            raise ImportError(name)
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


@pytest.mark.parametrize("triton", ["", "raise ImportError('no LLVM')", None])
def test_triton_comes_first(triton: str | None, tmp_path: Path) -> None:
    for name, source in (("tensorflow", ""), ("triton", triton or "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"print({name!r})\n{source}", encoding="utf-8")
    (tmp_path / "tensorflow" / "train.py").touch()
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {'' if triton is not None else HIDE_TRITON}\n"
        "from yt8m.data.tensorflow_import import import_tensorflow; import_tensorflow()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["triton", "tensorflow"][triton is None :]
