"use strict";
// render(data) builds the page; what it then shows is a function of `data` and `state`: whatever the user does changes
// the state and calls show().

let data, state, maps, cards, thumbs, timer, afterShow = () => {};
const $ = id => document.getElementById(id);

function make(tag, parent, properties = {}) {
  const element = parent.appendChild(document.createElement(tag));
  return Object.assign(element, properties);
}

function press(button, on) {
  button.setAttribute("aria-pressed", on);
}

// ---- maps ----

async function unpack({sheet, ranges}, [height, width]) {
  // The grey picture of all maps of one size, as a function from a row and a step to its numbers.
  const image = new Image();
  image.src = sheet;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return (row, step) => {
    const [low, high] = ranges[row];
    const bytes = context.getImageData(step * width, row * height, width, height).data;
    return Float32Array.from({length: width * height}, (_, i) => low + bytes[4 * i] / 255 * (high - low));
  };
}

function extent(maps) {
  // The least and the greatest number of some maps or ranges, and the greatest without its sign.
  const all = maps.flatMap(map => [...map]);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  return {low, high, top: Math.max(1e-6, -low, high)};
}

function colour(value) {
  // -1 to 1 as [red, green, blue], between two of the table's
  const place = (Math.max(-1, Math.min(1, value)) + 1) / 2 * (data.colours.length - 1);
  const i = Math.min(Math.floor(place), data.colours.length - 2);
  return data.colours[i].map((a, c) => a + (place - i) * (data.colours[i + 1][c] - a));
}

function draw(canvas, map, top) {
  [canvas.height, canvas.width] = map ? data.sizes[state.size] : [1, 1];
  if (!map) return;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  map.forEach((value, i) => image.data.set([...colour(value / top), 255], 4 * i));
  context.putImageData(image, 0, 0);
}

const digits = value => `${value < 0 ? "−" : ""}${Number(Math.abs(value).toPrecision(2))}`;

function summary(map) {
  // Flat: it varies by less than a tenth of its largest value, which is one of the ten steps of colour from 0 to the
  // brightest. On any scale it then looks like one colour.
  const {low, high, top} = extent([map]);
  if (high - low < top / 10) return `flat: about ${digits((low + high) / 2)} everywhere, so it points to no place`;
  return low < 0 ? `from ${digits(low)} to ${digits(high < top / 255 ? 0 : high)}` : `up to ${digits(high)}`;
}

// ---- what there is to see ----

function shown() {
  // The word in question as the numbers of its source word and its target word, either of which may be null.
  const [prompt, word] = state.pointed || state.chosen;
  const partners = data.prompts[state.target] ? data.prompts[state.target].partners : [];
  if (prompt > 0) return {source: partners[word], target: word};
  const target = partners.indexOf(word);
  return {source: word, target: target < 0 ? null : target};
}

