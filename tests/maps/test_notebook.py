"""The live page where classes are: through a tunnel, in a notebook's cell, behind jupyter-server-proxy."""
import contextlib
import http.client
import json
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from functools import partialmethod
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import p2p_min as p2p
from browser import CHROMIUM, Page
from conftest import DEVICE, refuses
from p2p_min.maps.live import Session
from p2p_min.maps.server import Server

FEW = dict(source="a big car next to a river", target="a big bicycle next to a river", steps=1)
MANY = FEW | dict(steps=200)
HUB = "/user/ana/"


@contextlib.contextmanager
def background(server):
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.05))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def web(page):
    """A web server with one page. Its address."""
    class Handler(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page().encode())
    with background(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}/"


@contextlib.contextmanager
def tunnel(port):
    """Another port, from which all bytes go to that one and back, as with `ssh -L`."""
    class Forward(socketserver.BaseRequestHandler):
        def handle(self):
            with socket.create_connection(("127.0.0.1", port)) as far:
                back = threading.Thread(target=self.copy, args=(far, self.request))
                back.start()
                self.copy(self.request, far)
                back.join()

        def copy(self, of, to):
            with contextlib.suppress(OSError):
                while part := of.recv(1 << 16):
                    to.sendall(part)
                to.shutdown(socket.SHUT_WR)

    class Tunnel(socketserver.ThreadingTCPServer):
        daemon_threads = True
    with background(Tunnel(("127.0.0.1", 0), Forward)) as server:
        yield server.server_address[1]


@contextlib.contextmanager
def hub(notebook=lambda: ""):
    """A proxy as jupyter-server-proxy is one, below /user/ana/proxy/PORT/: it keeps Host and Origin, takes the path's
    beginning away, and says it in headers. The notebook is at /user/ana/lab."""
    class Proxy(Quiet):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.path == f"{HUB}lab":
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                return self.wfile.write(notebook().encode())
            context, port, path = re.fullmatch(rf"({HUB}proxy/(\d+))(/.*)", self.path).groups()
            connection = http.client.HTTPConnection("127.0.0.1", int(port))
            connection.request(self.command, path, body, dict(self.headers) | {"X-ProxyContextPath": context})
            answer = connection.getresponse()
            self.send_response(answer.status)
            for header in answer.getheaders():
                self.send_header(*header)
            self.end_headers()
            while part := answer.read1():
                self.wfile.write(part)
            connection.close()

        do_GET = do_POST

    class Threads(socketserver.ThreadingMixIn, HTTPServer):
        daemon_threads = True
    with background(Threads(("127.0.0.1", 0), Proxy)) as server:
        yield server.server_address[1]


def ask(port, path, settings=None, host=None, **headers):
    """(status, headers, text): of a page, or of what is posted to it."""
    host = host or f"localhost:{port}"
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"Host": host}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = None if settings is None else json.dumps(settings)
    headers |= {} if body is None else {"Origin": f"http://{host}"}
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def frame(page):
    """The address in a cell's output."""
    return re.search('<iframe src="([^"]+)"', page._repr_html_())[1]


def path(address):
    return "/" + address.removeprefix("http://").partition("/")[2]


def ancestors(headers):
    return headers["Content-Security-Policy"].rpartition("frame-ancestors ")[2]


@pytest.fixture
def show(model, monkeypatch):
    """`p2p.live` of the test's model; all pages are closed in the end."""
    monkeypatch.setattr(Server, "newest", None)
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    monkeypatch.setitem(sys.modules, "jupyter_core.paths", None)           # as where no Jupyter is
    monkeypatch.setattr(Server, "serve_forever", partialmethod(Server.serve_forever, poll_interval=0.02))
    yield lambda **options: p2p.live(model, first=FEW, **options)
    if Server.newest:
        Server.newest.close()


