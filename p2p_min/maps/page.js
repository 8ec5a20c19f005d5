"use strict";
// render(data) builds the page; what it then shows is a function of `data` and `state`: whatever the user does changes
// the state and calls show().

let data, state, maps, cards, thumbs, timer, distances = [], afterShow = () => {};
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
  const look = row => Number.isNaN(row) ? null : maps[state.size](row, state.step);
  const M = source === null ? null : look(from.own + source);
  const [star, hat, plain] = target === null || !to ? [null, null, null]
    : [to.own, to.used, to.plain].map(row => look(row + target));
  const there = [M, star, hat, plain].filter(Boolean);
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
    "M-hat": [hat, hat ? `used for ${name(state.target, target)}` : "–"],
    "M-star": [star, star ? `own map of ${name(state.target, target)} in the edited run` : "the target has no such word"],
    "M-plain": [plain, plain ? `without injection: ${name(state.target, target)} in the run without an edit` : "–"],
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
  const isWord = Boolean(star);
  for (const [id, said] of Object.entries({
    said: isWord ? formulas(state.target, target, number) : "The target has no word for this one: its map is used in the source only.",
    numbers: isWord && state.step ? numbers(state.target, target, number, {M, star, hat}) : "",
    "self-line": data.edit ? selfSaid(state.target) : "", "blend-line": data.edit ? blendSaid(state.target) : ""})) {
    if ($(id).textContent !== said) $(id).textContent = said;                  // not read aloud again at every step
    $(id).hidden = !data.edit || !said;
  }
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

// ---- what the edit does, from its own numbers ----

const quoted = (prompt, word) => `“${data.prompts[prompt].words[word]}”`;
const list = things => things.join(", ").replace(/, ([^,]*)$/, " and $1");
const HAT = "M̂\u00a0=\u00a0";

function factor(c) {
  const fraction = [["½", 2], ["⅓", 3], ["¼", 4]].find(([, n]) => Math.abs(Math.abs(c) - 1 / n) < 1e-6);
  const sign = c < 0 ? "−" : "";
  return c === 1 ? "" : fraction ? `${sign}${fraction[0]}\u00a0` : `${sign}${Number(Math.abs(c).toPrecision(4))}\u00a0×\u00a0`;
}

function partsOf(edit) {
  // [prefix of the layers' names, the edit there]: an edit by itself is for all.
  const isOne = !edit || ["A", "c", "max_pixels"].some(name => name in edit) || !Object.keys(edit).length;
  return isOne ? [["", edit]] : Object.entries(edit);
}

function isInside(start, end, step) {
  // Whether a step, counted from 1, lies in a window; the 1e-6 absorbs rounding, as in the library.
  const past = (step - 1) / data.steps;
  return start - 1e-6 <= past && past < end - 1e-6;
}

function tableOf(edit, target, step) {
  // M̂ = c · [w · (M A + M* · own) + (1 − w) · M*] as a table: for each of the source's tokens, and last for M*, by what it
  // is multiplied in each of the target's tokens. null: a function of one's own.
  const n = target - 1, ones = data.prompts[target].texts.map(() => 1);
  if (!edit) return [ones];
  if (edit.A) {
    const w = ones.map((_, token) => isInside(edit.start[n][token], edit.end[n][token], step));
    return [...edit.A[n].map(row => w.map((isIn, token) => isIn ? row[token] : 0)),
      w.map((isIn, token) => isIn ? edit.own[n][token] : 1)];
  }
  if (!edit.c) return null;
  const c = ones.map((_, token) => isInside(edit.start[n][token], edit.end[n][token], step) ? edit.c[n][token] : 1);
  return tableOf(edit.base, target, step)?.map(row => row.map((factor, token) => factor * c[token])) || null;
}

function terms(rows, target, word) {
  // The word's M̂ as a sum, [[factor, number of a source's word]], and `own`, the factor of its M*: a word's map is the
  // sum of its tokens' maps. null: not a sum of whole words' maps.
  const tokens = data.prompts[target].tokens[word], source = data.prompts[0].tokens;
  const sums = rows.map(row => tokens.reduce((sum, token) => sum + row[token], 0));
  const own = tokens.map(token => rows[rows.length - 1][token]);
  const isEven = numbers => numbers.every(x => Math.abs(x - numbers[0]) < 1e-6);
  const covered = new Set(source.flat());
  const isWhole = isEven(own) && (rows.length === 1 || source.every(of => isEven(of.map(token => sums[token]))))
    && sums.slice(0, -1).every((sum, token) => !sum || covered.has(token));
  const of = source.flatMap((tokens, n) => rows.length > 1 && sums[tokens[0]] ? [[tidy(sums[tokens[0]]), n]] : []);
  return isWhole ? {of, own: tidy(own[0])} : null;
}

