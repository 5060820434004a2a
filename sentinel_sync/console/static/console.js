// The console's page: shows what the agent says of itself, and asks it for the few things a technician may do.
// Whatever comes from the agent is put in as text, never as markup.

import { drawDay, drawDays, drawTrend } from "./chart.js";

const TOKEN_KEY = "sentinel-sync.token";
const FLEET_EVERY = 60_000;
const at = (id) => document.getElementById(id);

// The token comes behind `#`, so that it is in no request, no log and, from here on, not in the address either.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(TOKEN_KEY, given);
  history.replaceState(null, "", location.pathname);
}

// --- words ---

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

const moment = (time) => (time ? new Date(time).toLocaleString() : "never");
const seconds = (time) => moment(time * 1000);

// --- building ---

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function facts(list, pairs, boxed = false) {
  const children = [];
  for (const [name, value, className] of pairs) {
    const pair = [element("dt", name), element("dd", value, className)];
    if (boxed) {
      const box = element("div");
      box.append(...pair);
      children.push(box);
    } else {
      children.push(...pair);
    }
  }
  list.replaceChildren(...children);
}

function table(place, head, rows, empty, figures = []) {
  // Who had a button here keeps the one in its place, or the list itself once there is none.
  const held = [...place.querySelectorAll("button")].indexOf(document.activeElement);
  fill(place, head, rows, empty, figures);
  if (held < 0) return;
  const buttons = place.querySelectorAll("button");
  (buttons[Math.min(held, buttons.length - 1)] ?? place).focus();
}

function fill(place, head, rows, empty, figures) {
  if (!rows.length) {
    place.replaceChildren(element("p", empty, "quiet"));
    return;
  }
  const made = element("table");
  const line = made.createTHead().insertRow();
  head.forEach((name, column) => {
    const cell = element("th", name, figures.includes(column) ? "figure" : "");
    cell.scope = "col";
    line.append(cell);
  });
  const body = made.createTBody();
  for (const row of rows) {
    const target = body.insertRow();
    row.forEach((value, column) => {
      const cell = target.insertCell();
      if (figures.includes(column)) cell.className = "figure";
      cell.dataset.head = head[column]; // a narrow page shows it beside the value
      cell.append(value instanceof Node ? value : document.createTextNode(value ?? "-"));
    });
  }
  place.replaceChildren(made);
}

// A drawing is as wide as its place, and drawn again when that changes.
const drawings = new Map();
const resized = new ResizeObserver((changes) => changes.forEach((change) => redraw(change.target)));

function redraw(place) {
  const width = Math.floor(place.clientWidth);
  const drawn = drawings.get(place);
  if (!drawn || width <= 0 || drawn.width === width) return;
  drawn.width = width;
  place.replaceChildren(drawn.draw(width));
}

function drawing(place, draw) {
  drawings.set(place, { draw, width: 0 });
  resized.observe(place);
  redraw(place);
}

function noDrawing(place) {
  drawings.delete(place);
  place.replaceChildren();
}

const SEVERITIES = { critical: ["bad", "✕"], warning: ["warn", "⚠"], info: ["quiet", "ℹ"] };

function severity(name) {
  const [className, icon] = SEVERITIES[name] ?? ["", "•"];
  const mark = element("span", icon);
  mark.setAttribute("aria-hidden", "true");
  const made = element("span", undefined, className);
  made.append(mark, ` ${name}`);
  return made;
}

// --- asking ---

function say(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

async function ask(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ?? `answered ${answer.status}`);
  return body;
}

async function act(path, words, button) {
  const focused = document.activeElement === button;
  button.disabled = true;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: {
        Authorization: `Bearer ${sessionStorage.getItem(TOKEN_KEY) ?? ""}`,
        "Content-Type": "application/json",
      },
      body: JSON.stringify(words),
    });
    const body = await answer.json();
    at("token-form").hidden = answer.status !== 401;
    say(answer.ok ? "" : (body.error ?? `answered ${answer.status}`));
    if (answer.status === 401) at("token").focus();
    return answer.ok;
  } catch (error) {
    say(`the agent does not answer: ${error.message}`);
    return false;
  } finally {
    button.disabled = false;
    if (focused && at("token-form").hidden) button.focus();
  }
}

function button(text, label, press) {
  const made = element("button", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => press(made));
  return made;
}

// --- what the agent says ---

let shown = null;

