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
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import p2p_min as p2p
from browser import CHROMIUM, Page
from conftest import refuses
from p2p_min import align
from p2p_min.__main__ import main
from p2p_min.checks import METHODS
from p2p_min.maps import live
from p2p_min.maps import server as serving_room
from p2p_min.maps.live import CACHE_SIZE, SETTINGS, Session, Superseded
from p2p_min.maps.page import Page as Text
from p2p_min.maps.server import LARGEST, Server
from p2p_min.pictures import png

PROMPTS = dict(source="a big car next to a river", target="a big bicycle next to a river")
FEW = dict(PROMPTS, steps=3)
MANY = dict(PROMPTS, steps=200)
OPTIONS = dict(model="weights/toy", device=None, dtype=None, prediction=None, spacing=None, tokenizer=None, vae=None)


@contextlib.contextmanager
def serving(session, first=()):
    server = Server(session, 0, first)
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.05))
    thread.start()
    try:
        yield server
    finally:
        session.is_closed = True
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server(model):
    """The one of all tests that generate, and of the page."""
    with serving(Session(model, OPTIONS), FEW) as server:
        yield server


@pytest.fixture(scope="module")
def session(server):
    return server.session


@pytest.fixture(scope="module")
def gate():
    """A server with nothing behind it: whoever gets through has no answer."""
    with serving(SimpleNamespace(layers=["mid_block.attentions.0"], known=[])) as gate:
        yield gate


def request(server, method="POST", path="run", body=b"{}", token=None, **headers):
    """(status, headers, body) of one request; headers by name, None: without it."""
    connection = http.client.HTTPConnection(*server.socket.getsockname(), timeout=30)
    usual = {"Host": "127.0.0.1:%d" % server.server_address[1], "Content-Length": str(len(body))}
    usual |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.putrequest(method, f"/{server.token if token is None else token}/{path}", skip_host=True,
                              skip_accept_encoding=True)
        for name, value in usual.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
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
    connection.request("POST", f"/{server.token}/run", json.dumps(settings))
    answer = connection.getresponse()
    assert "said" in json.loads(answer.readline())
    return connection, answer


def wait_until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def photo():
    return Image.radial_gradient("L").resize((60, 40)).convert("RGB")


def quiet(message):
    pass


# ---- who is let in -------------------------------------------------------------------------------------------------