def jupyter(monkeypatch, folder, *ports):
    """Jupyter servers run at these ports, and have written it down."""
    for port in ports:
        Path(folder, f"jpserver-{port}.json").write_text(json.dumps(dict(port=port, secure=False, hostname="*")))
    Path(folder, "kernel-1.json").write_text('{"shell_port": 7}')
    paths = SimpleNamespace(jupyter_runtime_dir=lambda: str(folder))
    monkeypatch.setitem(sys.modules, "jupyter_core.paths", paths)


# ---- a tunnel ------------------------------------------------------------------------------------------------------

def test_the_page_answers_through_a_tunnel_with_another_port(show):
    page = show()
    with tunnel(page.server_address[1]) as port:
        assert str(port) not in page.address
        status, headers, text = ask(port, path(page.address))
        assert status == 200 and "Which pixels" in text and page.token in text
        status, _, text = ask(port, f"{path(page.address)}run", FEW)
        assert status == 200 and "data" in json.loads(text.splitlines()[-1])
        assert ask(port, path(page.address), host=f"evil.example:{port}")[0] == 403    # whose DNS leads here
        assert ask(port, f"{path(page.address)}run", FEW, host="evil.example")[0] == 403


# ---- a cell --------------------------------------------------------------------------------------------------------

def test_a_cells_address_opens_the_page_once(show):
    """It stands in the saved notebook and in logs. Who comes later with it gets a page that may not ask anything; the
    page that came first goes on asking with the token in a header, and finds it again after a reload."""
    page = show()
    port, address = page.server_address[1], path(frame(page))
    assert page.token not in page._repr_html_() and page.token not in repr(page)
    assert page.token in ask(port, address)[2] and page.token not in ask(port, address)[2]
    assert [ask(port, f"{address}run", FEW, X_Token=token)[0] for token in ("", "x", address.strip("/"))] == [403] * 3
    status, _, text = ask(port, f"{address}run", FEW, X_Token=page.token)
    assert status == 200 and "data" in json.loads(text.splitlines()[-1])
    assert frame(page) != frame(page)                      # a second cell's address is another
    assert page.token in ask(port, path(frame(page)))[2]


def test_only_the_notebook_may_frame_the_page(show, monkeypatch, tmp_path):
    """VS Code, whose pages no web site can have the scheme of; this user's Jupyter servers. A page that has an address
    of its own: nobody."""
    page = show()
    assert ancestors(ask(page.server_address[1], path(frame(page)))[1]) == "vscode-webview: vscode-file:"
    jupyter(monkeypatch, tmp_path, 8888)
    page = show()
    port = page.server_address[1]
    assert ancestors(ask(port, path(frame(page)))[1]) == (
        "vscode-webview: vscode-file: http://localhost:8888 http://127.0.0.1:8888")
    assert ancestors(ask(port, path(page.address))[1]) == "'none'"
    page = show(proxy="/proxy/")
    port = page.server_address[1]
    assert ancestors(ask(port, path(frame(page)).removeprefix(f"/proxy/{port}"))[1]) == "'self'"


def test_a_page_closes_and_a_new_one_closes_the_one_before(show):
    threads = threading.active_count()
    first = show()
    second = show()
    with pytest.raises(OSError):
        ask(first.server_address[1], path(first.address))
    assert ask(second.server_address[1], path(second.address))[0] == 200
    again = show(port=second.server_address[1])            # whose port is then free
    again.close()
    again.close()
    with pytest.raises(OSError):
        ask(again.server_address[1], path(again.address))
    deadline = time.monotonic() + 5
    while threading.active_count() > threads:
        assert time.monotonic() < deadline


def test_a_port_that_is_taken_is_told(show):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refuses(lambda: show(port=port), f"port {port} is not available", "Address already in use")


def test_a_setting_that_there_is_not_is_told_in_the_cell(model):
    refuses(lambda: p2p.live(model, first=dict(sorce="a red car")), "first must be some of source, target", "sorce")


