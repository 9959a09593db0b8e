"use strict";
// Texts of the results only ever become text nodes and attributes: nothing in them can become markup.
const { head, utterances } = JSON.parse(document.getElementById("data").textContent);
const metrics = new Map(head.metrics.map((metric) => [metric.name, metric]));
const sort = { metric: head.sort.metric, system: head.systems.indexOf(head.sort.system), order: "worst" };
const filter = { testSet: "", speaker: "", snr: "", words: "" };
// While `blind` is set, two systems are shown under the names A and B, in an order of its own for each utterance.
let blind = null;
const votes = [];
const app = document.getElementById("app");
// The namespace of drawings, by one that the parser made.
const vector = document.getElementById("vector").namespaceURI;
const random = (count) => crypto.getRandomValues(new Uint32Array(1))[0] % count;

function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function options(pairs, chosen) {
  return pairs.map(([value, label]) => make("option", { value: String(value), selected: value === chosen }, label));
}

function shown(value, metric) {
  if (value === null || value === undefined) return "–";
  const power = 10 ** metric.decimals;
  // Adding zero turns a rounded -0 into 0.
  return (Math.round(value * power) / power + 0).toFixed(metric.decimals);
}
const fullName = (metric) => metric.label + (metric.model ? ` (${metric.model})` : "");

// --- players ---------------------------------------------------------------------------------------------------------

const players = new Set();

// A waveform as a closed line, symmetric about the middle.
function wave(peaks) {
  const up = peaks.map((peak, index) => `${index},${50 - peak / 2}`);
  const down = peaks.map((peak, index) => `${index},${50 + peak / 2}`).reverse();
  const svg = document.createElementNS(vector, "svg");
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, peaks.length - 1)} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "wave");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(vector, "polygon");
  line.setAttribute("points", [...up, ...down].join(" "));
  svg.append(line);
  return svg;
}

// `longest` are the seconds of the longest output of the utterance, so that outputs of other lengths line up in time.
function player(entry, name, longest) {
  const audio = make("audio", { preload: "none", src: entry.audio });
  const button = make("button", { className: "play", type: "button", "aria-label": `play ${name}` });
  const line = make("div", { className: "head" });
  const mel = make(
    "div",
    { className: "mel", tabIndex: 0, role: "slider", "aria-label": `position in ${name}`, "aria-valuemin": "0",
      "aria-valuemax": entry.seconds.toFixed(1), "aria-valuenow": "0" },
    wave(entry.peaks || []),
    make("img", { src: entry.mel, alt: `mel spectrogram of ${name}`, draggable: false }),
    line,
  );
  mel.style.width = `${(100 * entry.seconds) / (longest || entry.seconds)}%`;
  const time = make("div", { className: "time" });
  const self = { audio, box: null };

  function tick() {
    const at = Math.min(audio.currentTime, entry.seconds);
    line.style.left = `${(100 * at) / entry.seconds}%`;
    mel.classList.toggle("heard", at > 0);
    mel.setAttribute("aria-valuenow", at.toFixed(1));
    time.textContent = `${at.toFixed(1)} / ${entry.seconds.toFixed(1)} s${entry.isCut ? " (cut)" : ""}`;
    button.classList.toggle("on", !audio.paused);
    if (!audio.paused) requestAnimationFrame(tick);
  }
  function start(from) {
    for (const other of players) {
      if (other === self || other.audio.paused) continue;
      // Of one utterance, the other system goes on where this one was.
      if (from === null && other.row === self.row) from = Math.min(other.audio.currentTime, entry.seconds - 0.1);
      other.audio.pause();
    }
    if (from !== null) audio.currentTime = Math.max(0, from);
    audio.play().catch(() => { time.textContent = "this browser cannot play Ogg Opus"; });
  }
  button.addEventListener("click", () => (audio.paused ? start(null) : audio.pause()));
  mel.addEventListener("click", (event) => {
    const box = mel.getBoundingClientRect();
    start(((event.clientX - box.left) / box.width) * entry.seconds);
  });
  mel.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.5, ArrowRight: 0.5 }[event.key];
    if (step) audio.currentTime = Math.max(0, Math.min(entry.seconds, audio.currentTime + step));
    else if (event.key === "Enter" || event.key === " ") button.click();
    else return;
    event.preventDefault();
  });
  for (const name of ["play", "pause", "ended", "seeked", "timeupdate"]) audio.addEventListener(name, tick);
  tick();
  players.add(self);
  self.node = make("div", {}, make("div", { className: "player" }, button, make("div", { className: "track" }, mel), audio), time);
  return self;
}

