"""Telegram messages about long runs: started, finished, crashed or stopped.

    with RunNotifier("cache/video/dbof-3: 100000 steps") as notifier:
        ...
        notifier.result = "loss 0.0028"  # optional: the end of the message about a normal end

Environment variables set the destination: TELEGRAM_BOT_TOKEN (from @BotFather) and TELEGRAM_CHAT_ID (a number or
@channel); without both, nothing is sent. TELEGRAM_API_URL sets another Bot API server: the part of its URLs before the
token, such as http://localhost:8081/bot (default: https://api.telegram.org/bot). In a distributed run, only the process
with RANK 0 sends.

Sending never ends a run and hardly delays it: it happens in a thread, and failures are logged as warnings. The token,
part of every URL, is kept out of the log.
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

WAIT_SECONDS = 5.0  # the maximum wait for unsent messages at the end of a run
SEND_SECONDS = 30.0  # the time limit of a message, so that one that hangs does not block the next
MOST_CHARACTERS = 4096  # Telegram's limit for a message
_API_URL = "https://api.telegram.org/bot"
_MOST_REASON = 300  # characters of a warning: a proxy may answer with a page of HTML
_TOKEN = re.compile(r"[0-9]+:[A-Za-z0-9_-]{20,}")
_LIBRARIES = {"telegram", "httpx", "httpcore", "anyio", "asyncio"}


class RunNotifier:
    """A context that sends messages about its start and end, if configured in the environment.

    `result`, if set, is added to the message about a normal end. It raises nothing itself and passes on exceptions of
    its block. An incomplete configuration, and each message that cannot be sent, is logged as one warning. The end of
    the block waits at most `WAIT_SECONDS` for unsent messages.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.result = ""
        self._start = 0.0
        self._sender: _Sender | None = None

    def __enter__(self) -> "RunNotifier":
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
        verb = "crashed" if isinstance(error, Exception) else "stopped"  # Ctrl-C and sys.exit are not crashes
        return f"{verb}: {self.title} after {duration}: {_describe(error)}"


def _describe(error: BaseException) -> str:
    """The type of an exception and the first line of its message."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # pylint: disable=broad-exception-caught  # a faulty __str__ must not replace the run's exception
        lines = []
    return ": ".join([type(error).__name__, *lines[:1]])


def _start_sender() -> "_Sender | None":
    """A running sender thread, or None if nothing is to be sent."""
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
            "No Telegram messages: the environment variable TELEGRAM_BOT_TOKEN is not a bot token: "
            "digits, a colon, and at least 20 letters, digits, - or _"
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
    """A thread that sends messages one by one; as a daemon, it does not keep the process alive."""

    def __init__(self, token: str, chat: str, api_url: str) -> None:
        super().__init__(name="telegram", daemon=True)
        self._token, self._chat, self._api_url = token, chat, api_url
        self._texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None ends the thread
        self._lock = threading.Lock()  # for the next two, so that there is one warning per message
        self._n_unsettled = 0
        self._given_up = False

    def send(self, text: str) -> None:
        """Queue a message without waiting."""
        with self._lock:
            self._n_unsettled += 1
        self._texts.put(_cut(self._redact(text)))

    def finish(self) -> None:
        """Wait for unsent messages, at most `WAIT_SECONDS`."""
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
        """Send messages until told to end; log failures."""
        while (text := self._texts.get()) is not None:
            reason = ""
            try:
                # A new loop and connection for each message: they may be hours apart.
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
        """Remove the token; its second half is the secret, and a URL may encode the colon as %3A."""
        return text.replace(self._token, "<token>").replace(self._token.partition(":")[2], "<token>")


class _Loop(asyncio.SelectorEventLoop):
    """Resolves names in its own thread: at exit, a process would wait for the threads that asyncio uses for that."""

    async def getaddrinfo(self, host: Any, port: Any, **options: int) -> list[Any]:
        """`socket.getaddrinfo`."""
        return socket.getaddrinfo(host, port, **options)


def _quieten_libraries() -> None:
    """Silence the libraries' loggers in a sender thread, where URLs contain the token.

    A logger's filter does not see the records of its child loggers, so each one gets the filter. Adding it twice has
    no effect, and records of other threads pass.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).addFilter(_is_of_another_thread)


def _is_of_another_thread(_record: logging.LogRecord) -> bool:
    return not isinstance(threading.current_thread(), _Sender)


def _cut(text: str) -> str:
    """Cut to `MOST_CHARACTERS`, counted in UTF-16 like Telegram; undecodable bytes of a path become "?"."""
    return text.encode("utf-16-le", "replace")[: 2 * MOST_CHARACTERS].decode("utf-16-le", "ignore")
