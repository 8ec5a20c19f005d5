"""Files: whole or not at all, nothing of a person's overwritten, nothing lost to a name, a stream or Ctrl-C."""
import io
import os
import random
import shlex
import signal
import stat
import sys
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

import p2p_min as p2p
from p2p_min.__main__ import main
from p2p_min.files import LEFT, UNFINISHED, write
from p2p_min.pictures import png

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "hostile"))
import files as hostile  # noqa: E402

SOURCE, TARGET = "a big car next to a river", "a big bicycle next to a river"
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


def there(folder="."):
    return sorted(path.name for path in Path(folder).iterdir())


# ---- writing -------------------------------------------------------------------------------------------------------

def test_many_writers_of_one_file_are_never_in_each_others_way(tmp_path, monkeypatch):
    """Threads, and processes that think they are all process 1, as in containers: every read is what one wrote."""
    monkeypatch.setattr(hostile, "LIMIT", 30)
    faults, reads = hostile.writers(40, tmp_path, processes=2)
    assert not faults and reads > 10


def test_a_link_stays_and_its_file_is_written(tmp_path):
    """Links in a row, relative, into another folder; also where there is no file yet."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to("second.png")
    (tmp_path / "second.png").symlink_to(Path("there", "it.png"))
    for content in (b"first", b"second"):
        write(tmp_path / "link.png", content)
        assert (tmp_path / "there" / "it.png").read_bytes() == content
        assert os.readlink(tmp_path / "link.png") == "second.png" and there(tmp_path / "there") == ["it.png"]
    assert there(tmp_path) == ["link.png", "second.png", "there"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_permissions_of_a_file_that_is_replaced_are_kept(tmp_path, mode):
    """And a new file's are what the umask says."""
    (tmp_path / "it").write_bytes(b"old")
    (tmp_path / "it").chmod(mode)
    mask = os.umask(0o027)
    try:
        for name in ("it", "new"):
            write(tmp_path / name, b"content")
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("it", "new")] == [mode, 0o640]


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "ä" * 125 + ".png", os.fsdecode(b"caf\xe9\xff.png"), "[*]?.png",
                                  ".p2p-min-.png", " .png"], ids=ascii)
def test_any_name_that_a_disk_takes_can_be_written(tmp_path, name):
    for content in (b"first", b"second"):
        write(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content and there(tmp_path) == [name]


def test_what_a_kill_left_is_cleared_and_nothing_else(tmp_path):
    """By the next write in that folder: an unfinished file that is older by LEFT. A younger one belongs to a run."""
    old, young, *others = (UNFINISHED.format("0123"), UNFINISHED.format("4567"), ".it.png.17.part", ".p2p-min-x",
                           "p2p-min-x.part", "x.part")
    for name in (old, young, *others):
        (tmp_path / name).write_bytes(b"x")
        age = LEFT / 2 if name == young else 100 * LEFT
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / UNFINISHED.format("folder")).mkdir()
    write(tmp_path / "it", b"content")
    assert there(tmp_path) == sorted([young, *others, "it", UNFINISHED.format("folder")])


def test_a_writer_whose_unfinished_file_was_cleared_writes_again(tmp_path, monkeypatch):
    """It was stopped for so long that another run thought it dead."""
    replace, cleared = os.replace, []

    def late(file, target):
        if not cleared:
            cleared.append(file)
            file.unlink()
        replace(file, target)
    monkeypatch.setattr(os, "replace", late)
    write(tmp_path / "it", b"content")
    assert cleared and there(tmp_path) == ["it"] and (tmp_path / "it").read_bytes() == b"content"


CANNOT = {
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "a pipe": (lambda path: os.mkfifo(path), "it is no ordinary file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/null"), "it is no ordinary file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "a link into no folder": (lambda path: path.symlink_to(Path("nowhere", "it.png")), "there is no folder"),
    "below a file": (lambda path: path.parent.rmdir() or path.parent.write_bytes(b""), "there is no folder"),
    "in no folder": (lambda path: path.parent.rmdir(), "there is no folder"),
}


