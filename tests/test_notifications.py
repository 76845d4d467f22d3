"""Telegram messages: texts, failures that do not affect a run, and the secrecy of the token.

All is sent to a look-alike of the Bot API on loopback.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import parse_qs

import pytest

from yt8m.training import notifications
from yt8m.training.notifications import RunNotifier

SECRET = "AAsecret_secret-secret_secret-5ecre"
TOKEN = f"123456789:{SECRET}"
CHAT = "-1001234567890"
MESSAGE = {"ok": True, "result": {"message_id": 1, "date": 0, "chat": {"id": int(CHAT), "type": "group"}, "text": "x"}}


class Api(NamedTuple):
    """A server like the Bot API, and what it was sent: paths, and the forms' fields."""

    url: str
    paths: list[str]
    forms: list[dict[str, str]]

    @property
    def texts(self) -> list[str]:
        """The messages in order."""
        return [form["text"] for form in self.forms]


@contextmanager
def _serving(status: int = 200, answer: str = json.dumps(MESSAGE)) -> Iterator[Api]:
    paths, forms = [], []

    class Handler(BaseHTTPRequestHandler):
        """Records a request and answers as told."""

        def do_POST(self) -> None:  # pylint: disable=invalid-name
            """Any request of the library."""
            fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            paths.append(self.path)
            forms.append({name: value for name, [value] in fields.items()})
            self.send_response(status)
            self.send_header("X-Path", self.path)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test looks for the token in all that is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Api(f"http://127.0.0.1:{server.server_port}/bot", paths, forms)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _hanging() -> Iterator[Api]:
    with socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()  # the system accepts connections; nothing ever reads from them
        yield Api(f"http://127.0.0.1:{server.getsockname()[1]}/bot", [], [])


@contextmanager
def _refusing() -> Iterator[Api]:
    with _hanging() as api:
        pass
    yield api


@pytest.fixture(name="configure")
def fixture_configure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Api], None]:
    """Let the environment name a server; before that it holds nothing about Telegram, ranks or proxies."""
    for name in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID", "TELEGRAM_API_URL", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")

    def set_variables(api: Api) -> None:
        monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
        monkeypatch.setenv("TELEGRAM_CHAT_ID", CHAT)
        monkeypatch.setenv("TELEGRAM_API_URL", api.url)

    return set_variables


@pytest.fixture(name="api")
def fixture_api(configure: Callable[[Api], None]) -> Iterator[Api]:
    """A server that takes every message, named by the environment."""
    with _serving() as api:
        configure(api)
        yield api


def _run_script(script: str) -> tuple["subprocess.CompletedProcess[str]", float]:
    began = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, timeout=60, check=False
    )
    return process, time.monotonic() - began


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "yt8m.training.notifications" and record.levelno >= logging.WARNING
    ]


def _assert_token_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    for record in caplog.records:
        text = f"{record.getMessage()} {record.exc_text} {record.exc_info} {caplog.handler.format(record)}"
        assert SECRET not in text, record.name


def test_start_and_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "gpu-7")
    with RunNotifier("cache/video/dbof-3: 100 steps") as notifier:
        notifier.result = "loss 0.0028"
    assert api.texts == [
        "started: cache/video/dbof-3: 100 steps on gpu-7",
        "finished: cache/video/dbof-3: 100 steps in 0:00:00: loss 0.0028",
    ]
    assert {form["chat_id"] for form in api.forms} == {CHAT}
    assert set(api.paths) == {f"/bot{TOKEN}/sendMessage"}
    assert not [thread for thread in threading.enumerate() if thread.name == "telegram"]


def test_end_without_result_and_its_duration(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(notifications, "time", clock)
    with RunNotifier("a run"):
        clock.monotonic = lambda: 1000.0 + 3 * 3600 + 125.3
    assert api.texts[-1] == "finished: a run in 3:02:05"


def test_the_start_is_sent_at_the_start(api: Api) -> None:
    with RunNotifier("a run"):
        deadline = time.monotonic() + 15
        while not api.texts and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(api.texts) == 1


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("no such class: 17\nsecond line"), "crashed: a run after 0:00:00: ValueError: no such class: 17"),
        (RuntimeError(), "crashed: a run after 0:00:00: RuntimeError"),
        (KeyboardInterrupt(), "stopped: a run after 0:00:00: KeyboardInterrupt"),
        (SystemExit(3), "stopped: a run after 0:00:00: SystemExit: 3"),
    ],
)
def test_an_exception_is_reported_and_passes_unchanged(api: Api, error: BaseException, end: str) -> None:
    with pytest.raises(type(error)) as caught, RunNotifier("a run") as notifier:
        notifier.result = "not shown"
        raise error
    assert caught.value is error
    assert error.__cause__ is None and error.__context__ is None
    assert len(caught.traceback) == 1
    assert api.texts[1:] == [end]