// 1 and not 0.9999999, which three thirds are
const tidy = c => Math.abs(c - Math.round(c)) < 1e-5 ? Math.round(c) : c;

function formula(edit, target, word, step) {
  const table = tableOf(edit, target, step);
  if (!table) return `${HAT}a function of one's own; the numbers alone say what it does`;
  const sum = terms(table, target, word);
  if (!sum) return `${HAT}a sum of single tokens' maps`;
  const parts = sum.of.map(([c, n]) => `${factor(c)}M(${quoted(0, n)})`);
  if (sum.own) parts.push(`${factor(sum.own)}M*`);
  return HAT + (parts.join(" + ").replaceAll("+ −", "− ") || "0") + shares(table, target, word, sum.of);
}

function shares(rows, target, word, of) {
  // How tokens share a map, where a word has more or fewer of them than its partner.
  const tokens = data.prompts[target].tokens[word], from = data.prompts[0];
  if (of.length !== 1 || from.tokens[of[0][1]].length === tokens.length) return "";
  const each = rows.slice(0, -1).flatMap((row, n) => row[tokens[0]] ? [`${factor(tidy(row[tokens[0]]))}M(“${from.texts[n]}”)`] : []);
  return ` (${tokens.length > 1 ? `each of its ${tokens.length} tokens` : "its token"} takes ${each.join(" + ")})`;
}

function stretches(edit, target, word) {
  // The formulas of all steps, [{text, first, last}].
  const found = [];
  for (let step = 1; step <= data.steps; step++) {
    const text = formula(edit, target, word, step), before = found[found.length - 1];
    if (before && before.text === text) before.last = step;
    else found.push({text, first: step, last: step});
  }
  return found;
}

function span(first, last) {
  return first === 1 && last === data.steps ? `all ${data.steps} steps`
    : `${first === last ? `step ${first}` : `steps ${first} to ${last}`} of ${data.steps}`;
}

function formulas(target, word, step) {
  // At a step its formula; of the average all formulas with their steps. In each part of the layers, if there are some.
  const parts = partsOf(data.edit.cross);
  if (parts.every(([prefix]) => prefix)) parts.push(["", null]);
  const isNew = data.prompts[target].partners[word] === null ? " It is new: the source has no map for it." : "";
  const of = edit => {
    if (!edit && parts.length > 1) return `${HAT}M*`;
    const all = stretches(edit, target, word);
    if (state.step) {
      const {text, first, last} = all.find(each => step <= each.last);
      return all.length > 1 ? `${text}, in ${span(first, last)}` : text;
    }
    return all.map(({text, first, last}, i) => {
      const isAfter = i && last === data.steps && text === `${HAT}M*`;
      return `${text} ${isAfter ? `after τ = ${(1 - (first - 1) / data.steps).toFixed(2)}` : `in ${span(first, last)}`}`;
    }).join("; ");
  };
  const said = parts.map(([prefix, edit]) =>
    `${prefix ? `in ${prefix}: ` : parts.length > 1 ? "in all other layers: " : ""}${of(edit)}`);
  return `${quoted(target, word)}${state.step ? " at this step" : ""}: ${said.join("; ")}.${isNew}`;
}

function sumAt(target, word, step) {
  // The terms in force in all layers; null: there are none.
  const [[prefix, edit], ...others] = partsOf(data.edit.cross);
  const table = prefix === "" && !others.length && tableOf(edit, target, step);
  return table ? terms(table, target, word) : null;
}

function expected(target, word, step) {
  // The formula as [[factor, row of the map]]; null: there is none for all layers.
  const sum = sumAt(target, word, step);
  return sum ? [...sum.of.map(([c, n]) => [c, data.prompts[0].own + n]),
    ...(sum.own ? [[sum.own, data.prompts[target].own + word]] : [])] : null;
}

