"""Files: whole or not at all, nothing of a person's overwritten, nothing lost to a name, a stream or Ctrl-C."""
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import p2p_min as p2p
from conftest import refuses
from p2p_min.__main__ import main
from p2p_min.files import write

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "hostile"))
import files as hostile  # noqa: E402

SOURCE, TARGET = "a big car next to a river", "a big bicycle next to a river"
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def there(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


# ---- writing -------------------------------------------------------------------------------------------------------

def test_link_stays_and_its_file_is_written(tmp_path):
    """Links in a row, relative, into another folder; also where there is no file yet."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to("second.png")
    (tmp_path / "second.png").symlink_to(Path("there", "it.png"))
    for content in (b"first", b"second"):
        write(tmp_path / "link.png", content)
        assert (tmp_path / "there" / "it.png").read_bytes() == content
        assert os.readlink(tmp_path / "link.png") == "second.png" and there(tmp_path / "there") == ["it.png"]
    assert there(tmp_path) == ["link.png", "second.png", "there"]


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "ä" * 125 + ".png", os.fsdecode(b"caf\xe9\xff.png"), "[*]?.png"],
                         ids=ascii)
def test_name_of_any_kind_that_a_disk_takes(tmp_path, name):
    for content in (b"first", b"second"):
        write(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content and there(tmp_path) == [name]


@pytest.mark.parametrize("end", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_write_that_does_not_end_leaves_the_older_file(tmp_path, monkeypatch, end):
    """And no part of the new one: a full disk, or Ctrl-C."""
    (tmp_path / "it.png").write_bytes(b"older")
    write_bytes = Path.write_bytes

    def half(path, content):
        write_bytes(path, content[:3])
        raise end
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", half)
        with pytest.raises(ValueError if isinstance(end, OSError) else KeyboardInterrupt):
            write(tmp_path / "it.png", b"newer")
    assert there(tmp_path) == ["it.png"] and (tmp_path / "it.png").read_bytes() == b"older"


CANNOT = {
    "a folder": (lambda path: path.mkdir(), "directory"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "a link into no folder": (lambda path: path.symlink_to(Path("nowhere", "it.png")), "No such file or directory"),
    "below a file": (lambda path: path.parent.rmdir() or path.parent.write_bytes(b""), "Not a directory"),
    "in no folder": (lambda path: path.parent.rmdir(), "No such file or directory"),
}


@pytest.fixture
def known_before(monkeypatch):
    """What is told without loading a model."""
    monkeypatch.setattr(p2p, "load", lambda *_, **__: pytest.fail("it was known before"))


@needs_links
@pytest.mark.parametrize("case", CANNOT)
def test_output_that_cannot_be_written(tmp_path, known_before, capsys, case):
    """One line, of the command line before anything is loaded; nothing is changed."""
    make, says = CANNOT[case]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "it.png"
    make(path)
    before = sorted((str(file), file.lstat().st_mode) for file in tmp_path.rglob("*"))
    if "itself" not in case:                               # `write` replaces it
        refuses(lambda: write(path, b"content"), f"{path} cannot be written: ")
    assert main([SOURCE, TARGET, "--out", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("p2p-min: error: --out: ") and says in error and error.count("\n") == 1
    assert sorted((str(file), file.lstat().st_mode) for file in tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="there is nothing that root may not write")
def test_output_that_is_read_only(tmp_path, known_before, capsys):
    """A file, or a folder."""
    (tmp_path / "it.png").touch(0o444)
    (tmp_path / "in").mkdir(0o555)
    for path in (tmp_path / "it.png", tmp_path / "in" / "it.png"):
        assert main([SOURCE, TARGET, "--out", str(path)]) == 2 and "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--out", "x" * 300 + ".png"], ["--out", "x" * 250 + ".png", "--singles"],
                                     ["--page", "ö" * 130 + ".html"]], ids=lambda options: options[0])
def test_name_that_is_too_long(tmp_path, monkeypatch, known_before, capsys, options):
    """It is known at the start, also if only the names of the single pictures are too long."""
    monkeypatch.chdir(tmp_path)
    assert main([SOURCE, TARGET, *options]) == 2
    error = capsys.readouterr().err
    assert f"error: {options[-1] if '--singles' in options else options[0]}: " in error and "too long" in error
    assert there() == []


# ---- inputs and outputs --------------------------------------------------------------------------------------------

SPELLINGS = {
    "as given": lambda name: name, "absolute": lambda name: str(Path(name).absolute()),
    "by way of ..": lambda name: f"../{Path.cwd().name}/./{name}",
    "a link": lambda name: Path(f"link-{name}").symlink_to(name) or f"link-{name}",
    "a link to its folder": lambda name: Path("folder").symlink_to(".") or f"folder/{name}",
    "a hard link": lambda name: os.link(name, f"hard-{name}") or f"hard-{name}",
}
OUTPUTS = {"--out": (["--out"], ""), "--maps": (["--maps"], ""), "--page": (["--page"], ""),
           "--singles": (["--singles", "--out"], "-1")}
PAIRS = [(other, output) for other in ("--image", "--mask") for output in OUTPUTS]
PAIRS += [("--maps", "--out"), ("--maps", "--singles")]


@needs_links
@pytest.mark.parametrize("other, output, spelling", [
    *((other, output, "as given") for other, output in PAIRS), *(("--image", "--out", each) for each in SPELLINGS)])
def test_output_never_over_an_input_or_another_output(tmp_path, monkeypatch, known_before, capsys, other, output,
                                                      spelling):
    """However the file is spelled: exit status 2, one line that names both options, before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    options, number = OUTPUTS[output]
    name = f"x{number}{'.html' if output == '--page' else '.png'}"
    Path(name).write_bytes(b"a photograph")
    spelled = SPELLINGS[spelling](name)
    before = there()
    assert main([SOURCE, TARGET, other, name, *options, spelled.replace("-1.png", ".png")]) == 2
    error = capsys.readouterr().err
    assert output in error and other in error and "are the same file" in error and error.count("\n") == 1
    assert there() == before and Path(name).read_bytes() == b"a photograph"


def test_default_output_never_over_the_image(tmp_path, monkeypatch, capsys):
    """--image p2p.png, without --out."""
    monkeypatch.chdir(tmp_path)
    Path("p2p.png").write_bytes(b"a photograph")
    assert main([SOURCE, TARGET, "--image", "p2p.png"]) == 2 and Path("p2p.png").read_bytes() == b"a photograph"
    assert "--out and --image are the same file, p2p.png" in capsys.readouterr().err


# ---- a run is not lost at its end ----------------------------------------------------------------------------------

@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """run(*arguments): the exit status, with the small random model, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([SOURCE, TARGET, *arguments, "--model", str(folder), "--steps", "2", "--device",
                                    "cpu", "--spacing", "trailing"])


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "latin-1"])
def test_terminal_that_lacks_a_letter(run, monkeypatch, encoding):
    """The × of a picture's size, a name: the run goes on."""
    Image.new("RGB", (32, 32), "white").save("ß.png")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patched:
        for name, stream in streams.items():
            patched.setattr(sys, name, stream)
        assert run("--image", "ß.png", "--mask", "ß.png", "--out", "ü.png") == 0
    out = streams["stdout"].buffer.getvalue().decode(encoding)
    assert out.splitlines()[-1].endswith(".png") and "32" in out
    assert Image.open("ü.png").format == "PNG"


def test_name_that_is_no_utf8(run, capsys):
    """Of the picture that is read, and of all that are written. The command in the PNG's text says what it can."""
    name = lambda end: os.fsdecode(b"caf\xe9" + end)
    Image.new("RGB", (32, 32), "white").save(Path(name(b".png")))
    written = {"--out": name(b"-out.png"), "--maps": name(b"-maps.png"), "--page": name(b".html")}
    assert run("--image", name(b".png"), "--singles", *(text for pair in written.items() for text in pair)) == 0
    assert there() == sorted([name(b".png"), *written.values(), name(b"-out-0.png"), name(b"-out-1.png")])
    command = shlex.split(json.loads(Image.open(written["--out"]).text["parameters"])["command"])
    assert command[command.index("--image") + 1] == name(b".png")
    assert "caf" in Path(written["--page"]).read_text(encoding="utf-8")


def test_pipe_that_nobody_reads(folder, tmp_path):
    """`| head -1`: the pictures are there, and not a word on standard error; the status is what shells give for it."""
    process = hostile.python("-m", "p2p_min", SOURCE, TARGET, "--model", folder, "--device", "cpu", "--spacing",
                             "trailing", "--steps", 2, "--singles", folder=tmp_path)
    assert "float32" in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 141
    assert there(tmp_path) == ["p2p-0.png", "p2p-1.png", "p2p.png"]


# ---- what is imported, and when ------------------------------------------------------------------------------------

@pytest.fixture
def nothing_imported():
    """Of p2p_min; afterwards everything is again what other tests know."""
    ours = lambda: {name: module for name, module in sys.modules.items() if name.split(".")[0] == "p2p_min"}
    before = ours()
    for name in before:
        del sys.modules[name]
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("order", [
    "import p2p_min.maps", "import p2p_min.maps.page", "from p2p_min.maps import server",
    "from p2p_min import explorer; import p2p_min.maps.live", "from p2p_min import *; import p2p_min.maps",
    "import p2p_min.cli.run", "import p2p_min.editing", ""])
def test_face_whatever_is_imported_before(nothing_imported, order):
    """Above all `explorer`, a function and also the folder that it is in."""
    there = {}
    exec(order, there)
    import p2p_min as p2p
    from p2p_min import explorer
    from p2p_min.maps.page import explorer as meant
    assert explorer is p2p.explorer is meant is (there.get("explorer") or meant)
    assert all(callable(getattr(p2p, name)) for name in p2p.__all__) and {*p2p.__all__, "__version__"} <= {*dir(p2p)}
    assert not hasattr(p2p, "nothing")
    p2p.load, p2p.explorer = "another", "page"             # as a test puts something in their place
    assert (p2p.load, p2p.explorer) == ("another", "page")


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, runpy, signal, sys
module, *program = sys.argv[1:]
class Finder:
    def find_spec(name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
if program[0] == "p2p-min":
    code = "import sys\\nfrom p2p_min.__main__ import main\\nif __name__ == '__main__':\\n    sys.exit(main())"
    sys.argv = program
    exec(code, {"__name__": "__main__"})
sys.argv = ["", *program[1:]]
runpy.run_module("p2p_min", run_name="__main__", alter_sys=True)
"""


def fresh(code, *arguments):
    """(exit status, output, errors) of Python in a new process."""
    process = hostile.python("-c", code, *arguments)
    try:
        return (*process.communicate(timeout=60)[::-1], process.returncode)[::-1]
    finally:
        process.kill()


@pytest.mark.parametrize("program, module", [("-m", "torch.nn"), ("p2p-min", "numpy")], ids="".join)
def test_ctrl_c_while_it_imports(tmp_path, module, program):
    """Not a word, wherever it comes; a shell calls that status 130."""
    assert fresh(INTERRUPTED, module, program, SOURCE, TARGET, "--out", tmp_path / "x.png") == (-signal.SIGINT, "", "")
    assert there(tmp_path) == []


def test_ctrl_c_in_a_run(run, monkeypatch):
    """Status 130."""
    def interrupted(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(p2p, "prompt_to_prompt", interrupted)
    assert run() == 130 and there() == []


def test_ctrl_c_damages_nothing(tmp_path):
    """Not a word; scripts/hostile/files.py does it at any moment, also twice, and kills."""
    Image.new("RGB", (8, 8)).save(tmp_path / "old.png")
    old = (tmp_path / "old.png").read_bytes()
    (tmp_path / "old.png").unlink()
    faults, status = hostile.stopped([signal.SIGINT], 2, tmp_path, old)
    assert not faults and status in (0, 130, -signal.SIGINT)


def test_ctrl_c_that_is_ignored(tmp_path):
    """As nohup ignores it: it stays so."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import sys; sys.argv = ['', 'a']\n" \
           "from p2p_min.__main__ import main; main(); print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n" and "nothing to edit" in done.stderr


def test_ctrl_c_in_a_script_is_quiet():
    """Python then ends itself as Ctrl-C does, which shells call status 130. Other errors are shown as always."""
    code = "import sys; sys.path.append(sys.argv[1]); import ctrl_c; raise eval(sys.argv[2])"
    folder = Path(hostile.__file__).parents[1]
    assert fresh(code, folder, "KeyboardInterrupt") == (-signal.SIGINT, "", "")
    status, _, errors = fresh(code, folder, "ValueError('why')")
    assert status == 1 and "Traceback" in errors and "why" in errors
