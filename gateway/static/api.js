// Requests to the gateway. Every failure is a `Failure` whose message can be shown as it is.

export class Failure extends Error {
  /** status: of HTTP, 0 when nobody answered. code: the library's name for the error. retryAfter: seconds, or null. */
  constructor(message, status = 0, code = "", retryAfter = null) {
    super(message);
    Object.assign(this, { name: "Failure", status, code, retryAfter });
  }
}

const LOOK_MS = 10_000; // the gateway itself waits 5 s for the controller

const UNREACHABLE = "The gateway does not answer. Is the pool running, and is this machine connected?";

const SILENT = `The gateway has not answered within ${LOOK_MS / 1000} seconds. It or the controller may be busy, or hang.`;

const CUT =
  "The connection ended before the whole file was sent. Either the gateway is down, or the file is larger than it takes (max_upload_bytes).";

/** signal: ends the waiting. By default that is a limit of time for what only looks; an order may be carried out all the same. */
export async function ask(path, { method = "GET", body, headers = {}, signal } = {}) {
  const isLook = method === "GET" || body?.dry_run;
  const options = { method, headers, cache: "no-store", signal: isLook ? AbortSignal.timeout(LOOK_MS) : signal };
  if (body instanceof FormData) {
    options.body = body;
  } else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { ...headers, "Content-Type": "application/json" };
  }
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    throw new Failure(error.name === "TimeoutError" ? SILENT : UNREACHABLE);
  }
  if (!response.ok) throw failureOf(response.status, text, response.headers.get("Retry-After"));
  return read(text);
}

/** Sends a form and tells how much of it has gone; `fetch` can't. Returns the answer's promise and how to stop. */
export function upload(path, form, onProgress) {
  const request = new XMLHttpRequest();
  const answer = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) resolve(read(request.responseText));
      else reject(failureOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new Failure(CUT));
    request.onabort = () => reject(new Failure("The upload was stopped."));
  });
  request.open("POST", path);
  request.send(form);
  return { answer, stop: () => request.abort() };
}

function failureOf(status, text, retryAfter) {
  const body = read(text);
  const message = typeof body?.error === "string" ? body.error : `The gateway answered with ${status} and no reason.`;
  return new Failure(message, status, body?.code ?? "", retryAfter === null ? null : Number(retryAfter));
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
