"""The live page: its server, what it lets in, what it runs again, and what it does in a browser."""
import base64
import contextlib
import http.client
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import p2p_min as p2p
from browser import CHROMIUM, Page
from p2p_min.__main__ import main
from p2p_min.maps import live
from p2p_min.maps import server as serving_room
from p2p_min.maps.live import SETTINGS, Refused, Session, check_settings
from p2p_min.maps.page import Page as Text
from p2p_min.maps.server import LARGEST, Server
from p2p_min.pictures import png

PROMPTS = dict(source="a big car next to a river", target="a big bicycle next to a river")
FEW = dict(PROMPTS, steps=3)
MANY = dict(PROMPTS, steps=200)
GIVEN = dict(model="weights/toy", device=None, dtype=None, prediction=None, spacing=None, tokenizer=None, vae=None)


@contextlib.contextmanager
def serving(model, first=(), given=GIVEN):
    server = Server(Session(model, given), 0, first)
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.05))
    thread.start()
    try:
        yield server
    finally:
        server.session.close()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server(model):
    with serving(model) as server:
        yield server


@pytest.fixture
def session(model):
    return Session(model, GIVEN)


def request(server, method="POST", path="run", body=b"{}", token=None, **headers):
    """(status, headers, body) of one request; headers by name, _ for -, None: without it."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    usual = {"Host": server.hosts[0], "Content-Type": "application/json", "Content-Length": str(len(body))}
    usual |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, f"/{server.token if token is None else token}/{path}", skip_host=True,
                              skip_accept_encoding=True)
        for name, value in usual.items():
            for each in [] if value is None else value if isinstance(value, list) else [value]:
                connection.putheader(name, each)
        connection.endheaders()
        with contextlib.suppress(OSError):                 # refused before all of it was sent
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def ask(server, settings, path="run"):
    """All lines of an answer."""
    status, _, body = request(server, path=path, body=json.dumps(settings).encode())
    assert status == 200
    return [json.loads(line) for line in body.splitlines()]


def begin(server, settings):
    """A connection that has asked, and had the first line of the answer: its run is running."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    connection.request("POST", f"/{server.token}/run", json.dumps(settings), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert "said" in json.loads(answer.readline())
    return connection, answer


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def photo():
    return Image.radial_gradient("L").resize((60, 40)).convert("RGB")


def quiet(message):
    pass


# ---- who is let in -------------------------------------------------------------------------------------------------

