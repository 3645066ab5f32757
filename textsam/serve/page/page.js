import { COLOURS, bitmapOf, bytesOf, drawPicture, maskOf, paintMasks } from "./draw.js";
import { Problem, facts, segment, setToken } from "./server.js";

const at = (id) => document.getElementById(id);
const state = {
  file: null,
  turn: new AbortController(), // of the image: what waits for anything looks afterwards whether it is over
  answer: null,
  layers: [],
  concepts: [],
  limits: null,
  busy: false,
};

const escapedNumber = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

// ---- What the server knows -------------------------------------------------------------------

async function loadFacts() {
  try {
    const [{ prompts }, { models, limits }] = await Promise.all([facts("/prompts"), facts("/models")]);
    state.concepts = Object.keys(prompts);
    state.limits = limits;
    at("model").textContent = `${models[0].model} · ${models[0].adapter} · ${models[0].device}`;
    suggest();
  } catch (error) {
    report(error);
  }
}

// A datalist completes a whole field, so the words before the last comma are part of each entry.
function suggest() {
  const words = at("words").value.split(",").map((word) => word.trim());
  const before = words.slice(0, -1).filter(Boolean);
  const entries = state.concepts
    .filter((concept) => !before.includes(concept))
    .map((concept) => {
      const option = document.createElement("option");
      option.value = [...before, concept].join(", ");
      return option;
    });
  at("suggestions").replaceChildren(...entries);
}

// ---- The image -------------------------------------------------------------------------------

// Ends what is under way for the image before: its answer must not appear over this one.
function turnTo(file) {
  state.turn.abort();
  state.turn = new AbortController();
  state.file = file;
  busy(false);
  clearAnswer();
  showLayers(false);
  return state.turn.signal;
}

function showLayers(yes) {
  at("layers").hidden = !yes;
  at("no-preview").hidden = true;
}

async function choose(file) {
  if (!file) return;
  const signal = turnTo(file);
  at("frame-row").hidden = true;
  at("frame").value = "";
  at("drop").hidden = true;
  at("stage").hidden = false;
  at("file-line").hidden = false;
  at("file-name").textContent = `${nameOf(file)}, ${size(file.size)}`;
  let bitmap = null;
  if (await looksTheSame(file)) {
    try {
      bitmap = await bitmapOf(file);
    } catch {
      bitmap = null; // the server says what is wrong with it
    }
  }
  if (signal.aborted) {
    bitmap?.close();
    return;
  }
  if (bitmap) {
    drawPicture(at("picture"), bitmap);
    showLayers(true);
  } else {
    at("no-preview").hidden = state.answer !== null; // the answer has brought a picture
  }
  at("words").focus();
}

function take(files) {
  choose(files[0]);
  if (files.length > 1) {
    tell(`Of the ${files.length} files only ${nameOf(files[0])} is taken: one image at a time.`);
  }
}

// Whether a browser shows the file as the model sees it: files of 8 bits a channel.
async function looksTheSame(file) {
  let head;
  try {
    head = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  } catch {
    return false; // sending it says what is wrong with it
  }
  const starts = (...bytes) => bytes.every((byte, i) => head[i] === byte);
  if (starts(0xff, 0xd8, 0xff)) return true;
  return starts(0x89, 0x50, 0x4e, 0x47) && head[24] <= 8;
}

function nameOf(file) {
  return file.name || "pasted image";
}

function size(bytes) {
  return bytes < 1048576 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;
}

function otherImage() {
  turnTo(null);
  at("file").value = "";
  at("stage").hidden = true;
  at("file-line").hidden = true;
  at("drop").hidden = false;
  at("file").focus();
}

// ---- Asking ----------------------------------------------------------------------------------

function words() {
  return at("words").value.split(",").map((word) => word.trim()).filter(Boolean);
}

function fields(file, prompts, extra) {
  const list = [["file", file, "image"], ...prompts.map((word) => ["prompts", word])];
  if (!at("frame-row").hidden && at("frame").value !== "") list.push(["frame", at("frame").value]);
  return [...list, ...extra];
}

async function submit(event) {
  event.preventDefault();
  if (state.busy) return;
  if (!state.file) return report(new Problem(0, { message: "Choose an image first." }));
  if (!words().length) return report(new Problem(0, { message: "Type what to look for." }));
  if (state.limits && state.file.size > state.limits.max_body_bytes) {
    const most = size(state.limits.max_body_bytes);
    return report(new Problem(413, { message: `The file is larger than this server takes, ${most}.` }));
  }
  setToken(at("token").value);
  clearAnswer();
  busy(true);
  const began = performance.now();
  const { signal } = state.turn;
  try {
    await ask(state.file, words(), signal);
    const found = state.answer.results.filter((result) => result.found).length;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    tell(`${found} of ${state.answer.results.length} found, in ${seconds} s.`);
  } catch (error) {
    if (!signal.aborted) report(error);
  } finally {
    if (!signal.aborted) busy(false);
  }
  return undefined;
}

async function ask(file, prompts, signal) {
  const preview = at("layers").hidden || !at("frame-row").hidden || !(await looksTheSame(file));
  signal.throwIfAborted();
  const extra = [["masks", "png"], ["preview", String(preview)]];
  let response;
  try {
    response = await segment(fields(file, prompts, extra), waiting, signal);
  } catch (error) {
    signal.throwIfAborted();
    if (!error.frames || !at("frame-row").hidden) throw error;
    askForFrame(error.frames, Math.floor(error.frames / 2));
    response = await segment(fields(file, prompts, extra), waiting, signal);
  }
  await showAnswer(await response.json(), signal);
}