def test_close_ends_a_run(show):
    page = show()
    thread = threading.Thread(target=ask, args=(page.server_address[1], f"{path(page.address)}run", MANY))
    thread.start()
    deadline = time.monotonic() + 10
    while not page.session.running.locked():
        assert time.monotonic() < deadline
    page.close()
    thread.join(10)
    assert not thread.is_alive() and not page.session.running.locked()


def test_stop_ends_a_run_whose_connection_a_proxy_keeps(show):
    page, last = show(), []
    run = f"{path(page.address)}run"
    thread = threading.Thread(target=lambda: last.append(ask(page.server_address[1], run, MANY)[2].splitlines()[-1]))
    thread.start()
    deadline = time.monotonic() + 10
    while not page.session.running.locked():
        assert time.monotonic() < deadline
    assert ask(page.server_address[1], f"{path(page.address)}stop", {})[0] == 200
    thread.join(10)
    assert json.loads(last[0]) == {"replaced": True}
    assert "data" in json.loads(ask(page.server_address[1], run, FEW)[2].splitlines()[-1])


def test_the_code_beside_loads_the_model_as_it_was_loaded(folder):
    """Of an object too: it knows the arguments of `load`."""
    model = p2p.load(folder, torch.device("cpu"), torch.float32, spacing="trailing")
    answer = Session(model, model.options).answer(FEW, lambda message: None)
    assert f"p2p.load({str(folder)!r}, device='cpu', dtype='float32', spacing='trailing')\n" in answer["python"]
    assert f"--model={folder} --device=cpu --dtype=float32 --spacing=trailing" in answer["command"]


