"""The command line, in process: what it writes, and one line for what it cannot do."""
import dataclasses
import json
import shlex
import warnings
from base64 import b64encode
from pathlib import Path

import pytest
import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.__main__ import main
from p2p_min.pictures import png

SOURCE, TARGET = "a big car next to a river", "a big bicycle next to a river"


@pytest.fixture
def model(model):
    """As `run` loads it: few steps that begin at noise."""
    return dataclasses.replace(model, schedule=model.schedule._replace(spacing="trailing"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """run(*arguments) in an empty folder, with the small random model: (exit status, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, steps=3):
        own = [] if "--model" in arguments else ["--model", str(folder)]
        own += ["--steps", str(steps)] if steps else []
        own += [] if "--spacing" in arguments else ["--spacing", "trailing"]
        own += [] if "--device" in arguments else ["--device", "cpu"]
        with warnings.catch_warnings():
            try:
                status = main([*map(str, arguments), *own])
            except SystemExit as stop:                     # argparse's way
                status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err
    return run


def files():
    return sorted(str(path) for path in Path().rglob("*"))


def watch(monkeypatch):
    """The prompts that a run is asked for, in a list that fills."""
    asked = []
    sample = p2p.prompt_to_prompt

    def spy(model, prompts, *edits, **arguments):
        asked.append((prompts, edits, arguments))
        return sample(model, prompts, *edits, **arguments)
    monkeypatch.setattr(p2p, "prompt_to_prompt", spy)
    return asked


# ---- what it writes ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", [TARGET, "a big red car next to a river", "a car", SOURCE])
def test_an_edit_is_one_command(run, target):
    """Trap 6: any target is fine: equal word counts swap, others refine. Status 0, one picture, its path last."""
    status, out, err = run(SOURCE, target)
    assert status == 0 and files() == ["p2p.png"] and out.split()[-1] == "p2p.png"
    assert Image.open("p2p.png").format == "PNG"
    assert "error" not in err and "arning" not in err


def test_device_and_model_are_named_in_one_line(run, folder):
    """The first line of the output."""
    line = run(SOURCE, TARGET)[1].splitlines()[0]
    assert str(folder) in line and "cpu" in line and "float32" in line


def test_single_pictures_are_the_same_as_those_of_the_library(run, model):
    """--singles writes each picture, source first; they are what prompt_to_prompt generates with these arguments."""
    prompts = [SOURCE, TARGET, "a big red car next to a river"]
    args = ["--singles", "--out", "x.png", "--seed", "4", "--guidance", "3", "--negative", "snow", "--height", "40",
            "--width", "24", "--cross-steps", "0.5", "--cross-steps", "bicycle=0.2,0.9", "--self-steps", "0.3"]
    assert run(*prompts, *args)[0] == 0
    assert files() == ["x-0.png", "x-1.png", "x-2.png", "x.png"]
    cross = p2p.auto(model.tokenizer, prompts, {"default_": 0.5, "bicycle": (0.2, 0.9)})
    result = p2p.prompt_to_prompt(model, prompts, cross, p2p.self_replace(0.3), steps=3, guidance=3.0, seed=4,
                                  height=40, width=24, negative="snow")
    for i, image in enumerate(result.images):
        assert Image.open(f"x-{i}.png").tobytes() == image.tobytes()


def test_the_edit_can_be_repeated_from_the_pictures_text(run):
    """The PNG's text holds the command and all parameters; the command generates the same picture again."""
    run("a big café", "a red café", "--seed", "7", "--guidance", "2.5", "--reweight", "red=1.5", "--out", "first.png")
    first = Image.open("first.png")
    parameters = json.loads(first.text["parameters"])
    for name, value in dict(source="a big café", targets=["a red café"], seed=7, guidance=2.5, steps=3, negative="",
                            self_steps="0.4", reweight=["red=1.5"], prompts=["a big café", "a red café"], device="cpu",
                            p2p_min=p2p.__version__).items():
        assert parameters[name] == value
    assert {"model", "height", "width", "cross_steps", "blend", "subtract", "dtype", "out"} <= parameters.keys()
    command = shlex.split(first.text["command"])
    assert command[:3] == ["python", "-m", "p2p_min"]
    Path("first.png").rename("kept.png")
    assert main(command[3:]) == 0
    assert Image.open("first.png").tobytes() == Image.open("kept.png").tobytes()


@pytest.mark.parametrize("arguments, prompts, factors", [
    ((SOURCE, "--reweight", "big=-2,0,2"), [SOURCE] * 4, [{"big": -2}, {"big": 0}, {"big": 2}]),
    ((SOURCE, TARGET, "--reweight", "big=2"), [SOURCE, TARGET], [{"big": 2}]),
    ((SOURCE, TARGET, "--reweight", "bicycle=1,2"), [SOURCE, TARGET, TARGET], [{"bicycle": 1}, {"bicycle": 2}]),
    ((SOURCE, TARGET, SOURCE, "--reweight", "big=1,2"), [SOURCE, TARGET, SOURCE], [{"big": 1}, {"big": 2}]),
    ((SOURCE, TARGET, SOURCE, "--reweight", "big=3"), [SOURCE, TARGET, SOURCE], [{"big": 3}] * 2),
    ((SOURCE, "--reweight", "big=1,2", "--reweight", "a river=-1"), [SOURCE] * 3,
     [{"big": 1, "a river": -1}, {"big": 2, "a river": -1}]),
])
def test_several_factors_make_one_target_each(run, monkeypatch, tokenizer, arguments, prompts, factors):
    """--reweight WORD=C[,C...] composes with the swap or refinement; the target may be left out."""
    asked = watch(monkeypatch)
    assert run(*arguments)[0] == 0
    (given, (edit, _), _), = asked
    assert given == prompts
    base = p2p.auto(tokenizer, prompts, {"default_": 0.8})
    assert (edit.c == p2p.reweight(tokenizer, prompts, factors, base).c).all()
    assert (edit.base.A == base.A).all() and (edit.base.end == base.end).all()


@pytest.mark.parametrize("arguments", [
    ["--blend", "big"], ["--blend", "car", "bicycle"], ["--blend", "big", "--subtract", "river"],
    ["--blend", "car", "bicycle", "--subtract", "river", "next to"], ["--blend", "-", "bicycle"],
    ["--blend", "car", "-", "--subtract", "-", "a#2"]])
def test_blend_words_are_one_for_all_or_one_per_prompt(run, model, arguments):
    """--blend WORD [WORD ...] and --subtract make the LocalBlend of those words; - leaves a prompt without one."""
    assert run(SOURCE, TARGET, "--singles", *arguments)[0] == 0
    at = arguments.index("--subtract") if "--subtract" in arguments else len(arguments)
    words, subtract = ((2 * x)[:2] if len(x) == 1 else [None if word == "-" else word for word in x]
                       for x in (arguments[1:at], arguments[at + 1:]))
    prompts = [SOURCE, TARGET]
    blend = p2p.LocalBlend(model.tokenizer, prompts, words, subtract or None)
    edits = p2p.auto(model.tokenizer, prompts), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, prompts, *edits, blend=blend, steps=3)
    assert Image.open("p2p-1.png").tobytes() == result.images[1].tobytes()


@pytest.fixture
def photo(tmp_path):
    """A picture of 60 × 40 pixels, photo.png, and mask.png of the same size: its right third may change."""
    photo, mask = Image.radial_gradient("L").resize((60, 40)).convert("RGB"), Image.new("L", (60, 40))
    mask.paste(255, (40, 0, 60, 40))
    photo.save(tmp_path.parent / "photo.png")
    mask.save(tmp_path.parent / "mask.png")
    return photo, mask


@pytest.mark.parametrize("arguments, size, taken", [
    ([], None, "48 × 32"), (["--invert", "ddim", "--size", "24"], 24, "36 × 24"),
    (["--invert", "negative-prompt", "--size", "32x40"], (40, 32), "32 × 40"),
    (["--invert", "null-text"], None, "48 × 32")])
def test_a_picture_from_disk_is_edited_by_one_command(run, model, photo, arguments, size, taken):
    """--image: it is inverted as --invert says (direct), resized as the output says, and edited as the library does."""
    status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--singles", *arguments)
    assert status == 0 and f"60 × 40 taken as {taken}" in out and not err
    method = arguments[1] if arguments else "direct"
    inversion = p2p.invert(model, photo[0], SOURCE, method, 3, size=size)
    edits = p2p.auto(model.tokenizer, [SOURCE, TARGET]), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, [SOURCE, TARGET], *edits, steps=3, inversion=inversion)
    for i, image in enumerate(result.images):
        assert Image.open(f"p2p-{i}.png").tobytes() == image.tobytes()
    assert json.loads(Image.open("p2p.png").text["parameters"])["image"] == "../photo.png"