REFUSED = {
    "without the token": (403, dict(token="")),
    "with another token": (403, dict(token="x" * 43)),
    "the page without the token": (403, dict(method="GET", token="", path="")),
    "with the token as a query": (403, dict(token="?token=x")),
    "of another host": (403, dict(Host="evil.example")),
    "of a host that begins like this one": (403, dict(Host="localhost.evil.example")),
    "of a host that ends like this one": (403, dict(Host="evil.example:80@localhost")),
    "of a host that is a part of this one": (403, dict(Host="127.0.0.1:80x")),
    "of another address of this computer": (403, dict(Host="0.0.0.0")),
    "without a host": (403, dict(Host=None)),
    "the page of another host": (403, dict(method="GET", path="", Host="evil.example")),
    "of another origin": (403, dict(Origin="https://evil.example")),
    "of the origin null": (403, dict(Origin="null")),
    "of the origin of another port": (403, dict(Origin="http://127.0.0.1:1")),
    "of the origin of another of its names": (403, dict(Host="localhost:9000", Origin="http://127.0.0.1:9000")),
    "of a host behind a proxy, without one": (403, dict(Host="hub.example", X_ProxyContextPath="")),
    "too large by its length": (413, dict(body=b"", Content_Length=str(LARGEST + 1))),
    "of a length below zero": (413, dict(body=b"", Content_Length="-1")),
    "to another path": (404, dict(path="etc/passwd")),
    "out of the folder": (404, dict(path="../../../etc/passwd")),
    "for a file of the package": (404, dict(method="GET", path="page.html")),
    "to read what one posts to": (404, dict(method="GET", path="run")),
    "to post to the page": (404, dict(path="")),
    "by another method": (501, dict(method="PUT", body=b"")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_of_the_page_is_refused(gate, case):
    status, what = REFUSED[case]
    found, _, body = request(gate, **what)
    assert found == status and gate.token.encode() not in body


def test_the_page_may_ask_only_its_server_and_tells_nobody_its_address(gate):
    status, headers, body = request(gate, "GET", "")
    assert status == 200 and b"Which pixels" in body and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    assert gate.server_address[0] == "127.0.0.1" and gate.address.startswith("http://127.0.0.1:")
    with serving(gate.session) as other:
        assert other.token != gate.token and len(gate.token) >= 43


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("port", ["", ":9000"])
def test_a_tunnel_may_have_another_port(gate, host, port):
    """`ssh -L 9000:localhost:41234`; browsers leave out port 80. The origin must be that same host."""
    for scheme in ("http", "https"):
        assert request(gate, "GET", "", Host=host + port, Origin=f"{scheme}://{host}{port}")[0] == 200
        assert request(gate, "GET", "", Host=host + port, Origin=f"{scheme}://{host}:9001")[0] == 403


@pytest.mark.parametrize("sent", [b"", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_what_is_no_request_ends_nothing(gate, sent):
    """Nothing, no HTTP, https: the page is there as before."""
    with socket.create_connection(gate.server_address, timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert b"200" not in connection.recv(1000)[:20]
    assert request(gate, "GET", "")[0] == 200


@pytest.mark.parametrize("body, setting, says", [
    (b"", None, "Expecting value"), (b'{"nowhere": 1}', None, "settings must be some of source, target, kind"),
    (b'{"steps": 999}', "steps", "steps must be a whole number from 1 to 200, not 999"),
    (b'{"steps": null}', "steps", "not None"), (b'{"steps": 2.5}', "steps", "not 2.5"), (b'{"seed": -1}', "seed", "-1"),
    (b'{"guidance": null}', "guidance", "guidance must be a number from -100 to 100, not None"),
    (b'{"guidance": 101}', "guidance", "101"), (b'{"guidance": NaN}', "guidance", "nan"),
    (b'{"layers": "up"}', "layers", "such as down_blocks, mid_block, up_blocks, down_blocks.0, "),
    (b'{"layers": "../.."}', "layers", "such as down_blocks, mid_block, up_blocks, down_blocks.0"),
    (b'{"picture": "../../etc/passwd"}', "picture", "choose it again"), (b'{"kind": "magic"}', None, "KeyError"),
    (b'{"picture": "x", "method": "magic"}', "picture", "choose it again"),
    (json.dumps(dict(source="big " * 80)).encode(), "source", "82 tokens"),
    (json.dumps(dict(target="big " * 80)).encode(), "target", "82 tokens"),
    (b'{"kind": "replace", "target": "a car"}', "kind", "Use refine"),
    (b'{"weights": {"dog": 2}}', "words", "'dog' is not in"), (b'{"blend": ["dog"]}', "words", "'dog' is not"),
    (b'{"source": "", "target": "", "steps": 1}', None, "these prompts have none")])
def test_what_does_not_fit_is_one_line_about_its_setting(server, body, setting, says):
    status, _, answer = request(server, body=body)
    message = json.loads(answer.splitlines()[-1])
    assert status == 200 and says in message["error"] and "\n" not in message["error"] and len(message["error"]) < 300
    assert message["setting"] == setting


def test_words_that_the_model_does_not_know_are_told(model, monkeypatch):
    """Beside the answer; those that it knows are sent to the page once."""
    monkeypatch.setitem(model.tokenizer.init_kwargs, "known_words", ["a", "big", "car", "to", "next"])
    session = Session(model, OPTIONS)
    assert session.answer(FEW | dict(steps=1), quiet)["unknown"] == dict(source=["river"], target=["bicycle", "river"])
    with serving(session) as server:
        assert '"known": ["a", "big", "car", "to", "next"]' in server.page


@pytest.mark.parametrize("content", [
    b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF", png(photo())[:200]])
def test_a_picture_that_is_none_is_one_line(server, content):
    status, _, body = request(server, path="picture", body=content)
    message = json.loads(body)
    assert status == 200 and message["error"].startswith("this cannot be read as a picture: ")
    assert message["error"].endswith(" (formats: BMP, GIF, JPEG, PNG, TIFF, WEBP)") and "<" not in message["error"]
    assert message["setting"] == "picture"


def test_pictures_are_read_one_at_a_time(model, monkeypatch):
    """Ten at once would need the memory of ten."""
    session, reading, most, open_rgb = Session(model, OPTIONS), [], [], live.open_rgb

    def slow(*arguments):
        reading.append(1)
        time.sleep(0.02)
        most.append(len(reading))
        reading.pop()
        return open_rgb(*arguments)
    monkeypatch.setattr(live, "open_rgb", slow)
    threads = [threading.Thread(target=session.keep_picture, args=[png(photo())]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5 and len(session.pictures) == 1


def test_a_picture_that_is_too_large_says_so(server):
    """And not that it is none: 400 megapixels in 400 KB."""
    content = png(Image.new("1", (20_000, 20_000)))
    message = json.loads(request(server, path="picture", body=content)[2])
    assert "exceeds limit" in message["error"] and message["setting"] == "picture"


def test_settings_that_are_not_given_have_their_initial_value(model):
    session, asked = Session(model, OPTIONS), []
    session.compute = lambda settings, *_: asked.append(settings)
    session.answer({"steps": 3}, quiet)
    assert asked == [SETTINGS | {"steps": 3}]
    refuses(lambda: session.answer({"seed": 2 ** 60}, quiet), "seed must be a whole number from 0 to 9007199254740992")


# ---- what it computes ----------------------------------------------------------------------------------------------

CASES = {
    "a word swap": {}, "a window": dict(cross=[0.2, 0.7], self=[0.1, 0.9], guidance=7.5, seed=5),
    "an added phrase": dict(target="a big red bicycle next to a river"), "refine": dict(kind="refine"),
    "replace": dict(kind="replace"), "nothing injected": dict(kind="none", self=[0, 0]),
    "weights": dict(weights={"big": 2, "river": -1.5}), "weights alone": dict(kind="none", weights={"big": 0}),
    "a blend": dict(blend=["bicycle"]), "a blend of two": dict(blend=["bicycle", "river"], weights={"big": 2}),
    "layers": dict(layers="up_blocks", weights={"big": 2}), "guidance 1": dict(guidance=1),
    **{method: dict(picture=True, method=method) for method in METHODS},
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_page_shows_is_what_the_code_beside_it_computes(session, model, case, monkeypatch, tmp_path):
    """The Python: to the bit, also after other settings. The command: where there is one, up to rounding."""
    monkeypatch.chdir(tmp_path)
    settings = FEW | CASES[case]
    photo().save("FILE", "PNG")
    if settings.get("picture"):
        settings["picture"] = session.keep_picture((tmp_path / "FILE").read_bytes())["picture"]
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
    assert (answer["command"] is None) == (case in ("replace", "refine", "layers", "a blend of two"))
    if answer["command"]:
        command = shlex.split(answer["command"])
        assert command[:3] == ["python", "-m", "p2p_min"] and answer["data"]["about"] == answer["command"]
        assert main([*command[3:], "--singles"]) == 0
        assert abs(np.asarray(Image.open("p2p-1.png"), int) - np.asarray(shown[1], int)).max() <= 2


def test_the_code_loads_the_model_as_it_was_loaded(model):
    """With the options that were given, and no others."""
    session = Session(model, OPTIONS | dict(dtype="float32", spacing="trailing"))
    answer = session.answer(FEW | dict(steps=1), quiet)
    assert "p2p.load('weights/toy', dtype='float32', spacing='trailing')\n" in answer["python"]
    assert "--model=weights/toy --dtype=float32 --spacing=trailing --steps=1" in answer["command"]


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


def test_the_mask_of_equal_prompts_is_the_blends_too(session, model):
    """Nothing changes there although it might."""
    prompts, masks = [PROMPTS["source"]] * 2, []
    mask = np.asarray(picture(session.answer(FEW | dict(target=prompts[1], blend=["car"]), quiet)["mask"]))

    class Spy(p2p.LocalBlend):
        def begin(self, *sizes):
            look, blend = super().begin(*sizes)

            def blended(z, z_star, t):
                masks.append((blend(z, z + 1, t) != z)[0, 0].numpy())
                return blend(z, z_star, t)
            return look, blended
    source = p2p.prompt_to_prompt(model, prompts[:1], steps=3, guidance=5)
    p2p.prompt_to_prompt(model, prompts, p2p.auto(model.tokenizer, prompts, 0.6), p2p.self_replace(0.4), steps=3,
                         blend=Spy(model.tokenizer, prompts, ["car", "car"]), guidance=5, inversion=source)
    assert 0 < mask.mean() < 1 and (mask == masks[-1]).all()


def test_a_blend_is_of_the_word_that_was_meant(session):
    """Of two equal words the second, with the source's second."""
    twice = dict(source="a red car and a red ball", target="a red car and a red horse")
    for blend, words in (["red#2"], [["red#2"], ["red#2"]]), (["horse"], [["ball"], ["horse"]]):
        answer = session.answer(FEW | twice | dict(blend=blend, steps=1), quiet)
        assert f"LocalBlend(model.tokenizer, prompts, {words})" in answer["python"]


def test_only_what_depends_on_a_change_runs_again(model):
    """The source's trajectory is kept, and the target without injection; the whole answer too."""
    session = Session(model, OPTIONS)

    def phases(**change):
        said = []
        session.answer(PROMPTS | dict(steps=2) | change, lambda each: said.append(each) if "said" in each else None)
        assert all(0 < each["step"] <= each["of"] for each in said)
        return [each["said"].split()[-1] for each in said if each["step"] == 1 and each["said"] != "decoding pictures"]
    assert phases() == ["source", "injection", "target"] and phases() == []
    assert phases(cross=[0, 0.3]) == phases(weights={"big": 2}) == phases(blend=["bicycle"]) == ["target"]
    assert phases(target="a big dog next to a river") == ["injection", "target"]
    assert phases(seed=1) == phases(guidance=3) == phases(steps=1) == ["source", "injection", "target"]
    assert phases(source="a big dog next to a river") == ["source", "injection", "target"]
    name = session.keep_picture(png(photo()))["picture"]
    assert phases(picture=name) == ["picture", "injection", "target"] and phases(picture=name, seed=9) == ["target"]
    assert phases(picture=name, guidance=3) == ["injection", "target"]
    for guidance in (5, 3):
        change = dict(picture=name, method="null-text", guidance=guidance, steps=1)
        assert phases(**change) == ["picture", "picture", "injection", "target"]           # up, and optimised down


def test_each_steps_prediction_is_told_as_it_comes():
    """The source's, then the target's without injection, then with; small, and much like what the VAE makes of them."""
    toy = p2p.load(OPTIONS["model"], device="cpu")
    session, told = Session(toy, OPTIONS), []
    settings = dict(source="a red car in the snow", target="a red boat in the snow", steps=4)
    session.answer(settings, told.append)
    told = told[:[each.get("said") for each in told].index("decoding pictures")]
    assert [set(each) for each in told] == [{"said", "step", "of"}, {"prompt", "shows"}] * 12
    assert [each["prompt"] for each in told[1::2]] == [0] * 4 + [1] * 8
    source, plain, target = (picture(each["shows"]) for each in told[7::8])
    run = dict(steps=4, guidance=5)
    first = p2p.prompt_to_prompt(toy, [settings["source"]], **run)
    images = [first.images[0], p2p.prompt_to_prompt(toy, list(settings.values())[:2], inversion=first, **run).images[1]]
    for shown, image in zip((source, plain), images):
        assert shown.size == (16, 16)
        apart = np.asarray(shown, float) - np.asarray(image.resize(shown.size, Image.Resampling.BOX), float)
        assert abs(apart).mean() < 16                      # of 255
    assert target.tobytes() != plain.tobytes()


def test_the_same_settings_have_the_same_answer_whatever_came_before(session, model):
    first = session.answer(FEW, quiet)
    for n in range(2):
        session.answer(FEW | dict(cross=[0, n / 2], seed=n), quiet)
    for again in (session, Session(model, OPTIONS)):
        assert json.dumps(again.answer(FEW, quiet)) == json.dumps(first)


def test_a_cache_keeps_what_was_used_last():
    cache, made = live.Cache(), []
    for key in (*range(CACHE_SIZE), 0, CACHE_SIZE, 0, 1):
        assert cache.find(key, lambda: made.append(key) or -key) == -key
    assert made == [*range(CACHE_SIZE + 1), 1] and len(cache) == CACHE_SIZE


def test_the_saved_page_is_that_of_the_library(server, model):
    """As `explorer` writes it."""
    *_, last = ask(server, FEW, "page")
    prompts, run = list(PROMPTS.values()), dict(steps=3, guidance=5)
    source = p2p.prompt_to_prompt(model, prompts[:1], **run)
    recorder = p2p.Recorder(model.tokenizer, prompts, per_step=True)
    edit = p2p.auto(model.tokenizer, prompts, 0.6)
    result = p2p.prompt_to_prompt(model, prompts, edit, p2p.self_replace(0.4), inversion=source, recorder=recorder,
                                  **run)
    seen = p2p.Recorder(model.tokenizer, prompts, per_step=True)
    plain = p2p.prompt_to_prompt(model, prompts, inversion=source, recorder=seen, **run)
    command = ask(server, FEW)[-1]["command"]
    assert last["page"] == p2p.explorer(model, result, recorder, command, without=(plain, seen))


def test_a_notebook_shows_a_page_in_a_frame_of_its_own():
    page = Text('<p title="x">&amp;</p>')
    assert page == '<p title="x">&amp;</p>' and isinstance(page, str)
    assert 'srcdoc="&lt;p title=&quot;x&quot;&gt;&amp;amp;&lt;/p&gt;" sandbox="allow-scripts"' in page._repr_html_()


# ---- one run at a time ---------------------------------------------------------------------------------------------

def test_a_newer_request_replaces_what_runs_and_what_waits(server):
    """The one that runs ends at its next step, the one that waited does not begin, the newest is answered."""
    connection, answer = begin(server, MANY)
    results = {}
    others = [threading.Thread(target=lambda n=n: results.update({n: ask(server, FEW | dict(seed=100 + n))[-1]}))
              for n in range(3)]
    for thread in others:
        thread.start()
        time.sleep(0.02)
    rest = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    for thread in others:
        thread.join()
    assert rest[-1] == {"replaced": True} and len(rest) < 1190
    assert "data" in results[2] and all("data" in last or last == {"replaced": True} for last in results.values())


def test_a_closed_connection_ends_its_run(server):
    """The stop button: at the next step nobody waits any more."""
    connection, answer = begin(server, MANY | dict(seed=7))
    assert server.session.running.locked()
    answer.close()
    connection.close()
    wait_until(lambda: not server.session.running.locked())
    assert "data" in ask(server, FEW)[-1]


def test_a_closed_session_runs_nothing(model):
    """Its run ends; a request that comes late does not begin."""
    session, said = Session(model, OPTIONS), []

    def close(message):
        said.append(message)
        session.is_closed = True
    for _ in range(2):
        with pytest.raises(Superseded):
            session.answer(FEW, close)
    assert [each.get("step") for each in said] == [1, None] and not session.running.locked()


def test_a_fault_in_a_run_is_one_line_and_the_next_run_works(server, monkeypatch):
    monkeypatch.setattr(live, "page_data", lambda *args, **kwargs: 1 / 0)
    assert ask(server, FEW | dict(seed=55))[-1] == dict(error="ZeroDivisionError: division by zero", setting=None)
    monkeypatch.undo()
    assert "data" in ask(server, FEW | dict(seed=55))[-1]


def test_changes_leave_no_thread(server):
    ask(server, FEW)
    before = threading.active_count()
    for n in range(3):
        assert "data" in ask(server, FEW | dict(steps=1, cross=[0, n / 3]))[-1]
    wait_until(lambda: threading.active_count() <= before)


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
    assert [args[1:] for args in asked] == [(0, first), (8000, first)]
    assert asked[0][0].options == OPTIONS | dict(model=str(folder), dtype="float32", device="cpu")


def test_ctrl_c_ends_it_cleanly(folder, tmp_path):
    """In the middle of a run: status 130, no traceback. What the browser was told, all users can read (ps): it is a
    file in a private folder, which leads to the address and is gone in the end."""
    told, browser = tmp_path / "told", tmp_path / "browser"
    browser.write_text(f"#!{sys.executable}\nimport json, os, sys\nfrom urllib.request import url2pathname\n"
                       "path = url2pathname(sys.argv[1].removeprefix('file://'))\n"
                       "mode = os.stat(os.path.dirname(path)).st_mode\n"
                       f"json.dump([sys.argv[1], path, mode, open(path).read()], open('{told}', 'w'))")
    browser.chmod(0o700)
    code = f"import signal, sys; signal.signal(2, signal.default_int_handler); from p2p_min.__main__ import main; " \
           f"sys.exit(main(['--live', '0', '--model', {str(folder)!r}, '--device', 'cpu']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"BROWSER": f"{browser} %s"})
    try:
        address = next(line for line in process.stdout if line.startswith("http")).strip()
        assert address.startswith("http://127.0.0.1:")
        host, token = address.removeprefix("http://").split("/")[:2]
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("POST", f"/{token}/run", json.dumps(MANY))
        assert "said" in json.loads(connection.getresponse().readline())
        wait_until(lambda: told.is_file() and told.read_text().endswith("]"), 30)
        url, file, mode, text = json.loads(told.read_text())
        assert token not in url and mode & 0o777 == 0o700 and f"url={address}" in text
        half = socket.create_connection(("127.0.0.1", int(host.split(":")[1])))
        half.sendall(b"POST / HTTP/1.1\r\nHo")              # a request that never comes whole does not hold it up
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - began < 8
        half.close()
    finally:
        process.kill()
    assert process.returncode == 130 and errors == "" and not os.path.exists(os.path.dirname(file))


# ---- in a browser --------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    with Page(server.address, tmp_path_factory.mktemp("live")) as page:
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
    fresh = Session(page.server.session.model, OPTIONS)
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


def choose(page, selector, value):
    """One of a list's options."""
    page.run(f"""(() => {{ const list = document.querySelector('{selector}'); list.value = '{value}';
        for (const kind of ["input", "change"]) list.dispatchEvent(new Event(kind)); }})()""")


def word(n):
    """The n-th word of the target, from 1."""
    return f".prompt:nth-of-type(2) .words button:nth-of-type({n})"


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
    page.open()                                            # anew, since processes share the tests in any order
    wait_for_answer(page)
    assert same_as_library(page) == page.run("live.settings")
    assert page.run("document.getElementById('controls').hidden") is False


@pytest.mark.long
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
    changed(lambda: choose(page, "[data-set=layers]", "up_blocks"), layers="up_blocks")
    changed(lambda: choose(page, "[data-set=layers]", ""), layers="")
    page.tap(word(2))
    changed(lambda: press(page, "#weight", "ArrowRight", 39, 4), weights={"red": 1.4})
    same_as_library(page)
    page.tap(word(3))
    changed(lambda: page.tap("#blend"), blend=["bicycle"])
    same_as_library(page)
    assert page.run("document.getElementById('mask-label').hidden") is False
    page.wait("document.querySelectorAll('.stack .mask').length === 2")
    page.tap("#mask")
    page.wait("document.querySelectorAll('.stack .mask').length === 0")
    changed(lambda: choose(page, "[data-set=kind]", "none"), kind="none")


@needs_browser
def test_the_target_without_injection_is_one_click_away(page):
    src = "document.querySelectorAll('#pictures img')[1].src"
    edited = page.run(src)
    page.tap("#plain")
    assert page.run(src) == page.run("data.without[data.prompts[1].without]")
    page.tap("#plain")
    assert page.run(src) == edited


@pytest.mark.long
@needs_browser
def test_back_brings_the_settings_back_and_a_reload_keeps_them(page):
    page.open()
    wait_for_answer(page)
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
def test_a_file_that_is_no_picture_gets_a_sentence(page):
    """And so does what is no file; nothing is sent."""
    said, asked = "document.querySelector('[data-about=picture]').textContent", len(page.events)
    for script, says in (("'a word'", "That is no file"),
                         ("new File(['x'], 'a <b>.txt', {type: 'text/plain'})", "“a <b>.txt” is no picture (text/")):
        page.run(f"""(() => {{ const transfer = new DataTransfer(), thing = {script};
            thing.size ? transfer.items.add(thing) : transfer.setData("text/plain", thing);
            document.dispatchEvent(new DragEvent("drop", {{dataTransfer: transfer, cancelable: true}})); }})()""")
        assert page.run(said).startswith(says) and "PNG" in page.run(said)
    assert not [event for event in page.events[asked:] if event["method"] == "Network.requestWillBeSent"]
    page.run("clear()")


@needs_browser
def test_a_word_that_is_not_known_is_replaced_by_a_click(page):
    """By one of those that the model knows. Of the same word inside of another nothing changes."""
    before, was = answers(page), page.run("settings.source")
    page.run("live.known = ['bicycle', 'car']; settings.source = 'a Ca, a cat'; offer('source', ['ca', 'zzz'])")
    assert page.run("document.querySelector('[data-about=source]').textContent") == (
        "This model does not know “ca”, “zzz”. Click a word to take instead of “ca”:bicyclecar")
    page.tap("[data-about=source] .chips button:nth-child(2)")
    assert page.run("settings.source") == "a car, a cat" == page.run("document.activeElement.value")
    page.run(f"live.known = []; change('x', {{source: {json.dumps(was)}}})")
    wait_for_answer(page, before)


@needs_browser
def test_examples_are_of_the_models_words(page):
    """Of the toy's where it knows them; for Stable Diffusion else. Choosing one sets all, and says what to try."""
    known = json.loads(Path("weights/toy/tokenizer/tokenizer_config.json").read_text())["known_words"]
    toy, few, any_ = (page.run(f"examplesFor({json.dumps(words)})") for words in (known, known[:5], []))
    assert len(toy) == len(any_) == 3 and not few and toy[0]["name"].startswith("bicycle → car")
    for example in toy:
        assert set(f"{example['settings']['source']} {example['settings']['target']}".split()) <= set(known)
    page.run("window.kept = {...settings}; window.sendAll = send; send = () => {}")
    choose(page, "#example", "1")
    assert page.run("settings") == SETTINGS | any_[1]["settings"]
    assert page.run("$('example-said').textContent") == any_[1]["say"] and page.run("$('example-said').hidden") is False
    page.run("clearTimeout(pause); send = sendAll; settings = kept; update()")


@needs_browser
def test_marks_stay_at_their_word_while_one_types(page):
    """Its weight and blend come back with a word that is typed again, and go to no other."""
    page.run("window.kept = settings")

    def typed(start, weights, blend, *texts):
        page.run(f"settings = {json.dumps(SETTINGS | dict(target=start, weights=weights, blend=blend))}; before = null")
        for text in texts:
            page.run(f"retype({json.dumps(text)}); settings.target = {json.dumps(text)}")
        return page.run("[settings.weights, settings.blend]")
    start, weights = "a big red car", dict(big=2, red=-1)
    assert typed(start, weights, ["car"], "a big re car") == [dict(big=2), ["car"]]
    texts = ("a big re car", "a big car", "a big r car", "a big red car")
    assert typed(start, weights, ["car"], *texts) == [weights, ["car"]]
    assert typed(start, weights, ["car"], "a big blue car", "the big blue car") == [dict(big=2), ["car"]]
    assert typed(start, weights, ["car"], "", "the car of a big city, red") == [{}, []]
    assert typed(start, weights, [], "a big red, red car") == [{"big": 2, "red#1": -1}, []]
    assert typed("a red car, a red ball", {"red#2": 2}, [], "a car, a red ball") == [dict(red=2), []]
    assert typed("a red car, a red ball", {"red": 2}, ["red#2"], "a red car, a Red") == [
        {"red#1": 2, "red#2": 2}, ["red#2"]]
    assert typed("a red car, a red ball", {"red#2": 2}, [], "a red car, a ball") == [{}, []]
    page.run("settings = kept; before = null")
    # Words are found as the library finds them.
    for text in ("a big-wheeled car's", "1 Fish", "🐱🐶, 👍🏽!", "猫と犬", "ça et là"):
        assert page.run(f"wordsOf({json.dumps(text)})") == [word for *_, word in align.find_words(text)]


@needs_browser
def test_of_two_equal_words_each_has_its_weight(page):
    before, was = answers(page), page.run("settings")
    prompts = dict(source="a red car and a red ball", target="a red car and a red horse")
    page.run(f"change('x', {json.dumps(prompts | dict(weights={}, blend=[]))})")
    wait_for_answer(page, before)
    page.tap(word(6))
    press(page, "#weight", "ArrowRight", 39)
    wait_for_answer(page, before + 1)
    assert same_as_library(page)["weights"] == {"red#2": 1.1}
    assert page.names("slider").count("Weight of red#2") == 1 and "Local blend at red#2" in page.names("checkbox")
    badges = [page.run(f"document.querySelector('{word(n)}').dataset.badge") for n in (2, 6)]
    assert badges == [None, "× 1.1"]
    page.press("1", 49)
    assert page.run("settings.weights") == {}
    page.run(f"change('x', {json.dumps(was)})")
    wait_for_answer(page, before + 2)


@needs_browser
def test_each_control_of_the_live_page_says_what_it_is_for(page):
    """In a sentence of its own, and by a name of its own."""
    controls = page.controls()
    assert len(controls) > 20 and all(said and ":" in said and len(said) < 190 for _, said in controls), controls
    for role in ("checkbox", "slider", "textbox", "combobox", "spinbutton"):
        names = page.names(role)
        assert names and len(names) == len(set(names)) and all(names), names


@needs_browser
def test_stop_ends_the_run_and_the_page_stays_usable(page):
    shown = page.run("data.prompts[1].picture")
    page.run("change('x', {steps: 200, seed: 77})")
    page.wait("$('status').textContent.startsWith('generating')")
    page.tap("#stop")
    page.wait("$('status').textContent === 'stopped' && request === null")
    wait_until(lambda: not page.server.session.running.locked())
    assert page.run("data.prompts[1].picture") == shown
    assert old(page) and page.run("cards[1].parts[1].querySelector('img').src") == shown
    before = answers(page)
    page.run("change('x', {steps: 3})")
    wait_for_answer(page, before)
    assert not old(page)
    assert same_as_library(page)["seed"] == 77


def old(page):
    """Whether pictures and maps say that they are not of the settings: a line, and on each picture."""
    line = page.run("getComputedStyle(document.querySelector('.old-line')).display !== 'none'")
    marks = page.run("[...document.querySelectorAll('.stack')].map(x => getComputedStyle(x, '::after').content)")
    assert line == all("not of these settings" in mark for mark in marks)
    return line


@needs_browser
def test_after_a_refusal_the_pictures_are_marked_and_one_may_go_back(page):
    before, was, shown = answers(page), page.run("settings"), page.run("data.prompts[1].picture")
    page.run("change('x', {steps: 999})")
    page.wait("document.querySelector('[data-about=steps]').hidden === false && request === null")
    assert old(page) and page.run("data.prompts[1].picture") == shown
    page.tap("#back")
    wait_for_answer(page, before)
    assert not old(page) and page.run("settings") == was and page.run("data.prompts[1].picture") == shown


@needs_browser
def test_while_a_run_goes_the_page_shows_its_predictions(page):
    """In the place of the picture to come, with the step's number; in the end it is the picture."""
    before = answers(page)
    page.run("""window.seen = []; new MutationObserver(all => seen.push(...all.map(({target}) => [
        target.nextSibling.textContent, target.dataset.coming, target.querySelector("img").src]))
        ).observe($("pictures"), {subtree: true, attributeFilter: ["data-coming"]})""")
    page.run("change('x', {steps: 4, seed: 4321})")
    wait_for_answer(page, before)
    seen = [each for each in page.run("seen") if each[1]]
    assert [(name, step) for name, step, _ in seen] == [
        (name, f"step {n} of 4") for name in ("Source", "Target without injection", "Target") for n in (1, 2, 3, 4)]
    assert len({src for *_, src in seen}) == 12
    assert page.run("document.querySelectorAll('[data-coming]').length") == 0
    assert same_as_library(page)["seed"] == 4321


@pytest.mark.long
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
@pytest.mark.parametrize("width, height", [(1280, 720), (1366, 768), (1024, 768), (1920, 1080)])
def test_a_laptop_shows_pictures_tau_and_the_step_on_one_screen(page, width, height):
    """Also while a control says what it is for. No picture is smaller than 220 pixels."""
    page.resize(width, height)
    for control in ("[data-set=target]", "#weight"):
        page.run(f"document.querySelector('{control}').focus()")
        sides = page.run("[...document.querySelectorAll('#pictures .stack')].map(x => x.getBoundingClientRect().width)")
        assert len(sides) == 3 and min(sides) >= 220 and page.run("document.documentElement.scrollWidth") <= width
        assert page.bottom("#pictures figure, #step, #fate, .ends, #weight, #size") <= height
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
