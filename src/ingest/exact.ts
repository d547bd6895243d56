// Decimal numbers without rounding, as PostgreSQL's numeric has them: the same digits and the same digits after the
// point, so that an expression gives what SQL would. Libraries of decimals drop trailing zeros or bound the digits.

export interface Decimal {
  /** The number without its point. */
  digits: bigint;
  /** How many of the digits stand after the point. */
  scale: number;
}

/** Digits of a number, before and after the point; more would take time that a row does not have. */
const MAX_DIGITS = 1000;
const FORM = /^\s*([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?\s*$/;

const powers: bigint[] = [1n];
/** 10 to the given power, which is no more than 2 * MAX_DIGITS. */
function power(exponent: number): bigint {
  for (let last = powers.length; last <= exponent; last++) powers.push(powers[last - 1]! * 10n);
  return powers[exponent]!;
}

/** Undefined if it is no number, or one that is too long. */
export function parseNumber(text: string): Decimal | undefined {
  const [, sign, whole = "", fraction = "", exponent = "0"] = FORM.exec(text) ?? [];
  if (sign === undefined || whole + fraction === "") return undefined;
  const scale = fraction.length - Number(exponent);
  if (whole.length + fraction.length > MAX_DIGITS || Math.abs(scale) > MAX_DIGITS) return undefined;
  const digits = BigInt(sign === "-" ? `-${whole}${fraction}` : whole + fraction);
  return scale < 0 ? { digits: digits * power(-scale), scale: 0 } : { digits, scale };
}

export function writeNumber({ digits, scale }: Decimal): string {
  const text = digits.toString();
  if (scale === 0) return text;
  const sign = text.startsWith("-") ? "-" : "";
  const all = text.slice(sign.length).padStart(scale + 1, "0");
  return `${sign}${all.slice(0, -scale)}.${all.slice(-scale)}`;
}

const scaled = ({ digits, scale }: Decimal, wanted: number): bigint => digits * power(wanted - scale);
const absolute = (value: bigint): bigint => (value < 0n ? -value : value);

/** Undefined where the number has too many digits. */
function bounded(number: Decimal): Decimal | undefined {
  return number.scale <= MAX_DIGITS && absolute(number.digits) < power(2 * MAX_DIGITS) ? number : undefined;
}

export function add(a: Decimal, b: Decimal): Decimal | undefined {
  const scale = Math.max(a.scale, b.scale);
  return bounded({ digits: scaled(a, scale) + scaled(b, scale), scale });
}

export const negate = ({ digits, scale }: Decimal): Decimal => ({ digits: -digits, scale });

export const multiply = (a: Decimal, b: Decimal): Decimal | undefined =>
  bounded({ digits: a.digits * b.digits, scale: a.scale + b.scale });

export function compare(a: Decimal, b: Decimal): number {
  const scale = Math.max(a.scale, b.scale);
  const difference = scaled(a, scale) - scaled(b, scale);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
}

/** Half a unit goes away from zero. */
function rounded(numerator: bigint, denominator: bigint): bigint {
  const isNegative = numerator < 0n !== denominator < 0n;
  const [above, below] = [absolute(numerator), absolute(denominator)];
  const quotient = (2n * above + below) / (2n * below);
  return isNegative ? -quotient : quotient;
}

export function round({ digits, scale }: Decimal, wanted: number): Decimal {
  if (wanted >= scale) return { digits: digits * power(wanted - scale), scale: wanted };
  return { digits: rounded(digits, power(scale - wanted)), scale: wanted };
}

export function floor(number: Decimal): Decimal {
  const whole = number.digits / power(number.scale);
  const isBelow = number.digits < 0n && whole * power(number.scale) !== number.digits;
  return { digits: isBelow ? whole - 1n : whole, scale: 0 };
}

/** PostgreSQL counts digits in groups of four: which of them is the first, and what it is. */
function leading({ digits, scale }: Decimal): [weight: number, digit: bigint] {
  if (digits === 0n) return [0, 0n];
  const all = absolute(digits);
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
  return bounded({
    digits:
      shift >= 0 ? rounded(a.digits * power(shift), b.digits) : rounded(a.digits, b.digits * power(-shift)),
    scale,
  });
}

/** The divisor is not zero; the sign is that of the first number. */
export function remainder(a: Decimal, b: Decimal): Decimal {
  const scale = Math.max(a.scale, b.scale);
  return { digits: scaled(a, scale) % scaled(b, scale), scale };
}
