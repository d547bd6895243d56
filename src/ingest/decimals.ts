// Numbers as people write them, read by the decimal separator that the caller names: what is not certainly a number of
// that form is rejected, since 1.234 is a thousand in one country and little more than one in another.
import { badOption } from "./faults.ts";

export interface NumberFormat {
  /** The separator of the fraction. */
  decimal: string;
  /** As PostgreSQL writes the number; undefined if it is none of this form. */
  read: (text: string) => string | undefined;
}

/** Thousands may be apart by these; one number uses the same everywhere, in groups of three digits. */
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