function showStatus(said) {
  shown = said;
  at("vehicle").textContent = said.vehicle_id;
  at("fleet-id").textContent = `of ${said.fleet_id}`;
  document.title = `${said.vehicle_id}: sentinel-sync`;
  showHealth(said.troubles, said.connectivity.status !== "offline");
  showConnectivity(said);
  showWork(said);
  showScenarios(said.scenarios);
  showModels(said.models, said.model_check);
  showProfiles(said.profiles);
  showTraffic(said.traffic);
  at("foot").textContent = `sentinel-sync ${said.version}, process ${said.process_id}`;
}

let healthShown = "";

function showHealth(troubles, isWithinReach) {
  // Said again only where it changed: it is read out.
  const news = JSON.stringify([troubles, isWithinReach]);
  if (news === healthShown) return;
  healthShown = news;
  const place = at("health");
  place.classList.toggle("bad", troubles.length > 0);
  if (!troubles.length) {
    const calm = isWithinReach ? "All is well." : "Nothing to do: what waits goes when the network is back.";
    place.replaceChildren(element("p", `✓ ${calm}`));
    return;
  }
  const list = element("ul");
  for (const trouble of troubles) {
    const line = element("li", trouble.what);
    line.append(element("span", trouble.remedy, "remedy"));
    list.append(line);
  }
  place.replaceChildren(element("p", `⚠ ${troubles.length === 1 ? "One trouble" : `${troubles.length} troubles`}`), list);
}

function showConnectivity(said) {
  const way = said.connectivity;
  const state = { online: "good", offline: "bad" }[way.status] ?? "warn";
  const lasted = way.status === "offline" ? way.offline_duration : way.since;
  facts(at("connectivity"), [
    ["Status", way.message, way.unauthorized ? "warn" : state],
    ["For", duration(lasted)],
    ["Sending", way.gate === "open" ? "allowed" : `${way.gate}: ${way.gate_reason}`, way.gate === "open" ? "" : "warn"],
    ["Backend", said.api_url],
    ["Power", said.power],
    ["Trip", said.trip_id ? `${said.trip_id} is under way` : "none under way"],
  ]);
}

function transfer(going) {
  const box = element("div");
  const share = going.total_bytes ? going.done_bytes / going.total_bytes : 0;
  const bar = element("progress");
  bar.max = 1;
  bar.value = share;
  const name = `${going.name}, ${going.part}: ${going.phase}`;
  bar.setAttribute("aria-label", name);
  const pace = [`${size(going.done_bytes)} of ${size(going.total_bytes)}`];
  if (going.rate) pace.push(`${size(going.rate)} a second`);
  if (going.time_left !== null) pace.push(`${duration(going.time_left)} left`);
  const title = element("p");
  title.append(element("bdi", going.name), ", ", element("bdi", going.part), `: ${going.phase}`);
  box.append(title, bar, element("p", pace.join(", "), "quiet"));
  return box;
}

function showWork(said) {
  const going = [said.scenarios?.under_way, ...said.models.map((model) => model.under_way)].filter(Boolean);
  const place = at("under-way");
  if (going.length) place.replaceChildren(...going.map(transfer));
  else place.replaceChildren(element("p", said.outbox.sending ? "sending" : "nothing is under way", "quiet"));
  const dropped = Object.values(said.outbox.dropped).reduce((sum, count) => sum + count, 0);
  const broken = said.duties.filter((duty) => duty.total_crashes);
  facts(at("outbox"), [
    ["Waiting", said.outbox.waiting.toLocaleString()],
    ["Being sent", said.outbox.sending.toLocaleString()],
    ["Set aside", said.outbox.set_aside.toLocaleString(), said.outbox.set_aside ? "warn" : ""],
    ["Sent so far", said.outbox.acknowledged.toLocaleString()],
    ["On disk", size(said.outbox.size_bytes)],
    ...(dropped ? [["Dropped", dropped.toLocaleString(), "warn"]] : []),
    ...broken.map((duty) => [duty.name, `crashed ${duty.total_crashes} times, last: ${duty.last_error}`, "bad"]),
    ...(said.salvaged_from ? [["Damage", `the outbox was damaged; the old file is ${said.salvaged_from}`, "bad"]] : []),
  ]);
}