@pytest.mark.long
def test_it_ends_with_the_kernel(folder):
    """Also in the middle of a run: no thread holds it up, and none aborts it."""
    code = f"""import http.client, threading, p2p_min as p2p
page = p2p.live(p2p.load({str(folder)!r}, {DEVICE!r}))
connection = http.client.HTTPConnection(*page.server_address)
connection.request("POST", f"/{{page.token}}/run", '{json.dumps(MANY)}')
print(connection.getresponse().readline())"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert "generating" in process.stdout.readline()
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in errors and time.monotonic() - began < 10
    finally:
        process.kill()


# ---- behind jupyter-server-proxy -----------------------------------------------------------------------------------

@pytest.mark.parametrize("proxy", [None, f"{HUB}proxy/"])
def test_on_a_hub_the_page_is_below_the_notebooks_address(show, monkeypatch, proxy):
    """The hub tells its prefix to the kernel; its host, which only the browser knows, is then let in by this way."""
    if proxy is None:
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", HUB)
    page = show(proxy=proxy)
    port, address = page.server_address[1], frame(page)
    assert address.startswith(f"{HUB}proxy/{port}/") and page.address == f"{HUB}proxy/{port}/{page.token}/"
    with hub() as server:
        status, headers, text = ask(server, address, host="hub.example")
        assert status == 200 and page.token in text and ancestors(headers) == "'self'"
        assert page.token not in ask(server, address, host="hub.example")[2]           # another user, from the log
        status, _, text = ask(server, f"{address}run", FEW, host="hub.example", X_Token=page.token)
        assert status == 200 and "data" in json.loads(text.splitlines()[-1])
        assert ask(server, page.address, host="hub.example")[0] == 200                 # a tab of its own


def test_other_users_of_the_hubs_machine_do_not_get_in(show):
    """They reach the port, know the prefix, can send any header, and have read the notebook; but not the token."""
    page = show(proxy=f"{HUB}proxy/")
    port, address = page.server_address[1], frame(page)
    ticket = address.removeprefix(f"{HUB}proxy/{port}")
    assert page.token in ask(port, ticket)[2]              # the notebook's own browser, at once
    for host in (f"localhost:{port}", "hub.example"):
        context = dict(X_ProxyContextPath=f"{HUB}proxy/{port}", host=host)
        assert ask(port, "/", **context)[0] == ask(port, "/x/", **context)[0] == 403
        assert ask(port, f"{ticket}run", FEW, **context)[0] == ask(port, f"{ticket}picture", {}, **context)[0] == 403
        assert page.token not in ask(port, ticket, **context)[2]
    for context in ({}, dict(X_ProxyContextPath=f"/user/eve/proxy/{port}"), dict(X_ProxyContextPath="")):
        assert ask(port, ticket, host="hub.example", **context)[0] == 403
        assert ask(port, f"/{page.token}/", host="hub.example", **context)[0] == 403


# ---- in a browser --------------------------------------------------------------------------------------------------

ANSWERS = "Number(document.body?.dataset.answers || 0)"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


def inside(browser, script):
    """The value of an expression in the frame, of another origin than its page; None before it is there."""
    frames = browser.call("Page.getFrameTree")["frameTree"].get("childFrames")
    frame = frames and frames[0]["frame"]["id"]
    contexts = [event["params"]["context"] for event in browser.events
                if event["method"] == "Runtime.executionContextCreated"]
    there = [context["id"] for context in contexts if context["auxData"]["frameId"] == frame]
    if not there:
        return None
    answer = browser.call("Runtime.evaluate", expression=script, returnByValue=True, contextId=there[-1])
    return answer["result"].get("value")


def refused(browser):
    time.sleep(0.1)
    browser.run("0")
    return any("frame-ancestors" in event["params"]["entry"]["text"] for event in browser.events
               if event["method"] == "Log.entryAdded")


def cell(html):
    return f"<!doctype html><body data-ready=yes>{html}"


@pytest.mark.long
@needs_browser
def test_the_notebooks_frame_answers_and_nobody_elses(show, monkeypatch, tmp_path):
    """In the frame of a Jupyter server's origin; after a reload too; not in that of another page, which knows a fresh
    address."""
    shown = []
    with web(lambda: shown[-1]) as notebook, web(lambda: shown[-1]) as other:
        jupyter(monkeypatch, tmp_path, int(notebook.split(":")[2].strip("/")))
        page = show()
        for address, is_framed in ((notebook, True), (other, False)):
            shown.append(cell(page._repr_html_()))
            with Page(address, tmp_path / str(len(shown))) as browser:
                deadline = time.monotonic() + 30
                while is_framed and inside(browser, ANSWERS) != 1:
                    assert time.monotonic() < deadline
                while not is_framed and not refused(browser):
                    assert time.monotonic() < deadline
                if is_framed:
                    browser.call("Page.reload")
                    browser.wait("document.body?.dataset.ready === 'yes'")
                    while inside(browser, f"live.token ? 0 : {ANSWERS}") != 1:
                        assert time.monotonic() < deadline
                assert is_framed != refused(browser)


@pytest.mark.long
@needs_browser
def test_behind_the_hubs_proxy_the_frame_answers(show, tmp_path):
    """Its requests are relative, steps come as they are made, and Stop ends the run. The address, opened once more in
    another browser, says what to do."""
    page = show(proxy=f"{HUB}proxy/")
    html = cell(page._repr_html_())
    with hub(lambda: html) as port:
        with Page(f"http://localhost:{port}{HUB}lab", tmp_path / "one") as browser:
            browser.wait(f"(document => {ANSWERS} === 1)(frames[0].document)")
            browser.run("frames[0].document.querySelector('[data-set=steps]').focus()")
            steps = "frames[0].document.querySelector('[data-set=steps]')"
            browser.run(f"{steps}.value = 200, {steps}.dispatchEvent(new Event('input'))")
            browser.wait("frames[0].document.getElementById('status').textContent.startsWith('generating')")
            browser.run("frames[0].document.getElementById('stop').click()")
            deadline = time.monotonic() + 10
            while page.session.running.locked():
                assert time.monotonic() < deadline
            addresses = {event["params"]["request"]["url"] for event in browser.events
                         if event["method"] == "Network.requestWillBeSent"}
            assert not any(page.token in address for address in addresses)
        with Page(f"http://localhost:{port}{HUB}lab", tmp_path / "two") as browser:
            browser.wait("frames[0].document.body?.innerText.includes('run its cell again')")
