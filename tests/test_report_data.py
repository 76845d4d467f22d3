"""Data of the report: unreadable model folders are left out with a warning."""

import logging
from pathlib import Path

import pytest

from tests.small_models import DBOF, agnostic_folder, video_folder
from yt8m.reporting.report import describe_models


def test_models_that_cannot_be_understood_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = video_folder(tmp_path / "video" / "whole", DBOF, 3)
    (whole / "history.csv").write_text("step,loss\n1,0.5\n2,0.25\n", encoding="utf-8")
    no_table = agnostic_folder(tmp_path / "segment" / "no-table_0", DBOF, 3)
    (no_table / "history.csv").write_text('step,loss\n1,"0.5\n', encoding="utf-8")
    no_config = agnostic_folder(tmp_path / "segment" / "no-config_0", DBOF, 3)
    (no_config / "config.yaml").write_text("[", encoding="utf-8")
    (tmp_path / "segment" / "begun_0").mkdir()
    with caplog.at_level(logging.WARNING):
        described = describe_models(tmp_path)
    assert [model["name"] for model in described] == ["whole"]
    assert len(caplog.messages) == 2
    for message, file in zip(caplog.messages, (no_config / "config.yaml", no_table / "history.csv")):
        assert message.startswith(f"{file}: ") and message.endswith("; the report leaves this model out")