// --- one utterance ---------------------------------------------------------------------------------------------------

// The best value of a row, if the systems differ; the reference itself is out of competition.
function best(utterance, name) {
  const values = utterance.entries
    .filter((_, system) => !/(^|\/)target$/.test(head.systems[system]))
    .map((entry) => entry.values[name])
    .filter((value) => typeof value === "number");
  if (new Set(values).size < 2) return null;
  return metrics.get(name).higher ? Math.max(...values) : Math.min(...values);
}

function numbers(utterance, entry) {
  const list = make("dl");
  for (const metric of head.metrics) {
    const value = entry.values[metric.name];
    const isNone = value === null || value === undefined;
    const isFailed = entry.failed.includes(metric.name);
    const reason = entry.errors[metric.name] || "not measured";
    const name = isFailed ? "none" : isNone ? "soft" : value === best(utterance, metric.name) ? "best" : "";
    const unit = metric.unit && !isNone ? make("small", {}, ` ${metric.unit}`) : null;
    list.append(
      make(
        "div",
        { className: metric.name === sort.metric ? "sorted" : "", title: isNone || isFailed ? `${fullName(metric)}: ${reason}` : `${fullName(metric)}, ${metric.higher ? "higher" : "lower"} is better; click to sort by it`,
          onclick: () => { sort.metric = metric.name; draw(); } },
        make("dt", {}, metric.label.replace(/^DNSMOS /, "")),
        make("dd", { className: name }, isNone ? absent(isFailed, reason) : shown(value, metric), unit),
      ),
    );
  }
  return list;
}

const absent = (isFailed, reason) => (reason === head.infinite ? "∞" : isFailed ? "–" : "n/a");

// Why values are missing or the worst, one line a reason.
function reasons(entry) {
  const lines = new Map();
  for (const metric of head.metrics) {
    const reason = entry.errors[metric.name];
    if (!reason || reason === head.infinite) continue;
    const key = (entry.failed.includes(metric.name) ? "failed: " : "") + reason;
    lines.set(key, [...(lines.get(key) || []), metric.label]);
  }
  const told = [...lines].map(([reason, labels]) =>
    make("div", { className: reason.startsWith("failed: ") ? "bad" : "soft" },
      `${reason} (${labels.length === head.metrics.length ? "all metrics" : labels.join(", ")})`));
  return told.length ? make("div", { className: "reasons" }, ...told) : null;
}