function showScenarios(said) {
  if (!said) return;
  at("consent").setAttribute("aria-checked", String(said.consent));
  at("consent-words").textContent = said.consent_at
    ? `${said.consent ? "Granted" : "Not in force"}, decided ${moment(said.consent_at)}; policy ${said.policy_version}`
    : `No decision yet; policy ${said.policy_version}`;
  facts(at("scenarios"), [
    ...(said.held ? [["Held", said.held, "warn"]] : []),
    ["Queued", said.queued.toLocaleString()],
    ...(said.on_request ? [["On request", said.on_request.toLocaleString()]] : []),
    ["Uploaded", said.uploaded.toLocaleString()],
    ["Set aside", said.set_aside.toLocaleString(), said.set_aside ? "warn" : ""],
    ["Dropped", said.dropped.toLocaleString()],
    ...(said.deleted_unsent ? [["Deleted unsent", said.deleted_unsent.toLocaleString(), "warn"]] : []),
    ...Object.entries(said.reasons).map(([name, why]) => [name, why, "warn"]),
  ]);
}

let modelsShown = "";

function showModels(models, check) {
  // Drawn anew only where it changed: else the button that somebody is about to press would lose its focus.
  const steady = models.map(({ under_way, probation_left, ...rest }) => [rest, probation_left > 0]);
  const news = JSON.stringify([steady, check]);
  if (news === modelsShown) return;
  modelsShown = news;
  const rows = models.map((model) => [
    model.name,
    model.installed ?? "none",
    model.available && model.available !== model.installed ? model.available : "-",
    [
      model.status === "installed" ? "in use" : model.status.replaceAll("_", " "),
      model.reason,
      model.probation_left > 0 && "on probation",
      model.pinned && `pinned to ${model.pinned}`,
      ...model.bad_versions.map((bad) => `${bad.version} is bad: ${bad.reason}`),
    ]
      .filter(Boolean)
      .join("; "),
    model.previous
      ? button(`Back to ${model.previous}`, `Roll ${model.name} back to ${model.previous}`, (pressed) =>
          act("api/models/rollback", { name: model.name }, pressed))
      : "",
  ]);
  table(at("models"), ["Model", "In use", "Available", "State", "Roll back"], rows, "no model is known yet");
  at("model-check").textContent = check?.failure
    ? `The last look for new versions failed: ${check.failure}`
    : `Last looked for new versions: ${moment(check?.checked_at)}`;
  at("model-check").className = check?.failure ? "warn" : "quiet";
}

function showProfiles(said) {
  if (!said) return;
  facts(at("profiles"), [
    ["On this vehicle", said.profiles.toLocaleString()],
    ["To be sent", said.unsent.toLocaleString()],
    ["Set aside", said.failing.toLocaleString(), said.failing ? "warn" : ""],
    ...(said.to_forget ? [["To be forgotten", said.to_forget.toLocaleString(), "warn"]] : []),
    ["All synced", moment(said.synced_at)],
    ...(said.held ? [["Held", said.held, "warn"]] : []),
    ...(said.reason ? [["Reason", said.reason, "warn"]] : []),
    ["Keys", said.keys],
    ...(said.warning ? [["Note", said.warning, "warn"]] : []),
  ]);
}

function showTraffic(said) {
  if (!said) return;
  facts(at("traffic"), [
    ["Link", `${said.link}, ${said.metered ? "metered" : "not metered"} (${said.source})`],
    ...said.budgets.map((budget) => [
      `Budget: ${budget.link}, ${budget.period}`,
      `${size(budget.used_bytes)} of ${size(budget.limit_bytes)} used`,
      budget.used_bytes >= budget.limit_bytes ? "warn" : "",
    ]),
    ...Object.entries(said.held).map(([kind, why]) => [`Waiting: ${kind}`, why, "warn"]),
  ]);
  showDataUse(said.days);
}

let daysShown = "";

function showDataUse(days) {
  const news = JSON.stringify(days);
  if (news === daysShown) return;
  daysShown = news;
  at("data-section").hidden = !days.length;
  if (!days.length) return;
  drawing(at("data-days"), (width) => drawDays(days, width, size));
  const all = days.reduce((sum, one) => sum + one.used_bytes, 0);
  at("data-words").textContent = `${size(days.at(-1).used_bytes)} on ${days.at(-1).date}, ${size(all)} in 31 days, sent and received.`;
}

// --- what is asked for besides ---

const PAGE = 50;
const MOST = 1000;
let asideShown = "";
const limits = { items: PAGE, recordings: PAGE };