function show() {
  const {source, target} = shown(), from = data.prompts[0], to = data.prompts[state.target];
  const look = row => row === undefined ? null : maps[state.size](row, state.step);
  const M = source === null ? null : look(from.own[source]);
  const [star, hat] = target === null || !to ? [null, null] : [look(to.own[target]), look(to.used[target])];
  const there = [M, star, hat].filter(Boolean);
  const {top} = extent(state.shared ? data.maps[state.size].ranges : there);
  const isSigned = extent(there).low < 0, isOver = state.over || state.pointed !== null;

  cards.forEach(card => {
    const map = isOver ? card.prompt ? hat : M : null;
    card.parts.forEach(part => { part.hidden = card.prompt > 0 && card.prompt !== state.target; });
    card.stack.classList.toggle("lit", Boolean(map));
    draw(card.canvas, map, top);
    const lit = card.box.hidden ? null : card.prompt ? target : source;
    card.buttons.forEach(({button, word}) => {
      press(button, state.chosen[0] === card.prompt && state.chosen[1] === word);
      button.classList.toggle("partner", word === lit);
    });
    card.tabs.forEach((tab, i) => press(tab, state.target === i + 1));
  });

  const name = (prompt, word) => `“${data.prompts[prompt].words[word]}”`;
  const figures = {
    "M": [M, source === null ? "the source has no such word" : `${to ? "source, " : ""}${name(0, source)}`],
    "M-star": [star, star ? `target's own, ${name(state.target, target)}` : "the target has no such word"],
    "M-hat": [hat, hat ? `used for ${name(state.target, target)}` : "–"],
  };
  for (const [id, [map, text]] of Object.entries(figures)) {
    draw($(id), map, top);
    $(id).setAttribute("aria-label", `${id}: ${text}`);
    $(`${id}-said`).textContent = text;
    $(`${id}-range`).textContent = map ? summary(map) : "";
  }

  const shades = Array.from({length: 21}, (_, i) => colour(isSigned ? i / 10 - 1 : i / 20));
  $("bar").style.background = `linear-gradient(to right, ${shades.map(([r, g, b]) => `rgb(${r} ${g} ${b})`)})`;
  $("low").textContent = isSigned ? digits(-top) : "0";
  $("high").textContent = `${digits(top)} of a pixel's attention`;

  const [height, width] = data.sizes[state.size];
  const t = data.times[state.step - 1], number = 1 + data.every * (state.step - 1);
  const stepSaid = state.step ? `${number} of ${data.steps}, t = ${t.toFixed(2)}` : `all ${data.steps}, averaged`;
  Object.assign($("step"), {value: state.step}).setAttribute("aria-valuetext", stepSaid);
  Object.assign($("size"), {value: state.size}).setAttribute("aria-valuetext", `${height} by ${width}`);
  for (const id of ["over", "shared"]) $(id).checked = state[id];
  $("step-said").textContent = stepSaid;
  $("size-said").textContent = `${height} × ${width}`;
  showFate(star ? to.fates[target] : "");
  const said = sentence(source, target, star ? to.fates[target] : "");
  if ($("said").textContent !== said) $("said").textContent = said;            // not read aloud again at every step
  thumbs.forEach(({button, step, prompt}) => {
    button.parentElement.hidden = prompt > 0 && prompt !== state.target;
    press(button, state.step > 0 && step === nearest(number));
  });
  afterShow();
}

function showFate(fates) {
  // Every step is a stretch of the line, centred below the slider's thumb when it stands there.
  const colours = {o: "var(--own)", s: "var(--source)", x: "var(--other)"};
  const at = i => `${100 * Math.min(1, (i + 0.5) / data.times.length)}%`;
  const stops = [...fates].map((fate, i) => `${colours[fate]} ${at(i)} ${at(i + 1)}`);
  for (const key of $("keys").children) key.hidden = !fates.includes(key.dataset.fate);
  $("fate").style.background = fates ? `linear-gradient(to right, transparent 0 ${at(0)}, ${stops})` : "none";
}

function sentence(source, target, fates) {
  if (!fates) return "The target has no word for this one: its map is used in the source only.";
  const from = data.prompts[0], word = `“${data.prompts[state.target].words[target]}”`;
  const numbers = [...fates].flatMap((fate, i) => fate === "o" ? [] : [1 + data.every * i]);
  if (!numbers.length) {
    const who = source === null ? `${word} is new: the source has no map for it, so it` : word;
    return `${who} keeps its own map in all steps, M̂\u00a0=\u00a0M*.`;
  }
  const [first, last] = [numbers[0], numbers[numbers.length - 1]];
  const isOpen = last + data.every > data.steps;          // to the end of the run
  const span = numbers.length === fates.length ? `all ${data.steps} steps`
    : `${first === last ? `step ${first}` : `steps ${first} to ${last}`} of ${data.steps}`;
  const ends = isOpen ? "" : `; then, after τ = ${(1 - last / data.steps).toFixed(2)}, the word keeps its own map`;
  if (!state.step) return `The edit acts on ${word} in ${span}${ends}.`;
  return {
    s: `At this step, the source's map of “${from.words[source]}” replaces the target's map of ${word}: M̂\u00a0=\u00a0M.`,
    o: `At this step, ${word} keeps its own map: M̂\u00a0=\u00a0M*. The edit acts in ${span}.`,
    x: `At this step, the map used for ${word} is neither M nor M*: it is re-weighted or mixed.`,
  }[fates[state.step - 1]];
}