HOSTILE = {
    "without the token": (403, dict(token="")),
    "with another token": (403, dict(token="x" * 43)),
    "with a token beyond ASCII": (403, dict(token="%C3%A9")),
    "the page without the token": (403, dict(method="GET", token="", path="")),
    "with the token as a query": (403, dict(token="?token=x")),
    "of another host": (403, dict(Host="evil.example")),
    "of another host by this address": (403, dict(Host="evil.example:80")),
    "of this host at another port": (403, dict(Host="127.0.0.1:1")),
    "without a host": (403, dict(Host=None)),
    "of two hosts": (403, dict(Host=["127.0.0.1", "evil.example"])),
    "the page of another host": (403, dict(method="GET", path="", Host="evil.example")),
    "of another origin": (403, dict(Origin="https://evil.example")),
    "of the origin null": (403, dict(Origin="null")),
    "of this origin by https": (403, dict(Origin="https://127.0.0.1")),
    "of two origins": (403, dict(Origin=["http://127.0.0.1", "http://evil.example"])),
    "from another site without an origin": (403, dict(Sec_Fetch_Site="cross-site")),
    "from another port of this computer": (403, dict(Sec_Fetch_Site="same-site")),
    "as a form": (415, dict(Content_Type="application/x-www-form-urlencoded")),
    "as plain text": (415, dict(Content_Type="text/plain")),
    "as a form of parts": (415, dict(Content_Type="multipart/form-data; boundary=x")),
    "without a type": (415, dict(Content_Type=None)),
    "a picture as JSON": (415, dict(path="picture")),
    "a picture without a type": (415, dict(path="picture", Content_Type=None)),
    "settings as a picture": (415, dict(Content_Type="image/png")),
    "without a length": (411, dict(Content_Length=None)),
    "in chunks": (411, dict(Transfer_Encoding="chunked")),
    "of a length below zero": (400, dict(Content_Length="-1")),
    "of a length that is none": (400, dict(Content_Length="1e3")),
    "of a length in other digits": (400, dict(Content_Length="\u0662".encode())),
    "of two lengths": (400, dict(Content_Length=["2", "3"])),
    "of a very long length": (400, dict(Content_Length="9" * 400)),
    "too large": (413, dict(body=b" " * (LARGEST["run"] + 1))),
    "too large by its length alone": (413, dict(Content_Length="999999999999")),
    "a picture too large by its length": (413, dict(path="picture", Content_Type="image/png",
                                                    Content_Length=str(LARGEST["picture"] + 1))),
    "to another path": (404, dict(path="etc/passwd")),
    "out of the folder": (404, dict(path="../../../etc/passwd")),
    "out of the folder, encoded": (404, dict(method="GET", path="..%2f..%2fetc%2fpasswd")),
    "for a file of the package": (404, dict(method="GET", path="page.html")),
    "for the page with a query": (404, dict(method="GET", path="?x=<script>")),
    "to read what one posts to": (405, dict(method="GET", path="run")),
    "to post to the page": (405, dict(path="")),
    "PUT": (501, dict(method="PUT")), "OPTIONS": (501, dict(method="OPTIONS")), "HEAD": (501, dict(method="HEAD")),
    "DELETE": (501, dict(method="DELETE")), "TRACE": (501, dict(method="TRACE")),
    "CONNECT": (501, dict(method="CONNECT")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_of_the_page_is_refused(server, case):
    """By its status; with the policy, and with nothing in it that came from the request or the disk."""
    status, what = HOSTILE[case]
    found, headers, body = request(server, **what)
    assert found == status, body
    assert b"script" not in body and b"root:" not in body and len(body) < 100
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"


RAW = [b"", b"\n\n", b"\0" * 100, b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/x\r\n\r\n",
       b"\x16\x03\x01\x02\x00\x01\x00", b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
       b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"GET / HTTP/1.1\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
       b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
       b"POST /TOKEN/run HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}"]


@pytest.mark.parametrize("number", range(len(RAW)))
def test_what_is_no_request_ends_nothing(server, number):
    """Not HTTP, no end, too long, cut off: the page is there as before."""
    with socket.create_connection(server.server_address, timeout=30) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(RAW[number].replace(b"TOKEN", server.token.encode()).replace(
                b"HOST", server.hosts[0].encode()))
            connection.shutdown(socket.SHUT_WR)
            assert b"200" not in connection.recv(1000)[:20]
    status, headers, body = request(server, "GET", "")
    assert status == 200 and b"Which pixels" in body and "text/html" in headers["Content-Type"]


BROKEN = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 30000, b'{"steps": ' + b"9" * 5000 + b"}",
          b'{"guidance": NaN}', b'{"guidance": 1e999}', b'{"nowhere": 1}', b'{"source": "\\ud800"}',
          b'{"__proto__": {}}', b'{"layers": "../.."}', b'{"picture": "../../etc/passwd"}',
          json.dumps(dict(source="big " * 80)).encode(), b'{"source": "", "target": ""}']


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_settings_that_are_none_are_one_line(server, number):
    status, _, body = request(server, body=BROKEN[number])
    message = json.loads(body.splitlines()[-1])
    assert status == 200 and message["error"] and "\n" not in message["error"] and len(message["error"]) < 400
    assert "Traceback" not in message["error"] and message["setting"] in (None, *SETTINGS)


@pytest.mark.parametrize("content", [
    b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF", png(photo())[:200]])
def test_a_picture_that_is_none_is_one_line(server, content):
    status, _, body = request(server, path="picture", body=content, Content_Type="image/png")
    assert status == 200 and "cannot be read as a picture" in json.loads(body)["error"]


def test_a_picture_too_large_is_refused_before_it_is_unpacked(server):
    content = png(Image.new("1", (8000, 8000)))
    _, _, body = request(server, path="picture", body=content, Content_Type="image/png")
    assert len(content) < 1e5 and "8000 × 8000 is too large" in json.loads(body)["error"]


def test_a_request_that_drips_in_is_ended_and_blocks_nobody(server, monkeypatch):
    monkeypatch.setattr(serving_room, "SECONDS", 0.5)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(server.server_address, timeout=20)) for _ in range(5)]
        for connection in slow:
            connection.sendall(b"POST / HTTP/1.1\r\nHo")
        assert request(server, "GET", "")[0] == 200
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                assert b"200" not in connection.recv(1000)[:20]          # an end, and no timeout
    assert request(server, "GET", "")[0] == 200


def test_only_this_computer_is_listened_to(server):
    assert server.server_address[0] == "127.0.0.1" and server.address.startswith("http://127.0.0.1:")
    with serving(server.session.model) as other:
        assert other.token != server.token and len(server.token) >= 43


# ---- settings ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, values", {
    "source": [1, None, "a" * 1001, []], "target": [{}, True], "kind": ["swap", 1, [], None],
    "cross": [0.5, [0.5], [0.6, 0.5], [-0.1, 1], [0, 1.1], ["0", "1"], [0, float("nan")], [0, True]],
    "self": [[0, 0, 0], {}], "guidance": ["5", None, 101, -101, float("nan"), float("inf"), True, 10 ** 400],
    "steps": [0, 201, 2.5, "20", True, None], "seed": [-1, 2 ** 63, 0.5, "x", None],
    "weights": [[], {"red": 3}, {"red": -2.1}, {"red": "2"}, {"red": None}, {"red": float("nan")},
                {str(n): 1 for n in range(100)}],
    "blend": ["boat", [1], {}, ["a"] * 100], "layers": [None, 1], "picture": [1, []],
    "method": ["magic", None]}.items())