def test_an_exception_without_text_passes_unchanged(api: Api) -> None:
    class Faulty(Exception):
        """Cannot be printed."""

        def __str__(self) -> str:
            raise TypeError

    error = Faulty()
    with pytest.raises(Faulty) as caught, RunNotifier("a run"):
        raise error
    assert caught.value is error
    assert api.texts[1:] == ["crashed: a run after 0:00:00: Faulty"]


@pytest.mark.usefixtures("configure")
def test_unconfigured_is_silent() -> None:
    process, _ = _run_script(
        "import logging, sys, threading\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "from yt8m.training.notifications import RunNotifier\n"
        "with RunNotifier('a run') as notifier:\n"
        "    assert threading.active_count() == 1\n"
        "    notifier.result = 'done'\n"
        "assert not {'telegram', 'httpx', 'torch', 'numpy'} & set(sys.modules)\n"
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TELEGRAM_CHAT_ID", "", "TELEGRAM_CHAT_ID is not set"),
        ("TELEGRAM_BOT_TOKEN", " ", "TELEGRAM_BOT_TOKEN is not set"),
        ("TELEGRAM_BOT_TOKEN", SECRET, "TELEGRAM_BOT_TOKEN is not a bot token"),
        ("TELEGRAM_BOT_TOKEN", f"https://api.telegram.org/bot{TOKEN}", "TELEGRAM_BOT_TOKEN is not a bot token"),
    ],
)
def test_half_a_configuration_warns_once(
    api: Api, variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(variable, value)
    with RunNotifier("a run"):
        pass
    assert api.texts == []
    [warning] = _warnings(caplog)
    assert said in warning
    _assert_token_not_logged(caplog)


@pytest.mark.parametrize(("rank", "n_messages"), [("0", 2), ("1", 0), ("7", 0)])
def test_only_the_first_rank_reports(
    api: Api, rank: str, n_messages: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", rank)
    with RunNotifier("a run"):
        pass
    assert len(api.texts) == n_messages
    if not n_messages:  # nor does another rank complain about what the first one complains about
        monkeypatch.delenv("TELEGRAM_CHAT_ID")
        with RunNotifier("a run"):
            pass
        assert _warnings(caplog) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the library's own, about waiting times
@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, '{"ok": false, "error_code": 401, "description": "Unauthorized"}', "InvalidToken: Unauthorized"),
        (400, '{"ok": false, "error_code": 400, "description": "Bad Request: chat not found"}', "Chat not found"),
        (400, f'{{"ok": false, "description": "no {TOKEN}"}}', "no <token>"),
        (429, '{"ok": false, "description": "flood", "parameters": {"retry_after": 3600}}', "RetryAfter"),
        (500, "{}", "Internal Server Error"),
        (502, f"<html>/bot{TOKEN.replace(':', '%3A')}/sendMessage" + 1000 * "x", "<token>"),
        (200, f"not JSON: {TOKEN}", "TelegramError"),
        (None, "", "ConnectError"),
    ],
    ids=["401", "400", "echo", "429", "500", "page", "no-json", "refused"],
)
def test_failures_are_warnings_without_the_token(
    status: int | None, answer: str, said: str, configure: Callable[[Api], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    done = False
    with _refusing() if status is None else _serving(status, answer) as api:
        configure(api)
        with RunNotifier("a run"):
            done = True
    assert done
    warnings = _warnings(caplog)
    assert len(warnings) == 2
    assert all(warning.startswith("Telegram message not sent: ") and said in warning for warning in warnings)
    assert all(len(warning) < 400 and "\n" not in warning for warning in warnings)
    _assert_token_not_logged(caplog)


@pytest.mark.parametrize("url", ["no url", "http://host.invalid/bot", "http://[/bot", "{/bot", "{token}/bot"])
def test_a_wrong_address_is_a_warning_without_the_token(
    url: str, configure: Callable[[Api], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    configure(Api(url, [], []))
    with RunNotifier("a run"):
        pass
    assert 1 <= len(_warnings(caplog)) <= 2
    _assert_token_not_logged(caplog)


@pytest.mark.usefixtures("api")
def test_success_logs_nothing_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RunNotifier("a run"):
        pass
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    _assert_token_not_logged(caplog)


def test_the_log_of_the_libraries_elsewhere_is_left_alone(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    import httpx

    caplog.set_level(logging.DEBUG)
    with RunNotifier("a run"):
        pass
    caplog.clear()
    httpx.post(api.url, data={"text": "mine"})
    assert "httpx" in {record.name for record in caplog.records}


def test_a_hanging_server_delays_a_run_by_the_limit_at_most(
    configure: Callable[[Api], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(notifications, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr(notifications, "SEND_SECONDS", 1)
    with _hanging() as api:
        configure(api)
        began = time.monotonic()
        notifier = RunNotifier("a run")
        with notifier:
            entered = time.monotonic() - began
        ended = time.monotonic() - began
        [sender] = [thread for thread in threading.enumerate() if thread.name == "telegram"]
        sender.join(15)
    assert entered < 0.9 and 0.5 <= ended < 10
    assert _warnings(caplog) == ["2 Telegram message(s) not sent within 0.5 seconds of the end of the run"]
    _assert_token_not_logged(caplog)


def test_one_message_may_not_take_forever(
    configure: Callable[[Api], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "SEND_SECONDS", 0.2)
    with _hanging() as api:
        configure(api)
        with RunNotifier("a run"):
            pass
    assert _warnings(caplog) == ["Telegram message not sent: TimeoutError"] * 2


@pytest.mark.parametrize(
    "slow_part", ["", "import socket; socket.getaddrinfo = lambda *a, **k: time.sleep(100)"], ids=["server", "name"]
)
def test_a_process_ends_in_time_and_prints_no_token(
    slow_part: str, configure: Callable[[Api], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _hanging() as api:
        configure(api)
        if slow_part:
            monkeypatch.setenv("TELEGRAM_API_URL", "http://host.invalid/bot")
        process, seconds = _run_script(
            "import logging, time\n"
            f"{slow_part}\n"
            "logging.basicConfig(level=logging.DEBUG)\n"
            "from yt8m.training import notifications\n"
            "notifications.WAIT_SECONDS = 1.5\n"
            "with notifications.RunNotifier('a run'):\n"
            "    time.sleep(1)\n"
            "    raise ValueError('of the run')\n"
        )
    assert seconds < 15
    assert process.returncode == 1
    assert process.stderr.endswith("ValueError: of the run\n")
    assert "not sent within 1.5 seconds" in process.stderr
    assert SECRET not in process.stderr + process.stdout


def test_stderr_of_a_process_that_succeeds_or_is_refused_has_no_token(configure: Callable[[Api], None]) -> None:
    script = (
        "import logging; logging.basicConfig(level=logging.DEBUG)\n"
        "from yt8m.training.notifications import RunNotifier\n"
        "with RunNotifier('a run'): pass\n"
    )
    for server, n_warnings in ((_serving(), 0), (_serving(401, f'{{"description": "{TOKEN}"}}'), 2)):
        with server as api:
            configure(api)
            process, _ = _run_script(script)
        assert process.returncode == 0
        assert len(api.texts) == 2
        assert process.stderr.count("WARNING:yt8m.training.notifications:") == n_warnings
        assert SECRET not in process.stderr + process.stdout


@pytest.mark.parametrize(("character", "most"), [("a", 4096), ("é", 4096), ("😀", 2048)])
def test_long_messages_are_cut(api: Api, character: str, most: int) -> None:
    with RunNotifier("a run") as notifier:
        notifier.result = character * 9000
    assert api.texts[1].startswith("finished: a run in 0:00:00: ")
    assert len(api.texts[1].encode("utf-16-le")) // 2 in (4095, 4096)
    assert most - 30 < api.texts[1].count(character) <= most


def test_a_message_has_neither_the_token_nor_undecodable_bytes(api: Api) -> None:
    with pytest.raises(ValueError), RunNotifier(os.fsdecode(b"caf\xe9")):
        raise ValueError(TOKEN)
    assert api.texts[0].startswith("started: caf? on ")
    assert api.texts[1] == "crashed: caf? after 0:00:00: ValueError: <token>"


def test_a_lack_of_threads_is_a_warning(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("yt8m.training.notifications._Sender.start", fail)
        with RunNotifier("a run"):
            pass
    assert api.texts == []
    assert _warnings(caplog) == ["No Telegram messages: can't start new thread"]