function numbers(target, word, step, {M, star, hat}) {
  // The maps' numbers where M̂ is largest, and the formula with them.
  const sizes = [...hat].map(Math.abs), place = sizes.indexOf(Math.max(...sizes)), width = data.sizes[state.size][1];
  const where = `At row ${1 + Math.floor(place / width)}, column ${1 + place % width}, where M̂ is largest`;
  const named = [["M", M], ["M*", star], ["M̂", hat]].filter(([, map]) => map);
  const said = `${where}: ${named.map(([name, map]) => `${name}\u00a0=\u00a0${digits(map[place])}`).join(", ")}`;
  const sum = expected(target, word, step)?.map(([c, row]) => [c, maps[state.size](row, state.step)]);
  if (!sum || sum.length === 1 && sum[0][0] === 1) return `${said}.`;
  const makes = sum.reduce((x, [c, map]) => x + c * Number(map[place].toPrecision(2)), 0);
  const isEqual = Math.abs(makes - Number(hat[place].toPrecision(2))) < 1e-9;           // as they are rounded here
  const terms = sum.map(([c, map]) => `${factor(c)}${digits(map[place])}`).join(" + ") || "0";
  return `${said} ${isEqual ? "=" : "≈"} ${terms.replaceAll("+ −", "− ")}.`;
}

function isPlain(target) {
  // Whether cross-attention is injected into no word.
  const steps = Array.from({length: data.steps}, (_, i) => i + 1);
  return partsOf(data.edit.cross).every(([, edit]) => steps.every(step => {
    const table = tableOf(edit, target, step);
    return table && data.prompts[target].words.every((_, word) => {
      const sum = terms(table, target, word);
      return sum && !sum.of.length && sum.own === 1;
    });
  }));
}

function selfSaid(target) {
  const says = partsOf(data.edit.self).map(([prefix, edit]) => {
    const where = prefix ? ` in ${prefix}` : "";
    if (!edit) return "";
    if (edit.end === undefined) return `A function of one's own edits the self-attention${where}.`;
    const acting = Array.from({length: data.steps}, (_, i) => i + 1).filter(step => isInside(edit.start, edit.end, step));
    const fits = ([height, width]) => height * width <= edit.max_pixels;
    const named = sizes => list(sizes.map(size => size.join(" × ")));
    const [small, large] = [data.all_sizes.filter(fits), data.all_sizes.filter(size => !fits(size))];
    return acting.length && small.length ? `Self-attention${where}: in ${span(acting[0], acting[acting.length - 1])
      } the target's pixels look at each other as the source's do, in maps of ${named(small)}${
      large.length ? `, not of ${named(large)}` : ""}.` : "";
  }).filter(Boolean);
  const isCrossNone = isPlain(target), apart = distances[target];
  if (!says.length) says.push("Self-attention is not injected.");
  else if (isCrossNone) {
    const what = data.edit.blend ? "this, and the blend" : "this alone";
    says.push(`Cross-attention is not injected: what keeps the source's layout is ${what}.`);
  }
  if (apart && isCrossNone) says.push(`On average, a pixel of the target differs by ${apart[0]} of 255 from the source's; ${
    apart[1]} without injection.`);
  return says.join(" ");
}

function blendSaid(target) {
  const {blend} = data.edit;
  if (!blend) return "";
  if (blend.start === undefined) return "A blend of one's own acts on the latents after each step.";
  const named = columns => [0, target].flatMap(prompt => data.prompts[prompt].tokens.flatMap((tokens, word) =>
    columns && tokens.every(token => columns[prompt][token]) ? [`${prompt ? "M̂" : "M"}(${quoted(prompt, word)})`] : []));
  const over = (words, share) => `${words.join(" or ")} is over ${digits(share)} of its largest value`;
  const [words, subtract] = [named(blend.words), named(blend.subtract)];
  const first = 1 + Array.from({length: data.steps}, (_, i) => i).filter(i => i / data.steps < blend.start - 1e-6).length;
  const places = [
    ...(words.length ? [`where ${over(words, blend.threshold)} (summed over the steps so far)`] : []),
    ...(subtract.length ? [`not where ${over(subtract, blend.threshold_subtract)}`] : []), ...(blend.mask ? ["inside the given mask"] : [])];
  return `Local blend: from step ${first} on, the target may differ from the source only ${places.join(", ")}.`;
}