const roughly = (word) => word.toLowerCase().replace(/[^\p{L}\p{N}']/gu, "");

// Words of the hypothesis that are in a longest common subsequence with the text are right. Where the results have both
// as they were compared, after normalisation, those are shown: what is red there is what the word errors count.
function hypothesis(entry, written) {
  const { text, hypothesis: heard } = entry.compared || { text: written, hypothesis: entry.hypothesis };
  const title = `what the recognizer heard${entry.compared ? ", as it was compared" : ""}; red: not in the text`;
  const box = make("div", { className: "hypothesis", title });
  const plain = entry.compared ? (word) => word : roughly;
  const a = (text || "").split(/\s+/).filter(Boolean).slice(0, 400);
  const b = heard.split(/\s+/).filter(Boolean).slice(0, 400);
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      lengths[i][j] = plain(a[i]) === plain(b[j]) ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
  let i = 0;
  for (let j = 0; j < b.length; j++) {
    while (i < a.length && plain(a[i]) !== plain(b[j]) && lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    const isRight = i < a.length && plain(a[i]) === plain(b[j]);
    if (isRight) i++;
    box.append(make("span", { className: isRight || !a.length ? "" : "wrong" }, b[j]), " ");
  }
  return box;
}

function cell(utterance, system, row) {
  const entry = utterance.entries[system];
  const parts = [];
  if (entry.audio) {
    const made = player(entry, `${head.systems[system]}, ${utterance.id}`, longest(utterance));
    made.row = row;
    parts.push(made.node);
  } else parts.push(make("div", { className: "missing" }, entry.missing));
  parts.push(numbers(utterance, entry));
  parts.push(reasons(entry));
  if (entry.hypothesis) parts.push(hypothesis(entry, utterance.text));
  const vote = votes.find((other) => other.id === utterance.id && other.testSet === utterance.testSet);
  if (vote && vote.preferred === head.systems[system]) parts.push(make("div", { className: "preferred" }, "preferred when blind"));
  // On narrow screens systems stand below each other, each under its name.
  parts.unshift(make("div", { className: "whose" }, head.systems[system]));
  return make("div", { className: "cell", dataset: { system: head.systems[system] } }, ...parts.filter(Boolean));
}

const longest = (utterance) => Math.max(...utterance.entries.map((entry) => entry.seconds || 0));

function about(utterance) {
  const level = utterance.snr === null || utterance.snr === undefined ? null : `${utterance.snr} dB`;
  const where = [utterance.testSet, utterance.speaker, level].filter(Boolean).join(" · ");
  return make(
    "div", { className: "about" },
    make("div", { className: "id" }, utterance.id),
    make("div", { className: "soft" }, where),
    make("div", { className: "text" }, utterance.text || ""),
  );
}

function seenRow(utterance) {
  const row = make("div", { className: "row utterance", dataset: { id: utterance.id } });
  row.append(about(utterance), ...head.systems.map((_, system) => cell(utterance, system, row)));
  return row;
}

function blindRow({ utterance, order }) {
  const row = make("div", { className: "row utterance", dataset: { id: utterance.id } });
  const vote = votes.find((other) => other.id === utterance.id && other.testSet === utterance.testSet);
  const cells = order.map((system, index) => {
    const made = player(utterance.entries[system], "AB"[index], longest(utterance));
    made.row = row;
    return make("div", { className: "cell" }, make("div", { className: "whose" }, "AB"[index]), made.node);
  });
  const buttons = [["A", 0], ["B", 1], ["no preference", null]].map(([label, index]) => {
    const preferred = index === null ? null : head.systems[order[index]];
    return make("button", {
      type: "button", className: vote && vote.preferred === preferred ? "chosen" : "", dataset: { vote: label },
      onclick: (event) => {
        const again = votes.findIndex((other) => other.id === utterance.id && other.testSet === utterance.testSet);
        if (again >= 0) votes.splice(again, 1);
        votes.push({ testSet: utterance.testSet, id: utterance.id, a: head.systems[order[0]], b: head.systems[order[1]], preferred });
        for (const button of event.target.parentNode.children) button.classList.toggle("chosen", button === event.target);
        count.textContent = `${votes.length} of ${blind.items.length} judged`;
      },
    }, label);
  });
  row.append(make("div", { className: "about" }, make("div", { className: "text" }, utterance.text || ""), make("div", { className: "vote" }, ...buttons)), ...cells);
  return row;
}

// --- the page --------------------------------------------------------------------------------------------------------

const count = make("span", { className: "soft", id: "count" });
const names = make("div", { className: "row names" });
const rows = make("main", { id: "rows" });
const bar = make("div", { className: "bar" });
const intro = make("div", { className: "intro" });

function value(utterance) {
  const found = utterance.entries[sort.system].values[sort.metric];
  return typeof found === "number" ? found : null;
}

function ordered() {
  const words = filter.words.toLowerCase();
  const kept = utterances.filter((utterance) =>
    (!filter.testSet || utterance.testSet === filter.testSet) &&
    (!filter.speaker || utterance.speaker === filter.speaker) &&
    (!filter.snr || String(utterance.snr) === filter.snr) &&
    (!words || [utterance.id, utterance.text, utterance.speaker].some((text) => (text || "").toLowerCase().includes(words))));
  if (sort.order === "id") return kept.sort((a, b) => (a.testSet + a.id < b.testSet + b.id ? -1 : 1));
  const sign = metrics.get(sort.metric).higher === (sort.order === "worst") ? 1 : -1;
  // What has no value is worst of all, and shown first.
  return kept.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null ? 0 : 1) - (y === null ? 0 : 1);
    return sign * (x - y);
  });
}