@needs_links
@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_written_is_one_line_and_known_at_the_start(tmp_path, monkeypatch, capsys, case):
    """Of `write`, and of the command line before anything is loaded; nothing is changed."""
    monkeypatch.setattr(p2p, "load", lambda *_, **__: pytest.fail("it was known before"))
    make, says = CANNOT[case]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "it.png"
    make(path)
    before = sorted((str(file), file.lstat().st_mode) for file in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=f"it.png cannot be written: .*{says}"):
        write(path, b"content")
    assert main([SOURCE, TARGET, "--out", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("p2p-min: error: --out: ") and says in error and error.count("\n") == 1
    assert sorted((str(file), file.lstat().st_mode) for file in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("options", [["--out", "x" * 300 + ".png"], ["--out", "x" * 250 + ".png", "--singles"],
                                     ["--page", "ö" * 130 + ".html"]], ids=lambda options: options[0])
def test_a_name_that_is_too_long_is_known_at_the_start(tmp_path, monkeypatch, capsys, options):
    """Also if only the names of the single pictures are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(p2p, "load", lambda *_, **__: pytest.fail("it was known before"))
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
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("other, output", PAIRS, ids="".join)
def test_no_output_overwrites_an_input_or_another_output(tmp_path, monkeypatch, capsys, other, output, spelling):
    """However the file is spelled: exit status 2, one line that names both options, before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(p2p, "load", lambda *_, **__: pytest.fail("it was known before"))
    options, number = OUTPUTS[output]
    name = f"x{number}{'.html' if output == '--page' else '.png'}"
    Path(name).write_bytes(b"a photograph")
    spelled = SPELLINGS[spelling](name)
    before = there()
    assert main([SOURCE, TARGET, other, name, *options, spelled.replace("-1.png", ".png")]) == 2
    error = capsys.readouterr().err
    assert output in error and other in error and "are the same file" in error and error.count("\n") == 1
    assert there() == before and Path(name).read_bytes() == b"a photograph"


def test_the_picture_that_the_usual_output_would_overwrite_is_kept(tmp_path, monkeypatch, capsys):
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
def test_a_terminal_that_lacks_a_letter_ends_no_run(run, monkeypatch, encoding):
    """The × of a picture's size, the “ of a warning, a name."""
    Image.new("RGB", (32, 32), "white").save("ß.png")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patched:
        for name, stream in streams.items():
            patched.setattr(sys, name, stream)
        assert run("--image", "ß.png", "--mask", "ß.png", "--out", "ü.png") == 0
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams.values())
    assert out.splitlines()[-1].endswith(".png") and "32" in out and "invert it" in err
    assert Image.open("ü.png").format == "PNG"


def test_names_that_are_no_utf8_are_kept(run, capsys):
    """Of the picture that is read, and of all that are written. The command in the PNG's text says what it can."""
    name = lambda end: os.fsdecode(b"caf\xe9" + end)
    Image.new("RGB", (32, 32), "white").save(Path(name(b".png")))
    written = {"--out": name(b"-out.png"), "--maps": name(b"-maps.png"), "--page": name(b".html")}
    assert run("--image", name(b".png"), "--singles", *(text for pair in written.items() for text in pair)) == 0
    assert there() == sorted([name(b".png"), *written.values(), name(b"-out-0.png"), name(b"-out-1.png")])
    command = shlex.split(Image.open(written["--out"]).text["command"])
    assert command[command.index("--image") + 1] == r"caf\udce9.png"
    assert "caf" in Path(written["--page"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("buffering", [1, -1])
def test_a_run_goes_on_where_nobody_reads_what_it_prints(run, monkeypatch, buffering):
    """`| head -1`: status 0, and the pictures are there; nothing is left to be printed at the end of Python."""
    read, written = os.pipe()
    os.close(read)
    with monkeypatch.context() as patched, os.fdopen(written, "w", buffering) as closed:
        patched.setattr(sys, "stdout", closed)
        assert run("--singles") == 0
        with pytest.raises(SystemExit, match="^0$"):
            run("--help")
    assert there() == ["p2p-0.png", "p2p-1.png", "p2p.png"]


def test_the_warnings_of_the_program_around_it_are_left_as_they_were(run):
    before = list(warnings.filters), warnings.showwarning
    assert run() == 0 and run("--seed", "-1") == 2
    assert (list(warnings.filters), warnings.showwarning) == before


# ---- what is imported, and when ------------------------------------------------------------------------------------

def fresh(code, *arguments):
    """(exit status, output, errors) of Python in a new process."""
    process = hostile.python("-c", code, *arguments)
    try:
        return (*process.communicate(timeout=60)[::-1], process.returncode)[::-1]
    finally:
        process.kill()


def test_what_can_be_told_without_torch_is_told_without_it(tmp_path):
    """--help, and errors of arguments and files, come at once."""
    wrong = [["--help"], [], ["--live", "--steps", "3"]]
    wrong += [[SOURCE, TARGET, *more] for more in (
        ["--stepz"], ["--spacing", "late"], ["--invert", "magic"], ["--cross-steps", "2"], ["--self-steps", "0.7,0.2"],
        ["--reweight", "big"], ["--blend", "a", "b", "c"], ["--subtract", "a"], ["--size", "3", "--height", "3"],
        ["--image", "x", "--size", "big"], ["--out", "x.jpg"], ["--out", "nowhere/x.png"], ["--maps", "p2p.png"])]
    code = f"""
import sys
from p2p_min.__main__ import main
for arguments in {wrong}:
    try:
        assert main(arguments) == 2
    except SystemExit as stop:
        assert not stop.code
    assert not {{"torch", "transformers", "numpy", "PIL", "p2p_min.cli.run"}} & sys.modules.keys(), arguments"""
    status, _, errors = fresh(code)
    assert status == 0 and errors.count("\np2p-min: error: ") == len(wrong) - 2, errors


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
def test_the_names_of_the_face_are_there_whatever_is_imported_before(nothing_imported, order):
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


def test_the_modules_are_there_too(nothing_imported):
    """`import p2p_min` alone gives `p2p_min.editing`."""
    import p2p_min
    assert p2p_min.editing.algorithm_1 and p2p_min.networks.text.encode


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


@pytest.mark.parametrize("program, module", [
    ("-m", "p2p_min.cli.run"), ("-m", "numpy"), ("-m", "torch.nn"), ("p2p-min", "torch")], ids="".join)
def test_ctrl_c_while_it_imports_is_quiet(tmp_path, module, program):
    """Status 130, and not a word, wherever it comes."""
    assert fresh(INTERRUPTED, module, program, SOURCE, TARGET, "--out", tmp_path / "x.png") == (130, "", "")
    assert there(tmp_path) == []


def test_ctrl_c_in_a_run_leaves_what_there_was(run, monkeypatch):
    """In the middle of writing: status 130, the older picture, and nothing unfinished."""
    Path("p2p.png").write_bytes(b"older")
    write_bytes = Path.write_bytes

    def interrupted(path, content):
        write_bytes(path, content[:50])
        raise KeyboardInterrupt
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", interrupted)
        assert run() == 130
    assert there() == ["p2p.png"] and Path("p2p.png").read_bytes() == b"older"


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGKILL]], ids=len)
def test_a_program_that_is_stopped_damages_nothing(tmp_path, signals):
    """Ctrl-C, twice, and a kill, after a second; scripts/hostile/files.py does it at any moment."""
    faults, status = hostile.stopped(signals, 1, tmp_path, png(Image.new("RGB", (8, 8))))
    assert not faults and status == (130 if signals[0] == signal.SIGINT else -signal.SIGKILL)


def test_a_kill_in_the_middle_of_writing_leaves_the_file_whole(tmp_path):
    """And what it leaves is cleared by the next."""
    faults, _ = hostile.kills_of_writers(4, tmp_path, random.Random(0))
    assert not faults


def test_ctrl_c_in_a_script_is_quiet():
    """Python then ends itself as Ctrl-C does, which shells call status 130. Other errors are shown as always."""
    code = "import sys; sys.path.append(sys.argv[1]); import ctrl_c; raise eval(sys.argv[2])"
    folder = Path(hostile.__file__).parents[1]
    assert fresh(code, folder, "KeyboardInterrupt") == (-signal.SIGINT, "", "")
    status, _, errors = fresh(code, folder, "ValueError('why')")
    assert status == 1 and "Traceback" in errors and "why" in errors
