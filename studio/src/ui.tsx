// Components that pages are made of, each with an accessible role and name.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { ApiError } from "./api.ts";
import { ago, textOf, utc } from "./format.ts";

/** Current time for texts like "3 minutes ago", with one timer for the page. */
export const now = signal(Date.now());
setInterval(() => (now.value = Date.now()), 10_000);

const ICONS = {
  overview: "M4 6h6v5H4zM14 4h6v5h-6zM14 15h6v5h-6zM10 8.500h2m0 0V6.500h2m-2 2v9h2",
  runs: "M5 5v14l14-7z",
  quarantine: "M12 4 3 19h18zM12 10v4m0 2.500v.500",
  explore: "M4 5h16v14H4zM4 10h16M10 10v9",
  bring: "M12 15V4m0 0L8 8m4-4 4 4M4 14v6h16v-6",
  who: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 20c1-4 4-5 8-5s7 1 8 5",
  play: "M7 5v14l12-7z",
  refresh: "M20 11A8 8 0 1 0 18 17M20 5v6h-6",
  clean: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  ok: "M5 12.500 10 17 19 7",
  failed: "M6 6l12 12M18 6 6 18",
  clock: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3 2",
  close: "M6 6l12 12M18 6 6 18",
  external: "M9 5H5v14h14v-4M13 5h6v6M19 5l-9 9",
  download: "M12 4v11m0 0 4-4m-4 4-4-4M4 18v2h16v-2",
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  source: "M4 7c0-2 16-2 16 0v10c0 2-16 2-16 0zM4 7c0 2 16 2 16 0M4 12c0 2 16 2 16 0",
  table: "M4 5h16v14H4zM4 10h16M10 10v9",
  chart: "M4 19h16M6 16l4-5 4 3 5-8",
  map: "M9 4 4 6v14l5-2 6 2 5-2V4l-5 2zM9 4v14M15 6v14",
  filter: "M4 5h16l-6 8v6l-4-2v-4z",
  link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
  inbox: "M4 13l3-8h10l3 8v6H4zM4 13h5l1 3h4l1-3h5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  world: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM3 12h18M12 3c4 5 4 13 0 18-4-5-4-13 0-18",
  columns: "M5 4v16M12 4v16M19 4v16",
  lock: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
} as const;
export type IconName = keyof typeof ICONS;