function nearest(number) {
  return data.strip.steps.reduce((a, b) => Math.abs(b - number) < Math.abs(a - number) ? b : a);
}

// ---- what one can touch ----

function set(change) {
  Object.assign(state, change);
  show();
}

function play(isOn) {
  // The whole run in some eight seconds, but no step so short or so long that one cannot follow it; where motion is to
  // be reduced, about eight steps, two seconds each.
  timer = clearInterval(timer);
  $("play").textContent = isOn ? "❚❚ Pause" : "▶ Play";
  if (!isOn) return;
  const last = data.times.length, isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const advance = () => {
    set({step: Math.min(last, state.step + (isCalm ? Math.ceil(last / 8) : 1)), over: true});
    if (state.step === last) play(false);
  };
  if (state.step === last) state.step = 0;
  timer = setInterval(advance, isCalm ? 2000 : Math.max(100, Math.min(800, 8000 / last)));
  advance();
}

function nameOf(prompt) {
  return prompt ? "Target" : data.prompts.length > 1 ? "Source" : "Prompt";
}

function makeCard(of, prompt) {
  const name = nameOf(prompt);
  const box = make("div", $("prompts"), {className: "prompt"});
  make("span", box, {className: "label", textContent: name});
  const tabs = [], labels = data.prompts.map(({label}, i) => label || `${i}`);
  if (prompt && data.prompts.length > 2) {
    const row = make("div", box, {className: "tabs", role: "group", ariaLabel: "Targets"});
    labels.slice(1).forEach((label, i) => tabs.push(make("button", row, {
      type: "button", textContent: label, ariaLabel: `Target ${label}`, onclick: () => {
        set({target: i + 1, chosen: first(i + 1), pointed: null});
        cards[i + 1].tabs[i].focus();
      }})));
  }
  const words = make("div", box, {className: "words", role: "group", ariaLabel: `${name}, word by word`});
  const buttons = [];
  for (const [text, word] of of.pieces) {
    if (word === null) {
      if (text.trim()) make("span", words, {textContent: text.trim()});
      continue;
    }
    const point = where => set({pointed: where});
    const choose = () => set({chosen: [prompt, word], pointed: null, over: true});
    const button = make("button", words, {
      type: "button", textContent: text, onclick: choose, onfocus: choose,
      onpointerenter: event => event.pointerType === "mouse" && point([prompt, word]), onpointerleave: () => point(null)});
    buttons.push({button, word});
  }
  const text = of.pieces.map(piece => piece[0]).join("");
  const caption = data.prompts.length === 1 ? "" : prompt && of.label ? `${name}, ${of.label}` : name;
  const figure = makePicture(`${name}: ${text}`, caption), stack = figure.firstChild;
  const canvas = make("canvas", stack, {ariaHidden: "true"}), parts = [box, figure];
  stack.tabIndex = 0;
  if (prompt && of.without !== null) {
    parts.push(makePicture(`Without injection: ${text}`, "Target without injection", "without"));
  }
  return {prompt, box, parts, tabs, buttons, stack, canvas};
}

function showPictures({prompt, parts: [, figure, plain]}) {
  const {picture, without} = data.prompts[prompt];
  figure.querySelector("img").src = picture;
  if (plain) plain.querySelector("img").src = data.without[without];
}

function makePicture(alt, caption, className = "") {
  const figure = make("figure", $("pictures"), {className});
  make("img", make("div", figure, {className: "stack"}), {alt});
  make("figcaption", figure, {textContent: caption});
  return figure;
}

function makeStrip(pictures, prompt) {
  const name = nameOf(prompt);
  const row = make("div", $("strips"), {className: "strip", role: "group", ariaLabel: name});
  return pictures.map((src, i) => {
    const step = data.strip.steps[i];
    const button = make("button", row, {type: "button", onclick: () => {
      play(false);
      set({step: Math.min(data.times.length, 1 + Math.round((step - 1) / data.every)), over: true});
    }});
    make("img", button, {src, alt: `${name} as step ${step} predicts it`});
    make("span", button, {textContent: step});
    return {button, step, prompt};
  });
}

