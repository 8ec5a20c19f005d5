"""The live page's server: on this computer only, for whoever has the address with its token.

It defends itself against other pages in the same browser (token, Host, Origin, policies), other users of the same
computer (token), and broken pictures (few formats, a size). It trusts the person at the keyboard, who has the token.
A notebook's address, which is saved and logged, has no token: a ticket gives it to the page, once, for its headers.
"""
import hmac
import json
import os
import re
import secrets
import select
import socketserver
import sys
import tempfile
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from ..checks import METHODS, must
from .live import KINDS, SETTINGS, Session, Superseded
from .page import POLICY, write_page

LIVE_POLICY = f"{POLICY}; connect-src 'self'"
HEADERS = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
# Names of this computer only: others may lead here too, by somebody else's DNS. At any port: a tunnel may have another.
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
PATHS = dict(GET={"": "text/html; charset=utf-8"},         # below the token, and of what type the answers are
             POST=dict.fromkeys(("run", "page", "picture", "stop"), "application/x-ndjson"))
LARGEST = 20_000_000                           # bytes of a request: of a picture


class Server(socketserver.ThreadingTCPServer):
    # Closing waits for the threads: torch aborts a process that ends while one of them still runs.
    daemon_threads = False
    allow_reuse_address = os.name != "nt"                  # on Windows, another process could bind the same port
    newest = None                                          # that `live` made
    handle_error = lambda *args: None                      # a broken connection is ignored

    def __init__(self, session, port=0, first=(), proxy=None):
        """first, proxy: as of `live`. Raises ValueError if the port is taken."""
        self.session, self.token, self.tickets = session, secrets.token_urlsafe(), {}
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ValueError(f"port {port} is not available: {error.strerror or error}") from None
        port = self.server_address[1]
        self.path = f"{proxy.rstrip('/')}/{port}" if proxy else ""
        self.address = f"{self.path or f'http://127.0.0.1:{port}'}/{self.token}/"
        # Which origins may frame it: behind a proxy its own; else VS Code's, and those of this user's Jupyter servers.
        paths = sys.modules.get("jupyter_core.paths")      # where these write down their ports; a kernel has it
        files = Path(paths.jupyter_runtime_dir()).glob("*server-*.json") if paths else []
        ports = [json.loads(file.read_text())["port"] for file in files]
        local = [f"http://localhost:{port} http://127.0.0.1:{port}" for port in ports]
        self.ancestors = "'self'" if proxy else " ".join(["vscode-webview: vscode-file:", *local])
        live = dict(settings=SETTINGS | dict(first), kinds=list(KINDS), methods=METHODS, layers=session.layers,
                    known=session.known, largest=LARGEST, token=self.token)
        self.page = write_page(dict(live=live), LIVE_POLICY, ("page.js", "live.js"))

    def close(self):
        self.session.is_closed = True
        self.shutdown()
        self.server_close()

    def _repr_html_(self):
        ticket = secrets.token_urlsafe()
        self.tickets[ticket] = iter([self.token])
        return (f'<iframe src="{self.address.replace(self.token, ticket)}" title="p2p_min" allow="clipboard-write" '
                'style="width: 100%; height: 900px; border: 0"></iframe><p>If this stays empty: help(p2p.live)</p>')


class Handler(BaseHTTPRequestHandler):
    timeout = 5                                            # seconds without a byte, either way
    log_message = lambda *args: None

    def do_POST(self):
        """Answers a request if it is our page's, for one of its paths below the token."""
        server, host, length = self.server, self.headers["Host"], int(self.headers["Content-Length"] or 0)
        token, _, what = self.path[1:].partition("/")
        if not 0 <= length <= LARGEST:
            return self.send_error(413)                    # Content Too Large; the page itself says so before
        # It is read before any other answer, which unread input would take back as the connection closes.
        body = self.rfile.read(length)
        is_here = LOCAL.fullmatch(host or "") or server.path and self.headers["X-ProxyContextPath"] == server.path
        if not is_here or self.headers["Origin"] not in (None, f"http://{host}", f"https://{host}"):
            return self.send_error(403, "another host or origin")
        is_frame, given = what == "" and token in server.tickets, self.headers["X-Token"] or token
        if not is_frame and not hmac.compare_digest(given.encode(), server.token.encode()):
            return self.send_error(403, "another token")
        if what not in PATHS[self.command]:
            return self.send_error(404)
        self.send_response_only(200)
        ancestors = server.ancestors if is_frame else "'none'"
        policy = f"{LIVE_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
        for header in {"Content-Type": PATHS[self.command][what], "Content-Security-Policy": policy, **HEADERS}.items():
            self.send_header(*header)
        self.end_headers()
        page = server.page.replace(server.token, next(server.tickets[token], "")) if is_frame else server.page
        self.wfile.write(page.encode()) if what == "" else self.answer(what, body)

    do_GET = do_POST

    def answer(self, what, body):
        """Lines of JSON: of each step of a run, then of what it gave."""
        session = self.server.session
        try:
            if what == "stop":                             # a proxy does not tell that nobody waits any more
                session.newest = None
                raise Superseded
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


def serve(model, port=0, first=()):
    """Prints the page's address, opens it, and serves until Ctrl-C. Raises ValueError if the port is taken."""
    server = Server(Session(model, model.options), port, first)
    print(f"{server.address}\n(only this computer can open it; Ctrl-C ends it)", flush=True)
    # All users can read the browser's command line: on it is only a file in a private folder that leads to the address.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "p2p.html")
        file.write_text(f'<meta http-equiv="refresh" content="0; url={server.address}">')
        # Without a window system, webbrowser would start a browser in the terminal.
        if sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
            threading.Thread(target=webbrowser.open, args=[file.as_uri()], daemon=True).start()
        try:
            server.serve_forever()
        finally:
            server.close()


def live(model, port=0, *, first=None, proxy=None):
    """The live page in a notebook: the last line of a cell, `p2p.live(model)`. It closes the one before it.

    first   initial settings that differ from the defaults, by their names in `SETTINGS`: dict(source="a red car")
    proxy   if the browser is on another computer, the path of the notebook's jupyter-server-proxy, "/proxy/"; None: a
            JupyterHub's. Without, the browser asks http://127.0.0.1:port, where a tunnel may begin
    Returns the server: `address` is for a tab of its own, `close()` ends it. Raises ValueError for a port that is taken
    and for an unknown setting."""
    must({*(first or {})} <= SETTINGS.keys(), "first", f"some of {', '.join(SETTINGS)}", first)
    if Server.newest:
        Server.newest.close()
    proxy = f"{hub}proxy" if proxy is None and (hub := os.environ.get("JUPYTERHUB_SERVICE_PREFIX")) else proxy
    Server.newest = server = Server(Session(model, model.options), port, first or {}, proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
