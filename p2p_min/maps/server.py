"""The live page's server: on this computer only, for whoever has the address with its token.

It defends itself against other pages in the same browser (token, Host, Origin, policies), other users of the same
computer (token), and broken pictures (few formats, a size). It trusts the person at the keyboard, who has the token.
"""
import hmac
import json
import os
import secrets
import select
import socketserver
import sys
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler

from ..checks import METHODS
from .live import KINDS, SETTINGS, Session, Superseded
from .page import POLICY, write_page

LIVE_POLICY = f"{POLICY}; connect-src 'self'"
HEADERS = {
    "Content-Security-Policy": f"{LIVE_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store"}
LARGEST = 20_000_000                           # bytes of a request: of a picture


class ClientGone(Exception):
    """Nobody waits for the answer any more: the stop button, or a closed page."""


class Server(socketserver.ThreadingTCPServer):
    # Closing waits for the threads: torch aborts a process that ends while one of them still runs.
    daemon_threads = False
    allow_reuse_address = os.name != "nt"                  # on Windows, another process could bind the same port

    def __init__(self, session, port=0, first=()):
        """first: initial settings that differ from the defaults."""
        self.session, self.token = session, secrets.token_urlsafe()
        super().__init__(("127.0.0.1", port), Handler)     # which closes the server if the port is taken
        self.hosts = [f"{name}:{self.server_address[1]}" for name in ("127.0.0.1", "localhost")]
        self.address = f"http://{self.hosts[0]}/{self.token}/"
        self.page = write_page(dict(live=dict(
            settings=SETTINGS | dict(first), kinds=[*KINDS, "none"], methods=METHODS, layers=session.layers,
            largest=LARGEST)), LIVE_POLICY, ("page.js", "live.js"))

    def handle_error(self, request, client):               # a broken connection is no news
        pass


class Handler(BaseHTTPRequestHandler):
    timeout = 5                                            # seconds without a byte, either way

    def log_message(self, *args):
        pass

    def start(self, kind):
        self.send_response_only(200)
        for name, value in {"Content-Type": kind, **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def is_allowed(self, *paths):
        """Whether a request is our page's, for one of these paths below the token. Answers it if it is not."""
        host, origin = self.headers["Host"], self.headers["Origin"]
        token, _, self.what = self.path[1:].partition("/")
        if host not in self.server.hosts or origin not in (None, f"http://{host}"):
            self.send_error(403, "another host or origin")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self.send_error(403, "another token")
        elif self.what not in paths:
            self.send_error(404)
        else:
            return True

    def do_GET(self):
        if self.is_allowed(""):
            self.start("text/html; charset=utf-8")
            self.wfile.write(self.server.page.encode())

    def do_POST(self):
        length = int(self.headers["Content-Length"] or 0)
        if not 0 <= length <= LARGEST:
            return self.send_error(413)                    # Content Too Large
        # All of it is read before an answer: closing with unread input resets the connection, and the answer is lost.
        body = self.rfile.read(length)
        if not self.is_allowed("run", "page", "picture"):
            return
        self.start("application/x-ndjson")
        session = self.server.session
        try:
            if self.what == "picture":
                message = session.keep_picture(body)
            else:
                message = (session.answer if self.what == "run" else session.page)(json.loads(body), self.say)
        except Superseded:
            message = dict(replaced=True)
        except (ClientGone, OSError):
            return
        except Exception as error:                         # what the user can fix; or a fault, and the server lives on
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            message = dict(error=f"{kind}{error}".split("\n")[0], setting=getattr(error, "setting", None))
        self.say(message)

    def say(self, message):
        """One line of the answer. Raises ClientGone or OSError if nobody waits for it."""
        if select.select([self.request], [], [], 0)[0]:    # it says something, or that it has closed
            raise ClientGone
        self.wfile.write(json.dumps(message).encode() + b"\n")


def serve(model, options, port=0, first=()):
    """Prints the page's address, opens it, and serves until Ctrl-C. Raises ValueError if the port is taken.

    options, first  see `Session` and `Server`
    """
    session = Session(model, options)
    try:
        server = Server(session, port, first)
    except OSError as error:
        raise ValueError(f"port {port} is not available: {error.strerror or error}") from None
    print(f"{server.address}\n(only this computer can open it; Ctrl-C ends it)", flush=True)
    # Without a window system, webbrowser would start a browser in the terminal.
    if sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
        threading.Thread(target=webbrowser.open, args=[server.address], daemon=True).start()
    try:
        server.serve_forever()
    finally:
        session.close()
        server.server_close()