def test_every_setting_has_its_range(name, values):
    """One line that names the setting, what it must be, and what it was."""
    for value in values:
        with pytest.raises(Refused, match=f"^{name} must be ") as refused:
            check_settings({name: value})
        assert refused.value.setting == name and len(str(refused.value)) < 200 and "\n" not in str(refused.value)


def test_settings_that_are_not_given_are_as_at_first():
    assert check_settings({"steps": 3}) == {name: first for name, (first, _, _) in SETTINGS.items()} | {"steps": 3}


@pytest.mark.parametrize("settings, setting, says", [
    (dict(kind="replace", target="a car"), "kind", "Use refine"), (dict(weights={"dog": 2}), "words", "bicycle"),
    (dict(blend=["dog"]), "words", "bicycle"), (dict(layers="down"), "layers", "down_blocks"),
    (dict(source="big " * 80), "source", "82 tokens"), (dict(target="big " * 80), "target", "82 tokens"),
    (dict(picture="0" * 16), "picture", "choose it again"), (dict(seed=-1), "seed", "2\\^63")])
def test_what_does_not_fit_is_said_of_its_setting_in_the_librarys_words(session, settings, setting, says):
    with pytest.raises(Refused, match=says) as refused:
        session.answer(FEW | settings, quiet)
    assert refused.value.setting == setting


# ---- what it computes ----------------------------------------------------------------------------------------------

