// The live page: what one sets goes to the server, and what comes back is rendered. `settings` is all that the server
// asks for; it is also what stands in the address after "#", so that "back" and a reload find it again.

const {live} = given;
const KINDS = {auto: "automatic", replace: "word swap", refine: "added phrase", none: "none"};
const PLAIN = "Target without injection";
const PAUSE = 150;                                         // ms after a change, before it is sent
// Of the words that the model knows; where it does not tell them, for Stable Diffusion.
const EXAMPLES = examplesFor(live.known);
let {token} = live;
let settings = {...live.settings}, shownAnswer = null, request = null, pause, last = {control: null, at: 0};

const field = name => document.querySelector(`[data-set="${name}"]`);
const isSame = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const two = number => Number(Number(number).toFixed(2));

// A notebook's address gives the token once. The tab keeps it, for when the notebook loads its frame again.
try {
  if (token) sessionStorage[location.pathname] = token;
  else token = sessionStorage[location.pathname];
} catch { /* a browser may keep nothing in frames */ }

function examplesFor(known) {
  const toy = [{
    name: "bicycle → car: drag τ",
    say: "Drag the right end of cross-attention; self-attention is off. Far left: the car that this noise gives "
      + "anyway. In the middle it stands where the bicycle stood, far right it keeps the handlebars too.",
    settings: {source: "a red bicycle in the snow", target: "a red car in the snow", self: [0, 0]},
  }, {
    name: "fluffy: from −2 to 2",
    say: "Drag the weight of “fluffy” from −2 to 2: the dog gets its fur back, and then more of it.",
    settings: {
      source: "a fluffy dog on the grass", target: "a fluffy dog on the grass", weights: {fluffy: -2}, seed: 1},
  }, {
    name: "two objects: blend one",
    say: "The ball stays a ball: only “boat” is ticked for the blend, so the boat is cut where the car's mask ends. "
      + "Take the tick away, or choose “cake” and tick it too.",
    settings: {source: "a red car and a blue ball", target: "a red boat and a blue cake", blend: ["boat"], seed: 2},
  }];
  const any = [{
    name: "bicycle → car: drag τ",
    say: "Drag the right end of cross-attention; self-attention is off. Far left: the picture that this noise gives "
      + "anyway. Far right: the layout of the bicycle's picture.",
    settings: {source: "a photo of a cat riding on a bicycle", target: "a photo of a cat riding on a car", self: [0, 0]},
  }, {
    name: "fluffy: from −2 to 2",
    say: "Drag the weight of “fluffy” from −2 to 2.",
    settings: {source: "my fluffy bunny doll", target: "my fluffy bunny doll", weights: {fluffy: -2}},
  }, {
    name: "two objects: blend one",
    say: "The dog stays a dog: only “tiger” is ticked for the blend. Take the tick away, or choose “wolf” "
      + "and tick it too.",
    settings: {source: "a cat and a dog on a sofa", target: "a tiger and a wolf on a sofa", blend: ["tiger"]},
  }].map(each => ({...each, settings: {...each.settings, cross: [0, 0.8], guidance: 7.5, steps: 50}}));
  const isKnown = ({settings: {source, target}}) =>
    `${source} ${target}`.split(" ").every(word => known.includes(word));
  return known.length ? toy.filter(isKnown) : any;
}

// ---- settings ----

function read() {
  // Those of the address, over the usual ones; what is no JSON or of another kind is left aside.
  const kind = value => Array.isArray(value) ? "list" : typeof value;
  try {
    const there = Object.entries(JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}"));
    return {...live.settings, ...Object.fromEntries(there.filter(([name, value]) =>
      name === "picture" ? value === null || kind(value) === "string" : kind(value) === kind(live.settings[name])))};
  } catch {
    return {...live.settings};
  }
}

