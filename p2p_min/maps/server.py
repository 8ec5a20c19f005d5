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
import tempfile
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from ..checks import METHODS
from .live import KINDS, SETTINGS, Session, Superseded
from .page import POLICY, write_page

LIVE_POLICY = f"{POLICY}; connect-src 'self'"
HEADERS = {
    "Content-Security-Policy": f"{LIVE_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
PATHS = dict(                                  # below the token, and of what type the answers are
    GET={"": "text/html; charset=utf-8"}, POST=dict.fromkeys(("run", "page", "picture"), "application/x-ndjson"))
LARGEST = 20_000_000                           # bytes of a request: of a picture


class Server(socketserver.ThreadingTCPServer):
    # Closing waits for the threads: torch aborts a process that ends while one of them still runs.
    daemon_threads = False
    allow_reuse_address = os.name != "nt"                  # on Windows, another process could bind the same port

    def __init__(self, session, port=0, first=()):
        """first: initial settings that differ from the defaults."""
        self.session, self.token = session, secrets.token_urlsafe()
        super().__init__(("127.0.0.1", port), Handler)     # which closes the server if the port is taken
        names, port = ["127.0.0.1", "localhost"], self.server_address[1]
        self.hosts = [f"{name}:{port}" for name in names] + names * (port == 80)       # which browsers leave out
        self.address = f"http://{self.hosts[0]}/{self.token}/"
        live = dict(settings=SETTINGS | dict(first), kinds=list(KINDS), methods=METHODS, layers=session.layers,
                    known=session.known, largest=LARGEST)
        self.page = write_page(dict(live=live), LIVE_POLICY, ("page.js", "live.js"))

    def handle_error(self, request, client):               # a broken connection is ignored
        pass


class Handler(BaseHTTPRequestHandler):
    timeout = 5                                            # seconds without a byte, either way

    def log_message(self, *args):
        pass

    def do_POST(self):
        """Answers a request if it is our page's, for one of its paths below the token."""
        server, host, length = self.server, self.headers["Host"], int(self.headers["Content-Length"] or 0)
        token, _, what = self.path[1:].partition("/")
        if not 0 <= length <= LARGEST:
            return self.send_error(413)                    # Content Too Large; the page itself says so before
        # It is read before any other answer, which unread input would take back as the connection closes.
        body = self.rfile.read(length)
        if host not in server.hosts or self.headers["Origin"] not in (None, f"http://{host}"):
            return self.send_error(403, "another host or origin")
        if not hmac.compare_digest(token.encode(), server.token.encode()):
            return self.send_error(403, "another token")
        if what not in PATHS[self.command]:
            return self.send_error(404)
        self.send_response_only(200)
        for header in {"Content-Type": PATHS[self.command][what], **HEADERS}.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(server.page.encode()) if what == "" else self.answer(what, body)

    do_GET = do_POST

    def answer(self, what, body):
        """Lines of JSON: of each step of a run, then of what it gave."""
        session = self.server.session
        try:
            message = session.keep_picture(body) if what == "picture" else session.answer(json.loads(body), self.say)
            if what == "page":
                message = dict(page=write_page(message["data"]))
        except Superseded:
            message = dict(replaced=True)
        except Exception as error:                         # what the user can fix; or a fault: the server lives on
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            message = dict(error=f"{kind}{error}".split("\n")[0], setting=getattr(error, "setting", None))
        self.say(message)

    def say(self, message):
        """One line of the answer. Raises OSError if nobody waits for it: the stop button, or a closed page."""
        if select.select([self.request], [], [], 0)[0]:    # it says something, or that it has closed
            raise ConnectionAbortedError
        self.wfile.write(json.dumps(message).encode() + b"\n")


def serve(model, options, port=0, first=()):
    """Prints the page's address, opens it, and serves until Ctrl-C. Raises ValueError if the port is taken."""
    session = Session(model, options)
    try:
        server = Server(session, port, first)
    except OSError as error:
        raise ValueError(f"port {port} is not available: {error.strerror or error}") from None
    print(f"{server.address}\n(only this computer can open it; Ctrl-C ends it)", flush=True)
    # All users can read the browser's command line: on it is only a private file that leads to the address.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "p2p.html")
        file.touch(0o600)
        file.write_text(f'<meta http-equiv="refresh" content="0; url={server.address}">')
        # Without a window system, webbrowser would start a browser in the terminal.
        if sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
            threading.Thread(target=webbrowser.open, args=[file.as_uri()], daemon=True).start()
        try:
            server.serve_forever()
        finally:
            session.is_closed = True
            server.server_close()
