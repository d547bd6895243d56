// Exact decimal arithmetic like PostgreSQL's numeric, with the same scale of results, so that an expression returns
// what SQL would. Decimal libraries drop trailing zeros or limit the digits.

export interface Decimal {
  /** All digits as an integer: a double if it is exact, which takes a fraction of a bigint's time. */
  digits: number | bigint;
  /** Number of digits after the point. */
  scale: number;
}

/** Maximum digits of a number. More would take too long for a single row. */
const MAX_DIGITS = 1000;
const FORM = /^\s*([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?\s*$/;

const powers: bigint[] = [1n];
/** 10 to the given power, which is no more than 2 * MAX_DIGITS. */
function power(exponent: number): bigint {
  for (let last = powers.length; last <= exponent; last++) powers.push(powers[last - 1]! * 10n);
  return powers[exponent]!;
}

const SHORT = /^-?\d{1,15}$/;

/** Returns undefined if the text is not a number, or too long. */
export function parseNumber(text: string): Decimal | undefined {
  const point = text.indexOf(".");
  const joined = point < 0 ? text : text.slice(0, point) + text.slice(point + 1);
  if (SHORT.test(joined)) return { digits: Number(joined), scale: point < 0 ? 0 : text.length - point - 1 };
  const [, sign, whole = "", fraction = "", exponent = "0"] = FORM.exec(text) ?? [];
  if (sign === undefined || whole + fraction === "") return undefined;
  const scale = fraction.length - Number(exponent);
  if (whole.length + fraction.length > MAX_DIGITS || Math.abs(scale) > MAX_DIGITS) return undefined;
  const digits = BigInt(sign === "-" ? `-${whole}${fraction}` : whole + fraction);
  return scale < 0 ? { digits: digits * power(-scale), scale: 0 } : { digits, scale };
}

export function writeNumber({ digits, scale }: Decimal): string {
  // `|| 0` turns -0 into 0.
  const text = String(digits || 0);
  if (scale === 0) return text;
  const sign = text.startsWith("-") ? "-" : "";
  const all = text.slice(sign.length).padStart(scale + 1, "0");
  return `${sign}${all.slice(0, -scale)}.${all.slice(-scale)}`;
}

const scaled = ({ digits, scale }: Decimal, wanted: number): bigint => BigInt(digits) * power(wanted - scale);
const absolute = (value: bigint): bigint => (value < 0n ? -value : value);

/** Returns undefined if the number has too many digits. */
function bounded(digits: bigint, scale: number): Decimal | undefined {
  return scale <= MAX_DIGITS && absolute(digits) < power(2 * MAX_DIGITS) ? { digits, scale } : undefined;
}

export const isZero = ({ digits }: Decimal): boolean => Number(digits) === 0;

export function add(a: Decimal, b: Decimal): Decimal | undefined {
  const scale = Math.max(a.scale, b.scale);
  if (a.scale === b.scale && typeof a.digits === "number" && typeof b.digits === "number") {
    const digits = a.digits + b.digits;
    if (Number.isSafeInteger(digits)) return { digits, scale };
  }
  return bounded(scaled(a, scale) + scaled(b, scale), scale);
}

export const negate = ({ digits, scale }: Decimal): Decimal => ({ digits: -digits, scale });

export function multiply(a: Decimal, b: Decimal): Decimal | undefined {
  const scale = a.scale + b.scale;
  if (typeof a.digits === "number" && typeof b.digits === "number") {
    const digits = a.digits * b.digits;
    if (Number.isSafeInteger(digits) && scale <= MAX_DIGITS) return { digits, scale };
  }
  return bounded(BigInt(a.digits) * BigInt(b.digits), scale);
}

export function compare(a: Decimal, b: Decimal): number {
  const scale = Math.max(a.scale, b.scale);
  const difference = scaled(a, scale) - scaled(b, scale);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/** Divides and rounds half away from zero. */
function rounded(numerator: bigint, denominator: bigint): bigint {
  const isNegative = numerator < 0n !== denominator < 0n;
  const [above, below] = [absolute(numerator), absolute(denominator)];
  const quotient = (2n * above + below) / (2n * below);
  return isNegative ? -quotient : quotient;
}

export function round({ digits, scale }: Decimal, wanted: number): Decimal {
  if (wanted === scale) return { digits, scale };
  if (wanted > scale) return { digits: BigInt(digits) * power(wanted - scale), scale: wanted };
  return { digits: rounded(BigInt(digits), power(scale - wanted)), scale: wanted };
}

export function floor({ digits: given, scale }: Decimal): Decimal {
  const digits = BigInt(given);
  const whole = digits / power(scale);
  const isBelow = digits < 0n && whole * power(scale) !== digits;
  return { digits: isBelow ? whole - 1n : whole, scale: 0 };
}

/** Returns position and value of the first group of four digits, in which PostgreSQL stores numbers. */
function leading({ digits, scale }: Decimal): [weight: number, digit: bigint] {
  const all = absolute(BigInt(digits));
  if (all === 0n) return [0, 0n];
  const weight = Math.floor((all.toString().length - scale - 1) / 4);
  const shift = scale + weight * 4;
  return [weight, shift >= 0 ? all / power(shift) : all * power(-shift)];
}

const MIN_SIGNIFICANT = 16;

/** The divisor is not zero. At least 16 significant digits, by the rule of PostgreSQL. */
export function divide(a: Decimal, b: Decimal): Decimal | undefined {
  const [[weight, digit], [weightOfB, digitOfB]] = [leading(a), leading(b)];
  const weightOfQuotient = weight - weightOfB - (digit <= digitOfB ? 1 : 0);
  const scale = Math.min(Math.max(MIN_SIGNIFICANT - weightOfQuotient * 4, a.scale, b.scale, 0), MAX_DIGITS);
  const shift = scale + b.scale - a.scale;
  if (shift > 2 * MAX_DIGITS) return undefined;
  const [above, below] = [BigInt(a.digits), BigInt(b.digits)];
  const digits = shift >= 0 ? rounded(above * power(shift), below) : rounded(above, below * power(-shift));
  return bounded(digits, scale);
}

/** The divisor is not zero; the sign is that of the first number. */
export function remainder(a: Decimal, b: Decimal): Decimal {
  const scale = Math.max(a.scale, b.scale);
  return { digits: scaled(a, scale) % scaled(b, scale), scale };
}