async function bytesOf(src) {
  const image = Object.assign(new Image(), {src});
  await image.decode();
  const {width, height} = image;
  const context = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

async function distancesOf({prompts: [{picture}, ...targets], without}) {
  // How far each target, and what it is without injection, is from the source.
  const of = target => Promise.all([target.picture, without[target.without]].map(each => distance(each, picture)));
  return [null, ...await Promise.all(targets.map(target => without.length ? of(target) : null))];
}

async function distance(a, b) {
  // How far two pictures are apart on average, of 255.
  const [x, y] = await Promise.all([bytesOf(a), bytesOf(b)]);
  return Math.round(x.reduce((sum, value, i) => sum + Math.abs(value - y[i]), 0) / x.length * 4 / 3);      // alpha is equal
}

function study() {
  for (const of of data.prompts) {                         // "red#2" only where it occurs more than once
    const bare = of.words.map(word => word.replace(/#\d+$/, ""));
    of.words = of.words.map((word, i) => bare.indexOf(bare[i]) === bare.lastIndexOf(bare[i]) ? bare[i] : word);
  }
  // Each target word's partner in the source, and what became of its map in each step kept: "s", the source's; "o", its
  // own; "x", another.
  for (const [i, of] of data.prompts.entries()) {
    if (!i) {
      Object.assign(of, {partners: of.words.map((_, word) => word), fates: of.words.map(() => "o".repeat(data.times.length))});
      continue;
    }
    // As the edit in force pairs them, else as `auto` would.
    const steps = data.times.map((_, kept) => 1 + data.every * kept);
    const tables = steps.map(step => tableOf(partsOf(data.edit.cross)[0][1], i, step)).filter(Boolean);
    tables.push(tableOf(data.edit.aligned, i, 1));
    of.partners = of.words.map((_, word) => {
      const sums = tables.map(table => terms(table, i, word)?.of || []).find(sum => sum.length);
      return sums ? sums.reduce((a, b) => Math.abs(b[0]) > Math.abs(a[0]) ? b : a)[1] : null;
    });
    of.fates = of.words.map((_, word) => data.times.map((_, step) => fate(i, word, step)).join(""));
  }
}

function fate(target, word, kept) {
  const of = data.prompts[target], partner = of.partners[word], sum = sumAt(target, word, 1 + data.every * kept);
  if (sum) {
    return sum.own === 1 && !sum.of.length ? "o" : sum.own === 0 && sum.of.length === 1 && sum.of[0][0] === 1 ? "s" : "x";
  }
  // A function of one's own: as far as the page's numbers go.
  const {ranges} = data.maps[data.size], [hat, star] = [of.used + word, of.own + word];
  const level = row => (ranges[row][1] - ranges[row][0]) / 255, look = row => maps[data.size](row, kept + 1);
  const isSame = row => look(hat).every((value, i, _) => Math.abs(value - look(row)[i]) <= level(hat) + level(row));
  return isSame(star) ? "o" : partner !== null && isSame(data.prompts[0].own + partner) ? "s" : "x";
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
  if (prompt && data.without.length) {
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
  const [apart, ...unpacked] = await Promise.all([distancesOf(next), ...next.maps.map((each, i) => unpack(each, next.sizes[i]))]);
  const kind = of => JSON.stringify([of.prompts.map(({pieces, label}) => [pieces, label]), of.sizes, of.times,
    of.without.length > 0]);
  const isNew = !data || kind(data) !== kind(next);
  [data, maps, distances] = [next, unpacked, apart];
  study();
  // chosen, pointed: [prompt, word], both numbers; what is pointed at is shown while it lasts. step 0: the average of
  // all. over: whether maps lie over the pictures; shared: whether all words have one scale.
  if (isNew) {
    state = {target: 1, chosen: first(1), pointed: null, step: 0, size: data.size, over: false, shared: false};
    play(false);
  }
  // Of one prompt alone there is nothing to say about an edit.
  document.querySelectorAll("[data-edit]").forEach(element => { element.hidden = data.prompts.length === 1; });
  const hasPlain = data.prompts.some(({plain}) => plain !== undefined);
  document.querySelectorAll("[data-plain]").forEach(element => { element.hidden = !hasPlain; });
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

function describe() {
  // The same for screen readers.
  for (const control of document.querySelectorAll("[data-help]")) {
    control.dataset.help = control.dataset.help.replace(/\s+/g, " ");
    const all = [control, ...control.querySelectorAll("*")];
    for (const each of all.filter(each => each.matches("input, select, textarea, button, summary"))) {
      each.setAttribute("aria-description", control.dataset.help);
    }
  }
}

describe();
for (const event of ["focusin", "focusout", "pointerover", "pointerdown"]) document.addEventListener(event, help);
document.addEventListener("keydown", event => event.key === "Escape" && help(event));
$("step").oninput = event => { play(false); set({step: Number(event.target.value), over: true}); };
$("size").oninput = event => set({size: Number(event.target.value), over: true});
$("over").onchange = event => set({over: event.target.checked});
$("shared").onchange = event => set({shared: event.target.checked, over: true});
$("play").onclick = () => play(!timer);
const given = JSON.parse($("data").textContent);
if (!given.live) render(given);                            // the live page asks for its data: live.js
