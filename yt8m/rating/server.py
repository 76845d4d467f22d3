"""The server of the page, for this machine only and for those who know the address with its random token.

Requests with another host name, origin, token or path get an empty 403 or 404. Addresses contain no file paths; films
are numbers.
"""

import hmac
import logging
import os
import secrets
import socket
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request, send_file
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from yt8m.common.errors import UserError
from yt8m.rating.windows import NotAskedError, RatingWindows

LOGGER = logging.getLogger(__name__)
HOST = "127.0.0.1"
_PAGE = {
    "": ("rate.html", "text/html"),
    "rate.css": ("rate.css", "text/css"),
    "rate.js": ("rate.js", "text/javascript"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LARGEST_REQUEST = 4096  # bytes
_LONGEST_NAME = 64  # of a window

PageState = dict[str, Any]


class _QuietHandler(WSGIRequestHandler):
    """Prints no line per request: the address is a secret."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """See `WSGIRequestHandler`."""
        LOGGER.debug(message, *args)


class RatingServer:
    """Serves the page at `address`, on any free port if `port` is 0.

    Films are read only from `folder`. Raises `UserError` if the port is taken.
    """

    def __init__(self, windows: RatingWindows, folder: Path, title: str, port: int = 0) -> None:
        try:
            listener = socket.create_server((HOST, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: {os.strerror(error.errno or 0)}; choose another, or leave it out"
            ) from None
        with listener:
            place = f"{HOST}:{listener.getsockname()[1]}"
            token = secrets.token_urlsafe(24)
            app = create_app(windows, folder, title, token, place)
            self._server: BaseWSGIServer = make_server(
                HOST, listener.getsockname()[1], app, threaded=True, request_handler=_QuietHandler, fd=listener.fileno()
            )
        self.address = f"http://{place}/{token}/"

    def serve(self) -> None:
        """Answer requests until `stop` or Ctrl-C."""
        self._server.serve_forever()

    def stop(self) -> None:
        """Make `serve` return; call it from another thread."""
        self._server.shutdown()

    def close(self) -> None:
        """Release the port."""
        self._server.server_close()


def create_app(windows: RatingWindows, folder: Path, title: str, token: str, place: str) -> Flask:
    """The application, for requests to `place`, a host and port, below `/token/`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LARGEST_REQUEST
    origin = f"http://{place}"

    @app.before_request
    def check() -> None:
        """Reject requests that are not from the page."""
        if request.host != place:
            abort(403)  # a foreign host name that resolves to this machine
        if request.headers.get("Origin", "" if request.method == "POST" else origin) != origin:
            abort(403)
        if not hmac.compare_digest(request.path.split("/")[1].encode(), token.encode()):
            abort(404)

    @app.after_request
    def protect(response: Response) -> Response:
        """Keep responses out of other pages and caches."""
        response.headers.update(_HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def say_nothing(error: HTTPException) -> Response:
        """Respond with an empty body."""
        return Response(status=error.code)

    @app.errorhandler(OSError)
    def say_why(error: OSError) -> tuple[PageState, int]:
        """Respond to an answer that could not be written."""
        LOGGER.error("%s: %s", error.filename or windows.file.path, error.strerror or error)
        return {"error": f"{windows.file.path}: {error.strerror or error}"}, 507

    @app.get(f"/{token}/")
    @app.get(f"/{token}/<any('rate.css', 'rate.js'):name>")
    def page(name: str = "") -> Response:
        """The page and its files."""
        file, kind = _PAGE[name]
        return Response(files("yt8m.rating").joinpath("page", file).read_bytes(), mimetype=kind)

    @app.get(f"/{token}/film/<int:number>")
    def film(number: int) -> Response:
        """A film, or the requested range of it."""
        path = windows.films[number].played(folder) if number < len(windows.films) else None
        if path is None:
            abort(404)
        return send_file(path, conditional=True)

    def field(kind: type, name: str) -> Any:
        """A value of this type from the request's JSON. Aborts the request if it is missing."""
        value = content.get(name) if isinstance(content := request.get_json(silent=True), dict) else None
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            abort(400)
        if isinstance(value, str) and not 0 < len(value) <= _LONGEST_NAME:
            abort(400)
        return value

    def reply(act: Callable[[str], PageState]) -> tuple[PageState, int]:
        """The page's state after an action of its window; 409 for an answer to a question it was not asked."""
        window = field(str, "window")
        try:
            return act(window) | {"title": title}, 200
        except NotAskedError:
            return windows.ask(window) | {"title": title}, 409

    @app.post(f"/{token}/ask")
    def ask() -> tuple[PageState, int]:
        """The window's question."""
        return reply(windows.ask)

    @app.post(f"/{token}/answer")
    def answer() -> tuple[PageState, int]:
        """Yes or no."""
        return reply(lambda window: windows.answer(window, field(int, "question"), int(field(bool, "yes"))))

    @app.post(f"/{token}/skip")
    def skip() -> tuple[PageState, int]:
        """Neither."""
        return reply(lambda window: windows.answer(window, field(int, "question"), None))

    @app.post(f"/{token}/undo")
    def undo() -> tuple[PageState, int]:
        """Take back the last answer."""
        return reply(windows.undo)

    @app.post(f"/{token}/unplayable")
    def unplayable() -> tuple[PageState, int]:
        """The browser cannot play the film of a question."""
        return reply(lambda window: windows.give_up(window, field(int, "question")))

    @app.post(f"/{token}/leave")
    def leave() -> Response:
        """The window is closed."""
        windows.leave(field(str, "window"))
        return Response(status=204)

    return app