function draw() {
  for (const { audio } of players) audio.pause();
  players.clear();
  document.body.classList.toggle("blind", blind !== null);
  intro.classList.toggle("hidden", blind !== null);
  const columns = blind ? ["A", "B"] : head.systems;
  document.body.style.setProperty("--columns", columns.length);
  const list = blind ? blind.items : ordered();
  names.replaceChildren(make("div", {}, count), ...columns.map((name) => make("div", {}, name)));
  bar.replaceChildren(...(blind ? blindControls() : controls()));
  rows.replaceChildren(...(list.length ? list.map(blind ? blindRow : seenRow) : [make("div", { className: "nothing" }, "No utterance matches.")]));
  count.textContent = blind ? `${votes.length} of ${list.length} judged` : `${list.length} of ${head.total} utterances`;
  drawPlots();
}

function choice(id, label, pairs, chosen, set) {
  return make("label", {}, label, make("select", { id, onchange: (event) => { set(event.target.value); draw(); } }, ...options(pairs, chosen)));
}

function controls() {
  const sets = [...new Set(utterances.map((utterance) => utterance.testSet))];
  const search = make("input", { id: "search", type: "search", placeholder: "id, text or speaker", size: 16, value: filter.words });
  search.addEventListener("change", () => { filter.words = search.value; draw(); });
  return [
    choice("metric", "Sort by", head.metrics.map((metric) => [metric.name, fullName(metric)]), sort.metric, (name) => { sort.metric = name; }),
    choice("system", "of", head.systems.map((name, index) => [index, name]), sort.system, (index) => { sort.system = Number(index); }),
    choice("order", "", [["worst", "worst first"], ["best", "best first"], ["id", "by id"]], sort.order, (order) => { sort.order = order; }),
    sets.length > 1 ? choice("sets", "Test set", [["", "all"], ...sets.map((name) => [name, name])], filter.testSet, (name) => { filter.testSet = name; }) : null,
    ...["speaker", "snr"].map((field) => {
      const found = [...new Set(utterances.map((each) => each[field]))].filter((each) => each !== null && each !== undefined);
      found.sort((a, b) => (typeof a === "number" ? a - b : a < b ? -1 : 1));
      const pairs = [["", "all"], ...found.map((each) => [String(each), field === "snr" ? `${each} dB` : each])];
      return found.length > 1 ? choice(field, field === "snr" ? "SNR" : "Speaker", pairs, filter[field], (name) => { filter[field] = name; }) : null;
    }),
    search,
    make("span", { className: "space" }),
    head.systems.length > 1 ? make("button", { id: "blind", type: "button", onclick: () => { pair.hidden = !pair.hidden; } }, "Blind A/B…") : null,
    head.systems.length > 1 ? pair : null,
    make("label", { className: "file" }, "Votes of others", make("input", { id: "votes", type: "file", accept: ".json", multiple: true, onchange: (event) => load([...event.target.files]) })),
    make("button", { id: "theme", type: "button", title: "dark or light", onclick: theme }, "◐"),
  ].filter(Boolean);
}

const first = make("select", { id: "blind-a" }, ...options(head.systems.map((name, index) => [index, name]), 0));
const second = make("select", { id: "blind-b" }, ...options(head.systems.map((name, index) => [index, name]), head.systems.length - 1));
const pair = make("span", { id: "pair", hidden: true }, first, " and ", second, " ", make("button", { id: "start", className: "primary", type: "button", onclick: begin }, "Start"));

function begin() {
  const [x, y] = [Number(first.value), Number(second.value)];
  if (x === y) return;
  const items = utterances
    .filter((utterance) => utterance.entries[x].audio && utterance.entries[y].audio)
    .map((utterance) => ({ utterance, order: random(2) ? [x, y] : [y, x] }));
  for (let i = items.length - 1; i > 0; i--) {
    const j = random(i + 1);
    [items[i], items[j]] = [items[j], items[i]];
  }
  votes.length = 0;
  blind = { pair: [x, y], items };
  draw();
  scrollTo(0, 0);
}

function blindControls() {
  return [
    make("strong", {}, "Blind A/B"),
    make("span", { className: "soft" }, "Which sounds better? Names, numbers and spectrograms are hidden; the order changes from row to row."),
    make("span", { className: "space" }),
    make("button", { id: "save", type: "button", onclick: save }, "Save votes"),
    make("button", { id: "reveal", className: "primary", type: "button", onclick: reveal }, "Reveal"),
  ];
}