CASES = {
    "a word swap": {}, "a window": dict(cross=[0.2, 0.7], self=[0.1, 0.9], guidance=7.5, seed=5),
    "an added phrase": dict(target="a big red bicycle next to a river"), "refine": dict(kind="refine"),
    "replace": dict(kind="replace"), "nothing injected": dict(kind="none", self=[0, 0]),
    "weights": dict(weights={"big": 2, "river": -1.5}), "weights alone": dict(kind="none", weights={"big": 0}),
    "a blend": dict(blend=["bicycle"]), "a blend of two": dict(blend=["bicycle", "river"], weights={"big": 2}),
    "layers": dict(layers="up_blocks", weights={"big": 2}), "guidance 1": dict(guidance=1),
    **{method: dict(picture=True, method=method) for method in SETTINGS["method"][2].split(", ")},
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_page_shows_is_what_the_code_beside_it_computes(session, model, case, monkeypatch, tmp_path, folder):
    """The Python: to the bit, also after other settings. The command: where there is one, up to rounding."""
    monkeypatch.chdir(tmp_path)
    settings = FEW | CASES[case]
    photo().save("FILE", "PNG")
    if settings.get("picture"):
        settings["picture"] = session.keep_picture((tmp_path / "FILE").read_bytes())["picture"]
    session.answer(FEW | dict(cross=[0, 1]), quiet)
    answer = session.answer(settings, quiet)
    monkeypatch.setattr(p2p, "load", lambda *args, **options: model)
    there = {}
    exec(answer["python"], there)
    shown = [picture(of["picture"]) for of in answer["data"]["prompts"]]
    assert [image.tobytes() for image in shown] == [image.tobytes() for image in there["result"].images]
    assert Image.open("target.png").tobytes() == shown[1].tobytes()
    plain = p2p.prompt_to_prompt(model, there["prompts"], inversion=there["source"], steps=settings["steps"],
                                 guidance=settings.get("guidance", 5))
    assert picture(answer["data"]["without"][1]).tobytes() == plain.images[1].tobytes()
    assert (answer["command"] is None) == (case in ("refine", "layers", "a blend of two"))
    if answer["command"]:
        command = shlex.split(answer["command"])
        assert command[:3] == ["python", "-m", "p2p_min"] and answer["data"]["about"] == answer["command"]
        assert main([*command[3:], "--singles"]) == 0
        assert abs(np.asarray(Image.open("p2p-1.png"), int) - np.asarray(shown[1], int)).max() <= 2


def test_the_mask_is_where_the_blend_lets_the_target_change(session, model):
    """Outside of it the latents are the source's, and inside they are not."""
    settings = FEW | dict(blend=["big"], steps=5)
    mask = np.asarray(picture(session.answer(settings, quiet)["mask"]))
    prompts = list(PROMPTS.values())
    source = p2p.prompt_to_prompt(model, prompts[:1], steps=5, guidance=5)
    blend = p2p.LocalBlend(model.tokenizer, prompts, ["big", "big"])
    result = p2p.prompt_to_prompt(model, prompts, p2p.auto(model.tokenizer, prompts, 0.6), p2p.self_replace(0.4),
                                  blend=blend, steps=5, guidance=5, inversion=source)
    assert ((result.latents[0] != result.latents[1]).any(0).numpy() == mask).all() and 0 < mask.mean() < 1
    assert session.answer(FEW, quiet)["mask"] is None


def test_only_what_depends_on_a_change_runs_again(session):
    """The source's trajectory is kept, and the target without injection; the whole answer too."""
    def phases(**change):
        said = []
        session.answer(FEW | change, said.append)
        assert all(0 < each["step"] <= each["of"] for each in said)
        return [each["said"].split()[-1] for each in said if each["step"] == 1 and each["said"] != "decoding pictures"]
    assert phases() == ["source", "injection", "target"] and phases() == []
    assert phases(cross=[0, 0.3]) == phases(weights={"big": 2}) == phases(blend=["bicycle"]) == ["target"]
    assert phases(target="a big dog next to a river") == ["injection", "target"]
    assert phases(seed=1) == phases(guidance=3) == phases(steps=4) == ["source", "injection", "target"]
    assert phases(source="a big dog next to a river") == ["source", "injection", "target"]
    name = session.keep_picture(png(photo()))["picture"]
    assert phases(picture=name) == ["picture", "injection", "target"] and phases(picture=name, seed=9) == ["target"]
    assert phases(picture=name, guidance=3) == ["injection", "target"]
    assert phases(picture=name, method="null-text") == ["picture", "injection", "target"]
    assert phases(picture=name, method="null-text", guidance=3) == ["picture", "injection", "target"]


def test_the_sources_pictures_are_decoded_once(session):
    """The most expensive part of a large model's answer on a CPU; it is told, too."""
    def decoded(**change):
        said = []
        session.answer(FEW | change, said.append)
        return sum(each["said"] == "decoding pictures" for each in said)
    shown = min(8, FEW["steps"])                           # in the strip, for source and target
    assert decoded(seed=5) == 2 + 1 + 2 * shown            # source, target without injection, target; the strip
    assert decoded(seed=5, cross=[0, 0.3]) == 1 + shown


def test_the_same_settings_have_the_same_answer_whatever_came_before(session, model):
    first = session.answer(FEW, quiet)
    for n in range(10):
        session.answer(FEW | dict(cross=[0, n / 10], seed=n % 2), quiet)
    for again in (session, Session(model, GIVEN)):
        assert json.dumps(again.answer(FEW, quiet)) == json.dumps(first)
    assert all(len(kept) <= 8 for kept in (session.answers, session.sources, session.plain, session.pictures))


def test_the_saved_page_is_that_of_the_library(server, model):
    """As `explorer` writes it."""
    *_, last = ask(server, FEW, "page")
    prompts, run = list(PROMPTS.values()), dict(steps=3, guidance=5)
    source = p2p.prompt_to_prompt(model, prompts[:1], **run)
    recorder = p2p.Recorder(model.tokenizer, prompts, per_step=True)
    edit = recorder(p2p.auto(model.tokenizer, prompts, 0.6))
    result = p2p.prompt_to_prompt(model, prompts, edit, p2p.self_replace(0.4), inversion=source, recorder=recorder,
                                  **run)
    plain = p2p.prompt_to_prompt(model, prompts, inversion=source, **run)
    command = ask(server, FEW)[-1]["command"]
    assert last["page"] == p2p.explorer(model, result, recorder, command, without=plain)


def test_a_notebook_shows_a_page_in_a_frame_of_its_own(server):
    page = Text('<p title="x">&amp;</p>')
    assert page == '<p title="x">&amp;</p>' and isinstance(page, str)
    assert 'srcdoc="&lt;p title=&quot;x&quot;&gt;&amp;amp;&lt;/p&gt;" sandbox="allow-scripts"' in page._repr_html_()


# ---- one run at a time ---------------------------------------------------------------------------------------------

def test_a_newer_request_replaces_what_runs_and_what_waits(server):
    """The one that runs ends at its next step, the one that waited does not begin, the newest is answered."""
    connection, answer = begin(server, MANY)
    results = []
    others = [threading.Thread(target=lambda n=n: results.append((n, ask(server, FEW | dict(seed=100 + n))[-1])))
              for n in range(5)]
    for thread in others:
        thread.start()
        time.sleep(0.02)
    rest = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    for thread in others:
        thread.join()
    assert rest[-1] == {"replaced": True} and rest[-2:-1] != [{}] and len(rest) < 590
    answers = [n for n, last in results if "data" in last]
    assert 4 in answers and all("data" in last or last == {"replaced": True} for _, last in results)


def test_a_closed_connection_ends_its_run(server):
    """The stop button: at the next step nobody waits any more."""
    connection, answer = begin(server, MANY | dict(seed=7))
    assert server.session.is_running
    answer.close()
    connection.close()
    deadline = time.monotonic() + 5
    while server.session.is_running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "data" in ask(server, FEW)[-1]


def test_a_fault_in_a_run_is_one_line_and_the_next_run_works(server, monkeypatch):
    monkeypatch.setattr(live, "page_data", lambda *args, **kwargs: 1 / 0)
    assert ask(server, FEW | dict(seed=55))[-1] == dict(error="ZeroDivisionError: division by zero", setting=None)
    monkeypatch.undo()
    assert "data" in ask(server, FEW | dict(seed=55))[-1]


def test_many_changes_leave_no_thread(server):
    ask(server, FEW)
    before = threading.active_count()
    for n in range(12):
        assert "data" in ask(server, FEW | dict(steps=1, cross=[0, n / 12]))[-1]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before and not server.reading


@pytest.mark.parametrize("arguments, says", [
    (["--live", "x"], "'x' is not a port number"), (["--live=65536"], "not a port number"), (["--live", "-1"], "-1"),
    (["--live", "0.0.0.0:8000"], "not a port number"), (["--live", "--seed", "3"], "--seed does not go with --live"),
    (["--live", "--cross-steps", "0.3"], "--cross-steps does not go"), (["--live", "--page", "p.html"], "--page does"),
    (["--live", "0", "a", "b", "c"], "one TARGET, not 2"), (["a", "b", "c", "--live"], "one TARGET, not 2")])
def test_what_does_not_go_with_live_is_one_line(capsys, arguments, says):
    """Exit status 2; nothing is served."""
    assert main(arguments) == 2
    _, errors = capsys.readouterr()
    assert errors.count("\n") == 1 and says in errors


def test_a_port_that_is_taken_is_one_line(capsys, folder, server):
    assert main(["--live", str(server.server_address[1]), "--model", str(folder), "--device", "cpu"]) == 2
    assert "is not available: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("prompts, first", [([], {}), (["a car"], dict(source="a car", target="a car")),
                                            (["a car", "a dog"], dict(source="a car", target="a dog"))])