function first(target) {
  // The word to begin with: one that was exchanged or is new, else one that was re-weighted, else the last.
  const prompt = data.prompts[target] && data.prompts[target].words.length ? target : 0;
  const {words, partners, fates} = data.prompts[prompt];
  const changed = words.findIndex((word, i) => partners[i] === null || data.prompts[0].words[partners[i]] !== word);
  const weighted = fates.findIndex(fate => fate.includes("x"));
  return [prompt, [changed, weighted, words.length - 1].find(word => word >= 0)];
}

async function render(next) {
  // May be called again, with other data: what one looks at then stays, where the prompts, sizes and steps are the same.
  const unpacked = await Promise.all(next.maps.map((each, i) => unpack(each, next.sizes[i])));
  const kind = of => JSON.stringify([of.prompts.map(({pieces, label}) => [pieces, label]), of.sizes, of.times,
    of.without.length > 0]);
  const isNew = !data || kind(data) !== kind(next);
  [data, maps] = [next, unpacked];
  // chosen, pointed: [prompt, word], both numbers; what is pointed at is shown while it lasts. step 0: the average of
  // all. over: whether maps lie over the pictures; shared: whether all words have one scale.
  if (isNew) {
    state = {target: 1, chosen: first(1), pointed: null, step: 0, size: data.size, over: false, shared: false};
    play(false);
  }
  // Of one prompt alone there is nothing to say about an edit.
  document.querySelectorAll("[data-edit]").forEach(element => { element.hidden = data.prompts.length === 1; });
  for (const id of ["strips", "about"]) $(id).replaceChildren();
  if (isNew) {
    for (const id of ["prompts", "pictures"]) $(id).replaceChildren();
    cards = data.prompts.map(makeCard);
  }
  cards.forEach(showPictures);
  thumbs = data.strip.pictures.flatMap(makeStrip);
  const [height, width] = data.sizes[data.sizes.length - 1];
  document.body.style.setProperty("--shape", `${width} / ${height}`);
  document.body.style.setProperty("--columns", data.strip.steps.length);
  document.body.style.setProperty("--pictures", data.without.length ? 3 : 2);
  [$("step").max, $("size").max] = [data.times.length, data.sizes.length - 1];
  $("kept").textContent = data.every > 1 ? `; one step in ${data.every} is kept` : "";
  if (data.about) make("code", $("about"), {textContent: data.about});
  show();
  document.body.dataset.ready = "yes";
}

// ---- what a control is for ----

function help(event) {
  // Of the control under the mouse or the finger, else of the one that has the focus.
  const of = element => element instanceof Element ? element.closest("[data-help]") : null;
  const control = event.key === "Escape" ? null : of(event.target) || of(document.activeElement);
  $("help").hidden = !control;
  $("intro").hidden = Boolean(control);
  if (!control) return;
  const [name, ...text] = control.dataset.help.split(":");
  $("help").replaceChildren();
  make("b", $("help"), {textContent: `${name}:`});
  $("help").append(text.join(":"));
}

for (const control of document.querySelectorAll("[data-help]")) {
  const inside = [control, ...control.querySelectorAll("*")].filter(each => each.matches("input, select, button, summary"));
  for (const each of inside) each.setAttribute("aria-description", control.dataset.help.replace(/\s+/g, " "));
}
for (const event of ["focusin", "focusout", "pointerover", "pointerdown"]) document.addEventListener(event, help);
document.addEventListener("keydown", event => event.key === "Escape" && help(event));
$("step").oninput = event => { play(false); set({step: Number(event.target.value), over: true}); };
$("size").oninput = event => set({size: Number(event.target.value), over: true});
$("over").onchange = event => set({over: event.target.checked});
$("shared").onchange = event => set({shared: event.target.checked, over: true});
$("play").onclick = () => play(!timer);
const given = JSON.parse($("data").textContent);
if (!given.live) render(given);                            // the live page asks for its data: live.js
