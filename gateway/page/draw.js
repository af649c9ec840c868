// Answers ─▶ elements. Text is always set as text, never as HTML: class names come from somebody's labels.

// The colours of imaging/overlay.py, so that the page and the pictures agree; a test compares them.
export const COLOURS = ["#009ee6", "#ff8c00", "#00be8c", "#e15aaa", "#f0d732", "#786eeb", "#e14628", "#96cd3c"];

const SMALLEST_PX = 280;
const TALLEST_VH = 70;

const REASONS = {
  weighted: "chosen by weight",
  sticky: "always this one for you",
  override: "you asked for it",
  fallback: "the chosen one is down",
};
const STAGES = [
  ["decode_ms", "decode"],
  ["preprocess_ms", "resize"],
  ["inference_ms", "network"],
  ["postprocess_ms", "masks"],
];

export const colourOf = (instance) => COLOURS[instance.class_id % COLOURS.length];
export const percent = (fraction, digits = 1) => `${(100 * fraction).toFixed(digits)} %`;
export const ms = (value) => (value >= 10000 ? `${(value / 1000).toFixed(1)} s` : `${Math.round(value)} ms`);
const signed = (value, unit) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${unit(Math.abs(value))}`;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function outline(polygons) {
  const points = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => `${flat[2 * i]},${flat[2 * i + 1]}`);
  return polygons.map((flat) => `M${points(flat).join("L")}Z`).join("");
}

/** A figure with the photo of that size; with an answer, its masks and labels are laid over it, unless `isDrawn` in it. */
export function figure(url, title, subtitle, [height, width], answer = null, isDrawn = false) {
  const photo = element("img", { src: url, alt: answer ? describe(answer) : "The photo as it was sent" });
  const frame = element("div", { class: "frame" }, photo);
  // exactly the photo's shape, whatever limits its size, so that masks lie where they belong
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.width = `min(100%, ${Math.max(width, SMALLEST_PX)}px, ${(TALLEST_VH * width) / height}vh)`;
  if (answer && !isDrawn) {
    const labels = answer.instances.map((one, index) => label(one, index, answer.size));
    frame.append(masks(answer), ...labels.reverse()); // the best score on top
  }
  return element(
    "figure", { class: "card picture" },
    element("figcaption", {}, element("strong", {}, title), element("span", {}, subtitle)),
    element("div", { class: "stage" }, frame),
  );
}

function describe(answer) {
  const names = answer.instances.map((one) => `${one.class_name} ${percent(one.score, 0)}`);
  return `The photo with ${names.length ? names.join(", ") : "nothing"} marked`;
}

function masks(answer) {
  const [height, width] = answer.size;
  const paths = answer.instances.map((one, index) =>
    shape("path", { d: outline(one.mask_polygons), fill: colourOf(one), stroke: colourOf(one), "data-instance": index }));
  // the best score on top
  return shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "masks" },
    ...paths.reverse());
}

function label(instance, index, [height, width]) {
  const chip = element("span", { class: "chip", "data-instance": index, "aria-hidden": "true" },
    `${instance.class_name} ${percent(instance.score, 0)}`);
  const [left, top, right] = instance.box_xyxy;
  chip.style.background = colourOf(instance);
  if (left > width / 2) chip.style.right = percent(1 - right / width, 2).replace(" ", "");
  else chip.style.left = percent(Math.max(0, left / width), 2).replace(" ", "");
  chip.style.top = percent(Math.max(0, top / height), 2).replace(" ", "");
  if (top / height > 0.1) chip.classList.add("above");
  return chip;
}

/** Coverage, timings, and the table of what was found, for one arm. */
export function facts(answer) {
  return element(
    "article", { class: "card fact" },
    element("header", {},
      element("h2", {}, `${answer.arm}: ${answer.model.name}`),
      element("p", {}, [`version ${answer.model.version || "–"}`, answer.model.backbone, REASONS[answer.reason] ?? answer.reason,
        answer.fallback_from ? `instead of ${answer.fallback_from}` : ""].filter(Boolean).join(" · ")),
    ),
    coverage(answer),
    timings(answer),
    found(answer),
  );
}

function coverage(answer) {
  const ids = new Map(answer.instances.map((one) => [one.class_name, one]));
  const rows = Object.entries(answer.coverage.by_class).map(([name, fraction], index) => {
    const bar = element("i");
    bar.style.width = `${100 * fraction}%`;
    bar.style.background = colourOf(ids.get(name) ?? { class_id: index });
    return element("li", {}, element("span", {}, name), element("b", {}, percent(fraction)), element("div", { class: "bar" }, bar));
  });
  return element("section", { class: "coverage" },
    element("h3", {}, "Covered"),
    element("p", { class: "big", "data-total": answer.coverage.total }, percent(answer.coverage.total)),
    element("ul", {}, ...rows),
  );
}

function timings(answer) {
  const inWorker = STAGES.map(([key, name]) => [name, answer.timings[key]]);
  const known = inWorker.reduce((sum, [, value]) => sum + value, 0);
  const stages = [...inWorker, ["waiting", Math.max(0, answer.call_ms - known)]];
  const total = stages.reduce((sum, [, value]) => sum + value, 0) || 1;
  const parts = stages.map(([, value], index) => {
    const part = element("i", { class: `stage-${index}` });
    part.style.width = `${(100 * value) / total}%`;
    return part;
  });
  const keys = stages.map(([name, value], index) =>
    element("li", {}, element("i", { class: `stage-${index}` }), element("span", {}, name), element("b", {}, ms(value))));
  return element("section", { class: "timings" },
    element("h3", {}, "Time"),
    element("p", { class: "big" }, ms(answer.call_ms)),
    element("div", { class: "bar parts", "aria-hidden": "true" }, ...parts),
    element("ul", {}, ...keys),
  );
}

function found(answer) {
  if (!answer.instances.length) return element("p", { class: "nothing" }, "Nothing found. A lower score lets more through.");
  const photo = answer.size[0] * answer.size[1];
  const rows = answer.instances.map((one, index) =>
    element("tr", { "data-instance": index, tabindex: "0" },
      element("td", {}, dot(colourOf(one)), one.class_name),
      element("td", {}, percent(one.score, 0)),
      element("td", {}, percent(one.area_px / photo))));
  return table(["Found", "Score", "Area"], rows);
}

function dot(colour) {
  const made = element("i", { class: "dot", "aria-hidden": "true" });
  made.style.background = colour;
  return made;
}

function table(head, rows) {
  return element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows));
}

/** How the two answers differ. */
export function differences(both) {
  const { left, right } = both;
  const rows = both.matches.map((match) =>
    element("tr", {},
      element("td", {}, dot(colourOf(left.instances[match.left])), match.class_name),
      element("td", {}, percent(left.instances[match.left].score, 0)),
      element("td", {}, percent(right.instances[match.right].score, 0)),
      element("td", {}, match.mask_iou.toFixed(2))));
  const alone = (answer, indices) =>
    indices.length ? `Only ${answer.arm} found: ${indices.map((index) => answer.instances[index].class_name).join(", ")}.` : null;
  const points = (value) => `${(100 * value).toFixed(1)} points`;
  return element("article", { class: "card fact differences" },
    element("header", {}, element("h2", {}, `${right.arm} against ${left.arm}`),
      element("p", {}, "matched by class and mask overlap of at least 0.5")),
    element("dl", {},
      ...pair("Mask overlap (IoU)", both.mean_mask_iou === null ? "–" : both.mean_mask_iou.toFixed(2)),
      ...pair("Coverage", signed(both.coverage_difference.total, points)),
      ...pair("Time", signed(both.latency_difference_ms.call, ms))),
    rows.length ? table(["Both found", left.arm, right.arm, "IoU"], rows) : element("p", { class: "nothing" }, "They agree on nothing."),
    ...[alone(left, both.only_left), alone(right, both.only_right)].filter(Boolean).map((text) => element("p", { class: "alone" }, text)),
  );
}

function pair(name, value) {
  return [element("div", {}, element("dt", {}, name), element("dd", {}, value))];
}