def test_the_prompts_of_the_command_line_are_the_first(monkeypatch, folder, prompts, first):
    """Before or after --live, with the options of the model."""
    asked = []
    monkeypatch.setattr(serving_room, "serve", lambda *args: asked.append(args))
    for arguments in ([*prompts, "--live"], ["--live", "8000", *prompts]):
        assert main([*arguments, "--model", str(folder), "--dtype", "float32", "--device", "cpu"]) == 0
    assert [args[2:] for args in asked] == [(0, first), (8000, first)]
    assert asked[0][1] == GIVEN | dict(model=str(folder), dtype="float32", device="cpu")


def test_ctrl_c_ends_it_cleanly(folder):
    """In the middle of a run: status 130, no traceback."""
    code = f"import signal, sys; signal.signal(2, signal.default_int_handler); from p2p_min.__main__ import main; " \
           f"sys.exit(main(['--live', '0', '--model', {str(folder)!r}, '--device', 'cpu']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"BROWSER": "true"})
    try:
        address = next(line for line in process.stdout if line.startswith("http")).strip()
        assert address.startswith("http://127.0.0.1:")
        host, token = address.removeprefix("http://").split("/")[:2]
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("POST", f"/{token}/run", json.dumps(MANY), {"Content-Type": "application/json"})
        assert "said" in json.loads(connection.getresponse().readline())
        half = socket.create_connection(("127.0.0.1", int(host.split(":")[1])))
        half.sendall(b"POST / HTTP/1.1\r\nHo")              # a request that never comes whole does not hold it up
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 8
        half.close()
    finally:
        process.kill()
    assert process.returncode == 130 and errors == ""


