// Files of every kind: the same rows as different programs and countries write them.

/** A row as it is meant, whatever the file looks like; times are in Berlin, numbers have a point. */
export interface Meant {
  id: number;
  name: string | null;
  amount: string | null;
  /** A wall clock of Berlin: 2024-07-01 10:30:00 */
  at: string | null;
}

/** How a program writes files, and what has to be said about them. */
export interface Kind {
  title: string;
  bytes: (text: string) => Buffer;
  encoding?: string;
  delimiter: string;
  end: string;
  quote: "all" | "needed";
  decimal: "." | ",";
  thousands: string;
  date: (at: string) => string;
  dateFormat?: string;
  absent: string;
}

const EURO = "windows-1252";
const tables = new Map<string, Map<string, number>>();
/** The bytes of a text in an encoding with one byte a character, made from what the decoder says of each byte. */
function oneByte(encoding: string): (text: string) => Buffer {
  let table = tables.get(encoding);
  if (!table) {
    const decoder = new TextDecoder(encoding);
    table = new Map(Array.from({ length: 256 }, (_, byte) => [decoder.decode(Uint8Array.of(byte)), byte]));
    tables.set(encoding, table);
  }
  return (text) =>
    Buffer.from(
      [...text].map((character) => {
        const byte = table.get(character);
        if (byte === undefined) throw new Error(`${encoding} has no ${character}`);
        return byte;
      }),
    );
}

const utf8 = (text: string): Buffer => Buffer.from(text);
const utf16le = (text: string): Buffer => Buffer.from(text, "utf16le");
const utf16be = (text: string): Buffer => Buffer.from(text, "utf16le").swap16();
const iso = (at: string): string => at;
const german = (at: string): string => at.replace(/^(\d+)-(\d+)-(\d+)/, "$3.$2.$1");
const american = (at: string): string =>
  at.replace(/^(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)$/, (_, y, m, d, h, minute, s) => {
    const hour = Number(h);
    const half = hour < 12 ? "AM" : "PM";
    return `${m}/${d}/${y} ${String(hour % 12 || 12).padStart(2, "0")}:${minute}:${s} ${half}`;
  });

const PLAIN: Omit<Kind, "title"> = {
  bytes: utf8,
  delimiter: ",",
  end: "\n",
  quote: "needed",
  decimal: ".",
  thousands: "",
  date: iso,
  absent: "",
};

export const KINDS: Kind[] = [
  { ...PLAIN, title: "as RFC 4180 says", end: "\r\n" },
  { ...PLAIN, title: "UTF-8 with its mark", bytes: (text) => utf8(`\uFEFF${text}`) },
  { ...PLAIN, title: "all quoted", quote: "all" },
  { ...PLAIN, title: "tabs and \\N, as PostgreSQL and MySQL", delimiter: "\t", absent: "\\N" },
  { ...PLAIN, title: "R", quote: "all", absent: "NA" },
  { ...PLAIN, title: "bars", delimiter: "|", absent: "NULL" },
  {
    ...PLAIN,
    title: "Excel in Germany",
    bytes: oneByte(EURO),
    encoding: EURO,
    delimiter: ";",
    end: "\r\n",
    decimal: ",",
    thousands: ".",
    date: german,
    dateFormat: "DD.MM.YYYY HH24:MI:SS",
  },
  {
    ...PLAIN,
    title: "a host in Germany",
    bytes: oneByte("iso-8859-15"),
    encoding: "iso-8859-15",
    delimiter: ";",
    decimal: ",",
    date: german,
    dateFormat: "DD.MM.YYYY",
    absent: "-",
  },
  {
    ...PLAIN,
    title: "Excel's Unicode text",
    bytes: (text) => utf16le(`\uFEFF${text}`),
    delimiter: "\t",
    end: "\r\n",
    decimal: ",",
    thousands: " ",
  },
  {
    ...PLAIN,
    title: "Excel in France",
    bytes: utf8,
    delimiter: ";",
    decimal: ",",
    thousands: "\u202f",
    date: (at) => german(at).replaceAll(".", "/"),
    dateFormat: "DD/MM/YYYY HH24:MI:SS",
  },
  { ...PLAIN, title: "UTF-16 without a mark", bytes: utf16le, encoding: "utf-16le" },
  { ...PLAIN, title: "UTF-16, big end first", bytes: (text) => utf16be(`\uFEFF${text}`), encoding: "utf-16" },
  { ...PLAIN, title: "UTF-16, big end first, without a mark", bytes: utf16be, encoding: "utf-16be" },
  {
    ...PLAIN,
    title: "in the United States",
    quote: "all",
    decimal: ".",
    thousands: ",",
    date: american,
    dateFormat: "MM/DD/YYYY HH12:MI:SS AM",
    absent: "n/a",
  },
  { ...PLAIN, title: "in Switzerland", delimiter: ";", thousands: "’", absent: "." },
];

export function write(rows: Meant[], kind: Kind): Buffer {
  const { delimiter, end, quote, absent } = kind;
  const field = (text: string): string =>
    quote === "all" || /["\r\n]/.test(text) || text.includes(delimiter)
      ? `"${text.replaceAll('"', '""')}"`
      : text;
  const lines = [
    ["id", "name", "amount", "at"],
    ...rows.map(({ id, name, amount, at }) => [
      String(id),
      name ?? absent,
      amount === null ? absent : number(amount, kind),
      at === null ? absent : kind.date(at),
    ]),
  ];
  return kind.bytes(lines.map((line) => line.map(field).join(delimiter)).join(end));
}

function number(text: string, { decimal, thousands }: Kind): string {
  const [, sign, whole, fraction] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text)!;
  const grouped = whole!.replace(/\B(?=(?:\d{3})+$)/g, thousands);
  return `${sign}${grouped}${fraction === undefined ? "" : decimal + fraction}`;
}