def test_a_mask_is_cropped_as_its_picture_is_and_told(run, model, photo):
    """--mask: white may change. The share of the picture that may change is on the output; most of it is a warning."""
    status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--mask", "../mask.png", "--singles",
                           "--size", "32x32")
    assert status == 0 and not err and "25% of the picture may change" in out     # 60 × 40 is cropped to its middle 40
    inversion = p2p.invert(model, photo[0], SOURCE, "direct", 3, size=(32, 32))
    blend = p2p.LocalBlend(model.tokenizer, [SOURCE, TARGET], None, mask=photo[1].crop((10, 0, 50, 40)))
    edits = p2p.auto(model.tokenizer, [SOURCE, TARGET]), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, [SOURCE, TARGET], *edits, blend=blend, steps=3, inversion=inversion)
    assert Image.open("p2p-1.png").tobytes() == result.images[1].tobytes()
    Image.open("../mask.png").point(lambda x: 255 - x).save("../inverted.png")
    status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--mask", "../inverted.png")
    assert status == 0 and "67% of the picture may change" in out and "invert" in err and err.count("\n") == 1


def test_a_mask_goes_with_a_painted_picture_too(run, model):
    """--mask without --image, of the picture's shape; with --blend both must allow a change."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save("../half.png")
    assert run(SOURCE, TARGET, "--mask", "../half.png", "--blend", "big", "--singles")[0] == 0
    blend = p2p.LocalBlend(model.tokenizer, [SOURCE, TARGET], ["big", "big"], mask=mask)
    edits = p2p.auto(model.tokenizer, [SOURCE, TARGET]), p2p.self_replace()
    result = p2p.prompt_to_prompt(model, [SOURCE, TARGET], *edits, blend=blend, steps=3)
    assert Image.open("p2p-1.png").tobytes() == result.images[1].tobytes()


def test_an_existing_picture_is_replaced_and_nothing_else_is_touched(run):
    """--out may exist; files beside it stay, and no unfinished file is left."""
    Path("p2p.png").write_text("old")
    Path("other.txt").write_text("mine")
    assert run(SOURCE, TARGET, "--out", "p2p.png")[0] == 0
    assert files() == ["other.txt", "p2p.png"] and Image.open("p2p.png").format == "PNG"


def test_maps_and_page_are_written_beside_the_same_picture(run, model):
    """--maps: the sheet of all words; --page: the explorer. The picture is the one that is generated without them."""
    assert run(SOURCE, TARGET, "--out", "alone.png")[0] == 0
    status, out, err = run(SOURCE, TARGET, "--maps", "maps.png", "--page", "page.html")
    assert status == 0 and not err and out.split()[-3:] == ["p2p.png", "maps.png", "page.html"]
    assert files() == ["alone.png", "maps.png", "p2p.png", "page.html"]
    assert Image.open("p2p.png").tobytes() == Image.open("alone.png").tobytes()
    recorder = p2p.Recorder(model.tokenizer, [SOURCE, TARGET])
    result = p2p.prompt_to_prompt(model, recorder.prompts, recorder(p2p.auto(model.tokenizer, recorder.prompts)),
                                  p2p.self_replace(), steps=3)
    assert Image.open("maps.png").tobytes() == p2p.word_sheet(recorder, result.images).tobytes()
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "python -m p2p_min" in page


def data_of_page():
    return json.loads(Path("page.html").read_text(encoding="utf-8").split('type="application/json">')[1].split("</")[0])


def test_the_page_shows_what_the_targets_are_without_injection(run, model, monkeypatch):
    """One more run of the same settings, without edits; targets that differ in their weights alone are in it once."""
    asked = watch(monkeypatch)
    assert run(SOURCE, "--reweight", "big=-2,1", "--blend", "car", "--page", "page.html", "--seed", "3")[0] == 0
    (prompts, *_), (plain, edits, settings) = asked
    assert prompts == [SOURCE] * 3 and plain == [SOURCE] * 2 and not edits and settings.get("blend") is None
    assert settings["seed"] == 3 and [of["label"] for of in data_of_page()["prompts"]] == [None, "big × −2", "big × 1"]
    image = p2p.prompt_to_prompt(model, plain, steps=3, seed=3).images[1]
    assert f"data:image/png;base64,{b64encode(png(image)).decode()}" in data_of_page()["without"]


@pytest.mark.parametrize("options, labels", [
    ([TARGET, "a car"], [None] * 2), ([TARGET, "a big car", "--reweight", "big=2"], [None] * 2),
    ([TARGET, "--reweight", "big=2", "--reweight", "river=0.5"], ["big × 2, river × 0.5"])])
def test_the_page_names_targets_by_weights_where_these_differ(run, options, labels):
    assert run(SOURCE, *options, "--page", "page.html")[0] == 0
    assert [of["label"] for of in data_of_page()["prompts"][1:]] == labels


def test_maps_of_one_prompt_alone_need_no_edit(run, model):
    """The picture and its maps, as the library makes them."""
    status, out, err = run(SOURCE, "--maps", "maps.png", "--page", "page.html")
    assert status == 0 and not err and files() == ["maps.png", "p2p.png", "page.html"]
    recorder = p2p.Recorder(model.tokenizer, [SOURCE])
    result = p2p.prompt_to_prompt(model, [SOURCE], None, recorder=recorder, steps=3)
    assert Image.open("maps.png").tobytes() == p2p.word_sheet(recorder, result.images).tobytes()
    assert run(SOURCE, "--page", "only.html", "--singles")[0] == 0
    assert Image.open("p2p-0.png").tobytes() == result.images[0].tobytes()


@pytest.mark.parametrize("method", ["direct", "negative-prompt"])
def test_maps_of_a_picture_need_no_edit(run, model, photo, method):
    """--image with its prompt alone: the picture as it comes back, and what its words look at."""
    status, out, err = run(SOURCE, "--image", "../photo.png", "--maps", "maps.png", "--singles", "--invert", method)
    assert status == 0 and not err and files() == ["maps.png", "p2p-0.png", "p2p.png"]
    inversion, recorder = p2p.invert(model, photo[0], SOURCE, method, 3), p2p.Recorder(model.tokenizer, [SOURCE])
    result = p2p.prompt_to_prompt(model, [SOURCE], None, recorder=recorder, steps=3, inversion=inversion)
    assert Image.open("p2p-0.png").tobytes() == result.images[0].tobytes()
    assert Image.open("maps.png").tobytes() == p2p.word_sheet(recorder, result.images).tobytes()


def test_help_names_every_option_and_shows_examples(run):
    """--help is worth reading: exit status 0, the options, an example of each edit."""
    status, out, err = run("--help")
    assert status == 0 and not err
    for text in ("--model", "--out", "--seed", "--steps", "--guidance", "--negative", "--cross-steps", "--self-steps",
                 "--reweight", "--blend", "--subtract", "--image", "--size", "--invert",
                 "--mask", "--maps", "--page", "--device", "--dtype", "--spacing", "examples"):
        assert text in out


# ---- what it refuses -----------------------------------------------------------------------------------------------

BAD = {
    "device": (["--device", "nonsense"], "nonsense"),
    "device that is not here": (["--device", "cuda:99"], "cuda:99"),
    "device without memory": (["--device", "meta"], "meta"),
    "dtype": (["--dtype", "float64"], "float64"),
    "seed below zero": (["--seed", "-1"], "seed"),
    "seed too large": (["--seed", str(2 ** 64)], "seed"),
    "seed that is no number": (["--seed", "x"], "--seed"),
    "no steps": (["--steps", "0"], "steps"),
    "too many steps": (["--steps", "1001"], "steps"),
    "steps that are no number": (["--steps", "2.5"], "--steps"),
    "guidance nan": (["--guidance", "nan"], "guidance"),
    "guidance inf": (["--guidance", "inf"], "guidance"),
    "guidance that is no number": (["--guidance", "x"], "--guidance"),
    "height that is no multiple": (["--height", "33"], "height"),
    "width 0": (["--width", "0"], "width"),
    "width below zero": (["--width", "-32"], "width"),
    "size beyond all memory": (["--height", str(4 * 10 ** 9), "--width", str(4 * 10 ** 9)], ""),
    "size beyond all numbers": (["--height", str(4 * 10 ** 25)], ""),
    "window above 1": (["--cross-steps", "1.5"], "1.5"),
    "window in disorder": (["--cross-steps", "0.7,0.2"], "0.7"),
    "window nan": (["--cross-steps", "nan"], "nan"),
    "window that is no number": (["--cross-steps", "x"], "x"),
    "window of an absent word": (["--cross-steps", "dog=0.4"], "bicycle"),
    "window without a value": (["--cross-steps", "car="], "fraction"),
    "self window of three": (["--self-steps", "0.1,0.2,0.3"], "0.1"),
    "self window per word": (["--self-steps", "car=0.4"], "car=0.4"),
    "weight of an absent word": (["--reweight", "dog=2"], "bicycle"),
    "weight nan": (["--reweight", "big=nan"], "nan"),
    "weight beyond float32": (["--reweight", "big=1e39"], "the weight of 'big' must be a finite number in float32"),
    "weight without a number": (["--reweight", "big="], "big="),
    "weight without a word": (["--reweight", "=2"], "=2"),
    "weight without =": (["--reweight", "big"], "WORD=C"),
    "weights in different numbers": (["--reweight", "big=1,2", "--reweight", "river=1,2,3"], "2 and 3"),
    "blend on an absent word": (["--blend", "dog"], "dog"),
    "blend on a word of the source only": (["--blend", "car"], "bicycle"),
    "blend without any word": (["--blend", "-"], "--blend names no word"),
    "weight of a word that is not so often there": (["--reweight", "a#3=2"], "'a' from #1 to #2"),
    "blend words in a wrong number": (["--blend", "big", "big", "big"], "--blend"),
    "subtract on an absent word": (["--blend", "big", "--subtract", "dog"], "dog"),
    "subtract without blend": (["--subtract", "river"], "--blend"),
    "out folder that does not exist": (["--out", "nowhere/p2p.png"], "nowhere"),
    "out that is no PNG": (["--out", "p2p.jpg"], ".png"),
    "out without a name": (["--out", ""], ".png"),
    "maps that are no PNG": (["--maps", "maps.html"], "--maps must end in .png"),
    "maps in a folder that does not exist": (["--maps", "nowhere/maps.png"], "nowhere"),
    "maps in place of the picture": (["--maps", "p2p.png"], "--maps and --out"),
    "page that is no html": (["--page", "page.png"], "--page must end in .html"),
    "page in a folder that does not exist": (["--page", "nowhere/page.html"], "nowhere"),
    "negative too long": (["--negative", "big " * 76], "78 tokens"),
    "model that is not there": (["--model", "nowhere"], "nowhere"),
    "model that is an empty folder": (["--model", "."], "unet"),
    "image that is not there": (["--image", "nowhere.png"], "nowhere.png"),
    "image that is no picture": (["--image", __file__], "picture"),
    "image that is an address": (["--image", "https://example.org/a.png"], "https://example.org/a.png is an address"),
    "spacing that nobody knows": (["--spacing", "late"], "--spacing"),
    "image with a seed": (["--image", "../photo.png", "--seed", "3"], "--seed"),
    "image with a height": (["--image", "../photo.png", "--height", "32"], "--size"),
    "image with a size that is no number": (["--image", "../photo.png", "--size", "big"], "--size"),
    "image with a size below the factor": (["--image", "../photo.png", "--size", "3"], "size"),
    "image with a method that nobody knows": (["--image", "../photo.png", "--invert", "magic"], "null-text"),
    "image with two negative prompts": (["--image", "../photo.png", "--invert", "null-text", "--negative", "dog"],
                                        "--negative"),
    "method without an image": (["--invert", "ddim"], "--image"),
    "size without an image": (["--size", "32"], "--image"),
    "mask that is not there": (["--mask", "nowhere.png"], "nowhere.png"),
    "mask of another size than the image": (["--image", "../photo.png", "--mask", "../black.png"], "60 × 40"),
    "mask of another shape than the picture": (["--mask", "../mask.png"], "aspect ratio"),
    "mask without white": (["--mask", "../black.png"], "white"),
    "unknown option": (["--ddim-eta", "1"], "--ddim-eta"),
    "option without a value": (["--model"], "--model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, photo, case):
    """Exit status 2, one line on standard error that names what is wrong, and no file, also no unfinished one."""
    Image.new("L", (32, 32)).save("../black.png")
    arguments, says = BAD[case]
    status, out, err = run(SOURCE, TARGET, *arguments, steps=0 if "--steps" in arguments else 1)
    assert (status, err.count("\n"), files()) == (2, 1, []), err
    assert says in err and err.startswith("p2p-min: error: ")


@pytest.mark.parametrize("prompts, says", [
    ([], "SOURCE"), ([SOURCE], "--maps or --page"), (["--blend", "big", SOURCE, TARGET], "put the prompts first"),
    ([SOURCE, "--blend", "big", TARGET], "put the prompts before the options"),
    ([SOURCE, "--maps", "m.png", "--mask", "m.png"], "TARGET"),
    ([SOURCE, "--maps", "m.png", "--self-steps", "0.4"], "no TARGET"),
    ([SOURCE, "--maps", "m.png", "--cross-steps", "big=0.4"], "no TARGET"),
    ([SOURCE, "big " * 76], "78 tokens"), (["big " * 76, TARGET], "78 tokens"),
    ([SOURCE, TARGET, TARGET, TARGET, "--reweight", "big=1,2"], "2 factors for 3 targets")])
def test_bad_prompts_are_one_line_and_leave_nothing(run, prompts, says):
    """Trap 8: nothing to edit, too long, too many for the factors."""
    status, out, err = run(*prompts)
    assert (status, err.count("\n"), files()) == (2, 1, []), err
    assert says in err


@pytest.mark.parametrize("option, name", [("--maps", "maps.png"), ("--page", "page.html")])
def test_what_cannot_be_written_leaves_no_unfinished_file(run, monkeypatch, option, name):
    """A full disk: exit status 2, one line, and no part of the file."""
    write_bytes, written = Path.write_bytes, []

    def full(path, content):
        written.append(write_bytes(path, content[:100]))
        if len(written) == 2:
            raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", full)
    status, out, err = run(SOURCE, TARGET, option, name, steps=1)
    assert (status, err.count("\n"), files()) == (2, 1, ["p2p.png"]) and name in err and "No space" in err


def test_maps_do_not_replace_a_single_picture(run):
    status, out, err = run(SOURCE, TARGET, "--singles", "--out", "x.png", "--maps", "x-1.png", steps=1)
    assert status == 2 and "x-1.png" in err and not list(Path().glob("*.png"))


@pytest.mark.parametrize("singles", [False, True])
def test_an_output_that_cannot_be_replaced_leaves_no_unfinished_file(run, singles):
    """--out names a folder: exit status 2, the error as the last line, and nothing new beside it."""
    Path("p2p.png").mkdir()
    status, out, err = run(SOURCE, TARGET, *["--singles"] * singles, steps=1)
    assert status == 2 and files() == ["p2p.png"] and err.strip().splitlines()[-1].startswith("p2p-min: error: ")


def test_warnings_of_libraries_are_silent_and_ours_are_one_line(run, monkeypatch, model):
    """A library's warning does not reach the terminal; a warning of p2p_min's own code does."""
    def load(*arguments, **options):
        warnings.warn_explicit("not ours", FutureWarning, "torch/x.py", 1, module="torch.x")
        warnings.warn_explicit("ours", UserWarning, "p2p_min/x.py", 1, module="p2p_min.x")
        return model
    monkeypatch.setattr(p2p, "load", load)
    status, out, err = run(SOURCE, TARGET)
    assert status == 0 and "not ours" not in err and "p2p-min: warning: ours\n" in err


def test_words_that_the_toy_does_not_know_are_a_warning(run):
    """A "lemon cake" would be a cake of any colour, without a word. Case and commas do not make a word unknown."""
    for prompt, unknown in (("a Cake, on the GRASS", ""), ("a lemon cake with a candle", "candle, lemon, with")):
        status, _, errors = run(prompt, "a cake on the grass", "--model", "weights/toy", steps=1)
        warned = [line for line in errors.splitlines() if "does not know" in line]
        assert status == 0 and len(warned) == bool(unknown) and all(f"know {unknown};" in line for line in warned)


def test_a_small_model_on_the_cpu_takes_one_thread(run, monkeypatch):
    """Unless the person has said how many: two processes that wait for each other's threads take ten times as long."""
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run(SOURCE, TARGET, steps=1)[0] == 0 and chosen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert run(SOURCE, TARGET, steps=1)[0] == 0 and chosen == [1]


def test_few_steps_far_from_noise_are_one_warning_in_each_run(run, photo):
    """The inversion and the edit have the same timesteps, which are told once; and again in the next run."""
    for _ in range(2):
        status, out, err = run(SOURCE, TARGET, "--image", "../photo.png", "--spacing", "leading", steps=1)
        assert status == 0 and err.count("\n") == 1 and err.startswith("p2p-min: warning: leading spacing puts"), err
