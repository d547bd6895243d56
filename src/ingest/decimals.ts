// Parses numbers in local notation by the decimal separator that the caller gives. Anything else is rejected: 1.234
// is more than a thousand in one country and little more than one in another.
import { badOption } from "./faults.ts";

export interface NumberFormat {
  /** The separator of the fraction. */
  decimal: string;
  /** Returns the number in PostgreSQL's notation; undefined if the text is not of this form. */
  read: (text: string) => string | undefined;
}

/** Allowed separators of thousands; a number must use the same one throughout, between groups of three digits. */
const GROUPS: Record<string, string> = { ",": ".’' \u00a0\u202f", ".": ",’' \u00a0\u202f" };
const WORD = /^[+-]?(?:nan|inf(?:inity)?)$/i;

export function parseDecimal(text: string): NumberFormat {
  if (!Object.hasOwn(GROUPS, text))
    throw badOption(`"${text.slice(0, 100)}" is not a decimal separator; allowed: "." and ","`);
  const point = `\\${text}`;
  const form = new RegExp(
    `^([+-]?)(?:(\\d+)|([1-9]\\d{0,2}(?:([${GROUPS[text]}])\\d{3})(?:\\4\\d{3})*))?(?:${point}(\\d+))?([eE][+-]?\\d{1,4})?$`,
  );
  return {
    decimal: text,
    read(given) {
      const value = given.trim();
      const found = form.exec(value);
      if (!found) return WORD.test(value) ? value : undefined;
      const [, sign, plain, grouped, separator, fraction, exponent = ""] = found;
      const whole = plain ?? grouped?.replaceAll(separator!, "");
      if (whole === undefined && fraction === undefined) return undefined;
      return `${sign === "-" ? "-" : ""}${whole ?? "0"}${fraction === undefined ? "" : `.${fraction}`}${exponent}`;
    },
  };
}
