// One photo, one choice of arm, one threshold ─▶ one request ─▶ pictures and facts. Addresses are relative: a proxy may
// show all of it below a path.
import { differences, element, facts, figure, ms, percent } from "./draw.js";
import { seen } from "./upright.js";

const MAX_BYTES = 20905984; // wire.MAX_IMAGE_BYTES; a test compares them
const STATUS_EVERY_MS = 5000;
const NARROW_PX = 860; // as in style.css

const $ = (id) => document.getElementById(id);
const state = { file: null, url: null, request: null, drawn: [] };

async function ask() {
  if (!state.file) return;
  state.request?.abort();
  const request = (state.request = new AbortController());
  const started = performance.now();
  const clock = setInterval(() => say(`Segmenting … ${((performance.now() - started) / 1000).toFixed(1)} s`), 100);
  document.body.classList.add("busy");
  try {
    const asked = choice();
    const answer = await fetchAnswer(asked, request.signal);
    const both = answer.left ? [answer.left, answer.right] : [answer];
    const photo = await seen(state.file, state.url, both[0].size);
    const drawn = photo.isUpright ? [] : await drawnByGateway(both, asked, request.signal);
    if (request.signal.aborted) return;
    show(answer, both, photo, drawn);
    say(summary(answer, performance.now() - started));
  } catch (error) {
    if (request.signal.aborted) return;
    showProblem(error);
    $("pictures").replaceChildren();
    $("facts").replaceChildren();
    say("");
  } finally {
    clearInterval(clock);
    if (state.request === request) document.body.classList.remove("busy");
  }
}

function choice() {
  return { arm: document.querySelector("input[name=arm]:checked").value, threshold: $("threshold").value };
}