// The chance of a split at least as uneven, were both equally good (exact sign test, ties left out).
function signTest(x, y) {
  const n = x + y;
  let total = 0;
  let term = Math.pow(0.5, n);
  for (let k = 0; k <= Math.min(x, y); k++) {
    total += term;
    term *= (n - k) / (k + 1);
  }
  return Math.min(1, 2 * total);
}

function reveal() {
  const [x, y] = blind.pair.map((system) => head.systems[system]);
  const won = (name) => votes.filter((vote) => vote.preferred === name).length;
  const ties = votes.length - won(x) - won(y);
  const p = won(x) + won(y) ? `, sign test p = ${signTest(won(x), won(y)).toFixed(3)}` : "";
  verdict.textContent = `Blind: ${x} preferred ${won(x)} times, ${y} ${won(y)} times, no preference ${ties}${p}.`;
  verdict.hidden = false;
  blind = null;
  draw();
  scrollTo(0, 0);
}

function save() {
  const url = URL.createObjectURL(new Blob([JSON.stringify(votes, null, 2)], { type: "application/json" }));
  make("a", { href: url, download: "votes.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// --- votes read back -------------------------------------------------------------------------------------------------

// The chance of at most k of n, where each has the chance p.
function binomial(k, n, p) {
  let total = 0;
  for (let i = 0; i <= k; i++) {
    let log = 0;
    for (let j = 1; j <= i; j++) log += Math.log((n - i + j) / j);
    total += Math.exp(log + i * Math.log(p) + (n - i) * Math.log1p(-p));
  }
  return total;
}

// The exact 95% interval of a share of k in n (Clopper and Pearson), by halving.
function interval(k, n) {
  const solve = (isLow) => {
    let [low, high] = [0, 1];
    for (let step = 0; step < 50; step++) {
      const p = (low + high) / 2;
      const beyond = isLow ? 1 - binomial(k - 1, n, p) < 0.025 : binomial(k, n, p) > 0.025;
      if (beyond) low = p;
      else high = p;
    }
    return low;
  };
  return [k === 0 ? 0 : solve(true), k === n ? 1 : solve(false)];
}

// Files of votes as `save` writes them, a listener each: a line a pair of systems, and how often listeners agree.
async function load(files) {
  const pairs = new Map();
  const judged = new Map();
  let broken = 0;
  for (const file of files) {
    let content;
    try {
      content = JSON.parse(await file.text());
    } catch {
      content = null;
    }
    const good = Array.isArray(content) ? content.filter((vote) => vote && [vote.a, vote.b, vote.id].every((each) => typeof each === "string")) : [];
    if (!good.length) broken++;
    for (const vote of good) {
      const names = [vote.a, vote.b].sort();
      const key = JSON.stringify(names);
      const found = pairs.get(key) || { names, won: [0, 0], ties: 0 };
      const side = names.indexOf(vote.preferred);
      if (side < 0) found.ties++;
      else found.won[side]++;
      pairs.set(key, found);
      const item = JSON.stringify([key, vote.testSet, vote.id]);
      judged.set(item, [...(judged.get(item) || []), vote.preferred]);
    }
  }
  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  const lines = [...pairs.values()].map(({ names: [x, y], won: [a, b], ties }) => {
    const n = a + b;
    const [low, high] = n ? interval(a, n) : [0, 1];
    const share = n ? `${percent(a / n)} [${percent(low)}, ${percent(high)}]` : "–";
    return make("tr", {}, ...[x, y, a, b, ties, share, n ? signTest(a, b).toFixed(3) : "–"].map((text, index) => make("td", { className: index < 2 ? "name" : "" }, String(text))));
  });
  let [same, compared] = [0, 0];
  for (const preferred of judged.values())
    for (let i = 0; i < preferred.length; i++)
      for (let j = 0; j < i; j++) {
        compared++;
        if (preferred[i] === preferred[j]) same++;
      }
  const titles = ["A", "B", "A preferred", "B preferred", "no preference", "share of A, 95% binomial", "sign test p"];
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...titles.map((text, index) => make("th", { className: index < 2 ? "name" : "" }, text)))), make("tbody", {}, ...lines));
  const told = [
    `${files.length} file${files.length === 1 ? "" : "s"} of votes`,
    compared ? `listeners agree in ${percent(same / compared)} of ${compared} pairs of judgements` : null,
    broken ? `${broken} without votes` : null,
  ].filter(Boolean).join("; ");
  verdicts.replaceChildren(make("p", {}, `${told}.`), lines.length ? make("div", { className: "summary" }, table) : "");
  verdicts.hidden = false;
}

