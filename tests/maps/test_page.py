"""The explorer page: what is in the file, and what it does in a browser."""
import base64
import io
import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_min as p2p
from browser import CHROMIUM, Page
from conftest import build_tokenizer, refuses
from p2p_min.align import words
from p2p_min.maps import page as paging

PROMPTS = ["a big car, next to a river", "a big bicycle, next to a river", "a red car <b>next</b> to a"]
STEPS = 5


def sample(model, prompts=PROMPTS):
    """(recorder, result) of a swap and a refinement, re-weighted in one word, for three of five steps."""
    edit = p2p.reweight(model.tokenizer, prompts, {"next": -2.0}, p2p.auto(model.tokenizer, prompts, 0.6), 0.6)
    return watched(model, prompts, edit)


def watched(model, prompts, edit):
    recorder = p2p.Recorder(model.tokenizer, prompts, per_step=True)
    return recorder, p2p.prompt_to_prompt(model, prompts, edit, steps=STEPS, recorder=recorder)


@pytest.fixture(scope="module")
def run(model):
    return sample(model)


@pytest.fixture(scope="module")
def plain(model):
    """The run without an edit, and its recorder."""
    return watched(model, PROMPTS, None)[::-1]


@pytest.fixture(scope="module")
def html(model, run, plain):
    recorder, result = run
    return p2p.explorer(model, result, recorder, "python -m p2p_min </script> & co", without=plain)


@pytest.fixture(scope="module")
def weights(model):
    """The page of one prompt under two weights, each target told by its label."""
    prompts = ["a red car"] * 3
    recorder, result = watched(model, prompts, p2p.reweight(model.tokenizer, prompts, [{"red": -2.0}, {"red": 0.0}]))
    without = p2p.prompt_to_prompt(model, prompts[:2], steps=STEPS)
    return p2p.explorer(model, result, recorder, without=without, labels=["red × −2", "red × 0"])


def data_of(html):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1])


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


# ---- the file ------------------------------------------------------------------------------------------------------

def test_the_page_is_one_file_that_asks_for_nothing(html):
    """No address in it but data; a policy forbids the browser to ask; the script is the file beside page.py."""
    assert "default-src 'none'" in html and "{{" not in html.replace("}}", "")
    for text in ("http:", "https:", "src=", "@import", "url("):
        assert text not in re.sub(r'<script id="data".*?</script>', "", html, flags=re.S)
    assert html.count("<script") == html.count("</script>") == 2


def test_prompts_and_command_are_data_and_no_html(html):
    data = data_of(html)
    assert data["about"] == "python -m p2p_min </script> & co" and "<b>next" not in html
    for prompt, of_prompt in zip(PROMPTS, data["prompts"], strict=True):
        assert "".join(text for text, _ in of_prompt["pieces"]) == prompt
        found = [(text, of_prompt["words"][word]) for text, word in of_prompt["pieces"] if word is not None]
        assert all(name.split("#")[0] == text for text, name in found) and len(set(found)) == len(found)
        assert [name for _, name in found if name[0] == "a"] == ["a#1", "a#2"]


def test_the_maps_of_the_page_are_those_of_the_recorder(html, run, plain):
    """For each word, of each size, on average and in each step: within half a level of 255 of the word's range. Of a
    target M_star, M_hat, and M_star of the run without an edit."""
    recorder, data = run[0], data_of(html)
    assert data["sizes"] == [[2, 2], [4, 4], [8, 8]] and data["sizes"][data["size"]] == list(recorder.size)
    for (height, width), maps in zip(data["sizes"], data["maps"], strict=True):
        sheet = np.asarray(picture(maps["sheet"]))
        for i, of_prompt in enumerate(data["prompts"]):
            kinds = dict(own=(recorder, False))
            if i:
                kinds |= dict(used=(recorder, True), plain=(plain[1], True))
            assert {"own", "used", "plain"} & of_prompt.keys() == kinds.keys()
            for kind, (of, edited) in kinds.items():
                for row, word in enumerate(of_prompt["words"], of_prompt[kind]):
                    low, high = maps["ranges"][row]
                    cells = sheet[row * height:(row + 1) * height].reshape(height, 1 + STEPS, width).swapaxes(0, 1)
                    options = dict(edited=edited, size=(height, width))
                    meant = [of.maps(word, i, **options), *of.maps(word, i, per_step=True, **options)]
                    level = (high - low) / 255
                    np.testing.assert_allclose(low + cells * level, meant, atol=0.51 * level + 1e-6)


