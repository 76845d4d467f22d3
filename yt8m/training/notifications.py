"""Messages about long runs, sent by a Telegram bot: that one has started, finished, crashed or was stopped.

    with reporting("cache/video/dbof-3: 100000 steps") as report:
        ...
        report.result = "loss 0.0028"  # optional: the end of the message about a normal end

The environment says where to: TELEGRAM_BOT_TOKEN (from @BotFather) and TELEGRAM_CHAT_ID (a number or @channel); without
both, nothing is sent. TELEGRAM_API_URL names another Bot API server by all that comes before the token in its URLs,
such as http://localhost:8081/bot (default: https://api.telegram.org/bot). Of the processes of a distributed run only
the one with RANK 0 sends.

Sending never ends a run and hardly delays it: a thread does it, and what fails is a warning in the log. The token is
part of every URL, and is kept out of the log.
"""

import asyncio
import logging
import os
import platform
import queue
import re
import socket
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Any

LOGGER = logging.getLogger(__name__)

WAIT_SECONDS = 5.0  # how long the end of a run waits for messages on their way
SEND_SECONDS = 30.0  # how long one message may take; without a limit, one that hangs would hold up the next
MOST_CHARACTERS = 4096  # of a message, Telegram's limit
_API_URL = "https://api.telegram.org/bot"
_MOST_REASON = 300  # characters of a warning: a proxy may answer with a page of HTML
_TOKEN = re.compile(r"[0-9]+:[A-Za-z0-9_-]{20,}")
_LIBRARIES = {"telegram", "httpx", "httpcore", "anyio", "asyncio"}


class Report:
    """A context that reports its start and its end; `result`, if set, is added to the message about a normal end.

    It raises nothing of its own, and leaves an exception of its block as it is. The end of the block waits at most
    `WAIT_SECONDS` for messages still to be sent.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""
        self._start = 0.0
        self._sender: _Sender | None = None

    def __enter__(self) -> "Report":
        self._start = time.monotonic()
        self._sender = _start_sender()
        if self._sender is not None:
            self._sender.send(f"started: {self.title} on {platform.node()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._sender is not None:
            self._sender.send(self._end(error))
            self._sender.finish()

    def _end(self, error: BaseException | None) -> str:
        duration = timedelta(seconds=round(time.monotonic() - self._start))
        if error is None:
            return f"finished: {self.title} in {duration}" + (f": {self.result}" if self.result else "")
        verb = "crashed" if isinstance(error, Exception) else "stopped"  # Ctrl-C and sys.exit are no crash
        return f"{verb}: {self.title} after {duration}: {_describe(error)}"


def reporting(title: str) -> Report:
    """Report the run of the `with` block by Telegram, if the environment asks for it; raises nothing.

    Half a configuration, and each message that could not be sent, is one warning in the log.
    """
    return Report(title)


def _describe(error: BaseException) -> str:
    """The type of an exception and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # pylint: disable=broad-exception-caught  # a faulty __str__ must not replace the run's exception
        lines = []
    return ": ".join([type(error).__name__, *lines[:1]])


def _start_sender() -> "_Sender | None":
    """A running thread that sends, or none where nothing is to be sent."""
    if os.environ.get("RANK", "0") not in ("", "0"):
        return None
    values = {
        name: os.environ.get(name, "").strip()
        for name in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID", "TELEGRAM_API_URL")
    }
    token, chat, api_url = values.values()
    if not token and not chat:
        return None
    if not token or not chat:
        LOGGER.warning(
            "No Telegram messages: the environment variable %s is not set",
            "TELEGRAM_CHAT_ID" if token else "TELEGRAM_BOT_TOKEN",
        )
        return None
    if not _TOKEN.fullmatch(token):
        LOGGER.warning(
            "No Telegram messages: the environment variable TELEGRAM_BOT_TOKEN holds no token of a bot, "
            "which is digits, a colon, and at least 20 letters, digits, - or _"
        )
        return None
    sender = _Sender(token, chat, api_url or _API_URL)
    try:
        sender.start()
    except RuntimeError as error:  # the system's limit of threads
        LOGGER.warning("No Telegram messages: %s", error)
        return None
    return sender


class _Sender(threading.Thread):
    """A thread that sends messages one after another. As a daemon it does not keep a process from ending."""

    def __init__(self, token: str, chat: str, api_url: str) -> None:
        super().__init__(name="telegram", daemon=True)
        self._token, self._chat, self._api_url = token, chat, api_url
        self._texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None ends the thread
        self._lock = threading.Lock()  # of the next two, so that a message is warned of once
        self._n_unsettled = 0
        self._given_up = False

    def send(self, text: str) -> None:
        """Hand over a message, without waiting."""
        with self._lock:
            self._n_unsettled += 1
        self._texts.put(_cut(self._redact(text)))

    def finish(self) -> None:
        """Wait for what is unsent, at most `WAIT_SECONDS`."""
        self._texts.put(None)
        self.join(WAIT_SECONDS)
        with self._lock:
            self._given_up = True
            if self._n_unsettled:
                LOGGER.warning(
                    "%d Telegram message(s) not sent within %g seconds of the end of the run",
                    self._n_unsettled,
                    WAIT_SECONDS,
                )

    def run(self) -> None:
        """Send until told to end; what fails is logged."""
        while (text := self._texts.get()) is not None:
            reason = ""
            try:
                # One loop and one connection for each message: hours may lie between two.
                with asyncio.Runner(loop_factory=_Loop) as runner:
                    runner.run(self._post(text))
            except Exception as error:  # pylint: disable=broad-exception-caught  # a message is not worth a run
                reason = self._redact(_describe(error))
            with self._lock:
                self._n_unsettled -= 1
                if reason and not self._given_up:
                    LOGGER.warning("Telegram message not sent: %s", reason[:_MOST_REASON])

    async def _post(self, text: str) -> None:
        from telegram import Bot
        from telegram.request import HTTPXRequest

        async with asyncio.timeout(SEND_SECONDS), HTTPXRequest() as request:
            _quieten_libraries()  # here, because HTTPXRequest() imports some of them
            # Bot.initialize would ask for the bot's name first; given its HTTP client, a Bot works without.
            bot = Bot(self._token, self._api_url, request=request, get_updates_request=request)
            await bot.send_message(self._chat, text)

    def _redact(self, text: str) -> str:
        """Without the token; its second half is the secret, and a URL may spell the colon as %3A."""
        return text.replace(self._token, "<token>").replace(self._token.partition(":")[2], "<token>")


class _Loop(asyncio.SelectorEventLoop):
    """Looks up names in its own thread: a process waits at its end for the threads that asyncio would use for it."""

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> list[Any]:
        """`socket.getaddrinfo`."""
        return socket.getaddrinfo(host, port, **options)


def _quieten_libraries() -> None:
    """Let the loggers of the libraries drop what they are given in a sending thread, where URLs hold the token.

    A filter of a logger does not see the records of the loggers below it, so each one gets the filter. Adding it
    twice does nothing, and records of other threads pass.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(_is_of_another_thread)


def _is_of_another_thread(_record: logging.LogRecord) -> bool:
    return not isinstance(threading.current_thread(), _Sender)


def _cut(text: str) -> str:
    """At most `MOST_CHARACTERS`, counted in UTF-16 as Telegram does; undecodable bytes of a path become "?"."""
    return text.encode("utf-16-le", "replace")[: 2 * MOST_CHARACTERS].decode("utf-16-le", "ignore")