const verdicts = make("div", { id: "verdicts", hidden: true });

// --- plots -----------------------------------------------------------------------------------------------------------

const plot = { metric: head.sort.metric, baseline: 0, isOpen: false };
function shape(tag, attributes, ...children) {
  const node = document.createElementNS(vector, tag);
  for (const [name, text] of Object.entries(attributes)) node.setAttribute(name, String(text));
  node.append(...children);
  return node;
}

// Points of columns in one frame: a dot an utterance, the mean and its interval beside them.
function columnsPlot(title, columns, metric) {
  const [width, height, left, top, bottom] = [150, 240, 56, 12, 34];
  const all = columns.flatMap((column) => [...column.points.map((point) => point[1]), column.low, column.high]).filter((each) => typeof each === "number");
  if (!all.length) return make("p", { className: "soft" }, `${title}: no values`);
  let [least, most] = [Math.min(...all), Math.max(...all)];
  if (least === most) [least, most] = [least - 1, most + 1];
  const y = (number) => top + (height - top - bottom) * (1 - (number - least) / (most - least));
  const svg = shape("svg", { viewBox: `0 0 ${left + width * columns.length} ${height}`, width: left + width * columns.length, height, role: "img", "aria-label": title });
  for (let step = 0; step <= 4; step++) {
    const at = least + ((most - least) * step) / 4;
    svg.append(
      shape("line", { x1: left, x2: left + width * columns.length, y1: y(at), y2: y(at), class: "grid" }),
      shape("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, shown(at, metric)),
    );
  }
  if (least < 0 && most > 0) svg.append(shape("line", { x1: left, x2: left + width * columns.length, y1: y(0), y2: y(0), class: "zero" }));
  columns.forEach((column, index) => {
    const middle = left + width * (index + 0.5);
    column.points.forEach(([item, number], place) => {
      // Spread by the golden ratio, so that the same page always looks the same.
      const x = middle - 38 + ((place * 0.618) % 1) * 76;
      const dot = shape("circle", { cx: x, cy: y(number), r: 2.6, class: "dot" }, shape("title", {}, `${item}: ${shown(number, metric)}`));
      svg.append(dot);
    });
    if (typeof column.low === "number") svg.append(shape("line", { x1: middle + 50, x2: middle + 50, y1: y(column.low), y2: y(column.high), class: "interval" }));
    if (typeof column.mean === "number") svg.append(shape("circle", { cx: middle + 50, cy: y(column.mean), r: 4.5, class: "mean" }, shape("title", {}, `mean ${shown(column.mean, metric)}`)));
    const name = column.name.length > 20 ? `${column.name.slice(0, 19)}…` : column.name;
    svg.append(shape("text", { x: middle, y: height - 12, "text-anchor": "middle" }, name, shape("title", {}, column.name)));
  });
  return make("figure", {}, make("figcaption", {}, title), svg);
}

function plots() {
  const metric = metrics.get(plot.metric);
  const { items, values } = head.points;
  const kept = items.map((item, index) => index).filter((index) =>
    (!filter.testSet || items[index][0] === filter.testSet) && (!filter.speaker || items[index][2] === filter.speaker));
  const sets = new Set(kept.map((index) => items[index][0]));
  const of = (system) => kept.map((index) => [items[index][1], values[plot.metric][system][index]]).filter((point) => typeof point[1] === "number");
  const absolute = head.systems.map((name, system) => {
    // Intervals are known of whole test sets alone.
    const result = head.results.find((each) => each.system === name && sets.has(each.testSet));
    const found = sets.size === 1 && !filter.speaker && result ? result.means[plot.metric] : null;
    const points = of(system);
    const mean = points.length ? points.reduce((sum, point) => sum + point[1], 0) / points.length : null;
    return { name, points, mean: found ? found.mean : mean, low: found ? found.low : null, high: found ? found.high : null };
  });
  const base = values[plot.metric][plot.baseline];
  const paired = head.systems.map((name, system) => ({ name, system })).filter(({ system }) => system !== plot.baseline).map(({ name, system }) => {
    const points = kept.map((index) => [items[index][1], values[plot.metric][system][index], base[index]])
      .filter(([, a, b]) => typeof a === "number" && typeof b === "number").map(([id, a, b]) => [id, a - b]);
    return { name: `${name}`, points, mean: points.length ? points.reduce((sum, point) => sum + point[1], 0) / points.length : null };
  });
  return [
    columnsPlot(`${fullName(metric)}${metric.unit ? `, ${metric.unit}` : ""}: an utterance a dot; mean${sets.size === 1 && !filter.speaker ? " with 95% interval" : ""}`, absolute, metric),
    paired.length ? columnsPlot(`Paired differences from ${head.systems[plot.baseline]} (${metric.higher ? "above" : "below"} 0 is better)`, paired, metric) : null,
  ].filter(Boolean);
}

const drawn = make("div", { className: "plots" });
const figures = make("details", { id: "plots", ontoggle: () => { plot.isOpen = figures.open; drawPlots(); } }, make("summary", {}, "Plots by system"));

function drawPlots() {
  if (!plot.isOpen) return;
  const pick = (id, label, pairs, chosen, set) => make("label", {}, label, " ", make("select", { id, onchange: (event) => { set(event.target.value); drawPlots(); } }, ...options(pairs, chosen)));
  drawn.replaceChildren(
    make("p", { className: "choices" },
      pick("plot-metric", "Metric", head.metrics.map((metric) => [metric.name, fullName(metric)]), plot.metric, (name) => { plot.metric = name; }), " ",
      pick("plot-baseline", "differences from", head.systems.map((name, index) => [index, name]), plot.baseline, (index) => { plot.baseline = Number(index); })),
    ...plots(),
  );
}
figures.append(drawn);

function theme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
}

