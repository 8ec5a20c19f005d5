"use strict";
// What the page shows is a function of `state`: whatever the user does changes it and calls show().

const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const state = {target: 1, chosen: null, pointed: null, step: 0, size: data.size};     // step 0: the average of all
// chosen, pointed: [prompt, word], both numbers; what is pointed at is shown while it lasts

function make(tag, parent, properties = {}) {
  const element = parent.appendChild(document.createElement(tag));
  return Object.assign(element, properties);
}

function press(button, on) {
  button.setAttribute("aria-pressed", on);
}

// Of one prompt alone there is nothing to say about an edit.
document.querySelectorAll("[data-edit]").forEach(element => { element.hidden = data.prompts.length === 1; });

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
  const top = Math.max(1e-6, ...there.map(map => map.reduce((a, b) => Math.max(a, Math.abs(b)), 0)));
  const isSigned = there.some(map => map.some(value => value < 0));

  cards.forEach(card => {
    const map = card.prompt ? hat : M;
    card.box.hidden = card.stack.hidden = card.prompt > 0 && card.prompt !== state.target;
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
    "M": [M, source === null ? "the source has no such word" : `source, ${name(0, source)}`],
    "M-star": [star, star ? `target's own, ${name(state.target, target)}` : "the target has no such word"],
    "M-hat": [hat, hat ? `used for ${name(state.target, target)}` : "–"],
  };
  for (const [id, [map, text]] of Object.entries(figures)) {
    draw($(id), map, top);
    $(id).setAttribute("aria-label", `${id}: ${text}`);
    $(`${id}-said`).textContent = text;
  }

  const shades = Array.from({length: 21}, (_, i) => colour(isSigned ? i / 10 - 1 : i / 20));
  $("bar").style.background = `linear-gradient(to right, ${shades.map(([r, g, b]) => `rgb(${r} ${g} ${b})`)})`;
  $("low").textContent = isSigned ? `−${top.toPrecision(2)}` : "0";
  $("high").textContent =
    `${top.toPrecision(2)} of a place's attention: one scale for all maps now on the page; each word has its own`;

  const [height, width] = data.sizes[state.size];
  const t = data.times[state.step - 1], number = 1 + data.every * (state.step - 1);
  const stepSaid = state.step ? `${number} of ${data.steps}, t = ${t.toFixed(2)}` : `all ${data.steps}, averaged`;
  Object.assign($("step"), {value: state.step}).setAttribute("aria-valuetext", stepSaid);
  Object.assign($("size"), {value: state.size}).setAttribute("aria-valuetext", `${height} by ${width}`);
  $("step-said").textContent = stepSaid;
  $("size-said").textContent = `${height} × ${width}`;
  showFate(star ? to.fates[target] : "");
  $("said").textContent = sentence(source, target, star ? to.fates[target] : "");
  thumbs.forEach(({button, step, prompt}) => {
    button.parentElement.hidden = prompt > 0 && prompt !== state.target;
    press(button, state.step > 0 && step === nearest(number));
  });
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
  if (!fates) return "This word has no counterpart in the target: its map is used in the source only.";
  const word = `“${data.prompts[state.target].words[target]}”`;
  const numbers = [...fates].flatMap((fate, i) => fate === "o" ? [] : [1 + data.every * i]);
  if (!numbers.length) {
    const who = source === null ? `${word} is new: the source has no map for it, so it` : word;
    return `${who} keeps its own map in all steps, M̂\u00a0=\u00a0M*.`;
  }
  const [first, last] = [numbers[0], numbers[numbers.length - 1]];
  const isOpen = last + data.every > data.steps;          // to the end of the run
  const span = numbers.length === fates.length ? `all ${data.steps} steps`
    : `${first === last ? `step ${first}` : `steps ${first} to ${last}`} of ${data.steps}`;
  const ends = isOpen ? "" : `; then, after τ = ${(1 - last / data.steps).toFixed(2)}, it goes on with its own map`;
  if (!state.step) return `Edit acts on ${word} in ${span}${ends}. Move the slider to see one step.`;
  const other = source === null ? "the source" : `the source's “${data.prompts[0].words[source]}”`;
  return {
    s: `At this step, Edit puts the map of ${other} in place of ${word}'s own: M̂\u00a0=\u00a0M.`,
    o: `At this step, Edit leaves ${word} alone: M̂\u00a0=\u00a0M*. It acts in ${span}.`,
    x: `At this step, what Edit gives ${word} is neither M nor M*: a map times c, for example.`,
  }[fates[state.step - 1]];
}