# ---- in a browser --------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    with serving(model, FEW) as server, Page(server.address, tmp_path_factory.mktemp("live")) as page:
        page.server = server
        wait_for_answer(page)
        yield page


def answers(page):
    return page.run("Number(document.body.dataset.answers || 0)")


def wait_for_answer(page, before=0):
    page.wait(f"Number(document.body.dataset.answers || 0) > {before} && request === null")


def same_as_library(page):
    """Settings of the page, its pictures and its maps are what the session computes anew."""
    settings = page.run("settings")
    fresh = Session(page.server.session.model, GIVEN)
    fresh.pictures.update(page.server.session.pictures)
    answer = json.loads(json.dumps(fresh.answer(settings, quiet)))
    shown = page.run("[...document.querySelectorAll('#pictures img')].map(x => x.src)")
    expected = [of["picture"] for of in answer["data"]["prompts"]] + [answer["data"]["without"][1]]
    assert shown == expected and page.run("data.maps") == answer["data"]["maps"]
    assert page.run("document.getElementById('python').textContent") == answer["python"]
    return settings


def press(page, selector, key, code, times=1):
    page.run(f"document.querySelector('{selector}').focus()")
    for _ in range(times):
        page.press(key, code)


def type_in(page, selector, text):
    page.run(f"document.querySelector('{selector}').select()")
    page.call("Input.insertText", text=text)


def drag(page, selector, start, end):
    """With the mouse, from one share of an element's width to another."""
    box = page.run(f"""(() => {{ const x = document.querySelector('{selector}');
        x.scrollIntoView({{block: "center"}}); return x.getBoundingClientRect().toJSON(); }})()""")
    thumb = 1.3 * 16
    for kind, share in (("mousePressed", start), ("mouseMoved", (start + end) / 2), ("mouseMoved", end),
                        ("mouseReleased", end)):
        page.call("Input.dispatchMouseEvent", type=kind, x=box["x"] + thumb / 2 + share * (box["width"] - thumb),
                  y=box["y"] + box["height"] / 2, button="left", buttons=int(kind != "mouseReleased"), clickCount=1)


@needs_browser
def test_the_live_page_opens_with_a_picture(page):
    assert same_as_library(page) == page.run("live.settings")
    assert page.run("document.getElementById('controls').hidden") is False