function remember(control) {
  // What one drags or types is one entry of the history, not one for each place it passes.
  const changed = Object.entries(settings).filter(([name, value]) => !isSame(value, live.settings[name]));
  const hash = "#" + encodeURIComponent(JSON.stringify(Object.fromEntries(changed)));
  if (hash === (location.hash || "#" + encodeURIComponent("{}"))) return;
  const isMore = control === last.control && Date.now() - last.at < 2000;
  history[isMore ? "replaceState" : "pushState"](null, "", hash);
  last = {control, at: Date.now()};
}

function change(control, patch) {
  if ("target" in patch && !("weights" in patch)) retype(patch.target);
  Object.assign(settings, patch);
  update();
  clearTimeout(pause);
  pause = setTimeout(() => { remember(control); send(); }, PAUSE);
}

// ---- the words of the target, their weights and blends ----

// As the library finds them: letters, marks and digits, which apostrophes or hyphens may join; symbols; one character
// of a script that has no spaces.
const ALONE = "\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Thai}\\p{sc=Lao}\\p{sc=Khmer}\\p{sc=Myanmar}ー";
const LETTER = `(?:(?![${ALONE}])[\\p{L}\\p{N}\\p{M}])`;
const JOINED = `${LETTER}+(?:['’\u2011\u200c-]${LETTER}+)*`, SYMBOLS = "\\p{So}[\\p{So}\\p{M}\\p{Cf}🏻-🏿]*";
const WORD = new RegExp(`${JOINED}|[${ALONE}]\\p{M}*|${SYMBOLS}`, "gu");
const NONE = {c: 1, isBlend: false};
const normal = word => word.normalize("NFC").toLowerCase().replaceAll("’", "'");