const searched = (list) => new URLSearchParams({ find: at(`find-${list}`).value.trim(), limit: limits[list] });

// "50 of 10,999", and a button for more of them.
function extent(place, list, shownRows, total, again) {
  if (total <= shownRows) return;
  const line = element("p", `${shownRows.toLocaleString()} of ${total.toLocaleString()} `, "quiet");
  if (shownRows < MOST)
    line.append(button("More", `More of ${place.getAttribute("aria-label").toLowerCase()}`, async () => {
      limits[list] = Math.min(MOST, limits[list] + 2 * PAGE);
      await quietly(again);
    }));
  place.append(line);
}

async function showItems() {
  const items = await ask(`api/outbox?${searched("items")}`);
  const news = JSON.stringify(items);
  if (news === asideShown) return;
  asideShown = news;
  const found = at("find-items").value.trim();
  const asideRows = items.set_aside.rows.map((item) => [
    item.kind,
    item.key,
    item.reason ?? "-",
    item.attempts.toLocaleString(),
    seconds(item.created_at),
    button("Retry", `Retry ${item.key}`, async (pressed) => {
      if (await act("api/outbox/retry", { key: item.key }, pressed)) await showItems();
    }),
  ]);
  table(at("set-aside"), ["Kind", "Item", "Reason", "Tries", "Since", "Action"], asideRows, found && shown?.outbox.set_aside ? "none of these" : "nothing is set aside", [3]);
  extent(at("set-aside"), "items", asideRows.length, items.set_aside.total, showItems);
  const waitingRows = items.waiting.rows.map((item) => [item.kind, item.key, item.reason ?? "-", item.attempts.toLocaleString(), seconds(item.due_at)]);
  table(at("waiting"), ["Kind", "Item", "Reason", "Tries", "Next try"], waitingRows, found && shown?.outbox.waiting ? "none of these" : "nothing waits", [3]);
  extent(at("waiting"), "items", waitingRows.length, items.waiting.total, showItems);
}

const shownOf = (rows, total) => (total > rows.length ? `the newest ${rows.length} of ${total.toLocaleString()}` : "");

async function showRecordings() {
  if (!at("recordings-details").open) return;
  const { rows, total } = await ask(`api/recordings?${searched("recordings")}`);
  const cells = rows.map(([name, status, priority, bytes, why]) => [name, status, priority ?? "-", size(bytes), why || "-"]);
  table(at("recordings"), ["Recording", "State", "Priority", "Size", "Why"], cells, at("find-recordings").value.trim() ? "none of these" : "none is known yet", [3]);
  extent(at("recordings"), "recordings", rows.length, total, showRecordings);
}

async function showDay() {
  const day = await ask("api/day");
  drawing(at("day"), (width) => drawDay(day, width));
  const online = day.connection.filter((span) => span.status === "online").reduce((sum, span) => sum + span.to - span.from, 0);
  const known = day.connection.reduce((sum, span) => sum + span.to - span.from, 0);
  const done = day.rows.map((row) => [row.name, row.marks.reduce((sum, mark) => sum + mark.count, 0)]).filter(([, count]) => count);
  at("day-words").textContent = [
    `Online for ${duration(online)} of the ${duration(known)} that this agent has run`,
    ...done.map(([name, count]) => `${name.toLowerCase()}: ${count.toLocaleString()}`),
  ].join("; ");
}

async function showConsents() {
  if (!at("consents-details").open) return;
  const { decisions, sent, total } = await ask("api/consents");
  const decided = decisions.map((one) => [
    seconds(one.at),
    one.granted ? "granted" : "withdrawn",
    one.policy_version,
    one.parts ? `${one.parts.toLocaleString()} parts, ${size(one.size_bytes)}` : "nothing",
  ]);
  table(at("consents"), ["Decided", "Decision", "Policy", "Sent under it"], decided, "nobody has decided yet");
  const parts = sent.map(([when, name, part, bytes, arrived, consent]) => [
    seconds(when), name, part, size(bytes), arrived ? "yes" : "begun", seconds(consent),
  ]);
  const head = ["Sent", "Recording", "Part", "Size", "Acknowledged", "Consent of"];
  table(at("uploads"), head, parts, "nothing was sent", [3]);
  at("uploads").append(element("p", shownOf(sent, total), "quiet"));
}