async function fetchAnswer({ arm, threshold }, signal, format = "json") {
  if (state.file.size > MAX_BYTES) {
    throw { detail: `The photo has ${(state.file.size / 2 ** 20).toFixed(1)} MiB; at most ${(MAX_BYTES / 2 ** 20).toFixed(1)} MiB are accepted.`, code: "image_too_large" };
  }
  const query = new URLSearchParams({ format, score_threshold: threshold, mask_format: "polygon" });
  if (arm && arm !== "compare") query.set("arm", arm);
  const path = arm === "compare" ? "v1/compare" : "v1/predictions";
  let response;
  try {
    response = await fetch(`${path}?${query}`, { method: "POST", body: state.file, headers: { "Content-Type": "application/octet-stream" }, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    await state.file.slice(0, 1).arrayBuffer().catch(() => {
      throw { detail: "The photo cannot be read: it is a folder, or was changed or moved meanwhile. Choose it again.", code: "photo_unreadable" };
    });
    throw { detail: "The gateway does not answer. Is it still running?", code: "no_connection" };
  }
  if (!response.ok) {
    // a proxy in front of the gateway answers in its own way
    throw await response.json().catch(() => ({ detail: `Something between here and the gateway answered HTTP ${response.status}.`, code: `http_${response.status}` }));
  }
  return format === "json" ? response.json() : response.blob();
}

function summary(answer, tookMs) {
  const one = (each) => `${each.arm} found ${each.instances.length}, ${percent(each.coverage.total)} covered`;
  const said = answer.left ? `${one(answer.left)}; ${one(answer.right)}` : one(answer);
  return `${said} · ${ms(tookMs)}`;
}

/** Pictures with the masks in them, where the browser's photo lies otherwise than the masks. */
function drawnByGateway(both, { threshold }, signal) {
  return Promise.all(both.map(({ arm }) => fetchAnswer({ arm, threshold }, signal, "png")));
}

function show(answer, both, { shown, isUpright }, drawn) {
  const size = `${shown[1]} × ${shown[0]} px`;
  state.drawn.forEach(URL.revokeObjectURL);
  state.drawn = drawn.map((picture) => URL.createObjectURL(picture));
  $("problem").hidden = true;
  $("empty").hidden = true;
  $("pictures").replaceChildren(
    figure(state.url, "Original", isUpright ? size : `${size}, as your browser shows it`, shown),
    ...both.map((each, index) => figure(state.drawn[index] ?? state.url, `${each.arm}: ${each.model.name}`,
      `${each.instances.length} found`, each.size, each, !isUpright)));
  $("pictures").classList.toggle("three", both.length === 2);
  $("facts").classList.toggle("two", both.length === 2);
  $("facts").replaceChildren(...both.map(facts), ...(answer.left ? [differences(answer)] : []), extras());
  if (innerWidth <= NARROW_PX) $("results").scrollIntoView({ behavior: "smooth" });
  both.forEach((_, index) => link($("pictures").children[index + 1], $("facts").children[index]));
}

/** Pointing at a table row lights its mask, and the other way round. */
function link(picture, table) {
  const all = () => [...picture.querySelectorAll("[data-instance]"), ...table.querySelectorAll("[data-instance]")];
  const light = (event) => {
    const index = event.target.closest?.("[data-instance]")?.dataset.instance;
    picture.classList.toggle("dimmed", index !== undefined);
    for (const each of all()) each.classList.toggle("lit", each.dataset.instance === index);
  };
  for (const side of [picture, table]) {
    for (const name of ["pointerover", "focusin"]) side.addEventListener(name, light);
    for (const name of ["pointerleave", "focusout"]) side.addEventListener(name, () => light({ target: side }));
  }
}

function extras() {
  const { arm, threshold } = choice();
  const path = arm === "compare" ? `compare?score_threshold=${threshold}` : `predictions?score_threshold=${threshold}${arm ? `&arm=${arm}` : ""}`;
  const save = element("button", { type: "button", class: "quiet", id: "save" }, "Save as picture");
  save.addEventListener("click", () => savePicture(save));
  return element("article", { class: "card extras" }, save,
    element("details", {}, element("summary", {}, "The same with curl"),
      element("code", {}, `curl -F image=@photo.jpg '${new URL(`v1/${path}`, document.baseURI)}'`)));
}

async function savePicture(button) {
  button.disabled = true;
  $("problem").hidden = true;
  try {
    const url = URL.createObjectURL(await fetchAnswer(choice(), undefined, "png"));
    element("a", { href: url, download: `${state.file.name?.replace(/\.[^.]*$/, "") || "photo"}-masks.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  } catch (error) {
    showProblem(error);
  } finally {
    button.disabled = false;
  }
}

function showProblem(problem) {
  $("empty").hidden = true;
  $("problem").replaceChildren(
    element("strong", {}, problem.detail ?? String(problem)),
    element("small", {}, [problem.code, problem.request_id && `request ${problem.request_id}`].filter(Boolean).join(" · ")));
  $("problem").hidden = false;
  showArms();
}

function say(text) {
  $("status").textContent = text;
}

function take(file) {
  if (!file) return;
  if (state.url) URL.revokeObjectURL(state.url);
  state.file = file;
  state.url = URL.createObjectURL(file);
  $("file-name").textContent = file.name || "pasted photo";
  $("again").disabled = false;
  ask();
}

function isPhotoComing(event) {
  return [...(event.dataTransfer?.types ?? [])].includes("Files");
}

for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    if (!isPhotoComing(event)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  if (!isPhotoComing(event)) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => take([...(event.clipboardData?.files ?? [])][0]));
$("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // the same file, changed meanwhile, may be chosen again
});
$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("arms").addEventListener("change", ask);
$("threshold").addEventListener("input", (event) => {
  $("threshold-value").textContent = percent(event.target.value, 0);
});
$("threshold").addEventListener("change", ask);

async function showArms() {
  let arms;
  try {
    ({ arms } = await (await fetch("v1/models")).json());
  } catch {
    $("arms-status").replaceChildren(element("li", { class: "down" }, "gateway not reachable"));
    return;
  }
  $("arms-status").replaceChildren(...arms.map((arm) =>
    element("li", { class: arm.ready ? "ready" : "down", title: arm.why_not || `${arm.workers_ready} of ${arm.workers_total} workers ready` },
      `${arm.arm} ${arm.ready ? "ready" : "not ready"}`)));
  const known = new Set([...document.querySelectorAll("input[name=arm]")].map((input) => input.value));
  for (const arm of arms.filter((each) => !known.has(each.arm))) {
    const radio = element("input", { type: "radio", name: "arm", value: arm.arm });
    $("compare-choice").before(element("label", { title: arm.model }, radio, element("span", {}, arm.arm)));
  }
  $("compare-choice").hidden = arms.length < 2;
}

showArms();
setInterval(() => document.visibilityState === "visible" && showArms(), STATUS_EVERY_MS);