function wordsOf(text) {
  // Of the target on the page the library has told them; of one that is being typed this is near enough.
  const {pieces, words} = data?.prompts[1] || {pieces: []};
  if (text === pieces.map(([piece]) => piece).join("")) {
    return pieces.filter(([, word]) => word !== null).map(([, word]) => words[word].replace(/#\d+$/, ""));
  }
  return [...text.matchAll(WORD)].map(([word]) => normal(word));
}

function namesOf(words) {
  // Of a word that occurs more than once the library takes "red#2".
  const count = (all, word) => all.filter(each => each === word).length;
  return words.map((word, i) => count(words, word) > 1 ? `${word}#${count(words.slice(0, i + 1), word)}` : word);
}

function marksOf(words) {
  // The weight c of each word, and whether it is one of the blend's.
  const {weights, blend} = settings;
  return namesOf(words).map((name, i) => ({
    c: weights[name] ?? weights[words[i]] ?? 1, isBlend: blend.includes(name) || blend.includes(words[i])}));
}

function setMarks(words, marks) {
  const all = namesOf(words).map((name, i) => [name, marks[i]]);
  settings.weights = Object.fromEntries(all.filter(([, {c}]) => c !== 1).map(([name, {c}]) => [name, c]));
  settings.blend = all.filter(([, {isBlend}]) => isBlend).map(([name]) => name);
}

let before = null;                                         // the target's words and marks before one began to type

function retype(text) {
  // A word keeps its mark if it stands before or after what changed, since the last key or since one began to type; so
  // one may delete a word and type it again, and no mark goes to an equal word elsewhere.
  const words = wordsOf(settings.target), marks = marksOf(words), now = wordsOf(text);
  before ??= {words, marks};
  const [kept, back] = [carry(words, marks, now), carry(before.words, before.marks, now)];
  setMarks(now, now.map((_, i) => kept[i] || back[i] || NONE));
}

function carry(words, marks, now) {
  const most = Math.min(words.length, now.length);
  let start = 0, end = 0;
  while (start < most && words[start] === now[start]) start++;
  while (end < most - start && words[words.length - 1 - end] === now[now.length - 1 - end]) end++;
  return now.map((_, i) => i < start ? marks[i] : i >= now.length - end ? marks[i + words.length - now.length] : null);
}

function markChosen(patch) {
  const {place} = chosen(), words = wordsOf(settings.target), marks = marksOf(words);
  marks[place] = {...marks[place], ...patch};
  setMarks(words, marks);
  change(`${Object.keys(patch)} ${place}`, {});
}

function chosen() {
  // The target's word that the choice means: which of the page's words, and its place in the text (-1: there is none).
  const [prompt, word] = state.chosen, number = prompt ? word : data.prompts[1].partners.indexOf(word);
  const shownWords = data.prompts[1].pieces.filter(piece => piece[1] !== null).map(piece => piece[1]);
  const now = wordsOf(settings.target), place = shownWords.indexOf(number);
  const isThere = now[place] === data.prompts[1].words[number]?.replace(/#\d+$/, "");
  return {name: data.prompts[prompt].words[word], place: isThere ? place : -1};
}

function showChosen() {
  // The chosen word's weight and blend; and those that are set, at their words.
  const {name, place} = chosen(), words = wordsOf(settings.target), marks = marksOf(words), names = namesOf(words);
  const {c, isBlend} = marks[place] || NONE, word = names[place] || name, disabled = place < 0;
  const sign = value => `× ${value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}`;
  $("chosen-said").textContent = `“${word}”`;
  Object.assign($("weight"), {value: c, disabled, ariaLabel: `Weight of ${word}`});
  Object.assign($("blend"), {checked: isBlend, disabled, ariaLabel: `Local blend at ${word}`});
  $("weight-said").textContent = disabled ? "not in the target" : sign(c);
  $("weight-said").classList.toggle("changed", c !== 1);
  const isShown = settings.target === data.prompts[1].pieces.map(([piece]) => piece).join("");
  cards[1].buttons.forEach(({button}, i) => {
    const of = isShown ? marks[i] : NONE;
    const badge = [of.c === 1 ? "" : sign(of.c), of.isBlend ? "blend" : ""].filter(Boolean).join(" ");
    badge ? button.dataset.badge = badge : delete button.dataset.badge;
  });
}

// ---- all controls ----

function update() {
  // All controls as the settings say; of the one that has the focus its text is left as it is typed.
  for (const element of document.querySelectorAll("[data-set]")) {
    const value = String(settings[element.dataset.set]);
    if (element !== document.activeElement || element.type !== "number" || Number(element.value) !== Number(value)) {
      if (element.value !== value) element.value = value;
    }
  }
  for (const name of ["cross", "self"]) {
    const box = document.querySelector(`[data-ends="${name}"]`), [from, to] = settings[name];
    [...box.children].forEach((input, i) => { input.value = settings[name][i]; });
    box.style.setProperty("--from", from);
    box.style.setProperty("--to", to);
    $(`${name}-said`).textContent = from === to ? "nothing injected"
      : `from ${two(from)} to ${two(to)}${name === "cross" ? `, τ = ${two(1 - to)}` : ""}`;
  }
  const isPicture = settings.picture !== null;
  $("method").hidden = $("no-picture").hidden = !isPicture;
  document.querySelectorAll(".seed").forEach(element => { element.hidden = isPicture; });
  $("picture-said").textContent = isPicture ? pictureNames[settings.picture] || "a picture" : "or drop one here";
  const prompts = of => [of.source, of.target];
  const example = EXAMPLES.findIndex(each => isSame(prompts(each.settings), prompts(settings)));
  $("example").value = example < 0 ? "" : example;
  Object.assign($("example-said"), {hidden: example < 0, textContent: EXAMPLES[example]?.say});
  if (cards) showChosen();
}

// ---- asking the server ----

function refuse(about, text, isNote = false) {
  const place = document.querySelector(`[data-about="${about}"]`) || document.querySelector(`[data-about=""]`);
  Object.assign(place, {textContent: text, hidden: false}).classList.toggle("note", isNote);
  return place;
}

function clear() {
  for (const place of document.querySelectorAll("[data-about]")) place.hidden = true;
}

function said(text, value = 0, max = 1) {
  $("status").textContent = text;
  Object.assign($("progress"), {max, value});
}

async function post(what, body, signal) {
  if (!token) throw new Error("this page was opened before; run its cell again");
  // jupyter-server-proxy passes on what it takes for a stream as it comes, and all else in the end.
  return fetch(what, {method: "POST", body, signal, headers: {"X-Token": token, Accept: "text/event-stream"}});
}

async function ask(what, body, hear) {
  // The last line of the answer; `hear` gets those before it. One request at a time: a newer one ends the one before.
  request?.abort();
  const mine = request = new AbortController();
  $("stop").disabled = false;
  clear();
  mark();
  try {
    const response = await post(what, body, mine.signal);
    if (!response.ok) throw new Error(response.statusText);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", message = null;
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        message = JSON.parse(line);
        if (message.said || message.prompt !== undefined) hear(message);
      }
    }
    if (message?.replaced) said("Replaced by a newer request of another window.");
    else if (message?.error) fail(message);
    else if (!message || message.said || message.prompt !== undefined) throw new Error("the server has stopped");
    else return request === mine ? message : null;
  } catch (error) {
    if (error.name !== "AbortError") {
      said("");
      refuse("", `No answer: ${error.message.trim()}`);
    }
  } finally {
    if (request === mine) [request, $("stop").disabled] = [null, true];
  }
  return null;
}

function fail({error, setting}) {
  const place = refuse(setting || "", error);
  said("");
  if (setting === "kind") {                                // unequal word counts: an added phrase may have them
    make("button", place, {type: "button", textContent: "Make it an added phrase",
      onclick: () => change("kind", {kind: "refine"})});
  }
}

let running = {};                                         // what the run said last

function hear(message) {
  const {said: what, step, of} = running = message.said ? message : running;
  if (message.shows) preview(message, `step ${step} of ${of}`, what.endsWith("injection"));
  else said(`${what}, ${step} of ${of}`, step, of);
}

function preview({prompt, shows}, chip, isPlain = false) {
  // A step's prediction, in the place of the picture that it is to become.
  if (!$("pictures").children.length) for (const name of ["Source", "Target", PLAIN]) makePicture(name, name);
  const figure = cards ? cards[prompt].parts[1 + isPlain] : $("pictures").children[prompt + isPlain];
  figure.querySelector("img").src = shows;
  figure.firstChild.dataset.coming = chip;
  document.body.classList.add("coming");
}

function mark() {
  // The pictures of the last answer in their places; after a refusal or Stop they say that they are not of the settings.
  if (request) return document.body.classList.remove("old");
  if (!shownAnswer) return document.querySelectorAll("[data-coming]").forEach(stack => { stack.dataset.coming = "not finished"; });
  document.querySelectorAll("[data-coming]").forEach(stack => delete stack.dataset.coming);
  cards.forEach(showPictures);
  showPlain();
  document.body.classList.toggle("old", shownAnswer.sent !== JSON.stringify(settings));
}

async function send() {
  said("waiting for the run before this one to end");
  const began = performance.now(), sent = JSON.stringify(settings);
  const answer = await ask("run", sent, hear);
  if (!answer) return mark();
  await render(answer.data);
  shownAnswer = {...answer, sent};
  decorate();
  $("python").textContent = answer.python;
  $("command").textContent = answer.command || "The command line has no options for these settings; Python has.";
  for (const [name, words] of Object.entries(answer.unknown)) if (words.length) offer(name, words);
  said(`done in ${((performance.now() - began) / 1000).toFixed(1)} s`, 1);
  document.body.dataset.answers = 1 + Number(document.body.dataset.answers || 0);
}

function offer(name, unknown) {
  // The words of a small model, to be clicked in place of one that it does not know.
  const quoted = unknown.map(word => `“${word}”`).join(", ");
  const said = `This model does not know ${quoted}. Click a word to take instead of “${unknown[0]}”:`;
  const place = refuse(name, said, true);
  const chips = make("div", place, {className: "chips", role: "group", ariaLabel: "Words that this model knows"});
  for (const word of live.known) make("button", chips, {type: "button", textContent: word, onclick: () => {
    change(name, {[name]: settings[name].replace(WORD, each => normal(each) === unknown[0] ? word : each)});
    field(name).focus();
  }});
}

// ---- on the words and over the pictures ----

function decorate() {
  $("plain-label").hidden = $("chosen").hidden = false;
  showChosen();
  mark();
  showMask();
}

function showPlain() {
  const of = data.prompts[1], isPlain = $("plain").checked, figure = cards[1].parts[1];
  figure.querySelector("img").src = isPlain ? data.without[of.without] : of.picture;
  figure.querySelector("figcaption").textContent = isPlain ? PLAIN : "Target";
}

async function showMask() {
  // The blend's mask as a line around what may change, over both pictures.
  document.querySelectorAll(".stack .mask").forEach(canvas => canvas.remove());
  const {mask} = shownAnswer;
  $("mask-label").hidden = !mask;
  if (!mask) return;
  const image = Object.assign(new Image(), {src: mask});
  await image.decode();
  if (mask !== shownAnswer.mask) return;
  const {width, height} = image, cell = 16;
  const small = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d");
  small.drawImage(image, 0, 0);
  const bytes = small.getImageData(0, 0, width, height).data;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bytes[4 * (y * width + x)] > 127;
  const share = Array.from({length: width * height}, (_, i) => bytes[4 * i] > 127).filter(Boolean).length / width / height;
  $("mask-said").textContent = `Mask (${Math.round(100 * share)} %)`;
  for (const {stack} of $("mask").checked ? cards : []) {
    const canvas = make("canvas", stack, {className: "mask", width: width * cell, height: height * cell});
    const context = canvas.getContext("2d");
    context.beginPath();
    for (let y = 0; y <= height; y++) {
      for (let x = 0; x <= width; x++) {
        const line = (dx, dy) => {
          context.moveTo(x * cell, y * cell);
          context.lineTo((x + dx) * cell, (y + dy) * cell);
        };
        if (x && x < width && y < height && inside(x, y) !== inside(x - 1, y)) line(0, 1);
        if (y && y < height && x < width && inside(x, y) !== inside(x, y - 1)) line(1, 0);
      }
    }
    for (const [style, size] of [["#000", 7], ["#fff", 3]]) {
      Object.assign(context, {strokeStyle: style, lineWidth: size, lineCap: "square"}).stroke();
    }
  }
}

// ---- pictures in, files out ----

const pictureNames = {};

async function take(file) {
  if (!file) return refuse("picture", "That is no file. Drop a picture here: a PNG, JPEG or WebP file, say.");
  if (file.type && !file.type.startsWith("image/")) {
    return refuse("picture", `“${file.name}” is no picture (${file.type}). Take a PNG, JPEG or WebP file, say.`);
  }
  if (file.size > live.largest) return refuse("picture", `A picture may have at most ${live.largest / 1e6} MB.`);
  said(`reading ${file.name}`);
  const answer = await ask("picture", file, () => {});
  if (!answer) return mark();
  preview({prompt: 0, shows: answer.shows}, "your picture");
  pictureNames[answer.picture] = `${file.name}, ${answer.size.join(" × ")} taken as ${answer.taken.join(" × ")}`;
  change("picture", {picture: answer.picture});
}

function save(name, href) {
  make("a", document.body, {href, download: name}).click();
  document.body.lastChild.remove();
}

async function savePage() {
  const sent = JSON.stringify(settings);
  const answer = await ask("page", sent, hear);
  mark();
  if (!answer) return;
  if (shownAnswer?.sent !== sent) send();                  // it was on its way; now it is kept
  const address = URL.createObjectURL(new Blob([answer.page], {type: "text/html"}));
  save("p2p.html", address);
  setTimeout(() => URL.revokeObjectURL(address), 60000);
  said("saved as p2p.html", 1);
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText($(button.dataset.copy).textContent);
    said("copied");
  } catch {                                                // not allowed: what is marked can be copied by hand
    getSelection().selectAllChildren($(button.dataset.copy));
  }
}

