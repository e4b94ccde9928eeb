// The table of answers. All text from the data goes in by textContent; nothing is requested.
"use strict";
(() => {
const root = document.getElementById("answers-table");
const find = (selector) => root.querySelector(selector);
const form = find("form");
const alone = find("h1") !== null;
const PAGE = alone ? 100 : 20; // rows; in the report other sections follow

// ---- the data -------------------------------------------------------------------------------------------------------

async function unpacked() {
  const inline = document.getElementById("answers-data");
  const parts = inline ? [inline.textContent] : globalThis.uwcAnswers;
  if (!parts) throw new Error("answers.data.js, which has the answers, is not beside this page.");
  if (!globalThis.DecompressionStream || !Intl.Segmenter) throw new Error("This browser is too old for this table.");
  const blob = new Blob(parts.map((part) => {
    const text = atob(part), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }));
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

let metrics, texts, questions, rows, groups, count, start, retrained;

// A group is a model in a condition: its plain texts, and those under each attack.
function prepare(data) {
  ({ metrics, texts, questions, rows } = data);
  questions.sets = data.sets;
  questions.clusters = data.clusters;
  count = questions.id.length;
  start = new Int32Array(count + 1);
  for (let q = 0; q < count; q++) start[q + 1] = start[q] + questions.rows[q];
  groups = [];
  data.sources.forEach(([role, model, , attack, variant], source) => {
    let group = groups.find((g) => g.role === role && g.model === model);
    if (!group) {
      const condition = role === "calibrated" ? "calibrated" : "as delivered";
      group = { role, model, condition, plain: [], attacks: new Map() };
      groups.push(group);
    }
    if (!attack) group.plain.push(source);
    else group.attacks.set(attack, [...(group.attacks.get(attack) ?? []), source]);
  });
  groups.variants = data.sources.map((source) => source[4]);
  retrained = groups.find((g) => g.role === "retrained");
}

const sign = (metric) => (metrics[metric].high === false ? -1 : 1);

// For each question the row, of those of some sources, in which the metric shows the most memory; -1 without one.
const found = new Map();
function worst(sources, metric) {
  const key = `${metric}:${sources}`;
  if (found.has(key)) return found.get(key);
  const wanted = new Set(sources), values = rows.values[metric] ?? [], best = new Int32Array(count).fill(-1);
  for (let q = 0; q < count && wanted.size; q++) {
    for (let r = start[q]; r < start[q + 1]; r++) {
      if (!wanted.has(rows.source[r])) continue;
      if (best[q] < 0 || more(values[r], values[best[q]], metric)) best[q] = r;
    }
  }
  found.set(key, best);
  return best;
}

const value = (row, metric) => (row < 0 ? null : rows.values[metric]?.[row] ?? null);
const more = (a, b, metric) => a != null && (b == null || sign(metric) * a > sign(metric) * b);

// ---- the state: what the address says -------------------------------------------------------------------------------

const FIELDS = ["q", "model", "condition", "set", "cluster", "state", "by", "from", "sort", "page", "columns", "id", "all"];
let state = {};

// False, and no change, for the address of another part of the page.
function readAddress() {
  const [name, query] = location.hash.slice(1).split("?");
  if (name && name !== "answers") return false;
  const given = new URLSearchParams(query);
  state = {};
  for (const field of FIELDS) if (given.has(field)) state[field] = given.get(field);
  return true;
}

function address(change = {}) {
  const all = { ...state, ...change }, query = new URLSearchParams();
  for (const field of FIELDS) if (all[field] != null && all[field] !== "") query.set(field, all[field]);
  return `#answers?${query}`;
}

// `set` is the filter; with an open row it is that row's set, and `all` says that all sets are shown.
function go(change, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address(change));
  readAddress();
  show();
}

function metricNamed(name) {
  const at = metrics.findIndex((metric) => metric.name === name);
  return at < 0 ? 0 : at;
}

// What is chosen, with a default for what the address does not say.
function chosen() {
  const models = [...new Set(groups.map((g) => g.model))];
  const first = groups.find((g) => g.role === "unlearned" || g.role === "calibrated") ?? groups[0];
  const model = models.includes(state.model) ? state.model : first.model;
  const ours = groups.filter((g) => g.model === model);
  const conditions = ours.flatMap((g) => [
    { value: g.condition, label: g.condition, group: g, attack: "" },
    ...[...g.attacks.keys()].map((attack) => (
      { value: `${g.condition}/${attack}`, label: `${g.condition}, under ${attack}`, group: g, attack })),
  ]);
  const condition = conditions.find((c) => c.value === state.condition) ?? conditions[0];
  const by = metricNamed(state.by), metric = metrics[by];
  const all = state.id != null && state.all != null;
  const set = all || state.set === "*" ? "*" : questions.sets.includes(state.set) ? state.set : questions.sets[0];
  const bar = Number.parseFloat(state.from ?? (metric?.share ? 0.5 : "")), from = Number.isNaN(bar) ? null : bar;
  const names = state.columns === undefined ? metrics.slice(0, 4).map((m) => m.name) : state.columns.split(",");
  const columns = metrics.map((_, i) => i).filter((i) => names.includes(metrics[i].name));
  const [sort, direction] = (state.sort ?? (metric ? metric.name : "question")).split(":");
  return {
    models, model, conditions, condition, group: condition.group, by, set, from, columns, sort, direction,
    cluster: questions.clusters.includes(state.cluster) ? state.cluster : "",
    state: state.state ?? "", query: state.q ?? "", page: Math.max(1, Number(state.page) || 1),
  };
}

// ---- what is answered, found and sorted -----------------------------------------------------------------------------

const STATES = ["answered plainly", "only under attack", "not answered"];

// For each question: 0, 1 or 2, see STATES; the row under the worst attack; the shown row.
function judged(c) {
  const plain = worst(c.group.plain, c.by), control = worst(retrained?.plain ?? [], c.by);
  const attacks = [...c.group.attacks].map(([name, sources]) => (
    { rows: worst(sources, c.by), control: worst(retrained?.attacks.get(name) ?? [], c.by) }));
  const answered = (row, ...bases) => {
    const ours = value(row, c.by), base = bases.map((at) => value(at, c.by)).find((given) => given != null);
    return (c.from == null || sign(c.by) * ours >= sign(c.by) * c.from) && more(ours, base, c.by);
  };
  const codes = new Uint8Array(count), attacked = worst([...c.group.attacks.values()].flat(), c.by);
  for (let q = 0; q < count; q++) {
    if (answered(plain[q], control[q])) codes[q] = 0;
    else codes[q] = attacks.some((a) => answered(a.rows[q], a.control[q], control[q])) ? 1 : 2;
  }
  const shown = c.condition.attack ? worst(c.group.attacks.get(c.condition.attack), c.by) : plain;
  return { codes, attacked, shown };
}

const folded = (text) => text.normalize("NFKC").toUpperCase().toLowerCase();

// Which questions have all words of a query in their texts, each in any of them.
let haystack, names;
function matching(query) {
  const words = folded(query).split(/\s+/).filter(Boolean), hits = new Uint8Array(count).fill(1);
  if (!words.length) return hits;
  haystack ??= texts.map(folded);
  names ??= questions.id.map((id, q) => folded(`${id}\n${questions.clusters[questions.cluster[q]]}`));
  for (const word of words) {
    const inText = haystack.map((text) => text.includes(word));
    const inRow = (q) => {
      if (names[q].includes(word) || inText[questions.question[q]] || inText[questions.answer[q]]) return true;
      for (let r = start[q]; r < start[q + 1]; r++) if (inText[rows.generated[r]] || inText[rows.prompt[r]]) return true;
      return false;
    };
    for (let q = 0; q < count; q++) hits[q] &&= inRow(q) ? 1 : 0;
  }
  return hits;
}

function selected(c, j) {
  const hits = matching(c.query), set = questions.sets.indexOf(c.set), cluster = questions.clusters.indexOf(c.cluster);
  const counts = [0, 0, 0], wanted = STATES.indexOf(c.state), kept = [];
  let asked = 0;
  for (let q = 0; q < count; q++) {
    if ((set >= 0 && questions.set[q] !== set) || (j.shown[q] < 0 && (c.condition.attack || j.attacked[q] < 0))) continue;
    asked++;
    if (!hits[q] || (c.cluster && questions.cluster[q] !== cluster)) continue;
    counts[j.codes[q]]++;
    if (wanted < 0 || j.codes[q] === wanted) kept.push(q);
  }
  if (c.sort !== "question") {
    const attack = c.sort === "attack", metric = attack ? c.by : metricNamed(c.sort);
    const from = attack ? j.attacked : j.shown, order = sign(metric) * (c.direction === "least" ? -1 : 1);
    kept.sort((a, b) => {
      const x = value(from[a], metric), y = value(from[b], metric);
      if (x == null || y == null) return (x == null) - (y == null) || a - b;
      return order * (y - x) || a - b;
    });
  } else if (c.direction === "least") kept.reverse();
  return { kept, counts, asked };
}

// ---- words ----------------------------------------------------------------------------------------------------------

const cut = new Map();
let segmenter;
function segments(text) {
  segmenter ??= new Intl.Segmenter(undefined, { granularity: "word" });
  if (!cut.has(text)) {
    if (cut.size > 5000) cut.clear();
    cut.set(text, [...segmenter.segment(text)].map((s) => [s.segment, s.isWordLike ? folded(s.segment) : ""]));
  }
  return cut.get(text);
}
const words = (text) => new Set(segments(text).map((s) => s[1]).filter(Boolean));

// The words of the true answer that the question and the retrained model do not have.
function telling(q) {
  const known = words(texts[questions.question[q]]), row = retrained ? worst(retrained.plain, 0)[q] : -1;
  if (row >= 0 && rows.generated[row] >= 0) words(texts[rows.generated[row]]).forEach((word) => known.add(word));
  return new Set([...words(texts[questions.answer[q]])].filter((word) => !known.has(word)));
}

// ---- elements -------------------------------------------------------------------------------------------------------

function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  const { text, on, ...attributes } = options;
  if (text !== undefined) made.textContent = text;
  for (const [name, given] of Object.entries(attributes)) if (given !== undefined) made.setAttribute(name, given);
  for (const [name, listener] of Object.entries(on ?? {})) made.addEventListener(name, listener);
  made.append(...children);
  return made;
}

function said(row, marked) {
  const code = row < 0 ? -1 : rows.generated[row];
  if (code < 0) return el("p", { class: "none", text: row < 0 ? "not asked" : "no text was generated" });
  if (!texts[code].trim()) return el("p", { class: "none", text: "(empty)" });
  const made = el("p", { dir: "auto", class: "text" });
  let plain = "";
  for (const [text, word] of segments(texts[code])) {
    if (!word || !marked.has(word)) plain += text;
    else {
      made.append(plain, el("mark", { class: "said", text }));
      plain = "";
    }
  }
  made.append(plain);
  return made;
}

function number(found, metric) {
  if (found == null) return "—";
  if (metrics[metric].share) return found.toFixed(2);
  const size = Math.abs(found), digits = { minimumSignificantDigits: 3, maximumSignificantDigits: 3 };
  return size && (size < 0.001 || size >= 1e6) ? found.toExponential(2) : found.toLocaleString("en", digits);
}

const cell = (row, metric) => el("td", { class: "number", "data-label": metrics[metric].label, text: number(value(row, metric), metric) });

function options(name, choices, current) {
  const select = form.elements[name];
  const key = JSON.stringify(choices);
  if (select.dataset.key !== key) {
    select.replaceChildren(...choices.map(([given, label]) => el("option", { value: given, text: label })));
    select.dataset.key = key;
  }
  select.value = current;
  select.closest("label").hidden = choices.length < 2;
}

// ---- an open row ----------------------------------------------------------------------------------------------------

// The true answer: what the model needs, and what it completes from there.
function completion(q, row) {
  const from = row < 0 ? null : rows.completed[row], answer = texts[questions.answer[q]];
  if (from == null) return [];
  if (/^sha256:[0-9a-f]{12}$/.test(answer)) return [el("p", { class: "from" }, el("b", { text: `completes the true answer after ${from} characters` }))];
  const at = [...answer].slice(0, from).join("").length;
  if (at >= answer.length) return [el("p", { class: "from" }, el("b", { text: "completes nothing of the true answer" }))];
  const made = el("p", { class: "from" }, el("b", { text: "completes " }));
  made.append(el("bdi", {}, answer.slice(0, at), el("mark", { class: "completed", text: answer.slice(at) })));
  return [made];
}

function attackList(q, group, c, marked) {
  const made = [];
  for (const [name, sources] of group.attacks) {
    const ours = [];
    for (let r = start[q]; r < start[q + 1]; r++) if (sources.includes(rows.source[r])) ours.push(r);
    for (const row of ours) {
      const variant = groups.variants[rows.source[row]];
      const scores = c.columns.filter((m) => value(row, m) != null).map((m) => `${metrics[m].label} ${number(value(row, m), m)}`);
      const item = el("li", {}, el("b", { dir: "auto", text: variant && variant !== name ? `${name}, ${variant}` : name }), ` ${scores.join(", ")}`);
      item.append(said(row, marked), ...completion(q, row));
      if (rows.prompt[row] >= 0) item.append(prompt(rows.prompt[row], "prompt"));
      made.push(item);
    }
  }
  if (!made.length) return [];
  const worstRow = worst([...group.attacks.values()].flat(), c.by)[q];
  const label = `under ${made.length === 1 ? "an attack" : `${made.length} attacks`}, worst ${metrics[c.by].label} ${number(value(worstRow, c.by), c.by)}`;
  const open = group === c.group ? { open: "" } : {};
  return [el("details", open, el("summary", { text: label }), el("ul", {}, ...made))];
}

const prompt = (code, label) => el("details", {}, el("summary", { text: label }), el("pre", { dir: "auto", tabindex: "0", text: texts[code] }));

function opened(q, c, width) {
  const marked = telling(q), facts = el("dl");
  const fact = (name, ...content) => facts.append(el("dt", { text: name }), el("dd", { dir: "auto" }, ...content));
  fact("true answer", texts[questions.answer[q]]);
  if (questions.secret[q].length) fact("secrets", questions.secret[q].map((code) => texts[code]).join(" · "));
  const sent = worst(c.group.plain, c.by)[q];
  if (sent >= 0 && rows.prompt[sent] >= 0) fact("prompt", prompt(rows.prompt[sent], "as sent"));
  const body = el("tbody");
  for (const group of groups) {
    const row = worst(group.plain, c.by)[q], attacks = attackList(q, group, c, marked);
    if (row < 0 && !attacks.length) continue;
    const name = ["original", "retrained"].includes(group.role) ? group.role : group.model;
    const who = el("th", { scope: "row" }, el("span", { dir: "auto", text: name }));
    if (name === group.model && groups.some((g) => g.model === name && g !== group)) who.append(el("small", { text: group.condition }));
    body.append(el("tr", group === c.group ? { class: "chosen" } : {}, who,
      el("td", { class: "says" }, ...(row < 0 ? [] : [said(row, marked), ...completion(q, row)]), ...attacks),
      ...c.columns.map((metric) => cell(row, metric))));
  }
  const head = el("tr", {}, el("th", { scope: "col", text: "model" }), el("th", { scope: "col", text: "says" }),
    ...c.columns.map((metric) => el("th", { scope: "col", class: "number", text: metrics[metric].label })));
  const links = el("p", { class: "links" }, el("a", { href: address(), text: "link to this row" }));
  const cluster = questions.clusters[questions.cluster[q]];
  if (cluster) links.append(" · ", el("a", { href: address({ cluster, id: "", all: "", set: state.all ? "*" : state.set, page: "", state: "", q: "" }), text: "all questions of this cluster" }));
  const table = el("table", {}, el("caption", { text: "The answers of all models" }), el("thead", {}, head), body);
  return el("tr", { class: "open" }, el("td", { colspan: width }, facts, table, links));
}

// ---- the page -------------------------------------------------------------------------------------------------------

let shown = { kept: [] }, view;
const buttons = () => [...root.querySelectorAll("tbody button.row")];

const identified = (q) => state.id === questions.id[q] && (state.set ?? questions.sets[0]) === questions.sets[questions.set[q]];

const close = () => go({ id: "", all: "", set: view.set });

function toggle(q) {
  if (identified(q)) close();
  else go({ id: questions.id[q], set: questions.sets[questions.set[q]], all: view.set === "*" ? "1" : "" });
}

function heading(name, label, c, title, numeric) {
  const active = c.sort === name, least = c.direction === "least";
  const rising = name === "question" ? !least : (name === "attack" ? sign(c.by) : sign(metricNamed(name))) < 0 !== least;
  const button = el("button", { type: "button", title, text: label, on: {
    click: () => go({ sort: active && !least ? `${name}:least` : name, page: "" }),
  } });
  return el("th", { scope: "col", class: numeric ? "number" : "wide", "aria-sort": active ? (rising ? "ascending" : "descending") : undefined }, button);
}

function line(q, c, j) {
  const row = j.shown[q], worstRow = j.attacked[q];
  const button = el("button", { type: "button", class: "row", "aria-expanded": "false", text: texts[questions.question[q]] });
  button.question = q;
  const where = [questions.id[q], questions.clusters[questions.cluster[q]], c.set === "*" ? questions.sets[questions.set[q]] : ""];
  const meta = el("small", {}, ...where.filter(Boolean).flatMap((part, i) => [i ? " · " : "", el("bdi", { text: part })]));
  const made = el("tr", { class: `state${j.codes[q]}` },
    el("td", { class: "question", dir: "auto" }, button, meta),
    el("td", { class: "says", "data-label": "says" }, said(row, telling(q))),
    ...c.columns.map((metric) => cell(row, metric)));
  if (c.attacked) {
    const attack = worstRow < 0 ? "" : [...c.group.attacks].find(([, sources]) => sources.includes(rows.source[worstRow]))[0];
    made.append(el("td", { class: "number", "data-label": "worst attack" }, number(value(worstRow, c.by), c.by), el("small", { dir: "auto", text: attack })));
  }
  return made;
}

function controls(c, counts) {
  options("model", c.models.map((m) => [m, m]), c.model);
  options("condition", c.conditions.map((x) => [x.value, x.label]), c.condition.value);
  options("set", [...questions.sets.map((s) => [s, s]), ...(questions.sets.length > 1 ? [["*", "all sets"]] : [])], c.set);
  options("cluster", [["", "all clusters"], ...questions.clusters.filter(Boolean).sort().map((x) => [x, x])], c.cluster);
  options("state", [["", "any"], ...STATES.map((s, i) => [s, `${s} (${counts[i]})`])], c.state);
  options("by", metrics.map((m) => [m.name, m.label]), metrics[c.by]?.name);
  if (document.activeElement !== form.elements.q) form.elements.q.value = c.query;
  if (document.activeElement !== form.elements.from) form.elements.from.value = c.from ?? "";
  find(".judged").textContent = metrics[c.by]?.label ?? "";
  find(".bound").textContent = metrics.length && sign(c.by) < 0 ? "at most" : "at least";
  root.querySelectorAll("span.retrained").forEach((span) => { span.hidden = !retrained; });
  find(".columns").hidden = metrics.length < 2;
  find(".columns div").replaceChildren(...metrics.map((metric, i) => {
    const box = el("input", { type: "checkbox", name: metric.name });
    box.checked = c.columns.includes(i);
    return el("label", { title: metric.summary }, box, ` ${metric.label}`);
  }));
}

function show() {
  const focused = document.activeElement?.question;
  const c = (view = chosen()), j = judged(c);
  c.attacked = c.group.attacks.size > 0;
  shown = { ...selected(c, j), ...j };
  const total = shown.kept.length, pages = Math.max(1, Math.ceil(total / PAGE));
  const openAt = state.id == null ? -1 : shown.kept.findIndex(identified);
  if (openAt >= 0 && state.page === undefined) c.page = 1 + Math.floor(openAt / PAGE);
  c.page = Math.min(c.page, pages);
  const visible = shown.kept.slice((c.page - 1) * PAGE, c.page * PAGE);
  controls(c, shown.counts);
  find(".status").textContent = `${total} of ${shown.asked} questions. ${c.model}, ${c.group.condition}: `
    + STATES.map((name, i) => `${shown.counts[i]} ${name}`).filter((_, i) => i !== 1 || c.attacked).join(", ")
    + (state.id != null && openAt < 0 ? `. The question ${state.id} is not among these rows.` : "");
  find(".questions > thead > tr").replaceChildren(
    heading("question", "question", c, "the order of the file", false),
    el("th", { scope: "col", class: "wide", text: "what the model says" }),
    ...c.columns.map((i) => heading(metrics[i].name, metrics[i].label, c, metrics[i].summary, true)),
    ...(c.attacked ? [heading("attack", "worst attack", c, `${metrics[c.by].label} under the worst attack`, true)] : []));
  find(".frame").classList.toggle("many", c.columns.length > 5);
  const lines = visible.map((q) => line(q, c, j));
  const open = visible.findIndex(identified);
  if (open >= 0) {
    lines[open].classList.add("expanded");
    lines[open].querySelector("button").setAttribute("aria-expanded", "true");
    lines.splice(open + 1, 0, opened(visible[open], c, 2 + c.columns.length + (c.attacked ? 1 : 0)));
  }
  find(".questions > tbody").replaceChildren(...lines);
  find(".pages").hidden = pages === 1;
  find(".pages span").textContent = `page ${c.page} of ${pages}`;
  find(".back").disabled = c.page === 1;
  find(".next").disabled = c.page === pages;
  if (focused !== undefined) buttons().find((button) => button.question === focused)?.focus({ preventScroll: true });
}

// ---- the CSV file ---------------------------------------------------------------------------------------------------

// Text that a spreadsheet would take for a formula begins with an apostrophe.
const safe = (found) => (typeof found === "string" && /^[=+\-@\t\r]/.test(found) ? `'${found}` : found);
const quoted = (found) => {
  const text = found == null ? "" : String(safe(found));
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function csv() {
  const c = view, names = metrics.map((metric) => metric.name);
  const lines = [["set", "id", "cluster", "question", "answer", "model", "condition", "generated", ...names, "worst_attack", "worst_attack_generated", `worst_attack_${names[c.by]}`, "state"]];
  const attackOf = (row) => [...c.group.attacks].find(([, sources]) => sources.includes(rows.source[row]))?.[0];
  for (const q of shown.kept) {
    const row = shown.shown[q], under = shown.attacked[q];
    const text = (at) => (at < 0 || rows.generated[at] < 0 ? null : texts[rows.generated[at]]);
    lines.push([questions.sets[questions.set[q]], questions.id[q], questions.clusters[questions.cluster[q]],
      texts[questions.question[q]], texts[questions.answer[q]], c.model, c.condition.label, text(row),
      ...metrics.map((_, i) => value(row, i)), under < 0 ? null : attackOf(under), text(under), value(under, c.by), STATES[shown.codes[q]]]);
  }
  return `\ufeff${lines.map((cells) => cells.map(quoted).join(",")).join("\r\n")}\r\n`;
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
  el("a", { href: url, download: "answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// ---- keys and other events ------------------------------------------------------------------------------------------

function turn(by, last = false) {
  go({ page: view.page + by, id: "", all: "", set: view.set });
  const rows = buttons();
  rows[last ? rows.length - 1 : 0]?.focus();
}

function key(event) {
  const at = document.activeElement, typing = at?.matches("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !(alone || root.contains(at))) return;
  if (event.key === "Escape" && state.id != null && !typing) {
    const q = shown.kept.find(identified);
    close();
    buttons().find((button) => button.question === q)?.focus();
  } else if (event.key === "/" && !typing) form.elements.q.focus();
  else if ("jk".includes(event.key) && !typing) move(event.key === "j" ? 1 : -1);
  else if (["ArrowDown", "ArrowUp"].includes(event.key) && at?.question !== undefined) move(event.key === "ArrowDown" ? 1 : -1);
  else return;
  event.preventDefault();
}

function move(step) {
  const rows = buttons(), inside = document.activeElement.closest("tr.open")?.previousElementSibling?.querySelector("button");
  const at = rows.indexOf(inside ?? document.activeElement);
  const next = at < 0 ? 0 : at + step;
  if (rows[next]) rows[next].focus();
  else if (next < 0 && !find(".back").disabled) turn(-1, true);
  else if (next > 0 && !find(".next").disabled) turn(1);
}

let waiting;
function listen() {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const { name, value: given, type } = event.target, closed = { page: "", id: "", all: "", set: view.set };
    if (type === "search" || type === "number") {
      clearTimeout(waiting);
      const text = name === "from" && given === "" ? "none" : given;
      waiting = setTimeout(() => go({ ...closed, [name]: text }, { replace: true }), 150);
    } else go({ ...closed, [name]: given, ...(name === "model" ? { condition: "" } : {}), ...(name === "by" ? { from: "" } : {}) });
  });
  find(".columns").addEventListener("change", () => {
    const boxes = [...root.querySelectorAll(".columns input")], at = boxes.indexOf(document.activeElement);
    go({ columns: boxes.filter((box) => box.checked).map((box) => box.name).join(",") || "none" });
    root.querySelectorAll(".columns input")[at]?.focus();
  });
  find(".questions > tbody").addEventListener("click", (event) => {
    if (event.target.closest("tr.open, a") || (event.target.closest("button") === null && String(getSelection()))) return;
    toggle(event.target.closest("tr").querySelector("button").question);
  });
  find(".csv").addEventListener("click", download);
  find(".back").addEventListener("click", () => turn(-1));
  find(".next").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", key);
  addEventListener("hashchange", () => {
    if (!readAddress()) return;
    show();
    if (location.hash) scroll();
  });
}

function scroll() {
  (find("tr.expanded") ?? root).scrollIntoView({ block: "start" });
}

unpacked().then((data) => {
  prepare(data);
  listen();
  readAddress();
  show();
  find(".loaded").hidden = false;
  if (location.hash.startsWith("#answers")) scroll();
}).catch((error) => { find(".message").textContent = error.message; });
})();
