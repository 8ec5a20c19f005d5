"""The live page's server: on this computer only, for whoever has the address with its token, and for no other page."""
import hmac
import json
import os
import re
import secrets
import select
import socket
import socketserver
import sys
import threading
import time
import webbrowser
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

from .live import KINDS, METHODS, SETTINGS, Refused, Replaced, Session
from .page import POLICY, write_page

LIVE_POLICY = f"{POLICY}; connect-src 'self'"
HEADERS = {
    "Content-Security-Policy": f"{LIVE_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store", "Connection": "close"}
LARGEST = dict(run=1 << 16, page=1 << 16, picture=20_000_000)            # bytes of a request's body
SECONDS, THREADS = 20, 64                      # for a request to arrive whole; connections at a time


class Gone(Exception):
    """Nobody waits for the answer any more: the stop button, or a closed page."""


class Server(socketserver.ThreadingTCPServer):
    # Closing waits for the threads: torch aborts a process that ends while one of them still runs.
    daemon_threads, request_queue_size = False, 64
    allow_reuse_address = os.name != "nt"                  # where it would let others listen there too

    def __init__(self, session, port=0, first=()):
        """first: settings that are not to be as usual when the page opens."""
        self.session, self.token, self.reading = session, secrets.token_urlsafe(), {}
        super().__init__(("127.0.0.1", port), Handler)     # which closes the server if the port is taken
        self.hosts = [f"{name}:{self.server_address[1]}" for name in ("127.0.0.1", "localhost")]
        settings = {name: value for name, (value, _, _) in SETTINGS.items()} | dict(first)
        prefixes = [".".join(name.split(".")[:n]) for n in (1, 3) for name in session.layers]
        self.page = write_page(dict(live=dict(
            settings=settings, kinds=list(KINDS), methods=METHODS, layers=list(dict.fromkeys(prefixes)),
            model=session.model.path)), LIVE_POLICY, ("page.js", "live.js"))

    @property
    def address(self):
        return f"http://{self.hosts[0]}/{self.token}/"

    def verify_request(self, request, client):
        return threading.active_count() < THREADS

    def service_actions(self):                             # a request that drips in does not hold its thread for ever
        self.give_up(time.monotonic() - SECONDS)

    def server_close(self):
        self.give_up(time.monotonic())                     # nobody waits for half a request
        super().server_close()

    def give_up(self, before):
        """Ends the requests that began before this time and have not arrived whole."""
        for connection, since in list(self.reading.items()):
            if since < before:
                self.reading.pop(connection, None)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    def handle_error(self, request, client):               # a broken connection is no news
        pass


class Handler(BaseHTTPRequestHandler):
    timeout = 10                                           # seconds without a byte, either way

    def setup(self):
        self.server.reading[self.request] = time.monotonic()
        super().setup()

    def finish(self):
        self.server.reading.pop(self.request, None)
        super().finish()

    def log_message(self, *args):
        pass

    def send_error(self, status, message=None, explain=None):            # also what http.server refuses by itself
        self.start(status, "text/plain; charset=utf-8")
        self.wfile.write(f"{status} {message or self.responses.get(status, [''])[0]}\n".encode())
        with suppress(OSError):                            # to close on what is not read would take the answer back
            self.request.shutdown(socket.SHUT_WR)
            while self.request.recv(1 << 16):
                pass

    def start(self, status, kind):
        self.send_response_only(status)
        for name, value in {"Content-Type": kind, **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()

    def refusal(self):
        """(status, message) for a request that is not from our page, or None."""
        parts = self.path.split("/")
        host, origin = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(host) != 1 or host[0] not in self.server.hosts:
            return 403, "another host"
        if origin not in ([], [f"http://{host[0]}"]):
            return 403, "another origin"
        if self.command == "POST" and self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return 403, "another site"
        token = parts[1] if len(parts) > 1 else ""
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return 403, "no token"
        self.what = "/".join(parts[2:])
        if len(parts) < 3 or self.what not in ("", *LARGEST):
            return 404, "there is nothing here"
        return (405, "this is for another method") if (self.command == "GET") != (self.what == "") else None

    def do_GET(self):
        if refusal := self.refusal():
            return self.send_error(*refusal)
        self.start(200, "text/html; charset=utf-8")
        self.wfile.write(self.server.page.encode())

    def do_POST(self):
        if refusal := self.refusal() or self.read_body():
            return self.send_error(*refusal)
        self.server.reading.pop(self.request, None)
        self.start(200, "application/x-ndjson")
        session = self.server.session
        try:
            if self.what == "picture":
                return self.say(session.keep_picture(self.body))
            try:
                given = json.loads(self.body)
            except (ValueError, RecursionError):
                raise Refused("this is not JSON") from None
            message = (session.answer if self.what == "run" else session.page)(given, self.say)
        except Replaced:
            message = dict(replaced=True)
        except ValueError as error:                        # what the person can mend
            message = dict(error=str(error), setting=getattr(error, "setting", None))
        except (Gone, OSError):
            return
        except Exception as error:                         # a fault or too little memory; the server lives on
            message = dict(error=f"{type(error).__name__}: {error}".split("\n")[0], setting=None)
        with suppress(Gone):
            self.say(message)

    def read_body(self):
        """Keeps the body. (status, message) if it cannot be."""
        kind, lengths = self.headers.get_content_type(), self.headers.get_all("Content-Length", [])
        if not kind.startswith("image/") if self.what == "picture" else kind != "application/json":
            return 415, "another content type"
        if not lengths or "Transfer-Encoding" in self.headers:
            return 411, "the length is missing"
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,12}", lengths[0]):
            return 400, "this is not a length"
        if int(lengths[0]) > LARGEST[self.what]:
            return 413, f"at most {LARGEST[self.what]} bytes"
        self.body = self.rfile.read(int(lengths[0]))
        return (400, "the body is too short") if len(self.body) < int(lengths[0]) else None

    def say(self, message):
        """One line of the answer. Raises Gone or OSError if nobody waits for it."""
        if select.select([self.request], [], [], 0)[0]:    # it says something, or that it has closed
            raise Gone
        self.wfile.write(json.dumps(message).encode() + b"\n")


def serve(model, given, port=0, first=()):
    """Prints the page's address, opens it, and serves until Ctrl-C. Raises ValueError if the port is taken."""
    session = Session(model, given)
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