def test_the_strip_shows_what_the_steps_foresee(html, model, run):
    """All five steps here; the last one foresees nearly the result."""
    recorder, result = run
    strip = data_of(html)["strip"]
    assert strip["steps"] == [1, 2, 3, 4, 5] and len(strip["pictures"]) == 3
    for row, image in zip(strip["pictures"], result.images):
        last, first = (np.asarray(picture(row[i]), float) - np.asarray(image, float) for i in (-1, 0))
        assert abs(last).mean() < abs(first).mean()
        assert picture(row[-1]).size == image.size


def test_the_page_holds_what_the_seed_alone_gives(html, weights, model):
    """Each target's picture without an edit; those of equal prompts share one."""
    data, plain = data_of(html), p2p.prompt_to_prompt(model, PROMPTS, steps=STEPS).images
    for of_prompt, image in zip(data["prompts"], plain, strict=True):
        assert picture(data["without"][of_prompt["without"]]).tobytes() == image.tobytes()
    assert len(data["without"]) == 3 and [of["without"] for of in data_of(weights)["prompts"]] == [0, 1, 1]


def test_targets_are_told_apart_by_their_labels(html, weights):
    assert [of["label"] for of in data_of(weights)["prompts"]] == [None, "red × −2", "red × 0"]
    assert [of["label"] for of in data_of(html)["prompts"]] == [None] * 3