@needs_browser
def test_every_control_changes_the_picture(page):
    """Typed, dragged, clicked, by the keyboard; what the page shows is what the library computes."""
    def changed(act, **expected):
        before = answers(page)
        act()
        wait_for_answer(page, before)
        settings = page.run("settings")
        assert {name: settings[name] for name in expected} == expected and page.run("shownAnswer.sent") == json.dumps(
            settings, separators=(",", ":"), ensure_ascii=False)
    changed(lambda: type_in(page, "[data-set=source]", "a red car next to a river"), source="a red car next to a river")
    changed(lambda: type_in(page, "[data-set=target]", "a red bicycle next to a river"))
    changed(lambda: drag(page, "[data-ends=cross] input:last-child", 0.6, 0.9), cross=[0, 0.9])
    changed(lambda: drag(page, "[data-ends=cross] input:first-child", 0, 0.3), cross=[0.3, 0.9])
    changed(lambda: press(page, "[data-ends=self] input:last-child", "ArrowLeft", 37, 3), self=[0, 0.37])
    changed(lambda: type_in(page, "[data-set=guidance]", "3.5"), guidance=3.5)
    changed(lambda: type_in(page, "[data-set=steps]", "4"), steps=4)
    changed(lambda: type_in(page, "[data-set=seed]", "9"), seed=9)
    changed(lambda: page.tap("#another"))
    changed(lambda: type_in(page, "[data-set=layers]", "up_blocks"), layers="up_blocks")
    changed(lambda: type_in(page, "[data-set=layers]", ""), layers="")
    changed(lambda: press(page, ".word:nth-of-type(2) [type=range]", "ArrowRight", 39, 4), weights={"red": 1.4})
    same_as_library(page)
    changed(lambda: page.tap(".word:nth-of-type(3) [type=checkbox]"), blend=["bicycle"])
    same_as_library(page)
    assert page.run("document.getElementById('mask-label').hidden") is False
    page.wait("document.querySelectorAll('.stack .mask').length === 2")
    page.tap("#mask")
    page.wait("document.querySelectorAll('.stack .mask').length === 0")
    changed(lambda: press(page, "[data-set=kind]", "n", 78) or page.run("""(() => {
        const kind = document.querySelector('[data-set=kind]'); kind.value = 'none';
        kind.dispatchEvent(new Event('input')); })()"""), kind="none")


@needs_browser
def test_the_target_without_injection_is_one_click_away(page):
    src = "document.querySelectorAll('#pictures img')[1].src"
    edited = page.run(src)
    page.tap("#plain")
    assert page.run(src) == page.run("data.without[data.prompts[1].without]")
    page.tap("#plain")
    assert page.run(src) == edited


@needs_browser
def test_back_brings_the_settings_back_and_a_reload_keeps_them(page):
    before, was = answers(page), page.run("settings")
    type_in(page, "[data-set=seed]", "12")
    wait_for_answer(page, before)
    page.run("history.back()")
    wait_for_answer(page, before + 1)
    assert same_as_library(page) == was
    page.run("history.forward()")
    wait_for_answer(page, before + 2)
    assert same_as_library(page) == was | dict(seed=12)
    page.call("Page.reload")
    page.wait("document.readyState === 'complete' && document.body.dataset.ready === 'yes' && request === null")
    assert same_as_library(page) == was | dict(seed=12)


@needs_browser
def test_a_picture_that_is_dropped_is_inverted_and_edited(page, tmp_path):
    before = answers(page)
    content = base64.b64encode(png(photo())).decode()
    page.run(f"""(() => {{
        const bytes = Uint8Array.from(atob("{content}"), x => x.charCodeAt(0)), transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "<b>photo</b>.png", {{type: "image/png"}}));
        document.dispatchEvent(new DragEvent("drop", {{dataTransfer: transfer, bubbles: true, cancelable: true}}));
    }})()""")
    wait_for_answer(page, before)
    assert same_as_library(page)["picture"]
    assert page.run("$('picture-said').textContent") == "<b>photo</b>.png, 60 × 40 taken as 48 × 32"
    assert page.run("document.querySelectorAll('#picture-said b').length") == 0
    source = p2p.invert(page.server.session.model, photo(), page.run("settings.source"), steps=4)
    result = p2p.prompt_to_prompt(page.server.session.model, [source.prompt], inversion=source, steps=4)
    assert picture(page.run("data.prompts[0].picture")).tobytes() == result.images[0].tobytes()
    before = answers(page)
    page.tap("#no-picture")
    wait_for_answer(page, before)
    assert same_as_library(page)["picture"] is None