async function showHistory() {
  const turns = await ask("api/connectivity");
  at("history").replaceChildren(
    ...turns.reverse().map((turn) => {
      const line = element("li");
      const state = { online: "good", offline: "bad" }[turn.status] ?? "warn";
      line.append(element("span", turn.status, state), ` ${seconds(turn.at)}: ${turn.message}`);
      return line;
    }),
  );
}

function age(part) {
  return part.stale ? `the backend cannot be asked: this is what it said ${duration(part.age)} ago` : "";
}

async function showFleet() {
  const query = new URLSearchParams({ metric: at("metric").value, days: at("days").value });
  const fleet = await ask(`api/fleet?${query}`);
  const { statistics, trend, rankings, alerts } = fleet;
  at("fleet-age").textContent = statistics.error ?? age(statistics);
  if (!statistics.error) facts(at("statistics"), statistics.figures, true);
  if (trend.error) {
    noDrawing(at("trend"));
    at("trend-words").textContent = trend.error;
  } else {
    const known = trend.points.filter((point) => point.value !== null);
    if (known.length) drawing(at("trend"), (width) => drawTrend(trend, width));
    else noDrawing(at("trend"));
    at("trend-words").textContent = known.length
      ? `${trend.title}: ${known[0].said} on ${known[0].date}, ${known.at(-1).said} on ${known.at(-1).date}. ${age(trend)}`
      : `${trend.title}: the backend knows of nothing in these days`;
  }
  const refused = (part, place) => part.error && place.replaceChildren(element("p", part.error, "warn"));
  if (!refused(rankings, at("rankings"))) table(at("rankings"), ["Vehicle", rankings.title], rankings.rows ?? [], "none yet", [1]);
  if (!refused(alerts, at("alerts")))
    table(at("alerts"), ["When", "Vehicle", "Severity", "Message"], (alerts.rows ?? []).map(([when, vehicle, how, what]) => [moment(when), vehicle, severity(how), what]), "none");
}

async function quietly(showing) {
  try {
    await showing();
  } catch (error) {
    if (!(error instanceof TypeError)) say(error.message); // a TypeError is the agent being away: the pill says so
  }
}

// --- life ---

at("sync").addEventListener("click", (event) => act("api/sync", {}, event.currentTarget));
at("consent").addEventListener("click", (event) => act("api/consent", { granted: !shown?.scenarios?.consent }, event.currentTarget));
at("recordings-details").addEventListener("toggle", () => quietly(showRecordings));
at("consents-details").addEventListener("toggle", () => quietly(showConsents));
for (const [list, showing] of [["items", showItems], ["recordings", showRecordings]])
  at(`find-${list}`).addEventListener("input", () => {
    limits[list] = PAGE;
    quietly(showing);
  });
at("trend-form").addEventListener("change", () => quietly(showFleet));
at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_KEY, at("token").value.trim());
  at("token").value = "";
  at("token-form").hidden = true;
  say("");
});

let before = "";
let recordedBefore = "";

let heardAt = 0;

function live(text, state) {
  at("live").textContent = text;
  at("live").className = `pill ${state}`;
  document.body.classList.toggle("old", state === "bad" && heardAt > 0);
  showAge();
}

// What is shown while the agent is away is old: it is grey, and says how old.
function showAge() {
  const isOld = document.body.classList.contains("old");
  at("as-of").hidden = !isOld;
  if (isOld) at("as-of").textContent = `as of ${moment(heardAt)}, ${duration((Date.now() - heardAt) / 1000)} ago`;
}

const events = new EventSource("api/events");
events.addEventListener("open", () => {
  live("live", "good");
  quietly(showFleet);
});
events.addEventListener("error", () => live("the agent is away; trying again", "bad"));
events.addEventListener("status", (event) => {
  heardAt = Date.now();
  live("live", "good");
  const said = JSON.parse(event.data);
  showStatus(said);
  const now = JSON.stringify([said.outbox, said.connectivity.status, said.scenarios?.uploaded]);
  if (now !== before) {
    before = now;
    quietly(showItems);
    quietly(showHistory);
    quietly(showDay);
  }
  const { under_way, ...recorded } = said.scenarios ?? {};
  const news = JSON.stringify([recorded, under_way?.name, under_way?.part]);
  if (news !== recordedBefore) {
    recordedBefore = news;
    quietly(showRecordings);
    quietly(showConsents);
  }
});
setInterval(() => {
  if (document.hidden) return;
  quietly(showFleet);
  quietly(showDay);
}, FLEET_EVERY);
setInterval(showAge, 1000);