def test_a_long_run_keeps_fewer_steps_and_says_so(model, run, monkeypatch):
    recorder, result = run
    rows = sum(len(words(recorder.tokenizer, prompt)) for prompt in PROMPTS + PROMPTS[1:])
    monkeypatch.setattr(paging, "CELLS", 84 * STEPS * rows // 2 - 1)
    data = data_of(p2p.explorer(model, result, recorder))
    assert data["every"] == 3 and data["times"] == [recorder.times[0], recorder.times[3]] and data["steps"] == STEPS


def test_a_page_of_one_prompt_alone(model):
    """Nothing is edited: the words have their maps, and there is nothing to say of an edit."""
    data = data_of(page_of(model, ["a car, a dog"]))
    prompt, = data["prompts"]
    assert prompt["words"] == ["a#1", "car#1", "a#2", "dog#1"] and data["edit"] is None and "used" not in prompt


def test_a_word_of_one_token_is_one_to_point_at():
    """Also "sks_dog", which is written as two; and an emoji."""
    tokenizer, text = build_tokenizer(), "A sks_dog, 🐱!"
    tokenizer.add_tokens("sks_dog")
    recorder = p2p.Recorder(tokenizer, [text], per_step=True)
    recorder.look(torch.rand(2, 8, 8, 77), *[torch.rand(0, 2, 8, 8, 77)] * 2, 1.0)
    found = paging.of_prompt(recorder, 0)
    pieces = found["pieces"]
    assert found["words"] == ["a#1", "sks_dog#1", "🐱#1"] and [len(tokens) for tokens in found["tokens"]][:2] == [1, 1]
    assert [piece for piece in pieces if piece[0]] == [
        ["A", 0], [" ", None], ["sks_dog", 1], [", ", None], ["🐱", 2], ["!", None]]


def test_a_page_stays_below_4_MB():
    """Below 4 MB even where the maps do not compress: their bytes in base64, and the pictures' share."""
    assert paging.CELLS * 4 / 3 + 3e5 < 4e6


def page_of(model, prompts, **arguments):
    return p2p.explorer(model, *reversed(watched(model, prompts, None)), **arguments)


@pytest.mark.parametrize("make, says", [
    (lambda model, run: p2p.explorer(model, run, p2p.Recorder(model.tokenizer, PROMPTS)), "per_step=True"),
    (lambda model, run: p2p.explorer(model, run, p2p.Recorder(model.tokenizer, ["a car"])), "the recorder must be of"),
    (lambda model, run: page_of(model, ["", "!"]), "have none"),
    (lambda model, run: page_of(model, ["a car"] * 2, labels=["1", "2"]), "labels must be one text for each target, 1"),
    (lambda model, run: page_of(model, ["a car"], without=run), "without must be a Result of the same prompts"),
    (lambda model, run: page_of(model, ["a car"], without=run.images), "or a pair: that, and its Recorder"),
    (lambda model, run: page_of(model, PROMPTS, without=(run, p2p.Recorder(model.tokenizer, PROMPTS))),
     "without's recorder must be of its run, with per_step=True"),
])
def test_a_page_that_cannot_be_made_says_why(model, run, make, says):
    refuses(lambda: make(model, run[1]), says)


# ---- in a browser --------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


@pytest.fixture(scope="module")
def file(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(file, tmp_path_factory):
    with Page(file, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser, file):
    """Opened anew, since processes share the tests in any order. No test leaves an error or a request behind."""
    browser.events.clear()
    browser.open()
    yield browser
    told = [event for event in browser.events if event["method"] in (
        "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
            or event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error"]
    assert not told
    asked = {event["params"]["request"]["url"] for event in browser.events
             if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}


def look(page):
    """What one sees: the chosen words, the partners, the pictures that have a map over them, and the maps as their
    colours (None: blank)."""
    return page.run("""({
        chosen: [...document.querySelectorAll(".words [aria-pressed=true]")].map(x => x.textContent),
        partners: [...document.querySelectorAll(".partner")].map(x => x.textContent),
        lit: [...document.querySelectorAll(".stack:has(canvas)")].filter(x => !x.closest("[hidden]")).map(
            x => x.classList.contains("lit") && getComputedStyle(x.firstChild).filter !== "none"
                && x.lastChild.width > 1),
        play: document.getElementById("play").textContent.split(" ").at(-1),
        step: document.getElementById("step-said").textContent, size: document.getElementById("size-said").textContent,
        said: document.getElementById("said").textContent, high: document.getElementById("high").textContent,
        maps: Object.fromEntries([...document.querySelectorAll("canvas[id]")].map(
            x => [x.id, x.width < 2 ? null : [...x.getContext("2d").getImageData(0, 0, x.width, x.height).data]])),
    })""")


def word(prompt, n):
    return f".prompt:nth-of-type({prompt + 1}) .words button:nth-of-type({n + 1})"


@needs_browser
def test_the_page_opens_on_the_changed_word(page):
    """In the average of all steps, at the recorder's usual size. The pictures have their colours."""
    seen = look(page)
    assert seen["chosen"] == ["bicycle"] and seen["partners"] == ["car", "bicycle"] and seen["lit"] == [False, False]
    assert seen["step"] == "all 5, averaged" and seen["size"] == "8 × 8" and all(seen["maps"].values())
    assert "steps 1 to 3 of 5" in seen["said"] and "τ = 0.40" in seen["said"]


@needs_browser
def test_pointing_tapping_and_focusing_light_a_word(page):
    """Pointing shows while it lasts; a tap and the Tab key choose. The source and the target light up together."""
    before = look(page)
    page.hover(word(0, 6))
    pointed = look(page)
    assert pointed["partners"] == ["river", "river"] and pointed["maps"] != before["maps"]
    assert pointed["chosen"] == ["bicycle"] and pointed["lit"] == [True, True]
    page.hover("h1")
    assert look(page) == before
    page.tap(word(0, 1))
    assert look(page)["chosen"] == ["big"] and look(page)["partners"] == ["big", "big"]
    assert look(page)["lit"] == [True, True]
    page.press("Tab", 9)
    assert look(page)["chosen"] == ["car"] and look(page)["partners"] == ["car", "bicycle"]


@needs_browser
def test_the_maps_leave_the_pictures_at_a_click_and_come_back_with_any_control(page):
    """Of the three maps below it nothing goes."""
    page.tap("#over")
    assert look(page)["lit"] == [True, True]
    for control in ("#step", "#size"):
        page.tap("#over")
        assert look(page)["lit"] == [False, False] and all(look(page)["maps"].values())
        page.run(f"document.querySelector('{control}').focus()")
        page.press("ArrowLeft", 37)
        page.press("ArrowRight", 39)
        assert look(page)["lit"] == [True, True] and page.run("document.getElementById('over').checked")


@needs_browser
def test_one_scale_for_all_words(page):
    """The largest number of all words and steps is the brightest; otherwise each word has its own scale."""
    def scales():
        found = []
        for n in range(4):
            page.tap(word(0, n))
            found.append(look(page)["high"])
        return found
    apart = scales()
    page.tap("#shared")
    together = scales()
    top = page.run("Math.max(...data.maps[state.size].ranges.flat().map(Math.abs))")
    assert len(set(apart)) > 1 and set(together) == {f"{float(f'{top:.2g}'):g} of a pixel's attention"}
    page.tap("#shared")
    assert scales() == apart


@needs_browser
def test_the_target_without_injection_is_beside_the_two(page, html):
    """In its colours, also while maps lie over the others; with another target comes another picture."""
    data = data_of(html)
    there = "[...document.querySelectorAll('#pictures figure:not([hidden]) img')].map(x => x.src)"
    for target in (2, 1):
        page.tap(f".prompt:not([hidden]) .tabs button:nth-of-type({target})")
        source, of_target = data["prompts"][0], data["prompts"][target]
        assert page.run(there) == [source["picture"], of_target["picture"], data["without"][of_target["without"]]]
    assert page.run("[...document.querySelectorAll('.without .lit, .without canvas')].length") == 0


@needs_browser
def test_play_walks_through_the_steps_and_pauses(page):
    """By the keyboard: from the first to the last, where it ends by itself; from the last it begins anew."""
    page.run("document.getElementById('play').focus()")
    page.press(" ", 32)
    assert look(page)["step"].startswith("1 of 5") and look(page)["play"] == "Pause" and look(page)["lit"] == [True] * 2
    page.wait("document.getElementById('step-said').textContent.startsWith('2 of 5')")
    page.press(" ", 32)
    time.sleep(1)                                          # longer than a step is shown
    assert look(page)["step"].startswith("2 of 5") and look(page)["play"] == "Play"
    page.press(" ", 32)
    page.wait("document.getElementById('play').textContent.includes('Play')")
    assert look(page)["step"].startswith("5 of 5")
    page.press(" ", 32)
    assert look(page)["step"].startswith("1 of 5")
    page.run("document.getElementById('step').focus()")
    page.press("Home", 36)
    assert look(page)["step"] == "all 5, averaged" and look(page)["play"] == "Play"


@needs_browser
def test_play_is_slow_where_motion_is_to_be_reduced(page):
    """Two seconds a step, and no more than eight of them; else never below a tenth of a second."""
    page.run("window.asked = []; window.own = setInterval; window.setInterval = (f, ms) => { asked.push(ms); }")
    for motion in ("reduce", "no-preference"):
        page.call("Emulation.setEmulatedMedia", features=[dict(name="prefers-reduced-motion", value=motion)])
        page.run("play(true); play(false)")
    assert page.run("asked") == [2000, 800]
    page.run("window.setInterval = own; set({step: 0})")


@needs_browser
def test_a_flat_map_says_so(model, page, tmp_path):
    """Flat: its numbers differ by less than a tenth of the largest, one step of the colours."""
    assert [page.run(f"summary({values}).split(':')[0]") for values in (
        "[0.25, 0.253]", "[-0.4, -0.37]", "[0, 0]", "[0.1, 0.091]")] == ["flat"] * 4
    assert [page.run(f"summary({values})") for values in ("[0.1, 0.089]", "[0, 0.02]", "[-0.3, 0.1]")] == [
        "up to 0.1", "up to 0.02", "from −0.3 to 0.1"]
    html = p2p.explorer(model, *reversed(watched(model, ["a car", "a car"], lambda M, M_star, t: M_star * 0 + 0.25)))
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    with Page(tmp_path / "page.html", tmp_path / "browser") as flat:
        said = [flat.run(f"document.getElementById('{name}-range').textContent") for name in ("M", "M-hat")]
    assert said[0].startswith("up to") and said[1].startswith("flat: about 0.25 everywhere")


@needs_browser
def test_tabs_of_re_weighting_are_named_by_word_and_factor(weights, tmp_path):
    """One of them is pressed; a click brings its target."""
    (tmp_path / "page.html").write_text(weights, encoding="utf-8")
    tabs = "[...document.querySelectorAll('.prompt:not([hidden]) .tabs *')].map(x => [x.textContent, x.ariaPressed])"
    with Page(tmp_path / "page.html", tmp_path / "browser") as page:
        assert page.run(tabs) == [["red × −2", "true"], ["red × 0", "false"]]
        assert look(page)["chosen"] == ["red"] and look(page)["maps"]["M-hat"] != look(page)["maps"]["M"]
        page.tap(".prompt:not([hidden]) .tabs button:nth-of-type(2)")
        assert page.run(tabs) == [["red × −2", "false"], ["red × 0", "true"]]
        assert page.run("document.getElementById('M-hat-range').textContent").startswith("flat: about 0 ")


@needs_browser
def test_other_data_make_another_page(page, html, weights):
    """render(data) may be called again; with the same prompts one stays where one was."""
    page.tap(word(0, 1))
    before = look(page)
    page.run(f"render({json.dumps(data_of(weights))})")
    page.wait("document.querySelectorAll('.prompt').length === 3 && data.prompts[1].label !== null")
    assert look(page)["chosen"] == ["red"] and look(page)["lit"] == [False, False]
    page.run(f"render({json.dumps(data_of(html))})")
    page.wait("data.prompts[1].label === null")
    page.tap(word(0, 1))
    page.run(f"render({json.dumps(data_of(html))})")
    assert look(page) == before


@needs_browser
def test_the_sliders_show_what_edit_did_and_when_it_ended(page):
    """With the arrow keys: M_hat is M while the edit lasts, then M*; the maps' cells are as many as the size says."""
    page.tap(word(1, 2))
    page.run("document.getElementById('step').focus()")
    for step in range(1, STEPS + 1):
        page.press("ArrowRight", 39)
        seen = look(page)
        M, M_star, M_hat = (np.array(seen["maps"][name]) for name in ("M", "M-star", "M-hat"))
        same = [abs(M_hat - maps).max() <= 6 for maps in (M, M_star)]            # colours of maps that were rounded
        assert seen["step"].startswith(f"{step} of 5") and same == [step <= 3, step > 3]
        shares = "M(“car”) (each of its 2 tokens takes ½\xa0M(“car”)), in steps 1 to 3"
        formula = shares if step <= 3 else "M*, in steps 4 to 5"
        assert seen["said"] == f"“bicycle” at this step: M̂\xa0=\xa0{formula} of 5."
    page.run("document.getElementById('size').focus()")
    page.press("ArrowLeft", 37)
    seen = look(page)
    assert seen["size"] == "4 × 4" and len(seen["maps"]["M"]) == 4 * 16
    page.press("ArrowRight", 39)
    page.tap("#strips button:nth-of-type(2)")
    assert look(page)["step"].startswith("2 of 5")


@needs_browser
def test_words_know_their_partner_and_what_became_of_their_maps(page):
    """Swapped: the source's for 3 of 5 steps; re-weighted: something else; new, or after tau: their own."""
    first, swap, phrase = page.run("data")["prompts"]
    fates = [dict(zip(of["words"], of["fates"])) for of in (swap, phrase)]
    partner = [{word: None if n is None else first["words"][n] for word, n in zip(of["words"], of["partners"])}
               for of in (swap, phrase)]
    assert partner[0]["bicycle"] == "car" and fates[0]["next"] == "xxxoo"
    assert fates[0]["bicycle"] == fates[0]["a#1"] == "sssoo"
    assert partner[1]["red"] is None and fates[1]["red"] == "ooooo"
    assert partner[1]["car"] == "car" and fates[1]["car"] == "sssoo"


@needs_browser
def test_a_word_without_a_partner_is_alone(page):
    """A new word of the second target, chosen by its number: M is blank, and the page says why. Prompts stay text."""
    page.tap("#over")
    page.tap(".prompt:not([hidden]) .tabs button:nth-of-type(2)")
    seen = look(page)
    assert seen["chosen"] == ["red"] and seen["maps"]["M"] is None and seen["maps"]["M-hat"] == seen["maps"]["M-star"]
    assert seen["lit"] == [False, True] and "is new" in seen["said"]
    assert page.run("document.querySelectorAll('.words b').length") == 0


@needs_browser
@pytest.mark.parametrize("width", [360, 800, 1400, 1920])
def test_the_page_fits_narrow_and_wide_windows_light_and_dark(page, width):
    """Nothing is wider than the window; words are large enough for a finger; dark is dark."""
    grounds = []
    for dark in (False, True):
        page.resize(width, 800, dark)
        assert page.run("document.documentElement.scrollWidth") <= width
        grounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
    page.resize(1000, 900)
    assert grounds == ["rgb(247, 246, 243)", "rgb(22, 24, 28)"]
    assert page.run("""Math.min(...[...document.querySelectorAll('.words button')].map(x => x.getBoundingClientRect())
        .filter(x => x.width).map(x => Math.min(x.width, x.height)))""") >= 44


@needs_browser
@pytest.mark.parametrize("width, height", [(1280, 720), (1366, 768), (1024, 768), (1920, 1080)])
def test_a_laptop_shows_pictures_and_sliders_on_one_screen(page, width, height):
    """And none of the pictures is smaller than 220 pixels."""
    page.resize(width, height)
    sides = page.run("[...document.querySelectorAll('#pictures .stack')].map(x => x.getBoundingClientRect().width)")
    sides = [side for side in sides if side]
    assert len(sides) == 3 and min(sides) >= 220 and page.run("document.documentElement.scrollWidth") <= width
    assert page.bottom("#pictures figure, #step, #fate, #size, #over") <= height
    page.resize(1000, 900)


@needs_browser
def test_each_control_says_what_it_is_for(page):
    """By the keyboard, a finger, or a mouse; Escape ends it. A screen reader has it as the control's description."""
    said = "document.getElementById('help').hidden ? null : document.getElementById('help').textContent"
    controls = page.controls()
    assert {name for name, _ in controls} == {"play", "step", "size", "over", "shared"}
    for name, description in controls:
        page.run(f"document.activeElement.blur(); document.getElementById('{name}').focus()")
        assert page.run(said) == description and ":" in description and len(description) < 170
    page.press("Escape", 27)
    assert page.run(said) is None
    page.tap("#shared")
    assert page.run(said).startswith("One scale:")
    page.tap("#shared")
    page.hover("#step")
    assert page.run(said).startswith("Step:")
    page.run("document.activeElement.blur()")
    page.hover("h1")
    assert page.run(said) is None and page.run("document.getElementById('intro').checkVisibility()")


@needs_browser
def test_a_projector_shows_all_at_once_in_large_letters(page):
    """1920 × 1080: prompts, pictures, controls, what they say and the three maps, without scrolling, side by side."""
    page.resize(1920, 1080)
    page.run("scrollTo(0, 0)")
    for selector in ("#prompts", "#pictures", "#play", "#step", "#size", "#over", "#said", "#M", "#M-star", "#M-hat",
                     "#M-hat-range"):
        box = page.run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        assert 0 <= box["top"] < box["bottom"] <= 1080 and 0 <= box["left"] < box["right"] <= 1920
    assert page.run("document.getElementById('M').getBoundingClientRect().left > Math.max("
                    "...[...document.querySelectorAll('#pictures img')].map(x => x.getBoundingClientRect().right))")
    assert page.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 19
    page.resize(1000, 900)


@needs_browser
def test_a_page_of_one_prompt_says_nothing_of_an_edit(model, page, tmp_path):
    """Its words have their maps; of what Edit did there is no heading, no map, no sentence. With a target there is."""
    there = """[...document.querySelectorAll("h2, .maps figure, #said, #fate, #keys")].filter(x => !x.hidden).map(
        x => x.id || x.textContent.trim().split(" ")[0])"""
    assert page.run(there) == ["fate", "keys", "said", "What", "M", "M\u0302", "M*", "M*", "From"]
    html = p2p.explorer(model, *reversed(watched(model, ["a car"], None)))
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    with Page(tmp_path / "page.html", tmp_path / "browser") as alone:
        assert alone.run(there) == ["M", "From"] and look(alone)["maps"]["M"] is not None
        assert not {"source", "target"} & set(alone.run("document.body.innerText").lower().split())
