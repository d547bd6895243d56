// Generates a year of a small shop: users in ten countries, transactions and events, with some wrong rows of each
// kind. The same seed, sizes and end give the same rows on every machine.

export interface SampleOptions {
  users: number;
  transactions: number;
  events: number;
  seed: number;
  /** End of the 365 days that the data covers. */
  end: Date;
}

export const SAMPLE_SIZES = { users: 500, transactions: 10_000, events: 5_000, seed: 1 };

interface City {
  name: string;
  country: string;
  latitude: number;
  longitude: number;
  /** Offset from UTC in ISO 8601. */
  offset: string;
}

const city = (name: string, country: string, latitude: number, longitude: number, offset: string): City => ({
  name,
  country,
  latitude,
  longitude,
  offset,
});

const CITIES = [
  city("Berlin", "Germany", 52.52, 13.405, "+01:00"),
  city("Hamburg", "Germany", 53.551, 9.994, "+01:00"),
  city("Paris", "France", 48.857, 2.352, "+01:00"),
  city("Lyon", "France", 45.764, 4.836, "+01:00"),
  city("London", "United Kingdom", 51.507, -0.128, "Z"),
  city("Manchester", "United Kingdom", 53.481, -2.242, "Z"),
  city("New York", "United States", 40.713, -74.006, "-05:00"),
  city("Chicago", "United States", 41.878, -87.63, "-06:00"),
  city("San Francisco", "United States", 37.775, -122.419, "-08:00"),
  city("Toronto", "Canada", 43.653, -79.383, "-05:00"),
  city("São Paulo", "Brazil", -23.551, -46.633, "-03:00"),
  city("Tokyo", "Japan", 35.676, 139.65, "+09:00"),
  city("Osaka", "Japan", 34.694, 135.502, "+09:00"),
  city("Mumbai", "India", 19.076, 72.878, "+05:30"),
  city("Bengaluru", "India", 12.972, 77.594, "+05:30"),
  city("Sydney", "Australia", -33.869, 151.209, "+10:00"),
  city("Nairobi", "Kenya", -1.292, 36.822, "+03:00"),
];
const FIRST =
  "ada ben cleo dario elif femi greta hana ivo jun kaya liam mina noor olga pablo quinn rosa sven tara uma vito wen yara";
const LAST =
  "abe berg costa diaz evans fischer garcia haddad ito jansen kim lopez meyer ndiaye okafor petrov reyes sato tanaka ueda vogel weber xu young";
const PAGES = [
  "/",
  "/products",
  "/products/lamp",
  "/products/desk",
  "/products/chair",
  "/cart",
  "/checkout",
  "/help",
];
const EVENT_TYPES = ["page_view", "page_view", "page_view", "search", "add_to_cart", "login", "support_chat"];
const DEVICES = ["mobile", "mobile", "desktop", "tablet"];
const DAY = 86_400_000;

type Random = () => number;