export const Icon = ({ name, class: className = "" }: { name: IconName; class?: string }) => (
  <svg class={`icon ${className}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <path d={ICONS[name]} />
  </svg>
);

type ButtonProps = {
  "aria-expanded"?: boolean;
  onClick?: () => void;
  children: ComponentChildren;
  icon?: IconName;
  kind?: "primary" | "danger" | "plain" | undefined;
  isBusy?: boolean;
  disabled?: boolean;
  type?: "button" | "submit";
};
export const Button = ({
  icon,
  kind = "plain",
  isBusy,
  disabled,
  type = "button",
  children,
  ...rest
}: ButtonProps) => (
  <button {...rest} type={type} class={`button ${kind}`} disabled={disabled || isBusy} aria-busy={isBusy}>
    {icon && <Icon name={icon} />}
    <span>{children}</span>
  </button>
);

export const Notice = ({
  kind = "info",
  children,
}: {
  kind?: "info" | "error" | "ok" | "warning";
  children: ComponentChildren;
}) => (
  <div class={`notice ${kind}`} role={kind === "error" ? "alert" : "status"}>
    <Icon
      name={kind === "ok" ? "ok" : kind === "error" ? "failed" : kind === "warning" ? "quarantine" : "inbox"}
    />
    <div>{children}</div>
  </div>
);

/** Explains a rejected or failed request to a person. */
export const Fault = ({ error, subject }: { error: ApiError; subject: string }) =>
  error.code === "FORBIDDEN" ? (
    <Empty icon="lock" title={`Your role may not read ${subject}`}>
      <a href="#/who">Use a token of another role</a>, or ask whoever runs this Strata for one.
    </Empty>
  ) : error.code === "UNAUTHENTICATED" ? (
    <Empty icon="lock" title="This server wants a token">
      <a href="#/who">Give yours</a> to see {subject}.
    </Empty>
  ) : (
    <Notice kind="error">{error.message}</Notice>
  );

export const Empty = ({
  icon = "inbox",
  title,
  children,
}: {
  icon?: IconName;
  title: string;
  children?: ComponentChildren;
}) => (
  <div class="empty">
    <Icon name={icon} />
    <p class="empty-title">{title}</p>
    {children && <div>{children}</div>}
  </div>
);

export const Skeleton = ({ lines = 4, label = "Loading" }: { lines?: number; label?: string }) => (
  <div class="skeleton" role="status" aria-label={label}>
    {Array.from({ length: lines }, (_, index) => (
      <div key={index} />
    ))}
  </div>
);

const STATUS: Record<string, IconName> = {
  succeeded: "ok",
  failed: "failed",
  running: "refresh",
  queued: "clock",
};
export const Status = ({ value }: { value: string }) => (
  <span class={`status ${value}`}>
    <Icon name={STATUS[value] ?? "clock"} />
    {value}
  </span>
);

export const When = ({ at, prefix = "" }: { at: string | null | undefined; prefix?: string }) =>
  at ? (
    <time dateTime={at} title={`${utc(at)} UTC`}>
      {prefix}
      {ago(at, now.value)}
    </time>
  ) : (
    <span>{prefix}never</span>
  );

export const Progress = ({ value, label }: { value: number; label: string }) => (
  <progress class="progress" max={1} value={value} aria-label={label} />
);

export const Select = ({
  label,
  value,
  options,
  onChange,
  isHidden = false,
}: {
  label: string;
  value: string;
  options: (string | [value: string, label: string])[];
  onChange: (value: string) => void;
  isHidden?: boolean;
}) => (
  <label class="field">
    <span class={isHidden ? "hidden" : ""}>{label}</span>
    <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
      {options.map((option) => {
        const [key, text] = typeof option === "string" ? [option, option] : option;
        return (
          <option key={key} value={key} selected={key === value}>
            {text}
          </option>
        );
      })}
    </select>
  </label>
);

/** A choice of a few values: radio buttons that look like one switch. */
export const Choice = ({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: string;
  options: [value: string, label: string, icon?: IconName][];
  onChange: (value: string) => void;
}) => {
  const name = useId();
  return (
    <fieldset class="choice">
      <legend class="hidden">{label}</legend>
      {options.map(([key, text, icon]) => (
        <label key={key} class={key === value ? "chosen" : ""}>
          <input
            type="radio"
            name={name}
            value={key}
            checked={key === value}
            onChange={() => onChange(key)}
          />
          {icon && <Icon name={icon} />}
          {text}
        </label>
      ))}
    </fieldset>
  );
};

/** The browser's modal dialog, which traps the focus, closes with Escape and restores the focus. */
export const Dialog = ({
  title,
  onClose,
  children,
  isWide = false,
}: {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  isWide?: boolean;
}) => {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    element.current?.showModal();
    return () => before?.focus();
  }, []);
  return (
    <dialog ref={element} class={isWide ? "wide" : ""} aria-labelledby={heading} onClose={onClose}>
      <header>
        <h2 id={heading}>{title}</h2>
        <button type="button" class="icon-button" aria-label="Close" onClick={() => element.current?.close()}>
          <Icon name="close" />
        </button>
      </header>
      {children}
    </dialog>
  );
};

interface Toast {
  id: number;
  kind: "ok" | "error";
  content: ComponentChildren;
}
const toasts = signal<Toast[]>([]);
let lastToast = 0;
const TOAST_MS = 8_000;
const MAX_TOASTS = 3;

export function toast(content: ComponentChildren, kind: Toast["kind"] = "ok"): void {
  const id = ++lastToast;
  toasts.value = [...toasts.value, { id, kind, content }].slice(-MAX_TOASTS);
  setTimeout(() => (toasts.value = toasts.value.filter((other) => other.id !== id)), TOAST_MS);
}
export const Toasts = () => (
  <div class="toasts" role="status" aria-live="polite">
    {toasts.value.map(({ id, kind, content }) => (
      <div key={id} class={`toast ${kind}`}>
        <Icon name={kind === "ok" ? "ok" : "failed"} />
        <div>{content}</div>
      </div>
    ))}
  </div>
);

/** Announces text to screen readers, at most once a second. */
export const Announcer = ({ text }: { text: string }) => {
  const [said, say] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => say(text), 500);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <div class="hidden" role="status" aria-live="polite">
      {said}
    </div>
  );
};

export const Copy = ({ text, label = "Copy" }: { text: string; label?: string }) => {
  const [isDone, setDone] = useState(false);
  const copy = () =>
    void navigator.clipboard?.writeText(text).then(() => {
      setDone(true);
      setTimeout(() => setDone(false), 2_000);
    });
  return (
    <Button icon={isDone ? "ok" : "copy"} onClick={copy}>
      {isDone ? "Copied" : label}
    </Button>
  );
};

export function save(name: string, type: string, parts: string[]): void {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Whether a spreadsheet would run the text as a formula; such texts get an apostrophe. */
const isFormula = (text: string): boolean => /^[=+\-@\t\r]/.test(text) && !/^[+-]?\d+(\.\d+)?$/.test(text);

const csvCell = (value: unknown): string => {
  const given = textOf(value);
  const text = isFormula(given) ? `'${given}` : given;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
export const csvLine = (cells: unknown[]): string => `${cells.map(csvCell).join(",")}\r\n`;
