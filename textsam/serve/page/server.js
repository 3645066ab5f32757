// Talking to the server that sent this page.

const RETRIES = 8;

export class Problem extends Error {
  constructor(status, error) {
    super(error.message || `The server answered with status ${status}.`);
    this.status = status;
    this.type = error.type || "";
    this.frames = error.frames;
  }
}

let token = "";

export function setToken(value) {
  token = value.trim();
}

function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function pause(seconds, signal) {
  return new Promise((done, stop) => {
    setTimeout(done, 1000 * seconds);
    signal.addEventListener("abort", () => stop(signal.reason), { once: true });
  });
}

async function problemOf(response) {
  try {
    return new Problem(response.status, (await response.json()).error);
  } catch {
    return new Problem(response.status, {});
  }
}

async function ask(path, options) {
  try {
    return await fetch(path, { ...options, headers: headers() });
  } catch {
    options.signal?.throwIfAborted();
    const lost = await holdsLostFile(options.body);
    options.signal?.throwIfAborted();
    throw new Problem(0, {
      message: lost
        ? "The file was changed, moved or removed since it was chosen. Choose it again."
        : "The server cannot be reached. Is it still running?",
    });
  }
}

// A browser reads a chosen file when it is sent, and fails alike for the file and for the server.
async function holdsLostFile(form) {
  for (const value of form?.values() ?? []) {
    if (!(value instanceof File)) continue;
    try {
      await value.slice(0, 1).arrayBuffer();
    } catch {
      return true;
    }
  }
  return false;
}

export async function facts(path) {
  const response = await ask(path, {});
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

// Fields: [name, value] or [name, file, file name].
// A busy server says how long to wait; `waiting` is told, and it is asked again.
// An aborted signal ends that, and the server sees the client go.
export async function segment(fields, waiting, signal) {
  for (let tries = 0; ; tries += 1) {
    const form = new FormData();
    for (const field of fields) form.append(...field);
    const response = await ask("/segment", { method: "POST", body: form, signal });
    if (response.ok) return response;
    if (response.status !== 429 || tries === RETRIES) throw await problemOf(response);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    signal.throwIfAborted();
    waiting(seconds);
    await pause(seconds, signal);
  }
}