function nearest(number) {
  return data.strip.steps.reduce((a, b) => Math.abs(b - number) < Math.abs(a - number) ? b : a);
}

// ---- what one can touch ----

function makeCard(of, prompt) {
  const name = prompt ? "Target" : "Source";
  const box = make("div", $("pair"), {className: "prompt"});
  const label = make("div", box, {className: "label"});
  const tabs = [];
  make("span", label, {textContent: name});
  for (let i = 1; prompt && data.prompts.length > 2 && i < data.prompts.length; i++) {
    tabs.push(make("button", label, {type: "button", textContent: i, ariaLabel: `Target ${i}`, onclick: () => {
      Object.assign(state, {target: i, chosen: first(i), pointed: null});
      show();
      cards[i].tabs[i - 1].focus();
    }}));
  }
  const words = make("div", box, {className: "words", role: "group", ariaLabel: `${name}, word by word`});
  const buttons = [];
  for (const [text, word] of of.pieces) {
    if (word === null) {
      if (text.trim()) make("span", words, {textContent: text.trim()});
      continue;
    }
    const point = where => { state.pointed = where; show(); };
    const choose = () => { state.chosen = [prompt, word]; point(null); };
    const button = make("button", words, {
      type: "button", textContent: text, onclick: choose, onfocus: choose,
      onpointerenter: event => event.pointerType === "mouse" && point([prompt, word]), onpointerleave: () => point(null)});
    buttons.push({button, word});
  }
  const stack = make("div", $("pair"), {className: "stack", tabIndex: 0});
  make("img", stack, {src: of.picture, alt: `${name}: ${of.pieces.map(piece => piece[0]).join("")}`});
  return {prompt, box, tabs, buttons, stack, canvas: make("canvas", stack, {ariaHidden: "true"})};
}

function makeStrip(pictures, prompt) {
  const name = prompt ? "Target" : "Source";
  const row = make("div", $("strips"), {className: "strip", role: "group", ariaLabel: name});
  return pictures.map((src, i) => {
    const step = data.strip.steps[i];
    const button = make("button", row, {type: "button", onclick: () => {
      state.step = Math.min(data.times.length, 1 + Math.round((step - 1) / data.every));
      show();
    }});
    make("img", button, {src, alt: `${name} as step ${step} expects it`});
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

let maps, cards, thumbs;
(async () => {
  maps = await Promise.all(data.maps.map((each, i) => unpack(each, data.sizes[i])));
  state.chosen = first(1);
  cards = data.prompts.map(makeCard);
  thumbs = data.strip.pictures.flatMap(makeStrip);
  const [height, width] = data.sizes[data.sizes.length - 1];
  document.body.style.setProperty("--shape", `${width} / ${height}`);
  document.body.style.setProperty("--columns", data.strip.steps.length);
  for (const [id, last] of [["step", data.times.length], ["size", data.sizes.length - 1]]) {
    $(id).max = last;
    $(id).oninput = event => { state[id] = Number(event.target.value); show(); };
  }
  $("kept").textContent = data.every > 1 ? `; one step in ${data.every} is kept` : "";
  if (data.about) make("code", $("about"), {textContent: data.about});
  show();
  document.body.dataset.ready = "yes";
})();