// The middle one is as good a start as any, and shows what the file is of.
function askForFrame(count, first) {
  at("frame-row").hidden = false;
  at("frame").max = count - 1;
  at("frame").value = first;
  at("frame-of").textContent = `0 to ${count - 1}`;
}

function waiting(seconds) {
  tell(`The server is busy. Asking again in ${seconds} s …`);
}

function busy(yes) {
  state.busy = yes;
  at("go").disabled = yes;
  at("frame").disabled = yes; // it says which one the answer is of
  at("answer").setAttribute("aria-busy", String(yes));
  at("status").classList.toggle("busy", yes);
  if (yes) tell("Looking …");
}

function tell(text) {
  at("status").textContent = text;
}

function report(error) {
  tell("");
  at("problem").hidden = false;
  at("problem").textContent = error instanceof Problem ? error.message : `Something went wrong: ${error.message}`;
  if (error.status === 401) {
    at("token-row").hidden = false;
    at("token").focus();
  }
}

// ---- The answer ------------------------------------------------------------------------------

function clearAnswer() {
  state.answer = null;
  state.layers = [];
  at("problem").hidden = true;
  at("answer").hidden = true;
  tell("");
  paintMasks(at("mask"), [], 0);
}

// All decoding comes first, so that picture and masks appear together, or not at all.
async function showAnswer(answer, signal) {
  const masks = await Promise.all(answer.results.map((result) => maskOf(bytesOf(result.mask.data))));
  const seen = answer.preview ? await bitmapOf(new Blob([bytesOf(answer.preview)], { type: "image/png" })) : null;
  if (signal.aborted) seen?.close();
  signal.throwIfAborted();
  if (seen) drawPicture(at("picture"), seen);
  delete answer.preview;
  showLayers(true);
  state.answer = answer;
  state.layers = masks.map((mask, i) => ({
    mask,
    colour: COLOURS[i % COLOURS.length],
    shown: answer.results[i].found,
  }));
  at("results").replaceChildren(...answer.results.map(resultRow));
  at("warnings").replaceChildren(...answer.warnings.map((text) => element("li", "", text)));
  at("save-seg").hidden = answer.image.type !== "dicom";
  at("save-masks").disabled = !answer.results.some((result) => result.found);
  at("answer").hidden = false;
  if (!state.concepts.length) loadFacts();
  paint();
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function resultRow(result, i) {
  const row = element("li", result.found ? "" : "absent", "");
  const toggle = document.createElement("input");
  toggle.type = "checkbox";
  toggle.id = `shown-${i}`;
  toggle.checked = result.found;
  toggle.disabled = !result.found;
  toggle.addEventListener("change", () => {
    state.layers[i].shown = toggle.checked;
    paint();
  });
  const swatch = element("span", "swatch", "");
  if (result.found) swatch.style.backgroundColor = `rgb(${state.layers[i].colour.join(" ")})`;
  const label = element("label", "", result.prompt);
  label.htmlFor = toggle.id;
  row.append(toggle, swatch, label, element("span", "score", `score ${result.score.toFixed(2)}`));
  row.append(element("span", "facts", result.found ? area(result) : "not found"));
  return row;
}

function area(result) {
  const px = `${escapedNumber.format(result.area_px)} px`;
  return result.area_mm2 === null ? px : `${px}, ${escapedNumber.format(result.area_mm2)} mm²`;
}

function paint() {
  const percent = Number(at("opacity").value);
  at("opacity-value").textContent = `${percent} %`;
  paintMasks(at("mask"), state.layers, percent / 100);
}

// ---- Taking it away --------------------------------------------------------------------------

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function saveMasks() {
  state.answer.results.forEach((result, i) => {
    if (!result.found) return;
    const name = result.prompt.replace(/[^\p{L}\p{N}]+/gu, "-");
    save(new Blob([bytesOf(result.mask.data)], { type: "image/png" }), `mask-${i + 1}-${name}.png`);
  });
}

function saveJson() {
  const text = `${JSON.stringify(state.answer, null, 2)}\n`;
  save(new Blob([text], { type: "application/json" }), "segmentation.json");
}

async function saveSeg() {
  busy(true);
  const { file, turn: { signal } } = state;
  try {
    const asked = state.answer.results.map((result) => ["prompts", result.prompt]);
    const frame = ["frame", String(state.answer.image.frame)];
    const response = await segment([["file", file, "image"], ...asked, frame, ["format", "seg"]], waiting, signal);
    const made = await response.blob();
    signal.throwIfAborted();
    save(made, "segmentation.dcm");
    tell("The DICOM segmentation is saved.");
  } catch (error) {
    if (signal.aborted) tell(`The DICOM segmentation of ${nameOf(file)} is not saved, as another image was chosen.`);
    else report(error);
  } finally {
    if (!signal.aborted) busy(false);
  }
}

// ---- Wiring ----------------------------------------------------------------------------------

function takeDrops() {
  const targets = [at("drop"), at("stage")];
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    targets.forEach((target) => target.classList.remove("over"));
    take(event.dataTransfer.files);
  });
  for (const target of targets) {
    target.addEventListener("dragenter", () => target.classList.add("over"));
    target.addEventListener("dragleave", () => target.classList.remove("over"));
  }
}

takeDrops();
document.addEventListener("paste", (event) => {
  take(event.clipboardData.files);
});
at("file").addEventListener("change", () => choose(at("file").files[0]));
at("other").addEventListener("click", otherImage);
at("words").addEventListener("input", suggest);
at("words").addEventListener("focus", suggest);
at("opacity").addEventListener("input", paint);
at("form").addEventListener("submit", submit);
at("save-masks").addEventListener("click", saveMasks);
at("save-json").addEventListener("click", saveJson);
at("save-seg").addEventListener("click", saveSeg);
loadFacts();
