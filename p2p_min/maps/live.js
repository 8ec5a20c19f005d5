// The live page: what one sets goes to the server, and what comes back is rendered. `settings` is all that the server
// asks for; it is also what stands in the address after "#", so that "back" and a reload find it again.

const {live} = given;
const KINDS = {auto: "automatic", replace: "word swap", refine: "added phrase", none: "none"};
const PAUSE = 150;                                         // ms after a change, before it is sent
let settings = {...live.settings}, shownAnswer = null, request = null, pause, last = {control: null, at: 0};

const field = name => document.querySelector(`[data-set="${name}"]`);
const isSame = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const two = number => Number(Number(number).toFixed(2));

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
  Object.assign(settings, patch);
  if ("target" in patch) forget();
  update();
  clearTimeout(pause);
  pause = setTimeout(() => { remember(control); send(); }, PAUSE);
}

function forget() {
  // The weights and blends of words that the target has no more. The server knows words better; this is near enough.
  const there = new Set((settings.target.toLowerCase().match(/[\p{L}\p{M}\p{N}'’-]+/gu) || []).map(x => x.replace("’", "'")));
  settings.weights = Object.fromEntries(Object.entries(settings.weights).filter(([word]) => there.has(word)));
  settings.blend = settings.blend.filter(word => there.has(word));
}

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
  $("seed").hidden = isPicture;
  $("picture-said").textContent = isPicture ? pictureNames[settings.picture] || "a picture" : "or drop one here";
  document.querySelectorAll(".word").forEach(updateWord);
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

async function ask(what, body, hear) {
  // The last line of the answer; `hear` gets those before it. One request at a time: a newer one ends the one before.
  request?.abort();
  const mine = request = new AbortController();
  $("stop").disabled = false;
  clear();
  try {
    const response = await fetch(what, {method: "POST", body, signal: mine.signal});
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
        if (message.said) hear(message);
      }
    }
    if (message?.replaced) said("Replaced by a newer request of another window.");
    else if (message?.error) fail(message);
    else if (!message || message.said) throw new Error("the server has stopped");
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

const hear = ({said: what, step, of}) => said(`${what}, ${step} of ${of}`, step, of);

async function send() {
  said("waiting for the run before this one to end");
  const began = performance.now(), sent = JSON.stringify(settings);
  const answer = await ask("run", sent, hear);
  if (!answer) return;
  await render(answer.data);
  shownAnswer = {...answer, sent};
  decorate();
  $("python").textContent = answer.python;
  $("command").textContent = answer.command || "The command line has no options for these settings; Python has.";
  for (const [name, text] of Object.entries(answer.notes)) refuse(name, text, true);
  said(`done in ${((performance.now() - began) / 1000).toFixed(1)} s`, 1);
  document.body.dataset.answers = 1 + Number(document.body.dataset.answers || 0);
}

// ---- on the words and over the pictures ----

function decorate() {
  const {words} = data.prompts[1];
  for (const {button, word} of cards[1].buttons) {
    if (button.parentElement.className === "word") break;  // the prompts are the same as before
    const box = make("span", button.parentElement, {className: "word"}), name = words[word];
    button.replaceWith(box);
    box.append(button);
    box.dataset.name = name;
    const weight = make("label", box, {title: `c, the weight of “${name}”; double click: 1`});
    make("span", weight);
    make("input", weight, {type: "range", min: -2, max: 2, step: 0.1, ariaLabel: `Weight of ${name}`,
      oninput: event => weigh(name, Number(event.target.value)), ondblclick: () => weigh(name, 1)});
    const blend = make("label", box, {title: `Local blend: change the picture only where “${name}” looks`});
    make("input", blend, {type: "checkbox", onchange: event => change(`blend ${name}`, {
      blend: event.target.checked ? [...settings.blend, name] : settings.blend.filter(each => each !== name)})});
    make("span", blend, {textContent: "blend"});
    updateWord(box);
  }
  $("plain-label").hidden = false;
  showPlain();
  showMask();
}

function weigh(name, c) {
  const {[name]: _, ...others} = settings.weights;
  change(`weight ${name}`, {weights: c === 1 ? others : {...others, [name]: c}});
}

function updateWord(box) {
  const c = settings.weights[box.dataset.name] ?? 1, [value, weight] = box.querySelector("label").children;
  value.textContent = `× ${c < 0 ? "−" : ""}${Math.abs(c).toFixed(1)}`;
  value.classList.toggle("changed", c !== 1);
  weight.value = c;
  box.querySelector("[type=checkbox]").checked = settings.blend.includes(box.dataset.name);
}

function showPlain() {
  const of = data.prompts[1], isPlain = $("plain").checked, figure = cards[1].parts[1];
  figure.querySelector("img").src = isPlain ? data.without[of.without] : of.picture;
  figure.querySelector("figcaption").textContent = isPlain ? "Target without injection" : "Target";
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
  $("mask-said").textContent = `Outline of the mask (${Math.round(100 * share)} %)`;
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
  if (file.size > live.largest) return refuse("picture", `A picture may have at most ${live.largest / 1e6} MB.`);
  said(`reading ${file.name}`);
  const answer = await ask("picture", file, () => {});
  if (!answer) return;
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
for (const value of live.layers) make("option", $("layers"), {value});
for (const element of document.querySelectorAll("[data-set]")) {
  const name = element.dataset.set;
  element.oninput = () => change(name, {[name]: element.type !== "number" ? element.value
    : element.value === "" ? null : Number(element.value)});
}
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
$("another").onclick = () => change("another", {seed: Math.floor(Math.random() * 2 ** 31)});
$("stop").onclick = () => { request?.abort(); said("stopped"); };
$("choose").onclick = () => $("file").click();
$("file").onchange = () => { if ($("file").files[0]) take($("file").files[0]); $("file").value = ""; };
$("no-picture").onclick = () => change("picture", {picture: null});
$("save-page").onclick = savePage;
$("save-picture").onclick = () => cards && save("target.png", cards[1].parts[1].querySelector("img").src);
$("plain").onchange = showPlain;
$("mask").onchange = showMask;
document.querySelectorAll("[data-copy]").forEach(button => { button.onclick = () => copy(button); });
document.ondragover = event => { event.preventDefault(); document.body.classList.add("dropping"); };
document.ondragleave = event => { if (!event.relatedTarget) document.body.classList.remove("dropping"); };
document.ondrop = event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
};
window.onpopstate = () => { clearTimeout(pause); settings = read(); last.control = null; update(); send(); };
settings = read();
update();
send();
