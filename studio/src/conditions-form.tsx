import { useEffect, useState } from "preact/hooks";
import { operatorInWords, type Condition } from "./conditions.ts";
import { title } from "./format.ts";
import { operatorsOf, type Column, type Detail } from "./schema.ts";
import { Button, Icon } from "./ui.tsx";

/** Operators whose value fits a text input. */
const SCALARS = new Set([
  "Int",
  "Float",
  "BigInt",
  "BigFloat",
  "String",
  "Boolean",
  "Date",
  "Datetime",
  "JSON",
  "UUID",
  "Time",
  "Interval",
]);

interface Props {
  detail: Detail;
  columns: Column[];
  conditions: Condition[];
  onChange: (conditions: Condition[]) => void;
}

// The cast is for Preact's types, which distinguish inputs by their type.
const inputType = ({ kind }: Column) => (kind === "date" ? "date" : "text") as "text";
const hint = (column: Column, operator: string): string =>
  ["in", "notIn", "overlaps"].includes(operator) || column.kind === "list"
    ? "one, two, …"
    : column.kind === "time"
      ? "2026-01-31T12:00Z"
      : column.kind === "json"
        ? '{"key": "value"}'
        : "value";

const Form = ({ columns, onAdd }: { columns: Column[]; onAdd: (condition: Condition) => void }) => {
  const usable = columns.filter(({ filterType, kind }) => filterType !== undefined && kind !== "position");
  const [name, setName] = useState(usable[0]?.name ?? "");
  const [operators, setOperators] = useState<{ name: string; type: string; isList: boolean }[]>([]);
  const [operator, setOperator] = useState("equalTo");
  const [value, setValue] = useState("");
  const column = usable.find((other) => other.name === name);
  useEffect(() => {
    let isCurrent = true;
    if (column?.filterType)
      operatorsOf(column.filterType).then(
        (all) => {
          const some = all.filter(({ type }) => SCALARS.has(type) || type === column.type);
          if (!isCurrent) return;
          setOperators(some);
          if (!some.some((other) => other.name === operator)) setOperator(some[0]?.name ?? "equalTo");
        },
        () => undefined,
      );
    return () => {
      isCurrent = false;
    };
  }, [name]);
  if (!column) return <p class="quiet">Nothing here can be filtered</p>;
  const isChoice = operator === "isNull" || column.kind === "boolean";
  const submit = (event: Event) => {
    event.preventDefault();
    onAdd({ path: [name], operator, value: isChoice && value === "" ? "true" : value });
  };
  return (
    <form class="condition" onSubmit={submit} aria-label="New filter">
      <label class="field">
        <span>Column</span>
        <select value={name} onChange={(event) => (setName(event.currentTarget.value), setValue(""))}>
          {usable.map((other) => (
            <option key={other.name} value={other.name}>
              {title(other.name)}
            </option>
          ))}
        </select>
      </label>
      <label class="field">
        <span>Condition</span>
        <select value={operator} onChange={(event) => setOperator(event.currentTarget.value)}>
          {operators.map((other) => (
            <option key={other.name} value={other.name}>
              {operatorInWords(other.name)}
            </option>
          ))}
        </select>
      </label>
      <label class="field">
        <span>Value</span>
        {isChoice ? (
          <select value={value || "true"} onChange={(event) => setValue(event.currentTarget.value)}>
            <option value="true">{operator === "isNull" ? "yes" : "true"}</option>
            <option value="false">{operator === "isNull" ? "no" : "false"}</option>
          </select>
        ) : (
          <input
            type={inputType(column)}
            value={value}
            placeholder={hint(column, operator)}
            required
            onInput={(event) => setValue(event.currentTarget.value)}
          />
        )}
      </label>
      <Button type="submit" kind="primary">
        Add
      </Button>
    </form>
  );
};

export const Conditions = ({ columns, conditions, onChange }: Props) => {
  const [isOpen, setOpen] = useState(false);
  return (
    <div class="conditions">
      <ul class="chips" aria-label="Filters">
        {conditions.map((condition, index) => (
          <li key={index}>
            <button
              type="button"
              class="chip"
              onClick={() => onChange(conditions.filter((_, other) => other !== index))}
              aria-label={`Remove the filter: ${title(condition.path.at(-1)!)} ${operatorInWords(condition.operator)} ${condition.value}`}
            >
              <span>
                {condition.path.map(title).join(" · ")} <em>{operatorInWords(condition.operator)}</em>{" "}
                {condition.operator !== "isNull"
                  ? condition.value
                  : condition.value === "false"
                    ? "(not)"
                    : ""}
              </span>
              <Icon name="close" />
            </button>
          </li>
        ))}
        <li>
          <button type="button" class="chip add" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
            <Icon name="filter" />
            {isOpen ? "Done" : "Filter"}
          </button>
        </li>
      </ul>
      {isOpen && (
        <Form
          columns={columns}
          onAdd={(condition) => (onChange([...conditions, condition]), setOpen(false))}
        />
      )}
    </div>
  );
};