/** mulberry32 */
function random(seed: number): Random {
  let state = Math.imul(seed, 0x9e3779b1) | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
const pick = <T>(next: Random, values: readonly T[]): T => values[Math.floor(next() * values.length)]!;

/** One of this many rows is wrong; the kinds of faults alternate. */
const EVERY = { users: 40, transactions: 100, events: 100 };
const faultOf = (dataset: keyof typeof EVERY, id: number): number | undefined =>
  id % EVERY[dataset] === 0 ? id / EVERY[dataset] - 1 : undefined;

function userOf(id: number, { seed, end }: SampleOptions) {
  const next = random(seed * 1_000_003 + id);
  const [firsts, lasts] = [FIRST.split(" "), LAST.split(" ")];
  const place = (id * 187) % (firsts.length * lasts.length);
  const again = Math.floor(id / (firsts.length * lasts.length)) || "";
  const username = `${firsts[place % firsts.length]}.${lasts[Math.floor(place / firsts.length)]}${again}`;
  return {
    username,
    email: `${username}@example.${pick(next, ["com", "org", "net"])}`,
    city: pick(next, CITIES),
    createdAt: end.getTime() - DAY - Math.floor(next() * 600) * DAY - Math.floor(next() * DAY),
  };
}

export function* sampleUsers(options: SampleOptions): Generator<string> {
  yield "user_id,username,email,created_at,country\n";
  for (let id = 1; id <= options.users; id++) {
    const { username, email, city, createdAt } = userOf(id, options);
    const row = [String(id), username, email, utc(createdAt), city.country];
    const fault = faultOf("users", id);
    if (fault !== undefined) spoilUser(row, fault % 8, userOf(id - 1, options));
    yield `${row.join(",")}\n`;
  }
}

function spoilUser(row: string[], fault: number, other: { username: string; email: string }): void {
  if (fault === 0) row[2] = row[2]!.replace("@", " at ");
  if (fault === 1) row[2] = other.email;
  if (fault === 2) row[3] = "2150-01-01 00:00:00";
  if (fault === 3) row[1] = "";
  if (fault === 4) row[0] = `U-${row[0]}`;
  if (fault === 5) row[1] = other.username;
  if (fault === 6) row[2] = "";
  if (fault === 7) row[3] = "last summer";
}

export function* sampleTransactions(options: SampleOptions): Generator<string> {
  yield "transaction_id,user_id,amount,status,transaction_date\n";
  const next = random(options.seed + 0x7a5);
  for (let id = 1; id <= options.transactions; id++) {
    const user = pickUser(next, options);
    const time = pickTime(next, options, userOf(user, options).createdAt);
    const normal = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
    const amount = Math.min(Math.max(Math.exp(3.3 + 0.9 * normal), 0.99), 9999).toFixed(2);
    const chance = next();
    const isRecent = options.end.getTime() - time < 5 * DAY;
    const status =
      isRecent && chance < 0.5
        ? "pending"
        : chance < 0.86
          ? "completed"
          : chance < 0.94
            ? "failed"
            : "refunded";
    const row = [String(id), String(user), amount, status, utc(time)];
    const fault = faultOf("transactions", id);
    if (fault !== undefined) spoilTransaction(row, fault % 10);
    yield `${row.join(",")}\n`;
  }
}

function spoilTransaction(row: string[], fault: number): void {
  // References the first wrong user, so that these rows follow automatically once it is corrected.
  if (fault === 0) row[1] = String(EVERY.users);
  if (fault === 1) row[2] = `-${row[2]}`;
  if (fault === 2) row[3] = "lost";
  if (fault === 3) row[4] = "2025-02-30 12:00:00";
  if (fault === 4) row[2] = "twelve";
  if (fault === 5) row[4] = row[4]!.replace(/^\d{4}/, "1066");
  if (fault === 6) row.pop();
  if (fault === 7) row[2] = "99999999999.00";
  if (fault === 8) row[1] = "";
  if (fault === 9) row[3] = `"${row[3]}`;
}

export function* sampleEvents(options: SampleOptions): Generator<string> {
  const next = random(options.seed + 0xe7e);
  for (let id = 1; id <= options.events; id++) {
    const user = pickUser(next, options);
    const { city: home, createdAt } = userOf(user, options);
    const place = next() < 0.92 ? home : pick(next, CITIES);
    const isAnonymous = next() < 0.05;
    const [north, east] = [(next() - 0.5) * 0.2, (next() - 0.5) * 0.2];
    const type = pick(next, EVENT_TYPES);
    const row: Record<string, unknown> = {
      event_id: id,
      user_id: isAnonymous ? null : user,
      event_type: type,
      event_time: local(pickTime(next, options, createdAt), place.offset),
      ...(next() < 0.9 && {
        latitude: Number((place.latitude + north).toFixed(5)),
        longitude: Number((place.longitude + east).toFixed(5)),
      }),
      page: pick(next, PAGES),
      device: pick(next, DEVICES),
      duration: Math.floor(next() ** 2 * 300),
      ...(type === "search" && { query: pick(next, ["lamp", "desk", "chair", "gift card"]) }),
    };
    const fault = faultOf("events", id);
    if (fault !== undefined) spoilEvent(row, fault % 7);
    const line = JSON.stringify(row);
    yield fault !== undefined && fault % 7 === 0 ? `${line.slice(0, 40)}\n` : `${line}\n`;
  }
}

function spoilEvent(row: Record<string, unknown>, fault: number): void {
  if (fault === 1) Object.assign(row, { latitude: 123.4, longitude: 10 });
  if (fault === 2) row.user_id = EVERY.users;
  if (fault === 3) row.event_type = null;
  if (fault === 4) row.event_time = "soon";
  if (fault === 5) row.event_id = null;
  if (fault === 6) row.event_time = "0001-01-01T00:00:00Z";
}

/** Picks a user; a few are very active, those with a wrong row are never picked. */
function pickUser(next: Random, { users }: SampleOptions): number {
  const id = 1 + Math.floor(next() ** 2 * users);
  return faultOf("users", id) === undefined ? id : id - 1 || 1;
}

/**
 * Picks a time, more often on weekends, in the evening and before the year ends, and never before the user was
 * created.
 */
function pickTime(next: Random, { end }: SampleOptions, createdAt: number): number {
  const from = Math.max(end.getTime() - 365 * DAY, createdAt);
  for (;;) {
    const time = from + Math.floor(next() * (end.getTime() - from));
    const date = new Date(time);
    const isWeekend = date.getUTCDay() % 6 === 0;
    const hour = date.getUTCHours();
    const month = date.getUTCMonth();
    const weight =
      (isWeekend ? 1 : 0.65) *
      (hour >= 7 && hour < 22 ? 1 : 0.25) *
      (month >= 10 ? 1 : month === 6 ? 0.5 : 0.7);
    if (next() < weight) return time;
  }
}

const utc = (time: number): string => new Date(time).toISOString().slice(0, 19).replace("T", " ");

function local(time: number, offset: string): string {
  if (offset === "Z") return new Date(time).toISOString();
  const [hours, minutes] = offset.slice(1).split(":").map(Number);
  const shift = (hours! * 60 + minutes!) * 60_000 * (offset.startsWith("-") ? -1 : 1);
  return new Date(time + shift).toISOString().replace("Z", offset);
}