const verdict = make("p", { id: "verdict", hidden: true });

function summary() {
  const table = make("table");
  const titles = head.metrics.map((metric) => make("th", { title: fullName(metric) }, `${metric.label} ${metric.unit}`.trim() + (metric.higher ? " ↑" : " ↓")));
  table.append(make("thead", {}, make("tr", {}, make("th", { className: "name" }, "test set"), make("th", { className: "name key" }, "system"), make("th", {}, "n"), ...titles)));
  const body = make("tbody");
  for (const result of [...head.results].sort((a, b) => a.testSet.localeCompare(b.testSet))) {
    const cells = head.metrics.map((metric) => {
      const found = result.means[metric.name];
      if (!found) return make("td", {}, "–");
      const mean = found.isInfinite ? "∞" : found.isAbsent ? "n/a" : shown(found.mean, metric);
      const text = found.low === null ? `too few: ${found.clusters}` : `${shown(found.low, metric)} to ${shown(found.high, metric)}, ${found.clusters}`;
      const bounds = found.mean === null ? null : make("span", { className: "interval" }, text);
      const common = found.nCommon === found.nItems ? null : make("span", { className: "interval" }, `${found.nCommon} of ${found.nItems}`);
      const failed = found.nFailed ? make("span", { className: "interval bad" }, `${found.nFailed} failed`) : null;
      return make("td", {}, mean, bounds, common, failed);
    });
    const title = `run ${result.run}, protocol ${result.protocol}`;
    body.append(make("tr", { title }, make("td", { className: "name" }, result.testSet), make("td", { className: "name key" }, result.system), make("td", {}, String(result.n)), ...cells));
  }
  table.append(body);
  return make("div", { className: "summary", tabIndex: 0, role: "region", "aria-label": "means" }, table);
}

const part = utterances.length < head.total
  ? `The ${utterances.length} worst of ${head.total} utterances, by ${fullName(metrics.get(head.sort.metric))} of ${head.sort.system}${head.isFull ? "; the page is full" : ""}. `
  : "";
intro.append(
  make("h1", {}, `${head.task.toUpperCase()}: ${head.systems.join(", ")}`),
  make("p", { className: "soft" }, `${part}Means of the utterances that all systems have (n of N if not all), with 95% intervals and what they are over; WER and CER are all edits over the whole corpus. Click a spectrogram to listen from there; switching systems goes on at the same place.`),
  ...head.warnings.map((text) => make("div", { className: "warning" }, text)),
  verdict,
  verdicts,
  summary(),
  figures,
);
app.append(intro, make("div", { className: "top" }, bar, names), rows);
draw();