// ---- the controls ----

document.body.classList.add("live");
$("controls").hidden = false;
$("controls").onsubmit = event => event.preventDefault();
for (const kind of live.kinds) make("option", field("kind"), {value: kind, textContent: KINDS[kind]});
for (const method of live.methods) make("option", field("method"), {value: method, textContent: method});
for (const value of live.layers) make("option", field("layers"), {value, textContent: value});
for (const [value, {name}] of EXAMPLES.entries()) make("option", $("example"), {value, textContent: name});
document.querySelectorAll(".window").forEach(element => { element.hidden = false; });
for (const element of document.querySelectorAll("[data-set]")) {
  const name = element.dataset.set;
  element.oninput = () => change(name, {[name]: element.type !== "number" ? element.value.replace(/\s*\n\s*/g, " ")
    : element.value === "" ? null : Number(element.value)});
}
for (const name of ["source", "target"]) {
  field(name).onkeydown = event => {                       // a prompt has one line
    if (event.key !== "Enter") return;
    event.preventDefault();
    before = null;
  };
}
field("target").onchange = () => { before = null; };       // Enter, or another place: typed to the end
$("example").onchange = () => {
  const {value} = $("example");
  before = null;
  if (value) change("example", {...live.settings, ...EXAMPLES[value].settings});
};
$("weight").oninput = event => markChosen({c: Number(event.target.value)});
$("weight").ondblclick = () => markChosen({c: 1});
$("weight").onkeydown = event => { if (event.key === "1") markChosen({c: 1}); };
$("blend").onchange = event => markChosen({isBlend: event.target.checked});
afterShow = () => { if (!$("chosen").hidden) showChosen(); };
for (const box of document.querySelectorAll("[data-ends]")) {
  const name = box.dataset.ends;
  ["from", "to"].forEach((end, i) => make("input", box, {type: "range", min: 0, max: 1, step: 0.01,
    ariaLabel: `${name}-attention injection, ${end}`, oninput: event => {
      const window_ = [...settings[name]], value = Number(event.target.value);
      window_[i] = value;
      window_[1 - i] = i ? Math.min(window_[0], value) : Math.max(window_[1], value);        // one end pushes the other
      change(name, {[name]: window_});
    }}));
}
describe();
$("another").onclick = () => change("another", {seed: Math.floor(Math.random() * 2 ** 31)});
$("stop").onclick = () => {
  request?.abort();
  post("stop").catch(() => {});                            // which has ended then
  said("stopped");
};
$("choose").onclick = () => $("file").click();
$("file").onchange = () => { if ($("file").files[0]) take($("file").files[0]); $("file").value = ""; };
$("no-picture").onclick = () => change("picture", {picture: null});
$("save-page").onclick = savePage;
$("save-picture").onclick = () => cards && save("target.png", cards[1].parts[1].querySelector("img").src);
$("plain").onchange = showPlain;
$("mask").onchange = showMask;
$("back").onclick = () => change("back", JSON.parse(shownAnswer.sent));
document.querySelectorAll("[data-copy]").forEach(button => { button.onclick = () => copy(button); });
document.ondragover = event => { event.preventDefault(); document.body.classList.add("dropping"); };
document.ondragleave = event => { if (!event.relatedTarget) document.body.classList.remove("dropping"); };
document.ondrop = event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
};
window.onpopstate = () => { clearTimeout(pause); settings = read(); last.control = before = null; update(); send(); };
settings = read();
update();
send();