@needs_browser
def test_what_does_not_fit_is_said_at_its_control(page):
    """An unequal word swap offers the added phrase; a number out of range, an empty one, and no picture say so."""
    said = "[...document.querySelectorAll('[data-about]:not([hidden])')].map(x => [x.dataset.about, x.textContent])"
    before = answers(page)
    page.run("change('x', {kind: 'replace', target: 'a red <b>car</b>, far from a river', weights: {}, blend: []})")
    page.wait(f"{said}.length === 1")
    (about, text), = page.run(said)
    assert about == "kind" and "the same number of words" in text
    page.tap("[data-about=kind] button")
    wait_for_answer(page, before)
    assert same_as_library(page)["kind"] == "refine" and page.run(said) == []
    assert page.run("document.querySelectorAll('.words b, #prompts b').length") == 0
    type_in(page, "[data-set=steps]", "999")
    page.wait(f"{said}.length === 1")
    assert page.run(said)[0] == ["steps", "steps must be a whole number from 1 to 200, not 999"]
    type_in(page, "[data-set=steps]", "3")
    wait_for_answer(page, before + 1)
    page.run("take(new File(['x'], 'x.png', {type: 'image/png'}))")
    page.wait(f"{said}.length === 1")
    assert page.run(said)[0][0] == "picture" and "cannot be read" in page.run(said)[0][1]


@needs_browser
def test_stop_ends_the_run_and_the_page_stays_usable(page):
    shown = page.run("data.prompts[1].picture")
    page.run("change('x', {steps: 200, seed: 77})")
    page.wait("$('status').textContent.startsWith('generating')")
    page.tap("#stop")
    page.wait("$('status').textContent === 'stopped' && request === null")
    deadline = time.monotonic() + 5
    while page.server.session.is_running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert page.run("data.prompts[1].picture") == shown
    before = answers(page)
    page.run("change('x', {steps: 3})")
    wait_for_answer(page, before)
    assert same_as_library(page)["seed"] == 77


@needs_browser
def test_ten_changes_in_a_second_show_the_last(page):
    before = answers(page)
    for n in range(10):
        page.run(f"change('seed', {{seed: {n}}})")
        time.sleep(0.02 + 0.15 * (n % 3 == 0))
    wait_for_answer(page, before)
    page.wait("JSON.parse(shownAnswer.sent).seed === 9")
    assert same_as_library(page)["seed"] == 9


@needs_browser
def test_the_page_and_the_picture_are_saved(page, tmp_path):
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for button, name in (("#save-picture", "target.png"), ("#save-page", "p2p.html")):
        page.tap(button)
        deadline = time.monotonic() + 20
        while not (tmp_path / name).is_file():
            assert time.monotonic() < deadline
            page.run("0")
            time.sleep(0.05)
    assert Image.open(tmp_path / "target.png").tobytes() == picture(page.run("data.prompts[1].picture")).tobytes()
    with Page(tmp_path / "p2p.html", tmp_path / "browser") as static:
        assert static.run("data.maps") == page.run("data.maps") and static.run("$('controls').hidden")


@needs_browser
@pytest.mark.parametrize("width", [360, 1000, 1920])
def test_the_live_page_fits(page, width):
    """Nothing is wider than the window; on a projector pictures, maps and all controls are on one screen."""
    page.resize(width, 1080)
    page.run("scrollTo(0, 0)")
    assert page.run("document.documentElement.scrollWidth") <= width
    if width == 1920:
        for selector in ("#save-page", "#pictures", "#step", "#M-hat"):
            assert page.run(f"document.querySelector('{selector}').getBoundingClientRect().bottom") <= 1080
    page.resize(1000, 900)


@needs_browser
def test_a_notebooks_frame_shows_the_page(page, tmp_path):
    html = Text(ask(page.server, page.run("settings"), "page")[-1]["page"])
    (tmp_path / "notebook.html").write_text(f"<body data-ready=yes>{html._repr_html_()}", encoding="utf-8")
    with Page(tmp_path / "notebook.html", tmp_path / "browser") as notebook:
        deadline, colours = time.monotonic() + 20, []
        while len(colours) < 20:
            assert time.monotonic() < deadline
            notebook.screenshot(tmp_path / "notebook.png")
            shown = Image.open(tmp_path / "notebook.png").convert("RGB").resize((40, 40))
            colours = shown.getcolors(40 * 40)             # without a number it gives None above 256
        assert not [event for event in notebook.events if event["method"] == "Runtime.exceptionThrown"]


@needs_browser
def test_the_live_page_has_no_error_and_asks_nobody_else(page):
    """In all of the above; the last of this file's tests in the browser."""
    told = [event for event in page.events if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
            or event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"]
    assert not told
    asked = {event["params"]["request"]["url"] for event in page.events
             if event["method"] == "Network.requestWillBeSent"}
    assert all(url.startswith(("data:", "blob:", page.server.address)) for url in asked)
