import { notFound } from "../UpdateNotFoundPlugin.ts";

interface DatabaseError {
  code: string;
  message: string;
  detail?: string;
  column?: string;
  constraint?: string;
}

/** Fields and rules of Strata's constraints, in the API's terms. */
const checks: Record<string, { field: string; rule: string }> = {
  valid_email: { field: "email", rule: "must be an e-mail address, such as name@example.org" },
  positive_amount: { field: "amount", rule: "must be greater than 0" },
  valid_status: { field: "status", rule: "must be pending, completed, failed or refunded" },
};

const camelCase = (column: string) => column.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

/** Takes the columns from "Key (user_id, date)=(1, …) already exists."; the values go to the log only. */
function fieldOf({ detail, column }: DatabaseError): string | undefined {
  const columns = column ?? /^Key \(([^)]+)\)=/.exec(detail ?? "")?.[1];
  return columns?.split(", ").map(camelCase).join(", ");
}

export interface Explanation {
  code: string;
  message: string;
  field?: string;
  constraint?: string;
}

function explainState(error: DatabaseError): Explanation | undefined {
  const { code: state, constraint } = error;
  const field = fieldOf(error);
  switch (state) {
    case "23505":
      return {
        code: "UNIQUE_VIOLATION",
        message: `This ${field ?? "value"} is already taken`,
        field,
        constraint,
      };
    case "23P01":
      return { code: "UNIQUE_VIOLATION", message: "Another row excludes this one", field, constraint };
    case "23503": {
      const message = error.detail?.includes("still referenced")
        ? "Other rows still refer to this one"
        : `${field ?? "A field"} refers to a row that does not exist`;
      return { code: "FOREIGN_KEY_VIOLATION", message, field, constraint };
    }
    case "23502":
      return { code: "NOT_NULL_VIOLATION", message: `${field ?? "A field"} must not be null`, field };
    case "23514": {
      const check = checks[constraint ?? ""];
      const message = check ? `${check.field} ${check.rule}` : "A value violates a constraint of its column";
      return { code: "CHECK_VIOLATION", message, field: check?.field, constraint };
    }
    // PostgreSQL does not name the column; amount is the only one of its type.
    case "22003":
      return error.detail?.includes("precision 10, scale 2")
        ? { code: "BAD_USER_INPUT", message: "amount must be at most 99999999.99", field: "amount" }
        : undefined;
    case "22001": {
      const limit = /\((\d+)\)$/.exec(error.message)?.[1];
      return limit
        ? {
            code: "BAD_USER_INPUT",
            message: `A text is too long: its field takes at most ${limit} characters`,
          }
        : undefined;
    }
    case "22023": {
      // Messages of Strata's functions begin with the parameter.
      const parameter = /^[a-z_]+(?= must be )/.exec(error.message)?.[0];
      const named = parameter && camelCase(parameter);
      return named
        ? { code: "BAD_USER_INPUT", message: error.message.replace(parameter, named), field: named }
        : undefined;
    }
  }
  return undefined;
}

/** PostGraphile's message if a delete finds no row. */
const nothingDeleted = /^No values were deleted in collection/;
/** connection-filter's messages for empty objects and nulls, which it does not mark as safe. */
const badFilter = /^(Null literals|Empty objects) are forbidden/;

/** Explains errors of data and filters in the API's terms: which field, and what it requires. */
export function explainDataError(error: Error): Explanation | undefined {
  if (nothingDeleted.test(error.message)) {
    return { code: "NOT_FOUND", message: notFound };
  }
  if (badFilter.test(error.message)) return { code: "BAD_USER_INPUT", message: error.message };
  return "code" in error ? explainState(error as unknown as DatabaseError) : undefined;
}
